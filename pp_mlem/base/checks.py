"""Checks of the options that functions share: counts, seeds, levels, tolerances."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, np.generic)) and not isinstance(value, (bool, np.bool_))


def check_counts(least: int = 1, **counts: Any) -> None:
    """Whole numbers, `least` or more."""
    expected = {0: "zero or a positive integer", 1: "a positive integer"}
    for name, value in counts.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < least:
            told = expected.get(least, f"an integer of at least {least}")
            raise ValueError(f"{name}: received {value!r}, expected {told}.")


def check_seed(seed: Any) -> None:
    """A whole number that JAX and NumPy both take as a seed."""
    check_counts(0, seed=seed)


def check_level(level: Any) -> None:
    """The probability of an interval."""
    check_share(level=level)


def check_share(**shares: Any) -> None:
    """Numbers between 0 and 1, both excluded."""
    for name, value in shares.items():
        if not _is_number(value) or not 0 < value < 1:
            raise ValueError(f"{name}: received {value!r}, expected a number between 0 and 1.")


def check_positive(**values: Any) -> None:
    """Finite numbers above zero."""
    for name, value in values.items():
        if not _is_number(value) or not 0 < value < float("inf"):
            raise ValueError(f"{name}: received {value!r}, expected a positive number.")
