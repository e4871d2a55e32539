"""The folder of a selection: its finished fits and tests, and the record of what they belong to."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pp_mlem.base.files import read_json, write_json
from pp_mlem.base.fingerprint import PYTHON, digest
from pp_mlem.comparison.record import OF_NUTS, joined
from pp_mlem.fit.base import Fit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model
from pp_mlem.sources import Column

RECORD = "select.json"
FORMAT = 3  # 2 had no starts that are split from the solution of a smaller size
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=-+_")
LONGEST = 180  # characters of a file's name


@dataclass(frozen=True)
class Folder:
    """What a selection keeps on disk; without a path nothing."""

    path: Path | None

    def claim(self, record: dict[str, Any]) -> None:
        """Mark the folder as this selection's, or refuse another's with what differs."""
        if self.path is None:
            return
        path = self.path / RECORD
        held = read_json(path, "out") if path.exists() else {}
        remedy = "Choose another folder, or empty this one."
        write_json(path, joined(record, held, self.path, "selection", remedy), "out")

    def held(self, label: str, model: Model) -> Fit | None:
        """The finished fit of a label; a damaged one, or one that was cut, is fitted anew."""
        path = self.file(label)
        if path is None or not path.exists():
            return None
        try:
            load(path)
        except ValueError as error:
            warnings.warn(f"{error} It is fitted anew.", stacklevel=5)
            return None
        fit = load(path, model)
        return None if fit.interrupted else fit

    def keep(self, label: str, fit: Fit) -> None:
        path = self.file(label)
        if path is not None:
            fit.save(path)

    def tests(self, replicates: int, starts: int) -> dict[str, Any]:
        """The finished tests: pair -> (p-value or None, note)."""
        path = self._tests_file(replicates, starts)
        return read_json(path, "out") if path is not None and path.exists() else {}

    def keep_tests(self, replicates: int, starts: int, tests: Mapping[str, Any]) -> None:
        path = self._tests_file(replicates, starts)
        if path is not None:
            write_json(path, tests, "out")

    def _tests_file(self, replicates: int, starts: int) -> Path | None:
        return self.path and self.path / f"bootstrap-{replicates}-{starts}.json"

    def file(self, label: str) -> Path | None:
        """A file of its own for every label, whatever characters that has."""
        name = "".join(
            c if c in PLAIN else "." if c == " " else "".join(f"%{b:02X}" for b in c.encode())
            for c in label
        )
        if len(name) > LONGEST:
            name = f"{name[:160]}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"
        return self.path and self.path / f"{name}.nc"


def record_of(
    program: Callable[..., Any],
    args: tuple,
    keywords: Mapping[str, Any],
    options: Mapping[str, Any],
    settings: Mapping[str, int],
    with_nuts: bool,
) -> dict[str, Any]:
    """What a selection is of: its program, the arguments that do not vary, options of the model,
    settings of the fits."""
    try:
        names = list(inspect.signature(program).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {i}" for i in range(len(names), len(args))]
    record: dict[str, Any] = {"format": FORMAT, "program": digest(program), "python": PYTHON}
    for name, value in (*zip(names, args, strict=False), *keywords.items()):
        if isinstance(value, Column):
            value = value.source.fingerprint(), value.names, value.matrix
        is_data = hasattr(value, "shape") or isinstance(value, (list, tuple, dict))
        record[f"argument {name}, data" if is_data else f"argument {name}"] = digest(value)
    for name, value in options.items():
        record[name] = digest(sorted(value) if isinstance(value, tuple) else value)
    left_out = () if with_nuts else OF_NUTS
    return record | {k: v for k, v in settings.items() if k not in left_out}
