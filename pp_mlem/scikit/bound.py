"""Programs bound to data, kept by structure: another fit, fold or prediction of the same shapes compiles
nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pp_mlem.base.fingerprint import digest
from pp_mlem.model.model import Model

MOST = 32  # structures
MOST_BYTES = 2**28  # of their data; the newest is kept whatever its size


class _Kept:
    """The models that were read last, by structure."""

    def __init__(self) -> None:
        self.models: OrderedDict[str, Model] = OrderedDict()
        self.lock = threading.Lock()

    def find(self, *keys: str) -> Model | None:
        with self.lock:
            found = next((k for k in keys if k in self.models), None)
            if found is None:
                return None
            self.models.move_to_end(found)
            return self.models[found]

    def keep(self, model: Model, *keys: str) -> None:
        with self.lock:
            for key in keys:
                self.models.pop(key, None)
                self.models[key] = model
            while len(self.models) > len(keys) and self._is_full():
                self.models.popitem(last=False)

    def _is_full(self) -> bool:
        each = {id(m): sum(a.nbytes for a in m.arguments.dynamic) for m in self.models.values()}
        return len(each) > MOST or sum(each.values()) > MOST_BYTES


_KEPT = _Kept()


def _keys(
    program: Callable[..., Any], data: Mapping[str, np.ndarray], rest: Mapping[str, Any]
) -> tuple[str, str]:
    """Of the structure with this pattern of missing values, and with any: matrices are laid out by it."""
    shapes = {name: (a.shape, a.dtype.kind) for name, a in data.items()}
    structure = digest([program, shapes, dict(rest)])
    gaps = [np.packbits(np.isnan(a)).tobytes() for a in data.values() if a.dtype.kind == "f"]
    return digest([structure, gaps]), structure


def is_bound(
    program: Callable[..., Any], data: Mapping[str, np.ndarray], rest: Mapping[str, Any]
) -> bool:
    """Whether a model of this structure is at hand."""
    return _KEPT.find(*_keys(program, data, rest)) is not None


def bind(
    program: Callable[..., Any], data: Mapping[str, np.ndarray], rest: Mapping[str, Any]
) -> Model:
    """The program with its arguments: `data` change from call to call, `rest` belongs to the structure.

    Raises:
        TypeError, ValueError: for a program or data that cannot be read.
    """
    keys = _keys(program, data, rest)
    found = _KEPT.find(*keys)
    arguments: dict[str, Any] = {**data, **rest}
    model = Model(program, **arguments) if found is None else found.with_data(**data)
    _KEPT.keep(model, *keys)
    return model


def padded_size(n: int) -> int:
    """A size not below n, at most a quarter above it beyond 64: so that predictions for many numbers of rows
    have few shapes."""
    step = 1 << max(4, n.bit_length() - 3)
    return -(-n // step) * step
