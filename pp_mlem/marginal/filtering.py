"""What is known along linear Gaussian steps before later data: predictions, and filtered states."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pp_mlem.marginal.elements import (
    Element,
    applied,
    inverse_and_volume,
    product,
    symmetric,
    turned,
)
from pp_mlem.marginal.steps.kalman import Collected, Kalman, Steps
from pp_mlem.potentials.term import Term


class Gaussian(NamedTuple):
    """Mean (..., n) and covariance (..., n, n)."""

    mean: jax.Array
    covariance: jax.Array

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
    """One pass over the steps, from the first.

    Raises ValueError where what is above the scan has no law of its own.
    """
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
        raw = Steps(*(_entry(a, t) for a in steps))
        seen = law.seen(here.message.linear, here.message.precision)
        after = seen.moved(own.mean, own.slope, own.covariance)
        return _next(law, here), (_joint(law, raw), after)

    last, (before, after) = jax.lax.scan(body, start, jnp.arange(chain.length))
    return Forward(before, after, last)


def ahead(chain: Kalman, found: Collected, last: Gaussian, steps: int) -> Gaussian:
    """What is carried in, above and sampled 1, ..., `steps` steps after the last, without data."""
    raw = Steps(*(a[0] for a in found.steps))
    unseen = found.steps._replace(
        linear=jnp.zeros_like(found.steps.linear), precision=jnp.zeros_like(found.steps.precision)
    )
    step = _at(chain.elements(unseen), 0)

    def body(law: Gaussian, _: None) -> tuple[Gaussian, Gaussian]:
        return law.moved(step.mean, step.slope, step.covariance), _joint(law, raw)

    return jax.lax.scan(body, last, None, length=steps)[1]


def _next(law: Gaussian, step: Element) -> Gaussian:
    seen = law.seen(step.message.linear, step.message.precision)
    return seen.moved(step.mean, step.slope, step.covariance)


def _joint(law: Gaussian, steps: Steps) -> Gaussian:
    """(what is carried in, above, the latents) of one step, before its data."""
    width, total = steps.slope.shape[-1], steps.root.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(width), (*steps.slope.shape[:-2], width, width))
    slope = jnp.concatenate([eye, steps.slope], -2)
    mean = jnp.concatenate([jnp.zeros((*steps.mean.shape[:-1], width)), steps.mean], -1)
    noise = product(steps.root, turned(steps.root))
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
        centre, root = chain.law_above(name, terms, found.lanes)
        own = slice(begin, begin + size)
        mean, covariance = _wide(mean, centre, 1), _wide(covariance, root, 2)
        mean = mean.at[..., own].set(centre)
        covariance = covariance.at[..., own, own].set(product(root, turned(root)))
        begin += size
    slope, offset = chain.begin(found)
    return Gaussian(mean, covariance).moved(offset, slope, jnp.zeros((slope.shape[-2],) * 2))


def _wide(array: jax.Array, other: jax.Array, trailing: int) -> jax.Array:
    """Broadcast to the lanes of another array."""
    lanes = jnp.broadcast_shapes(
        array.shape[: array.ndim - trailing], other.shape[: other.ndim - trailing]
    )
    return jnp.broadcast_to(array, (*lanes, *array.shape[array.ndim - trailing :]))
