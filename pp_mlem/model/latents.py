"""What the data tell about the latents: posterior probabilities, the most probable values, draws.

All three are the derivative of log Z with respect to a table on every latent, with sums, maxima or
draws in place of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.potentials.modes import MAX, SUM, Draw, Mode
from pp_mlem.potentials.table import Table
from pp_mlem.program.reading import Reading

Tables = dict[str, jax.Array]


def no_tables(reading: Reading) -> Tables:
    """Zeros (*plates, values) for every latent."""
    return {s.name: jnp.zeros((*reading.plate_shape(s.dims), s.size)) for s in reading.latents}


def _named(reading: Reading, tables: Tables) -> dict[str, Table]:
    named = {}
    for site in reading.latents:
        array = tables[site.name]
        names = [""] * (array.ndim - 1)
        for plate, dim in site.dims.items():
            names[dim] = plate if array.shape[dim - 1] > 1 else ""
        named[site.name] = Table.of(array, (*names, site.name if site.size > 1 else ""))
    return named


def marginals(
    marginal: Marginal, mode: Mode, tables: Tables, params: Values, data: ProgramData
) -> Tables:
    """The derivative of the units' log Z with respect to a table on every latent. Traceable."""

    def value(tables: Tables) -> jax.Array:
        eta = marginal.natural(params, data)
        extra = _named(marginal.reading, tables)
        units = marginal.unit_values(eta, data, mode, with_weights=False, extra=extra)
        return sum((t.array.sum() for t in units), jnp.zeros(()))

    return jax.grad(value)(tables)


def _posterior(marginal: Marginal, tables: Tables, params: Values, data: ProgramData) -> Tables:
    return marginals(marginal, SUM, tables, params, data)


def _best(marginal: Marginal, tables: Tables, params: Values, data: ProgramData) -> Tables:
    return marginals(marginal, MAX, tables, params, data)


def _drawn(
    marginal: Marginal, key: jax.Array, tables: Tables, params: Values, data: ProgramData
) -> Tables:
    return marginals(marginal, Draw(key), tables, params, data)


def posterior(bound: Bound, params: Values) -> dict[str, np.ndarray]:
    """p(latent | data) by name, (*plates, values)."""
    run = bound.compiled(_posterior)
    tables = run(no_tables(bound.reading), params, bound.data)
    return {name: outward(bound, name, table) for name, table in tables.items()}


def decode(bound: Bound, params: Values) -> dict[str, np.ndarray]:
    """The jointly most probable values by name, (*plates)."""
    tables = bound.compiled(_best)(no_tables(bound.reading), params, bound.data)
    return {name: chosen(bound, name, table) for name, table in tables.items()}


def sample(bound: Bound, params: Values, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Joint draws by name, (draws, *plates)."""
    run: Callable[..., Tables] = bound.compiled(_drawn)
    tables = no_tables(bound.reading)
    keys = jax.random.split(jax.random.key(seed), draws)
    every = [run(key, tables, params, bound.data) for key in keys]
    return {name: np.stack([chosen(bound, name, t[name]) for t in every]) for name in tables}


def outward(bound: Bound, name: str, table: Any) -> np.ndarray:
    """A table (*plates, values) of a latent as its user sees it."""
    reading = bound.reading
    array, site = np.array(table), reading.sites[name]
    if not site.scan:
        return array
    scan = reading.scans[site.scan]
    if name in bound.data.valid:
        array[~np.asarray(bound.data.valid[name])] = np.nan
    inner = {p: d for p, d in site.dims.items() if p != scan.time}
    shape = (scan.length, *reading.plate_shape(inner), array.shape[-1])
    array = array.reshape(shape)
    return array[::-1] if scan.reverse else array


def chosen(bound: Bound, name: str, table: Any) -> np.ndarray:
    """The value that an indicator table marks; -1 where there is none."""
    marks = outward(bound, name, table)
    ended = np.isnan(marks).any(-1)
    chosen = bound.reading.values[name][np.where(np.isnan(marks), 0.0, marks).argmax(-1)]
    return np.where(ended, -1, chosen) if ended.any() else chosen


def classification_log_likelihood(
    marginal: Marginal, params: Values, data: ProgramData
) -> jax.Array:
    """max over latents of log p(data, latents). Traceable."""
    units = marginal.unit_values(marginal.natural(params, data), data, MAX)
    return sum((t.array.sum() for t in units), jnp.zeros(()))
