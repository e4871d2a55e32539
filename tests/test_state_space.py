"""Linear Gaussian state space in `scan`, against NumPyro's joint density and published results."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pp_mlem import Model
from tests.state_space_programs import backwards, cases, dense

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
