"""Published results on real data: log-likelihoods, estimates, standard errors. Skipped where the
data are absent."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from conftest import SHARED
from numpyro.contrib.control_flow import scan

from pp_mlem import Model, fit_em, fit_mle, select
from pp_mlem.show.catalogue import find_model

pytestmark = pytest.mark.skipif(not (SHARED / "gold").is_dir(), reason="no published data here")


def table(case, file="data.csv"):
    return pd.read_csv(SHARED / "data" / case / file)


def expected(case):
    found = json.loads((SHARED / "gold" / f"{case}.json").read_text())["expected"]
    return {
        e["name"]: e.get("recomputed") if e.get("recomputed") is not None else e["value"]
        for e in found
    }


def gaussian(x, K, kind):
    n, d = x.shape
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 100).expand([K, d]).to_event(2))
    c = dist.constraints
    if kind == "full":
        S = numpyro.param(
            "S", jnp.broadcast_to(jnp.eye(d), (K, d, d)), constraint=c.positive_definite
        )
    elif kind == "tied":
        S = numpyro.param("S", jnp.eye(d), constraint=c.positive_definite)
    else:
        s = numpyro.param("s", jnp.ones((K, d) if kind == "diag" else d), constraint=c.positive)
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Categorical(w))
        if kind in ("full", "tied"):
            law = dist.MultivariateNormal(mu[z], S[z] if kind == "full" else S)
        else:
            law = dist.Normal(mu[z], s[z] if kind == "diag" else s).to_event(1)
        numpyro.sample("x", law, obs=x)


def test_faithful_structures():
    x = table("A04_faithful_gmm_full2").to_numpy()
    gold = expected("A04_faithful_gmm_full2")
    for kind, name in (("full", "full"), ("diag", "diag"), ("tied", "tied"), ("same", "tied_diag")):
        fit = fit_em(Model(gaussian, x, 2, kind), starts=5)
        assert fit.log_likelihood == pytest.approx(gold[f"loglik_{name}"], abs=6e-4), kind


@pytest.mark.slow
@pytest.mark.parametrize(
    "K, kind, value",
    [(2, "full", -214.35470437), (2, "tied", -296.44757477), (2, "diag", -386.18534693),
     (3, "full", -180.18547713), (3, "tied", -256.35404313), (3, "diag", -306.86046051)],
)  # fmt: skip
def test_iris_structures(K, kind, value):
    x = table("A08_iris_gmm_structures").iloc[:, :4].to_numpy()
    fit = fit_em(Model(gaussian, x, K, kind), starts=20)
    assert fit.log_likelihood == pytest.approx(value, abs=1e-5)


def latent_class(y, levels, C, x=None):
    n, items = y.shape
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones((C, items, levels))).to_event(2))
    if x is None:
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(C)))
        logits = jnp.log(w)
    else:
        b = numpyro.sample("b", dist.Normal(0, 10).expand([x.shape[1], C - 1]).to_event(2))
        logits = jnp.concatenate([jnp.zeros((n, 1)), x @ b], -1)[:, None, :]
    with numpyro.plate("rows", n, dim=-2):
        law = dist.Categorical(w) if x is None else dist.Categorical(logits=logits)
        z = numpyro.sample("z", law)
        with numpyro.plate("items", items, dim=-1):
            numpyro.sample("y", dist.Categorical(p[z, jnp.arange(items)]), obs=y)


def test_goodman_standard_errors():
    y = table("A11_goodman_values_lca").to_numpy() - 1
    gold = expected("A11_goodman_values_lca")
    fit = fit_em(Model(latent_class, y, 2, 2), starts=5)
    assert fit.log_likelihood == pytest.approx(gold["loglik_2class"], abs=1e-6)
    assert fit.aic == pytest.approx(gold["AIC_2"], abs=1e-5)
    assert fit.bic == pytest.approx(gold["BIC_2"], abs=1e-5)
    errors, outer = fit.standard_errors(), fit.standard_errors("opg")
    for i, item in enumerate("ABCD"):
        for c in (1, 2):
            name = f"Pr({item}=1|class{c})"
            label = f"p[{c - 1},{i},0]"
            assert fit.estimates()[label] == pytest.approx(gold[name], abs=1e-6)
            assert errors[label] == pytest.approx(gold[f"recomputed_hessian_se {name}"], abs=1e-6)
            assert outer[label] == pytest.approx(gold[f"se_OPG {name}"], abs=1e-6)


def test_cheating_with_a_concomitant():
    t = table("A14_dayton_cheating_lca")
    y = (t.iloc[:, :4].to_numpy() - 1).astype(int)
    gold = expected("A14_dayton_cheating_lca")
    seen = t["GPA"].notna().to_numpy()
    x = np.column_stack([np.ones(seen.sum()), t["GPA"][seen]])
    for fit in (fit_em, fit_mle):
        found = fit(Model(latent_class, y[seen], 2, 2, x), starts=8)
        assert found.log_likelihood == pytest.approx(gold["loglik_2class_GPA"], abs=1e-6)
    slope = abs(found.params["b"][1, 0])
    assert slope == pytest.approx(-gold["recomputed_b1"], abs=1e-5)


@pytest.mark.slow
def test_election_with_party():
    t = table("A15_election2000_lcr")
    y = (t.iloc[:, :12].to_numpy() - 1).astype(int)
    gold = expected("A15_election2000_lcr")
    seen = t["PARTY"].notna().to_numpy()
    x = np.column_stack([np.ones(seen.sum()), t["PARTY"][seen]])
    fit = fit_em(Model(latent_class, y[seen], 4, 3, x), starts=6)
    assert fit.log_likelihood == pytest.approx(gold["loglik_3_PARTY"], abs=1e-4)


def regressions(x, y, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    b = numpyro.sample("b", dist.Normal(0, 10).expand([K, x.shape[1]]).to_event(2))
    s = numpyro.sample("s", dist.LogNormal(0, 1).expand([K]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal((x * b[z]).sum(-1), s[z]), obs=y)


def test_flexmix_regressions():
    t = table("A17_flexmix_NPreg_gauss")
    gold = expected("A17_flexmix_NPreg_gauss")
    x = np.column_stack([np.ones(len(t)), t["x"], t["x"] ** 2])
    fit = fit_em(Model(regressions, x, t["yn"].to_numpy()), starts=10)
    assert fit.log_likelihood == pytest.approx(gold["recomputed_MLE_loglik"], abs=1e-6)
    errors, estimates = fit.standard_errors(), fit.estimates()
    first = int(np.argmin(fit.params["b"][:, 0]))
    for c, k in (("1", first), ("2", 1 - first)):
        for j, term in enumerate(("0", "x", "x2")):
            assert estimates[f"b[{k},{j}]"] == pytest.approx(gold[f"b{c}_{term}"], abs=1e-4)
            assert errors[f"b[{k},{j}]"] == pytest.approx(gold[f"se_b{c}_{term}"], abs=1e-5)


def test_fabric_faults():
    t = table("A21_fabricfault_poisson_mixture")
    gold = expected("A21_fabricfault_poisson_mixture")

    def program(x, y):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        a = numpyro.sample("a", dist.Normal(0, 10).expand([2]).to_event(1))
        b = numpyro.sample("b", dist.Normal(0, 10))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Poisson(jnp.exp(a[z] + b * x)), obs=y)

    model = Model(program, np.log(t["Length"].to_numpy()), t["Faults"].to_numpy())
    for fit in (fit_em, fit_mle):
        found = fit(model, starts=5)
        assert found.log_likelihood == pytest.approx(gold["recomputed_loglik"], abs=1e-6)
        assert found.params["b"] == pytest.approx(gold["logLength"], abs=1e-6)
        assert found.standard_errors()["b"] == pytest.approx(gold["se_logLength"], abs=1e-5)


def weibull(x, time, event):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    scale = jnp.exp(b[0] + b[1] * x)
    died = dist.Weibull(scale, 1 / s).log_prob(time)
    with numpyro.plate("rows", len(time)):
        numpyro.factor("time", jnp.where(event == 1, died, -((time / scale) ** (1 / s))))


def test_student_regression_and_weibull_survival():
    t = table("A27_martin_marietta_t_regression")
    gold = expected("A27_martin_marietta_t_regression")

    def student(x, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        nu = numpyro.sample("nu", dist.LogNormal(1, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.StudentT(nu, b[0] + b[1] * x, s), obs=y)

    fit = fit_em(Model(student, t["CRSP"].to_numpy(), t["m_marietta"].to_numpy()))
    assert fit.log_likelihood == pytest.approx(gold["loglik"], abs=1e-5)
    errors = fit.standard_errors()
    assert errors["b[1]"] == pytest.approx(gold["recomputed_observed_se_b1"], abs=1e-6)
    assert errors["nu"] == pytest.approx(gold["recomputed_observed_se_df"], abs=1e-5)

    t = table("E03_gehan_motors_weibull", "gehan.csv")
    gold = expected("E03_gehan_motors_weibull")

    control = (t["treat"] == "control").astype(float).to_numpy()
    fit = fit_em(Model(weibull, control, t["time"].to_numpy(), t["cens"].to_numpy()))
    assert fit.log_likelihood == pytest.approx(gold["gehan loglik"], abs=1e-6)
    assert fit.standard_errors()["b[1]"] == pytest.approx(gold["gehan se control"], abs=1e-6)


def test_motors_with_a_prediction():
    t = table("E03_gehan_motors_weibull", "motors.csv")
    gold = expected("E03_gehan_motors_weibull")
    arguments = (t[c].to_numpy(float) for c in ("temp", "time", "cens"))
    fit = fit_em(Model(weibull, *arguments))
    assert fit.log_likelihood == pytest.approx(gold["motors loglik"], abs=1e-6)
    errors = fit.standard_errors()
    for name, label in (("int", "b[0]"), ("temp", "b[1]")):
        assert fit.estimates()[label] == pytest.approx(gold[f"motors {name}"], rel=1e-6)
        assert errors[label] == pytest.approx(gold[f"motors se {name}"], rel=1e-5)
    at_130 = fit.estimate(lambda p: jnp.exp(p["b"][0] + 130 * p["b"][1]))
    assert at_130.value == pytest.approx(gold["motors predict(130)"], rel=1e-6)
    assert at_130.standard_error == pytest.approx(gold["motors se predict(130)"], rel=1e-6)


def vev(x, K):
    """mclust's VEV: volumes and orientations vary, the shape is common."""
    n, d = x.shape
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 100).expand([K, d]).to_event(2))
    size = numpyro.sample("size", dist.Normal(-2, 3).expand([K]).to_event(1))
    shape = numpyro.sample("shape", dist.Normal(0, 3).expand([d - 1]).to_event(1))
    turn = numpyro.sample("turn", dist.Normal(0, 3).expand([K, d * (d - 1) // 2]).to_event(2))
    rows, columns = jnp.tril_indices(d, -1)
    skew = jnp.zeros((K, d, d)).at[:, rows, columns].set(turn)
    D = jax.scipy.linalg.expm(skew - skew.swapaxes(-1, -2))
    log_a = jnp.concatenate([shape, -shape.sum(keepdims=True)])
    S = D * jnp.exp(size[:, None, None] + log_a) @ D.swapaxes(-1, -2)
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], S[z]), obs=x)


@pytest.mark.slow
def test_mclusts_choice_for_faithful():
    """Scrucca et al. (2016), doi:10.32614/RJ-2016-021: BIC takes EEE with three components."""
    x = table("A04_faithful_gmm_full2").to_numpy()
    found = select(gaussian, x, K=range(2, 4), kind=["full", "tied"], starts=5)
    assert found.chosen("BIC") == "K=3 kind=tied em"


@pytest.mark.slow
def test_mclusts_choice_for_iris():
    """VEV with two components, whose BIC is below that of VVV with two (A08)."""
    gold = expected("A07_iris_VEV2")
    fit = fit_em(Model(vev, table("A07_iris_VEV2").iloc[:, :4].to_numpy(), 2), starts=3)
    assert fit.bic < 2 * 214.35470437 + 29 * np.log(150)
    assert fit.log_likelihood == pytest.approx(gold["loglik"], abs=1e-6)
    assert fit.n_parameters == gold["df"]
    assert fit.bic == pytest.approx(-gold["BIC_mclust"], abs=1e-5)
    assert sorted(np.bincount(fit.decode()["z"])) == gold["cluster_sizes"]


@pytest.mark.slow
@pytest.mark.parametrize("C", [2, 3, 4])
def test_balance_scale_with_age(C):
    t = table("A16_balance_scale_lcr")
    gold = expected("A16_balance_scale_lcr")
    y = t[["d1", "d2", "d3", "d4"]].to_numpy().astype(int)
    fit = fit_em(
        Model(latent_class, y, 2, C, np.column_stack([np.ones(len(t)), t["age"]])), starts=10
    )
    assert fit.bic == pytest.approx(gold[f"BIC_{C}"], abs=1e-4)
    if C == 3:
        assert fit.log_likelihood == pytest.approx(gold["recomputed_loglik_3"], abs=1e-5)
        shown = np.sort(np.abs(np.append(fit.params["b"][1], np.subtract(*fit.params["b"][1]))))
        assert np.abs(shown - abs(gold["age_wrong"])).min() < 1e-4
        assert np.abs(shown - abs(gold["age_guess"])).min() < 1e-4


def negative_binomial(X, y):
    b = numpyro.sample("b", dist.Normal(0, 5).expand([X.shape[1]]).to_event(1))
    theta = numpyro.sample("theta", dist.LogNormal(0, 2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(X @ b), theta), obs=y)


def zero_inflated(X, Z, y):
    b = numpyro.sample("b", dist.Normal(0, 5).expand([X.shape[1]]).to_event(1))
    c = numpyro.sample("c", dist.Normal(0, 5).expand([Z.shape[1]]).to_event(1))
    theta = numpyro.sample("theta", dist.LogNormal(0, 2))
    with numpyro.plate("rows", len(y)):
        zero = numpyro.sample("zero", dist.Bernoulli(logits=Z @ c))
        count = dist.NegativeBinomial2(jnp.exp(X @ b), theta).log_prob(y)
        numpyro.factor("y", jnp.where(zero == 1, jnp.where(y == 0, 0.0, -jnp.inf), count))


@pytest.mark.slow
def test_visits_to_the_physician():
    # NumPyro's GammaPoisson goes through jax's betaln, off by up to 1e-6 a row: hence 1e-3.
    t = table("A24_nmes_zinb_hurdle")
    gold = expected("A24_nmes_zinb_hurdle")
    columns = (1 + 0 * t["hosp"], t["hosp"], t["health"] == "poor", t["health"] == "excellent",
               t["numchron"], t["gender"] == "male", t["school"], t["privins"] == "yes")  # fmt: skip
    X, y = np.column_stack(columns).astype(float), t["ofp"].to_numpy()
    counts = ["int", "hosp", "poor", "excellent", "numchron", "male", "school", "privins"]
    zeros = [0, 1, 4, 7, 6, 5]
    plain = fit_em(Model(negative_binomial, X, y))
    inflated = fit_em(Model(zero_inflated, X, X[:, zeros], y), starts=2)
    for fit, name in ((plain, "nb"), (inflated, "zinb")):
        assert fit.log_likelihood == pytest.approx(gold[f"loglik_{name}"], abs=1e-3)
        errors = fit.standard_errors()
        for i, term in enumerate(counts):
            assert fit.params["b"][i] == pytest.approx(gold[f"{name} {term}"], abs=1e-5)
            assert errors[f"b[{i}]"] == pytest.approx(gold[f"{name} se {term}"], abs=1e-5)
    for i, term in enumerate(counts[j] for j in zeros):
        assert inflated.params["c"][i] == pytest.approx(gold[f"zinb z_{term}"], abs=1e-5)


@pytest.mark.slow
def test_absence_from_school():
    patsy = pytest.importorskip("patsy")
    t = table("E01_quine_negbin")
    gold = expected("E01_quine_negbin")
    forms = ("Sex/(Age+Eth*Lrn)", "Sex/(Age+Eth*Lrn)+Sex:Age:Lrn", "Eth*Age*Lrn*Sex")
    for k, form in enumerate(forms, 1):
        X = np.asarray(patsy.dmatrix(form, t))
        kept = []
        for j in range(X.shape[1]):  # drop aliased interactions
            if np.linalg.matrix_rank(X[:, [*kept, j]]) > len(kept):
                kept.append(j)
        fit = fit_em(Model(negative_binomial, X[:, kept], t["Days"].to_numpy()))
        assert 2 * fit.log_likelihood == pytest.approx(gold[f"2loglik_{k}"], abs=1e-4)
        assert fit.params["theta"] == pytest.approx(gold[f"theta_{k}"], abs=1e-6)
    assert fit.standard_errors()["theta"] == pytest.approx(gold["se_theta_3"], abs=1e-6)


def test_probit():
    t = table("E05_spector_logit_probit")
    gold = expected("E05_spector_logit_probit")
    x = np.column_stack([t["GPA"], t["TUCE"], t["PSI"], np.ones(len(t))])

    def probit(x, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([4]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(jax.scipy.stats.norm.cdf(x @ b)), obs=y)

    fit = fit_em(Model(probit, x, t["GRADE"].to_numpy()))
    assert fit.log_likelihood == pytest.approx(gold["probit_loglik"], abs=2e-6)
    assert fit.estimates()["b[0]"] == pytest.approx(gold["probit GPA"], abs=1e-5)
    assert fit.standard_errors()["b[0]"] == pytest.approx(gold["probit se GPA"], abs=1e-5)


# --- chains ---------------------------------------------------------------------------------


def earthquakes(**options):
    shelf = find_model("earthquakes")
    return Model(shelf.program, **shelf.data(), **options)


@pytest.mark.parametrize(
    ("K", "stationary", "value", "tolerance"),
    [
        (2, True, -342.3183, 1e-4),
        (2, False, -341.8787, 2e-4),
        (3, True, -329.4603, 1e-4),
        pytest.param(3, False, -328.5275, 2e-4, marks=pytest.mark.slow),
        pytest.param(4, True, -327.8316, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_earthquakes(K, stationary, value, tolerance):
    fit = fit_em(earthquakes(K=K, stationary=stationary), starts=10)
    assert fit.log_likelihood == pytest.approx(value, abs=tolerance)
    if K == 2 and stationary:
        assert fit.bic == pytest.approx(703.3278, abs=2e-4)
        np.testing.assert_allclose(fit.params["rate"], [15.472, 26.125], atol=1.1e-3)
        other = fit_mle(earthquakes(K=2, stationary=True), starts=3)
        assert other.log_likelihood == pytest.approx(value, abs=tolerance)


def test_earthquakes_trajectory():
    start = {"pi": [0.5, 0.5], "P": [[0.9, 0.1], [0.1, 0.9]], "rate": [10.0, 30.0]}
    fit = fit_em(earthquakes(), init=start, accelerate=False, polish=False, trace=True, max_iter=52)
    printed = {  # iteration: gamma12, gamma21, lambda1, lambda2, delta1, -log L
        0: (0.1, 0.1, 10, 30, 0.5, 413.27542),
        1: (0.138816, 0.11622, 13.742, 24.169, 0.99963, 343.76023),
        2: (0.11551, 0.10079, 14.09, 24.061, 1.0, 343.13618),
        30: (0.071653, 0.11895, 15.419, 26.014, 1.0, 341.87871),
        50: (0.071626, 0.11903, 15.421, 26.018, 1.0, 341.8787),
    }
    for i, row in printed.items():
        p = fit.trace[i]
        found = (p["P"][0, 1], p["P"][1, 0], *p["rate"], p["pi"][0], -fit.history[i])
        for ours, theirs, tolerance in zip(
            found, row, (6e-7, 6e-6, 6e-4, 6e-4, 6e-6, 6e-6), strict=True
        ):
            assert ours == pytest.approx(theirs, abs=tolerance)


def test_speed_with_a_transition_covariate():
    d = table("B03_speed_depmixS4")
    values = (d.Pacc - d.Pacc.mean()) / d.Pacc.std()

    def program(rt, corr, u):
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("states", 2):
            mu = numpyro.sample("mu", dist.Normal(6, 1))
            sd = numpyro.sample("sd", dist.LogNormal(-1, 1))
            q = numpyro.sample("q", dist.Beta(1, 1))
            a = numpyro.sample("a", dist.Normal(0, 5))
            b = numpyro.sample("b", dist.Normal(0, 5))
        first = numpyro.sample("first", dist.Categorical(pi))
        numpyro.sample("rt0", dist.Normal(mu[first], sd[first]), obs=rt[0])
        numpyro.sample("corr0", dist.Bernoulli(q[first]), obs=corr[0])

        def step(z, inputs):
            y, c, before = inputs
            z = numpyro.sample("z", dist.Bernoulli(logits=a[z] + b[z] * before))
            numpyro.sample("rt", dist.Normal(mu[z], sd[z]), obs=y)
            numpyro.sample("corr", dist.Bernoulli(q[z]), obs=c)
            return z, None

        scan(step, first, (rt[1:], corr[1:], u[:-1]))

    corr = (d["corr"] == "cor").to_numpy().astype(int)
    fit = fit_em(Model(program, d.rt.to_numpy(), corr, values.to_numpy()), starts=4)
    want = expected("B03_speed_depmixS4")
    assert fit.log_likelihood == pytest.approx(want["recomputed_loglik_bivariate_cov"], abs=1e-5)
    slow = int(np.argmax(fit.params["mu"]))
    assert fit.params["mu"][slow] == pytest.approx(want["biv mu slow"], abs=6e-4)
    assert fit.params["sd"][slow] == pytest.approx(want["biv sd slow"], abs=6e-4)
    assert fit.params["q"][1 - slow] == pytest.approx(want["biv P(correct|fast)"], abs=6e-4)


@pytest.mark.slow
def test_hamilton():
    y = table("B07_hamilton_gnp_ar4").iloc[:, 0].to_numpy()
    lag = np.stack([y[4 - k : len(y) - k] for k in range(1, 5)], -1)
    bits = np.array([[(s >> k) & 1 for k in range(5)] for s in range(32)])
    target = (2 * np.arange(32) % 32)[:, None] + np.arange(2)

    def program(y, lag):  # the state holds the regimes of the last five quarters
        p = numpyro.sample("p", dist.Beta(1, 1).expand([2]).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(0, 2).expand([2]).to_event(1))
        phi = numpyro.sample("phi", dist.Normal(0, 1).expand([4]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
        moves = jnp.stack([p, 1 - p], -1)[bits[:, 0]]
        A = jnp.zeros((32, 32)).at[np.arange(32)[:, None], target].set(moves)
        pi = jnp.linalg.solve((jnp.eye(32) - A + 1.0).T, jnp.ones(32))
        level = mu[bits]
        first = numpyro.sample("first", dist.Categorical(pi))

        def step(z, inputs):
            y_t, past = inputs
            mean = level[z][..., 0] + ((past - level[z][..., 1:]) * phi).sum(-1)
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y_t)
            return numpyro.sample("z", dist.Categorical(A[z])), None

        scan(step, first, (y, lag))

    model = Model(program, y[4:], lag)
    want = expected("B07_hamilton_gnp_ar4")
    fit = fit_mle(model, starts=4)
    assert fit.log_likelihood == pytest.approx(want["loglik"], abs=2e-5)
    order = np.argsort(fit.params["mu"])
    errors = fit.standard_errors()
    for i, name in enumerate(("mu0", "mu1")):
        assert fit.params["mu"][order[i]] == pytest.approx(want[name], abs=2e-5)
        assert errors[f"mu[{order[i]}]"] == pytest.approx(want[f"se_{name}"], abs=3e-5)
    for i in range(4):
        assert fit.params["phi"][i] == pytest.approx(want[f"phi{i + 1}"], abs=2e-5)
        assert errors[f"phi[{i}]"] == pytest.approx(want[f"se_phi{i + 1}"], abs=3e-5)


def exponential_of(rates):
    """Matrix exponential by squaring: many small matrices at once."""
    power, found = rates / 256, jnp.eye(4)
    for k in range(7, 0, -1):
        found = jnp.eye(4) + (power[..., None] * found[..., None, :, :]).sum(-2) / k
    for _ in range(8):
        found = (found[..., None] * found[..., None, :, :]).sum(-2)
    return found


def transplants(state, gap, on, errors=None):
    """Jackson (2011), doi:10.18637/jss.v038.i08: vessel disease after a heart transplant, observed
    with misclassification at irregular times; the time of death is exact."""
    q = numpyro.sample("q", dist.LogNormal(-2, 2).expand([5]).to_event(1))
    if errors is None:
        first = numpyro.sample("e1", dist.Dirichlet(jnp.ones(2)))
        second = numpyro.sample("e2", dist.Dirichlet(jnp.ones(3)))
        third = numpyro.sample("e3", dist.Dirichlet(jnp.ones(2)))
        errors = jnp.zeros((4, 4)).at[0, :2].set(first).at[1, :3].set(second)
        errors = errors.at[2, 1:3].set(third).at[3, 3].set(1.0)
    Q = jnp.zeros((4, 4)).at[np.array([0, 0, 1, 1, 2]), np.array([1, 3, 2, 3, 3])].set(q)
    Q = Q - jnp.diag(Q.sum(1))
    P = exponential_of(Q * gap[1:, :, None, None])
    subject = jnp.arange(state.shape[1])

    def step(z, inputs):
        seen, P_t, live = inputs
        with numpyro.plate("subjects", state.shape[1]), numpyro.handlers.mask(mask=live):
            z = numpyro.sample("z", dist.Categorical(P_t[subject, z]))
            died = jnp.where(z == 3, -jnp.inf, jnp.log(jnp.where(z == 3, 1.0, Q[z, 3])))
            p = errors[z, seen]
            told = jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)
            numpyro.factor("seen", jnp.where(seen == 3, died, told))
        return z, None

    scan(step, state[0], (state[1:], P, on[1:]))


@pytest.mark.slow
def test_transplants_with_misclassification():
    t = table("B05_cav_ctmc_and_misclassification_hmm")
    gold = expected("B05_cav_ctmc_and_misclassification_hmm")
    people = [d for _, d in t.groupby("PTNUM", sort=False)]
    shape = max(map(len, people)), len(people)
    state, gap, on = np.zeros(shape, int), np.zeros(shape), np.zeros(shape, bool)
    for j, d in enumerate(people):
        state[: len(d), j], on[: len(d), j] = d["state"] - 1, True
        gap[1 : len(d), j] = np.diff(d["years"])
    q = np.array([0.148, 0.0171, 0.202, 0.081, 0.126])
    errors = np.array([[0.9, 0.1, 0, 0], [0.1, 0.8, 0.1, 0], [0, 0.1, 0.9, 0], [0, 0, 0, 1.0]])
    known = Model(transplants, state, gap, on, errors)
    assert -2 * known.log_likelihood({"q": q}) == pytest.approx(
        gold["minus2loglik_fixed_misc_obstrue"], abs=5e-6
    )
    start = {"q": q, "e1": [0.9, 0.1], "e2": [0.1, 0.8, 0.1], "e3": [0.1, 0.9]}
    fit = fit_mle(Model(transplants, state, gap, on), init=start)
    assert -2 * fit.log_likelihood == pytest.approx(gold["recomputed_minus2loglik_misc"], abs=1e-5)
    for name, value in zip(
        ("m_q12", "m_q14", "m_q23", "m_q24", "m_q34"), fit.params["q"], strict=True
    ):
        assert value == pytest.approx(gold[name], abs=1e-5)
    assert fit.params["e2"][0] == pytest.approx(gold["e21"], abs=1e-5)


def dyestuff(y, batch):
    mu = numpyro.sample("mu", dist.Normal(0, 1e4))
    tau = numpyro.sample("tau", dist.HalfNormal(100))
    sigma = numpyro.sample("sigma", dist.HalfNormal(100))
    with numpyro.plate("batches", 6):
        b = numpyro.sample("b", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[batch], sigma), obs=y)


def codes(column):
    return column.astype("category").cat.codes.to_numpy()


@pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
def test_dyestuff_by_maximum_likelihood(fit_by):
    gold, data = expected("C02_dyestuff_ml"), table("C02_dyestuff_ml")
    fit = fit_by(Model(dyestuff, data.Yield.to_numpy(), codes(data.Batch)), starts=2)
    assert -2 * fit.log_likelihood == pytest.approx(gold["deviance(-2loglik)"], abs=1e-8)
    assert fit.aic == pytest.approx(gold["AIC"], abs=1e-7)
    assert fit.params["sigma"] == pytest.approx(gold["sigma"], rel=1e-6)
    assert fit.params["tau"] == pytest.approx(gold["sd_batch"], rel=1e-5)
    assert fit.standard_errors()["mu"] == pytest.approx(gold["se_mu"], rel=1e-5)


@pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
@pytest.mark.parametrize("correlated", [True, False])
def test_sleepstudy_by_maximum_likelihood(fit_by, correlated):
    def program(y, days, subject):
        beta = numpyro.sample("beta", dist.Normal(0, 1e3).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(100))
        if correlated:
            matrices = dist.constraints.positive_definite
            S = numpyro.param("S", 100 * jnp.eye(2), constraint=matrices)
            law = dist.MultivariateNormal(jnp.zeros(2), S)
        else:
            s = numpyro.sample("s", dist.HalfNormal(100).expand([2]).to_event(1))
            law = dist.Normal(jnp.zeros(2), s).to_event(1)
        with numpyro.plate("subjects", 18):
            b = numpyro.sample("b", law)
        with numpyro.plate("rows", len(y)):
            mean = beta[0] + b[subject, 0] + (beta[1] + b[subject, 1]) * days
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    gold, data = expected("C04_sleepstudy_ml"), table("C04_sleepstudy_ml")
    arrays = (data.Reaction.to_numpy(), data.Days.to_numpy(), codes(data.Subject))
    fit = fit_by(Model(program, *arrays, latents={"b"}), starts=2)
    if not correlated:
        assert -2 * fit.log_likelihood == pytest.approx(gold["deviance_zerocorr"], abs=1e-6)
        found = [*fit.params["s"], fit.params["sigma"]]
        told = ("sd_int_zerocorr", "sd_slope_zerocorr", "sigma_zerocorr")
        np.testing.assert_allclose(found, [gold[n] for n in told], rtol=1e-4)
        return
    assert fit.log_likelihood == pytest.approx(gold["loglik"], abs=1e-8)
    np.testing.assert_allclose(fit.params["beta"], [gold["intercept"], gold["Days"]], rtol=1e-8)
    errors = fit.standard_errors()
    assert errors["beta[0]"] == pytest.approx(gold["se_int"], rel=1e-5)
    assert errors["beta[1]"] == pytest.approx(gold["se_Days"], rel=1e-5)
    sds = np.sqrt(np.diag(fit.params["S"]))
    np.testing.assert_allclose(sds, [gold["sd_int"], gold["sd_slope"]], rtol=1e-4)
    assert fit.params["S"][0, 1] / sds.prod() == pytest.approx(gold["corr"], abs=1e-4)


@pytest.mark.parametrize("L", [1, 2])
def test_harmans_girls_by_factor_analysis(L):
    """Data whose correlations are those published: 305 rows of which only these are known."""

    def program(x):
        d = x.shape[1]
        W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
        psi = numpyro.sample("psi", dist.HalfNormal(1).expand([d]).to_event(1))
        with numpyro.plate("girls", len(x)):
            u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
            numpyro.sample("x", dist.Normal(u @ W.T, psi).to_event(1), obs=x)

    gold = expected("C07_harman23_factanal")
    R = table("C07_harman23_factanal").iloc[:, 1:].to_numpy(float)
    n = 305
    free = np.random.default_rng(0).normal(size=(n, len(R)))
    free -= free.mean(0)
    white = free @ np.linalg.inv(np.linalg.cholesky(free.T @ free / n)).T
    x = white @ np.linalg.cholesky(R).T
    fit = fit_em(Model(program, x, latents={"u"}), starts=4)
    saturated = -n / 2 * (len(R) * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(R)[1])
    discrepancy = 2 / n * (saturated - fit.log_likelihood)
    assert discrepancy == pytest.approx(gold[f"recomputed_discrepancy_{L}f"], abs=1e-7)
    names = table("C07_harman23_factanal").columns[1:]
    told = [gold[f"uniq_{L}f {name}"] for name in names]
    np.testing.assert_allclose(fit.params["psi"] ** 2, told, atol=2e-5)


@pytest.mark.parametrize("L", [1, 2, 3])
def test_iris_by_probabilistic_pca(L):
    gold, shelf = expected("C12_ppca_iris"), find_model("probabilistic_pca")
    fit = fit_em(Model(shelf.program, **shelf.data(), L=L, **shelf.options), starts=3)
    assert fit.log_likelihood == pytest.approx(gold[f"loglik_q{L}"], abs=1e-8)
    assert fit.params["sigma"] ** 2 == pytest.approx(gold[f"sigma2_q{L}"], rel=1e-6)


def test_vaccine_trials_by_meta_analysis():
    def program(y, s, z):
        b = numpyro.sample("b", dist.Normal(0, 5).expand([z.shape[1]]).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("trials", len(y)):
            theta = numpyro.sample("theta", dist.Normal(z @ b, tau))
            numpyro.sample("y", dist.Normal(theta, s), obs=y)

    gold, data = expected("C13_bcg_random_effects_meta"), table("C13_bcg_random_effects_meta")
    one = np.ones((13, 1))
    odds = np.log(data.tpos * data.cneg / (data.tneg * data.cpos)).to_numpy()
    s = np.sqrt(1 / data.tpos + 1 / data.tneg + 1 / data.cpos + 1 / data.cneg).to_numpy()
    fit = fit_em(Model(program, odds, s, one), starts=1)
    assert np.exp(fit.params["b"][0]) == pytest.approx(gold["OR pooled"], rel=1e-6)
    assert fit.params["tau"] ** 2 == pytest.approx(gold["tau2_OR"], rel=1e-6)
    limits = fit.intervals("profile", ["tau"]).loc["tau"].to_numpy() ** 2
    told = [gold["profile CI tau2 lower"], gold["profile CI tau2 upper"]]
    np.testing.assert_allclose(limits, told, rtol=1e-3)
    slope = fit_em(Model(program, odds, s, np.column_stack([one, data.ablat])), starts=1)
    told = [gold["metareg OR intercept"], gold["metareg OR ablat"]]
    np.testing.assert_allclose(slope.params["b"], told, rtol=1e-4)
    treated, control = data.tpos / (data.tpos + data.tneg), data.cpos / (data.cpos + data.cneg)
    risk = np.log(treated / control).to_numpy()
    s = np.sqrt(
        1 / data.tpos - 1 / (data.tpos + data.tneg) + 1 / data.cpos - 1 / (data.cpos + data.cneg)
    ).to_numpy()
    fit = fit_mle(Model(program, risk, s, one), starts=1)
    assert fit.log_likelihood == pytest.approx(gold["RR loglik"], abs=1e-6)


@pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
def test_penicillin_with_crossed_effects(fit_by):
    def program(y, plate, sample):
        mu = numpyro.sample("mu", dist.Normal(0, 100))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
        with numpyro.plate("plates", 24):
            u = numpyro.sample("u", dist.Normal(0, tau[0]))
        with numpyro.plate("samples", 6):
            v = numpyro.sample("v", dist.Normal(0, tau[1]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu + u[plate] + v[sample], sigma), obs=y)

    gold, data = expected("C05_penicillin_crossed_ml"), table("C05_penicillin_crossed_ml")
    arrays = data.diameter.to_numpy(), codes(data["plate"]), codes(data["sample"])
    fit = fit_by(Model(program, *arrays), starts=2)
    assert -2 * fit.log_likelihood == pytest.approx(gold["deviance"], abs=1e-7)
    told = [gold["sd_plate"], gold["sd_sample"]]
    np.testing.assert_allclose(fit.params["tau"], told, rtol=1e-5)
    assert fit.params["mu"] == pytest.approx(gold["mu"], rel=1e-8)
    assert fit.standard_errors()["mu"] == pytest.approx(gold["se_mu"], rel=1e-5)


def test_sleepstudy_by_restricted_likelihood():
    """The criterion that lme4 prints for lmer(Reaction ~ Days + (Days | Subject)): 1743.628, and its
    standard errors of the coefficients, 6.825 and 1.546 (Bates et al. 2015, doi:10.18637/jss.v067.i01)."""

    def program(y, days, subject):
        beta = numpyro.sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        matrices = dist.constraints.positive_definite
        S = numpyro.param("S", 100 * jnp.eye(2), constraint=matrices)
        sigma = numpyro.sample("sigma", dist.HalfNormal(100))
        with numpyro.plate("subjects", 18):
            b = numpyro.sample("b", dist.MultivariateNormal(jnp.zeros(2), S))
        with numpyro.plate("rows", len(y)):
            mean = beta[0] + b[subject, 0] + (beta[1] + b[subject, 1]) * days
            numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    data = table("C04_sleepstudy_ml")
    arrays = (data.Reaction.to_numpy(), data.Days.to_numpy(), codes(data.Subject))
    model = Model(program, *arrays, latents={"b", "beta"})
    fit = fit_em(model, starts=1)
    assert -2 * fit.log_likelihood == pytest.approx(1743.628, abs=1e-3)
    np.testing.assert_allclose(fit.posterior()["beta"].sd, [6.825, 1.546], atol=6e-4)


@pytest.mark.parametrize("fit_by", [fit_em, fit_mle])
def test_nile_by_a_local_level(fit_by):
    """Durbin & Koopman's variances, KFAS's exact diffuse log-likelihood, recomputed standard errors."""
    gold = expected("C01_nile_local_level")
    shelf = find_model("local_level")
    model = Model(shelf.program, table("C01_nile_local_level").to_numpy()[:, -1], **shelf.options)
    at = model.log_likelihood({"H": 15099.0, "Q": 1469.1})
    assert at == pytest.approx(-632.5456, abs=1e-4)
    fit = fit_by(model, starts=3, seed=0)
    value = gold["loglik_exact_diffuse(KFAS/arima convention: sum over t=2..n)"]
    assert fit.converged and fit.log_likelihood == pytest.approx(value, abs=1e-7)
    assert fit.params["H"] == pytest.approx(gold["H KFAS"], rel=1e-5)
    assert fit.params["Q"] == pytest.approx(gold["Q KFAS"], rel=1e-5)
    errors = fit.standard_errors()
    assert errors["H"] == pytest.approx(gold["recomputed_se_H"], rel=1e-4)
    assert errors["Q"] == pytest.approx(gold["recomputed_se_Q"], rel=1e-4)
