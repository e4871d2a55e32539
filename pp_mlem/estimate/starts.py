"""Starting points: random responsibilities, k-means++ on the observed rows, the prior, values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import tiny_log
from pp_mlem.data.layout import ProgramData
from pp_mlem.model.model import Model
from pp_mlem.program.draw import draw_from_program
from pp_mlem.program.sites import Role
from pp_mlem.target.problem import Problem

KINDS = ("mixed", "random", "kmeans++", "prior")
SUBSET_ROWS = 10_000
BASE_WIDTH = 0.5
CENTRE_WIDTH = 1e-3
NEAR_ZERO = 1e-8


def check_init(problem: Problem, init: Any) -> tuple[str, dict[str, np.ndarray]]:
    """(kind, given values) of an `init` argument."""
    if isinstance(init, Mapping):
        return "mixed", problem.space.check(init, "init", partial=True)
    if init not in KINDS:
        raise ValueError(
            f"init: received {init!r}, expected one of {list(KINDS)} or a dict of values."
        )
    return init, {}


def starting_vectors(
    model: Model,
    problem: Problem,
    fixed: dict[str, jax.Array],
    starts: int,
    seed: int,
    init: Any,
) -> jax.Array:
    """Unconstrained starting points (starts, size); the same seed gives the same points."""
    kind, given = check_init(problem, init)
    if given and set(given) == set(problem.space.names):
        vector = problem.space.to_vector(given)
        return jnp.broadcast_to(vector, (starts, vector.shape[0]))
    rng = np.random.default_rng(seed)
    rows = [_one(model, problem, fixed, kind, given, i, rng) for i in range(starts)]
    return jnp.asarray(np.stack(rows), dtype=model.dtype)


def _one(
    model: Model,
    problem: Problem,
    fixed: dict[str, jax.Array],
    kind: str,
    given: dict[str, np.ndarray],
    i: int,
    rng: np.random.Generator,
) -> np.ndarray:
    space = problem.space
    if kind == "mixed":
        kind = "kmeans++" if i % 2 == 0 else "random"
    if kind == "prior":
        vector = _prior_draw(model, problem, fixed, int(rng.integers(2**31)))
    else:
        # The first start is near the centre, where linear predictors are about zero whatever the
        # scale of their covariates; never exactly: symmetry is a saddle, and NumPyro's densities in
        # logits have no derivative at zero.
        centre = CENTRE_WIDTH if model.reading.latents else NEAR_ZERO
        width = centre if i == 0 else BASE_WIDTH
        base = rng.uniform(-1, 1, space.size) * width
        base = _with_values(problem, base, given)
        vector = base
        if model.reading.latents:
            vector = _from_assignment(model, problem, fixed, base, kind, rng)
    vector = _with_values(problem, vector, given)
    vector = np.asarray(vector)
    return np.where(np.isfinite(vector), vector, 0.0)


def _with_values(problem: Problem, vector: jax.Array, given: Mapping[str, Any]) -> jax.Array:
    if not given:
        return vector
    return problem.space.to_vector({**problem.space.to_params(jnp.asarray(vector)), **given})


def _prior_draw(
    model: Model, problem: Problem, fixed: dict[str, jax.Array], seed: int
) -> jax.Array:
    """A draw from the prior; parameters without a proper prior start near the centre."""
    rng = np.random.default_rng(seed)
    centre = problem.space.to_params(jnp.asarray(rng.uniform(-2, 2, problem.space.size)))
    flat = {
        s.name: centre[s.name]
        for s in model.reading.with_role(Role.PARAMETER)
        if s.name in centre and (not s.prior or s.distribution == "ImproperUniform")
    }
    drawn = draw_from_program(model.arguments, {**fixed, **flat}, jax.random.key(seed))
    params = {**flat, **{k: v for k, v in drawn.items() if k in problem.space.names}}
    return problem.space.to_vector(params)


def _from_assignment(
    model: Model,
    problem: Problem,
    fixed: dict[str, jax.Array],
    base: jax.Array,
    kind: str,
    rng: np.random.Generator,
) -> jax.Array:
    """One M-step from assigned latents: k-means++ clusters or random responsibilities."""
    marginal, data, factor = model.marginal, model.data, 1.0
    rows = None
    if marginal.block_plate is not None:
        total = model.reading.plates[marginal.block_plate].size
        if total > 2 * SUBSET_ROWS:
            rows = np.sort(rng.choice(total, SUBSET_ROWS, replace=False))
            cut = model.compiled("subset", lambda: quick_jit(marginal.subset))
            data, factor = cut(data, jnp.asarray(rows)), total / SUBSET_ROWS
    clamps = dict(data.clamps)
    features = _features(model, data) if kind == "kmeans++" else None
    for latent in model.reading.latents:
        shape = model.reading.plate_shape(latent.dims)
        if rows is not None:
            shape = tuple(len(rows) if n == total else n for n in shape)
        labels = None
        if features is not None and int(np.prod(shape)) == features.shape[0]:
            labels = kmeans_labels(features, latent.size, rng).reshape(shape)
        if labels is None:
            weights = rng.gamma(0.3, size=(*shape, latent.size)) + 1e-3
            logs = np.log(weights / weights.sum(-1, keepdims=True))
        else:
            logs = np.where(labels[..., None] == np.arange(latent.size), 0.0, np.log(1e-2))
        hint = logs / -tiny_log(jnp.result_type(float))
        clamps[latent.name] = np.asarray(
            hint + np.asarray(clamps.get(latent.name, 0.0)), model.dtype
        )
    hinted = replace(data, clamps=clamps)
    laws = {f.site for f in marginal.factors if f.law_of}
    lowest = 0.5 * tiny_log(jnp.result_type(float))  # outside of the support whatever the units

    def step(vector: jax.Array, d: ProgramData, whole: ProgramData, f: Any, scale: Any) -> Any:
        # The assignment alone decides: what the base parameters say of the data depends on units.
        eta = marginal.natural(problem.params(vector, f), d)
        eta = {k: v if k in laws else jnp.where(v < lowest, v, 0.0) for k, v in eta.items()}
        statistics = jax.tree.map(lambda s: s * scale, marginal.statistics_at(eta, d))
        return problem.maximisation(vector, statistics, whole if rows is None else d, f)

    function = model.compiled(
        ("start", frozenset(fixed), problem.with_prior, rows is None), lambda: quick_jit(step)
    )
    return function(base, hinted, model.data if rows is None else hinted, fixed, factor)


def _features(model: Model, data: ProgramData) -> np.ndarray | None:
    """Observed rows as standardised columns (units, features), for seeding."""
    columns = []
    units = None
    for latent in model.reading.latents:
        for factor in model.marginal.factors:
            if latent.name not in factor.latents or factor.site not in data.sites:
                continue
            if not set(factor.rows) or not latent.plates <= factor.plates:
                continue
            value = np.asarray(data.sites[factor.site].value, float)
            names = [p for p in factor.rows]
            extra = [p for p in names if p not in latent.plates]
            flat = value.reshape(-1, value.shape[-1])
            if extra:
                sizes = [model.reading.plates[p].size for p in names]
                cube = np.moveaxis(
                    flat.reshape(-1, *sizes), [1 + names.index(p) for p in extra], range(len(extra))
                )
                flat = cube.reshape(-1, int(np.prod(cube.shape[len(extra) + 1 :])))
            if units is None or flat.shape[1] == units:
                units = flat.shape[1]
                columns.append(flat.T)
        break
    if not columns:
        return None
    features = np.concatenate(columns, 1)[:, :64]
    spread = features.std(0)
    return (features - features.mean(0)) / np.where(spread > 0, spread, 1.0)


def kmeans_labels(
    features: np.ndarray, k: int, rng: np.random.Generator, rounds: int = 4
) -> np.ndarray:
    """k-means++ seeding (Arthur & Vassilvitskii 2007) and a few Lloyd rounds; labels (rows,)."""
    n = features.shape[0]
    centres = [features[rng.integers(n)]]
    distance = ((features - centres[0]) ** 2).sum(1)
    for _ in range(1, k):
        total = distance.sum()
        pick = rng.choice(n, p=distance / total) if total > 0 else rng.integers(n)
        centres.append(features[pick])
        distance = np.minimum(distance, ((features - centres[-1]) ** 2).sum(1))
    means = np.stack(centres)
    squares = (features**2).sum(1)[:, None]
    labels = np.zeros(n, int)
    for _ in range(rounds):
        labels = (squares - 2 * features @ means.T + (means**2).sum(1)).argmin(1)
        for j in range(k):
            inside = features[labels == j]
            if len(inside):
                means[j] = inside.mean(0)
    return labels
