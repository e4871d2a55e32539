"""One M-step: every block of parameters at its maximum given the expected statistics."""

from __future__ import annotations

from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import NUMERIC_STEPS, Block, Context, Params, Prior

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
    for block in sorted(blocks, key=lambda b: b.after_others):
        begin = found if block.after_others else params
        found.update(block.step(context, begin, statistics, prior))
    return found
