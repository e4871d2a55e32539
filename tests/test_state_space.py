"""Linear Gaussian state space in `scan`, against NumPyro's joint density and published results."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pp_mlem import Model
from tests.state_space_programs import backwards, cases, dense, trend

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
