"""What a scan carries of real latents, as one vector for each unit of its plates.

The body of a scan is one affine map of that vector and of what it samples, so the vector is all that a
step needs to know of the steps before, however many of them the program remembers and in which form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Carried:
    """The leaves of a scan's carry that hold real latents: of each its number, and the shape of what
    one unit of the plates has of it. `plates` are the plates with their dimensions."""

    leaves: tuple[tuple[int, tuple[int, ...]], ...]
    plates: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """How many real numbers one unit has."""
        return sum(int(np.prod(shape)) for _, shape in self.leaves)

    def vector(self, leaves: list[Any]) -> jax.Array:
        """(..., *plates, size) of the leaves of a whole carry."""
        parts = []
        for i, shape in self.leaves:
            array = jnp.asarray(leaves[i], jnp.result_type(float))
            lead = array.shape[: array.ndim - len(shape)]
            parts.append(array.reshape(*lead, int(np.prod(shape))))
        lead = jnp.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return jnp.concatenate([jnp.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], -1)

    def put(self, vector: jax.Array, leaves: list[Any]) -> list[Any]:
        """The leaves with those of the vector (..., *plates, size) in their places."""
        leaves, begin = list(leaves), 0
        for i, shape in self.leaves:
            end = begin + int(np.prod(shape))
            leaves[i] = vector[..., begin:end].reshape(*vector.shape[:-1], *shape)
            begin = end
        return leaves
