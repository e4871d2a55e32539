"""A progress bar with iteration, objective and rate; silent where nobody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress

from pp_mlem.base.digits import written


class Progress:
    """Shows how far the starts of a fit are. `enabled=None` means: only in a terminal."""

    def __init__(self, title: str, total: int, enabled: bool | None) -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        self.total = total
        self.clock = time.perf_counter()
        self.bar: RichProgress | None = None
        if shown:
            self.bar = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description:<5}", markup=False),
                BarColumn(bar_width=24),
                TextColumn(
                    "{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}", markup=False
                ),
                TextColumn("{task.fields[detail]}", markup=False),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(title, total=total, unit="starts", detail="compiling")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, iterations: int, best: float, done: int) -> None:
        if self.bar:
            rate = iterations / max(time.perf_counter() - self.clock, 1e-9)
            detail = f"iteration {iterations}  objective {written(best)}  {rate:.0f} it/s"
            self.bar.update(self.task, completed=done, detail=detail)

    def advance(self, completed: float, unit: str, detail: str) -> None:
        if self.bar:
            self.bar.update(self.task, completed=completed, detail=detail, unit=unit)
