"""The checks of a program's arguments: what data may not do is told by the argument's name and index,
before anything is compiled."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.finite import FiniteCheck
from pp_mlem.program.checks.followed import Followed
from pp_mlem.program.checks.indices import check_indices
from pp_mlem.program.checks.limits import LimitsCheck
from pp_mlem.program.checks.possible import PossibleCheck
from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading


class Inputs:
    """The checks of a program's arguments; made once per structure, run on each set of data."""

    def __init__(self, reading: Reading) -> None:
        self.followed = Followed(reading)
        self._densities: dict[frozenset[str], Any] = {}

    def densities(self, names: frozenset[str], dynamic: tuple) -> dict[str, Any]:
        """Log densities of observed sites, laid out as their arguments are."""

        def extract(m: Message) -> Any:
            log = log_density(unwrap(m.fn).fn, m.value)
            return m.placed(log, jnp.ndim(log))

        def run(params: dict, latents: dict, dynamic: tuple) -> dict[str, Any]:
            return self.followed.reading.run(
                params, dynamic, extract, latents, wanted=names, wide=True
            )

        function = self._densities.setdefault(names, quick_jit(run))  # compiled once
        return function(*self.followed.neutral, tuple(jnp.asarray(a) for a in dynamic))

    def check(self, arguments: Arguments) -> Arguments:
        """Raise ValueError where data reach a distribution or an index as they must not.

        Returns the arguments with NaN filled in where only what is masked reads it: a gradient
        through NaN is NaN, whatever a mask hides.
        """
        case = Case(self.followed, arguments)
        dynamic = FiniteCheck(case).filled()
        check_indices(case)
        LimitsCheck(case).run()
        PossibleCheck(case).run(self.densities)
        return arguments if dynamic is None else replace(arguments, dynamic=dynamic)


@dataclass(frozen=True)
class Unchecked:
    """In place of the checks, where the program does not run with its latents enumerated."""

    reason: str

    def check(self, arguments: Arguments) -> Arguments:
        return arguments

    def tell(self) -> None:
        warnings.warn(
            "the data of this program are not checked (NaN that reaches a distribution, indices "
            f"beyond the end, scales of zero): it could not be followed: {self.reason}",
            stacklevel=3,
        )


def read_inputs(reading: Reading) -> Inputs | Unchecked:
    """The checks of a program's arguments. Where it cannot run with its latents enumerated,
    `read_factors` tells of it; if that runs, what is not checked is to be told."""
    for way in (reading, reading.mapped):
        try:
            return Inputs(way)
        except Exception as error:  # a program may raise anything
            reason = str(error).strip().splitlines() or [""]
            failure = f"{type(error).__name__}: {reason[0]}"
    return Unchecked(failure)
