"""New observations for a program, without the host: where in the arguments an observed site's values
stand, and the data laid out anew when they are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.designs import Design, laid_designs
from pp_mlem.data.points import points_of
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.base import Factor
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.lay import base_measure, observed_parts, to_layout
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.distributions import is_factor
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading

# site: its parts, each (number of the array argument, which of the site's values stand there, in which cells);
# the columns of a table are arguments of their own
Cells = Mapping[str, tuple[tuple[int, np.ndarray, np.ndarray], ...]]


def observed_cells(
    arguments: Arguments, draw: Callable, params: dict[str, Any], names: tuple[str, ...]
) -> Cells:
    """Find the argument cells that each observed site reads, by giving every cell a number.

    Raises ValueError when the values of a site are computed from the arguments, or are none of
    them, so that drawn values would have no place to go.
    """
    if not arguments.traced:
        raise ValueError(
            "the program needs concrete values of its arguments, so drawn data cannot take their "
            "place. Write it with array operations only."
        )
    sizes = [a.size for a in arguments.dynamic]
    offsets = np.cumsum([0, *sizes])
    key = jax.random.key(0)

    def numbered(sign: int) -> dict[str, np.ndarray]:
        arrays = []
        for array, offset in zip(arguments.dynamic, offsets, strict=False):
            ids = sign * (np.arange(array.size) + offset + 1)
            arrays.append(
                jnp.asarray(array)
                if array.dtype == bool
                else jnp.asarray(ids.reshape(array.shape).astype(array.dtype))
            )
        return {k: np.asarray(v) for k, v in draw(tuple(arrays), params, key)[1].items()}

    ahead, behind = numbered(1), numbered(-1)
    found = {}
    for name in names:
        ids = ahead[name].astype(float)
        whole = np.all(np.isfinite(ids)) and np.array_equal(ids, np.rint(ids))
        whole = whole and np.array_equal(ids, -behind[name].astype(float))
        if not (whole and ids.size and ids.min() >= 1 and ids.max() <= offsets[-1]):
            raise ValueError(
                f"observed site '{name}': its values are not entries of the arguments of the "
                "program (they are computed from the arguments, or constants), so drawn values "
                "have no place to go. Pass them to the program as they are observed."
            )
        flat = ids.astype(int).ravel() - 1
        which = np.searchsorted(offsets, flat, side="right") - 1
        parts = ((int(a), np.flatnonzero(which == a)) for a in np.unique(which))
        found[name] = tuple((a, own, flat[own] - offsets[a]) for a, own in parts)
    _check_feedback(arguments, draw, params, found)
    return found


def _check_feedback(arguments: Arguments, draw: Callable, params: dict, cells: Cells) -> None:
    """Draws must not depend on the observed values that they replace."""
    dynamic = arguments.device_arrays()
    other = list(dynamic)
    for argument, _, at in (part for parts in cells.values() for part in parts):
        flat = other[argument].ravel()
        other[argument] = flat.at[at].set(jnp.roll(flat[at], 1)).reshape(other[argument].shape)
    key = jax.random.key(0)
    first, second = (draw(arrays, params, key)[0] for arrays in (dynamic, tuple(other)))
    changed = [n for n in first if not np.array_equal(first[n], second[n], equal_nan=True)]
    if changed:
        raise ValueError(
            f"the distribution of {changed} depends on observed values ({list(cells)}) through the "
            "program's arguments, so data drawn from it would mix drawn and observed values. Carry "
            "the sampled value (x = numpyro.sample(..., obs=x_t); return x) instead of the argument."
        )


def place(cells: Cells, dynamic: tuple, drawn: Mapping[str, Any]) -> tuple:
    """The arguments with the drawn values of the observed sites; what was missing stays missing. Whole numbers
    that a continuous distribution observes become real ones: a draw is not cut off."""
    arrays = list(dynamic)
    for name, parts in cells.items():
        values = jnp.asarray(drawn[name]).ravel()
        for argument, own, at in parts:
            old = arrays[argument].astype(_held(arrays[argument], values))
            new = old.ravel().at[at].set(values[own].astype(old.dtype)).reshape(old.shape)
            if jnp.issubdtype(dynamic[argument].dtype, jnp.floating):
                new = jnp.where(jnp.isnan(dynamic[argument]), dynamic[argument], new)
            arrays[argument] = new
    return tuple(arrays)


def _held(old: jax.Array, new: jax.Array) -> Any:
    """The type in which `new` takes the place of `old`: that of `old`, but whole numbers hold no real ones."""
    real = jnp.issubdtype(new.dtype, jnp.floating)
    return old.dtype if jnp.issubdtype(old.dtype, jnp.floating) or not real else new.dtype


def relaid(
    reading: Reading,
    factors: tuple[Factor, ...],
    data: ProgramData,
    dynamic: tuple,
    labels: Mapping[str, Any],
) -> ProgramData:
    """`data` with other argument arrays of the same shapes. Masks, weights and indices stay, and so does
    what is known of the structure of linear predictors.

    `labels` (*plates) are new values of the latents that were observed; unknown ones stay so.
    """
    by_site = {f.site: f for f in factors if f.site in data.sites}

    def extract(m: Message) -> dict[str, Any]:
        return {} if is_factor(m.fn) else observed_parts(m, by_site[m.name])

    params = {s.name: jnp.ones(s.shape) for s in reading.space.sites}
    found = reading.run(
        params, dynamic, extract, reading.zeros(), wanted=frozenset(by_site), wide=True
    )
    sites = {name: _site(f, data.sites[name], found[name]) for name, f in by_site.items()}
    clamps = dict(data.clamps)
    for name, value in labels.items():
        unknown = (clamps[name] >= 0).all(-1, keepdims=True)
        match = jnp.asarray(value)[..., None] == jnp.asarray(reading.values[name])
        clamps[name] = jnp.where(unknown | match, 0.0, -1.0)
    designs = dict(data.designs)
    kept = {n: d for n, d in designs.items() if isinstance(d, Design)}
    if kept:  # observations may be covariates, too: those of the step before
        designs |= laid_designs(reading, factors, kept, dynamic)
    sites = {**data.sites, **sites}
    summed = {n: s.of_values(sites[n]) for n, s in data.summed.items()}
    points = points_of({n: sites[n] for n in data.points}) if data.points else {}
    return replace(
        data,
        dynamic=dynamic,
        sites=sites,
        clamps=clamps,
        designs=designs,
        summed=summed,
        points=points,
    )


def _site(factor: Factor, old: Laid, parts: dict[str, Any]) -> Laid:
    family: Any = factor.family
    value = to_layout(factor, jnp.asarray(parts["value"]), family.event_dim)
    if old.mask is not None:
        shown = old.mask[(None,) * family.event_dim]
        value = jnp.where(shown, value, old.value)
    value = value.astype(_held(old.value, value))
    patterns = old.patterns
    if patterns is not None:  # the entries that are missing stay so
        value = jnp.where(patterns.shown.reshape(value.shape), value, old.value)
        patterns = patterns.with_values(*_by_columns(old, value))
    cells = value.shape[family.event_dim :]
    known = {
        k: jnp.broadcast_to(to_layout(factor, jnp.asarray(v), 0), cells)
        for k, v in parts["known"].items()
    }
    base = base_measure(family, value, old.mask, known)
    return replace(old, value=value, known=known, base=base, patterns=patterns)


def _by_columns(old: Laid, value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values, reference and mask with all columns in one dimension."""
    entries, rows = value.shape[0], value.shape[-1]
    mask = jnp.broadcast_to(old.mask, value.shape[1:]).reshape(-1, rows)
    shift = old.shift_rows.reshape(entries, -1, 1)
    return value.reshape(entries, -1, rows), shift, mask
