"""Chains: the states of one scan, summed over all paths by a recursion over the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.partition.elimination import Elimination, Term
from pp_mlem.partition.semiring import Semiring
from pp_mlem.partition.table import Table, add
from pp_mlem.program.factors import Factor
from pp_mlem.program.reading import TABLE_LIMIT, Reading
from pp_mlem.program.scans import before
from pp_mlem.program.sites import Role

STATES_LIMIT = 4096


@dataclass(frozen=True)
class Chain:
    """The states of one scan that depend on one another; together they are one state.

    `time` and `rest` are its plates of all steps and of the steps after the first, `plates` those
    of independent sequences, `above` the latents outside the scan that act on it, each with a
    lane of the recursion for every value, `initial` those that act on its first step alone and
    are summed before.
    """

    time: str
    rest: str
    length: int
    reverse: bool
    states: tuple[str, ...]
    sizes: tuple[int, ...]
    plates: frozenset[str]
    above: tuple[str, ...]
    initial: frozenset[str]

    @property
    def size(self) -> int:
        return int(np.prod(self.sizes))

    @property
    def own(self) -> frozenset[str]:
        return frozenset(self.states) | {before(s) for s in self.states}

    def collect(
        self, terms: list[Term], elimination: Elimination, valid: dict[str, Any]
    ) -> tuple[tuple, Any, Any, Any]:
        """(initial, transition, emission, lanes): the chain's terms as arrays for a recursion,
        and the names and sizes of its lanes; also their common weight."""
        touching = [t for t in terms if t.latents & self.own]
        home = self.plates | {self.time, self.rest}
        touching = [elimination.project(t, home & t.plates, {}) for t in touching]
        weight = next((t.weight for t in touching if t.weight is not None), None)
        groups: dict[str, list[Table]] = {"first": [], "rest": [], "all": [], "after": []}
        for term in touching:
            where = (
                "all"
                if self.time in term.plates
                else "rest"
                if self.rest in term.plates
                else term.step or "first"
            )
            groups[where].append(term.table)
        lanes = sorted(self.plates) if set(self.states) & set(valid) else []
        for table in (t for tables in groups.values() for t in tables):
            lanes += [
                a
                for a in table.axes
                if a not in self.own and a not in (self.time, self.rest) and a not in lanes
            ]
        shape = tuple(elimination.sizes[a] for a in lanes)

        def arrange(tables: list[Table], over: str, origins: bool) -> jax.Array:
            """(steps, [states before,] states, lanes); size one where nothing varies."""
            earlier = tuple(before(s) for s in self.states) if origins else ()
            order = ((over,) if over else ()) + earlier + self.states + tuple(lanes)
            if not tables:
                k = self.size
                return jnp.zeros((1,) * bool(over) + (k,) * (1 + origins) + (1,))
            table = add(tables)
            array = table.aligned(order)
            at = bool(over)
            full = list(array.shape)
            n = len(self.states)
            for i in range(n * (1 + origins)):
                full[at + i] = self.sizes[i % n]
            if any(a in table.axes for a in lanes):
                full[at + n * (1 + origins) :] = shape
            array = jnp.broadcast_to(array, full)
            last = int(np.prod(full[at + n * (1 + origins) :]))
            return array.reshape(array.shape[:at] + (self.size,) * (1 + origins) + (last,))

        initial = arrange(groups["first"], "", False)
        moves = arrange(groups["rest"], self.rest, True)
        emission = arrange(groups["all"], self.time, False)
        emission = jnp.broadcast_to(emission, (self.length, *emission.shape[1:]))
        if groups["after"]:
            final = arrange(groups["after"], "", False)
            width = max(final.shape[-1], emission.shape[-1])
            emission = jnp.broadcast_to(emission, (*emission.shape[:-1], width))
            emission = emission.at[-1].add(final)
        if moves.shape[0] == 0:
            moves = jnp.zeros((1, *moves.shape[1:]))
        return (initial, moves, emission), tuple(lanes), shape, weight

    def running(self, valid: dict[str, Any], lanes: tuple[str, ...], shape: Any, reading: Reading):
        """Which steps after the first belong to each lane's sequence, or None when all do."""
        masks = [(s, valid[s]) for s in self.states if s in valid]
        if not masks:
            return None
        name, mask = masks[0]
        site = reading.sites[name]
        order = sorted(site.dims, key=lambda p: site.dims[p])
        squeezed = mask.reshape([mask.shape[mask.ndim + site.dims[p]] for p in order])
        table = Table(squeezed, tuple(order))
        array = table.aligned((self.time, *lanes))[1:]
        return jnp.broadcast_to(array, (array.shape[0], *shape)).reshape(array.shape[0], -1)

    def run(
        self,
        terms: list[Term],
        elimination: Elimination,
        valid: dict[str, Any],
        reading: Reading,
        semiring: Semiring,
    ) -> list[Term]:
        """Sum all paths; the term that remains touches only the latents above the chain."""
        others = [t for t in terms if not t.latents & self.own]
        arrays, lanes, shape, weight = self.collect(terms, elimination, valid)
        value = semiring.chain(*arrays, self.running(valid, lanes, shape, reading))
        value = jnp.broadcast_to(value, (int(np.prod(shape)),))
        table = Table(value.reshape(shape), lanes)
        above = frozenset(a for a in lanes if a not in self.plates)
        return [*others, Term(table, above, self.plates, weight)]

    def along(
        self,
        terms: list[Term],
        elimination: Elimination,
        valid: dict[str, Any],
        reading: Reading,
        recursion: Callable,
    ) -> tuple[Any, tuple[str, ...], tuple[int, ...]]:
        """What another recursion over the same arrays gives, and the lanes' names and sizes."""
        arrays, lanes, shape, _ = self.collect(terms, elimination, valid)
        return recursion(*arrays, self.running(valid, lanes, shape, reading)), lanes, shape


def plan_chains(reading: Reading, factors: tuple[Factor, ...]) -> tuple[Chain, ...]:
    """The chains of every scan: states that meet in a factor form one.

    Raises ValueError for a product of states that is too large, and for states of one chain that
    live in different plates.
    """
    chains = []
    earlier = {s.origin for s in reading.with_role(Role.BEFORE)}
    for scan in reading.scans.values():
        touching = [f for f in factors if set(f.latents) & set(scan.latents)]
        states = [
            n
            for n in scan.latents
            if n in earlier
            or any(n in f.latents and set(f.latents) & {before(s) for s in earlier}
                   for f in touching)
        ]  # fmt: skip
        root = {n: n for n in states}

        def find(n: str, root: dict[str, str] = root) -> str:
            while root[n] != n:
                n = root[n]
            return n

        for factor in touching:
            own = {reading.sites[v].origin or v for v in factor.latents} & set(states)
            for other in sorted(own):
                root[find(other)] = find(min(own))
        for top in sorted({find(n) for n in states}):
            members = tuple(n for n in states if find(n) == top)
            places = {n: reading.sites[n].plates - {scan.time} for n in members}
            if len(set(places.values())) > 1:
                told = ", ".join(f"'{n}' in {sorted(p) or 'no plate'}" for n, p in places.items())
                raise ValueError(
                    f"the states of one scan live in different plates ({told}), so every path of "
                    "one meets every path of the other. Put them in the same plates."
                )
            sizes = tuple(reading.sites[n].size for n in members)
            if np.prod([float(n) for n in sizes]) > STATES_LIMIT:
                told = " x ".join(f"{n}: {k}" for n, k in zip(members, sizes, strict=True))
                raise ValueError(
                    f"the chain over {', '.join(members)} has {np.prod(sizes):.3g} joint states "
                    f"({told}), more than {STATES_LIMIT}. Use fewer values or fewer coupled chains."
                )
            own = set(members) | {before(n) for n in members}
            mine = [f for f in touching if set(f.latents) & own]
            outside = frozenset().union(*(f.latents for f in mine)) - own - set(scan.latents)
            initial = {
                v
                for v in outside
                if reading.sites[v].plates == places[members[0]]
                and all(
                    f.site in {s + "[0]" for s in scan.sites} or not set(f.latents) & own
                    for f in factors
                    if v in f.latents
                )
            }
            above = tuple(s.name for s in reading.latents if s.name in outside - initial)
            entries = np.prod([float(np.prod(sizes)), float(scan.length)])
            entries *= np.prod([float(reading.sites[v].size) for v in above] or [1.0])
            entries *= np.prod([float(reading.plates[p].size) for p in places[members[0]]] or [1.0])
            if entries > TABLE_LIMIT:
                raise ValueError(
                    f"the chain over {', '.join(members)} needs {entries:.3g} entries for its "
                    f"steps, states and sequences, more than {TABLE_LIMIT:.3g}. Fit fewer "
                    "sequences at a time."
                )
            chains.append(
                Chain(
                    scan.time, scan.rest, scan.length, scan.reverse, members, sizes,
                    places[members[0]], above, frozenset(initial),
                )
            )  # fmt: skip
    return tuple(chains)
