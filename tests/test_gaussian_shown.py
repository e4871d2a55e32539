"""What is shown of real latents: pictures, agreement of fits, loadings that rotate, boundaries, the shelf."""

from __future__ import annotations

import importlib.util

import gaussian_programs as programs
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score

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
    load,
    select,
)
from pp_mlem.base.precision import working_precision
from pp_mlem.comparison.latents import compared
from pp_mlem.diagnose.rotations import flat_directions, turns_of
from pp_mlem.marginal.units import reweighted
from pp_mlem.model.latents import Moments
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.show.catalogue import find_model
from pp_mlem.show.plots.comparison import save_pictures
from pp_mlem.show.plots.figure import new_figure
from pp_mlem.show.plots.latents import draw_series
from pp_mlem.show.report import write_report


def shelf(name, **options):
    found = find_model(name)
    return Model(found.program, **found.data(), **found.options, **options)


@pytest.fixture(scope="module")
def pca():
    """Probabilistic principal components of the iris, by two methods from different starts."""
    model = shelf("probabilistic_pca")
    return model, fit_em(model, starts=4, seed=0), fit_mle(model, starts=4, seed=3)


@pytest.fixture(scope="module")
def batches():
    model = shelf("random_effects")
    return model, fit_em(model, starts=1), fit_mle(model, starts=1)


# --- loadings that rotate -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["observed", "sandwich", "opg"])
def test_loadings_have_no_standard_errors_and_say_why(pca, kind):
    _, em, _ = pca
    summary = em.summary(kind)
    loadings = [n for n in summary.index if n.startswith("W")]
    assert summary["std err"][loadings].isna().all()
    assert summary["std err"].drop(loadings).notna().all()
    assert set(summary["note"][loadings]) == {
        "not identified: any rotation of 'u' with W fits as well"
    }


@pytest.mark.slow
def test_a_prior_that_rotates_leaves_loadings_as_they_are(pca):
    """A spherical prior of the loadings tells no rotation apart, another one does."""
    fit = fit_map(pca[0], starts=2)
    errors = fit.standard_errors()
    assert errors[[n for n in errors.index if n.startswith("W")]].isna().all()
    assert errors["sigma"] > 0

    def aligned(x):
        W = numpyro.sample("W", dist.Normal(jnp.array([1.0, 0.0]), 0.5).expand([4, 2]).to_event(2))
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.Normal(0, 1).expand([2]).to_event(1))
            numpyro.sample("x", dist.Normal(u @ W.T, 1.0).to_event(1), obs=x)

    told = fit_map(Model(aligned, programs.WIDE, latents={"u"}), starts=1)
    assert told.turns == () and told.standard_errors().notna().all()


def test_what_no_rotation_changes_has_a_standard_error(pca, tmp_path):
    """Of the noise it is known: the variance of sigma^2 is 2 sigma^4 / N (D - L)."""
    model, em, mle = pca
    noise = em.estimate(lambda p: p["sigma"] ** 2)
    n = len(model.arguments.dynamic[0])
    assert noise.standard_error == pytest.approx(noise.value * np.sqrt(2 / (n * 2)), rel=1e-6)
    covariance = [f.estimate(lambda p: p["W"] @ p["W"].T) for f in (em, mle)]
    np.testing.assert_allclose(covariance[0].value, covariance[1].value, atol=1e-6)
    assert np.all(covariance[0].standard_error > 0)
    np.testing.assert_allclose(
        covariance[0].standard_error, covariance[1].standard_error, rtol=1e-5
    )
    lost = em.estimate(lambda p: p["W"][0, 0])
    assert np.isnan(lost.standard_error) and "rotation" in lost.reason
    em.save(tmp_path / "fit.nc")
    again = load(tmp_path / "fit.nc", model=model).estimate(lambda p: p["W"] @ p["W"].T)
    np.testing.assert_allclose(again.standard_error, covariance[0].standard_error, rtol=1e-9)


def test_rotations_are_no_parameters(pca):
    """4 means, 8 loadings less one rotation, and the noise."""
    _, em, _ = pca
    assert em.n_parameters == 12
    assert em.aic == pytest.approx(-2 * em.log_likelihood + 24)


def test_rotated_starts_are_one_optimum(pca):
    _, em, mle = pca
    for fit in (em, mle):
        assert fit.optima["points"].tolist() == [1]
        assert fit.optima["starts"].tolist() == [4]


def test_a_factor_and_its_mirror_image_are_one_optimum():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 1)) * [1.0, 0.8, -0.7, 0.9] + 0.6 * rng.normal(size=(80, 4))

    def one_factor(x):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([4]).to_event(1))
        psi = numpyro.sample("psi", dist.HalfNormal(1))
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(u[:, None] * w, psi).to_event(1), obs=x)

    fit = fit_mle(Model(one_factor, x, latents={"u"}), starts=8)
    signs = {float(np.sign(p["w"][0])) for p in fit.start_params}
    assert signs == {-1.0, 1.0} and fit.optima["points"].tolist() == [1]
    assert fit.standard_errors().notna().all()


def test_fits_are_compared_in_one_orientation(pca):
    _, em, mle = pca
    assert not np.allclose(em.params["W"], mle.params["W"], atol=0.1)
    found = compare({"EM": em, "MLE": mle})
    np.testing.assert_allclose(
        found.fits["MLE"].params["W"], found.fits["EM"].params["W"], atol=1e-5
    )
    told = found.latents.loc[("u", "MLE", "EM")]
    assert told["correlation"] == pytest.approx(1, abs=1e-8) and told["furthest"] < 1e-4
    assert told["sd_ratio"] == pytest.approx(1, abs=1e-6)
    assert any("the loadings times their transpose" in w for w in found.warnings)
    assert "Latents" in repr(found)


@pytest.mark.slow
def test_draws_are_put_into_one_orientation(pca):
    """Every rotation of the loadings is in the posterior; the summaries are of one."""
    model, em, _ = pca
    nuts = fit_nuts(model, chains=2, warmup=300, draws=300, seed=0, progress=False)
    assert nuts.diagnostics["max_r_hat"] < 1.05
    assert nuts.standard_errors().max() < 0.3
    turned = compare({"EM": em, "NUTS": nuts})
    np.testing.assert_allclose(turned.fits["NUTS"].params["W"], em.params["W"], atol=0.1)
    assert turned.latents["correlation"].iloc[0] > 0.99
    laplace = fit_laplace(model, seed=0)
    assert laplace.status == "poor approximation" and "rotation" in laplace.status_note
    assert np.abs(laplace.params["W"]).max() < 3


def test_missing_information_leaves_rotations_out(pca):
    info = pca[1].missing_information()
    assert 0.9 < info.rate < 1 and info.fractions[["W[0,0]"]].isna().all()
    assert info.fractions["sigma"] == pytest.approx(0.5, abs=1e-6)  # two of four dimensions


@pytest.mark.slow
def test_the_bootstrap_knows_rotations(pca):
    found = pca[1].bootstrap(10, seed=0)
    errors = pca[1].standard_errors("bootstrap")
    assert np.isnan(errors["W[0,0]"]) and errors["sigma"] > 0
    assert found.intervals().loc["W[0,0]"].isna().all()


@pytest.mark.slow
def test_components_rotate_one_by_one():
    """Two factors in each of two components: two rotations."""
    model = shelf("mixture_of_factor_analysers", K=2, L=2)
    fit = fit_em(model, starts=1, max_iter=5)
    with fit.computing("turns") as target:
        turns = turns_of(target)
        assert [t.entry for t in turns] == [(0, 0), (0, 1)]
        assert flat_directions(target, fit.vector, turns).shape[1] == 2
    assert fit.n_parameters == 1 + 13 + 26 + 52 - 2


@pytest.mark.slow
def test_the_sign_of_a_factor_is_each_component_s_own():
    model = shelf("mixture_of_factor_analysers", K=2)
    one = fit_em(model, starts=1, seed=0, max_iter=20)
    assert [t.entry for t in one.turns] == [(0, 0), (0, 1)]
    mirrored = {**one.params, "W": one.params["W"] * np.array([1.0, -1.0])[:, None, None]}
    turned = one.relabelled(mirrored)
    np.testing.assert_allclose(turned.params["W"], mirrored["W"], rtol=1e-12)
    assert model.log_likelihood(mirrored) == pytest.approx(one.log_likelihood, rel=1e-10)


def cycle(y):
    """A factor along time, whose law has a parameter of its own."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    with numpyro.plate("series", y.shape[1]):
        loading = numpyro.sample("loading", dist.Normal(0, 1))

    def step(f, y_t):
        f = numpyro.sample("f", dist.Normal(phi * f, 1))
        numpyro.sample("y", dist.Normal(loading * f, 0.5).to_event(1), obs=y_t)
        return f, None

    scan(step, jnp.zeros(()), y)


def curves(y):
    """Whose slope at small parameters is lost in rounding: what hangs on nothing there is no sign."""
    mu = numpyro.sample("mu", dist.Normal(200, 50))
    middle = numpyro.sample("middle", dist.Normal(700, 200))
    share = 1 / (1 + jnp.exp(-(1000.0 * jnp.arange(1, 4) - middle) / 10))
    with numpyro.plate("rows", y.shape[0], dim=-2):
        a = numpyro.sample("a", dist.Normal(mu, 10.0))
        with numpyro.plate("times", 3):
            numpyro.sample("y", dist.Normal(a * share, 5.0), obs=y)


def test_the_sign_of_a_factor_along_time_is_that_of_the_others():
    rng = np.random.default_rng(5)
    f = np.zeros(60)
    for t in range(1, 60):
        f[t] = 0.6 * f[t - 1] + rng.normal()
    model = Model(cycle, f[:, None] * np.array([1.0, -0.7, 0.4]) + 0.5 * rng.normal(size=(60, 3)))
    em = fit_em(model, starts=2, seed=0)
    assert [t.axes for t in em.turns] == [(("loading", None),)]
    nuts = fit_nuts(model, chains=4, warmup=150, draws=150, seed=1)
    assert nuts.diagnostics["max_r_hat"] < 1.1  # chains begin on either side
    mirrored = em.relabelled({**em.params, "loading": -em.params["loading"]})
    found = compare({"EM": mirrored, "NUTS": nuts}, loo=False).estimates
    apart = found[("EM", "estimate")] - found[("NUTS", "estimate")]
    assert np.all(np.abs(apart) < found[("NUTS", "error")])
    assert fit_em(Model(curves, 200.0 + rng.normal(size=(4, 3))), starts=1, max_iter=3).turns == ()


# --- boundaries ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_em, fit_mle])
def test_a_heywood_case_is_at_the_boundary(fit):
    """Three factors leave nothing of the arm span to itself; R's factanal stops at a uniqueness of 0.005,
    with a discrepancy of 0.0764122."""
    model = shelf("factor_analysis", L=3)
    found = fit(model, starts=2, seed=0)
    assert found.status == "boundary" and "psi (1 of 8)" in found.status_note
    x = model.arguments.dynamic[0]
    covariance = found.params["W"] @ found.params["W"].T + np.diag(found.params["psi"] ** 2)
    direct = stats.multivariate_normal(found.params["mu"], covariance).logpdf(x).sum()
    assert found.log_likelihood == pytest.approx(direct, abs=1e-5)
    R = np.corrcoef(x.T)
    saturated = -len(x) / 2 * (8 * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(R)[1])
    assert 0.0757 < 2 / len(x) * (saturated - found.log_likelihood) < 0.0764122
    assert found.n_parameters == 8 + 24 + 8 - 3
    errors = found.standard_errors()
    assert np.isnan(errors["psi[1]"]) and errors[["mu[0]", "psi[0]", "psi[7]"]].notna().all()


def test_a_latent_variance_of_zero_is_no_collapse():
    """The exposures of a component may be the same for all of its assets."""
    rng = np.random.default_rng(0)
    f, z = rng.normal(size=20), np.repeat([0, 1], 20)
    r = np.where(z == 0, -1.0, 1.0)[:, None] * f + 0.5 * rng.normal(size=(40, 20))

    def exposures(r, f):
        with numpyro.plate("groups", 2):
            B = numpyro.sample("B", dist.Normal(0, 2))
            S = numpyro.sample("S", dist.HalfNormal(1))
        with numpyro.plate("assets", len(r)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            b = numpyro.sample("b", dist.Normal(B[z], S[z]))
            numpyro.sample("r", dist.Normal(b[:, None] * f, 0.5).to_event(1), obs=r)

    fit = fit_mle(Model(exposures, r, f), starts=2)
    assert fit.status in ("boundary", "converged")
    np.testing.assert_allclose(np.sort(fit.params["B"]), [-1, 1], atol=0.1)


# --- pictures, tables ---------------------------------------------------------------------------


def test_a_caterpillar_is_in_the_order_of_the_means(batches):
    _, em, mle = batches
    names = list("ABCDEF")
    figure = em.plot_latents("b", others={"MLE": mle}, units={"b": names})
    (axes,) = figure.axes
    order = np.argsort(em.posterior()["b"].mean)
    assert [t.get_text() for t in axes.get_yticklabels()] == [names[i] for i in order]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["EM", "MLE", "95% band"]
    assert axes.get_title("left") == "b, batches[6]"
    middle = [line for line in axes.lines if len(line.get_xdata()) == 6][0]
    np.testing.assert_allclose(middle.get_xdata(), np.sort(em.posterior()["b"].mean))


def test_every_entry_of_a_latent_has_a_panel(pca):
    _, em, mle = pca
    figure = em.plot_latents(others={"MLE": mle})
    assert [a.get_title("left") for a in figure.axes] == [
        "u[0], flowers[150]",
        "u[1], flowers[150]",
    ]
    with pytest.raises(ValueError, match=r"plot_latents: received names \['z'\].*\['u'\]"):
        em.plot_latents("z")


def test_a_state_in_time_with_its_forecast():
    _, (axes,) = new_figure(6, 4)
    rng = np.random.default_rng(0)
    mean, sd = np.cumsum(rng.normal(size=30)), np.full(30, 0.5)
    ahead = np.full(5, mean[-1]), np.linspace(0.6, 1.2, 5)
    draw_series(axes, {"EM": (mean, sd)}, ahead, observed=mean + rng.normal(size=30))
    forecast = next(line for line in axes.lines if line.get_label() == "forecast")
    np.testing.assert_array_equal(forecast.get_xdata(), np.arange(29, 35))
    low, high = axes.collections[1].get_datalim(axes.transData).intervaly
    assert high - low == pytest.approx(2 * 1.959964 * 1.2, rel=1e-5)


def test_loadings_are_a_heat_map(pca):
    _, em, _ = pca
    figure = em.plot_loadings(rows=["a", "b", "c", "d"])
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), em.params["W"])
    assert "rotation" in figure.get_supxlabel()
    told = em.plot_loadings(lambda p: p["W"] @ p["W"].T).axes[0].texts[0].get_text()
    assert "±" in told
    with pytest.raises(ValueError, match="plot_loadings: received 'sigma'"):
        em.plot_loadings("sigma")


def test_models_without_loadings_say_so(batches):
    with pytest.raises(ValueError, match="no parameter turns with a real latent"):
        batches[1].plot_loadings()


def test_agreement_of_moments(batches):
    """A fit that is less sure of what it takes for the same."""
    _, em, mle = batches
    found = compare({"EM": em, "MLE": mle})
    assert found.latents.index.tolist() == [("b", "MLE", "EM")]
    sure = Moments(np.array([0.0, 1.0, 2.0]), np.full((3, 1, 1), 0.04))
    unsure = Moments(np.array([0.1, 1.1, 2.1]), np.full((3, 1, 1), 0.16))
    np.testing.assert_allclose(compared(unsure, sure), [1.0, 0.1 / 0.4, 2.0, 0.2])


@pytest.mark.slow
def test_a_comparison_is_written_with_its_latents(pca, tmp_path):
    _, em, mle = pca
    found = compare({"EM": em, "MLE": mle})
    names = {p.name for p in save_pictures(found, tmp_path)}
    assert {"latents.png", "loadings.svg", "estimates.png"} <= names
    page = write_report(found, tmp_path / "report.html").read_text()
    assert "<h2>Latents</h2>" in page and "Loadings of the factors" in page


# --- groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_weights_of_groups_multiply_their_likelihoods(number):
    program, data, options = programs.PROGRAMS[number]
    model = Model(program, *data, **options)
    with working_precision(model.dtype):
        params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}
        units = model.pointwise_log_likelihood(params)
        weights = 0.5 + np.arange(len(units))
        data = reweighted(model.marginal, model.data, jnp.asarray(weights))
        target = model.target().on(data)
        value = float(target.value(target.space.to_vector(params)))
    assert value == pytest.approx(units @ weights, rel=1e-12)


@pytest.mark.slow
def test_groups_are_resampled(batches):
    found = batches[1].bootstrap(20, kind="nonparametric", seed=1)
    assert len(found.estimates) == 20 and found.standard_errors["mu"] > 5


def test_new_rows_of_known_groups_and_groups_without_data(batches):
    model, em, _ = batches
    y, batch = np.array([1500.0, 1600.0, 1510.0]), np.array([0, 1, 0])
    told = em.predict_proba(y, batch, batches=8)["b"]
    tau, sigma, mu = (float(em.params[n]) for n in ("tau", "sigma", "mu"))
    shrink = tau**2 / (tau**2 + sigma**2 / 2)
    assert told.mean[0] == pytest.approx(shrink * (1505.0 - mu), rel=1e-9)
    np.testing.assert_allclose(told.sd[2:], tau, rtol=1e-9)
    assert em.predict(y, batch, batches=8)["b"].shape == (8,)


# --- the shelf ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_em, fit_mle])
def test_factor_analysis_is_that_of_r(fit):
    found = fit(shelf("factor_analysis"), starts=2, seed=0)
    told = [0.170, 0.107, 0.166, 0.199, 0.089, 0.364, 0.416, 0.537]
    np.testing.assert_allclose(found.params["psi"] ** 2, told, atol=6e-4)
    assert found.converged


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_em, fit_mle])
def test_crossed_effects_are_those_of_lme4(fit):
    found = fit(shelf("crossed_effects"), starts=2, seed=0)
    assert -2 * found.log_likelihood == pytest.approx(332.1883486700085, abs=1e-6)
    np.testing.assert_allclose(found.params["tau"], [0.845572, 1.770666], atol=1e-4)
    assert found.params["sigma"] == pytest.approx(0.549932, abs=1e-5)


@pytest.mark.slow
def test_components_of_the_wines_are_cultivars():
    fit = fit_em(shelf("mixture_of_factor_analysers"), starts=6, seed=0)
    assert adjusted_rand_score(load_wine().target, fit.decode()["z"]) > 0.8
    assert fit.standard_errors().notna().all()  # of one factor there is nothing to rotate


@pytest.mark.slow
def test_assets_are_grouped_by_their_exposures():
    path = find_model("portfolio").path
    spec = importlib.util.spec_from_file_location("portfolio", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments, groups = module.simulated()
    fit = fit_em(Model(module.model, **arguments), starts=4, seed=0)
    assert adjusted_rand_score(groups, fit.decode()["z"]) > 0.8
    order = np.argsort(fit.params["B"][:, 1])
    np.testing.assert_allclose(fit.params["B"][order], module.EXPOSURES, atol=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools", "random_effects"])
def test_every_verb_knows_models_of_real_latents_alone(name, tmp_path):
    model = shelf(name)
    em, mle, mode = (f(model, starts=2, seed=0) for f in (fit_em, fit_mle, fit_map))
    nuts = fit_nuts(model, chains=2, warmup=100, draws=100, progress=False)
    fits = {"EM": em, "MLE": mle, "MAP": mode, "NUTS": nuts, "LAPLACE": fit_laplace(model)}
    found = compare(fits)
    assert len(found.latents) == 4 and len(repr(found)) > 500
    save_pictures(found, tmp_path)
    write_report(found, tmp_path / "report.html")
    (site,) = model.reading.reals
    for fit in fits.values():
        assert fit.posterior()[site.name].sd.min() >= 0
        assert set(fit.decode()) == {site.name}
        fit.save(tmp_path / "fit.nc")
        again = load(tmp_path / "fit.nc", model=model)
        np.testing.assert_allclose(
            again.posterior()[site.name].mean, fit.posterior()[site.name].mean, rtol=1e-9
        )
        terms = "log_likelihood" if fit.has_draws else "log_likelihood_asymptotic"
        assert set(fit.to_datatree().children) >= {"posterior", terms}
    assert em.intervals("profile", ["mu"]).notna().all(axis=None)
    assert len(em.bootstrap(5).estimates) == 5
    assert len(em.bootstrap(5, kind="nonparametric").estimates) == 5
    for kind in ("sandwich", "opg"):
        assert em.standard_errors(kind)["mu"] > 0
    assert em.missing_information().fractions["mu"] <= 1
    assert em.optima["points"].min() >= 1
    assert em.plot_surface(*em.scalar_names[:2], points=5).axes
    assert model.sample_latents(em.params, 3)[site.name].shape[0] == 3
    assert (
        len(model.pointwise_log_likelihood(em.params))
        == model.reading.plates[next(iter(site.plates))].size
    )
    assert len(experiment(model, em.params, 3, methods=["em", "mle"]).summary())
    assert len(calibrate(model, 3, 30, 30, 2).uniformity())


@pytest.mark.slow
def test_the_number_of_factors_is_chosen():
    """Four columns hold one factor and noise; each further factor has fewer degrees of freedom."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) * [1.0, 0.8, 0.9, 0.7, 1.1] + 0.5 * rng.normal(size=(200, 5))
    found = find_model("probabilistic_pca")
    chosen = select(found.program, x, L=range(1, 4), starts=2, **found.options)
    assert chosen.table["parameters"].tolist() == [11, 15, 18]
    assert chosen.chosen("BIC") == "L=1 em"
