"""Vectors of which some entries are missing: rows grouped by which entries are seen, and Gaussians of them
with the missing entries integrated out.

A Gaussian factor is exp(constant - y' M y / 2) with y = (x, u, 1), u real latents if it has any. Integrating
out the missing entries of x leaves the same with another M for each pattern, whose derivative with respect to
M is E[y y' | what is seen]: the E-step of Little & Rubin (2019, section 11.2, doi:10.1002/9781119482260).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.potentials.sweep import swept

LARGEST = 256  # cells of one pattern that are multiplied together
AT_ONCE = 2**15  # numbers in the matrices of the patterns that are swept at once
MOST_SUMS = 4  # times the numbers of the values
NOWHERE = np.iinfo(np.int32).max
MOST_KEPT = 2**23  # in those of all patterns; of more each chunk sweeps its own


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patterns:
    """The cells (columns, rows) of a site of vectors by what is seen of them. A chunk holds cells of one column
    and one pattern, so that they are multiplied by one matrix.

    `seen` (patterns, D) is one or zero, `missing` (patterns, most) the numbers of the other entries (D + L + 1 or
    more where there are no more), `counts` how many cells count, `column` (patterns,) the column of their cells; `of` (chunks,) the
    pattern of each chunk; `value` (chunks, D, size) what is seen less the reference, zero where it is missing
    or where a chunk is not full; `place` (columns, rows) where among all places of the chunks a cell is; `sums`
    (patterns, D + 1, D + 1) of (x, 1)(x, 1)' over the cells that count, None where they were more than the values.
    Numbers of patterns and chunks are
    rounded up, so that other data with about as many need no other code.
    """

    seen: jax.Array
    missing: jax.Array
    counts: jax.Array
    column: jax.Array
    of: jax.Array
    value: jax.Array
    place: jax.Array
    sums: jax.Array | None

    @property
    def size(self) -> int:
        """Cells in a chunk."""
        return int(self.value.shape[-1])

    @property
    def pattern(self) -> jax.Array:
        """The pattern of each cell, (columns, rows)."""
        return self.of[self.place // self.size]

    @property
    def shown(self) -> jax.Array:
        """Which entries of each cell are seen, (D, columns, rows)."""
        return jnp.moveaxis(self.seen[self.pattern], -1, 0) > 0

    @property
    def cells(self) -> jax.Array:
        """What is seen of each cell, (D, columns, rows)."""
        at = self.value[self.place // self.size, :, self.place % self.size]
        return jnp.moveaxis(at, -1, 0)

    def of_cells(self, array: jax.Array) -> jax.Array:
        """What is known by chunk and place, (..., chunks, size), of each cell: (..., columns, rows)."""
        places = array.shape[-2] * array.shape[-1]
        return array.reshape(*array.shape[:-2], places)[..., self.place]

    def cut(self, take: Callable[[Any, int], Any]) -> Patterns:
        """Some of the rows, a chunk for each cell."""
        place = take(self.place, 1)
        chunk = place // self.size
        value = self.value[chunk, :, place % self.size]
        return replace(
            self,
            of=self.of[chunk].reshape(-1),
            value=value.reshape(-1, value.shape[-1], 1),
            place=jnp.arange(place.size).reshape(place.shape),
            sums=None,
        )

    def with_values(self, value: jax.Array, shift: jax.Array, mask: jax.Array) -> Patterns:
        """Other values (D, columns, rows) with the same entries missing, in place of those that are kept;
        `mask` (columns, rows) says which cells count."""
        centred = jnp.where(mask & self.shown, value - shift, 0.0)
        whole = jnp.zeros((self.of.shape[0] * self.size, value.shape[0]), self.value.dtype)
        flat = jnp.moveaxis(centred, 0, -1).reshape(-1, value.shape[0])
        place = jnp.where(mask, self.place, whole.shape[0]).reshape(-1)
        whole = whole.at[place].set(flat, mode="drop")
        chunks = jnp.moveaxis(whole.reshape(-1, self.size, value.shape[0]), 1, 2)
        if self.sums is None:
            return replace(self, value=chunks)
        counts = jnp.zeros(whole.shape[0]).at[place].set(1.0, mode="drop")
        sums = _sums(self.of, chunks, counts.reshape(-1, self.size), len(self.seen))
        return replace(self, value=chunks, sums=sums)


def group_by_pattern(value: Any, shift: Any, seen: np.ndarray, mask: np.ndarray) -> Patterns:
    """The patterns of (D, columns, rows) values of which `seen` says what is there; `mask` (columns, rows)
    which cells count at all."""
    columns, rows = mask.shape
    flat = np.moveaxis(seen, 0, -1).reshape(-1, len(seen))
    cells = np.flatnonzero(mask.ravel())
    keys = np.concatenate([(cells // rows)[:, None], flat[cells]], 1)
    order, number = _sorted(keys)
    counts = np.bincount(number)
    patterns = keys[order][np.r_[0, np.cumsum(counts)[:-1]]]
    size = _chunk_size(counts, len(seen))
    many = -(-counts // size)
    begin = np.cumsum(np.r_[0, many[:-1]]) * size
    inside = np.arange(len(cells)) - np.repeat(np.cumsum(np.r_[0, counts[:-1]]), counts)
    place = np.zeros(columns * rows, int)
    place[cells[order]] = np.repeat(begin, counts) + inside
    of = np.repeat(np.arange(len(counts)), many)
    total, chunks = _rounded(len(counts)), _rounded(len(of))
    padded = np.ones((total, keys.shape[1]), int)
    padded[:, 0] = 0
    padded[: len(patterns)] = patterns
    size_of_sums = total * (len(seen) + 1) ** 2
    sums = (
        jnp.zeros((total, len(seen) + 1, len(seen) + 1))
        if size_of_sums <= MOST_SUMS * cells.size * len(seen)
        else None
    )
    empty = Patterns(
        seen=jnp.asarray(padded[:, 1:], jnp.result_type(float)),
        missing=jnp.asarray(_missing(padded[:, 1:])),
        counts=jnp.asarray(np.r_[counts, np.zeros(total - len(counts), int)]),
        column=jnp.asarray(padded[:, 0]),
        of=jnp.asarray(np.r_[of, np.full(chunks - len(of), total - 1)]),
        value=jnp.zeros((chunks, len(seen), size)),
        place=jnp.asarray(place.reshape(columns, rows)),
        sums=sums,
    )
    return quick_jit(Patterns.with_values)(empty, jnp.asarray(value), shift, jnp.asarray(mask))


def _missing(seen: np.ndarray) -> np.ndarray:
    """The numbers of the entries that are not seen (patterns, most), a number that none has behind them."""
    most = _rounded(int((seen == 0).sum(1).max(initial=0)))
    order = np.argsort(seen, 1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(seen, order, 1) == 0, order, NOWHERE)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rows (rows, numbers) by their contents, and in it the number of each row's contents."""
    packed = np.packbits(keys[:, 1:].astype(bool), axis=1)
    codes = np.concatenate(
        [keys[:, :1].astype(np.int64).view(np.uint8).reshape(len(keys), 8), packed], 1
    )
    whole = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, number = np.unique(whole, return_inverse=True)
    order = np.argsort(number, kind="stable")
    return order, number[order]


def _chunk_size(counts: np.ndarray, entries: int) -> int:
    """Cells in a chunk, with the least work: what is multiplied, and a matrix for each chunk."""
    sizes = 2 ** np.arange(int(np.log2(LARGEST)) + 1)
    work = [(-(-counts // size)).sum() * (size + 8 + entries) for size in sizes]
    return int(sizes[int(np.argmin(work))])


def _rounded(count: int) -> int:
    """The next number that is four to seven times a power of two, or a small one."""
    step = 2 ** max(int(np.log2(max(count, 1))) - 2, 0)
    return -(-count // step) * step


def _sums(of: jax.Array, value: jax.Array, counts: jax.Array, total: int) -> jax.Array:
    """(patterns, D + 1, D + 1): (x, 1)(x, 1)' summed over the cells of each pattern."""
    whole = jnp.concatenate([value, counts[:, None, :]], 1)
    return jax.ops.segment_sum(whole @ jnp.swapaxes(whole, 1, 2), of, total)


class Rest(NamedTuple):
    """What is left of a Gaussian factor over real latents u, exp(constant + linear . u - u' precision u / 2), of
    each cell (lanes, columns, rows); nothing but the constant where there are none."""

    constant: jax.Array
    linear: jax.Array
    precision: jax.Array


class _Gone(NamedTuple):
    """The missing entries of a pattern: their `rows` (..., most, n) of the matrix, the `inverse` of their block
    (..., most, most), zero beyond those there are, and log of the integral of their own Gaussian."""

    rows: jax.Array
    inverse: jax.Array
    constant: jax.Array

    @classmethod
    def of(cls, matrix: jax.Array, missing: jax.Array) -> _Gone:
        pick = jax.nn.one_hot(missing, matrix.shape[-1], dtype=matrix.dtype)
        rows, there = pick @ matrix, pick.sum(-1)
        eye = jnp.eye(there.shape[-1], dtype=matrix.dtype)
        block = rows @ jnp.swapaxes(pick, -1, -2) + eye * (1.0 - there)[..., None, :]
        found, half_log_det = swept(block, there)
        inverse = -found * there[..., :, None] * there[..., None, :]
        return cls(rows, inverse, there.sum(-1) / 2 * jnp.log(2 * jnp.pi) - half_log_det)


def scores(
    matrix: jax.Array, constant: jax.Array, patterns: Patterns, sums: jax.Array
) -> jax.Array:
    """(lanes,): log of the factor without latents, summed over all cells, from the `sums` of the patterns.
    `matrix` (lanes, columns, n, n) and `constant` (lanes, columns) are of the vector and one."""

    def of_pattern(own: tuple[jax.Array, ...]) -> jax.Array:
        column, missing, squares = own
        here = _of_column(matrix, column)
        gone = _Gone.of(here, missing)
        pulled = gone.rows @ squares @ jnp.swapaxes(gone.rows, -1, -2)
        form = (here * squares).sum((-1, -2)) - (gone.inverse * pulled).sum((-1, -2))
        return (_of_column(constant, column) + gone.constant) * squares[-1, -1] - form / 2

    return _mapped(of_pattern, (patterns.column, patterns.missing, sums), matrix).sum(0)


def rest_of_cells(
    matrix: jax.Array, constant: jax.Array, patterns: Patterns, latents: int = 0
) -> Rest:
    """The factor of each cell with its missing entries integrated out. `matrix` (lanes, columns, n, n) is over
    the vector, the real latents' numbers and one, the same along the rows."""
    every = patterns.column, patterns.missing

    def of_pattern(own: tuple[jax.Array, ...]) -> _Gone:
        column, missing = own
        return _Gone.of(_of_column(matrix, column), missing)

    lanes, size = matrix.shape[0], matrix.shape[-1]
    few = patterns.missing.size * lanes * size <= MOST_KEPT
    kept = _mapped(of_pattern, every, matrix) if few else None

    def of_chunk(own: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        pattern, value = own
        column, missing = (a[pattern] for a in every)
        gone = of_pattern((column, missing)) if kept is None else _Gone(*(a[pattern] for a in kept))
        here = _of_column(matrix, column), _of_column(constant, column)
        return _evaluated(*here, gone, value, latents)

    found = _mapped(of_chunk, (patterns.of, patterns.value), matrix)
    by_cell = {name: patterns.of_cells(jnp.moveaxis(a, 0, -2)) for name, a in found.items()}
    constant = by_cell["constant"]
    if not latents:
        return Rest(constant, jnp.zeros((*constant.shape, 0)), jnp.zeros((*constant.shape, 0, 0)))

    def precision_of(own: tuple[jax.Array, ...]) -> jax.Array:
        return _precision(_of_column(matrix, own[0]), of_pattern(own), latents)

    precision = _mapped(precision_of, every, matrix)[patterns.pattern]
    return Rest(constant, jnp.moveaxis(by_cell["linear"], 1, -1), jnp.moveaxis(precision, 2, 0))


def rest_by_row(matrix: jax.Array, constant: jax.Array, patterns: Patterns, latents: int) -> Rest:
    """The same where the matrix (lanes, columns, rows, n, n) and the constant differ by row."""
    value = jnp.moveaxis(patterns.cells, 0, -1)[..., None]
    gone = _Gone.of(matrix, patterns.missing[patterns.pattern])
    found = _evaluated(matrix, constant, gone, value, latents)
    return Rest(
        found["constant"][..., 0], found["linear"][..., 0], _precision(matrix, gone, latents)
    )


def _of_column(array: jax.Array, column: jax.Array) -> jax.Array:
    """Of an array (lanes, columns, ...) one column."""
    return array[:, 0] if array.shape[1] == 1 else array[:, column]


def _evaluated(
    matrix: jax.Array, constant: jax.Array, gone: _Gone, value: jax.Array, latents: int
) -> dict[str, jax.Array]:
    """The constant (..., size) and the linear part (..., latents, size) at values (..., D, size) of what is
    seen."""
    begin = value.shape[-2]
    one = jnp.ones((*value.shape[:-2], 1, value.shape[-1]), value.dtype)
    known = jnp.concatenate([value, one], -2)
    among, rows = matrix, gone.rows
    if latents:
        places = np.r_[0:begin, begin + latents]
        among, rows = matrix[..., places], gone.rows[..., places]
    turned, pull = among @ known, rows @ known
    moved = gone.inverse @ pull
    here = turned
    if latents:
        here = jnp.concatenate([turned[..., :begin, :], turned[..., -1:, :]], -2)
    form = (here * known).sum(-2) - (pull * moved).sum(-2)
    found = {"constant": (constant + gone.constant)[..., None] - form / 2}
    if latents:
        own = jnp.swapaxes(gone.rows[..., begin:-1], -1, -2)
        found["linear"] = own @ moved - turned[..., begin : begin + latents, :]
    return found


def _precision(matrix: jax.Array, gone: _Gone, latents: int) -> jax.Array:
    """(..., latents, latents)"""
    own = gone.rows[..., -1 - latents : -1]
    among = matrix[..., -1 - latents : -1, -1 - latents : -1]
    return among - jnp.swapaxes(own, -1, -2) @ gone.inverse @ own


def _mapped(function: Callable[[Any], Any], arrays: tuple, matrix: jax.Array) -> Any:
    """The function of each entry of arrays (many, ...), as many at once as fit a cache; what it computes
    on the way is computed again for its derivative."""
    many = arrays[0].shape[0]
    at_once = max(AT_ONCE // int(matrix.size // matrix.shape[1]), 16)
    if many <= at_once:
        return jax.vmap(function)(arrays)
    return jax.lax.map(jax.checkpoint(function), arrays, batch_size=at_once)


__all__ = ["Patterns", "Rest", "group_by_pattern", "rest_by_row", "rest_of_cells", "scores"]
