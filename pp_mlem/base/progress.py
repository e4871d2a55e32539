"""A progress bar with iteration, objective and rate; silent where nobody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from pp_mlem.base import processes
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import rich_console, rich_progress


class Progress:
    """Shows how far a fit is, in `unit`s of which there are `total`. `enabled=None` means: only in a
    terminal. Of several processes the first alone shows it."""

    def __init__(self, title: str, total: int, enabled: bool | None, unit: str = "") -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        self.total = total
        self.clock = time.perf_counter()
        self.bar: rich_progress.Progress | None = None
        if shown and processes.rank() == 0:
            text = rich_progress.TextColumn
            self.bar = rich_progress.Progress(
                rich_progress.SpinnerColumn(),
                text("{task.description:<5}", markup=False),
                rich_progress.BarColumn(bar_width=24),
                text("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}", markup=False),
                text("{task.fields[detail]}", markup=False),
                console=rich_console.Console(stderr=True),
            )
            self.task = self.bar.add_task(title, total=total, unit=unit, detail="compiling")

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
