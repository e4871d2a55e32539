"""Relabellings that are no permutation of a parameter's axes: weights θ and 1 - θ, broken sticks,
a softmax with a pinned reference, `mu_0` beside `mu_1`, increments.

An order of a latent's values leaves the likelihood unchanged when the factors of log Z, with that
axis permuted, are the factors at some other parameters θ'. These are found by least squares on the
factors as functions of the unconstrained vector (Levenberg 1944, Marquardt 1963,
doi:10.1137/0111030), which end at zero where θ' exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.groups import Order
from pp_mlem.factors.axes import batch_axes, table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.model.model import Model
from pp_mlem.program.bindings import site_arguments
from pp_mlem.program.messages import Message
from pp_mlem.program.scans.scan import before

IMPOSSIBLE = 1e100  # beyond it an entry stands for minus infinity
ENTRIES = 1500  # of the factors, that the least squares sees
CELLS = 4e6  # of a batch of Jacobians
LARGE = 3e7  # cells of one Jacobian beyond which no relabelling is sought
LANES = 32
ROUNDS = 80
STALL = 12  # rounds within which the distance must shrink by a tenth
BASES = 3
TRAITS = 64  # of one argument
TRAIT_LANES = 256


@dataclass(frozen=True)
class Affine:
    """v' = matrix v + shift, in unconstrained coordinates."""

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.matrix.T + self.shift


@dataclass(frozen=True)
class Solution:
    """An order that some θ' attains at every point tried: the points, θ' there, the map if it is
    affine, and log|det dθ'/dθ| in unconstrained coordinates at the points."""

    points: np.ndarray
    images: np.ndarray
    affine: Affine | None
    log_volumes: np.ndarray


def slot_sets(model: Model, latent: str) -> list[tuple[str, ...]]:
    """What may be relabelled together with a latent: itself (with its state one step earlier);
    all that its chain's states of the same size start from; all of the same size."""
    reading = model.reading
    size = reading.sites[latent].size
    states = {s.origin for s in reading.slots if s.origin}

    def with_earlier(names: Iterable[str]) -> tuple[str, ...]:
        chosen = set(names)
        chosen |= {before(n) for n in chosen if n in states}
        return tuple(s.name for s in reading.slots if s.name in chosen)

    same = {s.name for s in reading.latents if s.size == size}
    joined = {latent}
    for chain in model.marginal.chains:
        members = ({*chain.states, *chain.initial}) & same
        if members & joined:
            joined |= members
    return list(dict.fromkeys(with_earlier(names) for names in ({latent}, joined, same)))


class Factors:
    """The factors of log Z as one flat array of the unconstrained vector, with its Jacobian."""

    def __init__(self, model: Model) -> None:
        self.marginal, self.space = model.marginal, model.space
        shapes = jax.eval_shape(self._natural, jnp.zeros(self.space.size), model.data)
        self.names: list[tuple[Factor, tuple[int, ...], tuple[str, ...]]] = []
        for factor in self.marginal.factors:
            shape = tuple(shapes[factor.site].shape)
            self.names.append((factor, shape, self._axes(factor, shape)))
        self.size = sum(int(np.prod(shape)) for _, shape, _ in self.names)
        self.chosen = self._choice()
        cells = (self.space.size + 1) * max(self.size, 1)
        self.too_large = cells > LARGE
        self.lanes = int(np.clip(CELLS / cells, 1, LANES))
        self._run = quick_jit(jax.vmap(self._with_jacobian, in_axes=(0, None, None)))

    def _choice(self) -> np.ndarray:
        """The entries that the least squares sees: all of small factors, some of large ones."""
        quota = max(ENTRIES // len(self.names), 4 * self.space.size)
        rng, start, parts = np.random.default_rng(0), 0, []
        for _, shape, _ in self.names:
            count = int(np.prod(shape))
            few = np.arange(count) if count <= quota else rng.permutation(count)[:quota]
            parts.append(start + np.sort(few))
            start += count
        return np.concatenate(parts)

    def _natural(self, vector: jax.Array, data: Any) -> dict[str, jax.Array]:
        return self.marginal.natural(self.space.constrain(vector), data)

    def _flat(self, vector: jax.Array, data: Any) -> jax.Array:
        eta = self._natural(vector, data)
        return jnp.concatenate([eta[f.site].ravel() for f in self.marginal.factors])

    def _with_jacobian(self, vector: jax.Array, index: jax.Array, data: Any) -> tuple:
        def both(v: jax.Array) -> tuple[jax.Array, jax.Array]:
            flat = self._flat(v, data)
            return flat[index], flat

        return jax.jacfwd(both, has_aux=True)(vector)

    def _axes(self, factor: Factor, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Which latent each axis belongs to, "" for all others."""
        reading = self.marginal.reading
        if factor.kind == "family":
            depth = len(factor.layout) - reading.sites[factor.site].columns
            lead = len(shape) - 1 - len(factor.layout)
            own = table_axes(reading, factor.site, factor.latents, shape[:lead] + (1,) * depth)[
                :lead
            ]
            own += ("",) * (len(shape) - lead)
        else:
            own = table_axes(reading, factor.site, factor.latents, shape)
        slots = {s.name for s in reading.slots}
        return tuple(n if n in slots else "" for n in own)

    def permutation(self, slots: tuple[str, ...], order: Order) -> np.ndarray:
        """Where each entry is taken from when the values of `slots` are put in `order`."""
        start, parts = 0, []
        for _, shape, axes in self.names:
            index = start + np.arange(int(np.prod(shape))).reshape(shape)
            for axis, name in enumerate(axes):
                if name in slots:
                    index = np.take(index, order, axis)
            parts.append(index.ravel())
            start += index.size
        return np.concatenate(parts)

    def depends_on(self, slots: tuple[str, ...]) -> bool:
        return any(name in slots for _, _, axes in self.names for name in axes)

    def at(self, model: Model, vectors: np.ndarray, index: np.ndarray) -> tuple:
        """(entries (lanes, size), Jacobian of the entries `index` (lanes, index, parameters))."""
        values, slopes = [], []
        for first in range(0, len(vectors), self.lanes):
            some = vectors[first : first + self.lanes]
            padded = np.concatenate([some, np.repeat(some[-1:], self.lanes - len(some), 0)])
            slope, value = self._run(jnp.asarray(padded), jnp.asarray(index), model.data)
            values.append(np.asarray(value, float)[: len(some)])
            slopes.append(np.asarray(slope, float)[: len(some)])
        return np.concatenate(values), np.concatenate(slopes)


class Relabeller:
    """Finds and applies the maps of the parameters that permute a latent's values."""

    def __init__(self, model: Model) -> None:
        with working_precision(model.dtype):
            self.factors = Factors(model)
        self.tolerance = 1e-9 if model.dtype == np.float64 else 1e-4
        self.solutions: dict[tuple, Solution | None] = {}

    # --- least squares ----------------------------------------------------------------------

    def solve(
        self, model: Model, starts: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose chosen entries are nearest to `targets` (lanes, chosen), from `starts`;
        and which reached them to rounding."""
        index = self.factors.chosen
        sound = np.abs(targets) < IMPOSSIBLE
        weights = np.where(sound, 1 / (1 + np.abs(np.where(sound, targets, 0.0))), 0.0)

        def look(vectors: np.ndarray, lanes: np.ndarray) -> tuple:
            flat, slope = self.factors.at(model, vectors, index)
            here = flat[:, index]
            alike = (np.abs(here) < IMPOSSIBLE) == sound[lanes]
            both = alike & sound[lanes]  # elsewhere both may be minus infinity
            gap = np.subtract(targets[lanes], here, out=np.zeros_like(here), where=both)
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
            found = look(trial, live)
            better = found[0] < cost[live]
            moved = live[better]
            best[moved] = trial[better]
            cost[moved], gap[moved], slope[moved] = (a[better] for a in found)
            damping[live] = np.where(better, damping[live] * 0.1, damping[live] * 8)
            damping = np.maximum(damping, 1e-15)
            history.append(cost.copy())
        return best, np.abs(gap).max(1, initial=0.0) <= self.tolerance

    # --- finding ----------------------------------------------------------------------------

    def find(
        self, model: Model, slots: tuple[str, ...], orders: list[Order]
    ) -> dict[Order, Solution]:
        """Which of these orders of the values of `slots` some parameters attain."""
        missing = [o for o in orders if (slots, o) not in self.solutions]
        self.solutions.update({(slots, o): None for o in missing})
        if missing and self.factors.depends_on(slots) and not self.factors.too_large:
            with working_precision(model.dtype):
                self._search(model, slots, missing)
        found = {o: self.solutions[slots, o] for o in orders}
        return {o: s for o, s in found.items() if s is not None}

    def _search(self, model: Model, slots: tuple[str, ...], orders: list[Order]) -> None:
        size = model.space.size
        rng = np.random.default_rng(11)
        bases = rng.uniform(-1, 1, (BASES, size))
        flat, slope = self.factors.at(model, bases, self.factors.chosen)
        index = self.factors.chosen
        permuted = {o: self.factors.permutation(slots, o) for o in orders}
        constant = np.full(self.factors.size, np.nan)
        same = (flat[:, index] == flat[:1, index]).all(
            0
        )  # log 0 of values outside of a support, too
        still = (np.abs(slope).max((0, 2), initial=0.0) == 0) & same
        constant[index[still]] = flat[0, index[still]]
        orders = [o for o in orders if _same_constants(constant, permuted[o], index)]
        if not orders:
            return
        # from a few points for the first base, then from what was learnt there
        starts, targets = [], []
        for order in orders:
            starts.append([bases[0], self._permuted_axes(model, bases[:1], order)[0], -bases[0],
                           0 * bases[0]])  # fmt: skip
            targets.append(flat[0][permuted[order]][index])
        tries = len(starts[0])
        ends, reached = self.solve(
            model, np.reshape(starts, (-1, size)), np.repeat(np.stack(targets), tries, 0)
        )
        ends, reached = ends.reshape(len(orders), tries, size), reached.reshape(-1, tries)
        for i, order in enumerate(orders):
            if reached[i].any():
                first = ends[i][np.flatnonzero(reached[i])[0]]
                self._confirm(model, slots, order, bases, flat, permuted[order], first)

    def _permuted_axes(self, model: Model, vectors: np.ndarray, order: Order) -> np.ndarray:
        """Vectors with every axis of the latent's length permuted: where a search may start."""
        space = model.space
        axes = {
            s.name: [a + 1 for a, n in enumerate(s.shape) if n == len(order)] for s in space.sites
        }

        def permute(points: jax.Array, index: jax.Array) -> jax.Array:
            params = jax.vmap(space.constrain)(points)
            for name, found in axes.items():
                for axis in found:
                    params[name] = jnp.take(params[name], index, axis)
            return jax.vmap(space.unconstrain)(params)

        run = model.compiled(("permuted axes", len(order)), lambda: quick_jit(permute))
        parts = []
        for first in range(0, len(vectors), LANES):
            some = vectors[first : first + LANES]
            padded = np.concatenate([some, np.repeat(some[-1:], LANES - len(some), 0)])
            moved = run(jnp.asarray(padded), jnp.asarray(order))
            parts.append(np.asarray(moved, float)[: len(some)])
        moved = np.concatenate(parts)
        return np.where(np.all(np.isfinite(moved), 1, keepdims=True), moved, vectors)

    def _confirm(
        self,
        model: Model,
        slots: tuple[str, ...],
        order: Order,
        bases: np.ndarray,
        flat: np.ndarray,
        permuted: np.ndarray,
        first: np.ndarray,
    ) -> None:
        """Keep the order if the other bases have images too, and all entries agree there."""
        index = self.factors.chosen
        _, along = self.factors.at(model, first[None], index)
        _, across = self.factors.at(model, bases, permuted[index])
        matrix = np.linalg.lstsq(along[0], across[0], rcond=1e-10)[0]
        guess = first + (bases[1:] - bases[0]) @ matrix.T
        ends, reached = self.solve(
            model, np.concatenate([guess, bases[1:]]),
            np.concatenate([flat[1:][:, permuted][:, index]] * 2),
        )  # fmt: skip
        images = [first]
        for i in range(len(bases) - 1):
            if not reached[i] and not reached[i + len(bases) - 1]:
                return
            images.append(ends[i] if reached[i] else ends[i + len(bases) - 1])
        images = np.stack(images)
        there, slopes = self.factors.at(model, images, index)
        wanted = flat[:, permuted]
        if not np.allclose(there, wanted, rtol=1e2 * self.tolerance, atol=1e2 * self.tolerance):
            return
        matrices = [
            np.linalg.lstsq(a, b, rcond=1e-10)[0] for a, b in zip(slopes, across, strict=True)
        ]
        volumes = np.array([np.linalg.slogdet(m)[1] for m in matrices])
        affine = _affine(bases, images, matrices)
        self.solutions[slots, order] = Solution(bases, images, affine, volumes)

    # --- applying ---------------------------------------------------------------------------

    def apply(
        self,
        model: Model,
        vectors: np.ndarray,
        slots: tuple[str, ...],
        order: Order,
        word: tuple[Order, ...] = (),
        near: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (lanes, size) with the values of `slots` put in `order`, and which could be.

        `word` are orders of known solutions that make up `order`; `near` a vector close to which
        the images are expected.
        """
        if order == tuple(range(len(order))):
            return vectors, np.ones(len(vectors), bool)
        known = [self.solutions.get((slots, o)) for o in word]
        if known and all(s is not None and s.affine is not None for s in known):
            for solution in known:
                vectors = solution.affine(vectors)
            return vectors, np.ones(len(vectors), bool)
        with working_precision(model.dtype):
            index = self.factors.chosen
            permuted = self.factors.permutation(slots, order)
            found, done = np.array(vectors, float), np.zeros(len(vectors), bool)
            tries = [] if near is None else [np.broadcast_to(near, vectors.shape)]
            tries += [self._permuted_axes(model, vectors, order), vectors, np.zeros_like(vectors)]
            for starts in tries:
                left = np.flatnonzero(~done)
                for part in np.array_split(left, max(1, -(-len(left) // (8 * LANES)))):
                    if not len(part):
                        continue
                    flat, _ = self.factors.at(model, vectors[part], index[:1])
                    ends, reached = self.solve(model, starts[part], flat[:, permuted[index]])
                    found[part[reached]], done[part[reached]] = ends[reached], True
        return found, done

    # --- what tells the values of a latent apart --------------------------------------------

    def traits(self, model: Model, vectors: np.ndarray, slots: tuple[str, ...]) -> np.ndarray:
        """(lanes, values, traits): what tells the values of a latent apart. Arguments of the
        observed sites' distributions, then probabilities of the values; the diagonal of what has
        several axes of them (a transition)."""
        with working_precision(model.dtype):
            run = model.compiled(("traits", slots), lambda: quick_jit(jax.vmap(
                lambda v, d: self._traits(v, d, slots), in_axes=(0, None)
            )))  # fmt: skip
            parts = [
                np.asarray(run(jnp.asarray(vectors[i : i + TRAIT_LANES]), model.data), float)
                for i in range(0, len(vectors), TRAIT_LANES)
            ]
        return np.concatenate(parts)

    def _traits(self, vector: jax.Array, data: Any, slots: tuple[str, ...]) -> jax.Array:
        marginal = self.factors.marginal
        reading = marginal.reading
        factors = {f.site: f for f in marginal.factors if set(f.latents) & set(slots)}
        params = self.factors.space.constrain(vector)
        trailing: dict[tuple[str, str], int] = {}

        def arguments(message: Message) -> dict[str, jax.Array]:
            if message.kind != "sample" or factors[message.name].law_of:
                return {}
            return site_arguments(message, trailing)

        found = reading.run(params, data.dynamic, arguments, wanted=frozenset(factors))
        eta = marginal.natural(params, data, frozenset(factors))
        outer = [s.name for s in reading.slots if s.vmapped]
        columns, weights = [], []
        for name, factor in factors.items():
            own = []
            for argument, value in found[name].items():
                batch = value.shape[: value.ndim - trailing[name, argument]]
                axes = [*outer, *batch_axes(reading, name, batch[len(outer) :])]
                own += _by_value(value, axes, slots)
            if not own:
                _, shape, axes = next(n for n in self.factors.names if n[0].site == name)
                table = jnp.exp(eta[name]) if factor.law_of else eta[name]
                own = _by_value(table.reshape(shape), axes, slots)
            (weights if factor.law_of else columns).extend(own)
        return jnp.concatenate([*columns, *weights], 1)


def _by_value(value: jax.Array, axes: Any, slots: tuple[str, ...]) -> list[jax.Array]:
    """An array as (values, others), if it has axes of `slots`: their diagonal, and of the others
    so many that they can be compared."""
    sizes = value.shape
    own = [i for i, name in enumerate(axes) if name in slots and sizes[i] > 1]
    if not own:
        return []
    moved = jnp.moveaxis(value, own, range(len(own)))
    every = np.arange(moved.shape[0])
    flat = moved[tuple([every] * len(own))].reshape(len(every), -1)
    return [flat[:, :: max(1, flat.shape[1] // TRAITS)]]


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
