"""State space programs written from outside, against their joint Gaussian, and what they found."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outsider_state_space import Joint, T, arma, cases, common_and_own, masked_panel, shared_mean
from state_space_programs import local_level

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.precision import working_precision

CASES = cases()
PLAIN = ("places",)  # the others are of the long run
NAMES = [n if n in PLAIN else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
RNG = np.random.default_rng(8)


@pytest.fixture(scope="module", params=NAMES)
def read(request):
    case = CASES[request.param]
    joint = Joint(case)
    return case, Model(case.program, *case.data, latents=case.named), joint


def flip(case, array):
    """NumPyro takes values as the scan runs."""
    return array[::-1] if case.reverse and array.ndim else array


def test_log_z_and_its_gradient(read):
    case, model, joint = read
    assert model.log_likelihood(case.params) == pytest.approx(joint.log_z(case.params), rel=1e-9)
    total = model.pointwise_log_likelihood(case.params).sum()
    assert total == pytest.approx(model.log_likelihood(case.params), rel=1e-9)
    with working_precision(model.dtype):
        target = model.target()
        vector = np.asarray(
            target.space.unconstrain({n: jnp.asarray(v) for n, v in case.params.items()})
        )
        gradient = np.asarray(target.climb(vector)[1])
    step = 1e-4 * np.random.default_rng(2).normal(size=len(vector))

    def value(times):
        with jax.enable_x64(True):
            return joint.log_z(target.space.constrain(jnp.asarray(vector + times * step)))

    near, far = value(1) - value(-1), value(2) - value(-2)
    assert gradient @ step == pytest.approx((8 * near - far) / 12, rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_moments(read):
    """Smoothed states, missing cells, and every value given all others."""
    case, model, joint = read
    quadratic = joint.quadratic(case.params)
    _, mean, covariance = joint.given(quadratic, joint.y)
    posterior, begin = model.posterior(case.params), 0
    for name, shape in case.latents.items():
        own = slice(begin, begin + int(np.prod(shape)))
        begin = own.stop
        found = posterior[name]
        middle, variance = (flip(case, a[own].reshape(shape)) for a in (mean, np.diag(covariance)))
        np.testing.assert_allclose(found.mean, middle, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(found.sd**2, variance, rtol=1e-6, atol=1e-8)
    hole = np.isnan(joint.y)
    if hole.any():
        imputed = model.impute(case.params).values()
        means = np.concatenate([np.ravel(i.mean)[np.ravel(i.sd) > 0] for i in imputed])
        sds = np.concatenate([np.ravel(i.sd)[np.ravel(i.sd) > 0] for i in imputed])
        np.testing.assert_allclose(means, mean[joint.size :][hole], rtol=1e-7)
        np.testing.assert_allclose(sds**2, np.diag(covariance)[joint.size :][hole], rtol=1e-6)
    if case.flat:
        return
    _, mean, covariance = joint.given(quadratic, np.full(len(joint.y), np.nan))
    cells = joint.size + np.flatnonzero(~hole)
    precision = np.linalg.inv(covariance[np.ix_(cells, cells)])
    expected = np.full(len(joint.y), np.nan)
    away = precision @ (joint.y[~hole] - mean[cells])
    expected[~hole] = away / np.sqrt(np.diag(precision))
    residuals = model.pseudo_residuals(case.params)
    found = np.concatenate([r["mid"].to_numpy() for r in residuals.values()])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_what_is_known_before_later_data(read):
    """Filtered states, and one-step-ahead predictions of each site."""
    case, model, joint = read
    quadratic, steps = joint.quadratic(case.params), joint.steps()
    filtered, ahead = model.filtered(case.params), model.innovations(case.params)
    for t in (T // 2, T - 1):
        at = T - 1 - t if case.reverse else t
        _, mean, covariance = joint.given(quadratic, np.where(steps <= t, joint.y, np.nan))
        begin = 0
        for name, shape in case.latents.items():
            own = slice(begin, begin + int(np.prod(shape)))
            begin = own.stop
            if name not in filtered:
                continue
            middle, variance = (a[own].reshape(shape)[t] for a in (mean, np.diag(covariance)))
            np.testing.assert_allclose(filtered[name].mean[at], middle, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(filtered[name].sd[at] ** 2, variance, rtol=1e-6)
        _, mean, covariance = joint.given(quadratic, np.where(steps < t, joint.y, np.nan))
        here = joint.size + np.flatnonzero(steps == t)
        middle, variance = mean[here], np.diag(covariance)[here]
        found = [[np.ravel(getattr(p, n)[at]) for p in ahead.values()] for n in ("mean", "sd")]
        np.testing.assert_allclose(np.concatenate(found[0]), middle, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(np.concatenate(found[1]) ** 2, variance, rtol=1e-6)
        residual = np.concatenate([np.ravel(p.residual[at]) for p in ahead.values()])
        expected = (joint.y[steps == t] - middle) / np.sqrt(variance)
        np.testing.assert_allclose(residual, expected, rtol=1e-5, atol=1e-6)


def plain_filter(y, phi, theta, s, r):
    """ARMA(1, 1) step after step in long double."""
    F = np.array([[phi, theta], [0, 0]], np.longdouble)
    state, spread, total = np.zeros(2, np.longdouble), np.zeros((2, 2), np.longdouble), 0
    for value in y.astype(np.longdouble):
        state, spread = F @ state, F @ spread @ F.T + np.longdouble(s) ** 2
        whole, error = spread[0, 0] + np.longdouble(r) ** 2, value - state[0]
        total -= (np.log(2 * np.longdouble(np.pi) * whole) + error**2 / whole) / 2
        gain = spread[:, 0] / whole
        state, spread = state + gain * error, spread - np.outer(gain, gain) * whole
    return float(total)


@pytest.fixture(scope="module")
def precise():
    y = 30 + RNG.normal(size=400).cumsum()
    return y, Model(arma, y)


def test_precise_observations_lose_no_digits(precise):
    """Noise of a millionth: its square is 1e-12 of the signal's."""
    y, model = precise
    for noise in (1e-2, 1e-4, 1e-6, 1e-8):
        params = {"phi": 0.9, "theta": 0.3, "s": 0.7, "r": noise}
        expected = plain_filter(y, *params.values())
        assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_precise_observations_are_fitted():
    """EM and maximisation agree where the noise is held at a millionth."""
    shocks = 0.7 * RNG.normal(size=150)
    y = np.zeros(150)
    for t in range(1, 150):
        y[t] = 0.6 * y[t - 1] + shocks[t] + 0.4 * shocks[t - 1]
    model = Model(arma, y)
    mle = fit_mle(model, starts=1, seed=0, fixed={"r": 1e-6})
    em = fit_em(model, starts=1, seed=0, fixed={"r": 1e-6})
    assert mle.converged and em.converged
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-7)
    expected = plain_filter(y, *(float(mle.params[n]) for n in ("phi", "theta", "s", "r")))
    assert mle.log_likelihood == pytest.approx(expected, abs=1e-8)


def test_a_mask_ends_a_series():
    """Over state and observation it says what it says over the observation, and what missing values say."""
    y, seen = RNG.normal(size=(T, 3)), np.arange(T)[:, None] < [T, 5, 6]
    params = {"phi": 0.6, "tau": 0.5, "s": 0.4, "r": 0.5}
    model = Model(masked_panel, y, seen)
    missing = model.with_data(y=np.where(seen, y, np.nan), seen=np.ones((T, 3), bool))
    value = missing.log_likelihood(params)
    assert model.log_likelihood(params) == pytest.approx(value, rel=1e-12)
    residual = model.innovations(params)["y"].residual
    np.testing.assert_array_equal(np.isfinite(residual), seen)
    np.testing.assert_allclose(residual[seen], missing.innovations(params)["y"].residual[seen])


def test_a_latent_that_series_share_is_told():
    """One series does not know what the others say of it."""
    model, params = Model(shared_mean, RNG.normal(size=(T, 3)), latents={"m"}), {"s": 0.5, "r": 0.3}
    for question in (model.filtered, model.innovations, model.forecast):
        with pytest.raises(ValueError, match="meet m, which other series"):
            question(params)


def test_too_many_units_that_meet_are_refused():
    with pytest.raises(ValueError, match=r"'series' of the state 'x' meet in 'g'.*to_event"):
        Model(common_and_own, np.ones((T, 60)))


@pytest.mark.slow
def test_auxiliary_residuals_are_those_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    case = CASES["shared shock"]
    y = np.asarray(case.data[0])
    theirs = sm.tsa.UnobservedComponents(y, "llevel")
    theirs.initialize_known(np.array([0.5]), np.array([[0.36]]))
    theirs.loglikelihood_burn = 0
    found = theirs.smooth([0.81, 0.36])
    known = found.smoothed_measurement_disturbance_cov[0, 0]
    expected = found.smoothed_measurement_disturbance[0] / np.sqrt(0.81 - known)
    residuals = Model(local_level, y).pseudo_residuals({"sd": 0.6, "noise": 0.9})["y"]
    np.testing.assert_allclose(residuals["mid"], expected, rtol=1e-7)


def test_units_that_meet_are_one_vector():
    """A common state beside one of each series, some values missing; and other data of the same shape."""
    case = CASES["common and own"]
    model = Model(case.program, *case.data, latents=case.named)
    assert "Kalman recursion over 8 steps, 4 numbers carried" in str(model)
    for y in (case.data[0], case.data[0] + 5.0):
        joint = Joint(dataclasses.replace(case, data=(y,)))
        _, mean, covariance = joint.given(joint.quadratic(case.params), joint.y)
        other = model.with_data(y=y)
        imputed = other.impute(case.params)["y"]
        hole = np.isnan(joint.y)
        np.testing.assert_allclose(imputed.mean.ravel()[hole], mean[joint.size :][hole], rtol=1e-8)
        assert other.log_likelihood(case.params) == pytest.approx(
            joint.log_z(case.params), rel=1e-9
        )
