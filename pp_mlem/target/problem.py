"""One estimation problem: what of a structure is free, with a prior or not, and its M-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import Kept, Work
from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.maximise.blocks.base import Block
from pp_mlem.maximise.registry import plan_blocks
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import ParameterSpace
from pp_mlem.target.priors import Params, prior_distributions


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise log Z (MLE) or log Z + log prior (MAP) over the free parameters.

    `space` are the free parameters, `blocks` their M-steps. It holds no data: a `Target` is a problem
    with its data and the values that are held fixed.
    """

    marginal: Marginal
    space: ParameterSpace
    with_prior: bool
    blocks: tuple[Block, ...]

    @property
    def reading(self) -> Reading:
        return self.marginal.reading

    @property
    def work(self) -> Work:
        return self.marginal.work

    def params(self, vector: jax.Array, fixed: Params) -> Params:
        """All parameters, constrained, at a vector of the free ones."""
        return {**fixed, **self.space.constrain(vector)}


def make_problem(marginal: Marginal, data: ProgramData, fixed: Params, with_prior: bool) -> Problem:
    """Plan the M-step for this choice of fixed parameters and objective."""
    reading = marginal.reading
    names = frozenset(fixed)
    priors = None
    if with_prior:
        neutral = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
        kept: dict[str, Any] = {}

        def capture(params: Params, d: ProgramData) -> int:
            kept.update(prior_distributions(reading, params, d))
            return 0

        jax.eval_shape(capture, {**neutral, **fixed}, data)  # only the classes matter here
        priors = kept
    blocks = plan_blocks(reading, marginal.factors, data, names, priors)
    return Problem(marginal, reading.space.without(names), with_prior, blocks)


def problem_of(
    kept: Kept, marginal: Marginal, data: ProgramData, fixed: Params, with_prior: bool
) -> Problem:
    """The problem for these fixed parameters; planned once for a structure and kept."""
    key = "problem", frozenset(fixed), with_prior
    return kept.once(key, lambda: make_problem(marginal, data, dict(fixed), with_prior))
