"""What unfinished work on disk belongs to: it goes on with its own only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pp_mlem.base.fingerprint import PYTHON, changed

OF_NUTS = ("chains", "draws")  # settings that either run may have left out


def joined(
    own: dict[str, Any], held: dict[str, Any], where: Path | None, what: str, remedy: str
) -> dict[str, Any]:
    """The record of this work, with what the record on disk alone says of NUTS.

    Raises:
        ValueError: where the two differ: `where` holds another `what`.
    """
    own = own | {k: held[k] for k in OF_NUTS if k in held and k not in own}
    if not held:
        return own
    held = held | {k: own[k] for k in OF_NUTS if k in own and k not in held}
    differs = changed(held, own)
    if "format" in differs:
        differs = ["the version of pp_mlem"]
    elif "python" in differs:
        differs = [f"Python {held['python']}, where this is {PYTHON}"]
    if differs:
        raise ValueError(
            f"out: {where} holds another {what} (it differs in {', '.join(differs)}). {remedy}"
        )
    return own
