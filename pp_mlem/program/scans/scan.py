"""What a scan of the program is: its steps, its states, and what its carry holds."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

from pp_mlem.program.scans.carried import Carried


def before(name: str, lag: int = 1) -> str:
    """The state `name` some steps earlier."""
    return f"{name} before" if lag == 1 else f"{name} {lag} steps before"


def at_step(name: str, step: int) -> str:
    """Site `name` at one of the first steps, which meet the scan's initial carry."""
    return f"{name}[{step}]"


def later(name: str, start: int = 1) -> str:
    """Site `name` at every later step, where it meets the states of the steps before."""
    return f"{name}[{start}:]"


class Update(enum.Enum):
    """How a leaf of the carry that depends on no state comes from one step to the next."""

    CONSTANT = "passed on as it is"
    MAP = "made anew from the step alone"
    RECURSION = "made from the carry before"


@dataclass(frozen=True)
class Scan:
    """One scan of the program.

    `time` and `rest` name its plates of all steps and of the steps from `start` on. `stateful` says
    which leaves of the carry depend on states, `updates` how each runs if it does not. After `order`
    steps nothing of a state is left in the carry; before step `formed` the carry has not its later
    form. `pairs` are the sites of the body that meet the carry's states; `latents` the discrete
    unobserved ones, `carried` how many steps back each is met at most; `continuous` the continuous
    unobserved ones, of which `recurrent` depend on their own values of earlier steps. `held` are,
    of each leaf of the carry, the Gaussian sites of the body that it is computed from, at the last
    step or before; once roles are known, those of them that are latents.
    """

    time: str
    length: int
    reverse: bool
    sites: tuple[str, ...]
    latents: tuple[str, ...]
    continuous: tuple[str, ...]
    recurrent: frozenset[str]
    formed: int
    order: int
    stateful: tuple[bool, ...]
    updates: tuple[Update, ...]
    pairs: tuple[str, ...]
    carried: dict[str, int]
    leaves: tuple[Any, ...]  # shape and type of each leaf of the settled carry
    treedef: Any
    output: Any  # and of what a step returns
    fed: frozenset[str]  # sites whose distribution depends on inputs of earlier steps
    held: tuple[frozenset[str], ...] = ()
    reals: Carried | None = None  # how the carry holds real latents, if it does
    used: bool = True  # whether the program uses what the scan returns

    @property
    def carry(self) -> str:
        """The name of what the scan carries of real latents from step to step."""
        return f"carry of {self.time}"

    @property
    def first_carry(self) -> str:
        """The name of the same before the first step."""
        return at_step(self.carry, 0)

    @property
    def movers(self) -> frozenset[str]:
        """The real latents of the body that are carried on."""
        return frozenset().union(*self.held)

    def with_latents(self, latents: frozenset[str]) -> Scan:
        """Once it is known which Gaussian sites are latents: what is computed from them is no
        longer known before the step."""
        held = tuple(names & latents for names in self.held)
        stateful = tuple(a or bool(b) for a, b in zip(self.stateful, held, strict=True))
        return replace(self, held=held, stateful=stateful)

    @property
    def start(self) -> int:
        """Number of first steps whose paired sites stand alone."""
        return max(1, self.formed, *self.carried.values(), 0)

    @property
    def rest(self) -> str:
        return f"{self.time} after the first" + (f" {self.start}" if self.start > 1 else "")

    @property
    def rolled(self) -> int:
        """The first step whose carry can be had from that of `order` steps before."""
        return self.formed + self.order

    def later(self, site: str) -> str:
        return later(site, self.start)

    def names(self, site: str) -> tuple[str, ...]:
        """The site's names as a factor: itself, or its first and its later steps."""
        if site not in self.pairs:
            return (site,)
        heads = tuple(at_step(site, k) for k in range(min(self.start, self.length)))
        return (*heads, self.later(site)) if self.length > self.start else heads
