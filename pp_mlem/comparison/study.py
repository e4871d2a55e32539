"""A simulation study on disk: a netCDF file that is written as the study runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.files import verified, write_netcdf
from pp_mlem.base.fingerprint import digest
from pp_mlem.base.lazy import xr
from pp_mlem.comparison.record import joined
from pp_mlem.model.model import Model

STATUS = 24  # characters that are kept of it
FORMAT = 2  # 1 had no checksum and no fingerprint


def fingerprint(model: Model, truth: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """The record of a study."""
    at = {f"truth {k}": digest(np.asarray(v, float)) for k, v in truth.items()}
    return {"format": FORMAT, **model.fingerprint, **at, **settings}


class Study:
    """The results of a study, filled with what its file holds already.

    Attributes:
        results: Dataset with estimate, error, low, high (method, replicate, scalar), and
            log_likelihood, seconds, status (method, replicate); `seconds` is finite where a fit
            is done.
    """

    def __init__(
        self,
        path: Path | None,
        record: dict[str, Any],
        methods: Sequence[str],
        replicates: int,
        names: Sequence[str],
    ) -> None:
        self.path = path
        held, held_record = _held(path)
        record = joined(record, held_record, path, "study", "Choose another file.")
        if held is None:
            self.results = _empty(methods, replicates, names)
        else:
            every = list(dict.fromkeys([*map(str, held["method"].values), *methods]))
            self.results = _empty(every, max(replicates, held.sizes["replicate"]), names)
            for method in map(str, held["method"].values):
                for name in self.results.data_vars:
                    known = held[name].sel({"method": method}).values
                    self.results[name].loc[{"method": method}][: len(known)] = known
        self.results.attrs["fingerprint"] = json.dumps(record)

    def missing(self, methods: Sequence[str], replicate: int) -> list[str]:
        """The methods by which a data set has not been fitted yet."""
        seconds = self.results["seconds"]
        return [m for m in methods if not np.isfinite(seconds.sel({"method": m}).values[replicate])]

    def put(self, method: str, replicate: int, cells: Mapping[str, Any]) -> None:
        """Fill in one fit."""
        for name, value in cells.items():
            self.results[name].loc[{"method": method, "replicate": replicate}] = value

    def of(self, methods: Sequence[str], replicates: int) -> xr.Dataset:
        """The results that were asked for."""
        return self.results.sel({"method": list(methods)}).isel(replicate=slice(replicates))

    def save(self) -> None:
        if self.path is not None:
            write_netcdf(self.path, self.results, "out")


def _empty(methods: Sequence[str], replicates: int, names: Sequence[str]) -> xr.Dataset:
    """A table of results with nothing in it."""
    shape = (len(methods), replicates, len(names))
    cells = ("method", "replicate", "scalar")
    return xr.Dataset(
        {
            **{k: (cells, np.full(shape, np.nan)) for k in ("estimate", "error", "low", "high")},
            **{k: (cells[:2], np.full(shape[:2], np.nan)) for k in ("log_likelihood", "seconds")},
            "status": (cells[:2], np.full(shape[:2], "", dtype=f"<U{STATUS}")),
        },
        coords={"method": list(methods), "scalar": list(names)},
    )


def _held(path: Path | None) -> tuple[xr.Dataset | None, dict[str, Any]]:
    """What a file of an unfinished study holds, and the record of that study."""
    if path is None or not path.exists():
        return None, {}
    try:
        sealed = verified(path, "out")
        with xr.open_dataset(path, engine="netcdf4") as opened:
            held = opened.load()
        record = json.loads(held.attrs["fingerprint"]) if sealed else {"format": 1}
        if not isinstance(record, dict):
            raise ValueError("its fingerprint is no record")
    except Exception as error:
        raise ValueError(
            f"out: {path} cannot be read as a study ({type(error).__name__}: {error}). Remove it, "
            "or choose another file."
        ) from error
    if not sealed and "fingerprint" not in held.attrs:
        raise ValueError(f"out: {path} holds no study. Choose another file.")
    return held, record
