"""Values to read a program at: parameters inside their supports, data without holes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.program.reading import Reading


def neutral_parameters(reading: Reading, seed: int) -> dict[str, jax.Array]:
    """Parameter values inside their supports, for probing."""
    space = reading.space
    rng = np.random.default_rng(seed)
    return space.to_params(rng.uniform(-1, 1, space.size))


def without_missing(dynamic: tuple) -> tuple:
    """The arguments with a seen value in place of each NaN: what depends on what must not hang on
    which cells are missing."""

    def fill(array: Any) -> Any:
        host = np.asarray(array)
        if host.dtype.kind != "f" or not np.isnan(host).any():
            return array
        flat = host.ravel()
        seen = np.flatnonzero(~np.isnan(flat))
        if not seen.size:
            return jnp.zeros_like(array)
        nearest = seen[np.clip(np.searchsorted(seen, np.arange(flat.size)), 0, seen.size - 1)]
        return jnp.asarray(flat[nearest].reshape(host.shape))

    return tuple(fill(a) for a in dynamic)
