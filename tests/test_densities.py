"""Probabilities and rates that a latent switches off: values, slopes and curvatures exist."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.precision import quick_jit

RNG = np.random.default_rng(4)
X = RNG.normal(size=40)
PRESENT = RNG.uniform(size=40) < 0.6
SHARE = 1 / (1 + np.exp(-(0.2 + 0.9 * X)))
SEEN = (RNG.uniform(size=(40, 3)) < SHARE[:, None]) & PRESENT[:, None]
CAUGHT = RNG.binomial(5, SHARE) * PRESENT
COUNTS = RNG.poisson(np.exp(0.5 + 0.4 * X)) * PRESENT


def _law():
    w = numpyro.sample("w", dist.Beta(1, 1))
    a = numpyro.sample("a", dist.Normal(0, 2))
    return w, a, numpyro.sample("b", dist.Normal(0, 2))


def occupancy(x, y):
    w, a, b = _law()
    with numpyro.plate("sites", len(y), dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(w))
        with numpyro.plate("visits", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Bernoulli(z * jax.nn.sigmoid(a + b * x[:, None])), obs=y)


def occupancy_clamped(x, y):
    w, a, b = _law()
    with numpyro.plate("sites", len(y), dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(w))
        with numpyro.plate("visits", y.shape[1], dim=-1):
            p = jax.nn.sigmoid(a + b * x[:, None])
            numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(z * p)), obs=y)


def caught(x, y):
    w, a, b = _law()
    with numpyro.plate("sites", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Binomial(5, probs=z * jax.nn.sigmoid(a + b * x)), obs=y)


def counted(x, y):
    w, a, b = _law()
    with numpyro.plate("sites", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Poisson(z * jnp.exp(a + b * x)), obs=y)


def one_rate(x, y):
    """Without covariates the site enters through the family's own statistics."""
    w = numpyro.sample("w", dist.Beta(1, 1))
    rate = numpyro.sample("rate", dist.Gamma(1, 1))
    with numpyro.plate("sites", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Poisson(z * rate), obs=y)


def _expit(a, b):
    return 1 / (1 + np.exp(-(a + b * X)))


def _mixed(w, off, on):
    return np.log((1 - w) * off + w * on).sum()


PROGRAMS = {
    "occupancy": (
        occupancy, SEEN.astype(int),
        lambda w, a, b: _mixed(
            w, (~SEEN).all(1), stats.bernoulli.pmf(SEEN, _expit(a, b)[:, None]).prod(1)
        ),
    ),
    "clamped": (
        occupancy_clamped, SEEN.astype(int),
        lambda w, a, b: _mixed(
            w, (~SEEN).all(1), stats.bernoulli.pmf(SEEN, _expit(a, b)[:, None]).prod(1)
        ),
    ),
    "binomial": (
        caught, CAUGHT,
        lambda w, a, b: _mixed(w, CAUGHT == 0, stats.binom.pmf(CAUGHT, 5, _expit(a, b))),
    ),
    "poisson": (
        counted, COUNTS,
        lambda w, a, b: _mixed(w, COUNTS == 0, stats.poisson.pmf(COUNTS, np.exp(a + b * X))),
    ),
    "one rate": (
        one_rate, COUNTS,
        lambda w, rate: _mixed(w, COUNTS == 0, stats.poisson.pmf(COUNTS, rate)),
    ),
}  # fmt: skip


def _curvature(function, point, step=1e-4):
    """Second differences of a function of the parameters in their natural scale."""
    size, steps = len(point), np.eye(len(point)) * step
    found = np.zeros((size, size))
    for i, j in itertools.product(range(size), repeat=2):
        terms = [
            s * t * function(*(point + s * steps[i] + t * steps[j]))
            for s, t in itertools.product((1, -1), repeat=2)
        ]
        found[i, j] = sum(terms) / (4 * step**2)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_value_slope_curvature_and_fit(name):
    program, y, truth = PROGRAMS[name]
    model = Model(program, X, y)
    fits = fit_em(model, starts=2, seed=0), fit_mle(model, starts=2, seed=0)
    names = list(fits[0].params)
    problem = model.problem({}, False)

    def at(*values):
        return problem.log_likelihood(
            problem.space.unconstrain(dict(zip(names, values, strict=True))), model.data, {}
        )

    point = np.array([0.4, 0.7, 0.3][: len(names)])
    indices = tuple(range(len(names)))
    with jax.enable_x64(True):
        arguments = [jnp.asarray(v) for v in point]
        value, slope = quick_jit(jax.value_and_grad(at, indices))(*arguments)
        curvature = np.array(quick_jit(jax.hessian(at, indices))(*arguments))
    assert float(value) == pytest.approx(truth(*point), rel=1e-10)
    steps = np.eye(len(point)) * 1e-6
    slopes = [(truth(*(point + s)) - truth(*(point - s))) / 2e-6 for s in steps]
    np.testing.assert_allclose(slope, slopes, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(curvature, _curvature(truth, point), rtol=1e-4, atol=1e-4)
    for fit in fits:
        assert fit.converged, fit
        assert np.isfinite(fit.summary()["std err"]).all()
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-7)
