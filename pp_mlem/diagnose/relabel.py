"""Relabellings that are no permutation of a parameter's axes: weights θ and 1 - θ, broken sticks,
a softmax with a pinned reference, `mu_0` beside `mu_1`, increments.

An order of a latent's values leaves the likelihood unchanged when the factors of log Z, with that
axis permuted, are the factors at some other parameters θ'. These are found by least squares on the
factors as functions of the unconstrained vector (Levenberg 1944, Marquardt 1963,
doi:10.1137/0111030), which end at zero where θ' exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.diagnose.entries import LANES, Entries, padded
from pp_mlem.diagnose.groups import Order
from pp_mlem.target.parts import without_rows
from pp_mlem.target.target import Target

IMPOSSIBLE = 1e100  # beyond it an entry stands for minus infinity
ROUNDS = 80
STALL = 12  # rounds within which the distance must shrink by a tenth
BASES = 3


@dataclass(frozen=True)
class Affine:
    """v' = matrix v + shift, in unconstrained coordinates."""

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.matrix.T + self.shift


@dataclass(frozen=True)
class Relabelling:
    """An order that some θ' attains at every point tried: the points, θ' there, the map if it is
    affine, and log|det dθ'/dθ| in unconstrained coordinates at the points."""

    points: np.ndarray
    images: np.ndarray
    affine: Affine | None
    log_volumes: np.ndarray


@dataclass(frozen=True)
class _Bases:
    """Points at which orders are tried, all entries there, the Jacobian of the chosen ones."""

    points: np.ndarray
    flat: np.ndarray
    slope: np.ndarray


class Relabeller:
    """Finds and applies the maps of the parameters that permute a latent's values.

    It keeps what was found for a structure. Targets have no fixed parameters and may be on any data
    of their shapes; all is computed in their precision, which the caller has entered.
    """

    def __init__(self, target: Target) -> None:
        self.entries = Entries(target)
        self.tolerance = 1e-9 if target.dtype == np.float64 else 1e-4
        self.known: dict[tuple[tuple[str, ...], Order], Relabelling | None] = {}

    # --- least squares ----------------------------------------------------------------------

    def solve(
        self, target: Target, starts: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose chosen entries are nearest to `wanted` (lanes, chosen), from `starts`;
        and which reached them to rounding."""
        index = self.entries.chosen
        sound = np.abs(wanted) < IMPOSSIBLE
        weights = np.where(sound, 1 / (1 + np.abs(np.where(sound, wanted, 0.0))), 0.0)

        def look(vectors: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, ...]:
            flat, slope = self.entries.at(target, vectors, index)
            here = flat[:, index]
            alike = (np.abs(here) < IMPOSSIBLE) == sound[lanes]
            both = alike & sound[lanes]  # elsewhere both may be minus infinity
            gap = np.subtract(wanted[lanes], here, out=np.zeros_like(here), where=both)
            gap = np.where(alike, gap * weights[lanes], np.inf)
            with np.errstate(over="ignore", invalid="ignore"):
                cost = (gap**2).sum(1)
            return np.where(np.isfinite(cost), cost, np.inf), gap, slope * weights[lanes][..., None]

        best = np.array(starts, float)
        every = np.arange(len(best))
        cost, gap, slope = look(best, every)
        damping, history = np.full(len(best), 1e-3), [cost]
        ended = np.zeros(len(best), bool)
        for _ in range(ROUNDS):
            near = np.abs(gap).max(1, initial=0.0) <= 0.01 * self.tolerance
            stalled = len(history) > STALL and history[-1] > 0.9 * history[-1 - STALL]
            ended |= near | ~np.isfinite(cost) | (damping > 1e12) | stalled
            live = np.flatnonzero(~ended)
            if not len(live):
                break
            trial = best[live] + _step(gap[live], slope[live], damping[live])
            new = look(trial, live)
            better = new[0] < cost[live]
            moved = live[better]
            best[moved] = trial[better]
            cost[moved], gap[moved], slope[moved] = (a[better] for a in new)
            damping[live] = np.where(better, damping[live] * 0.1, damping[live] * 8)
            damping = np.maximum(damping, 1e-15)
            history.append(cost.copy())
        return best, np.abs(gap).max(1, initial=0.0) <= self.tolerance

    # --- finding ----------------------------------------------------------------------------

    def find(
        self, target: Target, slots: tuple[str, ...], orders: list[Order]
    ) -> dict[Order, Relabelling]:
        """Which of these orders of the values of `slots` some parameters attain."""
        missing = [o for o in orders if (slots, o) not in self.known]
        self.known.update({(slots, o): None for o in missing})
        if missing and self.entries.depends_on(slots) and not self.entries.too_large:
            self._search(target, slots, missing)
        attained = {o: self.known[slots, o] for o in orders}
        return {o: r for o, r in attained.items() if r is not None}

    def _search(self, target: Target, slots: tuple[str, ...], orders: list[Order]) -> None:
        """From a few points for the first base, then from what was learnt there."""
        size, index = target.space.size, self.entries.chosen
        points = np.random.default_rng(11).uniform(-1, 1, (BASES, size))
        bases = _Bases(points, *self.entries.at(target, points, index))
        permuted = {o: self.entries.permutation(slots, o) for o in orders}
        constant = self._constants(bases)
        orders = [o for o in orders if _same_constants(constant, permuted[o], index)]
        if not orders:
            return
        first = points[0]
        starts = [
            [first, self._permuted_axes(target, points[:1], order)[0], -first, 0 * first]
            for order in orders
        ]
        tries = len(starts[0])
        wanted = np.stack([bases.flat[0][permuted[order]][index] for order in orders])
        ends, reached = self.solve(
            target, np.reshape(starts, (-1, size)), np.repeat(wanted, tries, 0)
        )
        ends, reached = ends.reshape(len(orders), tries, size), reached.reshape(-1, tries)
        for i, order in enumerate(orders):
            if reached[i].any():
                image = ends[i][np.flatnonzero(reached[i])[0]]
                self.known[slots, order] = self._confirmed(target, bases, permuted[order], image)

    def _constants(self, bases: _Bases) -> np.ndarray:
        """The entries that no parameter moves (log 0 of values outside of a support, too); NaN
        elsewhere."""
        index = self.entries.chosen
        chosen = bases.flat[:, index]
        still = np.abs(bases.slope).max((0, 2), initial=0.0) == 0
        still &= (chosen == chosen[:1]).all(0)
        constant = np.full(self.entries.size, np.nan)
        constant[index[still]] = chosen[0, still]
        return constant

    def _permuted_axes(self, target: Target, vectors: np.ndarray, order: Order) -> np.ndarray:
        """Vectors with every axis of the latent's length permuted: where a search may start."""
        run = target.compiled(_permute_axes, len(order))
        parts = []
        for first in range(0, len(vectors), LANES):
            some = vectors[first : first + LANES]
            moved = run(np.asarray(padded(some, LANES)), np.asarray(order))
            parts.append(np.asarray(moved, float)[: len(some)])
        moved = np.concatenate(parts)
        return np.where(np.all(np.isfinite(moved), 1, keepdims=True), moved, vectors)

    def _confirmed(
        self, target: Target, bases: _Bases, permuted: np.ndarray, image: np.ndarray
    ) -> Relabelling | None:
        """The relabelling that takes the first base to `image`, if the other bases have images too
        and all entries agree there."""
        index, points = self.entries.chosen, bases.points
        _, along = self.entries.at(target, image[None], index)
        _, across = self.entries.at(target, points, permuted[index])
        matrix = np.linalg.lstsq(along[0], across[0], rcond=1e-10)[0]
        guess = image + (points[1:] - points[0]) @ matrix.T
        ends, reached = self.solve(
            target, np.concatenate([guess, points[1:]]),
            np.concatenate([bases.flat[1:][:, permuted][:, index]] * 2),
        )  # fmt: skip
        others = len(points) - 1
        which = [i if reached[i] else i + others for i in range(others)]
        if not reached[which].all():
            return None
        images = np.stack([image, *ends[which]])
        there, slopes = self.entries.at(target, images, index)
        wide = 1e2 * self.tolerance
        if not np.allclose(there, bases.flat[:, permuted], rtol=wide, atol=wide):
            return None
        matrices = [
            np.linalg.lstsq(a, b, rcond=1e-10)[0] for a, b in zip(slopes, across, strict=True)
        ]
        volumes = np.array([np.linalg.slogdet(m)[1] for m in matrices])
        return Relabelling(points, images, _affine(points, images, matrices), volumes)

    # --- applying ---------------------------------------------------------------------------

    def apply(
        self,
        target: Target,
        vectors: np.ndarray,
        slots: tuple[str, ...],
        order: Order,
        word: tuple[Order, ...] = (),
        near: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (lanes, size) with the values of `slots` put in `order`, and which could be.

        `word` are orders of known relabellings that make up `order`; `near` a vector close to which
        the images are expected.
        """
        if order == tuple(range(len(order))):
            return vectors, np.ones(len(vectors), bool)
        maps = [r.affine for o in word if (r := self.known.get((slots, o))) is not None]
        affine = [m for m in maps if m is not None]
        if word and len(affine) == len(word):
            for one in affine:
                vectors = one(vectors)
            return vectors, np.ones(len(vectors), bool)
        index = self.entries.chosen
        permuted = self.entries.permutation(slots, order)
        images, done = np.array(vectors, float), np.zeros(len(vectors), bool)
        tries = [] if near is None else [np.broadcast_to(near, vectors.shape)]
        tries += [self._permuted_axes(target, vectors, order), vectors, np.zeros_like(vectors)]
        for starts in tries:
            left = np.flatnonzero(~done)
            for part in np.array_split(left, max(1, -(-len(left) // (8 * LANES)))):
                if not len(part):
                    continue
                flat, _ = self.entries.at(target, vectors[part], index[:1])
                ends, reached = self.solve(target, starts[part], flat[:, permuted[index]])
                images[part[reached]], done[part[reached]] = ends[reached], True
        return images, done


@without_rows
def _permute_axes(target: Target, size: int, vectors: jax.Array, order: jax.Array) -> jax.Array:
    """Vectors with every axis of this size of every parameter in an order. Traceable."""
    space = target.space
    params = jax.vmap(space.constrain)(vectors)
    for site in space.sites:
        for axis, n in enumerate(site.shape):
            if n == size:
                params[site.name] = jnp.take(params[site.name], order, axis + 1)
    return jax.vmap(space.unconstrain)(params)


def _step(gap: np.ndarray, slope: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """The damped Gauss-Newton step of each lane, no longer than 5."""
    normal = np.einsum("lsp,lsq->lpq", slope, slope)
    pull = np.einsum("lsp,ls->lp", slope, gap)
    diagonal = np.einsum("lpp->lp", normal)
    floor = 1e-9 * diagonal.max(1, initial=1e-12, keepdims=True) + 1e-12
    extra = damping[:, None] * np.maximum(diagonal, floor) + 1e-15 * floor
    normal = normal + np.eye(normal.shape[1]) * extra[:, None, :]
    step = np.linalg.solve(normal, pull[..., None])[..., 0]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return step * np.minimum(1.0, 5.0 / np.maximum(length, 1e-300))


def _same_constants(constant: np.ndarray, permuted: np.ndarray, index: np.ndarray) -> bool:
    """Whether entries that no parameter moves are mapped to their equals."""
    inside = np.zeros(len(constant), bool)
    inside[index] = True
    both = inside & inside[permuted]
    a, b = constant[both], constant[permuted][both]
    return bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


def _affine(points: np.ndarray, images: np.ndarray, matrices: list[np.ndarray]) -> Affine | None:
    matrix = matrices[0]
    whole = np.round(matrix)
    matrix = whole if np.allclose(matrix, whole, atol=1e-6) else matrix
    shift = images[0] - matrix @ points[0]
    shift = np.where(np.abs(shift) < 1e-8, 0.0, shift)
    same = all(np.allclose(m, matrix, rtol=1e-6, atol=1e-6) for m in matrices)
    fits = np.allclose(points @ matrix.T + shift, images, rtol=1e-7, atol=1e-7)
    return Affine(matrix, shift) if same and fits else None
