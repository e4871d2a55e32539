"""Which affine sites can be summed over their rows, and their sums; on the host, once for the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.affine import AffineFactor, basis
from pp_mlem.factors.base import Factor
from pp_mlem.factors.summed import Basis, Features, Summed
from pp_mlem.potentials.sums import Pairs
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading

ROWS = 2000  # from which sums are worth finding
FEATURES = 64  # of a site, at most
PROBED = 2**26  # numbers that are looked at to find them
LOOKS = 32  # at random parameters, which see many functions where means are no affine ones of these
SPANNED = 1e-11  # of the largest singular value: what is less is rounding
LEFT = 1e-10  # of what other parameters make of the rows, outside of the span
WIDTH = 0.5  # of random unconstrained parameters


def sums_over_rows(
    reading: Reading, factors: tuple[Factor, ...], joint: frozenset[str], data: ProgramData
) -> dict[str, Summed]:
    """The affine sites that are summed over rows, by name; `joint` are the latents that are taken out
    together. The others stay as they are."""
    found = {}
    hanging = {f.own for f in factors if isinstance(f, AffineFactor) and len(f.coordinates) > 1}
    for factor in factors:
        if hanging & joint & set(factor.latents):
            continue  # laws with parents are put into every row: see JointStep
        units = _units(reading, factor, joint, data) if _may_be(reading, factor, data) else None
        if isinstance(factor, AffineFactor) and units is not None:
            summed = _summed(reading, factor, units, data)
            if summed is not None:
                found[factor.site] = summed
    return found


def _may_be(reading: Reading, factor: Factor, data: ProgramData) -> bool:
    """Whether a site has rows enough, no case weights, and nothing finite above it."""
    if not isinstance(factor, AffineFactor) or factor.own or factor.site not in data.sites:
        return False
    if (
        factor.site in data.weights
        or data.known.keys() & set(factor.latents)
        or reading.sites[factor.site].scan
    ):
        return False
    if any(not reading.sites[n].real for n in factor.latents):
        return False
    columns = int(np.prod(factor.column_shape))
    masked = data.sites[factor.site].mask is not None
    double = jnp.result_type(float) == jnp.float64
    return (
        _rows(factor) >= ROWS
        and double
        and reading.arguments.traced
        and not (masked and columns > 1)
    )


def _rows(factor: Factor) -> int:
    return int(np.prod([size for _, size, column in factor.layout if not column]))


@dataclass(frozen=True)
class _Units:
    """Of each latent of a site which unit every row reads, and how many there are; the plates and sizes of the
    units, where one latent's are those of all."""

    read: dict[str, np.ndarray]
    counts: dict[str, int]
    axes: tuple[str, ...] | None
    shape: tuple[int, ...]


def _units(
    reading: Reading, factor: Factor, joint: frozenset[str], data: ProgramData
) -> _Units | None:
    site, sizes = reading.sites[factor.site], [s for _, s, c in factor.layout if not c]
    names = [n for n, _, c in factor.layout if not c]
    read, plates = {}, {}
    for latent in factor.latents:
        own = reading.sites[latent]
        plates[latent] = tuple(sorted(own.dims, key=own.dims.__getitem__))
        unit = np.zeros(sizes, int)
        for plate in plates[latent]:
            index: Any
            if plate in site.plates:
                axis, index = names.index(plate), np.arange(reading.plates[plate].size)
            else:
                child = next(c for c, p in data.maps if p == plate and c in names)
                axis, index = names.index(child), np.asarray(data.maps[child, plate])
            along = index.reshape(-1, *(1,) * (len(sizes) - axis - 1))
            unit = unit * reading.plates[plate].size + along
        read[latent] = unit.ravel().astype(np.int32)
    counts = {n: int(np.prod([reading.plates[p].size for p in plates[n]])) for n in plates}
    if max(counts.values()) > _rows(factor) / 2:
        return None
    latents = frozenset(factor.latents)
    if latents <= joint:
        return _Units(read, counts, None, ())
    widest = max(plates, key=lambda n: len(plates[n]))
    if latents & joint or any(not set(p) <= set(plates[widest]) for p in plates.values()):
        return None
    axes = plates[widest]
    shape = tuple(reading.plates[p].size for p in axes)
    return _Units(
        dict.fromkeys(read, read[widest]), dict.fromkeys(counts, counts[widest]), axes, shape
    )


def _summed(
    reading: Reading, factor: AffineFactor, units: _Units, data: ProgramData
) -> Summed | None:
    """The sums of a site, or None where its rows have no few features."""
    features = _features(reading, factor, units, data)
    if features is None:
        return None
    names = [n for n, size in factor.coordinates for _ in range(size)]
    columns = [(n, c) for n, b in zip(names, features.loads, strict=True) for c in b.columns.T]
    fixed = features.fixed.columns
    means = tuple(
        np.stack([np.bincount(units.read[n], c * q, units.counts[n]) for q in fixed.T], -1)
        if fixed.size
        else np.zeros((units.counts[n], 0))
        for n, c in columns
    )
    met, pairs = _pairs(units, data, factor)
    products = {}
    for i, (n, c) in enumerate(columns):
        for j, (m, d) in enumerate(columns[i:], i):
            if n == m or units.axes is not None:
                products[i, j] = np.bincount(units.read[n], c * d, units.counts[n])
            else:
                products[i, j] = np.bincount(pairs[n, m], c * d, len(met[n, m].one))
    laid = data.sites[factor.site]
    event = _event(factor)
    shown = _rows(factor) if laid.mask is None else int(np.sum(np.asarray(laid.mask)))
    empty = Summed(
        features=Features(features.fixed, features.loads, units.read, pairs),
        centre=np.zeros((fixed.shape[1], 1, 1)),
        count=np.asarray(float(shown)),
        squares=np.zeros((1, event, event)),
        values=(),
        means=means,
        products=products,
        met=met,
        coordinates=factor.coordinates,
        axes=units.axes,
        shape=units.shape,
    )
    return quick_jit(Summed.of_values)(jax.device_put(empty), laid)


def _pairs(
    units: _Units, data: ProgramData, factor: AffineFactor
) -> tuple[dict[tuple[str, str], Pairs], dict[tuple[str, str], np.ndarray]]:
    """Units of two latents that meet in a row, and the number of each row's pair."""
    met, numbers = {}, {}
    names = [n for n, _ in factor.coordinates] if units.axes is None else []
    plates = tuple(sorted(factor.term_plates))
    for i, n in enumerate(names):
        for m in names[i + 1 :]:
            key = units.read[n].astype(np.int64) * units.counts[m] + units.read[m]
            every, first, number = np.unique(key, return_index=True, return_inverse=True)
            edges = None
            if data.pattern is not None:
                known = [data.pattern.edges.get((plates, name)) for name in (n, m)]
                edges = next((np.asarray(e)[first] for e in known if e is not None), None)
            one, two = every // units.counts[m], every % units.counts[m]
            met[n, m] = Pairs(one.astype(np.int32), two.astype(np.int32), edges)
            numbers[n, m] = number.ravel().astype(np.int32)
    return met, numbers


# --- features -------------------------------------------------------------------------------


def _features(
    reading: Reading, factor: AffineFactor, units: _Units, data: ProgramData
) -> Features | None:
    """Bases of what the rows make of the parameters: the span of values and derivatives at random ones,
    checked at others."""
    above = reading.dependencies[factor.site]
    names = above.get("argument loc", frozenset()) | above.get("all", frozenset())
    space = reading.space.only(names & frozenset(reading.space.names))
    parts = 1 + sum(n for _, n in factor.coordinates)
    if not _same_precision(reading, factor, data):
        return None
    look, rng = _look(reading, factor, space, data), np.random.default_rng(4)
    mask = data.sites[factor.site].mask
    shown = 1.0 if mask is None else np.asarray(mask).reshape(-1).astype(float)

    def looks(width: float) -> list[tuple[Any, Any]]:
        points = rng.normal(size=(2, reading.space.size)) * width
        return [jax.device_get(look(p, rng.normal(size=_width(factor)))) for p in points]

    seen: list[tuple[Any, Any]] = looks(WIDTH)
    while len(seen) * (space.size + 1) * parts * _rows(factor) <= PROBED and len(seen) <= LOOKS:
        beyond = looks(3 * WIDTH)
        bases = [_basis(seen, beyond, i, shown) for i in range(parts)]
        known = [b for b in bases if b is not None]
        if sum(b.columns.shape[1] for b in known) > FEATURES:
            return None
        if len(known) == parts:
            return Features(known[0], tuple(known[1:]), units.read, {})
        seen += beyond
    return None


def _width(factor: Factor) -> int:
    """How many numbers a row of its values is."""
    return int(np.prod(factor.column_shape)) * _event(factor)


def _event(factor: Factor) -> int:
    return factor.event_size if factor.family is not None and factor.family.event_dim else 1


def _same_precision(reading: Reading, factor: AffineFactor, data: ProgramData) -> bool:
    """Whether the precision is the same in all rows, by shapes alone."""
    shapes: list[Any] = []

    def extract(message: Message) -> int:
        shapes.append(factor.natural(reading, message, data.shifts.get(factor.site))[1:3])
        return 0

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    reals = {n: v[0] for n, v in basis(reading, data.shifts).items()}
    wanted = frozenset({factor.site})
    jax.eval_shape(
        lambda p, d: reading.run(p, d, extract, reals, wanted=wanted), params, data.dynamic
    )
    event = factor.family.event_dim if factor.family is not None else 0
    columns = reading.sites[factor.site].columns
    precision, normaliser = (jnp.shape(a) for a in shapes[0])
    batches = precision[: len(precision) - 2 * event], normaliser
    return all(np.prod(b[: max(len(b) - columns, 0)]) == 1 for b in batches)


def _look(
    reading: Reading, factor: AffineFactor, space: Any, data: ProgramData
) -> Callable[..., tuple[Any, Any]]:
    """(vector, mixture of the values' numbers) -> what is left of the values at latents of zero and how each
    coordinate moves it (1 + coordinates, rows), and the derivatives of both by the parameters of `space`."""
    shift = data.shifts.get(factor.site)

    def rows(params: dict[str, Any], mix: jax.Array, dynamic: tuple, shift: Any) -> jax.Array:
        def extract(message: Message) -> Any:
            return factor.natural(reading, message, shift)

        def at(reals: dict[str, Any]) -> Any:
            wanted = frozenset({factor.site})
            return reading.run(params, dynamic, extract, reals, wanted=wanted)[factor.site]

        at_zero, moves, *_ = factor.arranged(reading, jax.vmap(at)(basis(reading, data.shifts)))
        whole = factor.over_rows(jnp.concatenate([at_zero[..., None], moves], -1), 3)
        return jnp.einsum("rml,m->lr", whole.reshape(len(whole), len(mix), -1), mix)

    def look(vector: jax.Array, mix: jax.Array, dynamic: tuple, shift: Any) -> tuple[Any, Any]:
        params = reading.space.constrain(vector)

        def of(own: jax.Array) -> jax.Array:
            return rows({**params, **space.constrain(own)}, mix, dynamic, shift)

        here = space.unconstrain(params)
        value, slope = jax.linearize(of, here)
        return value, jax.lax.map(slope, jnp.eye(space.size))

    run = quick_jit(look)
    return lambda vector, mix: run(vector, mix, data.dynamic, shift)


def _basis(
    looks: list[tuple[Any, Any]], others: list[tuple[Any, Any]], part: int, shown: Any
) -> Basis | None:
    """An orthonormal basis of the functions of the rows that were seen, with as many rows that tell its
    coefficients; None where others are not spanned."""
    seen = np.concatenate([np.concatenate([v[part][None], s[:, part]]) for v, s in looks]) * shown
    beyond = np.stack([v[part] for v, _ in others]) * shown
    if not np.isfinite(seen).all() or not np.isfinite(beyond).all():
        return None
    size = np.abs(seen).max(1, initial=0.0)
    seen = seen[size > 0] / size[size > 0, None]
    columns, values, _ = np.linalg.svd(seen.T, full_matrices=False)
    columns = columns[:, values > SPANNED * values.max(initial=0.0)]
    left = beyond - (beyond @ columns) @ columns.T
    if np.any(np.abs(left).max(1) > LEFT * np.abs(beyond).max(1)):
        return None
    pivots, rest = np.zeros(columns.shape[1], int), columns.copy()
    for i in range(len(pivots)):
        pivots[i] = np.argmax((rest**2).sum(1))
        line = rest[pivots[i]] / np.linalg.norm(rest[pivots[i]])
        rest -= np.outer(rest @ line, line)
    return Basis(columns, pivots, np.linalg.inv(columns[pivots]))
