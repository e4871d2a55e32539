"""What makes real latents fast, against the slow way: crossed latents by their edges, rows by statistics."""

from __future__ import annotations

import gaussian_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pp_mlem import Model
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.uncertainty import information
from pp_mlem.marginal.steps import joint
from pp_mlem.potentials import crossed as kernel
from pp_mlem.program.neutral import neutral_parameters


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


@pytest.mark.parametrize("program,data", CROSSED, ids=lambda p: getattr(p, "__name__", ""))
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
