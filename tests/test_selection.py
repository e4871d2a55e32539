"""Leave-one-out predictive densities, the growth of a selection, and Ctrl-C that Python loses."""

from __future__ import annotations

import os
import signal
import warnings

import arviz_base
import arviz_stats
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

import pp_mlem.comparison.experiment as EXPERIMENT
import pp_mlem.comparison.growth as GROWTH
import pp_mlem.comparison.scores as SCORES
from pp_mlem import Model, compare, experiment, fit_em, fit_laplace, fit_mle, load, select
from pp_mlem.base.files import write_table
from pp_mlem.base.interrupts import watching
from pp_mlem.comparison.psis import good_shape, leave_one_out, smoothed, tail_length
from pp_mlem.estimate.estimators import fit_by
from pp_mlem.estimate.splits import split_logs
from pp_mlem.show.catalogue import find_model

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 1.5, 300)


def normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, sigma), obs=x)


def regression(x, y):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([x.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ b, sigma), obs=y)


# --- Pareto-smoothed importance sampling ----------------------------------------------------


def heavy(units, draws):
    """Log-likelihoods with tails from light to hopeless."""
    size = RNG.gamma(1.0, 2.0, (units, 1))
    return -size * RNG.standard_normal((units, draws)) ** 2 + 0.1 * RNG.standard_t(
        3, (units, draws)
    )


@pytest.mark.parametrize(("draws", "efficiency"), [(1000, 1.0), (60, 1.0), (4000, 0.4), (777, 1.3)])
def test_many_units_at_once_are_as_arviz_has_them_one_by_one(monkeypatch, draws, efficiency):
    monkeypatch.setattr("pp_mlem.comparison.psis.BLOCK_CELLS", 2**15)  # several blocks
    values = heavy(40, draws)
    weights, shape = arviz_stats.base.array_stats.psislw(values, r_eff=efficiency)
    own = smoothed(-values, tail_length(draws, efficiency))
    np.testing.assert_allclose(own.log_weights, weights, atol=1e-8)
    np.testing.assert_allclose(own.shape, shape, atol=1e-8)
    tree = arviz_base.from_dict(
        {
            "posterior": {"a": RNG.standard_normal((1, draws))},
            "log_likelihood": {"y": values.T[None]},
        }
    )
    log_p, log_q = RNG.standard_normal((2, 1, draws))
    with pytest.warns(UserWarning, match="Pareto"):
        plain = arviz_stats.loo(tree, reff=efficiency, pointwise=True)
        weighed = arviz_stats.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)
    assert good_shape(draws) == plain.good_k
    found = leave_one_out(values.T, None, efficiency)
    np.testing.assert_allclose(found.elpd, plain.elpd_i, atol=1e-8)
    np.testing.assert_allclose(found.cost.sum(), plain.p, atol=1e-8)
    found = leave_one_out(values.T, (log_p - log_q)[0])
    np.testing.assert_allclose(found.elpd, weighed.elpd_i, atol=1e-8)
    np.testing.assert_allclose(found.shape, weighed.pareto_k, atol=1e-8)


def test_units_that_tell_nothing_and_units_that_are_impossible():
    values = np.stack([np.zeros(200), np.full(200, -1.0), RNG.standard_normal(200)])
    values[2, 5] = -np.inf
    found = leave_one_out(values.T)
    assert found.shape[:2].tolist() == [-np.inf, -np.inf] and found.shape[2] == np.inf
    np.testing.assert_allclose(found.elpd[:2], [0.0, -1.0], atol=1e-12)
    assert np.isnan(found.elpd[2])


# --- of fits --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits():
    model = Model(normal, X)
    return {"EM": fit_em(model), "MLE": fit_mle(model), "LAPLACE": fit_laplace(model)}


def test_point_fits_are_weighed_by_the_likelihood(fits):
    tree = fits["EM"].to_datatree()
    tree["log_likelihood"] = xr.DataTree(tree["log_likelihood_asymptotic"].to_dataset())
    stats = tree["sample_stats"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto k of units that cost nothing
        exact = arviz_stats.loo_approximate_posterior(
            tree, stats["log_p"].values, stats["log_q"].values
        )
    scores = compare(fits).scores
    assert scores.loc["EM", "elpd_loo"] == pytest.approx(exact.elpd, abs=1e-8)
    # ArviZ divides the variance by n before 1.0 and by n - 1 after, as we and R's loo do.
    ratio = scores.loc["EM", "se"] / exact.se
    assert min(abs(ratio - 1), abs(ratio - np.sqrt(300 / 299))) < 1e-9
    assert scores.loc["MLE", "elpd_loo"] == pytest.approx(exact.elpd, abs=1e-3)
    # leaving a row out of a normal sample is known without any draws
    left = [np.delete(X, i) for i in range(len(X))]
    t = [(x - o.mean()) / o.std() / np.sqrt(1 + 1 / len(o)) for x, o in zip(X, left, strict=True)]
    plain = sum(
        -0.5 * (v**2 + np.log(2 * np.pi)) - np.log(o.std()) for v, o in zip(t, left, strict=True)
    )
    assert scores.loc["LAPLACE", "elpd_loo"] == pytest.approx(plain, abs=1.0)
    assert not scores["elpd_note"].str.contains("no elpd").any()
    assert compare(fits, loo=False).scores["elpd_loo"].isna().all()


def test_of_many_units_some_are_drawn(fits, monkeypatch):
    whole = SCORES.loo_of(fits["EM"])
    monkeypatch.setattr(SCORES, "MOST_UNITS", 60)
    monkeypatch.setattr(SCORES, "NO_MATTER", 0.1)
    found = SCORES.loo_of(fits["EM"])
    seen = SCORES._of_model(fits["EM"])
    terms = leave_one_out(seen.pointwise, seen.correction).elpd
    # The difference estimator under simple random sampling (Magnusson et al. 2020, equations 7 to 9).
    gaps = terms - seen.at[seen.chosen]
    expected = seen.at.sum() + 300 / 60 * gaps.sum()
    error = 300 * np.sqrt((1 - 60 / 300) * gaps.var(ddof=1) / 60)
    squares = (seen.at**2).sum() + 300 / 60 * (terms**2 - seen.at[seen.chosen] ** 2).sum()
    se = np.sqrt(squares - (expected**2 - error**2) / 300)
    assert found.elpd == pytest.approx(expected, abs=1e-8)
    assert found.se == pytest.approx(se, abs=1e-8)
    assert found.se == pytest.approx(whole.se, rel=0.1)
    assert f"60 of 300 units (sampling error {error:.2g})" in found.note
    assert abs(found.elpd - whole.elpd) < 4 * error < 0.2 * whole.se


def test_elpd_is_blank_where_it_is_noise(tmp_path):
    x = np.column_stack([np.ones(16), RNG.standard_normal((16, 5))])
    y = x @ np.arange(6) + RNG.standard_normal(16) * np.where(np.arange(16) == 3, 30.0, 1.0)
    model = Model(regression, x, y)
    found = compare({"EM": fit_em(model), "MLE": fit_mle(model)})
    assert found.scores["elpd_loo"].isna().all() and found.scores["se"].isna().all()
    assert found.scores["elpd_note"].str.contains("Pareto k above 0.67").all()
    assert "no elpd: " in str(found) and "do not choose by elpd_loo" not in str(found)
    table = write_table(tmp_path / "scores.csv", found.scores, "test").read_text()
    assert "Pareto k above" in table

    def with_degree(x, y, degree):
        regression(x[:, : degree + 1], y)

    chosen = select(with_degree, x, y, degree=[1, 5], loo=True)
    assert np.isnan(chosen.table.loc["degree=5 em", "elpd_loo"])
    assert "Pareto k above" in chosen.table.loc["degree=5 em", "note"]
    assert select(with_degree, x, y, degree=[1, 5]).table["elpd_loo"].isna().all()


def test_files_are_small_and_what_they_lack_is_computed_again(tmp_path):
    model = Model(normal, RNG.normal(2.0, 1.5, 600_000))
    fit = fit_mle(model)
    path = fit.save(tmp_path / "large.nc")
    assert path.stat().st_size < 200_000
    alone, whole = load(path), load(path, model)
    told = compare({"MLE": alone}).scores["elpd_note"]["MLE"]
    assert "not asked for" in told and "load(path, model)" in told
    assert "observed_data" not in alone.to_datatree().children
    assert "left out" in alone.to_datatree().attrs["observed_data"]
    exact, again = SCORES.loo_of(fit), SCORES.loo_of(whole)
    assert again.elpd == pytest.approx(exact.elpd, abs=1e-6) and "10000 of 600000" in again.note


def test_files_that_hold_the_pointwise_log_likelihood(fits, tmp_path):
    for name, fit in fits.items():
        alone = load(fit.save(tmp_path / "fit.nc", log_likelihood=True))
        found, exact = SCORES.loo_of(alone), SCORES.loo_of(fit)
        assert found.elpd == pytest.approx(exact.elpd, abs=1e-8), name


# --- selection ------------------------------------------------------------------------------


def test_responsibilities_that_are_split():
    features = np.array([0.0, 0.1, 5.0, 5.1, 9.0])[:, None]
    posterior = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1.0]])
    together = 0
    for turn in range(8):
        logs = split_logs(posterior, 3, features, turn, np.random.default_rng(turn))
        shares = np.exp(logs)
        np.testing.assert_allclose(shares.sum(1), 1.0)
        assert shares.shape == (5, 3)
        hard = shares.argmax(1)
        if turn % 2 == 0:  # near units stay together, unless the pair was near
            assert hard[4] == 2 and set(hard[:4]) == {0, 1}
            together += hard[0] == hard[1] and hard[2] == hard[3]
        else:
            assert len(set(hard[:4])) == 1
    assert together >= 2
    shares = np.exp(split_logs(posterior[:, ::-1], 3, features, 1, RNG, ordered=True))
    hard = shares.argmax(1)
    assert hard[4] == 2
    means = [features[hard == k].mean() for k in range(3)]
    assert np.all(np.diff(means) > 0)
    unknown = split_logs(np.full((6, 2), np.nan), 3, None, 0, RNG)
    assert np.isfinite(unknown).all()


def test_galaxies_of_four_components():
    """The maximum that 3 of 50 starts find is found from the solution of three components."""
    shelf = find_model("galaxies")
    found = select(shelf.program, **shelf.data(), K=[3, 4], seed=3, progress=False)
    assert found.table["log_likelihood"].tolist() == pytest.approx([-203.1792, -197.4538], abs=1e-3)
    assert found.table["reached"].str.fullmatch(r"\d+ of (10|25)").all()
    starts = found.fits["K=4 em"].starts
    best = int((starts["optimum"] == 1).sum())
    assert found.table.loc["K=4 em", "reached"] == f"{best} of 25"
    assert ("one start only" in found.table.loc["K=4 em", "note"]) == (best == 1)


def test_a_larger_size_is_sought_again_where_it_is_below(monkeypatch, tmp_path):
    shelf = find_model("galaxies")
    seeds = []

    def poor(method, model, **how):
        """Of three components a local optimum, unless it is sought again."""
        seeds.append(how["seed"])
        if len(seeds) == 2:
            how |= {
                "init": {"mu": [9.7, 20.0, 23.0], "sigma": [0.5, 4.0, 4.0], "w": [0.1, 0.45, 0.45]}
            }
            fit = fit_by(method, model, **how)
            return fit.__class__(**{**fit.__dict__, "log_likelihood": fit.log_likelihood - 40})
        return fit_by(method, model, **how)

    monkeypatch.setattr("pp_mlem.comparison.selection.fit_by", poor)
    found = select(shelf.program, **shelf.data(), K=[2, 3], starts=4, out=tmp_path, progress=False)
    assert seeds == [0, 0, GROWTH.ANOTHER]
    assert found.table.loc["K=3 em", "log_likelihood"] == pytest.approx(-203.1792, abs=1e-3)
    assert load(tmp_path / "K=3.em.nc").log_likelihood == pytest.approx(-203.1792, abs=1e-3)
    assert len(found.fits["K=3 em"].starts) == 1 + 8


def test_states_of_a_chain_are_split_too():
    def chain(x, K):
        from numpyro.contrib.control_flow import scan

        P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
        rate = numpyro.sample("rate", dist.Gamma(2, 0.1).expand([K]).to_event(1))

        def step(z, x_t):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
            return z, None

        scan(step, 0, x)

    x = RNG.poisson(np.repeat([3.0, 30.0, 12.0, 3.0], 25))
    fit = fit_em(Model(chain, x, K=2), starts=2)
    split = GROWTH.split_from(fit, Model(chain, x, K=3), 4)
    assert split.count == 4 and split.posterior["z"].shape == (100, 2)
    grown = fit_em(Model(chain, x, K=3), starts=4, init=split)
    assert grown.log_likelihood > fit.log_likelihood + 20
    assert GROWTH.split_from(grown, Model(chain, x, K=2), 4) is None  # nothing grows


# --- Ctrl-C ---------------------------------------------------------------------------------


def press_and_lose():
    """Ctrl-C while Python ignores exceptions."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass


@pytest.fixture
def heard():
    """A process that runs in the background may have been started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_lost_ctrl_c_is_remembered(heard):
    before = signal.getsignal(signal.SIGINT)
    with watching() as watch:
        watch.stop_if_pressed()
        press_and_lose()
        with pytest.raises(KeyboardInterrupt):
            watch.stop_if_pressed()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_study_stops_where_ctrl_c_was_lost(heard, monkeypatch, tmp_path):
    model, truth = Model(normal, X[:40]), {"mu": 1.0, "sigma": 2.0}
    settings = {"out": tmp_path / "study.nc", "starts": 1, "progress": False}
    count = [0]

    def swallowing(*args, **how):
        count[0] += 1
        if count[0] == 3:
            press_and_lose()
        return fit_by(*args, **how)

    monkeypatch.setattr(EXPERIMENT, "fit_by", swallowing)
    with pytest.warns(UserWarning, match="stopped by the user"):
        found = experiment(model, truth, 5, **settings)
    assert found.interrupted and count[0] == 3
    assert np.isfinite(found.results["seconds"]).sum() == 2
    again = experiment(model, truth, 5, **settings)
    assert count[0] == 6 and not again.interrupted  # the cut one was fitted again, the two were not
    assert (
        again.results["estimate"]
        .sel(replicate=slice(0, 1))
        .equals(found.results["estimate"].sel(replicate=slice(0, 1)))
    )
