"""pandas objects as a program's arguments: its numeric columns are traced data, the rest stays.

A program under trace receives a `TracedFrame` or `TracedSeries`, which answers what can be answered
without the values (columns by name, their arrays, arithmetic, moments) and raises `NeedsValues` at
anything else; the program is then run on the user's own objects, concrete.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd


class NeedsValues(TypeError):
    """Raised under trace where a program asks a pandas object for more than its columns."""


def column_values(series: pd.Series) -> np.ndarray | None:
    """The numbers of a column, NA as NaN; None for text, dates, categories and other objects."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return None
    if not (pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype)):
        return None
    if isinstance(dtype, np.dtype):
        return series.to_numpy()
    if series.isna().any():
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    kind = "bool" if pd.api.types.is_bool_dtype(dtype) else dtype.numpy_dtype
    return series.to_numpy(dtype=kind)


class _Proxy:
    """What the stand-ins share: they pass for pandas objects, and say where they cannot."""

    def _refuse(self, what: str) -> NeedsValues:
        self._log.append(what)
        return NeedsValues(f"pandas' {what} needs the values of the data.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array_") or name in ("__jax_array__", "_log", "aval"):
            raise AttributeError(name)
        raise self._refuse(name)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise self._refuse("conversion to a NumPy array")

    def __bool__(self) -> bool:
        raise self._refuse("truth")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise self._refuse("assignment")


def _arithmetic(name: str, reverse: bool = False) -> Any:
    function = getattr(operator, name)

    def method(self: TracedSeries, other: Any) -> Any:
        if isinstance(other, TracedSeries):
            if other._log is not self._log:
                raise self._refuse("alignment of two indices")
            value, series = other._array, True
        elif type(other).__module__.startswith("pandas"):
            raise self._refuse("alignment of two indices")
        else:
            value, series = other, np.ndim(other) == 0
        result = function(value, self._array) if reverse else function(self._array, value)
        return self._like(result) if series else result

    return method


class TracedSeries(_Proxy):
    """A numeric column under trace. `log` is shared by what comes of one argument."""

    def __init__(self, array: Any, original: pd.Series, log: list[str]) -> None:
        self._array, self._original, self._log = array, original, log

    __class__ = property(lambda self: pd.Series)  # type: ignore[assignment]

    def _like(self, array: Any) -> TracedSeries:
        return TracedSeries(array, self._original, self._log)

    def __jax_array__(self) -> Any:
        return self._array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        mapped = getattr(jnp, ufunc.__name__, None)
        if method != "__call__" or kwargs or mapped is None or len(inputs) > 1:
            raise self._refuse(ufunc.__name__)
        return self._like(mapped(self._array))

    def __len__(self) -> int:
        return self._array.shape[0]

    def __iter__(self) -> Iterator[Any]:
        raise self._refuse("iteration")

    def __getitem__(self, key: Any) -> Any:
        raise self._refuse("indexing")

    def to_numpy(self, dtype: Any = None, copy: bool = False) -> Any:
        return self._array if dtype is None else self._array.astype(dtype)

    def astype(self, dtype: Any) -> Any:
        try:
            kind = np.dtype(dtype).kind
        except TypeError:
            kind = "O"
        if kind not in "biuf":
            raise self._refuse(f"astype({dtype!r})")
        return self._like(self._array.astype(dtype))

    def _moment(self, of: Any, **options: Any) -> Any:
        array = self._array
        return of(array if array.dtype.kind == "f" else array.astype(float), **options)

    def mean(self) -> Any:
        return self._moment(jnp.nanmean)

    def std(self, ddof: int = 1) -> Any:
        return self._moment(jnp.nanstd, ddof=ddof)

    def var(self, ddof: int = 1) -> Any:
        return self._moment(jnp.nanvar, ddof=ddof)

    def __neg__(self) -> TracedSeries:
        return self._like(-self._array)

    def abs(self) -> TracedSeries:
        return self._like(abs(self._array))

    def max(self) -> Any:
        return jnp.nanmax(self._array)

    def min(self) -> Any:
        return jnp.nanmin(self._array)

    values = property(lambda self: self._array)
    array = property(lambda self: self._array)
    shape = property(lambda self: tuple(self._array.shape))
    ndim = property(lambda self: 1)
    size = property(lambda self: int(self._array.shape[0]))
    dtype = property(lambda self: self._original.dtype)
    name = property(lambda self: self._original.name)
    index = property(lambda self: self._original.index[: len(self)])


for _name in ("add", "sub", "mul", "truediv", "pow", "mod", "floordiv"):
    setattr(TracedSeries, f"__{_name}__", _arithmetic(_name))
    setattr(TracedSeries, f"__r{_name}__", _arithmetic(_name, reverse=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(TracedSeries, f"__{_name}__", _arithmetic(_name))
TracedSeries.__hash__ = object.__hash__  # type: ignore[method-assign]


class TracedFrame(_Proxy):
    """A DataFrame under trace: numeric columns are traced, the others are the user's own."""

    def __init__(self, arrays: dict[Any, Any], original: pd.DataFrame, log: list[str]) -> None:
        self._arrays, self._log = arrays, log
        rows = next(iter(arrays.values())).shape[0] if arrays else len(original)
        self._original = original if rows == len(original) else original.iloc[:rows]

    __class__ = property(lambda self: pd.DataFrame)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._original)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._original.columns)

    def __contains__(self, key: Any) -> bool:
        return key in self._original.columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, list) and all(k in self._original.columns for k in key):
            chosen = {k: self._arrays[k] for k in key if k in self._arrays}
            return TracedFrame(chosen, self._original[key], self._log)
        if isinstance(key, (TracedSeries, slice)) or not np.isscalar(key):
            raise self._refuse("selection of rows")
        if key in self._arrays:
            return TracedSeries(self._arrays[key], self._original[key], self._log)
        return self._original[key].copy()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("_original", ()):
            return self[name]
        return super().__getattr__(name)

    def to_numpy(self, dtype: Any = None) -> Any:
        if len(self._arrays) < len(self._original.columns):
            raise self._refuse("to_numpy of mixed columns")
        stacked = jnp.stack([self._arrays[k] for k in self._original.columns], axis=1)
        return stacked if dtype is None else stacked.astype(dtype)

    def __jax_array__(self) -> Any:
        return self.to_numpy()

    def copy(self, deep: bool = True) -> TracedFrame:
        return self

    def keys(self) -> Any:
        return self._original.columns

    values = property(lambda self: self.to_numpy())
    shape = property(lambda self: self._original.shape)
    columns = property(lambda self: self._original.columns)
    index = property(lambda self: self._original.index)
    dtypes = property(lambda self: self._original.dtypes)
    empty = property(lambda self: False)
    ndim = property(lambda self: 2)


def traced_frame(original: pd.DataFrame, arrays: Sequence[Any], log: list[str]) -> TracedFrame:
    """The stand-in of a DataFrame whose numeric columns, in order, are `arrays`."""
    return TracedFrame(dict(zip(numeric_columns(original), arrays, strict=True)), original, log)


def numeric_columns(frame: pd.DataFrame) -> list[Any]:
    """The columns of numbers, in order; none where column names are not unique."""
    if not frame.columns.is_unique:
        return []
    return [k for k in frame.columns if column_values(frame[k].iloc[:0]) is not None]
