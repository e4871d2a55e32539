"""Prior densities of the parameters, and their distributions, at given values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.tables import own_density
from pp_mlem.program.distributions import as_floating, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role

Params = dict[str, jax.Array]


def at_one_value(
    reading: Reading, params: Params, data: ProgramData, extract: Any, names: frozenset[str]
) -> dict[str, Any]:
    """Run the program with every gathered latent at one value, for what concerns parameters; those
    of a scan's body are taken at every step."""
    return reading.run(params, data.dynamic, extract, reading.zeros(), wanted=names, wide=names)


def log_prior(
    reading: Reading, params: Params, data: ProgramData, names: frozenset[str]
) -> jax.Array:
    """Sum of the log prior densities of the named parameters, at constrained values."""
    wanted = frozenset(
        s.name for s in reading.with_role(Role.PARAMETER) if s.name in names and s.prior
    )

    def extract(message: Message) -> jax.Array:
        return jnp.sum(own_density(message, message.value))  # in a scan, that of one step

    densities = at_one_value(reading, params, data, extract, wanted)
    return sum((jnp.sum(v) for v in densities.values()), jnp.zeros(()))


def prior_distributions(reading: Reading, params: Params, data: ProgramData) -> dict[str, Any]:
    """The unwrapped prior of each parameter; parameters without one are left out."""
    wanted = frozenset(
        s.name
        for s in reading.with_role(Role.PARAMETER)
        if s.prior and s.distribution != "ImproperUniform"
    )

    def extract(message: Message) -> Any:
        # Integer literals, Normal(0, 10), as floating: closed forms take powers of them.
        return jax.tree.map(as_floating, unwrap(message.fn).fn)

    return at_one_value(reading, params, data, extract, wanted)
