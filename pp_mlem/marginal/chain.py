"""Chains: the states of one scan, summed over all paths by a recursion over the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.factor import Factor
from pp_mlem.marginal.plates import AFTER, Elimination, Term
from pp_mlem.marginal.semiring import Semiring
from pp_mlem.potentials.table import Table, add
from pp_mlem.program.reading import TABLE_LIMIT, Reading
from pp_mlem.program.scans.scan import before
from pp_mlem.program.sites import Role

STATES_LIMIT = 4096


def at_lag(state: str, lag: int) -> str:
    """The name of a state some steps earlier, or of the state itself."""
    return before(state, lag) if lag else state


def _entry(table: Table, plate: str, index: int) -> Table:
    """The table at one unit of a plate."""
    if plate not in table.axes:
        return table
    axis = table.axes.index(plate)
    kept = table.axes[:axis] + table.axes[axis + 1 :]
    return Table(jax.lax.index_in_dim(table.array, index, axis, keepdims=False), kept)


class Collected(NamedTuple):
    """A chain's `arrays` (initial, transition, emission), the names and sizes of its lanes, the
    common weight, and what each of the first steps adds to `initial`."""

    arrays: tuple[jax.Array, jax.Array, jax.Array]
    lanes: tuple[str, ...]
    shape: tuple[int, ...]
    weight: Any
    starts: list[jax.Array]


@dataclass(frozen=True)
class Chain:
    """The states of one scan that depend on one another; together they are one state.

    `order` is the number of steps that the state spans: of a chain of second order it holds the
    values of two steps, and the recursion begins at the second. `time` and `rest` are its plates
    of all steps and of those after the first `order`, `plates` those of independent sequences,
    `above` the latents outside the scan that act on it, each with a lane of the recursion for
    every value, `initial` those that act on its first step alone and are summed before.
    """

    time: str
    rest: str
    length: int
    reverse: bool
    order: int
    states: tuple[str, ...]
    sizes: tuple[int, ...]
    plates: frozenset[str]
    above: tuple[str, ...]
    initial: frozenset[str]

    @property
    def size(self) -> int:
        return int(np.prod(self.sizes)) ** self.order

    @property
    def steps(self) -> int:
        """Number of steps of the recursion."""
        return self.length - self.order + 1

    @property
    def own(self) -> frozenset[str]:
        return frozenset(at_lag(s, lag) for s in self.states for lag in range(self.order + 1))

    def _axes(self, first: int, last: int) -> tuple[str, ...]:
        """The states `first` to `last` steps earlier, the nearest step leading."""
        return tuple(at_lag(s, lag) for lag in range(first, last + 1) for s in self.states)

    def _aged(self, table: Table, by: int) -> Table:
        """A table of one of the first steps, its states named as they are seen from the step at
        which the recursion begins."""
        older = {
            at_lag(s, lag): at_lag(s, lag + by) for s in self.states for lag in range(self.order)
        }
        return Table(table.array, tuple(older.get(a, a) for a in table.axes))

    def collect(
        self, terms: list[Term], elimination: Elimination, valid: dict[str, Any]
    ) -> Collected:
        """The chain's terms as arrays for a recursion."""
        touching = [t for t in terms if t.latents & self.own]
        home = self.plates | {self.time, self.rest}
        touching = [elimination.project(t, home & t.plates, {}) for t in touching]
        weight = next((t.weight for t in touching if t.weight is not None), None)
        heads: list[list[Table]] = [[] for _ in range(self.order)]
        rest: list[Table] = []
        every: list[Table] = []
        after: list[Table] = []
        for term in touching:
            if self.time in term.plates:
                every.append(term.table)
            elif self.rest in term.plates:
                rest.append(term.table)
            elif term.step == AFTER:
                after.append(term.table)
            else:
                step = int(term.step or 0)
                heads[step].append(self._aged(term.table, self.order - 1 - step))
        lanes = sorted(self.plates) if set(self.states) & set(valid) else []
        for table in (t for tables in (*heads, rest, every, after) for t in tables):
            lanes += [
                a
                for a in table.axes
                if a not in self.own and a not in (self.time, self.rest) and a not in lanes
            ]
        shape = tuple(elimination.sizes[a] for a in lanes)
        arrange = partial(self._arrange, lanes=tuple(lanes), shape=shape)
        for step in range(self.order - 1):  # what meets each step meets the first ones apart
            mine = [_entry(t, self.time, step) for t in every]
            heads[step] += [self._aged(t, self.order - 1 - step) for t in mine]
        starts = [arrange(tables, "") for tables in heads]
        initial = sum(starts[1:], starts[0])
        moves = self.moves(rest, tuple(lanes), shape)
        emission = arrange(every, self.time)
        emission = jnp.broadcast_to(emission, (self.length, *emission.shape[1:]))
        emission = emission[self.order - 1 :]
        if after:
            final = arrange(after, "")
            width = max(final.shape[-1], emission.shape[-1])
            emission = jnp.broadcast_to(emission, (*emission.shape[:-1], width))
            emission = emission.at[-1].add(final)
        if moves.shape[0] == 0:
            moves = jnp.zeros((1, *moves.shape[1:]))
        return Collected((initial, moves, emission), tuple(lanes), shape, weight, starts)

    def _arrange(
        self, tables: list[Table], over: str, lanes: tuple[str, ...], shape: tuple[int, ...]
    ) -> jax.Array:
        """([steps,] states, lanes); size one where nothing varies over steps or lanes."""
        states = self._axes(0, self.order - 1)
        if not tables:
            return jnp.zeros((1,) * bool(over) + (self.size, 1))
        table = add(tables)
        array = table.aligned(((over,) if over else ()) + states + lanes)
        at = bool(over)
        full = [*array.shape[:at], *(self.sizes * self.order), *array.shape[at + len(states) :]]
        if any(a in table.axes for a in lanes):
            full[at + len(states) :] = shape
        array = jnp.broadcast_to(array, full)
        last = int(np.prod(full[at + len(states) :]))
        return array.reshape((*array.shape[:at], self.size, last))

    def moves(
        self, tables: list[Table], lanes: tuple[str, ...], shape: tuple[int, ...]
    ) -> jax.Array:
        """(steps or 1, states before, states, lanes or 1). Of a chain of higher order a state and
        the next agree on the steps that both of them span; all else is impossible."""
        k, n = self.size, len(self.states)
        shared = self.sizes * (self.order - 1)  # the sizes of what both span
        if not tables:
            array, last = jnp.zeros((1, *self.sizes * (self.order + 1), 1)), 1
        else:
            table = add(tables)
            order = (self.rest, *self._axes(1, self.order), *self._axes(0, 0), *lanes)
            array = table.aligned(order)
            inner = n * (self.order + 1)
            full = [array.shape[0], *self.sizes * (self.order + 1), *array.shape[1 + inner :]]
            if any(a in table.axes for a in lanes):
                full[1 + inner :] = shape
            last = int(np.prod(full[1 + inner :]))
            array = jnp.broadcast_to(array, full)
        if not shared:
            return array.reshape((array.shape[0], k, k, last))
        both, own = int(np.prod(shared)), int(np.prod(self.sizes))
        array = array.reshape((array.shape[0], both, own, own, 1, last))
        same = jnp.eye(both, dtype=bool).reshape(1, both, 1, 1, both, 1)
        wide = jnp.where(same, array, -jnp.inf)  # (steps, shared, oldest, newest, shared, lanes)
        return wide.reshape((wide.shape[0], k, k, last))

    def running(
        self,
        valid: dict[str, Any],
        lanes: tuple[str, ...],
        shape: Any,
        reading: Reading,
        first: int | None = None,
    ) -> jax.Array | None:
        """Which steps from `first` on (the second of the recursion) belong to each lane's sequence,
        or None when all do. What follows the last step that counts sums to one, and is left out."""
        masks = [(s, valid[s]) for s in self.states if s in valid]
        if not masks:
            return None
        found = None
        for name, mask in masks:
            site = reading.sites[name]
            order = sorted(site.dims, key=lambda p: site.dims[p])
            squeezed = mask.reshape([mask.shape[mask.ndim + site.dims[p]] for p in order])
            array = Table(squeezed, tuple(order)).aligned((self.time, *lanes))
            found = array if found is None else found | array
        first = self.order if first is None else first
        ahead = jax.lax.cummax(found.astype(int), 0, reverse=True)[first:] > 0
        return jnp.broadcast_to(ahead, (ahead.shape[0], *shape)).reshape(ahead.shape[0], -1)

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
        found = self.collect(terms, elimination, valid)
        lanes, shape = found.lanes, found.shape
        value = semiring.chain(*found.arrays, self.running(valid, lanes, shape, reading))
        value = jnp.broadcast_to(value, (int(np.prod(shape)),))
        table = Table(value.reshape(shape), lanes)
        above = frozenset(a for a in lanes if a not in self.plates)
        return [*others, Term(table, above, self.plates, found.weight)]

    def along(
        self,
        terms: list[Term],
        elimination: Elimination,
        valid: dict[str, Any],
        reading: Reading,
        recursion: Callable,
    ) -> tuple[Any, tuple[str, ...], tuple[int, ...]]:
        """What another recursion over the same arrays gives, and the lanes' names and sizes."""
        found = self.collect(terms, elimination, valid)
        running = self.running(valid, found.lanes, found.shape, reading)
        return recursion(*found.arrays, running), found.lanes, found.shape

    def firsts(self, found: Collected) -> list[jax.Array]:
        """log of the product of the first 1, 2, ... steps, without the last of those at which the
        recursion begins: each (states of these steps, the nearest leading, lanes)."""
        totals, total = [], 0.0
        own = int(np.prod(self.sizes))
        for step, table in enumerate(found.starts[:-1]):
            total = total + table
            unmet = own ** (self.order - 1 - step)  # later states, the leading axes, do not matter
            totals.append(total.reshape((unmet, self.size // unmet, -1))[0])
        return totals

    def starts(self, found: Collected, semiring: Semiring) -> list[jax.Array]:
        """`firsts` summed over the states: each (lanes,)."""
        return [semiring.axis(known, 0) for known in self.firsts(found)]


def plan_chains(reading: Reading, factors: tuple[Factor, ...]) -> tuple[Chain, ...]:
    """The chains of every scan: states that meet in a factor form one.

    Raises ValueError for a product of states that is too large, and for states of one chain that
    live in different plates.
    """
    chains = []
    earlier = {s.origin for s in reading.with_role(Role.BEFORE)}
    slots = {s.name for s in reading.with_role(Role.BEFORE)}
    for scan in reading.scans.values():
        touching = [f for f in factors if set(f.latents) & set(scan.latents)]
        states = [
            n
            for n in scan.latents
            if n in earlier
            or any(n in f.latents and set(f.latents) & slots for f in touching)
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
            order = min(scan.start, scan.length)
            joint = np.prod([float(n) for n in sizes]) ** order
            if joint > STATES_LIMIT:
                told = " x ".join(f"{n}: {k}" for n, k in zip(members, sizes, strict=True))
                told += f", of {order} steps together" if order > 1 else ""
                raise ValueError(
                    f"the chain over {', '.join(members)} has {joint:.3g} joint states "
                    f"({told}), more than {STATES_LIMIT}. Use fewer values or fewer coupled chains."
                )
            own = {at_lag(n, lag) for n in members for lag in range(scan.start + 1)}
            mine = [f for f in touching if set(f.latents) & own]
            outside = frozenset().union(*(f.latents for f in mine)) - own - set(scan.latents)
            initial = {
                v
                for v in outside
                if reading.sites[v].plates == places[members[0]]
                and all(
                    reading.sites[f.site].step == 0 or not set(f.latents) & own
                    for f in factors
                    if v in f.latents
                )
            }
            above = tuple(s.name for s in reading.latents if s.name in outside - initial)
            moves = any(reading.sites[f.site].timed and scan.rest in f.plates for f in mine)
            entries = joint * float(scan.length)
            if order > 1:
                entries = max(entries * (joint if moves else 1.0), joint * joint)
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
                    scan.time, scan.rest, scan.length, scan.reverse, order, members, sizes,
                    places[members[0]], above, frozenset(initial),
                )
            )  # fmt: skip
    return tuple(chains)
