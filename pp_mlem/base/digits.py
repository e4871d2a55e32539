"""How numbers are shown in tables and sentences."""

from __future__ import annotations

import math


def written(value: float, decimals: int = 4) -> str:
    """A number with so many decimals, or in scientific notation where they would show none of its
    digits, or too many (a likelihood that grows without bound has dozens)."""
    size = abs(value)
    fixed = size == 0 or 10.0**-decimals <= size < 1e9 or size != size
    return f"{value:.{decimals}f}" if fixed else f"{value:.{decimals}g}"


def with_error(estimate: float, error: float) -> str:
    """An estimate with its standard error, both to the second digit of the error: "9.71 ± 0.16"; an estimate alone
    where that is not known."""
    if not math.isfinite(estimate):
        return "–"
    if not math.isfinite(error) or error <= 0:
        return f"{estimate:.5g} ± –"
    decimals = 1 - math.floor(math.log10(error))
    largest = max(abs(estimate), error)
    if largest >= 1e7 or decimals > 8:
        digits = min(max(math.floor(math.log10(largest)) + decimals, 1), 15)
        return f"{estimate:.{digits}e} ± {error:.1e}"
    decimals = max(decimals, 0)
    return f"{round(estimate, decimals) + 0.0:.{decimals}f} ± {error:.{decimals}f}"
