"""The arrays that define a site, each a part of which one asks what it depends on."""

from __future__ import annotations

from typing import Any

import jax

from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import is_array, is_discrete, is_factor, unwrap
from pp_mlem.program.errors import NEEDS_VALUES, Refused
from pp_mlem.program.messages import Message


def site_parts(message: Message) -> dict[str, Any]:
    """The arrays that define a site: the distribution's arguments, value, masks and scale."""
    bare = unwrap(message.fn)
    parts: dict[str, Any] = {f"argument {k}": _arrays(v) for k, v in bare.fn.get_args().items()}
    parts["mask"] = bare.masks
    parts["scale"] = 0.0 if message.scale is None else message.scale
    if bare.hidden and not message.observed and is_discrete(bare.fn):
        return {"mask": (), "scale": parts["scale"]}  # nothing of its law counts
    parts["all"] = _arrays(bare.fn)
    if message.observed:
        parts["value"] = message.value
        if not is_factor(message.fn):
            try:
                parts["log_prob"] = log_density(bare.fn, message.value)
            except (TypeError, ValueError) as error:
                if isinstance(error, NEEDS_VALUES):
                    raise
                raise Refused(
                    f"site '{message.name}' ({type(bare.fn).__name__}): NumPyro cannot compute its "
                    f"log density: {str(error).splitlines()[0]}"
                ) from error
    elif not is_discrete(bare.fn):
        parts["support"] = jax.tree.leaves(bare.fn.support)
    return parts


def _arrays(tree: Any) -> list[Any]:
    """The leaves that can be traced; a sparse matrix, for one, is none."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]
