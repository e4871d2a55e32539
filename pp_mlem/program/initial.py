"""Values to run a program at before anything is known of it: inside the support of each site."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.program.distributions import as_floating, innermost, is_discrete, unwrap
from pp_mlem.program.domains import Interval, finite_support
from pp_mlem.program.errors import Refused
from pp_mlem.program.messages import Supply


def initial_value(msg: dict[str, Any]) -> jax.Array:
    """The initial value of a `numpyro.param`: a number, an array-like, or a function of a key."""
    value = msg["fn"](*msg["args"], **msg["kwargs"])
    if msg["name"].endswith("$params"):
        raise Refused(
            f"numpyro.param '{msg['name']}' is that of a neural network (numpyro.module, flax_module, "
            "haiku_module, ...), whose parameters are no single array. Write the network with arrays "
            "that are sites of the program: w = numpyro.param('w', ...), jnp.tanh(x @ w) @ v."
        )
    try:
        return as_floating(value)
    except (TypeError, ValueError):
        raise Refused(
            f"numpyro.param '{msg['name']}': received an initial value of type "
            f"{type(value).__name__}, expected a number, an array, or a function of a random key "
            "that returns one."
        ) from None


def neutral_value(msg: dict[str, Any], seed: int) -> Any:
    """A value inside the support, for reading shapes: not a draw from the prior."""
    if msg["type"] == "param":
        return initial_value(msg)
    fn = msg["fn"]
    if is_discrete(fn):
        return _discrete_value(msg["name"], fn, seed)
    try:
        transform = dist.biject_to(fn.support)
    except NotImplementedError:
        raise Refused(
            f"site '{msg['name']}' ({type(innermost(fn)).__name__}): its support has no map from "
            "unconstrained numbers in NumPyro, so that no method can move along it. Write it by "
            "such a map, as a vector divided by its length for a direction."
        ) from None
    free = transform.inverse_shape(fn.batch_shape + fn.event_shape)
    noise = np.random.default_rng(seed).uniform(-1.0, 1.0, free)
    return transform(jnp.asarray(noise))


def _discrete_value(name: str, fn: Any, seed: int) -> Any:
    """The largest value of a finite support: a total count further down is then at its largest,
    too. A draw where the support is not finite."""
    bare = unwrap(fn)
    if not bare.columns and not bare.fn.event_shape:
        try:
            support = finite_support(name, fn)
            top = support.high if isinstance(support, Interval) else support[-1]
            return jnp.full(fn.batch_shape, top)
        except ValueError:
            pass
    return fn.sample(jax.random.key(seed))


def neutral_supply() -> Supply:
    """Neutral values for one run, each site with a seed of its own."""
    counter = iter(range(10_000))
    return lambda msg: neutral_value(msg, next(counter))
