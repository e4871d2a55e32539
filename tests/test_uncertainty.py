"""Standard errors, intervals and information against formulas and libraries that are not ours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import optimize, stats

from pp_mlem import Model, compare, fit_em, fit_map, fit_mle, fit_nuts, load
from pp_mlem.show.catalogue import find_model

DEATHS = np.repeat(np.arange(10), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1])


def normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, sigma), obs=x)


def rates(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    rate = numpyro.sample("rate", dist.Gamma(2, 1).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


@pytest.fixture(scope="module")
def deaths():
    return fit_em(Model(rates, DEATHS), starts=5)


@pytest.fixture(scope="module")
def sample():
    x = np.random.default_rng(1).normal(3.0, 2.0, 40)
    return x, fit_em(Model(normal, x))


# --- observed information -------------------------------------------------------------------


def test_louis_formula(deaths):
    """Louis (1982): I = E[complete information] - Var[complete score], written out for two
    Poisson components in (w, r1, r2)."""
    w, (r1, r2) = deaths.params["w"][0], deaths.params["rate"]
    p = np.stack([w * stats.poisson.pmf(DEATHS, r1), (1 - w) * stats.poisson.pmf(DEATHS, r2)])
    t = p / p.sum(0)
    zero = np.zeros_like(DEATHS, float)
    scores = np.stack(
        [[zero + 1 / w, DEATHS / r1 - 1, zero], [zero - 1 / (1 - w), zero, DEATHS / r2 - 1]]
    )
    complete = np.diag([(t[0] / w**2 + t[1] / (1 - w) ** 2).sum(),
                        (t[0] * DEATHS).sum() / r1**2, (t[1] * DEATHS).sum() / r2**2])  # fmt: skip
    mean = np.einsum("kn,kin->in", t, scores)
    second = np.einsum("kn,kin,kjn->ij", t, scores, scores)
    information = complete - (second - mean @ mean.T)
    expected = np.linalg.inv(information)
    ours = deaths.covariance().loc[["w[0]", "rate[0]", "rate[1]"], ["w[0]", "rate[0]", "rate[1]"]]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_oakes_formula(galaxies, galaxies_em):
    """Oakes (1999): the information from Q alone, its second derivative and its mixed one."""
    x = jnp.asarray(galaxies.arguments.dynamic[0])

    def parts(theta):
        w = jnp.append(theta[:2], 1 - theta[:2].sum())
        logs = jnp.log(w) - jnp.log(theta[5:]) - 0.5 * ((x[:, None] - theta[2:5]) / theta[5:]) ** 2
        return logs

    def q(theta, other):
        return (jax.nn.softmax(parts(other), -1) * parts(theta)).sum()

    with jax.enable_x64(True):
        x = jnp.asarray(galaxies.arguments.dynamic[0])
        p = galaxies_em.params
        theta = jnp.concatenate([jnp.asarray(p["w"])[:2], p["mu"], p["sigma"]])
        own = jax.hessian(q)(theta, theta)
        mixed = jax.jacfwd(jax.grad(q), argnums=1)(theta, theta)
        expected = np.linalg.inv(-np.asarray(own + mixed))
    names = ["w[0]", "w[1]", *(f"{n}[{k}]" for n in ("mu", "sigma") for k in range(3))]
    np.testing.assert_allclose(galaxies_em.covariance().loc[names, names], expected, rtol=1e-6)


def test_logistic_sandwich_is_that_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(200), rng.normal(size=(200, 2))])
    y = (rng.uniform(size=200) < 1 / (1 + np.exp(-X @ [0.2, 1.0, -0.5]))).astype(int)

    def logistic(X, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([3]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)

    fit = fit_em(Model(logistic, X, y))
    theirs = sm.Logit(y, X).fit(disp=0)
    np.testing.assert_allclose(fit.standard_errors(), theirs.bse, rtol=1e-6)
    robust = sm.Logit(y, X).fit(disp=0, cov_type="HC0")
    np.testing.assert_allclose(fit.standard_errors("sandwich"), robust.bse, rtol=1e-6)


# --- functions of the parameters ------------------------------------------------------------


def test_delta_method(sample):
    x, fit = sample
    found = fit.estimate(lambda p: p["mu"] / p["sigma"])
    n, mean, sd = len(x), x.mean(), x.std()
    error = np.sqrt(1 / n + (mean / sd) ** 2 / (2 * n))  # the textbook's coefficient of variation
    assert found.value == pytest.approx(mean / sd, rel=1e-8)
    assert found.standard_error == pytest.approx(error, rel=1e-7)
    low, high = found.interval
    assert low == pytest.approx(mean / sd - 1.959964 * error, rel=1e-6) and high > found.value
    several = fit.estimate(lambda p: jnp.stack([p["mu"], 2 * p["mu"]]), level=0.9)
    assert several.value.shape == (2,) and "std err" in repr(several)
    np.testing.assert_allclose(several.standard_error[1], 2 * several.standard_error[0])


def test_delta_method_refuses_what_is_not_identified():
    def program(x):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    fit = fit_em(Model(program, np.random.default_rng(0).normal(size=30)))
    alone = fit.estimate(lambda p: p["a"])
    assert np.isnan(alone.standard_error) and "not identified" in alone.reason
    reasons = fit.covariance_details().reasons
    assert "+1 a" in reasons["a"] and "-1 b" in reasons["a"]


def test_constant_column_and_too_few_rows_are_told():
    def regression(X, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(X @ b, s), obs=y)

    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(30), np.full(30, 2.0), rng.normal(size=30)])
    fit = fit_em(Model(regression, X, rng.normal(size=30)))
    details = fit.covariance_details()
    assert "not identified" in details.reasons["b[0]"] and "b[2]" not in details.reasons
    few = fit_em(Model(regression, X[:2], np.array([1.0, 2.0])))
    assert not few.converged or few.covariance_details().reasons


# --- profile likelihood ---------------------------------------------------------------------


def test_profile_of_a_normal_mean(sample):
    """With sigma profiled out, the limits solve n log(1 + (mu - mean)^2 / s^2) = chi2."""
    x, fit = sample
    found = fit.profile("mu")
    half = x.std() * np.sqrt(np.expm1(stats.chi2.ppf(0.95, 1) / len(x)))
    assert found.low == pytest.approx(x.mean() - half, rel=1e-7)
    assert found.high == pytest.approx(x.mean() + half, rel=1e-7)
    table = fit.intervals("profile", ["mu", "sigma"], level=0.9)
    drop = stats.chi2.ppf(0.9, 1) / 2

    def below(s):
        return len(x) * (np.log(s / x.std()) + 0.5 * (x.var() / s**2 - 1)) - drop

    assert table.loc["sigma", "low"] == pytest.approx(
        optimize.brentq(below, 0.5, x.std()), rel=1e-6
    )
    assert table.loc["sigma", "high"] == pytest.approx(optimize.brentq(below, x.std(), 9), rel=1e-6)


def test_profile_ends_at_the_edge_of_a_support():
    def coin(x):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("tosses", len(x)):
            numpyro.sample("x", dist.Bernoulli(p), obs=x)

    fit = fit_em(Model(coin, np.array([1, 0, 0, 0, 0, 0])))
    found = fit.profile("p", level=0.9)
    likelihood = lambda p: np.log(p) + 5 * np.log1p(-p)  # noqa: E731
    target = likelihood(1 / 6) - stats.chi2.ppf(0.9, 1) / 2
    low = optimize.brentq(lambda p: likelihood(p) - target, 1e-6, 1 / 6)
    assert found.low == pytest.approx(low, rel=1e-6) and found.high < 1


# --- missing information --------------------------------------------------------------------


def test_rate_of_linkage():
    shelf = find_model("linkage")
    fit = fit_em(Model(shelf.program, **shelf.data()), starts=1)
    info = fit.missing_information()
    assert info.rate == pytest.approx(0.1328, abs=5e-5)
    assert info.observed_rate == pytest.approx(info.rate, abs=1e-4)
    assert info.fractions["t"] == pytest.approx(info.rate, abs=1e-6)  # one parameter
    assert "0.1328" in repr(info)


def test_rate_of_a_mixture_is_that_of_its_iterations(deaths):
    info = deaths.missing_information()
    plain = fit_em(
        deaths.model, init={"w": [0.5, 0.5], "rate": [1.0, 3.0]}, accelerate=False, polish=False,
        trace=True, max_iter=3000, tol=1e-13,
    )  # fmt: skip
    gap = np.array([p["rate"][0] for p in plain.trace]) - deaths.params["rate"][0]
    late = np.flatnonzero(np.abs(gap) > 1e-6)[-1]
    assert gap[late] / gap[late - 1] == pytest.approx(info.rate, rel=1e-4)
    assert info.observed_rate == pytest.approx(info.rate, rel=2e-3)
    assert np.all((info.fractions > 0.5) & (info.fractions < 1))
    np.testing.assert_allclose(info.missing, info.complete - info.observed)


# --- bootstrap ------------------------------------------------------------------------------


def test_bootstrap_of_a_normal(sample):
    x, fit = sample
    drawn = fit.bootstrap(400, seed=1)
    assert len(drawn.estimates) == 400 and not drawn.failed and not drawn.unfinished
    expected = fit.standard_errors()
    np.testing.assert_allclose(drawn.standard_errors, expected, rtol=0.12)
    resampled = fit.bootstrap(400, kind="nonparametric", seed=1)
    rng = np.random.default_rng(0)
    theirs = np.array([rng.choice(x, len(x)).mean() for _ in range(4000)])
    assert resampled.standard_errors["mu"] == pytest.approx(theirs.std(), rel=0.12)
    low, high = resampled.intervals().loc["mu"]
    np.testing.assert_allclose([low, high], np.quantile(theirs, [0.025, 0.975]), atol=0.15)
    again = fit.bootstrap(400, kind="nonparametric", seed=1)
    np.testing.assert_array_equal(again.estimates, resampled.estimates)
    np.testing.assert_allclose(fit.covariance("bootstrap"), resampled.covariance)
    assert fit.intervals("bootstrap").loc["mu", "low"] == low


def test_bootstrap_keeps_labels_and_case_weights(deaths):
    found = deaths.bootstrap(100)
    assert (found.estimates["rate[0]"] < found.estimates["rate[1]"]).mean() > 0.85
    shelf = find_model("poisson_mixture")
    weighted = fit_em(Model(shelf.program, **shelf.data()), starts=3)
    with pytest.raises(ValueError, match="case weights"):
        weighted.bootstrap(10)
    counted = weighted.bootstrap(300, kind="nonparametric").standard_errors
    written_out = deaths.bootstrap(300, kind="nonparametric", seed=1).standard_errors
    np.testing.assert_allclose(counted, written_out, rtol=0.3)


def test_bootstrap_that_collapses_is_told():
    def small(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)

    x = np.array([0.0, 0.4, 1.1, 10.0, 10.3, 11.0])
    found = fit_em(Model(small, x), starts=3).bootstrap(60)
    assert found.reason and sum(found.failed.values()) > 30
    assert found.covariance.isna().all().all() and "refits failed" in found.reason


def test_bootstrap_of_one_sequence_must_be_parametric():
    shelf = find_model("earthquakes")
    fit = fit_em(Model(shelf.program, **shelf.data()), starts=3)
    with pytest.raises(ValueError, match="[Uu]se the parametric bootstrap"):
        fit.bootstrap(10, kind="nonparametric")
    found = fit.bootstrap(60)
    assert found.standard_errors["rate[0]"] == pytest.approx(
        fit.standard_errors()["rate[0]"], rel=0.5
    )


def test_data_that_feed_back_cannot_be_drawn():
    from numpyro.contrib.control_flow import scan

    def program(x):
        phi = numpyro.sample("phi", dist.Normal(0, 1))

        def step(carry, inputs):
            before, now = inputs
            numpyro.sample("x", dist.Normal(phi * before, 1.0), obs=now)
            return carry, None

        scan(step, 0.0, (x[:-1], x[1:]))

    model = Model(program, np.random.default_rng(0).normal(size=30))
    with pytest.raises(ValueError, match="depends on observed values"):
        model.redraw({"phi": 0.3})


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda f: f.profile("nu"), "one of the free scalars: mu, sigma"),
        (lambda f: f.profile("mu", level=2), "between 0 and 1"),
        (lambda f: f.covariance("hessian"), "expected one of"),
        (lambda f: f.bootstrap(1), "at least 2"),
        (lambda f: f.bootstrap(10, kind="block"), "parametric"),
        (lambda f: f.intervals("exact"), "'wald', 'profile' or 'bootstrap'"),
        (lambda f: f.intervals(names=["nu"]), "no free scalars"),
    ],
)
def test_mistakes(sample, call, told):
    with pytest.raises(ValueError, match=told):
        call(sample[1])


def test_draws_have_no_bootstrap():
    x = np.random.default_rng(0).normal(size=20)
    fit = fit_nuts(Model(normal, x), chains=1, warmup=100, draws=100)
    with pytest.raises(ValueError, match="posterior draws instead"):
        fit.bootstrap()
    ratio = fit.estimate(lambda p: p["mu"] / p["sigma"])
    assert abs(ratio.value) < 1 and ratio.low < ratio.value < ratio.high


def test_map_profile_uses_the_prior(sample):
    x, _ = sample
    fit = fit_map(Model(normal, x), starts=1)
    assert fit.profile("mu").objective.max() == pytest.approx(fit.objective_value, abs=1e-8)
    assert fit_mle(fit.model, starts=1).profile("mu").low < fit.params["mu"]


def test_whole_numbers_under_a_continuous_law_are_drawn_as_real_ones():
    """A draw that takes the place of an integer is not cut off: the bootstrap is that of the same numbers as
    floats, and its sigma is not too small."""
    values = np.random.default_rng(0).normal(0, 3, 200).round()
    whole, real = (fit_mle(Model(normal, v)) for v in (values.astype(int), values))
    ours, theirs = (f.bootstrap(50, kind="parametric", seed=0) for f in (whole, real))
    assert np.allclose(ours.estimates, theirs.estimates, atol=1e-6)
    assert abs(ours.bias["sigma"]) < 0.1  # cut towards zero it was -0.4
    drawn = Model(normal, values.astype(int)).redraw(real.params, seed=1).observed_values()["x"]
    assert np.abs(drawn - drawn.round()).max() > 0.1


def test_counts_stay_whole():
    drawn = Model(rates, DEATHS).redraw(
        {"w": np.array([0.4, 0.6]), "rate": np.array([1.3, 2.7])}, seed=1
    )
    assert drawn.observed_values()["x"].dtype.kind == "i"


def by_columns(table):
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", len(table)):
        numpyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=table.values)


def test_columns_of_a_table_are_drawn_anew():
    """They are arguments of their own, and one of them holds whole numbers, one a missing value."""
    table = pd.DataFrame({"a": np.arange(6.0), "b": np.arange(6)})
    table.loc[2, "a"] = np.nan
    model, at = Model(by_columns, table), {"mu": np.array([0.0, 20.0])}
    drawn = np.asarray(model.redraw(at, seed=0).observed_values()["x"])
    assert np.isnan(drawn[2, 0]) and np.isnan(drawn).sum() == 1
    assert np.nanmax(np.abs(drawn - at["mu"])) < 5  # each in its own column
    assert np.abs(drawn[:, 1] - drawn[:, 1].round()).max() > 0.01
    assert fit_mle(model).bootstrap(5, kind="parametric", seed=0).estimates.shape == (5, 2)


def test_more_scalars_than_a_matrix_is_computed_of(monkeypatch, tmp_path):
    """Estimates without standard errors and the reason, not a matrix that no memory holds."""
    monkeypatch.setattr("pp_mlem.diagnose.uncertainty.MOST_SCALARS", 4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))

    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([x.shape[1]]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    fit = fit_em(Model(program, x))
    table = fit.summary()
    np.testing.assert_allclose(table["coef"], x.mean(0))
    assert table["std err"].isna().all() and (table["note"].str.contains("6 free scalars")).all()
    assert "6 free scalars" in fit.estimate(lambda p: p["mu"].sum()).reason
    assert np.isnan(fit.estimate(lambda p: p["mu"].sum()).standard_error)
    with pytest.raises(ValueError, match="covariance: 6 free scalars"):
        fit.covariance()
    with pytest.raises(ValueError, match="missing_information: 6 free scalars"):
        fit.missing_information()
    assert "EM" in str(compare({"EM": fit}))
    again = load(fit.save(tmp_path / "fit.nc"))
    pd.testing.assert_frame_equal(pd.DataFrame(again.summary()), pd.DataFrame(table))
