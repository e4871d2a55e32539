"""Single entries of a parameter held at given values: the site is then the vector of its free entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from pp_mlem.program.distributions import unwrap


@dataclass(frozen=True)
class Pins:
    """Of one parameter (shape): where it is held, and at which values (0 elsewhere)."""

    held: np.ndarray
    values: np.ndarray

    def whole(self, free: Any) -> Any:
        """The parameter with its free entries (free,) in their places."""
        where = np.nonzero(~self.held)
        return jnp.asarray(self.values).at[where].set(free)


class Pinned(Messenger):
    """A program in which some entries of parameters have values; the others are one vector under the
    parameter's name, outside of its plates."""

    def __init__(self, fn: Callable[..., Any], pins: Mapping[str, Pins]) -> None:
        super().__init__(fn)
        self.pins = dict(pins)

    def process_message(self, msg: dict[str, Any]) -> None:
        pins = self.pins.get(msg["name"])
        if pins is None or msg["type"] != "sample":
            return
        msg["fn"] = free_law(msg["fn"], pins.held).to_event(1)
        msg["cond_indep_stack"] = []

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        pins = self.pins.get(msg["name"])
        if pins is not None and msg["type"] == "sample":
            msg["value"] = pins.whole(msg["value"])


def free_law(fn: Any, held: np.ndarray) -> Any:
    """The law of the entries that are not held, (free,).

    Raises:
        ValueError: where the entries have no laws of their own, as those of a simplex or a covariance.
    """
    bare = unwrap(fn)
    base, shape = bare.fn, held.shape
    if isinstance(base, dist.ImproperUniform) and not base.event_shape:
        return dist.ImproperUniform(base.support, (int((~held).sum()),), ())
    names = list(base.arg_constraints)
    if bare.masks or base.event_shape or not names or not all(hasattr(base, n) for n in names):
        raise ValueError(
            f"single entries of a {type(base).__name__} have no law of their own, so they cannot be fixed alone."
        )
    whole = {n: jnp.broadcast_to(jnp.asarray(getattr(base, n)), shape) for n in names}
    return type(base)(**{n: v[~held] for n, v in whole.items()})
