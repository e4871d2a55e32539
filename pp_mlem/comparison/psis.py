"""Pareto-smoothed importance sampling, many units at once.

Vehtari, Simpson, Gelman, Yao & Gabry (2024), doi:10.48550/arXiv.1507.02646. The shape of the generalised
Pareto tail is that of Zhang & Stephens (2009), doi:10.1198/tech.2009.08017, with the weak prior of the
former towards 0.5. The numbers are those of `arviz_stats.psislw`, which takes one unit after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK_CELLS = 2**22  # numbers that a block of units may take while their tails are fitted: 32 MB
FEWEST_TAIL = 5  # draws; with fewer there is no tail to fit
FEW_EFFECTIVE = 225  # effective draws, up to which the tail is a fifth of all
PRIOR_DRAWS, PRIOR_SHAPE = 10, 0.5  # what the prior of the shape counts, and where it stands
PRIOR_SCALES = 3.0  # quartiles, of the prior of the scale
NEGLIGIBLE = 10 * float(np.finfo(float).eps)


class Smoothed(NamedTuple):
    """Normalised log weights (units, draws), and the shape k of each unit's tail: minus infinity where all
    ratios are equal, infinity where no tail could be fitted."""

    log_weights: np.ndarray
    shape: np.ndarray


class Left(NamedTuple):
    """Of every unit: the log predictive density without it, nats; what leaving it out costs; Pareto k."""

    elpd: np.ndarray
    cost: np.ndarray
    shape: np.ndarray


def good_shape(draws: int) -> float:
    """The Pareto k up to which so many draws are enough: min(1 - 1 / log10(draws), 0.7)."""
    return min(1 - 1 / np.log10(draws), 0.7) if draws > 1 else 0.7


def tail_length(draws: int, efficiency: float = 1.0) -> int:
    """How many of the largest ratios are the tail; `efficiency` is effective draws for each draw."""
    if draws * efficiency > FEW_EFFECTIVE:
        return int(3 * np.sqrt(draws / efficiency))
    return draws // 5


def leave_one_out(
    log_likelihood: np.ndarray, log_ratio: np.ndarray | None = None, efficiency: float = 1.0
) -> Left:
    """PSIS-LOO of every unit.

    Args:
        log_likelihood: of every unit at every draw (draws, units), nats.
        log_ratio: (draws,) log density of the posterior less that of the law that was drawn from, up to
            a constant; None where the draws are of the posterior (Magnusson et al. 2019,
            https://proceedings.mlr.press/v97/magnusson19a.html).
        efficiency: effective draws for each draw.

    Source: Vehtari, Gelman & Gabry (2017), doi:10.1007/s11222-016-9696-4.
    """
    draws, units = log_likelihood.shape
    length = tail_length(draws, efficiency)
    per_unit = draws + (30 + int(np.sqrt(length))) * length
    block = max(int(BLOCK_CELLS // per_unit), 1)
    elpd, cost, shape = np.empty((3, units))
    for start in range(0, units, block):
        part = slice(start, start + block)
        own = np.asarray(log_likelihood[:, part].T, float)
        ratios = -own if log_ratio is None else log_ratio - own
        weights, shape[part] = smoothed(ratios, length)
        elpd[part] = _log_sum(weights + own)
        cost[part] = _log_sum(own) - np.log(draws) - elpd[part]
    return Left(elpd, cost, shape)


def smoothed(log_ratios: np.ndarray, length: int) -> Smoothed:
    """The log ratios (units, draws) with the `length` largest of each unit replaced by the quantiles of the
    tail that fits them, and none larger than the largest was."""
    units, draws = log_ratios.shape
    told = np.isfinite(log_ratios).all(1)
    log_ratios = np.where(told[:, None], log_ratios, 0.0)
    logs = log_ratios - log_ratios.max(1, keepdims=True)
    equal = logs.min(1) == 0.0
    shape = np.where(told, np.where(equal, -np.inf, np.inf), np.inf)
    if length >= FEWEST_TAIL and draws > length:
        order = np.argpartition(logs, draws - length - 1, axis=1)
        cutoff = np.take_along_axis(logs, order[:, [draws - length - 1]], 1)
        where = order[:, draws - length :]
        tail = np.take_along_axis(logs, where, 1)
        rank = tail.argsort(1)
        where, tail = (np.take_along_axis(a, rank, 1) for a in (where, tail))
        fits = told & (np.ptp(tail, axis=1) > 0)
        if fits.any():
            tail, cutoff, rows = np.exp(tail[fits]), np.exp(cutoff[fits]), np.flatnonzero(fits)
            k, scale = _pareto(tail - cutoff)
            quantiles = np.log(cutoff + _quantiles(k, scale, length))
            sound = np.isfinite(k) & np.isfinite(quantiles).all(1)
            shape[rows[sound]] = k[sound]
            rows = rows[sound]
            logs[rows[:, None], where[rows]] = np.minimum(quantiles[sound], 0.0)
    logs = logs - _log_sum(logs)[:, None]
    logs[~told] = np.nan
    return Smoothed(logs, shape)


def _pareto(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale (units,) of generalised Pareto laws of sorted excesses (units, length): the mean of
    the profile posterior of b = -shape / scale over a grid."""
    length = excess.shape[1]
    count = 30 + int(np.sqrt(length))
    grid = 1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))
    quartile, largest = excess[:, int(length / 4 + 0.5) - 1], excess[:, -1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        b = grid / (PRIOR_SCALES * quartile)[:, None] + 1 / largest[:, None]
        k = np.log1p(-b[:, :, None] * excess[:, None, :]).mean(2)
        profile = length * (np.log(-b / k) - k - 1)
        weights = np.exp(profile - _log_sum(profile)[:, None])
        weights = np.where(weights >= NEGLIGIBLE, weights, 0.0)
        centre = (b * weights).sum(1) / weights.sum(1)
        shape = np.log1p(-centre[:, None] * excess).mean(1)
        scale = -shape / centre
    shape = (length * shape + PRIOR_DRAWS * PRIOR_SHAPE) / (length + PRIOR_DRAWS)
    return shape, scale


def _quantiles(shape: np.ndarray, scale: np.ndarray, length: int) -> np.ndarray:
    """Quantiles (units, length) of generalised Pareto laws, at the middles of `length` equal parts."""
    log_left = np.log1p(-(np.arange(length) + 0.5) / length)
    k = shape[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        curved = np.expm1(-k * log_left) / k
    found = scale[:, None] * np.where(k == 0, -log_left, curved)
    return np.where(scale[:, None] > 0, found, np.nan)


def _log_sum(logs: np.ndarray) -> np.ndarray:
    """log of the sum of exponentials along the last axis."""
    top = logs.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.log(np.exp(logs - top).sum(-1)) + top[..., 0]
    return found
