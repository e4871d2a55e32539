"""Arrays and numbers that reach a program without being traced, known by their values."""

from __future__ import annotations

from typing import Any

import numpy as np

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.checks.constants import held_by
from pp_mlem.program.checks.dataflow import Node, data_bit

BY_CHANCE = 8  # numbers, of which fewer may be equal to others by chance


class Held:
    """Arrays that reach a program without being traced: of its arguments, where it needs concrete
    values, and of its closure. Known by their values, which are constants of the trace."""

    def __init__(self, arguments: Arguments) -> None:
        self.traced = len(arguments.dynamic) if arguments.traced else 0
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []
        self.numbers: dict[str, int | float] = {}
        for name, value in arguments.untraced().items():
            self._add(f"argument '{name}'", value)
        for name, value in held_by(arguments.program).items():
            self._add(f"constant {name} of the program", value)
        self.flawed = data_bit(self.traced + len(self.names))

    def _add(self, name: str, value: Any) -> None:
        if np.ndim(value) == 0:
            self.numbers[name] = np.asarray(value).item()
        elif np.size(value) > 1 and np.asarray(value).dtype.kind in "biuf":
            self.names.append(name)
            self.arrays.append(np.asarray(value))

    def of(self, array: np.ndarray) -> tuple[int, np.ndarray]:
        """The bit of the first of them with these values, and the values as they were: JAX adds the
        size to negative indices that are constants."""
        whole = array.dtype.kind in "iu"
        for i, own in enumerate(self.arrays):
            if own.shape != array.shape or (own.dtype.kind in "iu") != whole:
                continue
            own = own.astype(array.dtype)
            negative = own < 0 if whole and own.size >= BY_CHANCE else np.zeros((), bool)
            added = (array - own)[negative][0] if negative.any() else 0
            same = np.where(negative, own + added, own) if added else own
            if np.array_equal(same, array, equal_nan=array.dtype.kind == "f"):
                return data_bit(self.traced + i), own
        return 0, array

    def behind(self, node: Node) -> list[str]:
        return [n for i, n in enumerate(self.names) if node.depends & (data_bit(self.traced + i))]

    def number(self, value: Any) -> str:
        """The only one of the numbers that has this value and type, if there is only one."""
        item = np.asarray(value).item()
        same = [n for n, v in self.numbers.items() if type(v) is type(item) and v == item]
        return same[0] if len(same) == 1 else ""
