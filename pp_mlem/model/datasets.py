"""Arrays as xarray's datasets, with the dims and labels of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd, xr
from pp_mlem.base.variables import variable_names
from pp_mlem.factors.named import row_labels
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.names import Names
from pp_mlem.program.reading import Reading


def dims_of_sites(
    reading: Reading, shapes: Mapping[str, tuple[int, ...]], other: Arguments | None = None
) -> Names:
    """Dims of observed sites, by the program's own names: a plate's name where an axis is one. With `other`
    arguments than the reading's, plates along no parameter may have other sizes, and their rows other labels."""
    sites, plates = reading.sites, reading.plates
    of_rows: set[str] = set()
    coords = dict(reading.names.coords)
    if other is not None:
        along = {
            d for s in reading.space.sites for d in (*s.dims, *reading.names.dims.get(s.name, ()))
        }
        of_rows = {d for s in reading.observed for d in s.dims} - along
        coords = {d: v for d, v in coords.items() if d not in of_rows}
    dims: dict[str, tuple[str, ...]] = {}
    for name, shape in shapes.items():
        site = sites.get(name)
        own = [f"{name}_dim_{i}" for i in range(len(shape))]
        if site is not None and not site.scan:
            events = max(len(shape) - max((-d for d in site.dims.values()), default=0), 0)
            for plate, dim in site.dims.items():
                axis = len(shape) - events + dim
                fits = 0 <= axis and (shape[axis] == plates[plate].size or plate in of_rows)
                if fits and not plates[plate].implicit:
                    own[axis] = plate
        dims[name] = tuple(own)
    if other is not None:
        args, kwargs = other.values()
        for table in (*args, *kwargs.values()):
            labels = row_labels(table) if isinstance(table, (pd.Series, pd.DataFrame)) else ()
            for name, axes in dims.items():
                for plate, size in zip(axes, shapes[name], strict=True):
                    if labels and plate in of_rows and size == len(labels):
                        coords.setdefault(plate, labels)
    return Names(dims, coords)


def dataset(values: Mapping[str, np.ndarray], names: Names, *lead: str) -> xr.Dataset:
    """Arrays as variables that netCDF can have, with dims and their labels; `lead` are the first dims of all."""
    shown = variable_names(values, lead)
    named = {d for n in values for d in names.dims.get(n, ())}
    dims = variable_names(dict.fromkeys(sorted(named)), [*shown.values(), *lead])
    variables = {}
    for name, value in values.items():
        array = np.asarray(value)
        rank = array.ndim - len(lead)
        given = names.dims.get(name) or tuple(f"{shown[name]}_dim_{i}" for i in range(rank))
        variables[shown[name]] = ((*lead, *(dims.get(d, d) for d in given)), array)
    data = xr.Dataset(variables)
    labels = {dims.get(d, d): list(v) for d, v in names.coords.items()}
    coords: dict[str, Any] = {}
    for dim, size in data.sizes.items():
        own = labels.get(str(dim), [])
        coords[str(dim)] = own if len(own) == size else np.arange(size)
    data = data.assign_coords(coords)
    for name, variable in shown.items():
        if name != variable:
            data[variable].attrs["site"] = name
    return data
