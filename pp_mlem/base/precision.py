"""Working precision: float64 inside every public entry, the user's JAX configuration untouched."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import xla_bridge
from numpyro.distributions import distribution as numpyro_distribution

from pp_mlem.base.cache import compiled_once

PROGRAM = threading.RLock()  # NumPyro's stack of handlers is one for all threads
F = TypeVar("F", bound=Callable[..., Any])


def check_dtype(dtype: Any) -> np.dtype:
    """Return the floating dtype asked for; `None` means float64."""
    try:
        found = np.dtype(np.float64 if dtype is None else dtype)
    except TypeError:  # no dtype at all
        found = np.dtype(object)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype: received {dtype!r}, expected float32 or float64.")
    return found


class _Validation:
    """NumPyro's argument validation is one switch for all threads: off from the first block that
    needs it off until the last has ended, then as it was."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.before = True

    def off(self) -> None:
        with self.lock:
            if self.blocks == 0:
                self.before = numpyro_distribution._VALIDATION_ENABLED
            self.blocks += 1
            numpyro_distribution.enable_validation(False)

    def restore(self) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                numpyro_distribution.enable_validation(self.before)


_VALIDATION = _Validation()
_FORKED = False


def _after_fork() -> None:
    """In a child: remember that JAX had begun, so that the first use is an error and no hang."""
    global _FORKED
    _FORKED = _FORKED or xla_bridge.backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def working_precision(dtype: np.dtype) -> Iterator[None]:
    """Compute in `dtype` within the block, without NumPyro's argument validation inside traces;
    what is compiled is kept for later processes.

    Raises:
        RuntimeError: in a child that was forked after JAX had begun, where JAX would wait for
            threads that it no longer has.
    """
    if _FORKED:
        raise RuntimeError(
            "this process was forked after JAX had begun to compute, and JAX does not survive a "
            "fork: it would hang. Start workers by multiprocessing.get_context('spawn') or "
            "'forkserver', as in ProcessPoolExecutor(mp_context=...), or with joblib or Dask; a "
            "Model and a Fit can be sent to them."
        )
    _VALIDATION.off()
    try:
        with jax.enable_x64(dtype == np.dtype(np.float64)), compiled_once():
            yield
    finally:
        _VALIDATION.restore()


def alone(function: F) -> F:
    """Let one thread at a time run what uses NumPyro's handlers; what is jitted runs them only
    while it is traced."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with PROGRAM:
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


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
