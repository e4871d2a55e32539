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

from pp_mlem import Model, fit_em, fit_mle

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

    def weibull(x, time, event):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        scale = jnp.exp(b[0] + b[1] * x)
        died = dist.Weibull(scale, 1 / s).log_prob(time)
        with numpyro.plate("rows", len(time)):
            numpyro.factor("time", jnp.where(event == 1, died, -((time / scale) ** (1 / s))))

    control = (t["treat"] == "control").astype(float).to_numpy()
    fit = fit_em(Model(weibull, control, t["time"].to_numpy(), t["cens"].to_numpy()))
    assert fit.log_likelihood == pytest.approx(gold["gehan loglik"], abs=1e-6)
    assert fit.standard_errors()["b[1]"] == pytest.approx(gold["gehan se control"], abs=1e-6)


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
