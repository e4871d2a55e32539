"""What a run takes of the sites of a program, and where the dimension of the steps is put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.errors import Refused
from pp_mlem.program.messages import Message, Timed
from pp_mlem.program.scans.scan import Scan


@dataclass(frozen=True)
class Extraction:
    """`extract` of each of the `wanted` sites (None: of all), those of a scan at one step.

    Those in `wide` are taken at every step; `depth` is the number of plate dimensions, of which
    the steps are the first.
    """

    extract: Callable[[Message], Any]
    wanted: frozenset[str] | None
    wide: frozenset[str]
    depth: int

    def wants(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted

    def of(self, message: Message, name: str) -> Any:
        """What is extracted of a site of a scan's body under its name as a factor."""
        return self.extract(replace(message, name=name))

    def wants_carry(self, name: str) -> bool:
        """What is carried is taken where it is asked for by name."""
        return self.wanted is not None and name in self.wanted

    def of_carry(self, scan: Scan, carry: Any, name: str) -> Any:
        """What is extracted of a carry's real latents, (*plates, size)."""
        value = scan.reals.vector(jax.tree.leaves(carry)) if scan.reals is not None else None
        return self.extract(Message(name, "carry", None, value, False, (), None, None, True))

    def one_step(self, tree: Any) -> Any:
        """What was extracted at one step, without the mark of the scan."""
        return _unmarked(tree, lambda leaf: leaf.array)

    def every_step(self, tree: Any) -> Any:
        """What was extracted at all steps, stacked, with the dimension of the steps in its place."""
        return _unmarked(tree, lambda leaf: _place_steps(leaf, self.depth))


def _unmarked(tree: Any, array_of: Callable[[Timed], Any]) -> Any:
    return jax.tree.map(
        lambda leaf: array_of(leaf) if isinstance(leaf, Timed) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Timed),
    )


def _place_steps(leaf: Timed, depth: int) -> jax.Array:
    """The dimension of the steps, which leads, put at batch dimension -depth."""
    array = leaf.array
    batch = array.ndim - 1 - leaf.trailing
    if batch < depth - 1:
        ones = (1,) * (depth - 1 - batch)
        array = array.reshape(array.shape[:1] + ones + array.shape[1:])
    if batch < depth:
        return array
    hole = 1 + batch - depth  # the place is held open by a dimension of size one
    if array.shape[hole] != 1:
        raise Refused(
            "scan: an array inside the body has more batch dimensions than its plates "
            f"explain (shape {array.shape[1:]}). Declare them with numpyro.plate or "
            "to_event."
        )
    return jnp.moveaxis(jnp.squeeze(array, hole), 0, hole - 1)
