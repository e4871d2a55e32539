"""Probabilities and rates that a latent switches off: values, slopes and curvatures exist. Ratios
of gamma functions: digits are kept at extreme parameters. Bounds that a latent moves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.program.densities import log_density

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
    target = model.target()

    def at(*values):
        return target.log_likelihood(
            target.space.unconstrain(dict(zip(names, values, strict=True)))
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


# --- concentrations without bound ---------------------------------------------------------------

POISSON = np.array([3, 4, 5, 3, 4, 5, 4, 4, 6, 2, 4, 3])
TOTALS = np.repeat([3, 4], 6)  # of 10, less dispersed than any binomial
EVEN = np.linspace(-1, 1, 12)
POISSON_LIMIT = stats.poisson.logpmf(POISSON, POISSON.mean()).sum()
BINOMIAL_LIMIT = stats.binom.logpmf(TOTALS, 10, 0.35).sum()
NORMAL_LIMIT = stats.norm.logpdf(EVEN, 0, EVEN.std()).sum()
CLASSES = np.array([[6, 3, 1], [1, 2, 7]] * 10)  # each class the same counts again and again
MULTINOMIAL_LIMIT = 20 * np.log(0.5) + 10 * sum(
    stats.multinomial.logpmf(row, 10, row / 10) for row in CLASSES[:2]
)


def _concentration():
    return numpyro.sample("c", dist.Exponential(0.1))


def counts(y):
    m = numpyro.sample("m", dist.Gamma(1, 0.1))
    c = _concentration()
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.NegativeBinomial2(m, c), obs=y)


def counts_with_zeros(y):
    m = numpyro.sample("m", dist.Gamma(1, 0.1))
    c = _concentration()
    with numpyro.plate("rows", len(y)):
        law = dist.ZeroInflatedNegativeBinomial2(m, c, gate=1e-12)
        numpyro.sample("y", law, obs=y)


def shares(y):
    c = _concentration()
    d = numpyro.sample("d", dist.Exponential(0.1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.BetaBinomial(c, d, 10), obs=y)


def heavy_tails(y):
    m = numpyro.sample("m", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(3))
    c = _concentration()
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.StudentT(c, m, s), obs=y)


def topics(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("classes", 2):
        c = numpyro.sample("c", dist.HalfNormal(5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.DirichletMultinomial(c[z], 10), obs=y)


@pytest.mark.parametrize("c", [0.3, 5.0, 9e3, 1.1e4, 1e6, 1e12, 1e100, 1e300])
def test_ratios_of_gamma_functions_keep_their_digits(c):
    x = np.array([0, 3, 7])
    near = c <= 1e4
    with working_precision(np.dtype(float)):
        _check_digits(c, x, near)


def _check_digits(c, x, near):
    pairs = [
        (dist.NegativeBinomial2(4.0, c), x, stats.poisson.logpmf(x, 4)),
        (dist.NegativeBinomialLogits(c, np.log(4 / c)), x, stats.poisson.logpmf(x, 4)),
        (dist.BetaBinomial(c, 2 * c, 10), x, stats.binom.logpmf(x, 10, 1 / 3)),
        (dist.StudentT(c, 0.3, 1.2), 1.0 * x, stats.norm.logpdf(x, 0.3, 1.2)),
    ]
    for fn, at, limit in pairs:
        expected = fn.log_prob(at) if near else limit
        np.testing.assert_allclose(
            log_density(fn, at), expected, atol=1e-9 if near else 1e-10 + 300 / c
        )
    rest = dist.DirichletMultinomial(c * jnp.array([1.0, 2.0]), 10)
    both = log_density(rest, np.stack([x, 10 - x], -1))
    np.testing.assert_allclose(both, log_density(pairs[2][0], x), atol=1e-6)
    mixed = dist.ZeroInflatedNegativeBinomial2(4.0, c, gate=0.2)
    plain = log_density(pairs[0][0], x)
    zero = np.log(0.2 + 0.8 * np.exp(plain[0]))
    np.testing.assert_allclose(log_density(mixed, x)[0], zero, rtol=1e-12)
    np.testing.assert_allclose(log_density(mixed, x)[1:], plain[1:] + np.log(0.8), rtol=1e-12)


WITHOUT_BOUND = {
    "negative binomial": (counts, POISSON, POISSON_LIMIT),
    "zero-inflated": (counts_with_zeros, POISSON, POISSON_LIMIT),
    "beta-binomial": (shares, TOTALS, BINOMIAL_LIMIT),
    "Student t": (heavy_tails, EVEN, NORMAL_LIMIT),
    "Dirichlet-multinomial": (topics, CLASSES, MULTINOMIAL_LIMIT),
}


@pytest.mark.parametrize(
    "fitter, name", zip([fit_em, fit_mle] * len(WITHOUT_BOUND), WITHOUT_BOUND, strict=False)
)
def test_a_concentration_without_bound_ends_at_the_limit(name, fitter):
    program, y, limit = WITHOUT_BOUND[name]
    fit = fitter(Model(program, y), starts=3, seed=0)
    assert limit - 1e-5 < fit.log_likelihood < limit + 1e-3  # two classes overlap a little
    assert fit.status == "boundary" and "c (" in fit.status_note
    errors = fit.standard_errors()
    assert errors[[n for n in errors.index if n[0] in "cd"]].isna().all()
    assert errors[[n for n in errors.index if n[0] in "ms"]].notna().all()


# --- bounds that a latent moves, and densities without a derivative ------------------------------


def moving_bound(y):
    a = numpyro.sample("a", dist.LogNormal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.TruncatedNormal(0.0, 1.0, low=-a[z]), obs=y)


def test_a_bound_that_a_latent_moves_is_fitted():
    y = np.linspace(-0.9, 1.4, 30)
    model = Model(moving_bound, y)
    a = np.array([0.5, 1.2])
    each = [stats.truncnorm.logpdf(y, -low, np.inf) for low in a]
    expected = np.logaddexp(np.log(0.6) + each[0], np.log(0.4) + each[1]).sum()
    assert model.log_likelihood({"a": a}) == pytest.approx(expected, rel=1e-9)
    for fit in (fit_em(model, starts=2, seed=0), fit_mle(model, starts=2, seed=0)):
        assert np.isfinite(fit.log_likelihood) and fit.log_likelihood > expected


def truncated_tails(y):
    c = numpyro.sample("c", dist.Gamma(2, 0.1))
    law = dist.TruncatedDistribution(dist.StudentT(c, 0.0, 1.0), low=0.0)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", law, obs=y)


@pytest.mark.parametrize("fitter", [fit_em, fit_mle])
def test_a_density_without_derivative_is_told_by_its_site(fitter):
    model = Model(truncated_tails, np.linspace(0.1, 2, 8))
    with pytest.raises(ValueError, match="site 'y' .*no derivative in JAX.*fixed="):
        fitter(model, starts=1)
