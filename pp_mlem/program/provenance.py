"""What depends on what, found by NumPyro's tracing of provenance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.ops.provenance import eval_provenance


def provenance(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Of every leaf of function(**values), the names of the values that it depends on."""
    # Behind a sign, since a site may be called "fn", as NumPyro's argument.
    traced = eval_provenance(
        lambda **given: function(**{k[1:]: v for k, v in given.items()}),
        **{f"={k}": v for k, v in values.items()},
    )

    def names(leaf: frozenset[str]) -> frozenset[str]:
        return frozenset(n[1:] for n in leaf)

    return jax.tree.map(names, traced, is_leaf=_is_names)


def _is_names(leaf: Any) -> bool:
    return isinstance(leaf, frozenset)


def all_names(tree: Any) -> frozenset[str]:
    """The names that any leaf of a result of `provenance` depends on."""
    return frozenset().union(*jax.tree.leaves(tree, is_leaf=_is_names))


def mark(array: Any, t: Any) -> Any:
    """The same array, known to provenance as one that depends on `t`."""
    array = jnp.asarray(array)
    return jnp.where(jnp.zeros((), bool) & (jnp.asarray(t) < 0), array, array)
