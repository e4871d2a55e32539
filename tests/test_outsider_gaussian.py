"""Programs with real latents in the styles of other tools, against NumPyro's own joint density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import outsider_gaussian as programs
import pytest
from dense_oracle import Oracle
from scipy import stats

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.precision import working_precision

MARKED = [
    pytest.param(n, marks=() if c.plain else pytest.mark.slow) for n, c in programs.CASES.items()
]


@pytest.mark.parametrize("name", MARKED)
def test_is_right(name):
    """log Z, its units, its gradient (not in a plain run), moments of the latents and of missing cells."""
    case = programs.CASES[name]
    model = Model(case.program, *case.data, **case.options)
    assert set(case.latents) <= set(model.latent_names)
    with jax.enable_x64(True):
        oracle = Oracle(case.program, case.data, case.latents, case.options.get("observe", {}))
        params = oracle.params(3)
        value, mean, sd = oracle.moments(params)
    assert model.log_likelihood(params) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert model.pointwise_log_likelihood(params).sum() == pytest.approx(value, rel=1e-9, abs=1e-9)
    told = model.posterior(params)
    for latent in case.latents:
        np.testing.assert_allclose(told[latent].mean.ravel(), mean[latent], atol=1e-8)
        np.testing.assert_allclose(told[latent].sd.ravel(), sd[latent], atol=1e-7)
    if oracle.missing:
        imputed = model.impute(params)
        for site, missing in oracle.missing.items():
            np.testing.assert_allclose(imputed[site].mean[missing], mean[site], atol=1e-8)
            np.testing.assert_allclose(imputed[site].sd[missing], sd[site], atol=1e-7)
    if not case.plain:
        _check_slope(model, oracle, params)


def _check_slope(model, oracle, params):
    """The gradient along a random direction, by central differences of the oracle."""
    with working_precision(model.dtype):
        target = model.target()
        vector = np.asarray(target.space.to_vector(params))
        away = np.random.default_rng(0).normal(size=vector.size)
        _, gradient = target.climb(vector)

        def at(step):
            return float(oracle.run(target.space.to_params(vector + step * away))[0])

        h = 1e-4
        slope = (8 * (at(h) - at(-h)) - at(2 * h) + at(-2 * h)) / (12 * h)
        assert gradient @ away == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_an_observation_mask_is_a_missing_covariate():
    """NumPyro's two sites of obs_mask are one with NaN; what stands where it is seen is not read."""
    seen = np.arange(12) % 4 != 1
    holes = np.where(seen, programs.GAPS, np.nan)
    seen = seen & ~np.isnan(holes)
    data = programs.Y, programs.X
    whole = Model(programs.covariate, *data, holes, latents={"c"})
    masked = Model(programs.covariate_by_mask, *data, np.nan_to_num(holes), seen)
    assert masked.roles["c_unobserved"] == "latent"
    params = {"beta": np.array([0.4, -0.7]), "mu": 0.2, "tau": 0.8, "sigma": 0.6}
    np.testing.assert_allclose(
        masked.pointwise_log_likelihood(params), whole.pointwise_log_likelihood(params), atol=1e-12
    )
    one, other = masked.posterior(params)["c_unobserved"], whole.posterior(params)["c"]
    np.testing.assert_allclose(one.mean[~seen], other.mean[~seen], atol=1e-12)


def shrunk(y, x):
    """A horseshoe: two ways to shrink, so that neither reading is identified."""
    tau, local = (
        numpyro.sample("tau", dist.HalfCauchy(1)),
        numpyro.sample("local", programs.half(3)),
    )
    raw = numpyro.sample("raw", programs.normal(3))
    numpyro.sample("y", dist.Normal(x @ (tau * local * raw), 0.5), obs=y)


def logistic(y, group):
    mu, tau = numpyro.sample("mu", programs.normal()), numpyro.sample("tau", programs.half())
    with numpyro.plate("groups", 4):
        z = numpyro.sample("z", programs.normal())
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=mu + tau * z[group]), obs=y)


def loaded(x):
    width, sigma = (
        numpyro.sample("width", programs.half(2)),
        numpyro.sample("sigma", programs.half()),
    )
    W = numpyro.sample("W", dist.Normal(0, 1).expand([4, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", programs.normal(2))
        numpyro.sample("x", dist.Normal(u @ (W * width).T, sigma).to_event(1), obs=x)


@pytest.mark.slow
def test_gaussians_times_a_scale_that_are_parameters():
    """Where another reading would not do, and the reason says so."""
    design = np.stack([programs.X, programs.X**2, programs.GROUP], 1)
    assert Model(shrunk, programs.Y, design).roles["raw"] == "parameter"
    assert Model(loaded, programs.WIDE, latents={"u"}).roles["W"] == "parameter"
    model = Model(logistic, (programs.Y > 0).astype(int), programs.GROUP)
    assert model.roles["z"] == "parameter"
    assert "a random effect of scale tau, estimated, since 'y'" in str(model)
    named = Model(programs.noncentred, programs.Y, programs.GROUP, parameters={"z"})
    assert named.roles["z"] == "parameter"


def test_what_a_vector_cannot_be_is_refused_as_it_was_written():
    def squared(y, group):
        tau = numpyro.sample("tau", programs.half())
        with numpyro.plate("groups", 4):
            u = numpyro.sample("u", dist.Normal(0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(u[group] ** 2, 1.0), obs=y)

    with pytest.raises(ValueError, match="'y' is not affine in the one value that a row reads"):
        Model(squared, programs.Y, programs.GROUP)


@pytest.mark.parametrize(
    "given, told",
    [
        (np.zeros(3), r"values of 'b' have shape \(3,\), expected \(4, 2\)"),
        (np.full((4, 2), np.inf), "'b': infinite value"),
        ("no", "'b' received values that are no numbers"),
    ],
)
def test_values_that_no_latent_can_have(given, told):
    data = programs.Y, programs.X, programs.GROUP
    with pytest.raises((ValueError, TypeError), match=told):
        Model(programs.slopes, *data, observe={"b": given})


@pytest.mark.slow
def test_the_curve_of_a_tree_is_found_from_any_seed():
    """A rate and a middle of a curve start where the prior puts them, in half of the starts."""
    from pp_mlem.show.catalogue import find_model

    shelf = find_model("growth_curves")
    fit = fit_mle(Model(shelf.program, **shelf.data()), seed=0, starts=4)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-131.5719, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["noncentred", "round_robin", "cells_of_two_factors", "masked_rows"]
)
def test_both_ways_end_at_one_maximum(name):
    case = programs.CASES[name]
    model = Model(case.program, *case.data, **case.options)
    em, mle = fit_em(model, starts=3, seed=0), fit_mle(model, starts=3, seed=1)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-6)
    assert em.status == mle.status
    em.summary(), em.impute(), em.posterior()


def kin(y, group, kinship):
    tau = numpyro.sample("tau", programs.half())
    a = numpyro.sample("a", dist.MultivariateNormal(jnp.zeros(4), tau**2 * kinship))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group], 1.0), obs=y)


@pytest.mark.parametrize("kinship", [np.ones((4, 4)), np.ones((4, 4)) - 2 * np.eye(4)])
def test_a_covariance_without_a_density_is_refused(kinship):
    with pytest.raises(ValueError, match="site 'a' .*not positive definite.*1e-6"):
        Model(kin, programs.Y, programs.GROUP, kinship)


def test_columns_and_rows_that_are_never_seen_are_told():
    data = programs.WIDE.copy()
    data[:, 2] = data[3] = np.nan
    model = Model(loaded, data, latents={"u"}, parameters={"W"})
    told = str(model)
    assert "x: column [2] is never seen" in told
    assert "x: 1 of 5 rows show nothing and add nothing" in told
    assert model.n_observations == 4
    with pytest.warns(UserWarning, match=r"column \[2\] is missing in all 5 rows"):
        fit_mle(model, starts=1, max_iter=1)


def nested(y, group, other, between):
    """Effects of four groups around those of two schools, crossed with others (or not)."""
    s = numpyro.sample("s", programs.half(3))
    with numpyro.plate("schools", 2):
        t = numpyro.sample("t", dist.Normal(0.3, s[0]))
    effect = t[programs.SCHOOL]
    if between is not None:
        with numpyro.plate("A", 4):
            effect = numpyro.sample("a", dist.Normal(effect, between))
    mean = effect[group]
    if other is not None:
        with numpyro.plate("B", 3):
            mean = mean + numpyro.sample("b", dist.Normal(0, s[1]))[other]
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, s[2]), obs=y)


def disturbed(x):
    """One factor behind another, with loadings of their own: a path model."""
    s, noise = numpyro.sample("s", programs.half(2)), numpyro.sample("noise", programs.half(4))
    with numpyro.plate("rows", len(x)):
        f = numpyro.sample("f", dist.Normal(0.0, s[0]))
        g = numpyro.sample("g", dist.Normal(0.7 * f, s[1]))
        numpyro.sample("x", dist.Normal(jnp.stack([f, f, g, g], -1), noise).to_event(1), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("crossed", [True, False])
def test_effects_that_hardly_vary_around_those_above_them(crossed):
    """At a variance near zero, log Z is that of the program without the effects."""
    data = programs.Y, programs.GROUP, programs.OTHER if crossed else None
    params = {"s": np.array([0.7, 0.5, 0.6])}
    whole = Model(nested, *data, None).log_likelihood(params)
    for width in (1e-7, 1e-10):
        with jax.enable_x64(True):
            model = Model(nested, *data, np.array(width))
        assert model.log_likelihood(params) == pytest.approx(whole, rel=1e-10)


def test_a_disturbance_that_vanishes():
    model = Model(disturbed, programs.WIDE)
    noise = np.array([0.5, 0.6, 0.7, 0.8])
    loads = np.array([1.0, 1.0, 0.7, 0.7])
    for width in (1e-3, 1e-8, 1e-11):
        lower = np.diag([0.0, 0.0, 1.0, 1.0]) @ np.ones((4, 4)) @ np.diag([0.0, 0.0, 1.0, 1.0])
        covariance = 0.81 * np.outer(loads, loads) + width**2 * lower + np.diag(noise**2)
        expected = stats.multivariate_normal(np.zeros(4), covariance).logpdf(programs.WIDE).sum()
        params = {"s": np.array([0.9, width]), "noise": noise}
        assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-11)
