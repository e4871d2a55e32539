"""Fits on disk: a record that follows the fields of the fit, beside its ArviZ tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base import processes, verbs
from pp_mlem.base.lazy import pd, xr
from pp_mlem.base.status import Status
from pp_mlem.base.variables import variable_names
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.uncertainty import Covariance
from pp_mlem.fit.base import Fit, Params, Stored, params_of
from pp_mlem.fit.datatree import damaged, lean, read_fit, write_fit
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.fit.point import PointFit
from pp_mlem.fit.record import check_model_of, check_record
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel

Record = dict[str, Any]

# What a file does not hold: the model, paths of iterations, what is computed when asked for.
LEFT_OUT = ("model", "stored", "_cache", "trace", "histories")


@dataclass(frozen=True)
class _Form:
    """How a field stands in a record (and in the tree) under other names or kinds than its own."""

    write: Callable[[Any], Record]
    read: Callable[[Record, xr.DataTree], Any]


def _free(record: Record) -> list[str]:
    return [n for n in record["names"] if f"fixed.{n}" not in record]


def _saved_draws(record: Record, tree: xr.DataTree) -> Params:
    """Draws by site, (chain, draw, ...) as the draws of the vector."""
    free = _free(record)
    names, draws = variable_names(free), {}
    for site in free:
        array = np.asarray(tree["posterior"][names[site]].values)
        expected = (*record["draw_vectors"].shape[:2], *record[f"param.{site}"].shape)
        if array.shape != expected:
            raise ValueError(f"draws of '{site}' have shape {array.shape}, expected {expected}")
        draws[site] = array
    return draws


def _saved_stats(record: Record, tree: xr.DataTree) -> Params | None:
    if "sample_stats" not in tree.children:
        return None
    return {str(n): np.asarray(v.values) for n, v in tree["sample_stats"].data_vars.items()}


def _write_starts(fit: PointFit) -> Record:
    free = [n for n in fit.params if n not in fit.fixed]
    if not fit.start_params or not free:
        return {}
    rows = [np.concatenate([np.ravel(p[n]) for n in free]) for p in fit.start_params]
    return {"start_scalars": np.stack(rows)}


def _read_params(record: Record, tree: xr.DataTree) -> Params:
    return {n: record[f"param.{n}"] for n in record["names"]}


def _read_fixed(record: Record, tree: xr.DataTree) -> Params:
    return {k[6:]: v for k, v in record.items() if k.startswith("fixed.")}


def _read_starts(record: Record, tree: xr.DataTree) -> tuple[Params, ...]:
    params, fixed = _read_params(record, tree), _read_fixed(record, tree)
    return tuple(params_of(row, params, fixed) for row in record.get("start_scalars", ()))


def _read_table(record: Record, tree: xr.DataTree) -> pd.DataFrame:
    starts = pd.DataFrame(record["starts"])
    return starts.set_index("start") if "start" in starts else starts


_FORMS = {
    "params": _Form(
        lambda fit: {f"param.{k}": np.asarray(v) for k, v in fit.params.items()},
        _read_params,
    ),
    "fixed": _Form(
        lambda fit: {f"fixed.{k}": np.asarray(v) for k, v in fit.fixed.items()},
        _read_fixed,
    ),
    "prior": _Form(lambda fit: {"log_prior": fit.log_prior}, lambda record, _: record["log_prior"]),
    "status": _Form(
        lambda fit: {"status": fit.status},
        lambda record, _: Status.of_label(record["status"]).label,  # refuses others
    ),
    "groups": _Form(
        lambda fit: {"groups": [dataclasses.asdict(g) for g in fit.groups]},
        lambda record, _: tuple(Group.of_record(g) for g in record["groups"]),
    ),
    "scalar_names": _Form(
        lambda fit: {"scalar_names": list(fit.scalar_names)},
        lambda record, _: tuple(record["scalar_names"]),
    ),
    "starts": _Form(lambda fit: {"starts": fit.starts.reset_index().to_dict("list")}, _read_table),
    "start_params": _Form(_write_starts, _read_starts),
    "draws": _Form(lambda fit: {}, _saved_draws),  # they stand in the tree
    "sample_stats": _Form(lambda fit: {}, _saved_stats),
}


def _plain(value: Any) -> Any:
    """Numbers and containers that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value


def _record_of(fit: Fit) -> Record:
    covariance = fit.covariance_details("observed")
    record: Record = {}
    for f in dataclasses.fields(fit):
        if f.name in _FORMS:
            record |= _FORMS[f.name].write(fit)
        elif f.name not in LEFT_OUT:
            record[f.name] = getattr(fit, f.name)
    record |= {
        "names": list(fit.params),
        "covariance": np.zeros((0, 0)) if covariance.too_large else covariance.matrix,
        "covariance_free": np.zeros((0, 0)) if covariance.too_large else covariance.free,
        "reasons": {} if covariance.too_large else covariance.reasons,
        "classification": fit.classification,
        "fingerprint": fit.fingerprint,
        "bounds": np.stack(fit.bounds),
    }
    if covariance.flat is not None and covariance.flat.size:
        record["covariance_flat"] = covariance.flat
    return {k: v if isinstance(v, np.ndarray) else _plain(v) for k, v in record.items()}


@verbs.save.register
def save(fit: Fit, path: str | Path, log_likelihood: bool = False) -> Path:
    """See `Fit.save`."""
    record = _record_of(fit)
    tree = lean(fit.to_datatree(log_likelihood), log_likelihood)
    shared = isinstance(fit.model, StreamedModel) and processes.count() > 1
    if shared and processes.rank() > 0:  # which has computed its share of what is written
        return Path(path)
    return write_fit(path, tree, record)


def load(path: str | Path, model: Model | None = None) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Args:
        path: the netCDF file.
        model: the model, for what a file cannot hold (posterior, decode, predict).

    Raises:
        FileNotFoundError, ValueError: naming the file when it is absent, damaged, of a newer format
            or not a fit, or when the model is not the one that was fitted.
    """
    tree, record = read_fit(path)
    check_record(path, record)
    try:
        fit = _of_record(tree, record, model)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise damaged(path, error) from None
    if model is not None:
        check_model_of(path, record, model)
    return fit


def _of_record(tree: xr.DataTree, record: Record, model: Model | None) -> Fit:
    kind: type[Fit] = DrawsFit if "draw_vectors" in record else PointFit
    fields: Record = {}
    for f in dataclasses.fields(kind):
        if not f.init or f.name in LEFT_OUT:
            continue
        if f.name in _FORMS:
            fields[f.name] = _FORMS[f.name].read(record, tree)
        elif f.name in record:  # an older file may lack what has a default
            fields[f.name] = record[f.name]
    names = fields["scalar_names"]
    covariance = Covariance(
        names, record["covariance"], record["covariance_free"],
        record["reasons"], "observed", record.get("covariance_flat"),
    )  # fmt: skip
    if covariance.too_large and not record["covariance"].size:
        covariance = Covariance.of_too_many(names, np.shape(record["vector"])[-1], "observed")
    stored = Stored(
        tree,
        record.get("fingerprint"),
        covariance,
        record.get("classification"),
        record.get("bounds"),
    )
    return kind(model=model, stored=stored, **fields)
