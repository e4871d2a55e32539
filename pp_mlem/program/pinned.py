"""Single entries of a parameter held at given values, or at values that the others give: the site is then the
vector of its free entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from pp_mlem.program.distributions import unwrap

Function = Callable[[Mapping[str, Any]], Any]  # of free entries by name


@dataclass(frozen=True)
class Same:
    """The value of another entry."""

    name: str

    def __call__(self, entries: Mapping[str, Any]) -> Any:
        return entries[self.name]


@dataclass(frozen=True)
class Pins:
    """Of one parameter (shape): where it is held, and at which values (0 elsewhere); the names of its free
    entries, and the flat places of entries whose values are functions of these."""

    held: np.ndarray
    values: np.ndarray
    names: tuple[str, ...] = ()
    tied: tuple[tuple[int, Function], ...] = ()

    def whole(self, free: Any) -> Any:
        """The parameter with its free entries (free,) in their places."""
        free = jnp.asarray(free)
        whole = jnp.asarray(self.values).at[np.nonzero(~self.held)].set(free)
        entries = dict(zip(self.names, free, strict=True))
        for place, function in self.tied:
            whole = whole.at[np.unravel_index(place, self.held.shape)].set(function(entries))
        return whole


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
