"""The nearest name to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?', or nothing where no name is near."""
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), lower, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(lower[n]) for n in near)}?" if near else ""
