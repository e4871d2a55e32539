"""Every function of arviz-stats and arviz-plots that applies to a fit takes its tree as it is."""

from __future__ import annotations

import warnings

import arviz_plots
import arviz_stats
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from pp_mlem import Model, fit_mle, fit_nuts

RNG = np.random.default_rng(5)
N = 30
X = pd.DataFrame({"one": np.ones(N), "dose": np.linspace(-1, 1, N)})
Y = X.to_numpy() @ [1.0, 2.0] + RNG.normal(size=N)
COUNTS = RNG.poisson(2.0, N)
ALIVE = RNG.binomial(1, 1 / (1 + np.exp(-2 * X["dose"])))


def regression(X, y):
    b = numpyro.sample("b", dist.Normal(0, 5).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("patients", len(y)):
        numpyro.sample("y", dist.Normal(X.values @ b, s), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("days", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def survival(X, y):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("patients", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=X.values @ b), obs=y)


def tree_of(program, *data):
    model = Model(program, *data)
    fit = fit_nuts(model, chains=2, warmup=100, draws=150, seed=0)
    tree = fit.to_datatree(posterior_predictive=300)
    for name, group in model.prior_predictive(draws=100).children.items():
        tree[name] = group
    return tree


@pytest.fixture(scope="module")
def normal():
    return tree_of(regression, X, Y)


@pytest.fixture(scope="module")
def poisson():
    return tree_of(counts, COUNTS)


@pytest.fixture(scope="module")
def binary():
    return tree_of(survival, X, ALIVE)


S, P = arviz_stats, arviz_plots
TAKEN = {
    # arviz-stats
    "bayes_factor": lambda t: S.bayes_factor(t, "s", ref_vals=1.0),
    "bfmi": lambda t: S.bfmi(t),
    "ci_in_rope": lambda t: S.ci_in_rope(t, rope=[-1, 1]),
    "compare": lambda t: S.compare({"a": t, "b": t}),
    "ecdf": lambda t: S.ecdf(t.posterior.dataset),
    "ess": lambda t: S.ess(t),
    "eti": lambda t: S.eti(t),
    "get_log_likelihood": lambda t: S.get_log_likelihood(t),
    "hdi": lambda t: S.hdi(t),
    "histogram": lambda t: S.histogram(t.posterior.dataset),
    "kde": lambda t: S.kde(t.posterior.dataset),
    "loo": lambda t: S.loo(t),
    "loo_expectations": lambda t: S.loo_expectations(t),
    "loo_i": lambda t: S.loo_i(3, t),
    "loo_metrics": lambda t: S.loo_metrics(t),
    "loo_pit": lambda t: S.loo_pit(t),
    "loo_r2": lambda t: S.loo_r2(t, "y"),
    "loo_score": lambda t: S.loo_score(t),
    "loo_subsample": lambda t: S.loo_subsample(t, observations=10, method="lpd"),
    "mcse": lambda t: S.mcse(t),
    "mean": lambda t: S.mean(t),
    "median": lambda t: S.median(t),
    "metrics": lambda t: S.metrics(t),
    "mode": lambda t: S.mode(t),
    "psense": lambda t: S.psense(t),
    "psense_summary": lambda t: S.psense_summary(t),
    "rhat": lambda t: S.rhat(t),
    "summary": lambda t: S.summary(t),
    "thin": lambda t: S.thin(t, factor=2),
    "wasserstein": lambda t: S.wasserstein(t, t, num_samples=100),
    "kl_divergence": lambda t: S.kl_divergence(t, t, num_samples=100),
    "weight_predictions": lambda t: S.weight_predictions([t, t], weights=[0.5, 0.5]),
    # arviz-plots
    "plot_autocorr": lambda t: P.plot_autocorr(t),
    "plot_bf": lambda t: P.plot_bf(t, "s", ref_val=1.0),
    "plot_compare": lambda t: P.plot_compare(S.compare({"a": t, "b": t})),
    "plot_convergence_dist": lambda t: P.plot_convergence_dist(t),
    "plot_dgof": lambda t: P.plot_dgof(t),
    "plot_dgof_dist": lambda t: P.plot_dgof_dist(t),
    "plot_dist": lambda t: P.plot_dist(t),
    "plot_energy": lambda t: P.plot_energy(t),
    "plot_ess": lambda t: P.plot_ess(t),
    "plot_ess_evolution": lambda t: P.plot_ess_evolution(t),
    "plot_forest": lambda t: P.plot_forest(t),
    "plot_khat": lambda t: P.plot_khat(S.loo(t, pointwise=True)),
    "plot_loo_pit": lambda t: P.plot_loo_pit(t),
    "plot_mcse": lambda t: P.plot_mcse(t),
    "plot_pair": lambda t: P.plot_pair(t),
    "plot_pair_focus": lambda t: P.plot_pair_focus(t, focus_var="s"),
    "plot_parallel": lambda t: P.plot_parallel(t),
    "plot_ppc_dist": lambda t: P.plot_ppc_dist(t, num_samples=20),
    "plot_ppc_interval": lambda t: P.plot_ppc_interval(t),
    "plot_ppc_pit": lambda t: P.plot_ppc_pit(t),
    "plot_ppc_tstat": lambda t: P.plot_ppc_tstat(t),
    "plot_prior_posterior": lambda t: P.plot_prior_posterior(t),
    "plot_psense_dist": lambda t: P.plot_psense_dist(t),
    "plot_psense_quantities": lambda t: P.plot_psense_quantities(t),
    "plot_rank": lambda t: P.plot_rank(t),
    "plot_rank_dist": lambda t: P.plot_rank_dist(t),
    "plot_ridge": lambda t: P.plot_ridge(t),
    "plot_trace": lambda t: P.plot_trace(t),
    "plot_trace_dist": lambda t: P.plot_trace_dist(t),
}
OF_COUNTS = {"plot_ppc_rootogram": lambda t: P.plot_ppc_rootogram(t)}
OF_BINARY = {"plot_ppc_pava": lambda t: P.plot_ppc_pava(t)}
OF_A_POINT = {"loo_approximate_posterior"}
EXCEPTIONS = {
    "bayesian_r2": "asks for the linear predictor as a variable, which the program does not name",
    "residual_r2": "asks for the linear predictor as a variable, which the program does not name",
    "plot_ecdf_pit": "of simulation-based calibration, which asks for a group of ranks",
    "plot_lm": "asks for the predictor's name and a group of predictions over a grid",
    "plot_ppc_pava_residuals": "asks for a predictor's values besides the tree",
    "plot_ppc_censored": "of censored survival times",
    "kaplan_meier": "of censored survival times",
    "generate_survival_curves": "of censored survival times",
    "plot_collection": "takes plots",
    "plot_matrix": "takes visuals",
    "loo_kfold": "refits through a wrapper that the user writes",
    "loo_moment_match": "takes functions of the unconstrained parameters that the user writes",
    "reloo": "refits through a wrapper that the user writes",
    "rhat_nested": "of super-chains, which NUTS does not run here",
    "update_subsample": "takes a subsampled LOO",
    "get_function": "a helper of arrays",
    "qds": "of arrays",
    "SamplingWrapper": "a class", "ELPDData": "a class", "AzStatsDaAccessor": "a class",
    "AzStatsDsAccessor": "a class", "AzStatsDtAccessor": "a class",
}  # fmt: skip


# What ArviZ 0.8 raises at its own example data (centered_eight) with xarray of 2026.
OF_XARRAY = (
    "Passing a Dataset as `data_vars`",
    "cannot set a PandasIndex from the scalar variable",
)


def run(function, tree):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert function(tree) is not None
        except (TypeError, ValueError) as error:
            if not any(known in str(error) for known in OF_XARRAY):
                raise
            pytest.skip(f"ArviZ itself fails with this xarray: {error}")
    plt.close("all")


@pytest.mark.parametrize("name", TAKEN)
def test_takes_a_tree(name, normal):
    run(TAKEN[name], normal)


@pytest.mark.parametrize("name", OF_COUNTS)
def test_takes_a_tree_of_counts(name, poisson):
    run(OF_COUNTS[name], poisson)


@pytest.mark.parametrize("name", OF_BINARY)
def test_takes_a_tree_of_binary_outcomes(name, binary):
    run(OF_BINARY[name], binary)


def test_every_function_is_in_a_table():
    """Each that does not apply with its reason."""
    known = {*TAKEN, *OF_COUNTS, *OF_BINARY, *OF_A_POINT, *EXCEPTIONS}
    stats = {n for n in dir(S) if not n.startswith("_") and callable(getattr(S, n))}
    plots = {n for n in dir(P) if n.startswith("plot_")}
    if S.__version__.startswith("0.8"):
        assert not (stats | plots) - known
    assert not any(n in TAKEN for n in EXCEPTIONS)


def test_groups_dims_and_coords(normal):
    assert set(normal.children) == {
        "posterior", "sample_stats", "log_likelihood", "log_prior", "observed_data", "constant_data",
        "posterior_predictive", "prior", "prior_predictive",
    }  # fmt: skip
    stats = set(normal["sample_stats"].data_vars)
    assert stats >= {
        "energy", "tree_depth", "step_size", "acceptance_rate", "diverging", "lp", "n_steps",
    }  # fmt: skip
    assert normal["posterior"]["b"].dims == ("chain", "draw", "b_dim_0")
    assert list(normal["posterior"]["b_dim_0"].values) == ["one", "dose"]
    for group in ("log_likelihood", "posterior_predictive", "prior_predictive"):
        assert normal[group]["y"].dims == ("chain", "draw", "patients")
    assert normal["observed_data"]["y"].dims == ("patients",)
    assert normal["constant_data"]["X[dose]"].dims == ("patients",)
    draws = normal["posterior"]
    means = np.einsum("nk,cdk->cdn", X.to_numpy(), draws["b"].values)
    density = dist.Normal(jnp.asarray(means), jnp.asarray(draws["s"].values)[..., None])
    expected = np.asarray(density.log_prob(Y))
    np.testing.assert_allclose(normal["log_likelihood"]["y"], expected, rtol=2e-4)
    prior = np.asarray(dist.HalfNormal(2.0).log_prob(draws["s"].values))
    np.testing.assert_allclose(normal["log_prior"]["s"], prior, rtol=1e-5)


def test_a_point_is_no_posterior(normal):
    """az.compare refuses it; its approximate LOO is there under its own name."""
    tree = fit_mle(Model(regression, X, Y), starts=1).to_datatree()
    assert "log_likelihood" not in tree.children
    with pytest.raises((TypeError, KeyError, ValueError)):
        S.compare({"NUTS": normal, "MLE": tree})
    tree["log_likelihood"] = xr.DataTree(tree["log_likelihood_asymptotic"].to_dataset())
    stats = tree["sample_stats"]
    found = S.loo_approximate_posterior(
        tree, log_p=stats["log_p"].values.ravel(), log_q=stats["log_q"].values.ravel()
    )
    assert abs(found.elpd - S.loo(normal).elpd) < 1.5


def test_latents_as_a_group(galaxies_em):
    group = galaxies_em.to_datatree(log_likelihood=False, latents=True)["latents"]
    assert group["z"].dims == ("galaxies", "z_value")
    np.testing.assert_allclose(group["z"], galaxies_em.posterior()["z"])


def test_flat_priors_have_no_prior_predictive():
    def flat(y):
        mean = numpyro.param("mean", 0.0)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(ValueError, match="'mean'.*no proper prior"):
        Model(flat, Y).prior_predictive()
