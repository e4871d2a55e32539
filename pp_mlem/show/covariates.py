"""The covariates of a program: columns of its arguments, a number for each row of an observed site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import column_labels

FEW = 12  # distinct values, up to which each is a condition of its own


@dataclass(frozen=True)
class Covariate:
    """A column of an argument: what its axis is called, and its values (rows,)."""

    label: str
    values: np.ndarray

    @property
    def is_factor(self) -> bool:
        """Whether its values are a few whole numbers: groups, rather than a scale."""
        own = self.values
        return bool(np.all(own == np.round(own)) and len(np.unique(own)) <= FEW)

    def bins(self, most: int = 10) -> list[np.ndarray]:
        """The rows of each of its values where they are few, or of bins of about as many rows each."""
        distinct = np.unique(self.values)
        if len(distinct) <= FEW:
            return [np.flatnonzero(self.values == v) for v in distinct]
        count = int(np.clip(len(self.values) // 8, 3, most))
        edges = np.unique(np.quantile(self.values, np.linspace(0, 1, count + 1)))
        place = np.clip(np.searchsorted(edges, self.values, "right") - 1, 0, len(edges) - 2)
        return [rows for b in range(len(edges) - 1) if len(rows := np.flatnonzero(place == b))]


def covariates_of(model: Model, rows: int, observed: Iterable[np.ndarray]) -> list[Covariate]:
    """The columns of arguments with as many rows, without those that are constant or observed."""
    seen = [np.asarray(v, float).reshape(rows, -1) for v in observed if np.shape(v)[:1] == (rows,)]
    taken = [column for table in seen for column in table.T]
    found: list[Covariate] = []
    arguments = model.arguments
    for array, name, label in zip(
        arguments.dynamic, arguments.names, arguments.labels, strict=True
    ):
        values = np.asarray(array)
        if values.shape[:1] != (rows,) or values.ndim > 2 or values.dtype.kind not in "fiub":
            continue
        table = values.astype(float).reshape(rows, -1)
        alone = arguments.names.count(name) == 1
        labels = column_labels(model, name, table.shape[1]) if alone else [_part(label)]
        for own, column in zip(labels, table.T, strict=True):
            known = np.isfinite(column).all() and np.ptp(column) > 0
            if known and not any(np.array_equal(column, other) for other in taken):
                found.append(Covariate(own, column))
    return found


def _part(label: str) -> str:
    """The column's name in `frame['column']`."""
    inside = label.rpartition("[")[2].rstrip("]").strip("'\"")
    return inside or label
