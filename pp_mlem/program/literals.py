"""Python lists in place of arrays, as in Normal([0, 1], [1, 2]): NumPyro builds such a distribution
and cannot compute with it."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger


def _as_array(fn: dist.Distribution, name: str, value: list | tuple) -> Any:
    traced = any(isinstance(v, jax.Array) for v in jax.tree.leaves(value))
    try:
        array = jnp.asarray(value) if traced else np.asarray(value)
    except (TypeError, ValueError):
        array = None
    if array is None or array.dtype.kind not in "biufc":
        raise ValueError(
            f"{name} of {type(fn).__name__} received the {type(value).__name__} {str(value)[:60]}, "
            "expected numbers in one shape. Pass an array."
        )
    return array


def with_arrays(fn: Any) -> Any:
    """The distribution with arrays in place of the lists among its arguments; itself if none are."""
    if not isinstance(fn, dist.Distribution):
        return fn
    arrays: dict[str, Any] = {}
    for name, value in vars(fn).items():
        if isinstance(value, dist.Distribution):
            inner = with_arrays(value)
            if inner is not value:
                arrays[name] = inner
        elif isinstance(value, (list, tuple)) and name in fn.arg_constraints:
            arrays[name] = _as_array(fn, name, value)
    if not arrays:
        return fn
    made = copy.copy(fn)
    vars(made).update(arrays)
    return made


def prepare_distribution(msg: dict[str, Any]) -> None:
    """Give a sample site a distribution of arrays, as large as its draws: `sample_shape` is part of
    the batch, as a plate makes it."""
    msg["fn"] = with_arrays(msg["fn"])
    shape = msg["kwargs"].get("sample_shape", ())
    if shape and not msg.get("is_observed"):
        msg["fn"] = msg["fn"].expand_by(shape)
        msg["kwargs"]["sample_shape"] = ()


class Literals(Messenger):
    """Makes the lists in distributions arrays, for all that NumPyro itself runs."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            prepare_distribution(msg)
