"""What a kind of thing says that does not apply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class No:
    """It does not apply; the reason."""

    reason: str
