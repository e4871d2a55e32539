"""What a run takes of the sites of a program, and where the dimension of the steps is put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pp_mlem.program.messages import Message
from pp_mlem.program.scans.steps import place_steps


@dataclass(frozen=True)
class Extraction:
    """`extract` of each of the `wanted` sites (None: of all), those of a scan at one step.

    Those in `wide` are taken at every step; `depth` is the number of plate dimensions, of which
    the steps are the first.
    """

    extract: Callable[[Message], Any]
    wanted: frozenset[str] | None
    wide: frozenset[str]
    depth: int

    def wants(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted

    def of(self, message: Message, name: str) -> Any:
        """What is extracted of a site of a scan's body under its name as a factor."""
        return self.extract(replace(message, name=name))

    def one_step(self, tree: Any) -> Any:
        return place_steps(tree, self.depth, False)

    def every_step(self, tree: Any) -> Any:
        return place_steps(tree, self.depth, True)
