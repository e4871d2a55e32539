"""Checkpoints: how far a fit has come, in a small file, so that the same call goes on from it.

A fit runs in stages (the starts, the algorithm, its finishes), each of which is a function of the one before. The file
has the result of every finished stage and the state of the one that is under way, after its last pass over the data.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.files import write_whole
from pp_mlem.base.fingerprint import changed
from pp_mlem.estimate.algorithm import State
from pp_mlem.estimate.loop import Driver, Run

FORMAT = 1
SAID = {"program": "another program", "data": "other data", "dtype": "another dtype"}


class Checkpoint:
    """The stages of one fit, in a file; `record` says what fit it is. Where the fit is `shared` by several processes,
    the first of them reads and writes it, and tells the others.

    Raises:
        ValueError: where the file holds another fit, by what it differs in, or is damaged.
    """

    def __init__(
        self, path: str | Path | None, record: Mapping[str, Any], shared: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        self.shared = shared
        self.warned = False
        self.stages: dict[str, dict[str, Any]] = {}
        if self.path is not None:
            own = json.dumps({"format": FORMAT, **record}).encode()
            self.record = json.loads(self._of_first(own))
            content = self._of_first(_content(self.path) if self._is_writer else b"")
            self.stages = _read(self.path, content[1:], self.record) if content else {}

    @property
    def _is_writer(self) -> bool:
        return not self.shared or processes.rank() == 0

    def _of_first(self, content: bytes) -> bytes:
        return processes.bytes_of_first(content, "the checkpoint") if self.shared else content

    def once(self, stage: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that was made before, or is made now."""
        if stage not in self.stages:
            made = np.asarray(make())
            made = processes.of_first(made, f"the {stage}") if self.shared else made
            self.stages[stage] = {"done": True, "arrays": [made], "told": {}}
            self._write()
        found: np.ndarray = self.stages[stage]["arrays"][0]
        return found

    def run(self, stage: str, driver: Driver, state: State, whole: bool = False) -> Run:
        """`driver.run`, from where the stage stood."""
        if self.path is None:
            return driver.run(state, whole)
        held, before = self.stages.get(stage), None
        if held is not None:
            state = jax.tree.unflatten(jax.tree.structure(state), held["arrays"])
            before = held["told"]["history"]
            if held["done"]:
                return Run(state, before, [[] for _ in before])

        def keep(now: State, run: Run, done: bool = False) -> None:
            arrays = [np.asarray(a) for a in jax.tree.leaves(now)]
            self.stages[stage] = {"done": done, "arrays": arrays, "told": {"history": run.history}}
            self._write()

        ran = driver.run(state, whole, before, keep)
        if not ran.interrupted:
            keep(ran.state, ran, True)
        return ran

    def _write(self) -> None:
        """A file that cannot be written costs the checkpoint, not the fit; the next pass tries again."""
        if self.path is None or not self._is_writer:
            return
        try:
            write_whole(self.path, self._save, "checkpoint")
        except OSError as error:
            if not self.warned:
                told = (
                    f"{error.strerror or error} The fit goes on, and tries again after each pass."
                )
                warnings.warn(told, stacklevel=2)
            self.warned = True

    def _save(self, part: Path) -> None:
        told: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, own in self.stages.items():
            told[name] = {"done": own["done"], "count": len(own["arrays"]), **own["told"]}
            arrays |= {f"{name}/{i}": a for i, a in enumerate(own["arrays"])}
        arrays["told"] = np.array(json.dumps([self.record, told]))
        save: Any = np.savez
        with part.open("wb") as file:
            save(file, **arrays)


def _content(path: Path) -> bytes:
    """What a file holds, after a mark; nothing where there is none."""
    try:
        return b"+" + path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ValueError(f"checkpoint: {path} cannot be read ({error}).") from None


def _read(path: Path, content: bytes, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            held, told = json.loads(str(file["told"]))
            stages = {
                name: {
                    "done": own["done"],
                    "arrays": [file[f"{name}/{i}"] for i in range(own["count"])],
                    "told": {k: v for k, v in own.items() if k not in ("done", "count")},
                }
                for name, own in told.items()
            }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"checkpoint: {path} is damaged ({type(error).__name__}: {error}). Remove it, and the fit begins anew."
        ) from None
    differs = changed(held, record)
    if differs:
        told_as = ", ".join(SAID.get(name, name) for name in differs)
        raise ValueError(
            f"checkpoint: {path} belongs to another fit (it differs in {told_as}). Choose another file, or remove it."
        )
    return stages
