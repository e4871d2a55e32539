"""Working precision: float64 inside every public entry, the user's JAX configuration untouched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import validation_enabled

F = TypeVar("F", bound=Callable[..., Any])


def check_dtype(dtype: Any) -> np.dtype:
    """Return the floating dtype asked for; `None` means float64."""
    found = np.dtype(np.float64 if dtype is None else dtype)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: received {dtype!r}, expected float32 or float64.")
    return found


@contextmanager
def working_precision(dtype: np.dtype) -> Iterator[None]:
    """Compute in `dtype` within the block, without NumPyro's argument validation inside traces."""
    with jax.enable_x64(dtype == np.dtype(np.float64)), validation_enabled(False):
        yield


def in_model_precision(method: F) -> F:
    """Run a method of an object that has a `dtype` in that precision."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        with working_precision(self.dtype):
            return method(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


def tiny_log(dtype: Any) -> float:
    """The finite stand-in for log 0, which keeps products with a zero count at zero."""
    return -1e30 if jnp.dtype(dtype) == jnp.float32 else -1e200


def finite_or_minus_inf(value: np.ndarray) -> np.ndarray:
    """Read the stand-in of `tiny_log` back as minus infinity."""
    value = np.asarray(value)
    limit = -1e25 if value.dtype == np.float32 else -1e150
    return np.where(value < limit, -np.inf, value)


@functools.cache
def _direct() -> dict[str, Any]:
    """The option, if this version of XLA has it, by which kernels are emitted straight as LLVM
    code: that compiles in two thirds of the time that the way through MLIR takes."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def lean_jit(function: Callable[..., Any]) -> Any:
    """jit that compiles faster. Mixtures also run faster so, long chains about a tenth slower."""
    return jax.jit(function, compiler_options=_direct())


def quick_jit(function: Callable[..., Any]) -> Any:
    """jit with little code optimisation, for functions whose compilation outweighs their work."""
    options = {"xla_backend_optimization_level": 0} | _direct()
    return jax.jit(function, compiler_options=options)
