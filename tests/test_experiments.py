"""Laplace, selection, simulation studies, optima, comparison, pictures and the report."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from conftest import SHARED
from scipy import stats

from pp_mlem import (
    Model,
    calibrate,
    compare,
    experiment,
    fit_em,
    fit_laplace,
    fit_map,
    fit_mle,
    fit_nuts,
    likelihood_ratio_test,
    load,
    select,
)  # fmt: skip
from pp_mlem.show.catalogue import find_model
from pp_mlem.show.components import component_densities, component_sites
from pp_mlem.show.plots.comparison import comparison_figures
from pp_mlem.show.report import write_report
from pp_mlem.show.surface import surface


def known_scale(x):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.5), obs=x)


def normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, sigma), obs=x)


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma), obs=x)


X = np.concatenate([np.random.default_rng(3).normal(-2, 1, 60), np.random.default_rng(4).normal(3, 1, 40)])  # fmt: skip


@pytest.fixture(scope="module")
def fits():
    model = Model(mixture, X)
    return {
        "EM": fit_em(model, starts=6),
        "MAP": fit_map(model, starts=6),
        "LAPLACE": fit_laplace(model, starts=4),
        "NUTS": fit_nuts(model, chains=2, warmup=300, draws=400),
    }


# --- Laplace --------------------------------------------------------------------------------


def test_laplace_of_a_conjugate_posterior_is_exact():
    fit = fit_laplace(Model(known_scale, X[:25]), draws=4000)
    precision = 1 / 4 + 25 / 2.25
    mean = (1 / 4 + X[:25].sum() / 2.25) / precision
    assert fit.vector[0] == pytest.approx(mean, rel=1e-8)
    assert fit.params["mu"] == pytest.approx(mean, abs=4 / np.sqrt(4000 * precision))
    assert fit.standard_errors()["mu"] == pytest.approx(precision**-0.5, rel=0.05)
    cover = 2.25 * np.eye(25) + 4.0
    evidence = stats.multivariate_normal(np.ones(25), cover).logpdf(X[:25])
    assert fit.diagnostics["log_evidence"] == pytest.approx(evidence, rel=1e-9)
    assert fit.converged and fit.diagnostics["effective_draws"] == pytest.approx(4000, rel=1e-6)


def test_laplace_beside_nuts(fits):
    laplace, nuts = fits["LAPLACE"], fits["NUTS"]
    assert laplace.status in ("converged", "poor approximation")
    assert f"{laplace.diagnostics['khat']:.2f}" in laplace.story
    gap = (laplace.estimates() - nuts.estimates()) / nuts.standard_errors()
    assert gap.abs().max() < 0.5
    ratio = laplace.standard_errors() / nuts.standard_errors()
    assert ratio.between(0.7, 1.4).all()


# --- optima ---------------------------------------------------------------------------------


def test_optima_of_the_galaxies(galaxies_em):
    table = galaxies_em.optima
    assert table.loc[1, "objective"] == pytest.approx(-203.1792, abs=1e-4)
    assert table["starts"].sum() == 20 and table.loc[1, "kind"] == "maximum"
    assert (table["below_best"].diff().dropna() > 0).all() and table.loc[1, "points"] == 1
    assert table.loc[1, "smallest_eigenvalue"] > 0


def test_below_the_best_that_was_not_set_aside():
    shelf = find_model("galaxies")
    table = fit_em(Model(shelf.program, **shelf.data(), K=6), starts=20, seed=1).optima
    aside = table["status"].isin(["collapsed", "spurious"])
    assert (table.loc[aside, "objective"] > table.loc[1, "objective"]).any() and not aside.loc[1]
    below = table.loc[1, "objective"] - table["objective"]
    np.testing.assert_allclose(table["below_best"], below, atol=1e-6)


def test_a_ridge_is_called_one():
    def program(x):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    table = fit_em(Model(program, X[:20]), starts=5).optima
    assert table["kind"].tolist() == ["ridge"] and table.loc[1, "points"] > 1


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no published data here")
def test_local_maxima_of_the_survey():
    """McCutcheon's three-class model of the 1982 General Social Survey has several maxima."""
    t = pd.read_csv(SHARED / "data" / "A13_gss82_lca_local_maxima" / "data.csv")

    def classes(purpose, accuracy, understanding, cooperation):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("class", 3):
            p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
            a = numpyro.sample("a", dist.Dirichlet(jnp.ones(2)))
            u = numpyro.sample("u", dist.Dirichlet(jnp.ones(2)))
            c = numpyro.sample("c", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("people", len(purpose)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("purpose", dist.Categorical(p[z]), obs=purpose)
            numpyro.sample("accuracy", dist.Categorical(a[z]), obs=accuracy)
            numpyro.sample("understanding", dist.Categorical(u[z]), obs=understanding)
            numpyro.sample("cooperation", dist.Categorical(c[z]), obs=cooperation)

    fit = fit_em(Model(classes, *(t[c].to_numpy() - 1 for c in t)), starts=60, seed=0)
    table = fit.optima
    assert fit.log_likelihood == pytest.approx(-2754.545, abs=1e-3)
    distinct = table.loc[table["status"].isin(["converged", "boundary"]), "objective"]
    assert len(distinct) >= 4 and distinct.iloc[-1] < distinct.iloc[0] - 1


def test_labels_by_an_ordering_constraint(fits):
    model = fits["NUTS"].model
    fit = fit_nuts(model, chains=2, warmup=300, draws=400, order_by="mu")
    assert np.all(np.diff(fit.draws["mu"], axis=-1) >= 0)
    np.testing.assert_allclose(fit.params["mu"], fits["NUTS"].params["mu"], atol=0.1)
    with pytest.raises(ValueError, match="order_by: received 'sigma', expected .*mu"):
        fit_nuts(model, order_by="sigma")


def test_saved_fits_keep_their_optima(fits, tmp_path):
    fits["MAP"].save(tmp_path / "map.nc")
    again = load(tmp_path / "map.nc", model=fits["MAP"].model)
    pd.testing.assert_frame_equal(again.optima, fits["MAP"].optima)
    assert again.objective_value == fits["MAP"].objective_value
    fits["LAPLACE"].save(tmp_path / "laplace.nc")
    again = load(tmp_path / "laplace.nc")
    assert again.has_draws and again.diagnostics["khat"] == fits["LAPLACE"].diagnostics["khat"]


# --- selection ------------------------------------------------------------------------------


def test_select_and_go_on(tmp_path, monkeypatch):
    found = select(mixture, X, K=range(1, 4), starts=4, out=tmp_path / "run")
    assert found.chosen("BIC") == "K=2 em" and found.best("ICL").n_parameters == 4
    for label, fit in found.fits.items():
        assert found.table.loc[label, "AIC"] == pytest.approx(fit.aic)
    import pp_mlem.comparison.selection as module

    monkeypatch.setattr(module, "fit_by", lambda *a, **k: pytest.fail("fitted again"))
    again = select(mixture, X, K=range(1, 4), starts=4, out=tmp_path / "run")
    np.testing.assert_allclose(again.table["BIC"], found.table["BIC"])
    with pytest.raises(ValueError, match="another selection .*data"):
        select(mixture, X[1:], K=range(1, 4), starts=4, out=tmp_path / "run")
    assert "K=2 em" in repr(found) and found.plot() is not None


def test_sizes_that_cannot_be_fitted_are_told():
    x = np.array([1.0, 1.0, 2.0, 2.0, 2.0])
    found = select(mixture, x, K=[1, 4], starts=2)
    assert len(found.table) == 2 and found.table.loc["K=4 em", "note"]

    def picky(x, K):
        if K > 1:
            raise ValueError("K is too large for me")
        normal(x)

    found = select(picky, X, K=[1, 2])
    assert found.table.loc["K=2 em", "status"] == "failed"
    assert "too large for me" in found.table.loc["K=2 em", "note"]
    with pytest.raises(ValueError, match="no keyword varies"):
        select(mixture, X)


def test_likelihood_ratio_test():
    one, two = (fit_em(Model(mixture, X, K=k), starts=4) for k in (1, 2))
    found = likelihood_ratio_test(one, two, replicates=19, starts=2)
    assert found.p_value == 1 / 20 and found.null.max() < found.statistic
    assert np.median(found.null) < 8  # two more parameters, none of them needed


# --- simulation studies ---------------------------------------------------------------------


def test_experiment_of_a_normal_mean(tmp_path):
    model, truth = Model(normal, np.zeros(50)), {"mu": 1.0, "sigma": 2.0}
    path = tmp_path / "study.nc"
    first = experiment(model, truth, replicates=30, out=path)
    whole = experiment(model, truth, replicates=60, out=path)
    np.testing.assert_array_equal(
        whole.results["estimate"].values[:, :30], first.results["estimate"].values
    )
    fresh = experiment(model, truth, replicates=60)
    np.testing.assert_allclose(whole.results["estimate"], fresh.results["estimate"])
    drawn = [model.redraw(truth, seed=i).arguments.dynamic[0] for i in range(60)]
    np.testing.assert_allclose(
        whole.results["estimate"].sel(scalar="mu").values[0], [x.mean() for x in drawn], rtol=1e-7
    )
    table = whole.summary().loc["em"]
    assert table.loc["mu", "coverage"] > 0.85 and table.loc["mu", "sd"] == pytest.approx(
        0.28, rel=0.3
    )
    assert "coverage" in repr(whole)
    with pytest.raises(ValueError, match="another study"):
        experiment(model, {"mu": 2.0, "sigma": 2.0}, replicates=60, out=path)


def test_experiment_aligns_labels():
    truth = {"w": [0.4, 0.6], "mu": [3.0, -2.0], "sigma": 1.0}  # not in the order of the fits
    found = experiment(Model(mixture, X), truth, replicates=12, starts=2)
    assert found.summary().loc["em", "bias"].abs().max() < 0.3


def test_calibration_of_a_normal():
    found = calibrate(
        Model(known_scale, np.zeros(10)), replicates=60, warmup=100, draws=100, thin=4
    )
    assert found.draws == 50 and found.ranks["mu"].between(0, 50).all()
    assert found.uniformity()["p"].min() > 1e-3
    assert found.plot() is not None


# --- comparison, pictures, report -----------------------------------------------------------


def test_comparison_in_units_of_standard_error(fits):
    found = compare(fits)
    gap = found.differences["MAP"]["mu[0]"]
    expected = fits["MAP"].params["mu"][0] - fits["EM"].params["mu"][0]
    assert gap == pytest.approx(expected / fits["EM"].standard_errors()["mu[0]"])
    below = found.coverage["NUTS", "EM"]["mu[0]"]
    assert below == (fits["NUTS"].draw_table()["mu[0]"] < fits["EM"].params["mu"][0]).mean()
    assert found.scores.loc["NUTS", "ess_per_second"] > 0
    assert "effective draws a second" in repr(found)


def test_different_programs_get_no_loo(fits):
    other = fit_em(Model(normal, X))
    found = compare({"mixture": fits["EM"], "normal": other})
    assert "different programs" in found.warnings[0] and found.scores["elpd_loo"].isna().all()
    assert "sigma" in found.estimates.index
    other = fit_em(Model(mixture, X[1:]), starts=2)
    assert "different data" in compare({"a": fits["EM"], "b": other}).warnings[0]


def test_components_integrate_to_one(fits):
    (where,) = component_sites(fits["EM"].model)
    grid = np.linspace(-12, 13, 4000)
    weights, densities = component_densities(
        fits["EM"].model, fits["EM"].params, where, grid[:, None]
    )
    np.testing.assert_allclose(densities.sum(1) * (grid[1] - grid[0]), 1, rtol=1e-6)
    np.testing.assert_allclose(weights, fits["EM"].params["w"], rtol=1e-6)
    p = fits["EM"].params
    np.testing.assert_allclose(
        densities[1], stats.norm(p["mu"][1], p["sigma"]).pdf(grid), rtol=1e-9
    )


def test_surface_is_the_likelihood(fits):
    fit, p = fits["EM"], fits["EM"].params
    a, b = np.array([-2.5, -2.0]), np.array([0.3, 0.5, 1.2])
    table = surface(fit, "mu[0]", "w[1]", "slice", a, b)
    here = fit.model.log_likelihood({**p, "mu": [-2.0, p["mu"][1]], "w": [0.5, 0.5]})
    assert table[1, 1] == pytest.approx(here, abs=1e-9)
    assert np.isnan(table[2]).all()  # outside the simplex
    profile = surface(fit, "mu[0]", "w[1]", "profile", a, b[:2])
    held = fit_mle(fit.model, fixed={"w": [0.5, 0.5]}, init={"mu": p["mu"], "sigma": p["sigma"]})
    assert np.all(profile >= table[:2] - 1e-9) and profile[1].max() <= held.log_likelihood + 1e-6
    drawn = fit_em(fit.model, init={"w": [0.5, 0.5], "mu": [-1.0, 1.0], "sigma": 2.0}, trace=True)
    figure = drawn.plot_surface("mu[0]", "mu[1]", others={"NUTS": fits["NUTS"]}, points=9)
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert any("path" in t for t in labels) and any("draws" in t for t in labels)


def test_every_picture_is_drawn(fits):
    figures = comparison_figures(compare(fits))
    assert set(figures) == {
        "components", "estimates", "posterior_and_normal", "predictive_check", "paths", "optima",
    }  # fmt: skip


def test_report_stands_alone(fits, tmp_path):
    found = compare(fits)
    found.warnings.append("NUTS: run longer chains.")
    path = write_report(found, tmp_path / "report.html", "Two groups", "pp-mlem compare x")
    page = path.read_text()
    assert page.count("data:image/svg+xml;base64,") == 6
    assert "http://" not in page and "https://" not in page and "<script" not in page
    for part in ("Two groups", "pp-mlem compare x", "Warnings", "Optima", "Missing information",
                 "sigma", "numpyro", "Summed out exactly"):  # fmt: skip
        assert part in page
