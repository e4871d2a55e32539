"""The numbers that an argument or an observed value holds, as a NumPy array."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.program.errors import SiteTypeError
from pp_mlem.program.frames import column_values


def numbers_of(value: Any) -> np.ndarray | None:
    """The array of a list or tuple of numbers (None in it is NaN); None for any other."""
    first = value
    while type(first) in (list, tuple) and first:
        first = first[0]
    if first is not None and not isinstance(first, (numbers.Number, np.generic)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None  # ragged
    return numeric(array) if array.size else None


def numeric(array: np.ndarray) -> np.ndarray | None:
    """The array if it holds numbers, also where its type says "object"."""
    if array.dtype.kind in "biufc":
        return array
    if array.dtype == object and array.size:
        cells = array.ravel().tolist()
        missing = [c is None or c is pd.NA for c in cells]
        number = (numbers.Real, np.generic, np.bool_)
        if not all(missing) and all(
            m or isinstance(c, number) for c, m in zip(cells, missing, strict=True)
        ):
            floats = [np.nan if m else float(c) for c, m in zip(cells, missing, strict=True)]
            return np.asarray(floats).reshape(array.shape)
    return None


def array_of(value: Any) -> np.ndarray | None:
    """The array that an array-like holds; None where there are no numbers in it."""
    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind not in "biuf":
            return None
        hidden = np.ma.getmaskarray(value)
        plain = np.ma.getdata(value)
        return np.where(hidden, np.nan, plain.astype(float)) if hidden.any() else plain
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return None
        return numeric(np.asarray(value))
    if isinstance(value, np.ndarray):
        return numeric(value)
    if hasattr(value, "to_numpy"):
        if isinstance(value, (pd.api.extensions.ExtensionArray, pd.Index)):
            return column_values(pd.Series(value))
        try:
            return numeric(np.asarray(value.to_numpy()))
        except (TypeError, ValueError):
            return None
    return None


def observed_array(site: str, value: Any) -> Any:
    """What stands in obs=, as an array: a list, a pandas object or its stand-in as well."""
    if isinstance(value, (jax.Array, np.ndarray)) and value.dtype.kind in "biuf":
        return value
    complex_numbers = getattr(getattr(value, "dtype", None), "kind", "") == "c"
    if hasattr(type(value), "__jax_array__") and not complex_numbers:
        return value.__jax_array__()
    array: Any = None
    if type(value) in (list, tuple):
        array = numbers_of(value)
        array = _array_of_traced(value) if array is None else array
    elif isinstance(value, pd.Series):
        array = column_values(value)
    elif np.isscalar(value):
        array = value
    elif not complex_numbers:
        array = array_of(value)
    if array is None or isinstance(array, (str, bytes)):
        kind = getattr(value, "dtype", None) or type(value).__name__
        ragged = " of lists of several lengths" if _is_ragged(value) else ""
        raise SiteTypeError(
            f"observed site '{site}': its data are {kind}{ragged}, expected numbers, or labels encoded as "
            "integers."
        )
    return array


def _array_of_traced(value: Any) -> jax.Array | None:
    """The array of lists of JAX's arrays; None where they hold anything else or fit no array."""
    leaves = jax.tree.leaves(value)
    if not all(isinstance(v, jax.Array) for v in leaves):
        return None
    alike = len({jnp.shape(v) for v in leaves}) == 1 and not _is_ragged(value)
    return jnp.asarray(value) if alike else None


def _is_ragged(value: Any) -> bool:
    """Whether nested lists differ in length."""
    if type(value) not in (list, tuple):
        return False
    inner = [len(v) if type(v) in (list, tuple) else -1 for v in value]
    return len(set(inner)) > 1 or any(_is_ragged(v) for v in value)
