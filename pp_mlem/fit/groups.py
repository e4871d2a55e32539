"""Groups of an ArviZ tree besides the draws: what was observed, what was given, priors, latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Effort
from pp_mlem.base.lazy import xr
from pp_mlem.base.variables import variable_names
from pp_mlem.model.datasets import dataset, dims_of_sites
from pp_mlem.model.latents import Moments
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.names import Names
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role, Site
from pp_mlem.target.parts import without_rows
from pp_mlem.target.priors import log_prior
from pp_mlem.target.target import Target

ONE_STEP = "one-step-ahead predictions"
UNITS = "independent units"


def of_data(model: Model) -> dict[str, xr.Dataset]:
    """observed_data by site, and constant_data by argument."""
    if isinstance(model, StreamedModel):
        return {}
    observed = model.observed_values()
    groups = {}
    if observed:
        shapes = {n: np.shape(v) for n, v in observed.items()}
        groups["observed_data"] = dataset(observed, dims_of_sites(model.reading, shapes))
    seen = [np.asarray(v, float).ravel() for v in observed.values()]
    constant = {
        name: value
        for name, value in given_arrays(model).items()
        if not any(_same(np.asarray(value), own) for own in seen)
    }
    if constant:
        names = Names(_row_dims(model, constant), model.reading.names.coords)
        groups["constant_data"] = dataset(constant, names)
    return groups


def _row_dims(model: Model, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """The plate of observed sites that is as long as an array, in the place of its first axis."""
    plates = {p for s in model.reading.observed for p in s.dims}
    known = [model.reading.plates[p] for p in sorted(plates)]
    dims: dict[str, tuple[str, ...]] = {}
    for name, array in arrays.items():
        fitting = [p.name for p in known if not p.implicit and np.shape(array)[:1] == (p.size,)]
        if len(fitting) == 1:
            rest = (f"{name}_dim_{i}" for i in range(1, array.ndim))
            dims[name] = (fitting[0], *rest)
    return dims


def given_arrays(model: Model) -> dict[str, np.ndarray]:
    """Data arrays by argument; those of one argument that holds several by their own labels."""
    own = model.arguments
    several = {n for n in own.names if own.names.count(n) > 1}
    return {
        label.replace("'", "") if name in several else name: np.asarray(array)
        for name, label, array in zip(own.names, own.labels, own.dynamic, strict=True)
    }


def _same(value: np.ndarray, observed: np.ndarray) -> bool:
    if value.size != observed.size or value.dtype.kind not in "biuf":
        return False
    return bool(np.array_equal(value.astype(float).ravel(), observed, equal_nan=True))


def pointwise_dataset(
    model: Model, pointwise: np.ndarray, kept: np.ndarray, sequential: bool
) -> xr.Dataset:
    """Pointwise log-likelihood (chain, draw, units) under the name of the observed site, or "units" where there are
    several; its attribute `terms` says what the terms are."""
    observed = [s for s in model.reading.observed if not s.is_factor]
    names = list(dict.fromkeys(s.origin or s.name for s in observed))
    name = names[0] if len(names) == 1 else "units"
    dim = "step" if sequential else _unit_dim(model, observed, pointwise.shape[-1])
    data = dataset(
        {name: pointwise}, Names({name: (dim,)}, model.reading.names.coords), "chain", "draw"
    )
    data = data.assign_coords(draw=kept)
    data[variable_names([name], ("chain", "draw"))[name]].attrs["terms"] = (
        ONE_STEP if sequential else UNITS
    )
    return data


def _unit_dim(model: Model, observed: list[Site], units: int) -> str:
    """The plate whose units the terms are, or "unit"."""
    plates = model.reading.plates
    found = {
        p for s in observed for p in s.dims if plates[p].size == units and not plates[p].implicit
    }
    return found.pop() if len(found) == 1 else "unit"


def log_priors(target: Target, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """The log prior density of every free parameter along draws of the vector (chain, draw, size), nats."""
    chains, draws, size = vectors.shape
    run = target.compiled(_log_priors, effort=Effort.QUICK)
    found = jax.device_get(run(np.asarray(vectors).reshape(-1, size)))
    return {name: np.asarray(v).reshape(chains, draws) for name, v in found.items()}


@without_rows
def _log_priors(target: Target, vectors: jax.Array) -> dict[str, jax.Array]:
    reading: Reading = target.reading
    names = [s.name for s in reading.with_role(Role.PARAMETER) if s.prior]

    def one(vector: jax.Array) -> dict[str, jax.Array]:
        params = target.params(vector)
        return {
            n: jnp.asarray(log_prior(reading, params, target.data, frozenset({n})))
            for n in names
            if n not in target.fixed
        }

    return jax.lax.map(one, vectors, batch_size=64)


def latent_dataset(model: Model, posterior: Mapping[str, Any]) -> xr.Dataset:
    """p(latent | data): of a finite latent the probabilities of its values, of a real one `name_mean` and
    `name_sd`."""
    reading, labels = model.reading, model.reading.names.coords
    values: dict[str, np.ndarray] = {}
    dims: dict[str, tuple[str, ...]] = {}
    coords: dict[str, Any] = dict(labels)
    for name, found in posterior.items():
        site = reading.sites[name]
        if isinstance(found, Moments):
            for what in ("mean", "sd"):
                values[f"{name}_{what}"] = array = np.asarray(getattr(found, what))
                dims[f"{name}_{what}"] = _latent_dims(reading, site, array.ndim, site.event_shape)
            continue
        values[name] = np.asarray(found)
        own = f"{name}_value"
        dims[name] = (*_latent_dims(reading, site, values[name].ndim - 1, ()), own)
        coords[own] = tuple(labels.get(name) or np.asarray(reading.values[name]).tolist())
    return dataset(values, Names(dims, coords))


def _latent_dims(
    reading: Reading, site: Site, rank: int, event: tuple[int, ...]
) -> tuple[str, ...]:
    """The dims of a latent's units, and of the entries of a vector."""
    batch = rank - len(event)
    dims = [f"{site.name}_dim_{i}" for i in range(rank)]
    for plate, dim in site.dims.items():
        steps = bool(site.scan) and plate == reading.scans[site.scan].time
        axis = 0 if steps else batch + dim
        if 0 <= axis < batch:
            dims[axis] = "step" if steps else plate
    return tuple(dims)
