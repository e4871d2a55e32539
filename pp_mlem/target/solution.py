"""A point of a target: where an algorithm ended, and what the objective is there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.target.target import Target


@dataclass(frozen=True)
class Solution:
    """`vector` (size,) of the free, unconstrained parameters, the objective there in nats
    (`value`), and the largest entry of its gradient per independent unit (`slope`); all on the
    host."""

    target: Target
    vector: np.ndarray
    value: float
    slope: float

    @cached_property
    def params(self) -> dict[str, Any]:
        """All parameters, constrained."""
        values = self.target.params(jnp.asarray(self.vector))
        return {name: np.asarray(v) for name, v in jax.device_get(values).items()}
