"""What the options of the command line say."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Given:
    """A model and its data, as the options name them; a column's name may hold commas and spaces. `data` is a file,
    folder or glob; `groups` and `sequences` the column whose values tell the units, as `open_source` has them;
    `in_chunks` whether a run has read it so, None where it is not that of a run."""

    model: str
    data: Path | None = None
    columns: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    observe: tuple[str, ...] = ()
    groups: str | None = None
    sequences: str | None = None
    in_chunks: bool | None = None

    @property
    def units(self) -> dict[str, str]:
        """What `open_source` is told of the units, where they are not the rows."""
        said = {"groups": self.groups, "sequences": self.sequences}
        return {option: column for option, column in said.items() if column}

    @classmethod
    def of(
        cls,
        model: str,
        data: Path | None,
        columns: Iterable[str] | None,
        settings: Iterable[str] | None,
        observe: Iterable[str] | None,
        *,
        groups: str | None = None,
        sequences: str | None = None,
    ) -> Given:
        """The options, each pair checked for its form."""
        given = cls(
            model,
            data,
            tuple(columns or ()),
            tuple(settings or ()),
            tuple(observe or ()),
            groups,
            sequences,
        )
        if groups and sequences:
            raise ValueError(
                "--groups, --sequences: received both; the units are one or the other."
            )
        named(given.columns, "--column")
        named(given.settings, "--set")
        named(given.observe, "--observe")
        of_data = {
            "--column": columns,
            "--observe": observe,
            "--groups": groups,
            "--sequences": sequences,
        }
        for option, said in of_data.items():
            if said and data is None:
                raise ValueError(f"{option} names columns of --data FILE, which is missing.")
        return given


@dataclass(frozen=True)
class Output:
    """Where a result goes besides the terminal, and how much is said there."""

    as_json: bool = False
    quiet: bool = False
    out: Path | None = None
    overwrite: bool = False

    @property
    def silent(self) -> bool:
        return self.as_json or self.quiet

    @property
    def progress(self) -> bool | None:
        """As the fits take it: by default a bar in a terminal."""
        return False if self.quiet else None

    def check_file(self) -> None:
        """Refuse a file that is there, before anything is computed."""
        if self.out is None:
            return
        if self.out.is_dir():
            raise ValueError(f"--out: {self.out} is a folder, expected the name of a file.")
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"--out: {self.out} exists. Choose another name, or add --overwrite.")


def named(pairs: Iterable[str] | None, option: str) -> dict[str, str]:
    """The parts of NAME=VALUE."""
    values = {}
    for pair in pairs or ():
        name, mark, value = pair.partition("=")
        if not mark or not name or not value:
            raise ValueError(f"{option}: received '{pair}', expected NAME=VALUE.")
        values[name] = value
    return values


def names_in(text: str, known: Iterable[str]) -> list[str]:
    """The columns that a text names: one whose own name it is, or several between commas; a name that
    holds a comma is quoted, as in A,"B, in cm"."""
    return [text] if text in set(known) else next(csv.reader([text], skipinitialspace=True))


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
        if int(high) < int(low):
            raise ValueError(
                f"--over: received '{text}', expected FIRST:LAST with FIRST up to LAST."
            )
        return list(range(int(low), int(high) + 1))
    return [value_of(v) for v in text.split(",")]


def read_json_values(path: Path, option: str) -> dict[str, Any]:
    """A JSON object of values by parameter."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise ValueError(f"{option}: {path} is not JSON ({error}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{option}: {path} holds no JSON object of values by parameter.")
    return found
