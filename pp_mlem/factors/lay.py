"""How a factor lays out what it keeps of the data: rows last."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.factors.base import Factor
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.patterns import group_by_pattern
from pp_mlem.families import Family
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message

SHAPES = 256  # layouts whose compiled functions are kept
Layout = tuple[tuple[str, int, bool], ...]


def to_layout(factor: Factor, value: Any, event_dim: int) -> Any:
    """(*plates, *columns, *event) to (*event, *columns, rows)."""
    return _arranged(factor.layout, value, event_dim)


def _arranged(layout: Layout, value: Any, event_dim: int) -> Any:
    batch = tuple(size for _, size, _ in layout)
    shape = batch + (value.shape[value.ndim - event_dim :] if event_dim else ())
    xp = jnp if isinstance(value, jax.Array) else np
    value = xp.broadcast_to(value, shape)
    n = len(batch)
    columns = [i for i, (_, _, column) in enumerate(layout) if column]
    rows = [i for i, (_, _, column) in enumerate(layout) if not column]
    moved = xp.transpose(value, [*range(n, n + event_dim), *columns, *rows])
    return moved.reshape(moved.shape[: event_dim + len(columns)] + (-1,))


def _positional_shift(layout: Layout, shift: jax.Array, event_dim: int) -> jax.Array:
    """(*event, *columns, 1) to the layout of the arguments (*plates, *columns, *event)."""
    moved = jnp.moveaxis(shift[..., 0], tuple(range(event_dim)), tuple(range(-event_dim, 0)))
    batch = tuple(size if column else 1 for _, size, column in layout)
    return moved.reshape(batch + shift.shape[:event_dim])


def over_plates(mask: jax.Array, ndim: int) -> jax.Array:
    """NumPyro broadcasts a mask over enumerated latents; take those axes off again."""
    return mask[(0,) * (mask.ndim - ndim)] if mask.ndim > ndim else mask


def observed_parts(m: Message, factor: Factor) -> dict[str, Any]:
    """The value of an observed site, and its family's data arguments."""
    bare = unwrap(m.fn)
    found = {"value": m.placed(m.value, bare.columns + len(bare.fn.event_shape))}
    if factor.family is not None:
        args = bare.fn.get_args()
        found["known"] = {
            k: m.placed(over_plates(jnp.asarray(args[k]), len(factor.layout)), bare.columns)
            for k in factor.family.known
        }
    return found


def base_measure(family: Family, x: Any, mask: Any, known: Any) -> Any:
    """log h of every row, summed over columns; None where the family has none."""
    if type(family).base is Family.base:
        return None
    base = family.base(x, known)
    base = base if mask is None else jnp.where(mask, base, 0.0)
    return base.sum(tuple(range(base.ndim - 1)))


def lay(
    factor: Factor, value: Any, keep: np.ndarray | None, known: Mapping[str, Any], support: Any
) -> Laid | None:
    """What a factor keeps of an observed site; None where it keeps nothing.

    Args:
        value: (*plates, *columns, *event), on the host or a device; NaN where it is missing.
        keep: (*plates, *columns) where it is neither missing nor masked; None: everywhere.
        known: data arguments of the family, in the layout of the batch.
        support: of the distribution; a missing value is replaced by one inside of it.
    """
    family = factor.family
    if family is None:
        return None
    event_dim = family.event_dim
    mask = None if keep is None else jnp.asarray(to_layout(factor, keep, 0))
    host = np.asarray(value)
    missing = np.isnan(host) if host.dtype.kind == "f" else np.zeros((), bool)
    partly = is_partly(missing, event_dim)
    if missing.any():
        safe = np.asarray(support.feasible_like(jnp.zeros(host.shape)))
        host = np.where(missing, safe, host)
        arranged = jnp.asarray(to_layout(factor, host, event_dim))
    else:  # straight from the device's copy: the host makes none
        del host
        arranged = _arranging(factor.layout, event_dim)(value)
    cells = arranged.shape[event_dim:]
    placed = {
        k: jnp.asarray(np.broadcast_to(to_layout(factor, np.asarray(v), 0), cells))
        for k, v in known.items()
    }

    seen = np.asarray(to_layout(factor, ~missing, event_dim)) if partly else True

    derive = _deriving(family, factor.layout)
    laid = Laid(arranged, mask, placed, *derive(arranged, mask, placed, seen))
    return _with_patterns(laid, seen) if partly else laid


@functools.lru_cache(SHAPES)
def _arranging(layout: Layout, event_dim: int) -> Callable:
    """`to_layout`, compiled once for a layout."""
    return quick_jit(lambda value: _arranged(layout, value, event_dim))


@functools.lru_cache(SHAPES)
def _deriving(family: Family, layout: Layout) -> Callable:
    """(value, mask, known, where entries are seen) -> the shift of the arguments and of the rows, and the base
    measure; compiled once for a layout."""

    def derive(x: Any, mask: Any, known: Any, seen: Any) -> Any:
        shown = seen if mask is None else seen & mask[(None,) * family.event_dim]
        shift = family.shift(x, jnp.broadcast_to(shown, x.shape))
        base = base_measure(family, x, mask, known)
        positional = None if shift is None else _positional_shift(layout, shift, family.event_dim)
        return positional, shift, base

    return quick_jit(derive)


def is_partly(missing: np.ndarray, event_dim: int) -> bool:
    """Whether vectors are missing in part."""
    if not event_dim or not missing.any():
        return False
    rows = missing.reshape(*missing.shape[: missing.ndim - event_dim], -1)
    return bool(np.any(rows.any(-1) & ~rows.all(-1)))


def _with_patterns(laid: Laid, seen: Any) -> Laid:
    """What is kept of vectors that are missing in part: the reference in place of what is not seen."""
    filled = jnp.where(seen, laid.value, laid.shift_rows)
    flat = lambda a: np.asarray(a).reshape(seen.shape[0], -1, seen.shape[-1])
    shift = np.asarray(laid.shift_rows).reshape(seen.shape[0], -1, 1)
    mask = np.broadcast_to(laid.mask, seen.shape[1:]).reshape(-1, seen.shape[-1])
    patterns = group_by_pattern(flat(filled), shift, flat(seen), mask)
    return replace(laid, value=filled, patterns=patterns)
