"""What a step is, and the graph from which steps are planned."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pp_mlem.base.no import No
from pp_mlem.factors.base import Factor
from pp_mlem.factors.gathers import gathered_factors
from pp_mlem.potentials.crossed import Pattern
from pp_mlem.potentials.term import Layout, Pair, Pass, Term
from pp_mlem.program.reading import Reading


@dataclass(frozen=True)
class Scope:
    """What one factor, or what became of several, touches: latents and plates."""

    site: str
    latents: frozenset[str]
    plates: frozenset[str]


@dataclass(frozen=True)
class Claim:
    """Latents that only one kind of step can take out, and those that must be out before it can."""

    own: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()

    def __or__(self, other: Claim) -> Claim:
        return Claim(self.own | other.own, self.before | other.before)


@dataclass(frozen=True)
class Graph:
    """What is left to be taken out: the scopes that touch latents, and the latents with their plates.
    `layout` has the sizes of all latents and plates; `claims` are those of every kind of step."""

    reading: Reading
    factors: tuple[Factor, ...]
    layout: Layout
    scopes: tuple[Scope, ...]
    latents: dict[str, frozenset[str]]
    claims: Claim

    def without(self, names: frozenset[str], plates: frozenset[str]) -> Graph:
        """The graph after `names` are taken out: what met them becomes one scope over `plates`."""
        touching = [s for s in self.scopes if s.latents & names]
        scopes = [s for s in self.scopes if not s.latents & names]
        others = frozenset().union(*(s.latents for s in touching)) - names
        if others:
            scopes.append(Scope(touching[0].site, others, plates))
        left = {n: p for n, p in self.latents.items() if n not in names}
        return replace(self, scopes=tuple(scopes), latents=left)


class Step(abc.ABC):
    """Takes some latents out of the terms, in every mode.

    `exact` says whether the value is that of the sum, or an approximation of it.
    """

    exact: ClassVar[bool] = True

    @classmethod
    def claim(cls, reading: Reading, factors: tuple[Factor, ...]) -> Claim:
        """What only this kind of step can take out of a program."""
        del reading, factors
        return Claim()

    @classmethod
    @abc.abstractmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        """A step that applies to the graph and what it leaves, or why there is none.

        Raises ValueError, with the remedy, for what no other step could do either."""

    def pattern(self, maps: Mapping[Pair, Any]) -> Pattern | None:
        """What it keeps of who meets whom, given which unit each row reads. On the host."""
        del maps
        return None

    @abc.abstractmethod
    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        """The terms without the latents of this step."""

    @abc.abstractmethod
    def told(self, reading: Reading) -> Iterator[str]:
        """A sentence for each latent or group of latents that is taken out, in order."""

    @property
    @abc.abstractmethod
    def entries(self) -> int:
        """How many numbers it holds besides the terms, for the size of batches."""


def layout_of(reading: Reading, factors: tuple[Factor, ...]) -> Layout:
    """Sizes and gathers of a whole program."""
    plates = {name: p.size for name, p in reading.plates.items()}
    latents = {s.name: s.size for s in (*reading.slots, *reading.coordinates)}
    return Layout(plates | latents, tuple(gathered_factors(reading, factors)))
