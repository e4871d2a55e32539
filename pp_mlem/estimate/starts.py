"""Starting points: random responsibilities, k-means++ on the observed rows, the prior, values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import scipy_cluster, scipy_optimize
from pp_mlem.base.precision import tiny_log
from pp_mlem.data.program_data import ProgramData
from pp_mlem.estimate.splits import Split, split_logs
from pp_mlem.estimate.spread import in_units_of_the_data
from pp_mlem.factors.base import Factor
from pp_mlem.maximise.blocks.numeric import Numeric
from pp_mlem.model.drawing import drawing
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.space import ParameterSpace, is_ordered
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

AssignedLook = Callable[[Target, np.ndarray], np.ndarray]  # (target with clamps, base) -> start
KINDS = ("mixed", "random", "kmeans++", "prior")
SUBSET_ROWS = 10_000
ROUNDS, RELABELLED = 1, 0.2  # of k-means; share of rows whose label is then drawn anew
MOST_COLUMNS = 64  # that are clustered
BASE_WIDTH = 0.5
CENTRE_WIDTH = 1e-3
NEAR_ZERO = 1e-8


def check_init(problem: Problem, init: Any) -> tuple[str, dict[str, np.ndarray]]:
    """(kind, given values) of an `init` argument."""
    if isinstance(init, Split):
        return "mixed", {}
    if isinstance(init, Mapping):
        return "mixed", problem.space.check(init, "init", partial=True)
    if init not in KINDS:
        raise ValueError(
            f"init: received {init!r}, expected one of {list(KINDS)} or a dict of values."
        )
    return init, {}


def starting_vectors(
    model: Model,
    target: Target,
    starts: int,
    seed: int,
    init: Any,
    look: AssignedLook | None = None,
) -> np.ndarray:
    """Unconstrained starting points (starts, size); the same seed gives the same points.

    `look` is the compiled look of the algorithm that follows, where it can assign latents too.
    """
    kind, given = check_init(target.problem, init)
    if given and set(given) == set(target.space.names):
        vector = target.space.to_vector(given)
        return np.broadcast_to(np.asarray(vector), (starts, vector.shape[0]))
    rng = np.random.default_rng(seed)
    latent = bool(model.reading.latents) and kind != "prior"
    assign = _Assignment.of(target, rng, look) if latent else None
    split = min(init.count, starts) if isinstance(init, Split) and assign is not None else 0
    rows = [_one(model, target, kind, given, i, rng, assign) for i in range(starts - split)]
    if split:
        own = np.random.default_rng([seed, 1])  # others stay what they are without splits
        rows += [_from_split(target, init, i, own, assign) for i in range(split)]
    return np.stack(rows).astype(model.dtype)


def _from_split(
    target: Target, split: Split, turn: int, rng: np.random.Generator, assign: Any
) -> np.ndarray:
    space = target.space
    vector = in_units_of_the_data(target, rng.uniform(-1, 1, space.size) * BASE_WIDTH, {})
    vector = np.asarray(assign.draw(vector, False, rng, (split, turn)))
    return np.where(np.isfinite(vector), vector, 0.0)


def _one(
    model: Model,
    target: Target,
    kind: str,
    given: dict[str, np.ndarray],
    i: int,
    rng: np.random.Generator,
    assign: _Assignment | None,
) -> np.ndarray:
    space = target.space
    if kind == "mixed" and i % 2 and _bends(model, target):
        kind = "prior"
    elif kind == "mixed":
        kind = "kmeans++" if i % 2 == 0 else "random"
    if kind == "prior":
        vector: Any = _prior_draw(model, target, int(rng.integers(2**31)))
    else:
        # The first start is near the centre, where linear predictors are about zero whatever the
        # scale of their covariates; never exactly: symmetry is a saddle, and NumPyro's densities in
        # logits have no derivative at zero.
        centre = CENTRE_WIDTH if model.latent_names else NEAR_ZERO
        width = centre if i == 0 else BASE_WIDTH
        vector = _with_values(space, rng.uniform(-1, 1, space.size) * width, given)
        vector = in_units_of_the_data(target, vector, given)
        if assign is not None:
            vector = assign.draw(vector, kind == "kmeans++", rng)
    vector = np.asarray(_with_values(space, vector, given))
    return np.where(np.isfinite(vector), vector, 0.0)


def _bends(model: Model, target: Target) -> bool:
    """Whether parameters enter real latents' means or scales as no closed form maximises (a curve's rate, a
    kernel's length): only a prior tells their order of magnitude."""
    numeric = any(isinstance(b, Numeric) for b in target.problem.blocks)
    return numeric and bool(model.reading.reals) and not model.reading.latents


def _with_values(space: ParameterSpace, vector: Any, given: Mapping[str, Any]) -> Any:
    if not given:
        return vector
    return space.to_vector({**space.to_params(vector), **given})


def _prior_draw(model: Model, target: Target, seed: int) -> jax.Array:
    """A draw from the prior; parameters without a proper prior start near the centre."""
    rng, space = np.random.default_rng(seed), target.space
    centre = space.to_params(rng.uniform(-2, 2, space.size))
    flat = {
        s.name: centre[s.name]
        for s in model.reading.with_role(Role.PARAMETER)
        if s.name in centre and (not s.prior or s.distribution == "ImproperUniform")
    }
    draw = drawing(model.bound, model.arguments)
    dynamic = model.arguments.device_arrays()
    drawn, _ = draw(dynamic, {**target.fixed, **flat}, jax.random.key(seed))
    params = {**flat, **{k: v for k, v in drawn.items() if k in space.names}}
    return space.to_vector(params)


@dataclass(frozen=True)
class _Assignment:
    """Draws starts by one M-step from assigned latents: k-means++ clusters, each latent's of the rows
    that hang on it, or random responsibilities. Of very many rows some stand for all; `weight` is
    what each of them counts.

    `features` holds the rows of each latent that are clustered (units, columns), None where there are
    none; `rows` are those that stand for all, None where all do.
    """

    target: Target
    data: ProgramData
    weight: float
    features: dict[str, np.ndarray | None]
    look: AssignedLook | None
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, target: Target, rng: np.random.Generator, look: AssignedLook | None) -> _Assignment:
        marginal, data, weight = target.marginal, target.data, 1.0
        total, rows = marginal.rows.size, None
        if total > 2 * SUBSET_ROWS:
            rows = np.sort(rng.choice(total, SUBSET_ROWS, replace=False))
            data, weight = _subset(target, rows), total / SUBSET_ROWS
        features = {s.name: _features(target, data, s) for s in target.reading.latents}
        return cls(target, data, weight, features, look, rows)

    def draw(
        self,
        base: Any,
        clustered: bool,
        rng: np.random.Generator,
        split: tuple[Split, int] | None = None,
    ) -> np.ndarray:
        """A start near `base`, whose parameters count where the assignment tells nothing; of a split the one
        whose turn it is."""
        clamps = dict(self.data.clamps)
        tiny = tiny_log(jnp.result_type(float))
        for latent in self.target.reading.latents:
            logs = None if split is None else self._split(latent, *split, rng)
            logs = self._logs(latent, clustered, rng) if logs is None else logs
            hint = np.asarray(logs / -tiny + np.asarray(clamps.get(latent.name, 0.0)))
            clamps[latent.name] = hint.astype(self.target.dtype)
        hinted = replace(self.data, clamps=clamps)
        if self.look is not None:
            return self.look(self.target.on(hinted), np.asarray(base))
        whole = self.target.data if self.data is self.target.data else hinted
        run = self.target.compiled(_from_assignment)
        return np.asarray(run(np.asarray(base), hinted, whole, self.weight))

    def _split(
        self, latent: Site, split: Split, turn: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """log responsibilities (*plates, values) of a start that is split; None where the smaller fit says
        nothing of this latent."""
        held, features = split.posterior.get(latent.name), self.features[latent.name]
        if held is None:
            return None
        if self.rows is not None:
            held = np.take(held, self.rows, axis=0)
        flat = held.reshape(-1, held.shape[-1])
        if features is not None and len(features) != len(flat):
            features = None
        ordered = any(is_ordered(s.support) for s in self.target.space.sites)
        logs = split_logs(flat, latent.size, features, turn, rng, ordered)
        return logs.reshape(*held.shape[:-1], latent.size)

    def _shape(self, latent: Site) -> tuple[int, ...]:
        """Of the plates, with the rows that stand for all."""
        shape = self.target.reading.plate_shape(latent.dims)
        if self.data is self.target.data:
            return tuple(shape)
        whole = self.target.marginal.rows.size
        return tuple(SUBSET_ROWS if n == whole else n for n in shape)

    def _logs(self, latent: Site, clustered: bool, rng: np.random.Generator) -> np.ndarray:
        """log responsibilities (*plates, values)."""
        rows, shape = self.features[latent.name], self._shape(latent)
        if clustered and rows is not None:
            labels = kmeans_labels(rows, latent.size, rng)
            if any(is_ordered(s.support) for s in self.target.space.sites):
                labels = _in_order(labels, rows)
            labels = _named_alike(labels.reshape(shape), self.data.clamps.get(latent.name))
            return np.where(labels[..., None] == np.arange(latent.size), 0.0, np.log(1e-2))
        weights = rng.gamma(0.3, size=(*shape, latent.size)) + 1e-3
        return np.log(weights / weights.sum(-1, keepdims=True))


def _subset(target: Target, rows: np.ndarray) -> ProgramData:
    return replace(target.data, **target.compiled(_cut)(rows))


def _named_alike(labels: np.ndarray, clamps: Any) -> np.ndarray:
    """Clusters numbered as the known labels are, where some are known; `clamps` are (..., values)."""
    if clamps is None:
        return labels
    possible = np.asarray(clamps) >= 0
    known = possible.sum(-1) == 1
    if not known.any():
        return labels
    size = possible.shape[-1]
    counts = np.zeros((size, size))
    np.add.at(counts, (labels[known], possible.argmax(-1)[known]), 1)
    return scipy_optimize.linear_sum_assignment(-counts)[1][labels]


def _in_order(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Clusters numbered along the column (of `rows` (units, columns)) in which their means are farthest
    apart: where the program orders its components, no other numbers would do."""
    known, place = np.unique(labels, return_inverse=True)
    members = place == np.arange(len(known))[:, None]
    means = members @ rows / members.sum(1, keepdims=True)
    rank = means[:, means.std(0).argmax()].argsort().argsort()
    return rank[place]


def _cut(target: Target, rows: jax.Array) -> dict[str, Any]:
    return target.marginal.rows.subset(target.data, rows)


def _from_assignment(
    target: Target, vector: jax.Array, data: ProgramData, whole: ProgramData, weight: jax.Array
) -> jax.Array:
    """The M-step when the latents' posterior is that of `data`'s clamps, each row of `data` counting
    `weight` times."""
    # The assignment alone decides: what the base parameters say of the data depends on units.
    statistics = target.on(data).sweep(vector, jnp.asarray(True)).statistics
    statistics = jax.tree.map(lambda s: s * weight, statistics)
    return target.on(whole).maximise(vector, statistics)


def _features(target: Target, data: ProgramData, latent: Site) -> np.ndarray | None:
    """The observed rows that hang on a latent as standardised columns (units, features), for seeding;
    of very many columns some random directions, which keep distances (Johnson & Lindenstrauss 1984).
    """
    columns = []
    units = 0
    for factor in target.marginal.factors:
        if latent.name not in factor.latents or factor.site not in data.sites:
            continue
        if not set(factor.rows) or not latent.plates <= factor.plates:
            continue
        flat = _unit_columns(target, data, factor, latent)
        if not units or flat.shape[1] == units:
            units = flat.shape[1]
            columns.append(flat.T)
    sizes = target.reading.plate_shape(latent.dims)
    whole = np.prod([units if n == target.marginal.rows.size else n for n in sizes])
    if not columns or units != whole:
        return None
    features = np.concatenate(columns, 1)
    spread = features.std(0)
    features = (features - features.mean(0)) / np.where(spread > 0, spread, 1.0)
    if features.shape[1] > MOST_COLUMNS:
        mix = np.random.default_rng(0).standard_normal((features.shape[1], MOST_COLUMNS))
        features = features @ mix / np.sqrt(MOST_COLUMNS)
    return features if len(np.unique(features, axis=0)) >= latent.size else None


def _unit_columns(target: Target, data: ProgramData, factor: Factor, latent: Site) -> np.ndarray:
    """A site's values (columns, units of the latent): what one unit has several of are columns."""
    value = np.asarray(data.sites[factor.site].value, float)
    names = list(factor.rows)
    extra = [p for p in names if p not in latent.plates]
    flat = value.reshape(-1, value.shape[-1])
    if not extra:
        return flat
    sizes = [target.reading.plates[p].size for p in names]
    axes = [1 + names.index(p) for p in extra]
    cube = np.moveaxis(flat.reshape(-1, *sizes), axes, range(len(extra)))
    # (extra..., columns, units of the latent...)
    return cube.reshape(int(np.prod(cube.shape[: len(extra) + 1])), -1)


def kmeans_labels(features: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (rows,) of k-means++ seeding (Arthur & Vassilvitskii 2007), some of them at random: more
    rounds would lead many starts to one clustering, and so to one optimum."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, labels = scipy_cluster.kmeans2(features, k, ROUNDS, minit="++", rng=rng)
    moved = rng.uniform(size=len(labels)) < RELABELLED
    return np.where(moved, rng.integers(0, k, len(labels)), labels)
