"""What a program consists of: sites with their roles and reasons, and plates."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Role(enum.Enum):
    """The part that a site plays in the marginal likelihood."""

    OBSERVED = "observed"
    LATENT = "latent"
    PARAMETER = "parameter"
    IGNORED = "ignored"
    LAW = "law of a state"
    BEFORE = "previous state"
    CARRIED = "what a scan carries of real latents"


@dataclass(frozen=True)
class Plate:
    """A set of conditionally independent units; `implicit` when only a batch shape declares it."""

    name: str
    size: int
    implicit: bool = False


@dataclass(frozen=True)
class Site:
    """One site of the program with its role and the reason for it.

    `dims` maps each of its plates to the plate's (negative) batch dimension. `parents` are the
    unobserved sites that its distribution depends on. `columns` counts the `to_event` dimensions.

    A state of a chain is a latent over all steps; its own distribution stands apart, in sites
    with role LAW: for the first step (or steps) and for the later ones. `law_of` names the latent
    of which a site is the distribution, `scan` the scan in whose body it stands, `step` the number
    of the first step that it stands for, `lag` how many steps earlier a previous state is.
    """

    name: str
    role: Role
    reason: str
    distribution: str
    dims: dict[str, int] = field(default_factory=dict)
    parents: frozenset[str] = frozenset()
    columns: int = 0
    event_shape: tuple[int, ...] = ()
    size: int = 0  # latents: number of values, of real ones of coordinates
    real: bool = False  # latents: a vector of real numbers, integrated out
    vmapped: bool = False  # latents: enumerated by vmap instead of a fresh dimension
    gathered: bool = False  # latents: some site outside of its plates reads it, as in g[group]
    prior: bool = True  # parameters: False for numpyro.param
    support: Any = None  # parameters: the constraint
    shape: tuple[int, ...] = ()  # parameters: shape of the constrained value
    law_of: str = ""
    origin: str = ""  # the program's own name of a site that stands for some steps of a scan
    scan: str = ""
    timed: bool = False  # in a scan: its distribution's arguments vary with the step
    hidden: bool = False  # latents: its own law is masked by the constant False
    step: int | None = None
    lag: int = 0

    @property
    def is_factor(self) -> bool:
        """Whether it is a numpyro.factor, which NumPyro holds as a distribution of this name."""
        return self.distribution == "Unit"

    @property
    def plates(self) -> frozenset[str]:
        return frozenset(self.dims)
