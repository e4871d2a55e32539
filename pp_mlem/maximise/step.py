"""One M-step: every block of parameters at its maximum given the expected statistics."""

from __future__ import annotations

import jax.numpy as jnp

from pp_mlem.base.compiling import after
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import NUMERIC_STEPS, Block, Context, Params, Prior
from pp_mlem.maximise.blocks.closed import Closed

__all__ = ["NUMERIC_STEPS", "maximise"]


def maximise(
    context: Context,
    blocks: tuple[Block, ...],
    params: Params,
    statistics: Natural,
    prior: Prior | None,
) -> Params:
    """argmax over theta of <eta(theta), S> (+ log p(theta)), starting from `params`.

    Blocks that go by steps take at most `context.steps` of them, each of which raises it.
    """
    found = dict(params)
    for block in sorted(blocks, key=lambda b: not isinstance(b, Closed)):
        here = params
        if not isinstance(block, Closed):
            # jaxlib 0.10 locks up when two batched factorisations run at once on two threads.
            done = sum((jnp.sum(found[p]) for b in blocks for p in b.parameters), jnp.zeros(()))
            here = {name: after(value, done) for name, value in params.items()}
        found.update(block.step(context, here, statistics, prior))
    return found
