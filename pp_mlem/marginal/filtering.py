"""What is known along linear Gaussian steps before later data: predictions, and filtered states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.marginal.elements import (
    Element,
    Message,
    applied,
    inverse_and_volume,
    joined,
    product,
    symmetric,
    turned,
)
from pp_mlem.marginal.steps.kalman import Collected, Kalman, Steps
from pp_mlem.potentials.quadratic import COLUMN, ROW, Law, Quadratic, product_of
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import Term

SETTLED = 1e12  # condition up to which a flat latent counts as determined by the data so far


class Gaussian(NamedTuple):
    """Mean (..., n) and covariance (..., n, n)."""

    mean: Any
    covariance: Any

    def moved(self, mean: jax.Array, slope: jax.Array, covariance: jax.Array) -> Gaussian:
        """Of mean + slope @ this + noise with that covariance."""
        spread = product(product(slope, self.covariance), turned(slope))
        return Gaussian(mean + applied(slope, self.mean), symmetric(spread + covariance))

    def seen(self, linear: jax.Array, precision: jax.Array) -> Gaussian:
        """Times exp(linear . u - u' precision u / 2)."""
        mixed = product(self.covariance, precision)
        inverse, _ = inverse_and_volume(mixed + jnp.eye(mixed.shape[-1], dtype=mixed.dtype))
        mean = applied(inverse, self.mean + applied(self.covariance, linear))
        return Gaussian(mean, symmetric(product(inverse, self.covariance)))


class Forward(NamedTuple):
    """At every step (steps, *lanes, ...): what is carried in, what is above and the latents of the step
    `before` the step's data, the latents `after` it; and what is carried out of the `last` step."""

    before: Gaussian
    after: Gaussian
    last: Gaussian


def forward(chain: Kalman, found: Collected, terms: list[Term]) -> Forward:
    """What is known at every step before its data and after them.

    Where a latent outside of the scan has no law by itself (it is flat), the first steps, which leave it
    undetermined, have no moments: NaN.
    """
    if not all(chain.law_above(n, terms, found.lanes) for n, _ in chain.outside):
        return _from_start(chain, found, terms)
    steps, width = found.steps, sum(n for _, n in chain.before)
    step = chain.elements(steps)
    sampled = chain.outputs(_for_latents(steps, width))
    start = _start(chain, found, terms)
    shape = jax.eval_shape(lambda law: _next(law, _at(step, 0)), start)
    start = jax.tree.map(
        lambda a, b: jnp.broadcast_to(a, jnp.broadcast_shapes(a.shape, b.shape)), start, shape
    )

    def body(law: Gaussian, t: jax.Array) -> tuple[Gaussian, tuple[Gaussian, Gaussian]]:
        here, own = _at(step, t), _at(sampled, t)
        raw = _law_at(found, t)
        seen = law.seen(here.message.linear, here.message.precision)
        after = seen.moved(own.mean, own.slope, own.covariance)
        return _next(law, here), (_joint(law, raw), after)

    last, (before, after) = jax.lax.scan(body, start, jnp.arange(chain.length))
    return Forward(before, after, last)


def _from_start(chain: Kalman, found: Collected, terms: list[Term]) -> Forward:
    """The same by what the first steps tell together about what is outside of the scan."""
    steps, width = found.steps, sum(n for _, n in chain.before)
    moves, start = chain.begin(found)
    linear, precision = _told_outside(chain, found, terms)

    def law(sofar: Element) -> Gaussian:
        """Of what is carried out of steps, given their data and all that is known outside."""
        message = chain.about_outside(found, sofar.message)
        whole = symmetric(message.precision + precision)
        inverse = jnp.linalg.inv(whole)
        settled = jnp.linalg.cond(whole) < SETTLED
        inverse = jnp.where(settled[..., None, None], inverse, jnp.nan)
        outside = Gaussian(applied(inverse, message.linear + linear), inverse)
        into = outside.moved(start, moves, jnp.zeros((width, width)))
        return into.moved(sofar.mean, sofar.slope, sofar.covariance)

    element = chain.elements(steps)
    sampled = chain.outputs(_for_latents(steps, width))
    nothing = Element(
        jnp.eye(width), jnp.zeros(width), jnp.zeros((width, width)),
        Message(jnp.zeros(width), jnp.zeros((width, width)), jnp.zeros(())),
    )  # fmt: skip
    first = jax.tree.map(
        lambda a, b: jnp.broadcast_to(a, b.shape), nothing, _shape_of(element, chain)
    )

    def body(sofar: Element, t: jax.Array) -> tuple[Element, tuple[Gaussian, Gaussian]]:
        here, own, raw = _at(element, t), _at(sampled, t), _law_at(found, t)
        new = joined(sofar, here)
        return new, (_joint(law(sofar), raw), law(joined(sofar, own)))

    last, (before, after) = jax.lax.scan(body, first, jnp.arange(chain.length))
    return Forward(before, after, law(last))


def told_shared(names: Iterable[str]) -> str:
    return (
        f"the states meet {', '.join(sorted(names))}, which other series, latents or plates meet as well: what is "
        "known before later data is not offered. Use posterior() on data whose later values are "
        "missing (NaN)."
    )


def _shape_of(element: Element, chain: Kalman) -> Element:
    """The shapes of a product of steps."""
    one = jax.eval_shape(lambda e: _at(e, 0), element)
    return jax.eval_shape(joined, one, jax.eval_shape(joined, one, one))


def _told_outside(
    chain: Kalman, found: Collected, terms: list[Term]
) -> tuple[jax.Array, jax.Array]:
    """What all else tells about the latents outside of the scan, as a linear part and a precision."""
    names = {n for n, _ in chain.outside}
    met = [t for t in terms if t.latents & names and not t.latents & chain.own]
    forms = [t.table.canonical() if isinstance(t.table, Law) else t.table for t in met]
    form = product_of([f for f in forms if isinstance(f, (Table, Quadratic))])
    strange = form.coordinates if isinstance(form, Quadratic) else ()
    if {n for n, _ in strange} - names or set(form.axes) - set(found.lanes):
        raise ValueError(told_shared(names))
    if not isinstance(form, Quadratic):
        size = sum(n for _, n in chain.outside)
        return jnp.zeros(size), jnp.zeros((size, size))
    form = form.spread(chain.outside)
    lanes = found.lanes
    return form.linear.aligned((*lanes, ROW)), form.precision.aligned((*lanes, ROW, COLUMN))


def ahead(chain: Kalman, found: Collected, last: Gaussian, steps: int) -> Gaussian:
    """What is carried in, above and sampled 1, ..., `steps` steps after the last, without data."""
    mean, slope, root = found.law
    unseen = found.steps._replace(
        mean=mean, slope=slope, root=root,
        linear=jnp.zeros_like(found.steps.linear), precision=jnp.zeros_like(found.steps.precision),
    )  # fmt: skip
    step = _at(chain.elements(unseen), 0)

    def body(law: Gaussian, _: None) -> tuple[Gaussian, Gaussian]:
        return law.moved(step.mean, step.slope, step.covariance), _joint(law, _law_at(found, 0))

    return jax.lax.scan(body, last, None, length=steps)[1]


def _next(law: Gaussian, step: Element) -> Gaussian:
    seen = law.seen(step.message.linear, step.message.precision)
    return seen.moved(step.mean, step.slope, step.covariance)


def _law_at(found: Collected, t: jax.Array | int) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean, slope, root = (_entry(a, t) for a in found.law)
    return mean, slope, root


def _joint(law: Gaussian, sampled: tuple[jax.Array, jax.Array, jax.Array]) -> Gaussian:
    """(what is carried in, above, the latents) of one step, before its data; the latents are `sampled`, mean +
    slope @ before + root @ noise."""
    centre, moves, root = sampled
    width, total = moves.shape[-1], root.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(width), (*moves.shape[:-2], width, width))
    slope = jnp.concatenate([eye, moves], -2)
    mean = jnp.concatenate([jnp.zeros((*centre.shape[:-1], width)), centre], -1)
    noise = product(root, turned(root))
    wide = jnp.zeros((*noise.shape[:-2], width + total, width + total))
    return law.moved(mean, slope, wide.at[..., width:, width:].set(noise))


def _for_latents(steps: Steps, width: int) -> Steps:
    """The same steps, with the latents themselves in place of what is carried on."""
    total = steps.root.shape[-1]
    moves = jnp.eye(width + total)[width:]
    moves = jnp.broadcast_to(moves, (*steps.moves.shape[:-2], total, width + total))
    return steps._replace(after=jnp.zeros((*steps.after.shape[:-1], total)), moves=moves)


def _entry(array: jax.Array, t: jax.Array | int) -> jax.Array:
    return array[0] if len(array) == 1 else array[t]


def _at(element: Element, t: jax.Array | int) -> Element:
    return jax.tree.map(lambda a: _entry(a, t), element)


def _start(chain: Kalman, found: Collected, terms: list[Term]) -> Gaussian:
    """What is carried into the first step, and what is above."""
    total = sum(n for _, n in chain.outside)
    mean = jnp.zeros((*found.first.shape[:-1], total))
    covariance = jnp.zeros((*found.first.shape[:-1], total, total))
    begin = 0
    for name, size in chain.outside:
        law = chain.law_above(name, terms, found.lanes)
        centre, root = law if law is not None else _no_law(name)
        own = slice(begin, begin + size)
        mean, covariance = _wide(mean, centre, 1), _wide(covariance, root, 2)
        mean = mean.at[..., own].set(centre)
        covariance = covariance.at[..., own, own].set(product(root, turned(root)))
        begin += size
    slope, offset = chain.begin(found)
    return Gaussian(mean, covariance).moved(offset, slope, jnp.zeros((slope.shape[-2],) * 2))


def _no_law(name: str) -> tuple[jax.Array, jax.Array]:
    raise RuntimeError(f"'{name}' has no law by itself")


def _wide(array: jax.Array, other: jax.Array, trailing: int) -> jax.Array:
    """Broadcast to the lanes of another array."""
    lanes = jnp.broadcast_shapes(
        array.shape[: array.ndim - trailing], other.shape[: other.ndim - trailing]
    )
    return jnp.broadcast_to(array, (*lanes, *array.shape[array.ndim - trailing :]))
