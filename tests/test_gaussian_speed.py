"""What makes real latents fast, against the slow way: crossed latents by their edges, rows by statistics."""

from __future__ import annotations

import json

import gaussian_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from conftest import SHARED

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.uncertainty import information
from pp_mlem.estimate import opening
from pp_mlem.marginal import summaries
from pp_mlem.marginal.steps import joint
from pp_mlem.marginal.units import reweighted
from pp_mlem.potentials import crossed as kernel
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.target.target import Target


def slopes_of_both(y, x, a, b):
    """Random intercepts and slopes of two groupings, and a level of all."""
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([3]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2))
    level = numpyro.sample("level", dist.Normal(1.0, tau[2]))
    with numpyro.plate("left", 4):
        u = numpyro.sample("u", dist.MultivariateNormal(jnp.ones(2), scale_tril=corr * tau[:2]))
    with numpyro.plate("right", 3):
        v = numpyro.sample("v", dist.MultivariateNormal(jnp.zeros(2), scale_tril=corr))
    with numpyro.plate("rows", len(y)):
        mean = level + u[a, 0] + u[a, 1] * x + v[b, 0] + v[b, 1] * x
        numpyro.sample("y", dist.Normal(mean, 0.8), obs=y)


CROSSED = [
    (programs.crossed, (programs.Y, programs.X, programs.GROUP, np.arange(9) % 3)),
    (programs.crossed_plates, (programs.HOLES,)),
    (slopes_of_both, (programs.Y, programs.X, programs.GROUP, np.arange(9) % 3)),
]


def neutral(model):
    with working_precision(model.dtype):
        return {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}


def curvature(model):
    """Gradient and information at a point away from the maximum."""
    with working_precision(model.dtype):
        target = model.target()
        vector = 0.3 * np.random.default_rng(0).normal(size=target.space.size)
        found = target.climb(vector)[1], *information(target, vector)
        step = 1e-5 * np.eye(len(vector))
        up, down = (np.array([target.climb(vector + s * e)[1] for e in step]) for s in (1, -1))
    return *found, -(up - down) / 2e-5


def cases(several, quick):
    """Those of `quick` programs always, the others where there is time."""
    return [
        pytest.param(*case, id=case[0].__name__, marks=() if case[0] in quick else pytest.mark.slow)
        for case in several
    ]


@pytest.mark.parametrize("program,data", cases(CROSSED, [programs.crossed_plates]))
@pytest.mark.parametrize("edges", [True, False], ids=["edges", "whole"])
def test_crossed_latents_by_edges_and_whole(program, data, edges, monkeypatch):
    monkeypatch.setattr(joint, "PAIR_COST", 1e-9 if edges else 1e9)
    model = Model(program, *data)
    assert (model.data.pattern is not None) == edges
    params = neutral(model)
    with jax.enable_x64(True):
        expected, mean, covariance, _ = programs.dense(model, params)
    assert model.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)
    told = [model.posterior(params)[s.name] for s in model.reading.reals]
    np.testing.assert_allclose(np.concatenate([m.mean.ravel() for m in told]), mean, atol=1e-9)
    spread = np.concatenate([m.sd.ravel() for m in told])
    np.testing.assert_allclose(spread, np.sqrt(np.diagonal(covariance)), atol=1e-9)
    drawn = model.sample_latents(params, draws=2, seed=1)
    assert all(np.isfinite(d).all() for d in drawn.values())
    gradient, same, exact, differences = curvature(model)
    np.testing.assert_allclose(gradient, same, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(exact, differences, rtol=1e-6, atol=1e-6 * abs(exact).max())


def test_an_inverse_by_halves(monkeypatch):
    monkeypatch.setattr(kernel, "WHOLE_BLOCK", 3)
    root = np.random.default_rng(0).normal(size=(2, 11, 11))
    matrix = root @ np.swapaxes(root, 1, 2) + np.eye(11)
    with jax.enable_x64(True):
        inverse, half = kernel.inverse_of(jnp.asarray(matrix))
        slope = jax.jacfwd(lambda m: kernel.inverse_of(m)[1])(jnp.asarray(matrix[0]))
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-10)
    np.testing.assert_allclose(half, np.linalg.slogdet(matrix)[1] / 2, rtol=1e-12)
    np.testing.assert_allclose(slope, np.linalg.inv(matrix[0]) / 2, rtol=1e-9)


def two_sites(y, x, group):
    """A vector with correlated noise, and a second site with a loading that is estimated."""
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    loading = numpyro.sample("loading", dist.Normal(1, 1))
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    noise = jnp.array([[1.0, 0.3], [0.3, 0.8]])
    with numpyro.plate("rows", len(x)):
        mean = jnp.stack([beta[0] + tau * u[group], beta[1] * x], -1)
        numpyro.sample("pair", dist.MultivariateNormal(mean, noise), obs=y[:, :2])
        wide = loading * x[:, None] * u[group][:, None] + jnp.array([0.0, 1.0])
        numpyro.sample("wide", dist.Normal(wide, jnp.array([1.0, tau])).to_event(1), obs=y[:, 2:])


def long_panel(y, x):
    """Units and occasions as two plates, in the dimensions of the data, with holes in these."""
    rate = numpyro.sample("rate", dist.HalfNormal(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("units", 4, dim=-1):
        u = numpyro.sample("u", dist.Normal(rate, tau))
    with numpyro.plate("units", 4, dim=-1), numpyro.plate("occasions", 7, dim=-2):
        numpyro.sample("y", dist.Normal(jnp.exp(-rate * x[:, None]) + u * x[:, None], tau), obs=y)


SUMMED = [
    (programs.random_intercepts, (programs.Y, programs.GROUP), {}),
    (programs.nested, (programs.Y, programs.GROUP, programs.SCHOOL), {}),
    (programs.slopes, (programs.Y, programs.X, programs.GROUP), {}),
    (programs.growth, (programs.Y, programs.X, programs.GROUP), {}),
    (programs.one_for_all, (programs.Y,), {}),
    (*CROSSED[1], {}),
    (*CROSSED[2], {}),
    (
        two_sites,
        (np.random.default_rng(5).normal(size=(9, 4)), programs.X, programs.GROUP),
        {"latents": {"u"}},
    ),
    (long_panel, (programs.HOLES, np.linspace(0.0, 1.0, 7)), {}),
]
POINTS = [
    (programs.factors, (np.random.default_rng(3).normal(size=(60, 4)),), {"latents": {"u"}}),
    (
        programs.correlated_noise,
        (3.0 + np.random.default_rng(3).normal(size=(40, 3)),),
        {"latents": {"u"}},
    ),
]


QUICK = [
    programs.random_intercepts, programs.nested, programs.crossed_plates, long_panel,
    programs.correlated_noise,
]  # fmt: skip


@pytest.mark.parametrize("program,data,options", cases(SUMMED + POINTS, QUICK))
def test_sums_over_rows_say_what_the_rows_do(program, data, options, monkeypatch):
    monkeypatch.setattr(summaries, "ROWS", 1)
    model = Model(program, *data, **options)
    observed = {s.name for s in model.reading.observed}
    assert (set(model.data.points) or set(model.data.summed)) == observed
    assert ("rows summed once" in str(model)) == bool(model.data.summed)
    assert ("points with the moments" in str(model)) == bool(model.data.points)
    params = neutral(model)
    units = model.pointwise_log_likelihood(params)
    assert model.log_likelihood(params) == pytest.approx(units.sum(), rel=1e-10)
    with working_precision(model.dtype):
        target = model.target()
        rows = target.on(model.data.by_rows)
        vector = 0.3 * np.random.default_rng(0).normal(size=target.space.size)
        here, there = (t.compiled(Target.em_step)(vector) for t in (target, rows))
        slope, curvature = information(target, vector)
        expected, known = information(rows, vector)
    assert here[1] == pytest.approx(float(there[1]), rel=1e-10)
    np.testing.assert_allclose(here[0], there[0], atol=1e-8)
    for own, other in ((here[2], there[2]), (slope, expected), (curvature, known)):
        np.testing.assert_allclose(own, other, atol=1e-9 * max(1.0, float(np.abs(known).max())))
    again = model.redraw(params, seed=1)
    units = again.pointwise_log_likelihood(params)
    assert again.log_likelihood(params) == pytest.approx(units.sum(), rel=1e-10)
    assert not (set(again.data.points) ^ set(model.data.points))


def test_other_data_and_case_weights(monkeypatch):
    monkeypatch.setattr(summaries, "ROWS", 1)
    model = Model(programs.slopes, programs.Y, programs.X, programs.GROUP)
    params, rng = neutral(model), np.random.default_rng(8)
    y = np.where(np.arange(9) == 4, np.nan, rng.normal(size=9))
    other = model.with_data(y=y, x=rng.normal(size=9))
    assert other.data.summed
    with jax.enable_x64(True):
        expected = programs.dense(other, params)[0]
    assert other.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)
    weighed = Model(programs.weighed, programs.Y, programs.GROUP, 1.0 + np.arange(9) % 3)
    assert not weighed.data.summed
    model = Model(programs.factors, POINTS[0][1][0], latents={"u"})
    params, weights = neutral(model), rng.integers(0, 3, 60).astype(float)
    units = model.pointwise_log_likelihood(params)
    with working_precision(model.dtype):
        again = reweighted(model.marginal, model.data, jnp.asarray(weights))
        value = model.marginal.log_z(model.marginal.natural(params, again), again)
    assert model.data.points and not again.points
    assert float(value) == pytest.approx(units @ weights, rel=1e-10)


def test_no_fixed_part_at_all(monkeypatch):
    """Values whose mean is zero to the last digit, under a mean of latents alone."""
    monkeypatch.setattr(summaries, "ROWS", 1)

    def program(y, group):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)

    model = Model(program, np.arange(9) - 4.0, programs.GROUP)
    assert model.data.summed["y"].fixed == 0
    params = {"tau": 0.7}
    with jax.enable_x64(True):
        expected = programs.dense(model, params)[0]
    assert model.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)


def test_means_of_many_functions_stay_with_their_rows(monkeypatch):
    """A mean whose rows have no few functions in common: as many as rows are allowed, here fewer."""
    monkeypatch.setattr(summaries, "ROWS", 1)
    monkeypatch.setattr(summaries, "FEATURES", 3)
    model = Model(programs.growth, programs.Y, programs.X, programs.GROUP)
    assert not model.data.summed


@pytest.mark.slow
def test_an_opening_ends_where_the_other_ways_do(monkeypatch):
    rng = np.random.default_rng(2)
    a, b, x = rng.integers(0, 12, 240), rng.integers(0, 8, 240), rng.normal(size=240)
    y = 3 + 0.5 * x + rng.normal(size=12)[a] + 0.6 * rng.normal(size=8)[b] + rng.normal(size=240)

    def program(y, x, a, b):
        beta = numpyro.sample("beta", dist.Normal(0, 10).expand([2]).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1).expand([3]).to_event(1))
        with numpyro.plate("left", 12):
            u = numpyro.sample("u", dist.Normal(0.0, tau[0]))
        with numpyro.plate("right", 8):
            v = numpyro.sample("v", dist.Normal(0.0, tau[1]))
        with numpyro.plate("rows", len(y)):
            mean = beta[0] + beta[1] * x + u[a] + v[b]
            numpyro.sample("y", dist.Normal(mean, tau[2]), obs=y)

    plain = fit_mle(Model(program, y, x, a, b), starts=1)
    monkeypatch.setattr(opening, "HEAVY", 1)
    model = Model(program, y, x, a, b)
    with working_precision(model.dtype):
        target = model.target()
        assert opening.opens(target)
        np.testing.assert_array_equal(opening.fixed_coordinates(target), [0, 1])
    for fit in (fit_mle(model, starts=1), fit_em(model, starts=2)):
        assert fit.converged
        assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-8)
        np.testing.assert_allclose(fit.params["tau"], plain.params["tau"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "C20_insteval").is_dir(), reason="no such data here")
def test_insteval():
    """73,421 ratings of lecturers by students: the published deviance (Bates et al., MixedModels.jl)."""
    gold = json.loads((SHARED / "gold" / "C20_insteval.json").read_text())["expected"][0]
    data = pd.read_csv(SHARED / "data" / "C20_insteval" / "data.csv.gz")
    codes = {n: data[n].astype("category").cat.codes.to_numpy() for n in ("s", "d", "dept")}
    sizes = [int(c.max()) + 1 for c in codes.values()]

    def program(y, service, s, d, dept, sizes):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1).expand([3]).to_event(1))
        with numpyro.plate("students", sizes[0]):
            u = numpyro.sample("u", dist.Normal(0, tau[0]))
        with numpyro.plate("lecturers", sizes[1]):
            v = numpyro.sample("v", dist.Normal(0, tau[1]))
        with numpyro.plate("departments", sizes[2]):
            w = numpyro.sample("w", dist.Normal(0, tau[2]))
        with numpyro.plate("ratings", len(y)):
            mean = b[0] + b[1] * service + u[s] + v[d] + w[dept]
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    service = data["service"].astype("category").cat.codes.to_numpy().astype(float)
    model = Model(program, data["y"].to_numpy(float), service, *codes.values(), tuple(sizes))
    assert model.data.pattern is not None and model.data.summed
    fit = fit_mle(model, starts=1)
    assert fit.converged
    assert -2 * fit.log_likelihood == pytest.approx(gold["value"], abs=gold["tol_abs"])
    errors = fit.standard_errors()
    assert errors.notna().all()
