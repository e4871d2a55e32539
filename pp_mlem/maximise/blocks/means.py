"""How parameters enter the means of Gaussians with real latents: affinely, with or without latents, and which
of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.affine import AffineFactor, at_basis
from pp_mlem.maximise.blocks.base import Group, Params
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import ParameterSpace

FLAT = 1e-12  # of the largest curvature: directions with less stay as they are


@dataclass(frozen=True)
class Means:
    """The means are affine in `coefficients` together; log Z is quadratic in those that are `fixed`, which
    multiply no latent. `groups` are their coordinates that share no column of a site with those of other
    groups; `owners` says of every column of a site which group is its own."""

    coefficients: tuple[str, ...]
    fixed: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    owners: Mapping[str, tuple[int, ...]]

    def seeds(self, size: int) -> np.ndarray:
        """Directions (widest group, size), each with a coordinate of every group: as these share nothing, one
        derivative tells all (Curtis, Powell & Reid 1974, doi:10.1093/imamat/13.1.117)."""
        found = np.zeros((max(len(g) for g in self.groups), size))
        for group in self.groups:
            found[np.arange(len(group)), group] = 1.0
        return found

    def spread(self, steps: jax.Array, like: jax.Array) -> jax.Array:
        """Steps (groups, widest group) as a vector."""
        places = [(g, i, c) for g, own in enumerate(self.groups) for i, c in enumerate(own)]
        group, place, coordinate = np.array(places).T
        return jnp.zeros_like(like).at[coordinate].set(steps[group, place])


def _joined(at_zero: jax.Array, moves: jax.Array) -> jax.Array:
    """Coefficients of (1, u): (..., D, 1 + L)."""
    return jnp.concatenate([at_zero[..., None], moves], -1)


def residuals(
    reading: Reading, members: list[AffineFactor], params: Params, data: ProgramData
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Of each site what its value leaves, as coefficients of (1, u) or of the features of a summed site; and
    its precision."""
    probed, found = _probed(reading, members, params, data), {}
    for factor in members:
        name = factor.site
        if name in data.summed:
            found[name] = factor.features(reading, probed[name], data.summed[name])[:2]
            continue
        at_zero, moves, precision, *_ = factor.arranged(reading, probed[name])
        found[name] = _joined(at_zero, moves), precision
    return found


def arranged(
    reading: Reading, members: list[AffineFactor], params: Params, data: ProgramData
) -> dict[str, tuple[jax.Array, ...]]:
    """`AffineFactor.arranged` of each site."""
    probed = _probed(reading, members, params, data)
    return {f.site: f.arranged(reading, probed[f.site]) for f in members}


def _probed(
    reading: Reading, members: list[AffineFactor], params: Params, data: ProgramData
) -> dict[str, Any]:
    """What is natural to each site at the basis points of the real latents."""
    by_site, shifts = {f.site: f for f in members}, data.shifts

    def extract(message: Message) -> Any:
        return by_site[message.name].natural(reading, message, shifts.get(message.name))

    def at(reals: dict[str, Any]) -> dict[str, Any]:
        return reading.run(params, data.dynamic, extract, reals, wanted=frozenset(by_site))

    return at_basis(at, reading, shifts)


def solved(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """The shortest solution of each group; nothing along directions without curvature."""
    return jax.vmap(_shortest)(matrix, right)


def _shortest(matrix: jax.Array, right: jax.Array) -> jax.Array:
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), 1e-300))
    values, vectors = jnp.linalg.eigh(matrix / scale[:, None] / scale)
    kept = values > FLAT * jnp.maximum(values.max(initial=0.0), 1e-300)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
    return (vectors * inverse) @ (vectors.T @ (right / scale)) / scale


def find_means(group: Group, members: list[AffineFactor], space: ParameterSpace) -> Means | None:
    """How the parameters of a space enter the means; None where these are not affine in all together."""
    reading, rng = group.reading, np.random.default_rng(2)
    whole = reading.space
    rest = whole.to_params(rng.uniform(-1, 1, whole.size))

    def means(vectors: Any, rest: Params, data: ProgramData) -> Any:
        def one(vector: Any) -> Any:
            parts = residuals(reading, members, {**rest, **space.constrain(vector)}, data)
            return {n: residual for n, (residual, _) in parts.items()}

        here = jax.vmap(one)(vectors)

        def touched(direction: Any) -> Any:
            """What a coordinate moves alone: in each column the fixed part, and those of latents."""
            moved = {n: jnp.abs(v - here[n][0]) for n, v in one(direction).items()}
            lanes = {n: v.max(tuple(range(v.ndim - 3))).max(1) for n, v in moved.items()}
            ends = {n: _fixed_part(data, n) for n in lanes}
            return {
                n: jnp.stack(
                    [v[:, : ends[n]].max(1, initial=0.0), v[:, ends[n] :].max(1, initial=0.0)]
                )
                for n, v in lanes.items()
            }

        return here, jax.lax.map(touched, jnp.diag(vectors[1]))

    a, b = rng.normal(size=(2, space.size))
    points = np.stack([np.zeros(space.size), a, b, a + b, 2 * a - b])
    run = quick_jit(means) if reading.arguments.traced else means
    values, touched = jax.device_get(run(points, rest, group.data))
    lanes = dict[str, np.ndarray]()
    for site, (zero, at_a, at_b, both, other) in values.items():
        size = max(1.0, float(np.abs(values[site]).max(initial=0.0)))
        off = (1e-9 if zero.dtype == np.float64 else 1e-3) * size
        told = at_a + at_b - zero, 2 * at_a - at_b
        if not np.allclose(both, told[0], atol=off, rtol=0):
            return None
        if not np.allclose(other, told[1], atol=off, rtol=0):
            return None
        lanes[site] = np.asarray(touched[site]) > off  # (coordinates, fixed or not, columns)
    multiplied = np.any(np.concatenate([lane[:, 1] for lane in lanes.values()], 1), axis=1)
    where = space.slices()
    fixed = tuple(n for n, own in where.items() if not np.any(np.atleast_1d(multiplied)[own]))
    met: dict[str, np.ndarray] = {n: np.any(lane, axis=1) for n, lane in lanes.items()}
    groups = _groups(np.concatenate(list(met.values()), 1))
    owners = {n: tuple(_owner(groups, column) for column in m.T) for n, m in met.items()}
    return Means(space.names, fixed, groups, owners)


def _owner(groups: tuple[tuple[int, ...], ...], touched: np.ndarray) -> int:
    """The group whose coordinates touch a column; any where none does, for it moves nothing."""
    return next((i for i, g in enumerate(groups) if touched[list(g)].any()), 0)


def _fixed_part(data: ProgramData, site: str) -> int:
    """How many coefficients of a residual belong to no latent."""
    return data.summed[site].fixed if site in data.summed else 1


def _groups(touched: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Coordinates (rows) that touch no lane (column) of those of another group."""
    left, groups = list(range(len(touched))), []
    while left:
        group, lanes = [left[0]], touched[left[0]]
        while True:
            more = [i for i in left if i not in group and (touched[i] & lanes).any()]
            if not more:
                break
            group += more
            lanes = touched[group].any(0)
        left = [i for i in left if i not in group]
        groups.append(tuple(sorted(group)))
    return tuple(groups)
