"""What a run folder holds besides its fits: the record by which a fit can be used again."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pp_mlem.base.files import read_json, write_text
from pp_mlem.base.fingerprint import PYTHON
from pp_mlem.base.near import did_you_mean
from pp_mlem.fit.base import Fit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model
from pp_mlem.show.catalogue import Shelf, find_model, model_names, shelf_folder
from pp_mlem.show.data_files import comes_in_chunks, is_one_table, opened, there_is
from pp_mlem.show.options import Given

RECORD = "run.json"
PROGRAM = "model.py"  # the copy of a model file
FORMAT = 1


def package_version() -> str:
    try:
        return version("pp-mlem")
    except PackageNotFoundError:
        return "unknown (not installed as a package)"


def digest_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()


def _identity_of(given: Given) -> dict[str, Any]:
    """What of a record says which data they were: a digest of one table, of data in chunks and several files what the
    disk tells of them."""
    found: dict[str, Any] = dict.fromkeys(("data_sha256", "data_files", "data_in_chunks"))
    if given.data is None:
        return found
    in_chunks = comes_in_chunks(given)
    if in_chunks or not is_one_table(given.data):
        return {
            **found,
            "data_files": opened(given.data).fingerprint(),
            "data_in_chunks": in_chunks,
        }
    return {**found, "data_sha256": digest_of(given.data), "data_in_chunks": in_chunks}


@dataclass
class Run:
    """A run folder: its record, and what has been written there."""

    folder: Path
    record: dict[str, Any]
    written: list[str] = field(default_factory=list)
    replaces: list[str] = field(default_factory=list)  # what a run before has left there

    @classmethod
    def begun(cls, folder: Path, shelf: Shelf, given: Given, options: Mapping[str, Any]) -> Run:
        """The record of a run that begins; nothing is written yet, nor is there a folder."""
        shipped = shelf.path.parent == shelf_folder()
        data = given.data
        record = {
            "format": FORMAT,
            "pp_mlem": package_version(),
            "command": sys.argv[1:],
            "model": shelf.name if shipped else str(shelf.path.resolve()),
            "model_sha256": digest_of(shelf.path),
            "data": None if data is None else str(data.expanduser().resolve()),
            **_identity_of(given),
            "column": list(given.columns),
            "set": list(given.settings),
            "observe": list(given.observe),
            "groups": given.groups,
            "sequences": given.sequences,
            **options,
            "methods": [],
        }
        return cls(folder, record)

    def check(self, overwrite: bool) -> None:
        """Refuse a folder that holds another run or anything else, before anything is computed."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out: {folder} is a file, expected a folder.")
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        held = folder / RECORD
        what = "holds a run" if held.exists() else "is not empty"
        if not overwrite:
            raise ValueError(f"--out: {folder} {what}. Choose another folder, or add --overwrite.")
        if held.exists():
            names = read_json(held, "--out").get("written", [])
            self.replaces = [n for n in names if Path(n).name == n]

    def save_fit(self, method: str, fit: Fit) -> None:
        while self.replaces:
            (self.folder / self.replaces.pop()).unlink(missing_ok=True)
        fit.save(self.folder / f"{method}.nc")
        self.record["methods"].append(method)
        self.wrote(self.folder / f"{method}.nc")
        self._copy_program()
        self.save()

    def _copy_program(self) -> None:
        path = Path(self.record["model"])
        if path.suffix == ".py" and PROGRAM not in self.written:
            shutil.copyfile(path, self.folder / PROGRAM)
            self.wrote(self.folder / PROGRAM)

    def wrote(self, *paths: Path) -> None:
        self.written += [p.name for p in paths]

    def save(self, **more: Any) -> None:
        """Write the record as it stands."""
        self.record |= more
        whole = {**self.record, "written": [*self.written, RECORD]}
        write_text(self.folder / RECORD, json.dumps(whole, indent=1, default=str), "run")

    @property
    def shelf(self) -> Shelf:
        """The model file: where it was if it is still the same, else the copy in the folder."""
        model = self.record["model"]
        path = Path(model)
        if path.suffix != ".py":
            return find_model(model)
        if path.is_file() and digest_of(path) == self.record["model_sha256"]:
            return find_model(model)
        copy = self.folder / PROGRAM
        if not copy.is_file():
            raise ValueError(
                f"{self.folder}: the model file {path} has changed or is gone, and there is no copy."
            )
        return find_model(str(copy))

    def given(self, data: Path | None, columns: Any, settings: Any, observe: Any) -> Given:
        """The options of the run, where these say nothing else."""
        record = self.record
        own = Path(record["data"]) if record["data"] else None
        if data is None and own is not None and not there_is(own):
            raise ValueError(f"{own}, the data of the run, is gone; pass --data FILE.")
        given = Given.of(
            record["model"],
            data if data is not None else own,
            columns or (record["column"] if own is not None or data is not None else None),
            [*record["set"], *(settings or ())],
            observe or (record["observe"] if data is None else None),
            groups=record.get("groups"),
            sequences=record.get("sequences"),
        )
        return replace(given, in_chunks=record.get("data_in_chunks") if data is None else None)

    def data_changed(self) -> bool:
        """Whether the file of the run holds other bytes now; of data in chunks, whether its files have other names,
        sizes or times of change."""
        own = self.record["data"]
        if own is None:
            return False
        if self.record.get("data_files") is not None:
            return opened(Path(own)).fingerprint() != self.record["data_files"]
        return digest_of(Path(own)) != self.record["data_sha256"]

    def fit(self, method: str | None) -> tuple[str, Fit]:
        """A fit of the folder, by default the first; without its model."""
        methods = self.record["methods"]
        if not methods:
            raise ValueError(f"{self.folder}: no fit was finished there.")
        chosen = (method or methods[0]).lower()
        if chosen not in methods:
            raise ValueError(
                f"--method: received '{method}', but {self.folder} holds fits by {', '.join(methods)}."
            )
        return chosen, load(self.folder / f"{chosen}.nc")


def find_run(path: Path, method: str | None) -> tuple[Run, str | None]:
    """The run of a folder or of a fit in it, and the method that is asked for.

    Raises:
        ValueError: where there is no run.
    """
    folder = path
    if path.suffix == ".nc":
        folder, method = path.parent, method or path.stem
    record = folder / RECORD
    if not record.is_file():
        near = did_you_mean(str(path), _runs_beside(path))
        raise ValueError(
            f"{path} is no run: there is no {record}.{near} A run is the folder that "
            "`pp-mlem compare MODEL --out FOLDER` makes, or a fit (.nc) in it."
        )
    held = read_json(record, "run")
    if held.get("format") != FORMAT:
        raise ValueError(
            f"{record} has format {held.get('format')!r}; this pp_mlem reads {FORMAT}."
        )
    return Run(folder, held, [n for n in held.get("written", []) if n != RECORD]), method


def is_run(source: str) -> bool:
    """Whether an argument names a run rather than a model."""
    path = Path(source)
    return (
        source not in model_names()
        and path.suffix != ".py"
        and (path.suffix == ".nc" or path.is_dir())
    )


def _runs_beside(path: Path) -> list[str]:
    parent = path.parent
    return [str(p.parent) for p in parent.glob(f"*/{RECORD}")] if parent.is_dir() else []


def check_program(fit: Fit, model: Model, where: Path) -> None:
    """Refuse to use a fit with another program than was fitted."""
    own, held = model.fingerprint, fit.fingerprint or {}
    if held.get("python") == PYTHON and held.get("program", own["program"]) != own["program"]:
        raise ValueError(
            f"{where}: the fit is of another program: the model has changed since. Fit it again."
        )
