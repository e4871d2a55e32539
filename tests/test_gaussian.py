"""Real latents in plates, against dense algebra on NumPyro's own densities."""

from __future__ import annotations

import gaussian_programs as programs
import jax
import numpy as np
import pytest

from pp_mlem import Model
from pp_mlem.base.precision import working_precision
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.target.target import Target

CASES = [f"{program.__name__} {i}" for i, (program, _, _) in enumerate(programs.PROGRAMS)]


@pytest.fixture(scope="module")
def read():
    """Each model once, and parameters inside of their supports."""
    made = {}

    def get(case):
        if case not in made:
            program, data, options = programs.PROGRAMS[int(case.split()[-1])]
            model = Model(program, *data, **options)
            with jax.enable_x64(True):
                params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}
            made[case] = model, params
        return made[case]

    return get


@pytest.mark.parametrize("case", CASES)
def test_log_z_is_that_of_the_joint_gaussian(case, read):
    model, params = read(case)
    with jax.enable_x64(True):
        expected = programs.dense(model, params)[0]
    assert model.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)
    units = model.pointwise_log_likelihood(params)
    assert units.sum() == pytest.approx(float(expected), rel=1e-10)


def stacked(model, arrays):
    return np.concatenate([np.asarray(arrays[s.name]).ravel() for s in model.reading.reals])


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_the_joint_gaussian(case, read):
    model, params = read(case)
    if "weighed" in case:  # a posterior counts a unit's latents once
        pytest.skip("weights are no part of a posterior")
    with jax.enable_x64(True):
        _, mean, covariance, _ = programs.dense(model, params)
    told = model.posterior(params)
    reals = {s.name: told[s.name] for s in model.reading.reals}
    found = stacked(model, {n: m.mean for n, m in reals.items()})
    np.testing.assert_allclose(found, mean, atol=1e-9)
    found = stacked(model, {n: m.sd for n, m in reals.items()})
    np.testing.assert_allclose(found, np.sqrt(np.diagonal(covariance)), atol=1e-9)
    if not model.reading.latents:
        np.testing.assert_allclose(stacked(model, model.decode(params)), mean, atol=1e-9)


@pytest.mark.parametrize(
    "case", ["random_intercepts 0", "nested 1", "slopes 2", "mixture_of_factors 6"]
)
def test_draws_are_joint(case, read):
    model, params = read(case)
    with jax.enable_x64(True):
        _, mean, covariance, _ = programs.dense(model, params)
    count = 3000
    drawn = model.sample_latents(params, draws=count, seed=4)
    names = [s.name for s in model.reading.reals]
    rows = np.concatenate([drawn[n].reshape(count, -1) for n in names], 1)
    spread = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(rows.mean(0), mean, atol=5 * spread.max() / np.sqrt(count))
    outer = spread[:, None] * spread
    np.testing.assert_allclose(np.cov(rows.T) / outer, covariance / outer, atol=6 / np.sqrt(count))


@pytest.mark.parametrize("case", CASES)
def test_em_ascends_by_the_gradient_of_log_z(case, read):
    model, _ = read(case)
    with working_precision(model.dtype):
        target = model.target()
        vector = 0.3 * np.random.default_rng(0).normal(size=target.space.size)
        value, gradient = target.climb(vector)
        new, same, expected = target.compiled(Target.em_step)(vector)
        assert float(same) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(expected, gradient, rtol=1e-9, atol=1e-9 * abs(gradient).max())
        assert target.climb(np.asarray(new))[0] > value
        step = 1e-5 * np.eye(len(vector))[0]
        slope = (target.climb(vector + step)[0] - target.climb(vector - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[0], rel=1e-5, abs=1e-5)
