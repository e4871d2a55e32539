"""What tells the values of a latent apart, where the parameters behind it are no plain vectors."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.diagnose.entries import axes_of
from pp_mlem.factors.axes import batch_axes
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.messages import Message
from pp_mlem.target.parts import without_rows
from pp_mlem.target.target import Target

TRAITS = 64  # of one argument
TRAIT_LANES = 256


def traits(target: Target, vectors: np.ndarray, slots: tuple[str, ...]) -> np.ndarray:
    """(lanes, values, traits): what tells the values of a latent apart. Arguments of the
    observed sites' distributions, then probabilities of the values; the diagonal of what has
    several axes of them (a transition)."""
    run = target.compiled(_traits, slots, lanes=(0,))
    parts = [
        np.asarray(run(np.asarray(vectors[i : i + TRAIT_LANES])), float)
        for i in range(0, len(vectors), TRAIT_LANES)
    ]
    return np.concatenate(parts)


@without_rows
def _traits(target: Target, slots: tuple[str, ...], vector: jax.Array) -> jax.Array:
    marginal, reading = target.marginal, target.reading
    factors = {f.site: f for f in marginal.factors if set(f.latents) & set(slots)}
    params = target.params(vector)
    trailing: dict[tuple[str, str], int] = {}

    def arguments(message: Message) -> dict[str, jax.Array]:
        if message.kind != "sample" or factors[message.name].law_of:
            return {}
        return site_arguments(message, trailing)

    seen = reading.run(params, target.data.dynamic, arguments, wanted=frozenset(factors))
    eta = marginal.natural(params, target.data, frozenset(factors))
    outer = [s.name for s in reading.slots if s.vmapped]
    columns: list[jax.Array] = []
    weights: list[jax.Array] = []
    for name, factor in factors.items():
        own: list[jax.Array] = []
        for argument, value in seen[name].items():
            batch = value.shape[: value.ndim - trailing[name, argument]]
            axes = [*outer, *batch_axes(reading, name, batch[len(outer) :])]
            own += _by_value(value, axes, slots)
        if not own:
            table = jnp.exp(eta[name]) if factor.law_of else eta[name]
            own = _by_value(table, axes_of(marginal, factor, table.shape), slots)
        (weights if factor.law_of else columns).extend(own)
    return jnp.concatenate([*columns, *weights], 1)


def _by_value(value: jax.Array, axes: Sequence[str], slots: tuple[str, ...]) -> list[jax.Array]:
    """An array as (values, others), if it has axes of `slots`: their diagonal, and of the others
    so many that they can be compared."""
    sizes = value.shape
    own = [i for i, name in enumerate(axes) if name in slots and sizes[i] > 1]
    if not own:
        return []
    moved = jnp.moveaxis(value, own, range(len(own)))
    every = np.arange(moved.shape[0])
    flat = moved[tuple([every] * len(own))].reshape(len(every), -1)
    return [flat[:, :: max(1, flat.shape[1] // TRAITS)]]
