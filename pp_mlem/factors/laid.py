"""What a factor keeps of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from pp_mlem.factors.patterns import Patterns


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Laid:
    """Data of one observed site, rows in the last axis. `value` is (*event, *columns, rows); `mask`
    (*columns, rows) or None.

    `patterns` are there where some vectors are missing in part; such entries hold the reference point.

    `known` are data arguments (*columns, rows); `base` is log h (rows), summed over columns. Without
    rows: `shift`, the reference point in the layout of the arguments, and `shift_rows`, the same as
    (*event, *columns, 1).
    """

    value: Any
    mask: Any
    known: dict[str, Any]
    shift: Any
    shift_rows: Any
    base: Any
    patterns: Patterns | None = None

    def cut(self, take: Callable[[Any, int], Any]) -> Laid:
        """Some of the rows: `take(array, axis)` of every array that has them."""
        value, mask, known, base = jax.tree.map(
            lambda a: take(a, a.ndim - 1), (self.value, self.mask, self.known, self.base)
        )
        patterns = None if self.patterns is None else self.patterns.cut(take)
        return replace(self, value=value, mask=mask, known=known, base=base, patterns=patterns)
