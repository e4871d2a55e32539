"""What a saved fit's record must hold, checked before a fit is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.fingerprint import PYTHON, changed
from pp_mlem.fit.datatree import damaged
from pp_mlem.model.model import Model

NUMBERS = ("log_likelihood", "log_prior", "slope", "n_observations", "seconds", "compile_seconds")
WHOLE = ("iterations", "n_parameters", "seed")
TEXTS = ("method", "objective", "status", "status_note")
ARRAYS = ("vector", "history", "covariance", "covariance_free")
WORDS = {
    "program": "another program (its code, constants or closure differ)",
    "arguments": "other arguments of the program",
    "data": "other data",
    "observe": "other labels in observe=",
    "roles": "other roles (latents=, parameters=)",
    "dtype": "another dtype",
}


def check_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Refuse a record whose fields are missing or of another kind than `Fit.save` writes."""
    for name in (*NUMBERS, *WHOLE, *TEXTS, *ARRAYS, "names", "groups", "starts", "scalar_names",
                 "reasons", "diagnostics"):  # fmt: skip
        if name not in record:
            raise damaged(path, f"'{name}' is missing")

    def expect(name: str, kinds: Any, value: Any, expected: str) -> None:
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise damaged(path, f"'{name}' is {type(value).__name__}, expected {expected}")

    for name in NUMBERS:
        expect(name, (int, float), record[name], "a number")
    for name in WHOLE:
        expect(name, int, record[name], "a whole number")
    for name in TEXTS:
        expect(name, str, record[name], "text")
    for name in ("diagnostics", "reasons", "starts"):
        expect(name, dict, record[name], "a mapping")
    expect("groups", list, record["groups"], "a list")
    for name in ("names", "scalar_names"):
        expect(name, list, record[name], "a list of names")
        if not all(isinstance(n, str) for n in record[name]):
            raise damaged(path, f"'{name}' holds something other than names")
    for name, value in record.items():
        if name in ARRAYS or name.startswith(("param.", "fixed.", "draw_vectors", "start_scalars")):
            expect(name, np.ndarray, value, "an array")
            if value.dtype.kind not in "fiub":
                raise damaged(path, f"'{name}' holds {value.dtype}, expected numbers")
    _check_sizes(path, record)


def _check_sizes(path: str | Path, record: Mapping[str, Any]) -> None:
    missing = [n for n in record["names"] if f"param.{n}" not in record]
    if missing:
        raise damaged(path, f"parameters {missing} are missing")
    size = len(record["scalar_names"])
    free = [record[f"param.{n}"] for n in record["names"] if f"fixed.{n}" not in record]
    if sum(a.size for a in free) != size:
        raise damaged(path, f"{sum(a.size for a in free)} free values for {size} scalars")
    for name in ("covariance", "start_scalars"):
        array = record.get(name)
        if array is not None and array.size and (array.ndim != 2 or array.shape[1] != size):
            raise damaged(path, f"'{name}' has shape {array.shape} for {size} scalars")
    if record["vector"].ndim != 1:
        raise damaged(path, f"'vector' has shape {record['vector'].shape}")
    if "draw_vectors" not in record and not {"objective", "status", "optimum"} <= set(
        record["starts"]
    ):
        raise damaged(path, "'starts' lacks a column")
    columns = list(record["starts"].values())
    if not all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
        raise damaged(path, "the columns of 'starts' differ in length")


def check_model_of(path: str | Path, record: Mapping[str, Any], model: Any) -> None:
    """Refuse a model that is not the one that was fitted.

    Raises:
        TypeError, ValueError: with what differs.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"load: model: received {type(model).__name__}, expected the Model that was fitted."
        )
    shapes = {s.name: tuple(s.shape) for s in model.space.sites}
    held = {n: tuple(record[f"param.{n}"].shape) for n in record["names"]}
    fingerprint = record.get("fingerprint")
    parts: list[str] = []
    if isinstance(fingerprint, dict):
        parts = changed(fingerprint, model.fingerprint)
        if fingerprint.get("python") != PYTHON:  # bytecode differs: the values decide below
            parts = [p for p in parts if p not in ("python", "program", "arguments")]
    differences = [WORDS.get(p, p) for p in parts]
    if shapes != held and not differences:
        differences = [f"parameters {held}, where the model has {shapes}"]
    certain = isinstance(fingerprint, dict) and fingerprint.get("python") == PYTHON
    if not differences and not certain:
        here, stored = _log_likelihood(model, record), float(record["log_likelihood"])
        if not np.isclose(here, stored, rtol=1e-6, atol=1e-6, equal_nan=True):
            differences = [
                f"log-likelihood {stored:.6f} at its estimates, where the model has {here:.6f}"
            ]
    if differences:
        raise ValueError(
            f"load: {path} is a fit of {'; '.join(differences)}. Pass the model that was fitted, "
            "or load the fit without model=."
        )


def _log_likelihood(model: Model, record: Mapping[str, Any]) -> float:
    return model.log_likelihood({n: record[f"param.{n}"] for n in record["names"]})
