"""Chains: the states of one scan, summed over all paths by a recursion over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.recursions import draw_product, in_sequence, max_product, sum_paths
from pp_mlem.marginal.steps.base import Claim, Graph, Step, layout_of
from pp_mlem.potentials.modes import Draw, First, Max, Mode, Sum
from pp_mlem.potentials.table import Table, add, log_sum_exp
from pp_mlem.potentials.term import LAST, Layout, Pass, Term
from pp_mlem.program.reading import TABLE_LIMIT, Reading
from pp_mlem.program.scans.scan import Scan, before
from pp_mlem.program.sites import Role

STATES_LIMIT = 4096


def at_lag(state: str, lag: int) -> str:
    """The name of a state some steps earlier, or of the state itself."""
    return before(state, lag) if lag else state


class _Parts(NamedTuple):
    """Tables by where they belong: at the first steps, between steps, at every step, at the last."""

    heads: list[list[Table]]
    rest: list[Table]
    every: list[Table]
    last: list[Table]


class Collected(NamedTuple):
    """A chain's `arrays` (initial, transition, emission), the names and sizes of its lanes, the
    common weight, and what each of the first steps adds to `initial`."""

    arrays: tuple[jax.Array, jax.Array, jax.Array]
    lanes: tuple[str, ...]
    shape: tuple[int, ...]
    weight: Any
    starts: list[jax.Array]


@dataclass(frozen=True, eq=False)
class Chain(Step):
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
    masks: tuple[tuple[str, ...], ...]  # of each state, the axes of its mask
    layout: Layout

    @classmethod
    def claim(cls, reading: Reading, factors: tuple[Factor, ...]) -> Claim:
        """The states, and what acts inside their steps or on the first one alone."""
        chains = plan_chains(reading, factors)
        own = frozenset(s for chain in chains for s in chain.states)
        inside = {s.name for s in reading.latents if s.scan and s.name not in own}
        return Claim(own, frozenset(inside).union(*(chain.initial for chain in chains)))

    @classmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        if graph.claims.before & graph.latents.keys():
            return No("latents inside the steps are summed before")
        for chain in plan_chains(graph.reading, graph.factors):
            if chain.states[0] in graph.latents:
                return chain, graph.without(chain.own, chain.plates)
        return No("no state of a scan is left")

    @property
    def entries(self) -> int:
        return self.length * self.size * self.lanes

    @property
    def lanes(self) -> int:
        """Chains that are summed side by side."""
        return math.prod(self.layout.sizes[a] for a in (*self.plates, *self.above))

    def told(self, reading: Reading) -> Iterator[str]:
        sizes = " x ".join(str(n) for n in self.sizes)
        joint = f" ({sizes} joint states)" if len(self.sizes) > 1 else f" ({sizes} states)"
        if self.order > 1:
            joint = f" ({sizes}, of {self.order} steps together: {self.size} joint states)"
        text = f"{', '.join(self.states)}{joint}: forward-backward over {self.length} steps"
        if any(s.timed for s in reading.sites.values() if s.law_of in self.states):
            text += ", transitions of every step their own"
        if self.plates:
            text += f", for each of {', '.join(sorted(self.plates))}"
        if self.above:
            text += f" and each value of {', '.join(self.above)}"
        sequential = in_sequence(self.size, self.lanes)
        how = "one step after the other" if sequential else "all steps in parallel"
        yield f"{text}; scaled, {how}"

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

    def collect(self, terms: list[Term], context: Pass) -> Collected:
        """The chain's terms as arrays for a recursion."""
        home = self.plates | {self.time, self.rest}
        touching = [
            self.layout.project(t, home & t.plates, context) for t in terms if t.latents & self.own
        ]
        weight = next((t.weight for t in touching if t.weight is not None), None)
        parts = self._parts(touching)
        lanes = sorted(self.plates) if set(self.states) & set(context.valid) else []
        for table in (
            t for tables in (*parts.heads, parts.rest, parts.every, parts.last) for t in tables
        ):
            lanes += [
                a
                for a in table.axes
                if a not in self.own and a not in (self.time, self.rest) and a not in lanes
            ]
        names, shape = tuple(lanes), tuple(self.layout.sizes[a] for a in lanes)
        arrange = partial(self._arrange, lanes=names, shape=shape)
        heads = parts.heads
        for step in range(self.order - 1):  # what meets each step meets the first ones apart
            mine = [t.at(self.time, step) for t in parts.every]
            heads[step] += [self._aged(t, self.order - 1 - step) for t in mine]
        starts = [arrange(tables, "") for tables in heads]
        initial = sum(starts[1:], starts[0])
        moves = self.moves(parts.rest, names, shape)
        emission = self._emission(arrange, parts)
        if moves.shape[0] == 0:
            moves = jnp.zeros((1, *moves.shape[1:]))
        return Collected((initial, moves, emission), names, shape, weight, starts)

    def _parts(self, touching: list[Term]) -> _Parts:
        """The tables by where along the steps they belong."""
        heads: list[list[Table]] = [[] for _ in range(self.order)]
        rest: list[Table] = []
        every: list[Table] = []
        last: list[Table] = []
        for term in touching:
            if self.time in term.plates:
                every.append(term.of_finite)
            elif self.rest in term.plates:
                rest.append(term.of_finite)
            elif term.place == LAST:
                last.append(term.of_finite)
            else:
                step = term.place or 0
                heads[step].append(self._aged(term.of_finite, self.order - 1 - step))
        return _Parts(heads, rest, every, last)

    def _emission(self, arrange: Callable[..., jax.Array], parts: _Parts) -> jax.Array:
        """(steps, states, lanes): what meets every step, and the last one."""
        emission = arrange(parts.every, self.time)
        emission = jnp.broadcast_to(emission, (self.length, *emission.shape[1:]))
        emission = emission[self.order - 1 :]
        if not parts.last:
            return emission
        final = arrange(parts.last, "")
        width = max(final.shape[-1], emission.shape[-1])
        emission = jnp.broadcast_to(emission, (*emission.shape[:-1], width))
        return emission.at[-1].add(final)

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
        self, valid: Mapping[str, Any], lanes: tuple[str, ...], shape: Any, first: int | None = None
    ) -> jax.Array | None:
        """Which steps from `first` on (the second of the recursion) belong to each lane's sequence,
        or None when all do. What follows the last step that counts sums to one, and is left out."""
        running: Any = None
        for state, axes in zip(self.states, self.masks, strict=True):
            if state not in valid:
                continue
            mask = valid[state].reshape([self.layout.sizes[p] for p in axes])
            array = Table(mask, axes).aligned((self.time, *lanes))
            running = array if running is None else running | array
        if running is None:
            return None
        first = self.order if first is None else first
        ahead = jax.lax.cummax(running.astype(int), 0, reverse=True)[first:] > 0
        return jnp.broadcast_to(ahead, (ahead.shape[0], *shape)).reshape(ahead.shape[0], -1)

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        """Sum all paths; the term that remains touches only the latents above the chain."""
        others = [t for t in terms if not t.latents & self.own]
        found = self.collect(terms, context)
        lanes, shape = found.lanes, found.shape
        running = self.running(context.valid, lanes, shape)
        value = _PATHS[type(context.mode)](context.mode, *found.arrays, running)
        value = jnp.broadcast_to(value, (int(np.prod(shape)),))
        table = Table(value.reshape(shape), lanes)
        above = frozenset(a for a in lanes if a not in self.plates)
        return [*others, Term(table, above, self.plates, found.weight)]

    def along(
        self, terms: list[Term], context: Pass, recursion: Callable[..., Any]
    ) -> tuple[Any, Collected]:
        """What another recursion over the same arrays gives, and these arrays."""
        found = self.collect(terms, context)
        running = self.running(context.valid, found.lanes, found.shape)
        return recursion(*found.arrays, running), found

    def firsts(self, found: Collected) -> list[jax.Array]:
        """log of the product of the first 1, 2, ... steps, without the last of those at which the
        recursion begins: each (states of these steps, the nearest leading, lanes)."""
        totals: list[jax.Array] = []
        total: Any = 0.0
        own = int(np.prod(self.sizes))
        for step, table in enumerate(found.starts[:-1]):
            total = total + table
            unmet = own ** (self.order - 1 - step)  # later states, the leading axes, do not matter
            totals.append(total.reshape((unmet, self.size // unmet, -1))[0])
        return totals

    def starts(self, found: Collected) -> list[jax.Array]:
        """`firsts` summed over the states: each (lanes,)."""
        return [log_sum_exp(known, 0) for known in self.firsts(found)]


def _first_path(initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    """The path along the first state."""
    del running
    moves = jnp.broadcast_to(transition, (emission.shape[0] - 1, *transition.shape[1:]))
    return initial[0] + moves[:, 0, 0].sum(0) + emission[:, 0].sum(0)


_PATHS: dict[type[Mode], Callable[..., jax.Array]] = {
    Sum: lambda mode, *arrays: sum_paths(*arrays),
    Max: lambda mode, *arrays: max_product(*arrays),
    First: lambda mode, *arrays: _first_path(*arrays),
    Draw: lambda mode, *arrays: draw_product(mode.next_key())(*arrays),
}


def plan_chains(reading: Reading, factors: tuple[Factor, ...]) -> tuple[Chain, ...]:
    """The chains of every scan: states that meet in a factor form one.

    Raises ValueError for a product of states that is too large, and for states of one chain that
    live in different plates.
    """
    slots = {s.name for s in reading.with_role(Role.BEFORE)}
    chains = []
    for scan in reading.scans.values():
        touching = [f for f in factors if set(f.latents) & set(scan.latents)]
        for members in _groups(reading, scan.latents, touching, slots):
            chains.append(_chain(reading, factors, scan, members))
    return tuple(chains)


def _groups(
    reading: Reading, latents: tuple[str, ...], touching: list[Factor], slots: set[str]
) -> list[tuple[str, ...]]:
    """The states among a scan's latents, those that meet one another together."""
    earlier = {s.origin for s in reading.with_role(Role.BEFORE)}
    states = [
        n
        for n in latents
        if n in earlier or any(n in f.latents and set(f.latents) & slots for f in touching)
    ]
    root = {n: n for n in states}

    def find(n: str) -> str:
        while root[n] != n:
            n = root[n]
        return n

    for factor in touching:
        own = {reading.sites[v].origin or v for v in factor.latents} & set(states)
        for other in sorted(own):
            root[find(other)] = find(min(own))
    tops = sorted({find(n) for n in states})
    return [tuple(n for n in states if find(n) == top) for top in tops]


def _chain(
    reading: Reading, factors: tuple[Factor, ...], scan: Scan, members: tuple[str, ...]
) -> Chain:
    places = {n: reading.sites[n].plates - {scan.time} for n in members}
    if len(set(places.values())) > 1:
        told = ", ".join(f"'{n}' in {sorted(p) or 'no plate'}" for n, p in places.items())
        raise ValueError(
            f"the states of one scan live in different plates ({told}), so every path of "
            "one meets every path of the other. Put them in the same plates."
        )
    plates = places[members[0]]
    order = min(scan.start, scan.length)
    own = {at_lag(n, lag) for n in members for lag in range(scan.start + 1)}
    mine = [f for f in factors if set(f.latents) & own]
    outside = frozenset().union(*(f.latents for f in mine)) - own - set(scan.latents)
    initial = frozenset(
        v
        for v in outside
        if reading.sites[v].plates == plates
        and all(
            reading.sites[f.site].step == 0 or not set(f.latents) & own
            for f in factors
            if v in f.latents
        )
    )
    masks = tuple(
        tuple(sorted(reading.sites[n].dims, key=reading.sites[n].dims.__getitem__)) for n in members
    )
    chain = Chain(
        time=scan.time, rest=scan.rest, length=scan.length, reverse=scan.reverse, order=order,
        states=members, sizes=tuple(reading.sites[n].size for n in members), plates=plates,
        above=tuple(s.name for s in reading.latents if s.name in outside - initial),
        initial=initial, masks=masks, layout=layout_of(reading, factors),
    )  # fmt: skip
    timed = any(reading.sites[f.site].timed and scan.rest in f.plates for f in mine)
    _refuse_large(chain, timed)
    return chain


def _refuse_large(chain: Chain, timed: bool) -> None:
    """`timed`: every step has transitions of its own."""
    members = ", ".join(chain.states)
    joint = np.prod([float(n) for n in chain.sizes]) ** chain.order
    if joint > STATES_LIMIT:
        told = " x ".join(f"{n}: {k}" for n, k in zip(chain.states, chain.sizes, strict=True))
        told += f", of {chain.order} steps together" if chain.order > 1 else ""
        raise ValueError(
            f"the chain over {members} has {joint:.3g} joint states "
            f"({told}), more than {STATES_LIMIT}. Use fewer values or fewer coupled chains."
        )
    entries = joint * float(chain.length)
    if chain.order > 1:
        entries = max(entries * (joint if timed else 1.0), joint * joint)
    for axis in (*chain.above, *chain.plates):
        entries *= float(chain.layout.sizes[axis])
    if entries > TABLE_LIMIT:
        raise ValueError(
            f"the chain over {members} needs {entries:.3g} entries for its "
            f"steps, states and sequences, more than {TABLE_LIMIT:.3g}. Fit fewer "
            "sequences at a time."
        )
