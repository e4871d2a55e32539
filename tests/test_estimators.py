"""EM, MLE, MAP and NUTS: textbook trajectories, agreement, ascent, honest statuses."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.contrib.control_flow import scan
from scipy import stats

from pp_mlem import Model, compare, fit_em, fit_map, fit_mle, fit_nuts, load
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.estimate import point
from pp_mlem.estimate.drivers import driver_for
from pp_mlem.estimate.lbfgs import LBFGS
from pp_mlem.estimate.nuts import of_chains
from pp_mlem.estimate.starts import starting_vectors
from pp_mlem.fit.datatree import OF_A_POINT
from pp_mlem.show.catalogue import find_model


@pytest.fixture(scope="module")
def linkage():
    shelf = find_model("linkage")
    return Model(shelf.program, **shelf.data())


def test_linkage_trajectory_is_the_textbook_one(linkage):
    fit = fit_em(
        linkage, init={"t": 0.5}, accelerate=False, polish=False, max_iter=9, tol=1e-13, trace=True
    )
    expected = [
        0.5, 0.608247423, 0.624321051, 0.626488879, 0.626777323,
        0.626815632, 0.626820719, 0.626821395, 0.626821484,
    ]  # fmt: skip
    found = [float(p["t"]) for p in fit.trace]
    np.testing.assert_allclose(found, expected, atol=1.5e-9)
    limit = 0.6268214978709825
    rates = (np.array(found[1:]) - limit) / (np.array(found[:-1]) - limit)
    assert rates[-1] == pytest.approx(0.1328, abs=5e-5)
    assert np.all(np.diff(fit.history) > 0) and fit.status == "max_iter"


def test_linkage_standard_error(linkage):
    fit = fit_em(linkage, starts=1)
    assert fit.converged
    assert fit.params["t"] == pytest.approx(0.626821498, abs=5e-9)
    assert fit.standard_errors()["t"] == pytest.approx(0.051467349, abs=1e-7)


def test_galaxies_interior_maximum(galaxies, galaxies_em):
    fit = galaxies_em
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-203.1792, abs=2e-4)
    assert fit.n_parameters == 8
    assert fit.bic == pytest.approx(441.6122, abs=4e-4)
    assert np.bincount(fit.decode()["z"]).tolist() == [7, 72, 3]
    np.testing.assert_allclose(fit.params["mu"], [9.710140, 21.400099, 33.044377], atol=1e-4)
    assert "reached by" in fit.story and len(fit.starts) == 20


def test_a_finish_counts_its_steps_not_its_looks(galaxies, galaxies_em):
    """Cut off early, EM leaves a few Newton steps to the finish: fewer than a Hessian takes looks."""
    fit = fit_em(galaxies, init=_nudged(galaxies_em.params), accelerate=False, max_iter=1)
    start = fit.starts.iloc[0]
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(galaxies_em.log_likelihood, abs=1e-8)
    assert start["iterations"] == 1 and 1 < start["newton_steps"] <= fit.n_parameters
    assert fit.iterations == start["iterations"] + start["newton_steps"]


def _nudged(params):
    return {name: value * 1.02 if name != "w" else value for name, value in params.items()}


@pytest.mark.parametrize("accelerate", [True, False])
def test_a_loose_tolerance_ends_early_and_tells_the_gradient_there(galaxies, accelerate):
    plain = {"starts": 3, "seed": 1, "polish": False, "accelerate": accelerate}
    loose = fit_em(galaxies, tol=5e-3, **plain)
    tight = fit_em(galaxies, tol=1e-7, max_iter=20000, **plain)
    assert set(loose.starts["status"]) == set(tight.starts["status"]) == {"converged"}
    assert loose.starts["iterations"].sum() < 0.8 * tight.starts["iterations"].sum()
    assert loose.log_likelihood == pytest.approx(tight.log_likelihood, abs=82 * 5e-3**2)
    assert (loose.starts["gradient"] <= 5e-3).all()
    with jax.enable_x64(True):
        slopes = quick_jit(jax.grad(galaxies.target().value))(jnp.asarray(loose.vector))
    ended = int(loose.starts["objective"].argmax())
    assert loose.starts["gradient"][ended] == pytest.approx(np.abs(slopes).max() / 82, rel=1e-4)


def test_same_seed_same_result(galaxies, galaxies_em):
    again = fit_em(galaxies, starts=20, seed=0)
    np.testing.assert_array_equal(again.vector, galaxies_em.vector)


def test_spurious_and_collapsed_starts_never_win(galaxies, galaxies_em):
    """Started on the near-duplicate pair and on one galaxy, EM ends where the rule sees it."""
    pair = {"w": [0.02, 0.9, 0.08], "mu": [22.7465, 21.0, 9.7], "sigma": [0.001, 4.0, 0.4]}
    fit = fit_em(galaxies, init=pair)
    assert fit.status == "spurious" and "effective rows" in fit.status_note
    assert fit.log_likelihood < galaxies_em.log_likelihood
    point = {"w": [0.01, 0.91, 0.08], "mu": [16.084, 21.0, 9.7], "sigma": [1e-3, 4.0, 0.4]}
    fit = fit_em(galaxies, init=point)
    assert fit.status == "collapsed" and not fit.converged


@pytest.mark.parametrize("options", [{}, {"accelerate": False}, {"objective": "map"}])
def test_em_ascends_from_every_start(galaxies, options):
    fit = fit_em(galaxies, starts=6, seed=5, **options)
    for history in fit.histories:
        assert np.all(np.diff(history) > -1e-9)
    assert not set(fit.starts["status"]) & {"decreased", "not_finite"}


def test_em_and_mle_agree_from_the_same_start(galaxies, galaxies_em):
    init = {"w": [0.1, 0.8, 0.1], "mu": [10.0, 21.0, 32.0], "sigma": [1.0, 2.0, 1.0]}
    em, mle = fit_em(galaxies, init=init), fit_mle(galaxies, init=init)
    assert em.converged and mle.converged
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-6)
    np.testing.assert_allclose(em.estimates(), mle.estimates(), atol=1e-5)


def test_map_is_the_mode_in_the_constrained_space():
    x = np.array([1, 1, 1, 0, 1])

    def program(x):
        p = numpyro.sample("p", dist.Beta(3.0, 2.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Bernoulli(p), obs=x)

    model = Model(program, x)
    for fit in (fit_map(model), fit_em(model, objective="map")):
        assert fit.params["p"] == pytest.approx((4 + 2) / (5 + 3), abs=1e-7)
    assert fit_mle(model).params["p"] == pytest.approx(0.8, abs=1e-7)


def test_boundary_is_told_and_has_no_standard_error():
    def program(x, y):
        p = numpyro.sample("p", dist.Beta(1, 1))
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Bernoulli(p), obs=x)
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = fit_em(Model(program, np.zeros(8, int), np.arange(8.0)))
    assert fit.status == "boundary" and not fit.converged
    table = fit.summary()
    assert np.isnan(table.loc["p", "std err"]) and "boundary" in table.loc["p", "note"]
    assert table.loc["mu", "std err"] == pytest.approx(1 / np.sqrt(8), rel=1e-8)


def test_unidentified_sum_is_told():
    def program(x):
        a = numpyro.sample("a", dist.Normal(0, 5))
        b = numpyro.sample("b", dist.Normal(0, 5))
        numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    fit = fit_em(Model(program, np.arange(6.0)))
    table = fit.summary()
    assert table["std err"].isna().all()
    assert "not identified" in table.loc["a", "note"] and "b" in table.loc["a", "note"]


def test_out_of_iterations_returns_the_best_point(galaxies):
    fit = fit_em(galaxies, starts=1, max_iter=3, polish=False)
    assert fit.status == "max_iter" and not fit.converged
    assert np.isfinite(fit.log_likelihood)
    assert fit.log_likelihood >= fit.history.max() - 1e-9
    assert fit.summary()["std err"].isna().all() and fit.summary()["note"].all()


def test_interrupt_returns_what_there_is(galaxies, monkeypatch):
    import pp_mlem.base.progress

    def interrupt(self, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pp_mlem.base.progress.Progress, "update", interrupt)
    fit = fit_em(galaxies, starts=3)
    assert fit.status == "interrupted" and np.isfinite(fit.log_likelihood)


def test_fixed_parameters_stay(galaxies):
    fit = fit_em(galaxies, fixed={"sigma": [0.5, 2.0, 1.0]}, starts=4)
    np.testing.assert_array_equal(fit.params["sigma"], [0.5, 2.0, 1.0])
    assert fit.n_parameters == 5 and "sigma[0]" not in fit.summary().index


def test_covariances_against_statsmodels():
    import statsmodels.api as sm

    shelf = find_model("logistic_regression")
    data = shelf.data()
    fit = fit_em(Model(shelf.program, **data))
    other = sm.Logit(data["y"], data["x"]).fit(disp=0)
    np.testing.assert_allclose(fit.params["beta"], other.params, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance(), other.cov_params(), rtol=1e-6)
    robust = sm.Logit(data["y"], data["x"]).fit(disp=0, cov_type="HC0")
    np.testing.assert_allclose(fit.covariance("sandwich"), robust.cov_params(), rtol=1e-5)


def test_diagnostics_of_chains_that_stand_still():
    """A constant has none; chains that stand still apart have an R-hat of infinity, without a raw warning."""
    import arviz_stats

    still = np.repeat([[0.0], [1.0]], 8, axis=1)
    assert np.isnan(of_chains(arviz_stats.rhat, np.zeros((2, 8))))
    assert of_chains(arviz_stats.rhat, still) == np.inf


def test_nuts_and_comparison(galaxies, galaxies_em, small_nuts, tmp_path):
    nuts = small_nuts
    assert nuts.draws["mu"].shape == (2, 300, 3)
    assert abs(nuts.params["mu"][1] - 21.36) < 0.2 and nuts.diagnostics["max_r_hat"] < 1.2
    assert np.all(nuts.draws["mu"][..., 0] < nuts.draws["mu"][..., 1])
    found = compare({"EM": galaxies_em, "NUTS": nuts})
    assert list(found.scores.index) == ["EM", "NUTS"]
    assert np.isfinite(found.scores.loc["EM", "elpd_loo"])
    assert abs(found.scores["elpd_loo"].diff().iloc[-1]) < 5
    few = fit_nuts(galaxies, chains=2, warmup=300, draws=20, seed=1)
    scores = compare({"EM": galaxies_em, "NUTS": few}).scores
    assert np.isnan(scores.loc["NUTS", "elpd_loo"])  # 40 draws: one k in three is bad
    assert "Pareto k above 0.38" in scores.loc["NUTS", "elpd_note"]
    assert "Scores" in repr(found) and found.estimates.shape == (9, 4)
    found.plot().savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize("which", ["em", "nuts"])
def test_save_and_load(galaxies, galaxies_em, small_nuts, tmp_path, which):
    fit = galaxies_em if which == "em" else small_nuts
    path = fit.save(tmp_path / "fit.nc")
    again = load(path)
    assert again.status == fit.status and again.log_likelihood == fit.log_likelihood
    np.testing.assert_allclose(again.summary().iloc[:, :4], fit.summary().iloc[:, :4])
    for name, value in fit.params.items():
        np.testing.assert_array_equal(again.params[name], value)
    with pytest.raises(ValueError, match="load\\(path, model="):
        again.decode()
    whole = load(path, model=galaxies)
    np.testing.assert_array_equal(whole.decode()["z"], fit.decode()["z"])
    assert "log_likelihood" not in again.to_datatree().children
    tree, group = whole.to_datatree(), {"em": OF_A_POINT, "nuts": "log_likelihood"}[which]
    assert tree[group]["x"].shape[-1] == 82
    tree_of_file = load(fit.save(path, log_likelihood=True)).to_datatree()
    xr.testing.assert_allclose(tree_of_file[group].ds, tree[group].ds)


def test_predict_on_new_data(galaxies_em):
    new = np.array([10.0, 20.0, 33.0, 21.0])
    assert galaxies_em.predict(new, K=3)["z"].tolist() == [0, 1, 2, 1]
    probabilities = galaxies_em.predict_proba(new, K=3)["z"]
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)


def test_posterior_of_a_conjugate_model():
    x = np.array([1, 1, 1, 0, 1, 0, 1, 1])

    def program(x):
        p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        numpyro.sample("x", dist.Bernoulli(p), obs=x)

    fit = fit_nuts(Model(program, x), chains=2, warmup=500, draws=2000, seed=0)
    exact = dist.Beta(8.0, 4.0)
    assert fit.params["p"] == pytest.approx(8 / 12, abs=0.01)
    assert fit.draws["p"].std() == pytest.approx(float(jnp.sqrt(exact.variance)), abs=0.01)
    assert fit.converged


def test_one_chain():
    model = Model(find_model("normal").program, **find_model("normal").data())
    fit = fit_nuts(model, chains=1, warmup=100, draws=50)
    assert fit.draws["mu"].shape == (1, 50)


def test_badly_scaled_covariates_of_a_binomial_regression():
    """Linear predictors of 1e5 at random starts saturate every probability; NumPyro's density has
    no derivative in logits at zero."""
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(80), rng.normal(5e4, 2e4, 80), rng.normal(300, 50, 80)])
    n = np.full(80, 200)
    y = rng.binomial(n, 1 / (1 + np.exp(-(X @ [1.0, -3e-5, 2e-3]))))

    def program(X, y, n):
        b = numpyro.sample("b", dist.Normal(0, 50).expand([3]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Binomial(n, logits=X @ b), obs=y)

    fit = fit_em(Model(program, X, y, n))
    theirs = sm.GLM(np.column_stack([y, n - y]), X, family=sm.families.Binomial()).fit(tol=1e-12)
    np.testing.assert_allclose(fit.params["b"], theirs.params, rtol=1e-5)


def test_rounding_errors_never_win():
    """At 1e15 degrees of freedom the density of Student's t, written by hand, is noise, sometimes
    far too high; that of the site is a Normal's."""
    x = np.random.default_rng(0).normal(size=400)

    def program(x, by_hand):
        nu = numpyro.sample("nu", dist.LogNormal(2, 1))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        with numpyro.plate("rows", len(x)):
            if by_hand:
                ratio = jax.lax.lgamma(nu / 2 + 0.5) - jax.lax.lgamma(nu / 2)
                square = jnp.log1p((x / s) ** 2 / nu)
                scale = 0.5 * jnp.log(nu * jnp.pi) + jnp.log(s)
                numpyro.factor("x", ratio - scale - (nu + 1) / 2 * square)
            else:
                numpyro.sample("x", dist.StudentT(nu, 0.0, s), obs=x)

    options = dict(init={"nu": 1e15, "s": 1.0}, polish=False, max_iter=1)
    fit = fit_em(Model(program, x, True), **options)
    assert fit.status == "not_finite" and "rounding" in fit.status_note
    fit = fit_em(Model(program, x, False), **options)
    normal = stats.norm.logpdf(x, 0, float(fit.params["s"])).sum()
    assert fit.log_likelihood == pytest.approx(normal, abs=1e-6)


@pytest.mark.slow
def test_the_loop_on_the_host_and_the_compiled_one_agree():
    """Looks and steps in one compiled loop, as on an accelerator, give what the host's loop gives."""
    from pp_mlem.base.compiling import Effort
    from pp_mlem.base.precision import working_precision
    from pp_mlem.estimate.lbfgs import LBFGS
    from pp_mlem.estimate.loop import Driver
    from pp_mlem.estimate.squarem import Squarem
    from pp_mlem.estimate.starts import starting_vectors

    shelf = find_model("galaxies")
    model = Model(shelf.program, **shelf.data())
    with working_precision(model.dtype):
        target = model.target()
        vectors = np.asarray(starting_vectors(model, target, 3, 0, "kmeans++"))
        for algorithm in (
            Squarem(target.units, 1e-8, 1e-3, 30, 60),
            LBFGS(target.units, 1e-8, 1e-3, 100),
        ):
            runs = [
                Driver(target, algorithm, Effort.QUICK, 300, 3, fused=fused).run(
                    algorithm.begin(vectors)
                )
                for fused in (False, True)
            ]
            host, compiled = (run.state for run in runs)
            np.testing.assert_array_equal(host.status, compiled.status)
            np.testing.assert_allclose(host.value, compiled.value, rtol=1e-10)
            for mine, theirs in zip(runs[0].history, runs[1].history, strict=True):
                np.testing.assert_allclose(mine[:20], theirs[:20], rtol=1e-6)


def test_starts_at_edges_come_to_rest_without_exact_second_derivatives(monkeypatch):
    """A start whose first and last states have become one ends with probabilities of zero in the first
    step and in a transition, and with a slope just above the tolerance."""

    def hidden_chain(x):
        first = numpyro.sample("first", dist.Dirichlet(jnp.ones(3)))
        moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones((3, 3))))
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([3]))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1).expand([3]))

        def step(z, x):
            z = numpyro.sample("z", dist.Categorical(moves[z]))
            numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)
            return z, None

        z = numpyro.sample("z0", dist.Categorical(first))
        numpyro.sample("x0", dist.Normal(mu[z], sigma[z]), obs=x[0])
        scan(step, z, x[1:])

    rng, states = np.random.default_rng(0), np.zeros(1000, int)
    for t in range(1, len(states)):
        states[t] = states[t - 1] if rng.random() < 0.9 else rng.integers(3)
    model = Model(hidden_chain, rng.normal(np.array([-2.0, 0.0, 3.0])[states], 1.0))

    def refuse(*_):
        raise AssertionError("exact second derivatives are compiled")

    monkeypatch.setattr("pp_mlem.estimate.finish.newton_look", refuse)
    fit = fit_em(model, starts=5, accelerate=False, progress=False)
    assert set(fit.starts["status"]) == {"boundary"} and fit.starts["newton_steps"].max() > 1
    assert fit.starts["gradient"].max() <= 1e-8


def two_kinds_of_labels(a, b):
    with numpyro.plate("values", 2):
        left = numpyro.sample("left", dist.Normal(0, 10))
        right = numpyro.sample("right", dist.Normal(0, 10).expand([b.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(a)):
        y = numpyro.sample("y", dist.Bernoulli(0.5))
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("a", dist.Normal(left[y], 1.0), obs=a)
        numpyro.sample("b", dist.Normal(right[z], 1.0).to_event(1), obs=b)


def starts_of(model, starts, kind):
    with working_precision(model.dtype):
        target = model.target()
        return [target.space.to_params(v) for v in starting_vectors(model, target, starts, 0, kind)]


def test_clusters_are_sought_for_every_latent_and_in_every_column():
    """The second latent shows in the last of 100 columns alone."""
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, (2, 400))
    b = np.full((400, 100), 0.5)
    b[:, -1] += 40.0 * z
    model = Model(two_kinds_of_labels, 30.0 * y + rng.normal(size=400), b)
    params = starts_of(model, 4, "kmeans++")
    assert all(np.ptp(np.asarray(p["left"])) > 10.0 for p in params)
    assert all(np.ptp(np.asarray(p["right"])[:, -1]) > 10.0 for p in params)


def test_starts_on_some_of_many_rows_weigh_them():
    x = np.zeros(25_000)
    x[::2] = 1000.0

    def weighed(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)), numpyro.handlers.scale(scale=w):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    model = Model(weighed, x, np.where(x > 0, 0.01, 1.0))
    for params in starts_of(model, 3, "random"):
        np.testing.assert_allclose(params["mu"], 10.0 / 1.01, atol=2.0)


def test_quasi_newton_steps_come_to_rest_where_components_overlap():
    """Nearly all is missing information, so EM takes thousands of steps; and each end is a maximum."""
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(-0.8, 1.0, 200), rng.normal(0.8, 1.0, 200)])

    def overlapping(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], sigma), obs=x)

    model = Model(overlapping, x)
    start = {"w": [0.5, 0.5], "mu": [-0.1, 0.2], "sigma": 1.5}
    fit = fit_em(model, init=start)
    plain = fit_em(model, init=start, accelerate=False, polish=False, max_iter=20000)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-7)
    assert fit.starts["iterations"][0] < plain.starts["iterations"][0] / 10
    assert fit.starts["newton_steps"][0] == 0
    assert np.linalg.eigvalsh(fit.covariance().to_numpy()[1:, 1:]).min() > 0


def test_second_derivatives_are_for_starts_that_tell_something_new(galaxies, galaxies_em):
    """A start at an optimum that another has converged to gets no more digits; one elsewhere does, and so does
    every start where none has converged."""
    with working_precision(galaxies.dtype):
        target = galaxies.target()
        driver = driver_for(target, LBFGS(target.units, 1e-8, -np.inf, 0), 4, 100)
        best, value = galaxies_em.vector, galaxies_em.log_likelihood
        points = np.stack([best, best, best + 0.05, best])
        flat, done = int(Status.FLAT), int(Status.CONVERGED)
        values = np.array([value, value - 1e-7, value - 3.0, -np.inf])
        ends = SimpleNamespace(
            points=points, values=values, status=np.array([done, flat, flat, flat])
        )
        waiting = ends.status == flat
        assert point._in_vain(driver, ends, waiting).tolist() == [False, True, False, False]
        ends.status[0] = flat
        assert not point._in_vain(driver, ends, waiting).any()


def test_clusters_are_in_order_where_the_program_orders_its_components():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(m, 0.5, 50) for m in (4.0, -4.0, 0.0)])

    def ordered(x):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("x", dist.Normal(mu[z], 0.5), obs=x)

    fit = fit_em(Model(ordered, x), starts=6, init="kmeans++", seed=1)
    best = fit.starts["objective"].max()
    assert (fit.starts["objective"] > best - 1e-6).sum() >= 4
    np.testing.assert_allclose(fit.params["mu"], [-4, 0, 4], atol=0.3)


def test_nuts_warms_up_with_short_trees():
    """Of many rows: the first trees are no deeper than those of the draws."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 3.0]) + rng.normal(size=3000)

    def regression(x, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([4]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ b, sigma), obs=y)

    fit = fit_nuts(Model(regression, x, y), chains=2, warmup=10, draws=20, progress=False)
    assert fit.sample_stats["n_steps"].max() <= 31
    draws = fit.draws["b"].reshape(-1, 4)
    np.testing.assert_allclose(draws.mean(0), [1.0, -2.0, 0.5, 3.0], atol=0.1)
