"""What commands say and write: text and tables in the terminal, JSON on its standard output, CSV files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pp_mlem.base.files import write_whole
from pp_mlem.base.lazy import pd
from pp_mlem.show.data_files import PARQUET
from pp_mlem.show.options import Output
from pp_mlem.show.tables import Wide, show_table

UNLIMITED = 400  # characters of a line where nobody's terminal is that narrow: in a file, or a pipe


def new_console() -> Console:
    """Of standard output; a pipe has the width of COLUMNS, or as much as a table needs."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return Console()
    return Console(width=UNLIMITED)


class Results:
    """What a command tells, by its options: nothing but JSON with --json, nothing with --quiet."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.console = new_console()

    def say(self, text: str = "") -> None:
        if not self.output.silent:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, *tables: Wide) -> None:
        if not self.output.silent:
            for table in tables:
                show_table(self.console, table)

    def note(self, text: str) -> None:
        """A word to whoever runs it, beside the result."""
        if not self.output.quiet:
            print(text, file=sys.stderr)

    def as_json(self, value: Any) -> None:
        if self.output.as_json:
            print(json.dumps(plain(value), indent=1, allow_nan=False))

    def table(self, frame: pd.DataFrame, index: bool = True) -> None:
        """A table that is the whole result: CSV on standard output, or CSV or Parquet in the file of --out."""
        path = self.output.out
        if path is not None:
            if path.suffix.lower() in PARQUET:
                shown = frame.reset_index() if index else frame
                write_whole(path, lambda part: shown.to_parquet(part, index=False), "--out")
            else:
                write_plain(path, frame, index)
            self.note(f"Written to {path}: {len(frame)} rows")
        elif self.output.as_json:
            shown = frame.reset_index() if index else frame
            self.as_json(shown.to_dict("records"))
        else:
            frame.to_csv(sys.stdout, index=index)


def write_plain(path: Path, frame: pd.DataFrame, index: bool = True) -> Path:
    """A CSV file of numbers and of names of the program."""
    return write_whole(path, lambda part: frame.to_csv(part, index=index), "--out")


def plain(value: Any) -> Any:
    """What JSON can hold; what is no finite number is null."""
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else _label(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return None if value is pd.NA else value


def _label(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def records(frame: pd.DataFrame, name: str = "scalar") -> list[dict[str, Any]]:
    """A table as JSON has it: a record for each row, the index under `name`."""
    shown = frame.copy()
    shown.columns = [_label(c) for c in shown.columns]
    if not isinstance(shown.index, pd.MultiIndex):
        shown.index.name = shown.index.name or name
    return plain(shown.reset_index().to_dict("records"))
