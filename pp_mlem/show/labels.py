"""What the data tell of the latents as tables: labels with their probability, real latents with mean and sd."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.fit.base import Fit
from pp_mlem.model.latents import Moments
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.model.writing import by_row, write_rows
from pp_mlem.program.sites import Site

MOST_VALUES = 50  # of a latent, whose probabilities have a column each
DECIMALS = 6  # of a probability


def labels_of(
    model: Model, posterior: Mapping[str, Any], probabilities: bool = False
) -> dict[tuple[str, ...], pd.DataFrame]:
    """Finite latents by their plates, those with the most units first: a row per unit, for each latent
    the most probable value and its probability, and with `probabilities` those of all values.

    A state of a scan has a row per step, by its smoothed probabilities; after the end of a masked
    sequence it has no label.
    """
    found: dict[tuple[str, ...], pd.DataFrame] = {}
    for site in model.reading.latents:
        columns = _columns(
            site.name, posterior[site.name], model.reading.values[site.name], probabilities
        )
        plates, index = _units(model, site, np.shape(posterior[site.name])[:-1])
        own = pd.DataFrame(columns, index=index)
        found[plates] = found[plates].join(own) if plates in found else own
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _columns(
    name: str, table: np.ndarray, values: np.ndarray, probabilities: bool
) -> dict[str, Any]:
    rows = np.reshape(table, (-1, np.shape(table)[-1]))
    known = np.logical_not(np.any(np.isnan(rows), axis=1))
    best = np.where(known[:, None], rows, 0.0).argmax(1)
    label = pd.Series(values[best])
    whole = np.all(values == np.rint(values))
    label = (label.astype("Int64") if whole else label.astype(float)).where(known)
    columns: dict[str, Any] = {
        name: label.array,
        f"{name} probability": np.round(
            np.where(known, rows[np.arange(len(rows)), best], np.nan), DECIMALS
        ),
    }
    if probabilities and len(values) <= MOST_VALUES:
        for place, value in enumerate(values):
            columns[f"{name}={value:g}"] = np.round(rows[:, place], DECIMALS)
    return columns


def _units(model: Model, site: Site, shape: tuple[int, ...]) -> tuple[tuple[str, ...], pd.Index]:
    """The plates that a latent's units span, and an index of the units."""
    reading, names = model.reading, [""] * len(shape)
    scan = reading.scans.get(site.scan) if site.scan else None
    for plate, dim in site.dims.items():
        if scan is not None and plate == scan.time:
            names[0] = "step"
        elif shape[dim] > 1 or reading.plates[plate].size == 1:
            names[dim] = "unit" if reading.plates[plate].implicit else plate
    kept = [(n, size) for n, size in zip(names, shape, strict=True) if n]
    if not kept:
        return (), pd.RangeIndex(int(np.prod(shape)), name="unit")
    if len(kept) == 1:
        return (kept[0][0],), pd.RangeIndex(kept[0][1], name=kept[0][0])
    plates = tuple(n for n, _ in kept)
    index = pd.MultiIndex.from_product([range(size) for _, size in kept], names=plates)
    return plates, index


def latents_of(model: Model, posterior: Mapping[str, Any]) -> pd.DataFrame:
    """Real latents, a row for each of their numbers: latent, unit (its place along the plates), entry
    (of a vector), posterior mean and sd."""
    parts = []
    for site in model.reading.reals:
        moments: Moments = posterior[site.name]
        event = len(site.event_shape)
        units = moments.mean.shape[: moments.mean.ndim - event]
        places = [_places(units), _places(moments.mean.shape[moments.mean.ndim - event :])]
        rows = list(itertools.product(*places))
        parts.append(
            pd.DataFrame(
                {
                    "latent": site.name,
                    "unit": [u for u, _ in rows],
                    "entry": [e for _, e in rows],
                    "mean": moments.mean.ravel(),
                    "sd": moments.sd.ravel(),
                }
            )
        )
    columns = ["latent", "unit", "entry", "mean", "sd"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _places(shape: tuple[int, ...]) -> list[str]:
    """The indices of an array of this shape as text, of several dimensions with commas."""
    return [",".join(map(str, index)) for index in np.ndindex(*shape)]


def write_labels(
    path: Path, fit: Fit, model: Model, latent: str | None = None, probabilities: bool = False
) -> Path:
    """The labels of every row in a Parquet file, written chunk by chunk: of each finite latent (or the one that is
    named) the most probable value and its probability, and with `probabilities` those of all values; of a real one
    its mean and sd. Where a step has no label, as after the end of a masked sequence, it is -1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = model.chunk_models() if isinstance(model, StreamedModel) else iter([(model, None)])

    def told(own: Model) -> dict[str, Any]:
        posterior, found = posterior_on(fit, own), dict[str, Any]()
        for name in (n for n in own.latent_names if latent in (None, n)):
            real = isinstance(posterior[name], Moments)
            found |= (
                {name: posterior[name]}
                if real
                else _by_unit(own, name, posterior[name], probabilities)
            )
        return found

    return write_rows(path, chunks, told)


def _by_unit(model: Model, name: str, table: np.ndarray, probabilities: bool) -> dict[str, Any]:
    values = model.reading.values[name]
    known = np.isfinite(table).all(-1)
    best = np.where(known[..., None], table, 0.0).argmax(-1)
    whole = bool(np.all(values == np.rint(values)))
    labels = values.astype(np.int64) if whole else values.astype(float)
    found = {name: np.where(known, labels[best], -1 if whole else np.nan)}
    by_value = by_row(model, name, table)
    found[f"{name} probability"] = by_value.max(-1)
    if probabilities and len(values) <= MOST_VALUES:
        found |= {f"{name}={value:g}": by_value[..., k] for k, value in enumerate(values)}
    return found


def posterior_on(fit: Fit, model: Model) -> dict[str, Any]:
    """The posterior of the latents by a fit on the data of another model of the same program; of draws
    averaged over them.

    Raises:
        ValueError: where the parameters have other shapes on those data.
    """
    shapes = {s.name: tuple(s.shape) for s in model.space.sites}
    for name, value in fit.params.items():
        if shapes.get(name) != np.shape(value):
            raise ValueError(
                f"parameter '{name}' has shape {np.shape(value)} in the fit and "
                f"{shapes.get(name, 'no place')} on these data; its size must not depend on the data. "
                "Give the sizes of the run with --set."
            )
    return replace(fit, model=model, stored=None, _cache={}).posterior()
