"""Ctrl-C at the command line: the first stops and keeps what is finished, the second quits."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130  # as a shell ends what Ctrl-C stopped
FIRST = b"\nstopping: what is finished is kept; Ctrl-C again quits\n"


class _Count:
    """How often the user has asked to stop."""

    asked = 0


def stopped() -> bool:
    """Whether the user has asked to stop."""
    return _Count.asked > 0


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """A library returns what it has on `KeyboardInterrupt`; nothing but cleaning up outlives
    `SystemExit`."""
    _Count.asked += 1
    if _Count.asked > 1:
        raise SystemExit(INTERRUPTED)
    os.write(2, FIRST)
    raise KeyboardInterrupt


def run_watched(command: Callable[[], Any]) -> None:
    """Run a command; a process that was asked to stop ends at once, whatever its threads compile."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        command()
    finally:
        if stopped():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)


def stop(kept: str, where: Path | None) -> NoReturn:
    """End as Ctrl-C does, and say what is kept."""
    text = f"stopped; {kept} kept in {where}" if kept and where is not None else "stopped"
    print(text, file=sys.stderr)
    raise SystemExit(INTERRUPTED)
