"""What a block of parameters is in the M-step, and what it may ask of the problem."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from pp_mlem.base.no import No
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.marginal import Marginal, Natural
from pp_mlem.program.reading import Reading

NUMERIC_STEPS = 30

Params = dict[str, jax.Array]


@dataclass(frozen=True)
class Group:
    """Free parameters that share a site or a prior, before it is known how they are maximised.

    `members` are the factors that depend on them, `free` all free parameters of the problem, `data`
    the data on the host; `priors` the prior distribution of each parameter, None for maximum
    likelihood.
    """

    reading: Reading
    names: tuple[str, ...]
    members: tuple[Factor, ...]
    data: ProgramData
    free: frozenset[str]
    priors: dict[str, Any] | None

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(m.site for m in self.members)


@dataclass(frozen=True)
class Context:
    """The structure and the data of an M-step; a block that goes by steps takes at most `steps`, which
    may be traced."""

    marginal: Marginal
    data: ProgramData
    steps: int | jax.Array = NUMERIC_STEPS

    @property
    def reading(self) -> Reading:
        return self.marginal.reading

    def members(self, block: Block) -> list[Factor]:
        """The factors of a block."""
        return [f for f in self.marginal.factors if f.site in block.sites]


@dataclass(frozen=True)
class Prior:
    """Of MAP: the log prior density of the named parameters in nats, and the prior distribution of
    each, both at given values of all parameters."""

    log_density: Callable[[Params, frozenset[str]], jax.Array]
    distributions: Callable[[Params], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Block(abc.ABC):
    """Parameters that are maximised together, in the factors of `sites`.

    `told` says how; `declined` holds the reasons of the kinds of blocks that were asked before.
    """

    parameters: tuple[str, ...]
    sites: tuple[str, ...]
    told: str
    declined: tuple[No, ...] = ()
    method: ClassVar[str]
    after_others: ClassVar[bool] = False  # whether it goes from where the other blocks have led

    @property
    def reason(self) -> str:
        """How its parameters are maximised, and why so."""
        return self.told

    @abc.abstractmethod
    def collect(self, context: Context, params: Params, statistics: Natural) -> Any:
        """What the maximum is computed from: a pytree that adds up over rows of the data."""

    @abc.abstractmethod
    def maximise(
        self, context: Context, params: Params, collected: Any, prior: Prior | None
    ) -> Params:
        """The block's parameters at the maximum; does not touch the rows."""

    def step(
        self, context: Context, params: Params, statistics: Natural, prior: Prior | None
    ) -> Params:
        """The block's parameters after an M-step from `params`, which never lowers <eta, S> (+ log
        prior)."""
        return self.maximise(context, params, self.collect(context, params, statistics), prior)


def expected_log_joint(
    context: Context, params: Params, statistics: Natural, sites: frozenset[str]
) -> jax.Array:
    """<eta(theta), S> over the named factors: Q of EM in nats, up to a constant."""
    eta = context.marginal.natural(params, context.data, sites)
    total = jnp.zeros(())
    for name, value in eta.items():
        weight = statistics[name]
        total = total + jnp.sum(jnp.where(weight != 0, weight * value, 0.0))
    return total
