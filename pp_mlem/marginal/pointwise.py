"""log Z taken apart: one value for each independent unit, or for each step of a single sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.data.layout import ProgramData
from pp_mlem.marginal.marginal import Marginal


def pointwise_values(marginal: Marginal, params: Any, data: ProgramData) -> jax.Array:
    """(units,) of `Model.pointwise_log_likelihood`, as a pure function. Traceable."""
    eta = marginal.natural(params, data)
    if marginal.sequential:
        return marginal.step_values(eta, data)
    tables = marginal.unit_values(eta, data)
    return jnp.concatenate([t.array.ravel() for t in tables])
