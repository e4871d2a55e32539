"""The estimate does not depend on units or offsets: the optimum, mapped back, is the same one."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pp_mlem import Model, fit_em, fit_mle

ROWS = 120
GRID = 2.0**-20  # data on this grid keep every digit at an offset of 1e9


def _on_grid(values):
    return np.round(np.asarray(values) / GRID) * GRID


RNG = np.random.default_rng(3)
X = _on_grid(RNG.normal(size=ROWS))
GROUP = RNG.integers(0, 2, ROWS)
LINE = _on_grid(1 + 2 * X + 0.5 * RNG.normal(size=ROWS))
LINES = _on_grid(np.where(GROUP, 1 + 2 * X, -1 - X) + 0.3 * RNG.normal(size=ROWS))
HEAPS = _on_grid(np.where(GROUP, 3.0, -1.0) + 0.7 * RNG.normal(size=ROWS))
CLICKS = (RNG.uniform(size=ROWS) < 1 / (1 + np.exp(-0.5 - 1.5 * X))).astype(float)
COUNTS = RNG.poisson(np.exp(0.3 + 0.5 * X)).astype(float)
WAITS = RNG.gamma(2.5, 0.6, size=ROWS)


def _line():
    a = numpyro.sample("a", dist.Normal(0, 10))
    return a, numpyro.sample("b", dist.Normal(0, 10))


def normal_regression(x, y):
    a, b = _line()
    s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a + b * x, s), obs=y)


def robust_regression(x, y):
    a, b = _line()
    s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.StudentT(4.0, a + b * x, s), obs=y)


def logistic_regression(x, y):
    a, b = _line()
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def poisson_regression(x, y):
    a, b = _line()
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


def mixture(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(mu[z], s[z]), obs=y)


def mixture_of_lines(x, y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        a, b = _line()
        s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(a[z] + b[z] * x, s[z]), obs=y)


def gamma(y):
    a = numpyro.sample("a", dist.HalfNormal(10))
    r = numpyro.sample("r", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Gamma(a, r), obs=y)


COVARIATE = [("x", "*", 1e-8), ("x", "*", 1e8), ("x", "+", 1e6), ("x", "+", 1e9)]
RESPONSE = [("y", "*", 1e-8), ("y", "*", 1e8), ("y", "+", 1e6), ("y", "+", 1e9)]
PROGRAMS = {
    "normal regression": (normal_regression, {"x": X, "y": LINE}, COVARIATE + RESPONSE),
    "robust regression": (robust_regression, {"x": X, "y": LINE}, COVARIATE + RESPONSE),
    "logistic regression": (logistic_regression, {"x": X, "y": CLICKS}, COVARIATE),
    "poisson regression": (poisson_regression, {"x": X, "y": COUNTS}, COVARIATE),
    "mixture": (mixture, {"y": HEAPS}, RESPONSE),
    "mixture of lines": (mixture_of_lines, {"x": X, "y": LINES}, COVARIATE + RESPONSE),
    "gamma": (gamma, {"y": WAITS}, RESPONSE[:2]),
}
FITS = {"EM": fit_em, "MLE": fit_mle}


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_optimum_is_the_same_in_all_units(name, method):
    """Every scaling and offset converges to the optimum of the data as they were."""
    program, data, changes = PROGRAMS[name]
    model, fit = Model(program, **data), FITS[method]
    plain = fit(model, starts=4, seed=1)
    assert plain.converged
    for what, how, amount in changes:
        changed = data[what] * amount if how == "*" else data[what] + amount
        found = fit(model.with_data(**(data | {what: changed})), starts=4, seed=1)
        jacobian = -ROWS * np.log(amount) if (what, how) == ("y", "*") else 0.0
        # At an offset of 1e9 a coordinate's last digit is worth 1e-7 in every fitted value.
        tolerance = 2e-5 if amount == 1e9 else 1e-6
        told = f"{what} {how} {amount:g}: {found.status}"
        assert found.converged, told
        assert found.log_likelihood - jacobian == pytest.approx(
            plain.log_likelihood, abs=tolerance
        ), told


def test_coefficients_are_mapped_back():
    """Slope and intercept of shifted and scaled covariates are those of the plain ones, with their
    standard errors."""
    model = Model(normal_regression, X, LINE)
    fit = fit_mle(model)
    plain, errors = fit.params, fit.summary()["std err"]
    for shift, scale in ((1e6, 1.0), (1e9, 1.0), (0.0, 1e-8)):
        again = fit_mle(model.with_data(x=X * scale + shift))
        found, spread = again.params, again.summary()["std err"]
        assert spread["b"] * scale == pytest.approx(errors["b"], rel=1e-3)
        assert spread["a"] == pytest.approx(np.hypot(errors["a"], shift * errors["b"]), rel=1e-2)
        assert found["b"] * scale == pytest.approx(plain["b"], rel=1e-5)
        assert found["s"] == pytest.approx(plain["s"], rel=1e-5)
        level = found["a"] + found["b"] * shift
        assert level == pytest.approx(plain["a"], abs=1e-5)


def test_answers_for_every_row_come_some_rows_at_a_time(monkeypatch):
    """Posterior, most probable values and log-likelihoods of long data are those of all rows at once."""
    import pp_mlem.model.by_rows as BY_ROWS

    def answers(model):
        asked = model.posterior, model.decode, model.pointwise_log_likelihood
        posterior, best, terms = (ask(params) for ask in asked)
        return posterior["z"], best["z"], terms, model.classification_log_likelihood(params)

    def mixture(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("components", 3):
            mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    x = np.random.default_rng(8).normal(0, 3, 9_001)
    params = {"w": np.array([0.2, 0.5, 0.3]), "mu": np.array([-3.0, 0.0, 3.0])}
    whole = answers(Model(mixture, x))
    monkeypatch.setattr(BY_ROWS, "ROWS", 1_000)
    for one, other in zip(answers(Model(mixture, x)), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
