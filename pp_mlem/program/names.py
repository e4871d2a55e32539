"""Names of what parameters and latents run along: dims and coords, as xarray has them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from pp_mlem.program.sites import Plate, Role, Site

Labels = tuple[Any, ...]
PLAIN = re.compile(r"[^\[\],'\"]+")


class Place(str):
    """A label that is shown as it is: the place of an entry along several axes."""


@dataclass(frozen=True)
class Names:
    """The dims of every parameter's axes, and the labels along those dims that have any.

    A plate is a dim; an axis of an event that nothing names is a dim of its site alone (`b_dim_0`).
    """

    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coords: Mapping[str, Labels] = field(default_factory=dict)

    def labels(self, site: Site) -> tuple[Labels | None, ...]:
        """The labels along each axis of a parameter, None where its entries are only numbered."""
        dims = self.dims.get(site.name, ())
        return tuple(self.coords.get(dim) for dim in dims) or (None,) * len(site.shape)


def default_names(sites: Iterable[Site], plates: Mapping[str, Plate]) -> Names:
    """What the program alone tells."""
    return Names({s.name: default_dims(s, plates) for s in sites})


def default_dims(site: Site, plates: Mapping[str, Plate]) -> tuple[str, ...]:
    """A plate's name where an axis of a parameter is one, `site_dim_i` elsewhere."""
    dims = [f"{site.name}_dim_{i}" for i in range(len(site.shape))]
    batch = max((-d for d in site.dims.values()), default=0)
    for plate, dim in site.dims.items():
        axis = batch + dim
        if axis < len(dims) and not plates[plate].implicit:
            dims[axis] = plate
    return tuple(dims)


def scalars(name: str, shape: tuple[int, ...], labels: Sequence[Labels | None]) -> list[str]:
    """`mu[0]`, `b[age]`, `Sigma[0,1,1]`, ... in order."""
    if not shape:
        return [name]
    axes = [
        range(n) if own is None else [written(v) for v in own]
        for n, own in zip(shape, labels, strict=True)
    ]
    return [f"{name}[{','.join(map(str, entry))}]" for entry in product(*axes)]


def written(label: Any) -> str:
    """A label inside of brackets; one that would be read otherwise stands in quotation marks."""
    if isinstance(label, Place):
        return str(label)
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    text = str(label)
    return text if PLAIN.fullmatch(text) and text == text.strip() else repr(text)


def given_names(
    sites: Collection[Site], plates: Mapping[str, Plate], dims: Any, coords: Any
) -> Names:
    """With what the user says by `Model(..., dims=, coords=)`; `sites` are all of the program.

    Raises:
        TypeError, ValueError: for sites or dims that are not the program's, and labels that are not as
            many as the entries, or not distinct.
    """
    params = {s.name: s for s in sites if s.role is Role.PARAMETER}
    named = dict(default_names(params.values(), plates).dims)
    for site, given in _mapping("dims", dims, "names of parameters to names of their axes"):
        if not named.get(site):
            entries = sorted(n for n, d in named.items() if d)
            raise ValueError(f"dims: {site!r} is no parameter with entries; those are {entries}.")
        named[site] = _whole_dims(params[site], named[site], given)
    sizes = {n: p.size for n, p in plates.items() if not p.implicit}
    values = {s.name: s.size for s in sites if s.role is Role.LATENT and not s.real}
    sizes |= values
    for name, own in params.items():
        for dim, size in zip(named[name], own.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"dims: {dim!r} has {sizes[dim]} entries elsewhere and {size} in {name!r}; "
                    "name them apart."
                )
    labels: dict[str, Labels] = {}
    for dim, given in _mapping("coords", coords, "names of dims to labels"):
        labels[dim] = _labels(dim, given)
        if dim not in sizes:
            raise ValueError(
                f"coords: the program has no dim {dim!r}; its dims are {sorted(sizes)}. Name the "
                'axes of a site with dims={"site": ["dim", ...]} first.'
            )
        short = sizes[dim] - len(labels[dim])
        if dim in values and short > 0:  # values that no label was seen of keep their numbers
            labels[dim] += tuple(range(sizes[dim] - short, sizes[dim]))
        if len(labels[dim]) != sizes[dim]:
            raise ValueError(
                f"coords: {dim!r} has {sizes[dim]} entries and received {len(labels[dim])} labels."
            )
    return Names(named, labels)


def _mapping(argument: str, given: Any, what: str) -> Iterable[tuple[str, Any]]:
    if given is None:
        return ()
    if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
        raise TypeError(
            f"{argument}: received {type(given).__name__}, expected a dict from {what}."
        )
    return given.items()


def _whole_dims(site: Site, default: tuple[str, ...], given: Any) -> tuple[str, ...]:
    """One dim for each axis, where the user may have left those of plates out."""
    dims = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(d, str) and d for d in dims):
        raise TypeError(f"dims: {site.name!r} received {given!r}, expected names of its axes.")
    own = [i for i, dim in enumerate(default) if dim not in site.dims]
    places = range(len(default)) if len(dims) == len(default) else own
    if len(dims) != len(places):
        beside = f", or {len(own)} beside its plates" if len(own) < len(default) else ""
        raise ValueError(
            f"dims: {site.name!r} has shape {tuple(site.shape)} and received {len(dims)} names, "
            f"expected {len(default)}{beside}."
        )
    whole = list(default)
    for i, dim in zip(places, dims, strict=True):
        whole[i] = dim
    if len(set(whole)) < len(whole):
        raise ValueError(
            f"dims: {site.name!r} received {list(dims)}: each axis needs a name of its own."
        )
    return tuple(whole)


def _labels(dim: str, given: Any) -> Labels:
    if isinstance(given, str) or not isinstance(given, Collection) and not hasattr(given, "tolist"):
        raise TypeError(f"coords: {dim!r} received {given!r}, expected a list of labels.")
    labels = tuple(np.asarray(given, object).tolist())
    if len(set(map(str, labels))) < len(labels):
        twice = next(v for v in labels if sum(str(v) == str(w) for w in labels) > 1)
        raise ValueError(f"coords: {dim!r} received the label {twice!r} more than once.")
    return labels
