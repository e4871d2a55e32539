"""Tests of hypotheses against statsmodels, intervals inside of supports, and the printed summary."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from pp_mlem import Model, compare, fit_em, fit_map, fit_mle, likelihood_ratio_test, load

RNG = np.random.default_rng(11)
N = 80
X = pd.DataFrame({"one": np.ones(N), "age": RNG.normal(size=N), "educ": RNG.normal(size=N)})
COUNTS = RNG.poisson(np.exp(0.3 + 0.4 * X["age"]))


def poisson(X, y):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(X.values @ b)), obs=y)


def split(X, y):
    """The same with the coefficients of the two covariates apart."""
    a = numpyro.sample("a", dist.Normal(0, 10))
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + X[["age", "educ"]].values @ b)), obs=y)


@pytest.fixture(scope="module")
def whole():
    return fit_mle(Model(poisson, X, COUNTS), starts=1)


@pytest.fixture(scope="module")
def glm():
    return sm.GLM(COUNTS, X, sm.families.Poisson()).fit(tol=1e-12)


def test_wald_test_is_that_of_statsmodels(whole, glm):
    ours = whole.wald_test(["b[age]", "b[educ]"])
    theirs = glm.wald_test("age = 0, educ = 0", scalar=True)
    assert ours.statistic == pytest.approx(float(theirs.statistic), rel=1e-6) and ours.df == 2
    assert ours.p_value == pytest.approx(float(theirs.pvalue), rel=1e-5)
    difference = whole.wald_test(lambda p: p["b"][1] - p["b"][2], 0.1)
    theirs = glm.wald_test("age - educ = 0.1", scalar=True)
    assert difference.statistic == pytest.approx(float(theirs.statistic), rel=1e-6)
    twice = whole.wald_test(lambda p: jnp.stack([p["b"][1], 2 * p["b"][1]]))
    assert twice.df == 1 and twice.statistic == pytest.approx(whole.wald_test("b[age]").statistic)
    against = whole.wald_test(lambda p: jnp.stack([p["b"][1], p["b"][1]]), [0.0, 1.0])
    assert np.isnan(against.p_value) and "contradict" in against.reason


def test_score_test_is_that_of_statsmodels():
    fit = fit_mle(Model(split, X, COUNTS), fixed={"b": np.zeros(2)}, starts=1)
    model = sm.GLM(COUNTS, X, sm.families.Poisson())
    model.fit()
    at = np.array([float(fit.params["a"]), 0.0, 0.0])
    statistic, p_value, df = model.score_test(at, k_constraints=2)
    ours = fit.score_test()
    assert ours.statistic == pytest.approx(np.squeeze(statistic).item(), rel=1e-6)
    assert ours.df == df == 2
    assert ours.p_value == pytest.approx(np.squeeze(p_value).item(), rel=1e-5)
    assert fit.score_test("opg").statistic > 0
    with pytest.raises(ValueError, match="nothing fixed"):
        fit_mle(Model(split, X, COUNTS), starts=1).score_test()


def test_likelihood_ratio_of_nested_designs(whole, glm):
    """The covariates differ, what is observed does not."""
    narrow = fit_mle(Model(poisson, X[["one", "educ"]], COUNTS), starts=1)
    test = likelihood_ratio_test(narrow, whole)
    without = sm.GLM(COUNTS, X[["one", "educ"]], sm.families.Poisson()).fit(tol=1e-12)
    statistic = 2 * (glm.llf - without.llf)
    assert test.statistic == pytest.approx(statistic, rel=1e-8)
    assert test.reference == "chi-squared" and test.df == 1
    assert test.p_value == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-6)
    assert not any("different data" in w for w in compare({"a": whole, "b": narrow}).warnings)
    with pytest.raises(ValueError, match="lies below the smaller"):
        likelihood_ratio_test(whole, narrow)
    other = fit_mle(Model(poisson, X, COUNTS + 1), starts=1)
    with pytest.raises(ValueError, match="different observations|lies below"):
        likelihood_ratio_test(whole, other)
    assert "different data" in compare({"a": whole, "b": other}).warnings[0]


def test_components_are_tested_by_the_bootstrap(galaxies, galaxies_em):
    """Chi-squared is given when it is asked for, with the reason against it."""
    two = fit_mle(Model(galaxies.program, galaxies.arguments.dynamic[0], K=2), starts=3)
    asked = likelihood_ratio_test(two, galaxies_em, reference="chi-squared")
    assert asked.df == 3 and "latents of the two differ" in asked.why


def test_intervals_stay_in_the_supports(galaxies_em):
    table, wald = galaxies_em.summary(), galaxies_em.intervals(level=0.9)
    for name, row in table.iterrows():
        value, error = row["coef"], row["std err"]
        if name.startswith("mu"):
            expected = value + 1.959963984540054 * error * np.array([-1, 1])
            assert row["z"] == pytest.approx(value / error)
        elif name.startswith("sigma"):
            expected = value * np.exp(1.959963984540054 * error / value * np.array([-1, 1]))
            assert np.isnan(row["z"]) and np.isnan(row["P>|z|"])
        else:
            odds = np.log(value / (1 - value))
            half = 1.959963984540054 * error / (value * (1 - value))
            expected = 1 / (1 + np.exp(-odds - half * np.array([-1, 1])))
        np.testing.assert_allclose(row[["[0.025", "0.975]"]].astype(float), expected, rtol=1e-9)
    inner = table["[0.025"].lt(wald["low"]) & wald["high"].lt(table["0.975]"])
    assert inner.all()


def test_intervals_of_a_loaded_fit(galaxies_em, tmp_path):
    held = load(galaxies_em.save(tmp_path / "fit.nc"))
    pd.testing.assert_frame_equal(pd.DataFrame(held.summary()), pd.DataFrame(galaxies_em.summary()))


def test_summary_prints_and_exports(whole, galaxies_em, tmp_path):
    lines = str(whole.summary()).splitlines()
    assert max(len(line) for line in lines) <= 80
    head = " ".join(lines[:4])
    for word in ("poisson", "MLE", "converged", "AIC", f"{whole.log_likelihood:.4f}"):
        assert word in head
    assert "b[age]" in whole.summary().to_latex() and "<table" in whole.summary()._repr_html_()
    whole.summary().to_csv(tmp_path / "table.csv")
    again = pd.read_csv(tmp_path / "table.csv", index_col=0)
    np.testing.assert_allclose(again["coef"], whole.summary()["coef"])
    assert "nan" not in str(galaxies_em.summary()).lower()
    assert type(whole.summary().iloc[:, :2]) is pd.DataFrame


def unequal(x):
    """Two components, the first entry of whose means is to be held."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(jnp.array([0.0, 3.0]), jnp.array([1.0, 2.0])))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def with_first_at_zero(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    second = numpyro.sample("second", dist.Normal(3.0, 2.0))
    mu = jnp.stack([0.0, second])
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def test_single_entries_are_held():
    """A column left out; a mean in a plate, with its prior."""
    model = Model(poisson, X, COUNTS)
    held = fit_mle(model, fixed={"b[educ]": 0.0}, starts=1)
    narrow = fit_mle(Model(poisson, X[["one", "age"]], COUNTS), starts=1)
    assert list(held.scalar_names) == ["b[one]", "b[age]"] and held.n_parameters == 2
    assert held.log_likelihood == pytest.approx(narrow.log_likelihood, abs=1e-9)
    whole = fit_mle(model, starts=1)
    test = likelihood_ratio_test(held, whole)
    assert test.df == 1 and test.reference == "chi-squared"
    assert held.score_test().df == 1
    assert held.score_test().statistic == pytest.approx(test.statistic, rel=0.2, abs=0.05)
    x = np.concatenate([RNG.normal(0, 1, 30), RNG.normal(4, 1, 50)])
    for fit, objective in ((fit_em, "mle"), (fit_em, "map"), (fit_map, "map")):
        options = {} if fit is fit_map else {"objective": objective}
        ours = fit(Model(unequal, x), fixed={"mu[0]": 0.0}, starts=3, **options)
        theirs = fit(Model(with_first_at_zero, x), starts=3, **options)
        assert list(ours.scalar_names) == ["w[0]", "w[1]", "mu[1]"]
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-8)
        assert ours.log_prior == pytest.approx(theirs.log_prior, abs=1e-8)


def test_entries_are_tied():
    """Two coefficients are equal, or add up to a number; two means are opposites."""
    model = Model(poisson, X, COUNTS)
    same = fit_mle(model, fixed={"b[educ]": "b[age]"}, starts=1)
    summed = X.assign(both=X["age"] + X["educ"])[["one", "both"]]
    narrow = fit_mle(Model(poisson, summed, COUNTS), starts=1)
    assert list(same.scalar_names) == ["b[one]", "b[age]"]
    assert same.log_likelihood == pytest.approx(narrow.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(same.params["b"], narrow.params["b"], atol=1e-6)
    whole = fit_mle(model, starts=1)
    test = likelihood_ratio_test(same, whole)
    assert test.df == 1 and test.reference == "chi-squared"
    assert same.score_test().statistic == pytest.approx(test.statistic, rel=0.3, abs=0.1)
    one = fit_em(model, fixed={"b[educ]": lambda b: 0.5 - b["b[age]"]}, starts=1)
    told = sm.GLM(COUNTS, X[["one"]].assign(d=X["age"] - X["educ"]), sm.families.Poisson(),
                  offset=0.5 * X["educ"]).fit(tol=1e-12)  # fmt: skip
    assert one.log_likelihood == pytest.approx(told.llf, abs=1e-8)
    np.testing.assert_allclose(one.params["b"], told.params, atol=1e-6)
    x = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(2, 1, 50)])
    held = fit_em(Model(unequal, x), fixed={"mu[0]": lambda mu: -mu["mu[1]"]}, starts=3)
    assert held.status == "converged" and held.n_parameters == 2
    assert np.abs(held.params["mu"]) == pytest.approx(2.0, abs=0.4)


WRONG = {
    "of another parameter": ({"b[age]": "c"}, "'c', which is no free entry of 'b'"),
    "of one that is held": ({"b[age]": "b[educ]", "b[educ]": 0.0}, "no free entry"),
    "many values": ({"b[age]": lambda b: np.zeros(2)}, "values of shape"),
    "no such entry": ({"b[income]": 0.0}, r"unknown parameter\(s\) \['b\[income\]'\]"),
    "twice": ({"b[age]": 0.0, "b": np.zeros(3)}, "'b' and single entries"),
    "no number": ({"b[age]": [None]}, "'b\\[age\\]' received \\[None\\], expected a number"),
    "not finite": ({"b[age]": np.inf}, "outside of its support"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries_are_refused(case):
    fixed, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        fit_mle(Model(poisson, X, COUNTS), fixed=fixed, starts=1)


def test_entries_of_a_simplex_are_not_held_alone(galaxies):
    with pytest.raises(ValueError, match="'w' cannot be held: its support"):
        fit_mle(galaxies, fixed={"w[0]": 0.5}, starts=1)
