"""How numbers are shown in tables and sentences."""

from __future__ import annotations


def written(value: float, decimals: int = 4) -> str:
    """A number with so many decimals, or in scientific notation where they would show none of its
    digits, or too many (a likelihood that grows without bound has dozens)."""
    size = abs(value)
    fixed = size == 0 or 10.0**-decimals <= size < 1e9 or size != size
    return f"{value:.{decimals}f}" if fixed else f"{value:.{decimals}g}"
