"""What the data tell about the latents: posterior probabilities, the most probable values, draws.

All three are the derivative of log Z with respect to a table on every latent, with sums, maxima or
draws in place of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.model.by_rows import answered
from pp_mlem.potentials.modes import MAX, SUM, Draw, Mode
from pp_mlem.potentials.quadratic import COLUMN, ROW, Quadratic
from pp_mlem.potentials.table import Table
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Site

Tables = dict[str, Any]  # of a finite latent a table, of a real one a linear and a quadratic part


@dataclass(frozen=True)
class Moments:
    """What the data tell about a real latent: `mean` (*plates, *event) and the `covariance` of each unit's
    own numbers (*plates, size, size), in the order of the event."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations (*plates, *event)."""
        variance = np.diagonal(self.covariance, axis1=-2, axis2=-1)
        return np.sqrt(np.maximum(variance, 0.0)).reshape(self.mean.shape)

    @classmethod
    def mixed(cls, several: Sequence[Moments]) -> Moments:
        """Of a latent whose moments are these with equal probability."""
        mean = np.mean([m.mean for m in several], 0)
        size = several[0].covariance.shape[-1]
        away = np.stack([(m.mean - mean).reshape(*m.covariance.shape[:-2], size) for m in several])
        between = (away[..., :, None] * away[..., None, :]).mean(0)
        return cls(mean, np.mean([m.covariance for m in several], 0) + between)


def no_tables(marginal: Marginal) -> Tables:
    """Zeros for every latent: (*plates, values), of a real one (*plates, size) and (*plates, size, size)."""
    reading, tables = marginal.reading, Tables()
    for site in reading.latents:
        tables[site.name] = jnp.zeros((*_shape(marginal, site), site.size))
    for site in reading.reals:
        linear = jnp.zeros((*_shape(marginal, site), site.size))
        tables[site.name] = linear, jnp.zeros((*linear.shape, site.size))
    return tables


def _shape(marginal: Marginal, site: Site) -> tuple[int, ...]:
    """Units of a latent along its plates, in the sizes that these have in the layout."""
    shape = list(marginal.reading.plate_shape(site.dims))
    for plate, dim in site.dims.items():
        shape[dim] = marginal.layout.sizes.get(plate, shape[dim])
    return tuple(shape)


def _named(reading: Reading, tables: Tables) -> dict[str, Table | Quadratic]:
    named: dict[str, Table | Quadratic] = {}
    for site in reading.latents:
        array = tables[site.name]
        names = _plate_names(site, array.shape[:-1])
        named[site.name] = Table.of(array, (*names, site.name if site.size > 1 else ""))
    for site in reading.reals:
        linear, precision = tables[site.name]
        names = _plate_names(site, linear.shape[:-1])
        named[site.name] = Quadratic(
            Table(jnp.zeros((), linear.dtype), ()),
            Table.of(linear, (*names, ROW)),
            Table.of(precision, (*names, ROW, COLUMN)),
            ((site.name, site.size),),
        )
    return named


def _plate_names(site: Site, shape: tuple[int, ...]) -> list[str]:
    """The plate of each dimension of the latent's units; "" where there is one."""
    names = [""] * len(shape)
    for plate, dim in site.dims.items():
        names[dim] = plate if shape[dim] > 1 else ""
    return names


def marginals(
    marginal: Marginal, mode: Mode, tables: Tables, params: Values, data: ProgramData
) -> Tables:
    """The derivative of the units' log Z with respect to a table on every latent. Traceable."""

    data = data.by_rows

    def value(tables: Tables) -> jax.Array:
        eta = marginal.natural(params, data)
        extra = _named(marginal.reading, tables)
        units = marginal.unit_values(eta, data, mode, with_weights=False, extra=extra)
        return sum((t.array.sum() for t in units), jnp.zeros(()))

    return jax.grad(value)(tables)


def _posterior(marginal: Marginal, params: Values, data: ProgramData) -> Tables:
    return marginals(marginal, SUM, no_tables(marginal), params, data)


def _best(marginal: Marginal, params: Values, data: ProgramData) -> Tables:
    return marginals(marginal, MAX, no_tables(marginal), params, data)


def _best_of_rows(marginal: Marginal, params: Values, data: ProgramData) -> Tables:
    """The number of the most probable value, for finite latents of rows."""
    return {name: own.argmax(-1) for name, own in _best(marginal, params, data).items()}


def _drawn(
    marginal: Marginal, key: jax.Array, tables: Tables, params: Values, data: ProgramData
) -> Tables:
    return marginals(marginal, Draw(key), tables, params, data)


def posterior(bound: Bound, params: Values) -> dict[str, Any]:
    """p(latent | data) by name, (*plates, values); of a real latent its `Moments`."""
    tables = answered(bound, _posterior, params)
    return {
        name: moments(bound, name, table)
        if bound.reading.sites[name].real
        else outward(bound, name, table)
        for name, table in tables.items()
    }


def moments(bound: Bound, name: str, table: Any) -> Moments:
    """Of a real latent from the derivatives of log Z with respect to a linear and a quadratic part. A pass
    may read either triangle of a symmetric matrix: its derivative is that of both together."""
    mean, slope = outward(bound, name, table[0]), outward(bound, name, table[1], trailing=2)
    second = -(slope + np.swapaxes(slope, -1, -2))
    covariance = second - mean[..., :, None] * mean[..., None, :]
    return Moments(_absolute(bound, name, mean), covariance)


def _absolute(bound: Bound, name: str, mean: np.ndarray) -> np.ndarray:
    """Values (*plates, size) from a latent's origin as (*plates, *event) from zero."""
    event = bound.reading.sites[name].event_shape
    whole = mean.reshape((*mean.shape[:-1], *event))
    return whole + np.asarray(bound.data.shifts.get(name, 0.0))


def decode(bound: Bound, params: Values) -> dict[str, np.ndarray]:
    """The jointly most probable values by name, (*plates)."""
    if bound.marginal.rows.plate and not bound.reading.reals:
        codes = answered(bound, _best_of_rows, params)
        return {name: bound.reading.values[name][own] for name, own in codes.items()}
    tables = answered(bound, _best, params)
    return {name: _value(bound, name, table) for name, table in tables.items()}


def _value(bound: Bound, name: str, table: Any) -> np.ndarray:
    """The value of a latent that a derivative marks."""
    site = bound.reading.sites[name]
    if site.real:
        return _absolute(bound, name, outward(bound, name, table[0]))
    return chosen(bound, name, table)


def sample(bound: Bound, params: Values, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Joint draws by name, (draws, *plates)."""
    run: Callable[..., Tables] = bound.compiled(_drawn)
    tables = no_tables(bound.marginal)
    keys = jax.random.split(jax.random.key(seed), draws)
    every = [run(key, tables, params, bound.data) for key in keys]
    return {name: np.stack([_value(bound, name, t[name]) for t in every]) for name in tables}


def outward(bound: Bound, name: str, table: Any, trailing: int = 1) -> np.ndarray:
    """A table (*plates, values) of a latent as its user sees it; `trailing` counts the dimensions right of
    the plates."""
    reading = bound.reading
    array, site = np.asarray(table), reading.sites[name]
    if not site.scan:
        return array
    scan = reading.scans[site.scan]
    if name in bound.data.valid:
        array = np.array(array)
        array[~np.asarray(bound.data.valid[name])] = np.nan
    inner = {p: d for p, d in site.dims.items() if p != scan.time}
    shape = (scan.length, *reading.plate_shape(inner), *array.shape[array.ndim - trailing :])
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
    """max over finite latents of log p(data, latents), real ones integrated out. Traceable."""
    return most_of_units(marginal, params, data).sum()


def most_of_units(marginal: Marginal, params: Values, data: ProgramData) -> jax.Array:
    """The same of each unit (units,). Traceable."""
    data = data.by_rows
    units = marginal.unit_values(marginal.natural(params, data), data, MAX)
    return jnp.concatenate([t.array.ravel() for t in units])
