"""Linear Gaussian state space: the real latents that one scan carries, integrated over all steps.

What is carried into a step is the state, whatever the program remembers; the noise of a step is that of
the latents which it samples. What the steps tell is gathered from the last to the first, so that the
law of what is carried into the first step may be anything that other steps take out: given, a wide or
stationary Normal, flat (Kalman 1960, doi:10.1115/1.3662552; in the information form of Fraser & Potter 1969,
doi:10.1109/TAC.1969.1099196).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.factors.base import Factor, Plates
from pp_mlem.marginal.columns import batch, columns, one_after_other, stacked, wide_columns
from pp_mlem.marginal.conditioning import conditioned
from pp_mlem.marginal.elements import (
    Element,
    Message,
    all_before,
    all_prefixes,
    applied,
    inverse_and_volume,
    product,
    symmetric,
    turned,
)
from pp_mlem.marginal.steps.base import Claim, Graph, Step
from pp_mlem.potentials.modes import Draw
from pp_mlem.potentials.motion import Motion
from pp_mlem.potentials.quadratic import (
    COLUMN,
    ROW,
    Coordinates,
    Law,
    Quadratic,
    places_of,
    product_of,
)
from pp_mlem.potentials.rows import Rows
from pp_mlem.potentials.table import Table, add
from pp_mlem.potentials.term import Layout, Pass, Term, Weight
from pp_mlem.program.reading import Reading
from pp_mlem.program.scans.scan import Scan

LOST = 1e-6  # nats of rounding for each step, beyond which a log-likelihood means nothing


class Steps(NamedTuple):
    """Every step of a chain in numbers, (steps or 1, *lanes, ...): the latents are `mean` + `slope` @ (what is
    carried, above) + `root` @ noise; `precision` and `linear` are of a quadratic over (carried, above,
    latents), `constant` its constant; what is carried on is `after` + `moves` @ (carried, above, latents)."""

    mean: jax.Array
    slope: jax.Array
    root: jax.Array
    linear: jax.Array
    precision: jax.Array
    constant: jax.Array
    after: jax.Array
    moves: jax.Array


class Collected(NamedTuple):
    """`steps`, their latents given what the steps themselves show; the law of these latents without that;
    what is carried into the first as `first` + `begins` @ outside, the names and sizes of the lanes, and the
    common weight."""

    steps: Steps
    law: tuple[jax.Array, jax.Array, jax.Array]
    first: jax.Array
    begins: jax.Array
    lanes: tuple[str, ...]
    shape: tuple[int, ...]
    weight: Weight | None


@dataclass(frozen=True, eq=False)
class Kalman(Step):
    """The real latents `states` that one scan carries. `carried` is the name and size of what is carried,
    `above` the real latents outside of the scan that act on its steps, `initial` those that act on what is
    carried into the first alone; `plates` are those of independent sequences."""

    time: str
    length: int
    reverse: bool
    carried: tuple[str, int]
    states: Coordinates
    plates: frozenset[str]
    above: Coordinates
    initial: Coordinates
    layout: Layout

    @classmethod
    def claim(cls, reading: Reading, factors: tuple[Factor, ...]) -> Claim:
        """What scans carry; the real latents inside of their steps are taken out before."""
        own = frozenset().union(*(s.movers for s in reading.scans.values()))
        if not own:
            return Claim()
        inside = {s.name for s in reading.reals if s.scan and s.name not in own}
        return Claim(own, frozenset(inside))

    @classmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        if graph.claims.before & graph.latents.keys():
            return No("latents inside the steps are taken out before")
        reading = graph.reading
        for scan in reading.scans.values():
            if scan.reals is None or not scan.movers & graph.latents.keys():
                continue
            own = scan.movers | {scan.carry}
            touching = [s for s in graph.scopes if s.latents & own]
            met = frozenset().union(*(s.latents for s in touching))
            acting = frozenset().union(*(s.latents for s in touching if s.site != scan.first_carry))
            above = [(s.name, s.size) for s in reading.reals if s.name in met - own]
            plates = frozenset(p for p, _ in scan.reals.plates)
            step = cls(
                scan.time, scan.length, scan.reverse, (scan.carry, scan.reals.size),
                _in_order(reading, scan), plates, tuple(a for a in above if a[0] in acting),
                tuple(a for a in above if a[0] not in acting), graph.layout,
            )  # fmt: skip
            return step, graph.without(own, plates)
        return No("no scan carries real latents")

    @property
    def own(self) -> frozenset[str]:
        return frozenset(n for n, _ in (self.carried, *self.states))

    @property
    def outside(self) -> Coordinates:
        """The real latents outside of the scan that it meets."""
        return (*self.above, *self.initial)

    @property
    def before(self) -> Coordinates:
        """What a step is given: what is carried into it, and what acts on all steps."""
        return (self.carried, *self.above)

    @property
    def entries(self) -> int:
        size = sum(n for _, n in (*self.before, *self.states))
        lanes = [self.layout.sizes[a] for a in self.plates]
        return self.length * size * size * int(np.prod(lanes or [1]))

    def told(self, reading: Reading) -> Iterator[str]:
        sizes = ", ".join(f"{n} ({size})" if size > 1 else n for n, size in self.states)
        numbers = self.carried[1]
        text = f"{sizes}: Kalman recursion over {self.length} steps, {numbers} number{'s' * (numbers > 1)} carried"
        if self.plates:
            text += f", for each of {', '.join(sorted(self.plates))}"
        if self.outside:
            text += f", given {', '.join(n for n, _ in self.outside)}"
        yield text

    def collect(self, terms: list[Term], context: Pass) -> Collected:
        """The terms of the scan as numbers of every step."""
        home = self.plates | {self.time}
        touching = [t for t in terms if t.latents & self.own]
        weight = next((t.weight for t in touching if t.weight is not None), None)
        motions: dict[bool, Any] = {
            self.time in t.plates: t.table for t in touching if isinstance(t.table, Motion)
        }
        seen: list[tuple[Plates, Rows]] = []
        rest: list[Term] = []
        for term in touching:
            if isinstance(term.table, Rows) and self._alone(term, home):
                seen.append((term.plates, term.table))
                rest += [replace(term, table=p) for p in (term.table.further, term.table.constant)]
            elif not isinstance(term.table, Motion):
                rest.append(term)
        others = [self.layout.project(t, home & t.plates, context) for t in rest]
        potentials = [t.table for t in others]
        laws = {p.latent: p for p in potentials if isinstance(p, Law)}
        forms: list[Any] = [p for p in potentials if not isinstance(p, (Law, Rows))]
        forms += [p.canonical() for p in potentials if isinstance(p, Rows)]
        forms += [p.further for p in laws.values()]
        form = product_of(forms)
        if not isinstance(form, Quadratic):
            raise RuntimeError("the laws of real states are no Gaussians")
        form = form.spread((*self.before, *self.states))
        moving, first = motions[True], motions[False]
        lanes = self._lanes([*laws.values(), form, moving, first])
        order = (self.time, *lanes)
        law = self._sampled(laws, order)
        steps = Steps(
            *law,
            form.linear.aligned((*order, ROW)),
            form.precision.aligned((*order, ROW, COLUMN)),
            form.constant.aligned(order),
            moving.mean.aligned((*order, ROW)),
            columns(moving.slope, moving.coordinates, (*self.before, *self.states), order),
        )  # fmt: skip
        if seen:
            steps = self._shown(steps, seen, order)
        shape = tuple(self.layout.sizes[a] for a in lanes)
        begins = columns(first.slope, first.coordinates, self.outside, lanes)
        return Collected(
            steps, law, first.mean.aligned((*lanes, ROW)), begins, lanes, shape, weight
        )

    def _alone(self, term: Term, home: Plates) -> bool:
        """Whether the rows of a term are of its steps and lanes, none gathered or weighed in between."""
        surplus = term.plates - home
        weighed = term.weight is not None and not term.weight.plates <= home
        return not weighed and not any(child in surplus for child, _ in self.layout.gathers)

    def _shown(
        self, steps: Steps, seen: list[tuple[Plates, Rows]], order: tuple[str, ...]
    ) -> Steps:
        """The steps with their latents given their rows."""
        every = (*self.before, *self.states)
        parts = []
        for plates, table in seen:
            surplus = tuple(sorted(plates - set(order)))
            left, slope = table.of(order, surplus, self.layout.sizes)
            wide = wide_columns(jnp.moveaxis(slope, 1, -1), table.coordinates, every)
            parts.append((left, jnp.moveaxis(wide, -1, 1)))
        left, rows = (
            one_after_other([p for p, _ in parts]),
            one_after_other([p for _, p in parts]),
        )
        given = conditioned((steps.mean, steps.slope, steps.root), left, rows)
        width = given.linear.shape[-1]
        linear, precision = steps.linear, steps.precision
        linear = jnp.broadcast_to(linear, (*batch(linear, given.linear, 1), linear.shape[-1]))
        precision = jnp.broadcast_to(
            precision, (*batch(precision, given.precision, 2), *precision.shape[-2:])
        )
        return steps._replace(
            mean=given.mean, slope=given.slope, root=given.root,
            linear=linear.at[..., :width].add(given.linear),
            precision=precision.at[..., :width, :width].add(given.precision),
            constant=steps.constant + given.constant,
        )  # fmt: skip

    def _lanes(self, potentials: list[Law | Quadratic | Motion]) -> tuple[str, ...]:
        found = [a for p in potentials for a in p.axes if a != self.time]
        return tuple(dict.fromkeys((*sorted(self.plates), *found)))

    def _sampled(
        self, laws: dict[str, Law], order: tuple[str, ...]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean, slope and root of all latents of a step given what is carried and above, one latent put
        into the next."""
        before = places_of(self.before)
        width, total = sum(n for _, n in self.before), sum(n for _, n in self.states)
        means: dict[str, jax.Array] = {}
        slopes: dict[str, jax.Array] = {}
        roots: dict[str, jax.Array] = {}
        begin = 0
        for name, size in self.states:
            law = laws[name]
            mean, own = law.mean.aligned((*order, ROW)), law.root.aligned((*order, ROW, COLUMN))
            given = law.slope.aligned((*order, ROW, COLUMN))
            slope = jnp.zeros((*given.shape[:-1], width), given.dtype)
            root = jnp.zeros((*own.shape[:-1], total), own.dtype)
            root = root.at[..., begin : begin + size].set(own)
            for parent, where in places_of(law.further.coordinates).items():
                part = given[..., where]
                if parent in before:
                    slope = slope.at[..., before[parent]].add(part)
                elif parent != name:
                    mean = mean + applied(part, means[parent])
                    slope = slope + product(part, slopes[parent])
                    root = root + product(part, roots[parent])
            means[name], slopes[name], roots[name] = mean, slope, root
            begin += size
        return tuple(
            stacked(list(p.values()), axis) for p, axis in ((means, -1), (slopes, -2), (roots, -2))
        )  # type: ignore[return-value]

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        own = self.own
        others = [t for t in terms if not t.latents & own]
        touching = [t for t in terms if t.latents & own]
        if all(isinstance(t.table, (Table, Motion)) for t in touching):  # counts of units, say
            tables = [
                self.layout.project(t, self.plates & t.plates, context)
                for t in touching
                if isinstance(t.table, Table)
            ]
            table = add([t.of_finite for t in tables] or [Table(jnp.zeros(()), ())])
            weight = next((t.weight for t in tables if t.weight is not None), None)
            return [*others, Term(table, frozenset(), self.plates, weight)]
        found = self.collect(terms, context)
        steps = found.steps
        message = self.message(found, steps)
        if isinstance(context.mode, Draw):
            noisy, noise = _perturbed(steps, context.mode, self.length, found.shape)
            nudge = self.message(found, noisy, noise).constant - message.constant
            message = message._replace(
                constant=message.constant + nudge - jax.lax.stop_gradient(nudge)
            )
        potential = self._potential(found.lanes, found.shape, message)
        latents = frozenset(a for a in found.lanes if a not in self.plates)
        latents |= {n for n, _ in self.outside}
        return [*others, Term(potential, latents, self.plates, found.weight)]

    def message(self, found: Collected, steps: Steps, noise: jax.Array | None = None) -> Message:
        """What the data of all steps tell about the latents above, (*lanes, ...)."""
        elements = self.elements(steps, noise)
        message = self.about_outside(found, all_before(elements, self.length, found.shape))
        sound = self.rounding(steps) < LOST * self.length
        return message._replace(constant=jnp.where(sound, message.constant, jnp.nan))

    def rounding(self, steps: Steps) -> jax.Array:
        """About how much log Z loses to rounding, in nats (*lanes): where observations are precise next to the
        noise of the states, it is a small difference of large numbers."""
        width = sum(n for _, n in self.before)
        latent = steps.precision[..., width:, width:]
        told = (product(latent, steps.root) * steps.root).sum((-1, -2))
        whole = jnp.abs(steps.constant).sum(0) * (self.length / len(steps.constant))
        lost = jnp.finfo(whole.dtype).eps * whole * jnp.sqrt(1 + jnp.abs(told).max(0))
        return jax.lax.stop_gradient(lost)

    def prefixes(self, found: Collected) -> Table | Quadratic:
        """What the first 1, 2, ... steps tell about the latents above, along an axis of the steps."""
        message = self.about_outside(found, all_prefixes(self.elements(found.steps), self.length))
        lanes = (self.time, *found.lanes)
        return self._potential(lanes, (self.length, *found.shape), message)

    def about_outside(self, found: Collected, carried: Message) -> Message:
        """What is told about what is carried into the first step, as about the latents outside."""
        moves, start = self.begin(found)
        pull = applied(carried.precision, start)
        return Message(
            applied(turned(moves), carried.linear - pull),
            symmetric(product(product(turned(moves), carried.precision), moves)),
            carried.constant + (carried.linear * start).sum(-1) - (pull * start).sum(-1) / 2,
        )

    def begin(self, found: Collected) -> tuple[jax.Array, jax.Array]:
        """What the first step is given, (carried, above), as moves @ outside + start."""
        width, total = sum(n for _, n in self.above), sum(n for _, n in self.outside)
        eye = jnp.broadcast_to(jnp.eye(total)[:width], (*found.begins.shape[:-2], width, total))
        moves = jnp.concatenate([found.begins, eye], -2)
        return moves, jnp.concatenate(
            [found.first, jnp.zeros((*found.first.shape[:-1], width))], -1
        )

    def law_above(
        self, name: str, terms: list[Term], lanes: tuple[str, ...]
    ) -> tuple[jax.Array, jax.Array] | None:
        """Mean (*lanes, size) and root (*lanes, size, size) of the law of a latent outside of the scan; None
        where it has none that stands alone."""
        met = [t.table for t in terms if name in t.latents and not t.latents & self.own]
        law = met[0] if len(met) == 1 else None
        if (
            not isinstance(law, Law)
            or len(law.further.coordinates) > 1
            or set(law.axes) - set(lanes)
        ):
            return None
        return law.mean.aligned((*lanes, ROW)), law.root.aligned((*lanes, ROW, COLUMN))

    def elements(self, steps: Steps, noise: jax.Array | None = None) -> Element:
        """Every step as an element over (what is carried, above); `noise` is added to the linear part
        of what is sampled."""
        element = self.outputs(steps, noise)
        return _kept(element, sum(n for _, n in self.above))

    def outputs(self, steps: Steps, noise: jax.Array | None = None) -> Element:
        """Every step as an element whose outcome is what `steps.moves` makes of a step."""
        width = sum(n for _, n in self.before)
        p, q = steps.precision, steps.linear
        seen, both, latent = p[..., :width, :width], p[..., :width, width:], p[..., width:, width:]
        # the latents are mean + slope @ before + root @ z
        pulled = q[..., width:] - applied(latent, steps.mean)
        cross = both + product(turned(steps.slope), latent)
        linear = q[..., :width] - applied(both, steps.mean) + applied(turned(steps.slope), pulled)
        inner = product(cross, steps.slope) + product(turned(steps.slope), turned(both))
        precision = seen + symmetric(inner)
        constant = (
            steps.constant
            + (q[..., width:] * steps.mean).sum(-1)
            - (applied(latent, steps.mean) * steps.mean).sum(-1) / 2
        )
        of_noise = product(turned(steps.root), product(latent, steps.root))
        with_noise = product(cross, steps.root)
        given = applied(turned(steps.root), pulled)
        given = given if noise is None else given + noise
        inverse, volume = inverse_and_volume(of_noise + jnp.eye(of_noise.shape[-1], dtype=p.dtype))
        back = product(with_noise, inverse)
        constant = constant - volume / 2 + (applied(inverse, given) * given).sum(-1) / 2
        linear = linear - applied(back, given)
        precision = precision - symmetric(product(back, turned(with_noise)))
        onward = product(steps.moves[..., width:], steps.root)
        slope = steps.moves[..., :width] + product(steps.moves[..., width:], steps.slope)
        slope = slope - product(onward, turned(back))
        mean = steps.after + applied(steps.moves[..., width:], steps.mean)
        mean = mean + applied(product(onward, inverse), given)
        covariance = symmetric(product(product(onward, inverse), turned(onward)))
        return Element(slope, mean, covariance, Message(linear, precision, constant))

    def _potential(
        self, lanes: tuple[str, ...], shape: tuple[int, ...], message: Message
    ) -> Table | Quadratic:
        constant = Table(jnp.broadcast_to(message.constant, shape), lanes)
        if not self.outside:
            return constant
        width = message.linear.shape[-1]
        return Quadratic(
            constant,
            Table(jnp.broadcast_to(message.linear, (*shape, width)), (*lanes, ROW)),
            Table(
                jnp.broadcast_to(message.precision, (*shape, width, width)), (*lanes, ROW, COLUMN)
            ),
            self.outside,
        )


def _in_order(reading: Reading, scan: Scan) -> Coordinates:
    """The latents that a scan carries and their sizes, in the order in which a step samples them."""
    return tuple((n, reading.sites[n].size) for n in scan.sites if n in scan.movers)


def _kept(element: Element, width: int) -> Element:
    """An element over what is carried and, besides it, `width` numbers that stay as they are."""
    if not width:
        return element
    slope, mean, covariance, message = element
    total = slope.shape[-1]
    same = jnp.eye(total, dtype=slope.dtype)[total - width :]
    slope = stacked([slope, same], -2)
    mean = jnp.concatenate([mean, jnp.zeros((*mean.shape[:-1], width))], -1)
    wide = jnp.zeros((*covariance.shape[:-2], total, total), covariance.dtype)
    covariance = wide.at[..., : total - width, : total - width].set(covariance)
    return Element(slope, mean, covariance, message)


def _perturbed(
    steps: Steps, mode: Draw, length: int, lanes: tuple[int, ...]
) -> tuple[Steps, jax.Array]:
    """Steps whose linear parts are perturbed by noise with their precision, and noise for what is sampled:
    their mean is a draw from their law (Papandreou & Yuille 2010; the simulation smoother of Durbin &
    Koopman 2002, doi:10.1093/biomet/89.3.603, in the information form)."""
    values, vectors = jnp.linalg.eigh(symmetric(steps.precision))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
    whole = (length, *lanes)
    seen = jax.random.normal(mode.next_key(), (*whole, steps.linear.shape[-1]))
    sampled = jax.random.normal(mode.next_key(), (*whole, steps.root.shape[-1]))
    moved = steps.linear + jax.lax.stop_gradient(applied(root, seen))
    return steps._replace(linear=moved), sampled
