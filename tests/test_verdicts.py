"""An optimum that is none is told: separated outcomes, fits through all points, and what only looks
like them."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import optimize

import pp_mlem as pp
from pp_mlem.diagnose import edges
from pp_mlem.diagnose.kinks import at_kink
from pp_mlem.show.catalogue import find_model

X = np.array([-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.4, 2.0])
STEP = (X > 0) * 1.0
MIXED = np.array([0, 1, 0, 1, 0, 1, 1, 1])
DESIGN = np.stack([np.ones(8), X, STEP], 1)
RIDGE = np.stack([np.ones(8), X, 2 * X], 1)
positive = dist.constraints.positive


def logistic(x, y=None):
    a = numpyro.param("a", 0.0)
    b = numpyro.param("b", 0.0)
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def of_design(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def flat_priors(x, y=None):
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=b[0] + b[1] * x), obs=y)


def totals(x, y=None, n=5):
    a = numpyro.param("a", 0.0)
    b = numpyro.param("b", 0.0)
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Binomial(n, logits=a + b * x), obs=y)


def counts(x, y=None):
    a = numpyro.param("a", 0.0)
    b = numpyro.param("b", 0.0)
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


def multinomial(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    logits = jnp.stack([jnp.zeros(len(x)), *(w @ jnp.stack([jnp.ones(len(x)), x]))], 1)
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


CASES = {  # program, x, y, which scalars grow without bound, log-likelihood at infinity
    "complete": (logistic, X, STEP.astype(int), "a b", 0.0),
    "quasi": (logistic, STEP, np.array([0, 1, 0, 1, 1, 1, 1, 1]), "b", 4 * np.log(0.5)),
    "design": (of_design, DESIGN[:, :2], STEP.astype(int), "b[0] b[1]", 0.0),
    "design, quasi": (of_design, DESIGN, np.array([0, 1, 0, 1, 1, 1, 1, 1]), None, None),
    "ridge and separated": (of_design, RIDGE, STEP.astype(int), None, None),
    "totals": (totals, X, 5 * STEP.astype(int), "a b", 0.0),
    "zero cell": (counts, STEP, np.array([2, 1, 3, 2, 0, 0, 0, 0]), "b", None),
    "three outcomes": (multinomial, X, np.array([0, 0, 0, 1, 1, 1, 2, 2]), None, 0.0),
    "overlap": (logistic, X, MIXED, "", None),
    "small unit": (logistic, X * 1e-8, MIXED, "", None),
    "large unit": (logistic, X * 1e8, MIXED, "", None),
    "ridge": (of_design, RIDGE, MIXED, "", None),
    "some totals of zero": (totals, X, np.array([0, 1, 0, 2, 3, 4, 5, 5]), "", None),
    "three outcomes, mixed": (multinomial, X, np.array([0, 1, 0, 2, 1, 0, 2, 1]), "", None),
}


def _slow(cases, names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in names else n for n in cases]


@pytest.mark.parametrize(
    "name", _slow(CASES, {"design", "totals", "three outcomes", "small unit", "large unit"})
)
def test_separation_is_told_and_only_that(name):
    program, x, y, growing, value = CASES[name]
    fit = pp.fit_em(pp.Model(program, x=x, y=y))
    if growing == "":
        assert fit.status == "converged", (fit.status, fit.params)
        return
    assert fit.status == "separation" and not fit.converged
    assert "without bound" in repr(fit) and "fit_map" in repr(fit)
    table = fit.summary()
    told = [n for n in table.index if "separation" in table.loc[n, "note"]]
    assert table.loc[told, "std err"].isna().all()
    if growing is not None:
        assert told == growing.split()
        assert table.loc[[n for n in table.index if n not in told], "std err"].notna().all()
    if value is not None:
        assert fit.log_likelihood == pytest.approx(value, abs=1e-2)


@pytest.mark.parametrize("fit_by", [pp.fit_mle, pp.fit_map])
def test_separation_by_mle_and_by_flat_priors(fit_by):
    fit = fit_by(pp.Model(flat_priors, x=X, y=STEP.astype(int)))
    assert fit.status == "separation"
    told = pp.compare({"one": fit, "EM": pp.fit_em(fit.model)}).warnings
    assert any("separated" in str(w) for w in told)


def test_a_proper_prior_has_its_mode():
    fit = pp.fit_map(pp.Model(of_design, x=DESIGN[:, :2], y=STEP.astype(int)))
    assert fit.converged and fit.standard_errors().notna().all()


def flat_line(x, y=None):
    a = numpyro.param("a", 0.0)
    b = numpyro.param("b", 0.0)
    s = numpyro.param("s", 1.0, constraint=positive)
    with numpyro.plate("n", len(x)):
        numpyro.sample("y", dist.Normal(a + b * x, s), obs=y)


def same(y, law):
    m = numpyro.param("m", 1.0, constraint=positive if law is dist.Gamma else dist.constraints.real)
    s = numpyro.param("s", 1.0, constraint=positive)
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", law(4.0, m, s) if law is dist.StudentT else law(m, s), obs=y)


def test_a_prior_that_is_zero_at_zero_ends_a_collapse():
    def program(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 10))
        b = numpyro.sample("b", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        with numpyro.plate("n", len(x)):
            numpyro.sample("y", dist.Normal(a + b * x, s), obs=y)

    fit = pp.fit_map(pp.Model(program, x=X, y=2 + 3 * X))
    assert fit.converged and np.log(fit.params["s"]) == pytest.approx(-9.0, abs=1e-3)


def vectors(y):
    m = numpyro.param("m", jnp.zeros(y.shape[1]))
    s = numpyro.param("s", jnp.eye(y.shape[1]), constraint=dist.constraints.positive_definite)
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(m, s), obs=y)


def by_group(y, g):
    m = numpyro.param("m", jnp.zeros(2))
    s = numpyro.param("s", jnp.ones(2), constraint=positive)
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(m[g], s[g]), obs=y)


NOISE = np.array([0.3, -0.1, 0.4, -0.6, 0.2, 0.1, -0.5, 0.2])
THROUGH = {  # program, arguments, whether the fit goes through all points
    "line": (flat_line, {"x": X, "y": 2 + 3 * X}, True),
    "line far away": (flat_line, {"x": X, "y": 2e6 + 3 * X}, True),
    "Normal": (same, {"y": np.full(9, 0.7), "law": dist.Normal}, True),
    "LogNormal": (same, {"y": np.full(9, 0.7), "law": dist.LogNormal}, True),
    "StudentT": (same, {"y": np.full(9, 0.7), "law": dist.StudentT}, True),
    "Gamma": (same, {"y": np.full(9, 0.7), "law": dist.Gamma}, True),
    "collinear": (vectors, {"y": np.stack([X, X**2, X + X**2], 1)}, True),
    "alone in its group": (by_group, {"y": X, "g": np.array([0] * 7 + [1])}, True),
    "nearly collinear": (vectors, {"y": np.stack([X, X**2, X + 1e-3 * X**3], 1)}, False),
    "nearly a line": (flat_line, {"x": X, "y": 2 + 3 * X + 1e-9 * NOISE}, False),
    "nearly a line, small unit": (flat_line, {"x": X, "y": 1e-8 * (2 + 3 * X + NOISE)}, False),
    "nearly a line, far away": (flat_line, {"x": X, "y": 1e8 + 3 * X + NOISE}, False),
}


@pytest.mark.parametrize(
    "name", _slow(THROUGH, {"line far away", "LogNormal", "StudentT", "nearly a line, small unit"})
)
def test_a_fit_through_all_points_has_collapsed(name):
    program, arguments, through = THROUGH[name]
    model = pp.Model(program, **arguments)
    for fit in (pp.fit_em(model), pp.fit_mle(model)):
        if not through:
            assert fit.status != "collapsed" and fit.standard_errors().notna().all()
            continue
        assert fit.status == "collapsed" and "'y'" in fit.status_note and "s" in fit.status_note
        table = fit.summary()
        assert table["std err"].isna().all() and table["note"].str.contains("collapsed").all()
        assert "collapsed" in repr(fit)


def _perfect(x, y) -> bool:
    """Whether statsmodels finds perfect separation."""
    smd = pytest.importorskip("statsmodels.discrete.discrete_model")
    tools = pytest.importorskip("statsmodels.tools.sm_exceptions")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        smd.Logit(y, x).fit(disp=0, maxiter=100)
    return any(issubclass(w.category, tools.PerfectSeparationWarning) for w in seen)


@pytest.mark.parametrize("kind", ["setosa", "virginica"])
def test_separation_agrees_with_statsmodels(kind):
    datasets = pytest.importorskip("sklearn.datasets")
    iris = datasets.load_iris()
    rows = iris.target > 0 if kind == "virginica" else iris.target >= 0
    x = np.column_stack([np.ones(rows.sum()), iris.data[rows]])
    y = (iris.target[rows] == list(iris.target_names).index(kind)).astype(int)
    fit = pp.fit_mle(pp.Model(of_design, x=x, y=y))
    assert (fit.status == "separation") == _perfect(x, y) == (kind == "setosa")
    assert fit.converged == (kind == "virginica")


def test_saturated_probits_are_followed_by_their_gradient():
    def probit(x, y=None):
        a = numpyro.param("a", 0.0)
        b = numpyro.param("b", 0.0)
        with numpyro.plate("n", len(x)):
            p = jax.scipy.stats.norm.cdf(a + b * x)  # one to rounding: no second derivative
            numpyro.sample("y", dist.Bernoulli(probs=p), obs=y)

    fit = pp.fit_em(pp.Model(probit, x=X, y=STEP.astype(int)))
    assert fit.status == "separation" and fit.log_likelihood > -0.5


def test_profiles_of_separated_and_collapsed_fits():
    quasi = pp.Model(logistic, x=STEP, y=np.array([0, 1, 0, 1, 1, 1, 1, 1]))
    found = pp.fit_mle(quasi).intervals("profile")
    # where x is 1 the other coefficient is free to follow: the intercept is that of the other rows
    half = optimize.brentq(lambda a: 2 * np.log(np.cosh(a / 2)) * 2 - 1.920729, 0.0, 9.0)
    assert found.loc["a"].to_numpy() == pytest.approx([-half, half], abs=1e-4)
    assert -1.0 < found.loc["b", "low"] < 1.0 and found.loc["b", "high"] == np.inf
    line = pp.fit_mle(pp.Model(flat_line, x=X, y=2 + 3 * X))
    with pytest.raises(ValueError, match="no bound"):
        line.profile("a")


@pytest.mark.parametrize("separated", [True, False])
def test_a_gate_of_a_mixture_can_be_separated(separated):
    def gated(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 5))
        b = numpyro.sample("b", dist.Normal(0, 5))
        with numpyro.plate("k", 2):
            m = numpyro.sample("m", dist.Normal(0, 5))
        with numpyro.plate("n", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(logits=a + b * x))
            numpyro.sample("y", dist.Normal(m[z], 1.0), obs=y)

    x = np.linspace(-2, 2, 24)
    class_ = np.where(separated | (np.arange(24) % 5 > 0), x > 0.3, x < 0.3)
    y = np.where(class_, 6.0, -6.0) + np.tile([0.5, -0.7, 0.2], 8)
    fit = pp.fit_em(pp.Model(gated, x=x, y=y), starts=2)
    errors = fit.standard_errors()
    assert errors[["m[0]", "m[1]"]].notna().all()
    assert fit.status == ("separation" if separated else "converged")
    assert errors[["a", "b"]].isna().all() == separated


def test_a_bootstrap_counts_its_separated_replicates():
    x = np.array([-2.0, -1.5, -1.0, -0.6, -0.2, 0.3, 0.7, 1.1, 1.6, 2.0, 2.4, 2.9])
    y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1])
    rng, separated = np.random.default_rng(0), 0
    for _ in range(4000):
        rows = rng.integers(0, 12, 12)
        zeros, ones = x[rows][y[rows] == 0], x[rows][y[rows] == 1]
        separated += zeros.max(initial=-np.inf) <= ones.min(initial=np.inf)
    fit = pp.fit_em(pp.Model(logistic, x, y=y), starts=2)
    found = fit.bootstrap(200, kind="nonparametric", seed=1)
    share = found.failed["separation"] / 200
    assert share == pytest.approx(separated / 4000, abs=0.1)
    assert found.estimates.abs().max().max() < 20
    assert "separation" in found.reason and fit.standard_errors("bootstrap").isna().all()


# --- kinks ------------------------------------------------------------------------------------


def least_absolute_deviations(x, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    b = numpyro.sample("b", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Laplace(a + b * x, s), obs=y)


def laplace_mixture(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Laplace(mu[z], s[z]), obs=y)


@pytest.mark.parametrize("fitter", [pp.fit_em, pp.fit_mle])
def test_least_absolute_deviations_is_the_linear_program(fitter):
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = 1 + 2 * x + rng.laplace(size=60)
    design, eye = np.column_stack([np.ones(60), x]), np.eye(60)
    best = optimize.linprog(
        np.r_[0, 0, np.ones(120)], A_eq=np.hstack([design, eye, -eye]), b_eq=y,
        bounds=[(None, None)] * 2 + [(0, None)] * 120,
    ).fun / 60  # fmt: skip
    fit = fitter(pp.Model(least_absolute_deviations, x, y), starts=3, seed=0)
    assert fit.log_likelihood == pytest.approx(-60 * np.log(2 * best) - 60, abs=5e-3)
    assert fit.converged or "kinks" in fit.status_note  # as many rows above as below: no slope
    if not fit.converged:
        told = fit.covariance_details().reasons
        assert all("kink" in told[name] for name in ("a", "b", "s"))


def test_a_laplace_mixture_finds_its_components_by_em_as_by_mle():
    rng = np.random.default_rng(0)
    first = rng.uniform(size=120) < 0.4
    y = np.where(first, rng.laplace(size=120) - 4, 0.5 * rng.laplace(size=120) + 3)
    model = pp.Model(laplace_mixture, y)
    em, mle = pp.fit_em(model, starts=3, seed=0), pp.fit_mle(model, starts=3, seed=0)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=5e-3)
    assert np.sort(em.params["mu"]) == pytest.approx([-4, 3], abs=0.6)


def test_a_smooth_summit_is_no_kink():
    point = np.array([1e-5, -2e-5])

    def smooth(v):
        return -(v**2).sum(), -2 * v

    def folded(v):
        return -np.abs(v).sum() - (v**2).sum(), -np.sign(v) - 2 * v

    assert not at_kink(smooth, point)
    assert at_kink(folded, point)


def tied(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        sigma = numpyro.sample("sigma", dist.HalfNormal(5))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)


def test_components_that_all_hold_equal_values_have_collapsed():
    """No scale is small beside another; rounded values alone are no reason."""
    fit = pp.fit_em(pp.Model(tied, np.array([1.0, 1, 1, 5, 5, 5])), starts=3, seed=0)
    assert fit.status == "collapsed" and "smallest gap" in fit.status_note
    rng = np.random.default_rng(0)
    rounded = np.round(np.concatenate([rng.normal(0, 1, 40), rng.normal(6, 1, 40)]), 0)
    assert pp.fit_em(pp.Model(tied, rounded), starts=3, seed=0).status == "converged"


@pytest.mark.slow
def test_probabilities_that_were_lost_are_found_again():
    """At log-odds of -25 a slope of hundreds of nats is rounding; such an edge is none, and no end."""
    shelf = find_model("noisy_or")
    model = pp.Model(shelf.program, **shelf.data(), **shelf.options)
    starts = pp.fit_mle(model, starts=6, seed=0).starts
    assert (starts["objective"] > -2036.41).sum() >= 3  # of which one never lost any


def test_many_entries_near_an_edge_are_tried_in_order(monkeypatch):
    """Words that no document of a topic has are at the edge, as when all are tried; the first that is not ends the search."""
    rng = np.random.default_rng(0)
    share = np.r_[np.full(20, 0.05 - 2e-5), np.full(200, 2e-6)]
    counts = rng.multinomial(40_000, share, size=8).sum(0)
    seen, looked = counts > 0, []

    def words(counts):
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(len(counts))))
        numpyro.sample("x", dist.Multinomial(counts.sum(), phi), obs=counts)

    at_all = edges.objective_at
    monkeypatch.setattr(
        edges,
        "objective_at",
        lambda t, v, points: looked.append(len(points)) or at_all(t, v, points),
    )
    fit = pp.fit_em(pp.Model(words, counts))
    phi = np.maximum(fit.params["phi"], 1e-9)
    phi /= phi.sum()
    for many in (10**6, 100):
        monkeypatch.setattr(edges, "MANY", many)
        looked.clear()
        with fit.computing("edges") as target:
            vector = np.asarray(target.space.to_vector({"phi": phi}))
            at_edge = edges.edge_masks(target, vector, {"phi": phi})["phi"]
        np.testing.assert_array_equal(at_edge, ~seen)
    assert 1 < sum(~seen) < 200 and sum(looked) < 200 + 2 * edges.AT_ONCE
