"""A structure with its data: what every question is asked of that needs no fitting."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from pp_mlem.base.compiling import Effort, Kept
from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.marginal.units import unit_weights
from pp_mlem.program.reading import Reading

Values = dict[str, jax.Array]


@dataclass(frozen=True)
class Bound:
    """log Z of a program, its data, and what was compiled for both."""

    marginal: Marginal
    data: ProgramData
    kept: Kept

    @property
    def reading(self) -> Reading:
        return self.marginal.reading

    def compiled(
        self, function: Callable[..., Any], *static: Hashable, effort: Effort = Effort.LEAN
    ) -> Callable[..., Any]:
        """`function(marginal, *static, *arrays)`, compiled, as a function of the arrays."""
        return self.kept(function, self.marginal, *static, effort=effort)

    @cached_property
    def unit_weights(self) -> np.ndarray:
        """Case weight of each independent unit, on the host; 0 where all its data are missing."""
        run = self.compiled(unit_weights, effort=self.marginal.work.once)
        return np.asarray(run(self.data))
