"""Linear Gaussian state space in `scan`, against NumPyro's joint density and statsmodels' filter."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import state_space_programs as programs
from numpyro.contrib.control_flow import scan
from state_space_programs import StateSpace, T, backwards, cases, dense, trend

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.precision import working_precision
from pp_mlem.show.catalogue import find_model
from pp_mlem.target.target import Target

CASES = cases()
NAMES = tuple(CASES)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    case = CASES[request.param]
    model = Model(case.program, *case.data, latents=case.named, **case.options)
    return case, model, dense(case)


def test_log_z(case):
    """NumPyro's joint density, a quadratic of all latents, integrated in one piece."""
    case, model, (value, _, _) = case
    assert model.log_likelihood(case.params) == pytest.approx(value, rel=1e-10, abs=1e-9)


def test_moments(case):
    case, model, (_, mean, covariance) = case
    posterior, begin = model.posterior(case.params), 0
    for name, shape in case.latents.items():
        own = slice(begin, begin + int(np.prod(shape)))
        found = posterior[name]
        assert found.mean.shape == shape
        middle, variance = (a[own].reshape(shape) for a in (mean, np.diag(covariance)))
        if case.program is backwards:  # NumPyro takes values as the scan runs
            middle, variance = middle[::-1], variance[::-1]
        np.testing.assert_allclose(found.mean, middle, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.sd**2, variance, rtol=1e-7, atol=1e-9)
        begin = own.stop


def test_pointwise_log_likelihood_adds_up(case):
    case, model, (value, _, _) = case
    assert model.pointwise_log_likelihood(case.params).sum() == pytest.approx(value, rel=1e-9)


def test_draws(case):
    """Joint draws: the covariance of all latents together."""
    case, model, (_, mean, covariance) = case
    draws = model.sample_latents(case.params, draws=3000, seed=1)
    flip = slice(None, None, -1 if case.program is backwards else 1)
    flat = np.concatenate([draws[n].reshape(3000, -1)[:, flip] for n in case.latents], 1)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((flat.mean(0) - mean) / scale, 0, atol=0.09)
    found = np.cov(flat.T) / scale[:, None] / scale
    np.testing.assert_allclose(found, covariance / scale[:, None] / scale, atol=0.12)


def test_filter_forecasts_and_innovations_of_a_local_level():
    """statsmodels' Kalman filter on the same model."""
    sm = pytest.importorskip("statsmodels.api")
    y = np.random.default_rng(5).normal(size=40).cumsum()
    y[[7, 8, 20]] = np.nan
    model = Model(trend, y, latents={"first"})
    params = {"sd": np.array([0.6, 0.3]), "noise": 0.9}
    theirs = sm.tsa.UnobservedComponents(y, "lltrend")
    # its slope is that of the step ahead: (level 1, slope 2), both first values with variance 100
    first = np.array([[100 + 100 + 0.36 + 0.09, 100 + 0.09], [100 + 0.09, 100 + 2 * 0.09]])
    theirs.initialize_known(np.zeros(2), first)
    theirs.loglikelihood_burn = 0
    found = theirs.smooth([0.81, 0.36, 0.09])
    assert model.log_likelihood(params) == pytest.approx(found.llf, rel=1e-9)
    filtered = model.filtered(params)
    np.testing.assert_allclose(
        filtered["level"].mean, found.filtered_state[0], rtol=1e-7, atol=1e-8
    )
    ahead = model.innovations(params)["y"]
    np.testing.assert_allclose(ahead.mean, found.forecasts[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(ahead.sd**2, found.forecasts_error_cov[0, 0], rtol=1e-7)
    seen = np.isfinite(y)
    np.testing.assert_allclose(
        ahead.residual[seen], found.standardized_forecasts_error[0, seen], rtol=1e-6, atol=1e-7
    )
    assert np.isnan(ahead.residual[~seen]).all()
    forecast, theirs = model.forecast(params, 5), found.get_forecast(5)
    np.testing.assert_allclose(forecast["y"]["mean"], theirs.predicted_mean, rtol=1e-7)
    np.testing.assert_allclose(forecast["y"]["sd"], theirs.se_mean, rtol=1e-7)
    posterior = model.posterior(params)["level"]
    np.testing.assert_allclose(posterior.mean, found.smoothed_state[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(posterior.sd**2, found.smoothed_state_cov[0, 0], rtol=1e-6)


RNG = np.random.default_rng(9)
SERIES = RNG.normal(size=(T, 3)).cumsum(0)


def test_clusters_of_series():
    """Every series by each kind, densely."""
    model = Model(programs.clustered, SERIES)
    params = {"sd": np.array([0.4, 1.1]), "weight": np.array([0.3, 0.7])}
    total = 0.0
    for i in range(3):
        kinds = [
            dense(
                StateSpace(
                    programs.lengths, (SERIES, np.ones((T, 3), bool)), {"sd": sd}, {"x": (T, 3)}
                ),
                (np.tile(SERIES[:, i : i + 1], 3), np.ones((T, 3), bool)),
            )[0]
            / 3
            for sd in params["sd"]
        ]
        total += np.logaddexp(*(np.log(params["weight"]) + kinds))
    assert model.log_likelihood(params) == pytest.approx(total, rel=1e-10)
    posterior = model.posterior(params)
    assert posterior["z"].shape == (3, 2) and posterior["x"].mean.shape == (T, 3)
    with pytest.raises(ValueError, match="finite latent 'z' above"):
        model.filtered(params)


def test_a_finite_chain_beside_a_real_state():
    """Two chains that do not meet: their sum."""
    y, counts = SERIES[:, 0], RNG.poisson(3, T)
    params = {"sd": np.float64(0.6), "rate": np.array([1.0, 4.0])}
    model = Model(programs.beside, y, counts)
    alone = StateSpace(
        programs.lengths,
        (np.tile(y[:, None], 3), np.ones((T, 3), bool)),
        {"sd": params["sd"]},
        {"x": (T, 3)},
    )
    moves, alpha = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.9, 0.1])
    stats = pytest.importorskip("scipy.stats")
    for t, count in enumerate(counts):
        alpha = (alpha if t == 0 else alpha @ moves) * stats.poisson.pmf(count, params["rate"])
    expected = dense(alone)[0] / 3 + np.log(alpha.sum())
    assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("program", "data", "told"),
    [
        (
            programs.switching,
            SERIES[:, 0],
            "finite latent 'z' of a step chooses among Gaussians of the real",
        ),
        (programs.outside, SERIES[:, 0], "outside of the scan in whose body it is sampled"),
        (programs.bent, SERIES[:, 0], "the mean of 'x' is not affine"),
        (programs.of_counts, np.arange(T), "where it enters 'y', a Poisson"),
        (
            programs.coupled,
            np.ones((T, 120)),
            "units of plate 'series' of the state 'own' meet in 'common'",
        ),
    ],
    ids=["switching", "outside", "bent", "counts", "coupled"],
)
def test_what_no_structure_integrates_is_refused(program, data, told):
    with pytest.raises(ValueError, match=told) as refused:
        Model(program, data)
    assert "carry of" not in str(refused.value)


def test_exact_diffuse_start():
    """statsmodels' exact diffuse filter: filtered states, one-step-ahead errors, forecasts; and nothing where
    the data have not settled the first state."""
    sm = pytest.importorskip("statsmodels.api")
    shelf = find_model("local_level")
    y, params = shelf.data()["y"], {"H": 15099.0, "Q": 1469.1}
    model = Model(shelf.program, y, **shelf.options)
    theirs = sm.tsa.UnobservedComponents(y, "llevel", use_exact_diffuse=True).smooth(
        [15099, 1469.1]
    )
    # statsmodels keeps the constant of the first observation, which the flat law takes
    assert model.log_likelihood(params) - np.log(2 * np.pi) / 2 == pytest.approx(
        theirs.llf, abs=1e-9
    )
    filtered, ahead = model.filtered(params)["level"], model.innovations(params)["y"]
    np.testing.assert_allclose(filtered.mean, theirs.filtered_state[0], rtol=1e-9)
    np.testing.assert_allclose(filtered.sd**2, theirs.filtered_state_cov[0, 0], rtol=1e-9)
    assert np.isnan(ahead.mean[0])
    np.testing.assert_allclose(ahead.mean[1:], theirs.forecasts[0, 1:], rtol=1e-9)
    np.testing.assert_allclose(ahead.sd[1:] ** 2, theirs.forecasts_error_cov[0, 0, 1:], rtol=1e-9)
    forecast, theirs = model.forecast(params, 4)["y"], theirs.get_forecast(4)
    np.testing.assert_allclose(forecast["mean"], theirs.predicted_mean, rtol=1e-9)
    np.testing.assert_allclose(forecast["sd"], theirs.se_mean, rtol=1e-9)
    with pytest.raises(ValueError, match="'before' has a flat law"):
        model.simulate(params)


EM = ["not centred", "trend", "autoregression", "dynamic factors", "varying", "arma", "many series"]


@pytest.mark.parametrize("name", EM)
def test_em_ascends_by_the_gradient_of_log_z(name):
    case = CASES[name]
    model = Model(case.program, *case.data, latents=case.named)
    with working_precision(model.dtype):
        target = model.target()
        vector = 0.3 * np.random.default_rng(0).normal(size=target.space.size)
        value, gradient = target.climb(vector)
        new, same, expected = target.compiled(Target.em_step)(vector)
        assert float(same) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(expected, gradient, rtol=1e-8, atol=1e-8 * abs(gradient).max())
        assert target.climb(np.asarray(new))[0] > value
        step = 1e-5 * np.eye(len(vector))[0]
        slope = (target.climb(vector + step)[0] - target.climb(vector - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[0], rel=1e-5, abs=1e-5)


def test_fits_agree_and_scores_are_of_predictions():
    """EM of a program that carries its parameters on (ECME) ends where maximisation of log Z does."""
    case = CASES["not centred"]
    model = Model(case.program, *case.data)
    em, mle = fit_em(model, starts=2, seed=0), fit_mle(model, starts=2, seed=0)
    assert em.converged and em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-8)
    centred = fit_mle(Model(programs.local_level, *case.data), starts=2, seed=0)
    assert centred.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-8)
    np.testing.assert_allclose(mle.covariance("opg"), centred.covariance("opg"), rtol=1e-4)
    same = Model(programs.local_level, *case.data).pseudo_residuals(case.params)
    np.testing.assert_allclose(model.pseudo_residuals(case.params)["y"], same["y"], atol=1e-8)


def plain_filter(y, first, sd, noise):
    """The log-likelihood of a local level, one step after the other in long double."""
    mean, variance, total = np.longdouble(first), np.longdouble(0), np.longdouble(0)
    for value in y:
        variance = variance + np.longdouble(sd) ** 2
        if np.isnan(value):
            continue
        error, whole = np.longdouble(value) - mean, variance + np.longdouble(noise) ** 2
        total -= (np.log(2 * np.longdouble(np.pi) * whole) + error**2 / whole) / 2
        mean, variance = (
            mean + variance / whole * error,
            variance * np.longdouble(noise) ** 2 / whole,
        )
    return float(total)


def test_long_series_go_by_blocks():
    """1,003 steps, and as many with holes: a plain filter in long double, and statsmodels' smoother (its
    likelihood stops at a steady state, 2e-8 off)."""
    sm = pytest.importorskip("statsmodels.api")
    y = np.random.default_rng(5).normal(size=1003).cumsum()
    model, params = Model(programs.local_level, y), {"sd": 0.7, "noise": 0.9}
    for seen in (y, np.where(np.arange(1003) % 7 == 3, np.nan, y)):
        theirs = sm.tsa.UnobservedComponents(seen, "llevel")
        theirs.initialize_known(np.array([0.5]), np.array([[0.49]]))
        theirs.loglikelihood_burn = 0
        found = theirs.smooth([0.81, 0.49])
        model = model.with_data(y=seen)
        value = plain_filter(seen, 0.5, 0.7, 0.9)
        assert model.log_likelihood(params) == pytest.approx(value, rel=1e-13)
        assert found.llf == pytest.approx(value, rel=1e-9)
        posterior = model.posterior(params)["level"]
        np.testing.assert_allclose(posterior.mean, found.smoothed_state[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(posterior.sd**2, found.smoothed_state_cov[0, 0], rtol=1e-8)


def test_shocks_of_steps_that_nothing_remembers():
    """A latent of each step that is not carried on: as in a plate."""

    def program(x):
        tau = numpyro.sample("tau", dist.HalfNormal(1))

        def step(count, x_t):
            u = numpyro.sample("u", dist.Normal(0.5, tau))
            numpyro.sample("x", dist.Normal(u, 1.0), obs=x_t)
            return count + 1, None

        scan(step, 0, x)

    x = RNG.normal(size=T)
    model = Model(program, x, latents={"u"})
    stats = pytest.importorskip("scipy.stats")
    expected = stats.norm.logpdf(x, 0.5, np.sqrt(1 + 0.7**2)).sum()
    assert model.log_likelihood({"tau": 0.7}) == pytest.approx(expected, rel=1e-12)
    assert model.posterior({"tau": 0.7})["u"].mean.shape == (T,)


@pytest.mark.slow
def test_a_noise_that_was_lost_on_the_way_is_found_again():
    """Near zero the logarithm of a scale has no slope, and one start stopped there, 0.41 below the others."""
    shelf = find_model("structural_time_series")
    model = Model(shelf.program, **shelf.data(), **shelf.options)
    fits = [fit_mle(model, starts=n, seed=0, progress=False) for n in (1, 4)]
    assert [f.status for f in fits] == ["converged"] * 2
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-6)
    assert np.all(fits[1].starts["objective"] > fits[1].log_likelihood - 1e-6)
