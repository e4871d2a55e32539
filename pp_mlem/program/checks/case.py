"""One set of data in a program that has been followed: its values, and words for where they are."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.checks.dataflow import CASTS, MOVES, Node, Values, data_bit
from pp_mlem.program.checks.followed import Followed

_PICKS = MOVES | CASTS | {"slice", "gather", "dynamic_slice", "rev"}


class Case:
    """The data, and the `values` of all nodes that they determine."""

    def __init__(self, followed: Followed, arguments: Arguments) -> None:
        self.followed, self.labels = followed, arguments.labels
        self.dynamic = arguments.dynamic if arguments.traced else ()
        self.values = Values(self.dynamic)

    def run(self, run: Any, dynamic: tuple) -> dict[str, Any]:
        """The program's sites at neutral parameters and latents, on these or other data."""
        return run(*self.followed.neutral, tuple(jnp.asarray(a) for a in dynamic))

    def sources(self, node: Node) -> str:
        """The arguments and constants that a node is made from."""
        names = [f"'{n}'" for i, n in enumerate(self.labels) if node.depends & data_bit(i)]
        names = names if self.dynamic else []
        sources = [f"argument {', '.join(names)}"] if names else []
        sources += self.followed.held.behind(node)
        if sources:
            return " and ".join(sources)
        value = self.values.of(node) if node.known else np.zeros(0)
        equal = self.followed.held.number(value) if np.size(value) == 1 else ""
        return "a constant of the program" + (f" (equal to {equal})" if equal else "")

    def cell(self, node: Node, bad: np.ndarray) -> str:
        """Where a node is bad first: by the argument's own index if it is only laid out anew."""
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        value = np.asarray(self.values.of(node))[where]  # of a vector, all of it
        source = node
        while source.operation in _PICKS:
            source = source.inputs[0]
        held = source.operation in ("input", "constant") and source.shape and not np.ndim(value)
        if source is not node and held:  # by its place in the argument
            array = np.asarray(self.values.of(source))
            places = np.argwhere(np.isnan(array) if value != value else array == value)
            if len(places):
                node, where = source, tuple(int(i) for i in places[0])
        made = "" if node.operation in ("input", "constant") else "an array computed from "
        place = f" at index {where}" if where else ""
        return f"{made}{self.sources(node)}: the value {value}{place}"

    def hidden(self, sites: list[str], shape: tuple[int, ...]) -> np.ndarray:
        """Cells of an array that every one of these sites masks."""
        hidden = np.ones(shape, bool)
        for name in sites:
            own = np.zeros(shape, bool)
            for mask in self.followed.sites[name].masks:
                if mask.known:
                    shown = np.squeeze(np.asarray(self.values.of(mask)).astype(bool))
                    if np.squeeze(own).shape == shown.shape:
                        own |= ~shown.reshape(shape)
            hidden &= own
        return hidden
