"""Vectors with missing entries: likelihood, EM, imputation and what is told, against plain NumPy row by row."""

from __future__ import annotations

import json
from importlib.machinery import SourceFileLoader
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from conftest import SHARED
from gaussian_programs import GROUP, random_intercepts
from missing_programs import (
    COVARIATE,
    WEIGHTS,
    X,
    Z,
    answers,
    chain,
    chain_density,
    chain_shares,
    classes,
    columns,
    columns_of_factors,
    conditional,
    covariate,
    covariates,
    density,
    driven_chain,
    factors,
    gathered,
    joint_of_covariates,
    mixed,
    mixed_conditional,
    mixture,
    nested,
    normal,
    regression,
    row_density,
    textbook_step,
    weighted,
    with_holes,
)

from pp_mlem import Model, compare, fit_em, fit_laplace, fit_map, fit_mle, load, pool
from pp_mlem.base.precision import working_precision
from pp_mlem.factors import patterns as pattern_code
from pp_mlem.potentials.sweep import completed, integrated
from pp_mlem.show.catalogue import find_model, shelf_folder

S = np.eye(3) + 0.2
MEANS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0]])
LOADS = np.arange(1.0, 4.0)
RNG = np.random.default_rng(11)
NORMAL = {"mu": np.array([1.0, 4.0, 101.0]), "S": 2 * S}
REGRESSION = {"B": RNG.normal(size=(2, 3)), "S": S}
COLUMNS = {"mu": MEANS, "S": np.stack([S, 2 * S])}
MIXTURE = {"w": np.array([0.3, 0.7]), "mu": MEANS, "S": np.stack([S, 2 * S])}
CHAIN = {"P": np.array([[0.7, 0.3], [0.2, 0.8]]), "mu": MEANS, "S": S}
FACTORS = {"mu": MEANS[0], "W": RNG.normal(size=(3, 2)), "S": S}
MIXED = {"w": MIXTURE["w"], "B": np.ones(3), "mu": MEANS, "tau": 0.7, "S": S}
PAIR = np.stack([X, X[::-1]], 1)
WHOLE = S + 0.7**2 * np.outer(LOADS, LOADS)  # of a row of `mixed`


def of_mixture(rows, means, covariances):
    parts = [
        np.log(w) + density(rows, m, c)
        for w, m, c in zip(MIXTURE["w"], means, covariances, strict=True)
    ]
    return np.logaddexp(*parts)


def of_chain(moved=0.0):
    logs = np.stack([density(Z[:8], m + moved, S) for m in MEANS], 1)
    return chain_density(logs, CHAIN["P"])


def of_mixed():
    means = [m + COVARIATE[:, None] for m in MEANS]
    return of_mixture(Z, means, [WHOLE] * 2).sum()


PROGRAMS = {  # program, arguments, options, parameters, log-likelihood by scipy
    "normal": (normal, (X,), {}, NORMAL, lambda: density(X, *NORMAL.values()).sum()),
    "weighted": (
        weighted, (X, WEIGHTS), {}, NORMAL, lambda: (WEIGHTS * density(X, *NORMAL.values())).sum(),
    ),
    "regression": (
        regression, (Z, COVARIATE), {}, REGRESSION,
        lambda: density(Z, np.stack([np.ones(30), COVARIATE], 1) @ REGRESSION["B"], S).sum(),
    ),
    "columns": (
        columns, (PAIR,), {}, COLUMNS,
        lambda: density(X, MEANS[0], S).sum() + density(X[::-1], MEANS[1], 2 * S).sum(),
    ),
    "mixture": (mixture, (Z,), {}, MIXTURE, lambda: of_mixture(Z, MEANS, MIXTURE["S"]).sum()),
    "chain": (chain, (Z[:8],), {}, CHAIN, of_chain),
    "driven": (
        driven_chain, (Z[:8], COVARIATE[:8]), {}, CHAIN | {"b": np.ones(3)},
        lambda: of_chain(COVARIATE[:8, None]),
    ),
    "factors": (
        factors, (Z,), {"latents": {"u"}}, FACTORS,
        lambda: density(Z, MEANS[0], FACTORS["W"] @ FACTORS["W"].T + S).sum(),
    ),
    "mixed": (mixed, (Z, COVARIATE, None), {"latents": {"u"}}, MIXED, of_mixed),
}  # fmt: skip
LONG = {"mixed", "chain", "driven", "columns"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in PROGRAMS]
MODELS: dict[str, Model] = {}


def model_of(name):
    if name not in MODELS:
        program, arguments, options, *_ = PROGRAMS[name]
        MODELS[name] = Model(program, *arguments, **options)
    return MODELS[name]


@pytest.mark.parametrize("name", NAMES)
def test_log_likelihood(name):
    *_, params, value = PROGRAMS[name]
    assert model_of(name).log_likelihood(params) == pytest.approx(value(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pointwise_adds_up(name):
    *_, params, value = PROGRAMS[name]
    own = model_of(name).pointwise_log_likelihood(params)
    assert own.sum() == pytest.approx(value(), rel=1e-11)


def one_step(target, vector):
    return target.em_step(vector)[0]


def em_steps(model, params, count):
    """The parameters after each of so many steps of plain EM."""
    with working_precision(model.dtype):
        target = model.target()
        vector, found = target.space.to_vector(params), []
        step = target.compiled(one_step)
        for _ in range(count):
            vector = step(vector)
            found.append({k: np.asarray(v) for k, v in target.params(vector).items()})
    return found


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_em_is_the_textbook_sweep(weights):
    mean, covariance = np.array([0.0, 1.0, 90.0]), 4 * np.eye(3)
    model = model_of("normal" if weights is None else "weighted")
    for params in em_steps(model, {"mu": mean, "S": covariance}, 8):
        mean, covariance = textbook_step(X, mean, covariance, weights)
        np.testing.assert_allclose(params["mu"], mean, rtol=1e-12)
        np.testing.assert_allclose(params["S"], covariance, rtol=1e-10, atol=1e-12)


def test_em_of_a_regression_is_the_textbook_sweep():
    """Vectors on a covariate: least squares of the completed responses (Little & Rubin, section 11.4)."""
    design = np.stack([np.ones(30), COVARIATE], 1)[~np.isnan(Z).all(1)]
    rows, coefficients, covariance = Z[~np.isnan(Z).all(1)], REGRESSION["B"], S
    for params in em_steps(model_of("regression"), REGRESSION, 3):
        parts = [
            conditional(r, m, covariance) for r, m in zip(rows, design @ coefficients, strict=True)
        ]
        filled = np.stack([p[0] for p in parts])
        coefficients = np.linalg.lstsq(design, filled, rcond=None)[0]
        left = filled - design @ coefficients
        covariance = (left.T @ left + sum(p[1] for p in parts)) / len(rows)
        np.testing.assert_allclose(params["B"], coefficients, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(params["S"], covariance, rtol=1e-9, atol=1e-11)
    (block,) = model_of("regression").problem({}, False).blocks
    assert block.method == "closed, in turn"


def test_em_of_a_mixture_is_the_textbook_sweep():
    """Hunt & Jorgensen (2003), doi:10.1016/S0167-9473(02)00190-1: each component's sweep, weighted."""
    shares, means, covariances = MIXTURE.values()
    (params,) = em_steps(model_of("mixture"), MIXTURE, 1)
    logs = np.stack(
        [np.log(w) + density(Z, m, c) for w, m, c in zip(shares, means, covariances, strict=True)],
        1,
    )
    posterior = np.exp(logs - np.logaddexp.reduce(logs, 1)[:, None])
    for k in range(2):
        mean, covariance = textbook_step(Z, means[k], covariances[k], posterior[:, k])
        np.testing.assert_allclose(params["mu"][k], mean, rtol=1e-10)
        np.testing.assert_allclose(params["S"][k], covariance, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["normal", "regression", "factors", pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_em_and_mle_agree(name):
    model = model_of(name)
    em, mle = fit_em(model, starts=1, seed=1), fit_mle(model, starts=1, seed=1)
    if em.log_likelihood < mle.log_likelihood:  # each has its luck with the start
        em = fit_em(model, init=mle.params)
    else:
        mle = fit_mle(model, init=em.params)
    assert em.converged and mle.converged
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-7)
    assert (np.diff(em.history) > -1e-9).all()


def test_standard_errors_are_those_of_the_curvature():
    """Against second differences of the likelihood by scipy."""
    fit = fit_em(model_of("normal"), starts=1)
    lower = np.tril_indices(3)

    def value(vector):
        covariance = np.zeros((3, 3))
        covariance[lower] = vector[3:]
        covariance = covariance + covariance.T - np.diag(np.diag(covariance))
        return density(X, vector[:3], covariance).sum()

    here = np.concatenate([fit.params["mu"], fit.params["S"][lower]])
    step, size = 5e-5, len(here)
    eye = step * np.eye(size)
    hessian = np.array([
        [
            sum(a * b * value(here + a * eye[i] + b * eye[j]) for a in (1, -1) for b in (1, -1))
            for j in range(size)
        ]
        for i in range(size)
    ]) / (4 * step**2)  # fmt: skip
    errors = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    ours = fit.standard_errors()
    names = [f"mu[{i}]" for i in range(3)] + [f"S[{i},{j}]" for i, j in zip(*lower, strict=True)]
    np.testing.assert_allclose(ours[names], errors, rtol=2e-4)


# --- the code below -------------------------------------------------------------------------


def test_integrated_is_the_schur_complement():
    root = RNG.normal(size=(5, 5))
    matrix, gone = root @ root.T + np.eye(5), np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    left, m = [0, 2, 4], [1, 3]
    with jax.enable_x64():
        found, constant = integrated(jnp.asarray(matrix), jnp.asarray(gone))
        whole, spread = completed(jnp.asarray(matrix), jnp.asarray(gone))
    inner, across = np.linalg.inv(matrix[np.ix_(m, m)]), matrix[np.ix_(m, left)]
    np.testing.assert_allclose(
        np.asarray(found)[np.ix_(left, left)],
        matrix[np.ix_(left, left)] - across.T @ inner @ across,
        rtol=1e-12,
    )
    assert not np.asarray(found)[m].any()
    half = np.linalg.slogdet(matrix[np.ix_(m, m)])[1] / 2
    assert float(constant) == pytest.approx(np.log(2 * np.pi) - half, rel=1e-12)
    np.testing.assert_allclose(np.asarray(whole)[np.ix_(m, left)], -inner @ across, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(spread)[np.ix_(m, m)], inner, rtol=1e-12)


@pytest.mark.slow
def test_integrated_has_derivatives_of_any_order():
    root = RNG.normal(size=(4, 4))
    gone, m, left = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0, 3]), np.array([1, 2])

    def plain(vector):
        matrix = symmetric(vector)
        inner, across = matrix[np.ix_(m, m)], matrix[np.ix_(m, left)]
        schur = matrix[np.ix_(left, left)] - across.T @ jnp.linalg.solve(inner, across)
        return jnp.sin(schur).sum() - jnp.linalg.slogdet(inner)[1] / 2

    def ours(vector):
        found, constant = integrated(symmetric(vector), jnp.asarray(gone))
        return jnp.sin(found).sum() + constant

    def symmetric(vector):
        half = jnp.zeros((4, 4)).at[np.tril_indices(4)].set(vector)
        return half + half.T

    with jax.enable_x64():
        vector = jnp.asarray((root @ root.T + 3 * np.eye(4))[np.tril_indices(4)])
        np.testing.assert_allclose(jax.grad(ours)(vector), jax.grad(plain)(vector), rtol=1e-10)
        np.testing.assert_allclose(
            jax.hessian(ours)(vector), jax.hessian(plain)(vector), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_patterns_a_few_at_a_time_are_the_same(name, monkeypatch):
    monkeypatch.setattr(pattern_code, "AT_ONCE", 1)
    monkeypatch.setattr(pattern_code, "MOST_KEPT", 1)
    program, arguments, _, params, value = PROGRAMS[name]
    many = np.tile(arguments[0], (8, 1)) if name == "normal" else arguments[0]
    model = Model(program, many)
    assert model.log_likelihood(params) == pytest.approx(value() * len(many) / 30, rel=1e-12)
    (before,), (after,) = (em_steps(m, params, 1) for m in (model_of(name), model))
    np.testing.assert_allclose(after["S"], before["S"], rtol=1e-10)


def test_other_patterns_need_no_other_model():
    model, other = model_of("normal"), with_holes(np.nan_to_num(X, nan=2.0), seed=9)
    assert model.with_data(x=other).log_likelihood(NORMAL) == pytest.approx(
        density(other, *NORMAL.values()).sum(), rel=1e-12
    )
    whole = np.nan_to_num(X, nan=2.0)
    complete = model.with_data(x=whole)
    assert complete.log_likelihood(NORMAL) == pytest.approx(
        density(whole, *NORMAL.values()).sum(), rel=1e-12
    )
    assert complete.with_data(x=X).log_likelihood(NORMAL) == pytest.approx(
        model.log_likelihood(NORMAL), rel=1e-12
    )


def test_redrawn_data_miss_the_same_cells():
    model = model_of("normal")
    other = model.redraw(NORMAL, seed=3)
    (x,) = other.arguments.dynamic
    np.testing.assert_array_equal(np.isnan(x), np.isnan(X))
    assert not np.isclose(x, X).any()
    assert other.log_likelihood(NORMAL) == pytest.approx(
        density(x, *NORMAL.values()).sum(), rel=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parametric", "nonparametric"])
def test_bootstrap(kind):
    fit = fit_em(model_of("normal"), starts=1)
    errors = fit.bootstrap(40, kind=kind, seed=1).standard_errors
    ratio = errors[["mu[0]", "mu[1]", "mu[2]"]] / fit.standard_errors()[["mu[0]", "mu[1]", "mu[2]"]]
    assert ratio.between(0.6, 1.6).all()


# --- imputation -----------------------------------------------------------------------------


def of_rows(parts):
    return np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts])


def gaussian_rows(rows, means, covariance):
    parts = [
        conditional(r, m, covariance)
        for r, m in zip(rows, np.broadcast_to(means, rows.shape), strict=True)
    ]
    return of_rows([(m, np.sqrt(np.diag(c))) for m, c in parts])


def chain_rows():
    logs = np.stack([density(Z[:8], m, S) for m in MEANS], 1)
    shares, parts = chain_shares(logs, CHAIN["P"]), []
    for row, share in zip(Z[:8], shares, strict=True):
        own = [conditional(row, m, S) for m in MEANS]
        mean = sum(s * m for s, (m, _) in zip(share, own, strict=True))
        second = sum(s * (np.diag(c) + m**2) for s, (m, c) in zip(share, own, strict=True))
        parts.append((mean, np.sqrt(np.maximum(second - mean**2, 0))))
    return of_rows(parts)


IMPUTED = {
    "normal": lambda: gaussian_rows(X, *NORMAL.values()),
    "regression": lambda: gaussian_rows(
        Z, np.stack([np.ones(30), COVARIATE], 1) @ REGRESSION["B"], S
    ),
    "mixture": lambda: of_rows([mixed_conditional(r, *MIXTURE.values()) for r in Z]),
    "chain": chain_rows,
    "factors": lambda: gaussian_rows(Z, MEANS[0], FACTORS["W"] @ FACTORS["W"].T + S),
    "mixed": lambda: of_rows([
        mixed_conditional(r, MIXED["w"], MEANS + c, [WHOLE] * 2) for r, c in zip(Z, COVARIATE, strict=True)
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in IMPUTED]
)
def test_imputed_moments(name):
    mean, sd = IMPUTED[name]()
    data = PROGRAMS[name][1][0]
    found = model_of(name).impute(PROGRAMS[name][3])["x"]
    np.testing.assert_allclose(found.mean, mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        found.sd**2, np.where(np.isnan(data), sd**2, 0), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_array_equal(found.mean[~np.isnan(data)], data[~np.isnan(data)])


@pytest.mark.parametrize("name", ["normal", pytest.param("chain", marks=pytest.mark.slow)])
def test_imputed_draws_have_these_moments(name):
    mean, sd = IMPUTED[name]()
    data = PROGRAMS[name][1][0]
    draws = model_of(name).impute(PROGRAMS[name][3], draws=800, seed=2)["x"]
    missing = np.isnan(data)
    assert draws.shape == (800, *data.shape)
    np.testing.assert_allclose(
        draws[:, ~missing], np.broadcast_to(data[~missing], (800, (~missing).sum())), rtol=1e-12
    )
    error = (draws.mean(0) - mean)[missing] / sd[missing] * np.sqrt(800)
    assert np.abs(error).max() < 4.5
    assert np.abs(draws.std(0)[missing] / sd[missing] - 1).max() < 0.15


def test_imputed_values_of_units_that_share_a_latent():
    """A missing response of a mixed model is told by its group's others; one alone in its group is not."""
    y = np.random.default_rng(1).normal(size=9)
    y[[2, 8]] = np.nan
    params = {"mu": 0.5, "tau": 0.7, "sigma": 0.6}
    found = Model(random_intercepts, y, GROUP).impute(params)["y"]
    joint = 0.49 * (GROUP[:, None] == GROUP) + 0.36 * np.eye(9)
    mean, left = conditional(y, np.full(9, 0.5), joint)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.sd**2, np.diag(left), atol=1e-12)
    assert found.sd[8] == pytest.approx(np.sqrt(0.85))


def test_imputed_categories_have_probabilities():
    y = np.random.default_rng(2).integers(0, 3, (12, 3)).astype(float)
    y[3, 1], y[5] = np.nan, np.nan
    p = np.random.default_rng(3).dirichlet(np.ones(3), (2, 3))
    model, params = Model(answers, y), {"w": np.array([0.4, 0.6]), "p": p}
    found = model.impute(params)["y"]
    shares = model.posterior(params)["z"][:, 0]
    np.testing.assert_allclose(found.probabilities[3, 1], shares[3] @ p[:, 1], rtol=1e-9)
    np.testing.assert_allclose(found.probabilities[5, 0], params["w"] @ p[:, 0], rtol=1e-9)
    assert found.probabilities[0, 0, int(y[0, 0])] == 1.0 and found.sd[0, 0] == 0.0
    mean = found.probabilities[5, 0] @ np.arange(3)
    second = found.probabilities[5, 0] @ np.arange(3) ** 2
    assert found.mean[5, 0] == pytest.approx(mean)
    assert found.sd[5, 0] == pytest.approx(np.sqrt(second - mean**2))


def test_what_a_mask_hides_is_not_imputed():
    def program(x, shown):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(x)), numpyro.handlers.mask(mask=shown):
            numpyro.sample("x", dist.Normal(mu, 2.0), obs=x)

    x, shown = np.array([1.0, np.nan, np.nan, 2.0]), np.array([True, True, False, True])
    model, params = Model(program, x, shown), {"mu": 1e7}
    found = model.impute(params)["x"]
    np.testing.assert_array_equal(found.mean, [1.0, 1e7, np.nan, 2.0])
    np.testing.assert_array_equal(found.sd, [0.0, 2.0, np.nan, 0.0])
    draws = model.impute(params, draws=3)["x"]
    assert np.isnan(draws[:, 2]).all() and np.isfinite(draws[:, [0, 1, 3]]).all()


def test_fits_impute_with_their_uncertainty():
    model = model_of("normal")
    fit = fit_em(model, starts=1)
    at_once = model.impute(fit.params)["x"]
    np.testing.assert_array_equal(fit.impute()["x"].mean, at_once.mean)
    proper, fixed = fit.impute(400, seed=1)["x"], model.impute(fit.params, 400, seed=1)["x"]
    row = 3  # that shows nothing: its spread has that of the mean besides
    wide, narrow = proper[:, row].var(0), fixed[:, row].var(0)
    errors = fit.standard_errors()[["mu[0]", "mu[1]", "mu[2]"]].to_numpy() ** 2
    assert (wide / (np.diag(fit.params["S"]) + errors)).min() > 0.8
    assert (narrow / np.diag(fit.params["S"])).max() < 1.25
    np.testing.assert_array_equal(proper, fit.impute(400, seed=1)["x"])


@pytest.mark.slow
def test_draws_impute_over_the_posterior():
    fit = fit_laplace(model_of("normal"), draws=60, seed=1)
    found, drawn = fit.impute()["x"], fit.impute(5)["x"]
    assert drawn.shape == (5, 30, 3)
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in fit.draws.items()}
    each = [conditional(X[3], m, c) for m, c in zip(flat["mu"], flat["S"], strict=True)]
    means = np.stack([m for m, _ in each])
    np.testing.assert_allclose(found.mean[3], means.mean(0), rtol=1e-9)
    variance = np.mean([np.diag(c) for _, c in each], 0) + means.var(0)
    np.testing.assert_allclose(found.sd[3] ** 2, variance, rtol=1e-9)


CUBE = Z[:12].reshape(4, 3, 3)
SHARED_SCORE = np.kron(np.ones((2, 2)), np.outer(LOADS, LOADS)) + np.kron(np.eye(2), S)
SHARED_EFFECT = np.kron(np.ones((3, 3)), 0.36 * np.outer(LOADS, LOADS)) + np.kron(np.eye(3), S)
STACKED = {  # program, arguments, parameters, units as long vectors, their mean and covariance
    "columns_of_factors": (
        columns_of_factors, (PAIR - [1, 5, 100],), {"a": np.array([0.3, -0.2]), "S": S},
        (PAIR - [1, 5, 100]).reshape(30, 6), np.repeat([0.3, -0.2], 3), SHARED_SCORE,
    ),
    "nested": (nested, (CUBE,), {"tau": 0.6, "S": S}, CUBE.reshape(4, 9), np.zeros(9), SHARED_EFFECT),
    "gathered": (
        gathered, (Z[:12], np.arange(12) // 3), {"tau": 0.6, "S": S},
        CUBE.reshape(4, 9), np.zeros(9), SHARED_EFFECT,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKED)
def test_vectors_of_units_that_share_a_latent(name):
    """Likelihood and imputation where several vectors hang on one latent, as one long vector each."""
    program, arguments, params, rows, mean, joint = STACKED[name]
    latents = {"u"} if name == "columns_of_factors" else set()
    model = Model(program, *arguments, latents=latents)
    assert model.log_likelihood(params) == pytest.approx(
        density(rows, mean, joint).sum(), rel=1e-12
    )
    filled, sd = gaussian_rows(rows, mean, joint)
    found = model.impute(params)["x"]
    np.testing.assert_allclose(found.mean.reshape(rows.shape), filled, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.sd.reshape(rows.shape) ** 2, sd**2, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_vectors_of_groups_of_one_class():
    model, params = Model(classes, CUBE), {"w": np.array([0.4, 0.6]), "mu": MEANS, "S": S}
    logs = np.stack([
        np.log(w) + density(Z[:12], m, S).reshape(4, 3).sum(1)
        for w, m in zip(params["w"], MEANS, strict=True)
    ])  # fmt: skip
    assert model.log_likelihood(params) == pytest.approx(np.logaddexp(*logs).sum(), rel=1e-12)
    shares, found = np.exp(logs - np.logaddexp(*logs)), model.impute(params)["x"]
    own = np.stack([gaussian_rows(Z[:12], m, S)[0].reshape(4, 3, 3) for m in MEANS])
    np.testing.assert_allclose(
        found.mean, np.einsum("kg,kgud->gud", shares, own), rtol=1e-9, atol=1e-11
    )


# --- Rubin's rules --------------------------------------------------------------------------


def test_rules_of_rubin_by_hand():
    pooled = pool([10.0, 12.0, 11.0], [4.0, 5.0, 3.0], df=50)
    total = 4 + (1 + 1 / 3) * 1.0
    assert float(pooled.value) == 11 and float(pooled.total) == pytest.approx(total)
    share = (4 / 3) / total
    old, seen = 2 / share**2, 51 / 53 * 50 * (1 - share)
    df = 1 / (1 / old + 1 / seen)
    assert float(pooled.df) == pytest.approx(df)
    rise = (4 / 3) / 4
    assert float(pooled.missing_information) == pytest.approx((rise + 2 / (df + 3)) / (rise + 1))
    low, high = pooled.interval(0.9)
    assert (low + high) / 2 == pytest.approx(11)
    assert pool([1.0, 1.0], [2.0, 2.0]).df == np.inf


def test_pooled_fits_are_those_of_statsmodels_formula():
    """Estimates of a mean from imputations pooled as `statsmodels.imputation.mice.MICE.combine` does."""
    fit = fit_em(model_of("normal"), starts=1)
    data = fit.impute(6, seed=4)["x"]
    pooled = pool(data.mean(1), data.var(1, ddof=1) / 30)
    within = np.mean([d.var(0, ddof=1) / 30 for d in data], 0)
    between = np.cov(data.mean(1).T)
    f = 1 + 1 / 6
    np.testing.assert_allclose(pooled.total, within + f * np.diag(between), rtol=1e-12)
    assert list(pooled.summary().columns[:2]) == ["coef", "std err"]
    estimates = [fit.estimate(lambda p: p["mu"][0]) for _ in range(2)]
    same = pool(estimates)
    assert float(same.standard_error) == pytest.approx(fit.standard_errors()["mu[0]"])


@pytest.mark.parametrize(
    "given, message",
    [
        (([1.0], [1.0]), "received 1 estimate"),
        (([1.0, 2.0],), "need variances"),
        (([1.0, 2.0], [1.0]), "variances have shape"),
        (([1.0, 2.0], [1.0, 1.0], -1.0), "df: received"),
    ],
)
def test_pool_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        pool(*given)


# --- what cannot be known -------------------------------------------------------------------


def test_an_entry_that_is_never_seen_is_told():
    x = np.random.default_rng(3).normal(size=(40, 3))
    x[:, 2] = np.nan
    model = Model(normal, x)
    assert "entry [2] is never seen" in str(model)
    with pytest.warns(UserWarning, match="entry 2 is missing in all 40 vectors"):
        fit = fit_em(model, starts=1)
    reasons = fit.covariance_details().reasons
    assert set(reasons) == {"mu[2]", *(f"S[{i},2]" for i in range(3)), "S[2,0]", "S[2,1]"}
    assert reasons["mu[2]"] == "not identified: entry 2 of 'x' is never seen"
    sure = x[:, 0].std() / np.sqrt(40)
    assert fit.standard_errors()["mu[0]"] == pytest.approx(sure, rel=1e-6)


def test_entries_that_are_never_seen_together_are_told():
    x = np.random.default_rng(3).normal(size=(40, 3))
    x[:20, 1], x[20:, 2] = np.nan, np.nan
    model = Model(normal, x)
    assert "entry [1, 2] are never seen together" in str(model)
    for fit in (fit_em(model, starts=1), fit_mle(model, starts=1)):
        errors, reasons = fit.standard_errors(), fit.covariance_details().reasons
        assert set(reasons) == {"S[1,2]", "S[2,1]"} and np.isnan(errors["S[1,2]"])
        assert "never seen together" in reasons["S[1,2]"] and errors["S[0,2]"] > 0


@pytest.mark.slow
def test_entries_on_a_line_collapse():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3))
    x[:, 2] = x[:, 0] + x[:, 1]
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    fit = fit_em(Model(normal, x), starts=1)
    # The precision of what is on a line has no digits left from conditions of 1e8 on.
    assert fit.status in ("collapsed", "not_finite") and not fit.converged
    assert fit.standard_errors().isna().all()


def test_rows_without_data_are_told_and_add_nothing():
    told = str(model_of("normal"))
    assert "1 of 30 vectors show nothing and add nothing" in told
    assert model_of("normal").n_observations == 29
    fewer = Model(normal, np.delete(X, 3, 0))
    assert fewer.log_likelihood(NORMAL) == pytest.approx(
        model_of("normal").log_likelihood(NORMAL), rel=1e-13
    )


# --- published ------------------------------------------------------------------------------


def gold(case):
    found = json.loads((SHARED / "gold" / f"{case}.json").read_text())["expected"]
    return {e["name"]: e["value"] for e in found}


def table(case):
    return pd.read_csv(SHARED / "data" / case / "data.csv").to_numpy(float)


needs_data = pytest.mark.skipif(not (SHARED / "gold").is_dir(), reason="no published data here")


@needs_data
@pytest.mark.parametrize("fit", [fit_em, fit_mle])
def test_apples(fit):
    known = gold("F01_apple_bivariate_missing")
    found = fit(Model(normal, table("F01_apple_bivariate_missing")), starts=1)
    assert found.log_likelihood == pytest.approx(known["recomputed_loglik_full"], abs=1e-9)
    np.testing.assert_allclose(
        found.params["mu"], [known["closed_form_mu_size"], known["closed_form_mu_worms"]], rtol=1e-8
    )
    assert found.params["S"][1, 1] == pytest.approx(known["closed_form_sigma22"], rel=1e-7)
    assert found.params["S"][0, 1] == pytest.approx(known["closed_form_sigma12"], rel=1e-7)
    assert found.params["S"][0, 0] == pytest.approx(known["sigma11"], abs=2e-3)
    without = found.log_likelihood + 30 / 2 * np.log(2 * np.pi)
    assert without == pytest.approx(
        known["loglik_mvnmle(without the -(N_obs/2) log 2pi constant, 30 observed values)"],
        abs=1e-8,
    )


def factored_mean(x, blocks):
    """Means of a normal sample whose columns are seen less and less (a monotone pattern), by regressions of
    each block on those before (Little & Rubin, section 7.4)."""
    order = [j for block in blocks for j in block]
    mean = {j: x[:, j].mean() for j in blocks[0]}
    for i, block in enumerate(blocks[1:], 1):
        before = [j for own in blocks[:i] for j in own]
        seen = ~np.isnan(x[:, block]).any(1)
        design = np.column_stack([np.ones(seen.sum()), x[np.ix_(seen, before)]])
        coefficients = np.linalg.lstsq(design, x[np.ix_(seen, block)], rcond=None)[0]
        means = np.array([1.0, *(mean[j] for j in before)]) @ coefficients
        mean |= dict(zip(block, means, strict=True))
    return np.array([mean[j] for j in sorted(order)])


@needs_data
@pytest.mark.slow
def test_missvals():
    """Means as R's mvnmle prints them (6.655, 49.965, 11.769, 27.047, 95.423), and by the factored likelihood."""
    x = table("F02_missvals_multivariate_missing")
    exact = factored_mean(x, [[2, 4], [0, 1], [3]])
    np.testing.assert_allclose(exact, [6.655, 49.965, 11.769, 27.047, 95.423], atol=6e-4)
    em, mle = fit_em(Model(normal, x), starts=1), fit_mle(Model(normal, x), starts=1)
    np.testing.assert_allclose(em.params["mu"], exact, rtol=1e-6)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-6)


@needs_data
@pytest.mark.slow
def test_murray():
    """Two maxima and a saddle between them (Murray 1977): variances 8/3 and correlations 1/2 and -1/2, the
    saddle at variances 5/2 without correlation."""
    model = Model(normal, table("F03_murray_bimodal"))
    fit = fit_em(model, starts=12, init="random", seed=0)
    assert fit.params["S"][0, 0] == pytest.approx(8 / 3, rel=1e-6)
    assert abs(fit.params["S"][0, 1] / fit.params["S"][0, 0]) == pytest.approx(0.5, rel=1e-6)
    ends = [p["S"][0, 1] for p in fit.start_params]
    assert min(ends) < -1.3 and max(ends) > 1.3
    between = {"mu": np.zeros(2), "S": 2.5 * np.eye(2)}
    (params,) = em_steps(model, between, 1)
    np.testing.assert_allclose(params["S"], between["S"], rtol=1e-12)
    assert model.log_likelihood(between) < fit.log_likelihood - 0.01


# --- models of the shelf, and the rest of the public surface ---------------------------------


def test_incomplete_normal_on_the_shelf():
    shelf = find_model("incomplete_normal")
    fit = fit_em(Model(shelf.program, **shelf.data(), **shelf.options))
    assert fit.log_likelihood == pytest.approx(-101.78563212782, abs=1e-9)
    np.testing.assert_allclose(fit.params["mu"], [265 / 18, 148 / 3], rtol=1e-8)


@pytest.mark.slow
def test_gene_expression_finds_the_clusters():
    module = SourceFileLoader("gene", str(shelf_folder() / "gene_expression.py")).load_module()
    x, whole, z = module.simulated()
    fit = fit_map(Model(module.model, x), starts=2)
    codes = fit.decode()["z"]
    assert max(np.mean(np.array(p)[codes] == z) for p in permutations(range(3))) > 0.97
    found, holes = fit.impute()["x"], np.isnan(x)
    error, by_mean = found.mean - whole, np.nanmean(x, 0) - whole
    assert (error[holes] ** 2).mean() < 0.25 * (by_mean[holes] ** 2).mean()
    inside = np.abs(error[holes]) < 1.96 * found.sd[holes]
    assert 0.9 < inside.mean() < 0.985


@pytest.mark.slow
def test_the_rest_of_the_public_surface(tmp_path):
    model = model_of("factors")
    em, mle = fit_em(model, starts=1), fit_mle(model, starts=1)
    assert "EM" in repr(compare({"EM": em, "MLE": mle}))
    em.save(tmp_path / "fit.nc")
    again = load(tmp_path / "fit.nc", model=model)
    np.testing.assert_allclose(again.impute()["x"].mean, em.impute()["x"].mean)
    assert em.predict(Z[:5])["u"].shape == (5, 2)
    assert model.simulate(em.params)["x"].shape == Z.shape
    seen = ~np.isnan(Z[5])
    joint = em.params["W"] @ em.params["W"].T + em.params["S"]
    gain = em.params["W"][seen].T @ np.linalg.inv(joint[np.ix_(seen, seen)])
    expected = gain @ (Z[5] - em.params["mu"])[seen]
    np.testing.assert_allclose(em.posterior()["u"].mean[5], expected, atol=1e-9)


def test_other_vectors_may_not_miss_entries():
    def shares(x):
        a = numpyro.sample("a", dist.Gamma(2, 1).expand([3]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Dirichlet(a), obs=x)

    x = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN at index .* inside a Dirichlet vector"):
        Model(shares, x)


def test_row_density_is_that_of_the_marginal():
    """The oracle itself, where it can be told by hand."""
    assert row_density(
        np.array([np.nan, 1.0, np.nan]), np.zeros(3), 4 * np.eye(3)
    ) == pytest.approx(-0.125 - 0.5 * np.log(8 * np.pi))


# --- covariates with a distribution of their own ---------------------------------------------

ON_COVARIATE = {"m": 0.8, "s": 1.2, "a": 0.3, "b": 1.5, "sigma": 0.6}
ON_COVARIATES = {
    "w": np.array([0.4, 0.6]), "s": np.array([1.1, 0.8]), "c": 0.6,
    "b": np.array([[1.0, 0.5], [-0.5, 1.5]]),
}  # fmt: skip


def bivariate(p):
    """Mean and covariance of (x, y) of `covariate`."""
    across = p["b"] * p["s"] ** 2
    mean = np.array([p["m"], p["a"] + p["b"] * p["m"]])
    return mean, np.array([[p["s"] ** 2, across], [across, p["b"] * across + p["sigma"] ** 2]])


def test_a_missing_covariate_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="value of 'x' that enters 'y'.*latents={\"x\"}"):
        Model(covariate, Z[:, 0], Z[:, 1])


def test_missing_covariates_are_integrated_out():
    model, p = Model(covariate, Z[:, 0], Z[:, 1], latents={"x"}), ON_COVARIATE
    mean, joint = bivariate(p)
    rows = Z[:, :2]
    assert model.log_likelihood(p) == pytest.approx(density(rows, mean, joint).sum(), rel=1e-12)
    assert model.n_observations == (~np.isnan(rows).all(1)).sum()
    assert f"latent, {(~np.isnan(rows[:, 0])).sum()} of 30 known" in str(model)
    filled, sd = gaussian_rows(rows, mean, joint)
    found = model.impute(p)
    for j, name in enumerate("xy"):
        np.testing.assert_allclose(found[name].mean, filled[:, j], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found[name].sd ** 2, sd[:, j] ** 2, atol=1e-12)
    other = model.with_data(x=Z[:, 2])
    assert other.log_likelihood(p) == pytest.approx(
        density(Z[:, [2, 1]], mean, joint).sum(), rel=1e-12
    )


def test_a_missing_covariate_is_half_of_a_bivariate_normal():
    """The same model in two ways: maxima, estimates and imputations agree."""
    halves = fit_em(Model(covariate, Z[:, 0], Z[:, 1], latents={"x"}), starts=1)
    whole = fit_em(Model(normal, Z[:, :2]), starts=1)
    assert halves.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-8)
    mean, joint = bivariate(halves.params)
    np.testing.assert_allclose(mean, whole.params["mu"], atol=1e-6)
    np.testing.assert_allclose(joint, whole.params["S"], atol=1e-6)


@pytest.mark.slow
def test_several_missing_covariates_in_a_mixture():
    model = Model(covariates, *Z.T, latents={"x", "v"})
    p = ON_COVARIATES
    parts = [joint_of_covariates(p["s"], p["c"], b) for b in p["b"]]
    means, joints = [m for m, _ in parts], [c for _, c in parts]
    logs = [np.log(w) + density(Z, m, c) for w, m, c in zip(p["w"], means, joints, strict=True)]
    assert model.log_likelihood(p) == pytest.approx(np.logaddexp(*logs).sum(), rel=1e-12)
    mean, sd = of_rows([mixed_conditional(r, p["w"], means, joints) for r in Z])
    found, draws = model.impute(p), model.impute(p, draws=400, seed=1)
    for j, name in enumerate("xvy"):
        np.testing.assert_allclose(found[name].mean, mean[:, j], rtol=1e-9, atol=1e-11)
        unknown = np.isnan(Z[:, j])
        error = (draws[name].mean(0) - mean[:, j])[unknown] / sd[unknown, j] * 20
        assert np.abs(error).max() < 4.5
    em, mle = fit_em(model, starts=1), fit_mle(model, starts=1)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-6)


def test_data_with_known_latents_cannot_be_drawn_anew():
    model = Model(covariate, Z[:, 0], Z[:, 1], latents={"x"})
    with pytest.raises(ValueError, match="have values in some units"):
        model.redraw(ON_COVARIATE)
