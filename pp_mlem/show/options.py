"""What the options of the command line say, and how a run that was stopped ends."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

INTERRUPTED = 130  # as a shell ends what Ctrl-C stopped


@dataclass(frozen=True)
class Given:
    """A model and its data, as the options name them."""

    model: str
    data: Path | None
    columns: list[str] | None
    settings: list[str] | None


def named(pairs: list[str] | None, option: str) -> dict[str, str]:
    """The parts of NAME=VALUE."""
    values = {}
    for pair in pairs or []:
        name, mark, value = pair.partition("=")
        if not mark or not name or not value:
            raise ValueError(f"{option}: received '{pair}', expected NAME=VALUE.")
        values[name] = value
    return values


def value_of(text: str) -> Any:
    """A number, true, false, null or a list as in JSON or Python; else the text."""
    try:
        return json.loads(text.lower() if text in ("True", "False", "None") else text)
    except json.JSONDecodeError:
        return None if text == "None" else text


def values_of(text: str) -> list:
    """`1:6` is 1 to 6; `a,b` a list."""
    low, mark, high = text.partition(":")
    if mark and low.lstrip("-").isdigit() and high.lstrip("-").isdigit():
        return list(range(int(low), int(high) + 1))
    return [value_of(v) for v in text.split(",")]


def stop(kept: str, where: Path | None) -> NoReturn:
    """End as Ctrl-C does, and say what is kept."""
    text = f"stopped; {kept} kept in {where}" if kept and where is not None else "stopped"
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
    sys.exit(INTERRUPTED)
