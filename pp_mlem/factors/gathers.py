"""Latents gathered from one plate into another, `g[group]`: which unit every row reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.factors.base import Factor
from pp_mlem.factors.tables import log_table
from pp_mlem.program.errors import UnitsMeet
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading

Pair = tuple[str, str]  # child plate, parent plate


VECTOR = 5e7  # numbers of a vector times the rows that read it


def vectors(reading: Reading, latents: Iterable[str]) -> list[str]:
    """The latents that can be one vector over all their units: real, outside of scans, not too long."""
    rows = max(float(np.prod(reading.plate_shape(s.dims))) for s in reading.observed)
    sites = [reading.sites[n] for n in latents]
    return [
        s.name
        for s in sites
        if s.real and not s.scan and float(np.prod(reading.real_shape(s))) * rows <= VECTOR
    ]


def _across(reading: Reading, latent: str, factor: Factor, own: frozenset[str]) -> UnitsMeet:
    """The refusal of a site that reads units of a latent in a way that no structure sums."""
    site, plates = factor.site, sorted(own)
    if not factor.plates:
        where = ", ".join(f"'{p}'" for p in plates)
        how = (
            f"Write it inside plate {where} and leave out the sum: numpyro.factor adds up the rows of its "
            "plates."
            if reading.sites[site].is_factor
            else f"A site inside plate {where} that reads its own unit can be summed; a total, "
            f"product or list over all units cannot, but by observing '{latent}' (observe={{...}})."
        )
        return UnitsMeet(
            f"latent '{latent}' of plate {where} enters '{site}', which is outside of it, with all its "
            f"units at once. {how}",
            vectors(reading, [latent]),
        )
    return UnitsMeet(
        f"latent '{latent}' reaches '{site}' across plates {plates} and {sorted(factor.plates)}. Only "
        "one plate gathered into one other plate, as in g[group], can be summed. Give the units of a "
        "row one joint latent (a Categorical over their patterns), or a site each instead of a plate.",
        vectors(reading, [latent]),
    )


def gathered_factors(
    reading: Reading, factors: tuple[Factor, ...]
) -> dict[Pair, tuple[tuple[str, Factor], ...]]:
    """For each pair of plates, the latents gathered across them and the sites that read them."""
    members: dict[Pair, list[tuple[str, Factor]]] = {}
    steps = {p for scan in reading.scans.values() for p in (scan.time, scan.rest)}
    for factor in factors:
        for latent in factor.latents:
            if reading.sites[latent].scan:
                continue
            own = reading.sites[latent].plates
            missing, surplus = own - factor.plates, factor.plates - own - steps
            if not missing:
                continue
            if len(own) != 1 or len(surplus) != 1:
                raise _across(reading, latent, factor, own)
            pair = next(iter(surplus)), next(iter(missing))
            members.setdefault(pair, []).append((latent, factor))
    return {pair: tuple(readers) for pair, readers in members.items()}


@dataclass(frozen=True)
class _Digits:
    """Densities `at` codes of the latent's units: all at zero (`base`), or some at `value`."""

    at: Callable[[np.ndarray], list[np.ndarray]]
    base: list[np.ndarray]
    value: int
    size: int

    def densities(self, bit: int, digit: int) -> list[np.ndarray]:
        """With `value` at the units whose number has this digit at this place."""
        own = ((np.arange(self.size) >> bit) & 1) == digit
        return self.at(self.value * own)


@dataclass(frozen=True)
class Gathers:
    """Finds, for each pair of plates, the unit of the parent that every row of the child reads.

    All units are set to one value of the latent, then those whose number has a certain binary
    digit to another, then the others: a row that reads one unit moves at exactly one of the two, also
    where a mask hides what it says.
    What is compiled for it, and for reading other data of the same shapes, is kept.
    """

    reading: Reading
    factors: tuple[Factor, ...]
    compiled: dict[Any, Callable] = field(default_factory=dict, compare=False)

    def keep(self, key: Any, function: Callable, compiler: Callable = quick_jit) -> Callable:
        """`function` compiled, or what was compiled under this key before."""
        if key not in self.compiled:
            self.compiled[key] = compiler(function) if self.reading.arguments.traced else function
        return self.compiled[key]

    def maps(self, reading: Reading, dynamic: tuple) -> dict[Pair, jax.Array]:
        """(rows of the child,) for each pair; `reading` has the sizes of the plates."""
        members = gathered_factors(self.reading, self.factors)
        if not members:
            return {}
        filled = without_missing(dynamic)
        return {pair: self._map(reading, pair, members[pair], filled) for pair in members}

    def _density(self, pair: Pair, members: tuple, gathered: tuple[str, ...]) -> Callable:
        """Densities of all that reads across the pair, rows last, at given codes of the latents."""
        reading, sites = self.reading, {f.site for _, f in members}

        def density(params: dict, dynamic: tuple, codes: dict[str, Any]) -> list[Any]:
            values = {n: jnp.asarray(reading.values[n])[codes[n]] for n in gathered}
            tables = reading.run(
                params,
                dynamic,
                lambda m: m.placed(log_table(m, reading.sites[m.name], masked=False)),
                values,
                wanted=frozenset(sites),
            )
            return [_rows_last(tables[s], reading.sites[s].dims[pair[0]]) for s in sorted(sites)]

        return self.keep(pair, density, lean_jit)

    def _map(self, reading: Reading, pair: Pair, members: tuple, dynamic: tuple) -> jax.Array:
        size, rows = reading.plates[pair[1]].size, reading.plates[pair[0]].size
        own = {latent for latent, _ in members}
        every = (*reading.latents, *reading.reals)
        gathered = tuple(s.name for s in every if s.vmapped or s.name in own)
        run = self._density(pair, members, gathered)
        params = neutral_parameters(reading, 0)
        index = np.zeros(rows, int)
        unknown = np.ones(rows, bool)

        def densities(code: np.ndarray, other: int) -> list[np.ndarray]:
            codes = {}
            for name in gathered:
                site = reading.sites[name]
                shape = reading.plate_shape(site.dims)
                chosen = code.reshape(shape) if name in own else np.full(shape, other)
                codes[name] = jnp.asarray(np.minimum(chosen, len(reading.values[name]) - 1))
            return [np.asarray(a) for a in run(params, dynamic, codes)]

        # Another gathered latent may hide this one at some of its values.
        sizes = {n: len(reading.values[n]) for n in gathered}
        others = range(max((size for n, size in sizes.items() if n not in own), default=1))
        values = range(1, max(sizes[n] for n in own))
        for other, value in itertools.product(others, values):
            at = partial(densities, other=other)
            base = at(np.zeros(size, int))
            reads = _changed(base, at(np.full(size, value)), rows) & unknown
            if not reads.any():
                continue
            number = self._numbers(pair, members, _Digits(at, base, value, size), reads)
            index = np.where(reads, np.minimum(number, size - 1), index)
            unknown &= ~reads
            if not unknown.any():
                break
        return jnp.asarray(index)

    def _numbers(
        self, pair: Pair, members: tuple, digits: _Digits, reads: np.ndarray
    ) -> np.ndarray:
        """The number of the unit that each row `reads`, digit by digit; refused where it is several."""
        number = np.zeros(len(reads), int)
        for bit in range(int(digits.size - 1).bit_length()):
            with_one, with_zero = digits.densities(bit, 1), digits.densities(bit, 0)
            ones = _changed(digits.base, with_one, len(reads))
            several = reads & ones & _changed(digits.base, with_zero, len(reads))
            if several.any():
                row = int(np.argmax(several))
                alone = [
                    bool(
                        _changed([b], [o], len(reads))[row] and _changed([b], [z], len(reads))[row]
                    )
                    for b, o, z in zip(digits.base, with_one, with_zero, strict=True)
                ]
                self._refuse(members, pair, row, alone)
            number += ones.astype(int) << bit
        return number

    def _refuse(self, members: tuple, pair: Pair, row: int, alone: list[bool]) -> None:
        """`alone` says of each site, in order, whether it reads several units by itself."""
        sites = sorted({f.site for _, f in members})
        where = f"of plate '{pair[1]}' at once (row {row} of '{pair[0]}')"
        if not any(alone):
            names = " and ".join(f"'{s}'" for s in sites)
            raise UnitsMeet(
                f"the sites {names} in plate '{pair[0]}' read different units of plate '{pair[1]}' "
                f"(at row {row}), and the rows of one plate are taken to read one unit each. Put "
                f"each site into a plate of its own name: numpyro.plate('{pair[0]} of {sites[-1]}', "
                "...).",
                vectors(self.reading, {latent for latent, _ in members}),
            )
        site = sites[alone.index(True)]
        latents = sorted({latent for latent, f in members if f.site == site})
        if len(latents) > 1:
            names = " and ".join(f"'{n}'" for n in latents)
            raise UnitsMeet(
                f"the latents {names} reach '{site}' from different units {where}. A sum over units "
                "that meet one another, as in a network, does not factorise; each row may read one "
                "unit, with all its latents.",
                vectors(self.reading, latents),
            )
        remedy = ""
        if self.reading.sites[latents[0]].real:
            size = self.reading.plates[pair[1]].size
            remedy = (
                f" If a row is to read them all, make them one vector outside of the plate, as in "
                f'numpyro.sample("{latents[0]}", dist.Normal(0, tau).expand([{size}]).to_event(1)). '
                f'Or estimate it, with Model(..., parameters={{"{latents[0]}"}}).'
            )
        raise UnitsMeet(
            f"latent '{latents[0]}' reaches '{site}' from several units {where}. A sum over units "
            "that meet one another, as in a network, does not factorise; each row may read one "
            f"unit, as in g[group].{remedy}",
            vectors(self.reading, latents),
        )


def _rows_last(table: Any, dim: int) -> Any:
    """(others, rows); a table that is the same for all rows has one."""
    if table.ndim < -dim:
        return table.reshape(-1, 1)
    return jnp.moveaxis(table, table.ndim + dim, -1).reshape(-1, table.shape[table.ndim + dim])


def _changed(before: list[np.ndarray], after: list[np.ndarray], rows: int) -> np.ndarray:
    """Which rows changed in any of the sites; NaN is equal to itself."""
    rows_changed = np.zeros(rows, bool)
    for a, b in zip(before, after, strict=True):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        rows_changed |= ~same.all(0)
    return rows_changed
