"""Sites with `obs_mask=`, of which NumPyro makes two: one observed, and one that stands where it is not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)
from numpyro.primitives import Messenger

_UNOBSERVED = "_unobserved"


class _Whole(Messenger):
    """Gives what stands for the unobserved units of a site its law in all units: where the site is observed
    nothing reads it, and it integrates to one."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and is_unobserved(msg["name"]) and not msg["is_observed"]:
            msg["fn"] = _unmasked(msg["fn"])


def is_unobserved(name: str) -> bool:
    """Whether a site has the name that NumPyro gives to the unobserved units of another."""
    return name.endswith(_UNOBSERVED) and name != _UNOBSERVED


def whole(program: Callable[..., Any]) -> Callable[..., Any]:
    """The program with the laws of unobserved units whole."""

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        return _Whole(program)(*args, **kwargs)

    return run


def _unmasked(fn: Any) -> Any:
    """A distribution without its innermost mask, that of `obs_mask`."""
    if isinstance(fn, ExpandedDistribution):
        return _unmasked(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, Independent):
        return _unmasked(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if not isinstance(fn, MaskedDistribution):
        return fn
    if _is_masked(fn.base_dist):
        return _unmasked(fn.base_dist).mask(fn._mask)
    return fn.base_dist.expand(fn.batch_shape)


def _is_masked(fn: Any) -> bool:
    while isinstance(fn, (ExpandedDistribution, Independent)):
        fn = fn.base_dist
    return isinstance(fn, MaskedDistribution)
