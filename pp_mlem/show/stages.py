"""What a command is doing and how long each part of it took, told in a terminal while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Stages:
    """The parts of a command in their order, with the seconds of each."""

    def __init__(self, quiet: bool) -> None:
        self.seconds: dict[str, float] = {}
        self.clock = time.perf_counter()
        self.shown = not quiet and sys.stderr.isatty()

    @contextmanager
    def stage(self, name: str, spinner: bool = True) -> Iterator[None]:
        """A part of the work; without a spinner where the work shows a bar of its own."""
        clock = time.perf_counter()
        bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True, disable=not (self.shown and spinner),
        )  # fmt: skip
        try:
            with bar:
                bar.add_task(name, total=None)
                yield
        finally:
            spent = time.perf_counter() - clock
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    @property
    def total(self) -> float:
        return time.perf_counter() - self.clock

    def __str__(self) -> str:
        parts = [f"{name} {told_seconds(s)}" for name, s in self.seconds.items() if s >= 0.05]
        return f"{told_seconds(self.total)} in all: {', '.join(parts)}"


def told_seconds(seconds: float) -> str:
    """A duration as people say it: 0.4 s, 12 s, 3 min, 2 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
