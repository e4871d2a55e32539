"""Where the coordinates of a state space have their zero.

A level of 350 that is seen with noise of 0.1 is, from a zero at 0, thousands of standard deviations away: the
likelihood is then a difference of numbers with seven digits more than itself. From a zero at the level of the
data it is not. Any zero gives the same likelihood; this one is the constant path that fits the data and the
laws of the states best, by least squares at parameters of no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pp_mlem.factors.affine import AffineFactor, coordinate_places
from pp_mlem.factors.base import Factor
from pp_mlem.factors.carried import CarriedFactor
from pp_mlem.factors.laid import Laid
from pp_mlem.program.reading import Reading

FIRM = 1e3  # how much more a map of the carry counts than a law or an observation


def find_origins(
    reading: Reading,
    factors: tuple[Factor, ...],
    left: Mapping[str, np.ndarray],
    sites: Mapping[str, Laid],
) -> dict[str, np.ndarray]:
    """The origin of every real latent that a scan carries or meets, and of what it carries; none where no
    scan carries any. `left` are values less means at the basis points, `sites` the data."""
    if not reading.carries:
        return {}
    rows: list[np.ndarray] = []
    aims: list[np.ndarray] = []
    total = sum(s.size for s in reading.coordinates)
    for factor in factors:
        if factor.site not in left or not isinstance(factor, (AffineFactor, CarriedFactor)):
            continue
        aim = _aim(factor, sites)
        if aim is None:
            continue
        points = np.asarray(left[factor.site], float)
        tail = aim.shape if aim.ndim else points.shape[points.ndim - _trailing(reading, factor) :]
        numbers = int(np.prod(tail))
        if points[0].size % numbers:
            return {}
        flat = points.reshape(len(points), -1, numbers).mean(1)
        slope = (
            flat[1:] - flat[0]
        ).T  # of all coordinates: those that it does not meet move nothing
        weight = FIRM if isinstance(factor, CarriedFactor) else 1.0
        if isinstance(factor, CarriedFactor):  # what is carried on is what was carried in
            slope[:, coordinate_places(reading, ((_carry(reading, factor), factor.size),)) - 1] -= (
                np.eye(numbers)
            )
        rows.append(weight * slope)
        aims.append(-weight * (flat[0] + np.ravel(aim)))
    if not rows or not all(np.all(np.isfinite(a)) for a in (*rows, *aims)):
        return {}
    matrix = np.concatenate(rows)[:, :total]
    found = np.linalg.lstsq(matrix, np.concatenate(aims), rcond=1e-10)[0]
    return _by_name(reading, factors, found)


def _carry(reading: Reading, factor: CarriedFactor) -> str:
    return reading.scans[reading.sites[factor.site].scan].carry


def _trailing(reading: Reading, factor: Factor) -> int:
    """Dimensions of one unit's numbers."""
    if isinstance(factor, CarriedFactor):
        return 1
    event = factor.family.event_dim if factor.family is not None else 0
    return reading.sites[factor.site].columns + event


def _aim(factor: Factor, sites: Mapping[str, Laid]) -> np.ndarray | None:
    """The mean of the data of a site, (*columns, *event); zero for a law or a map; None without data."""
    if factor.site not in sites:
        return np.zeros(())
    laid = sites[factor.site]
    value = np.asarray(laid.value, float)
    seen = (
        np.ones(value.shape, bool) if laid.mask is None else np.broadcast_to(laid.mask, value.shape)
    )
    count = seen.sum(-1)
    if not np.all(count):
        return None
    mean = np.where(seen, value, 0.0).sum(-1) / count
    event = factor.family.event_dim if factor.family is not None else 0
    return np.moveaxis(mean, 0, -1) if event else mean.reshape(factor.column_shape)


def _by_name(
    reading: Reading, factors: tuple[Factor, ...], found: np.ndarray
) -> dict[str, np.ndarray]:
    met = {n for f in factors if isinstance(f, CarriedFactor) for n in f.latents}
    met |= {n for scan in reading.scans.values() for n in scan.movers}
    origins: dict[str, np.ndarray] = {}
    begin = 0
    for site in reading.coordinates:
        own = found[begin : begin + site.size]
        begin += site.size
        if site.name in met:
            origins[site.name] = own.reshape(site.event_shape)
    for scan in reading.scans.values():
        if scan.carry in origins:
            origins[scan.first_carry] = origins[scan.carry]
    return origins
