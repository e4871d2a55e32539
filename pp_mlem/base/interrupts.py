"""Whether the user has pressed Ctrl-C, where Python may have lost it.

Python ignores an exception that is raised while it collects garbage or deletes an object, and JAX has code
that runs then: a Ctrl-C at such a moment stops nothing. Long work asks here between its parts.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Watch:
    """`pressed`: Ctrl-C came since the watch began."""

    pressed: bool = False

    def stop_if_pressed(self) -> None:
        """Raises KeyboardInterrupt where one came, lost or not."""
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def watching() -> Iterator[Watch]:
    """Notes Ctrl-C and hands it on to whoever handles it; in other threads than the main one, which get no
    signals, it notes nothing."""
    watch = Watch()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield watch
        return

    def note(number: int, frame: FrameType | None) -> None:
        watch.pressed = True
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield watch
    finally:
        signal.signal(signal.SIGINT, before)
