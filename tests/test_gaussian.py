"""Real latents in plates, against dense algebra on NumPyro's own densities."""

from __future__ import annotations

import gaussian_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from pp_mlem import Model, fit_em, fit_mle, fit_nuts, load
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.show.catalogue import find_model
from pp_mlem.target.target import Target

CASES = [f"{program.__name__} {i}" for i, (program, _, _) in enumerate(programs.PROGRAMS)]


@pytest.fixture(scope="module")
def read():
    """Each model once, and parameters inside of their supports."""
    made = {}

    def get(case):
        if case not in made:
            program, data, options = programs.PROGRAMS[int(case.split()[-1])]
            model = Model(program, *data, **options)
            with jax.enable_x64(True):
                params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}
            made[case] = model, params
        return made[case]

    return get


@pytest.mark.parametrize("case", CASES)
def test_log_z_is_that_of_the_joint_gaussian(case, read):
    model, params = read(case)
    with jax.enable_x64(True):
        expected = programs.dense(model, params)[0]
    assert model.log_likelihood(params) == pytest.approx(float(expected), rel=1e-10)
    units = model.pointwise_log_likelihood(params)
    assert units.sum() == pytest.approx(float(expected), rel=1e-10)


def stacked(model, arrays):
    return np.concatenate([np.asarray(arrays[s.name]).ravel() for s in model.reading.reals])


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_the_joint_gaussian(case, read):
    model, params = read(case)
    if "weighed" in case:  # a posterior counts a unit's latents once
        pytest.skip("weights are no part of a posterior")
    with jax.enable_x64(True):
        _, mean, covariance, _ = programs.dense(model, params)
    told = model.posterior(params)
    reals = {s.name: told[s.name] for s in model.reading.reals}
    found = stacked(model, {n: m.mean for n, m in reals.items()})
    np.testing.assert_allclose(found, mean, atol=1e-9)
    found = stacked(model, {n: m.sd for n, m in reals.items()})
    np.testing.assert_allclose(found, np.sqrt(np.diagonal(covariance)), atol=1e-9)
    if not model.reading.latents:
        np.testing.assert_allclose(stacked(model, model.decode(params)), mean, atol=1e-9)


@pytest.mark.parametrize(
    "case", ["random_intercepts 0", "nested 1", "slopes 2", "mixture_of_factors 6", "crossed 11"]
)
def test_draws_are_joint(case, read):
    model, params = read(case)
    with jax.enable_x64(True):
        _, mean, covariance, _ = programs.dense(model, params)
    count = 3000
    drawn = model.sample_latents(params, draws=count, seed=4)
    names = [s.name for s in model.reading.reals]
    rows = np.concatenate([drawn[n].reshape(count, -1) for n in names], 1)
    spread = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(rows.mean(0), mean, atol=5 * spread.max() / np.sqrt(count))
    outer = spread[:, None] * spread
    np.testing.assert_allclose(np.cov(rows.T) / outer, covariance / outer, atol=6 / np.sqrt(count))


@pytest.mark.parametrize("case", CASES)
def test_em_ascends_by_the_gradient_of_log_z(case, read):
    model, _ = read(case)
    with working_precision(model.dtype):
        target = model.target()
        vector = 0.3 * np.random.default_rng(0).normal(size=target.space.size)
        value, gradient = target.climb(vector)
        new, same, expected = target.compiled(Target.em_step)(vector)
        assert float(same) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(expected, gradient, rtol=1e-9, atol=1e-9 * abs(gradient).max())
        assert target.climb(np.asarray(new))[0] > value
        step = 1e-5 * np.eye(len(vector))[0]
        slope = (target.climb(vector + step)[0] - target.climb(vector - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[0], rel=1e-5, abs=1e-5)


def one_latent(entry):
    """A program whose latents u of five groups enter the observations by `entry(u, x)`: a distribution."""

    def program(x, group):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", entry(u, group), obs=x)

    return program


REFUSED = {
    "squared": (lambda u, g: dist.Normal(u[g] ** 2, 1.0), "'x' is not affine"),
    "in the scale": (lambda u, g: dist.Normal(0.0, jnp.exp(u[g])), "enters 'x', by its scale"),
    "under a Poisson": (lambda u, g: dist.Poisson(jnp.exp(u[g])), "enters 'x', a Poisson"),
    "under a logit": (lambda u, g: dist.Bernoulli(logits=u[g]), "enters 'x', a Bernoulli"),
    "under a StudentT": (lambda u, g: dist.StudentT(3.0, u[g], 1.0), "enters 'x', a StudentT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_affine_is_refused(name):
    entry, told = REFUSED[name]
    data = programs.GROUP.astype(float) if "Poisson" in name else programs.Y
    data = (programs.Y > 0).astype(int) if "logit" in name else data
    with pytest.raises(ValueError, match=told) as error:
        Model(one_latent(entry), data, programs.GROUP)
    if "units" not in name:
        assert 'parameters={"u"}' in str(error.value)


def test_laws_and_places_of_no_real_latent_are_refused():
    def gamma(x):
        rate = numpyro.sample("rate", dist.HalfNormal(1))
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.Gamma(2.0, rate))
            numpyro.sample("x", dist.Normal(u, 1.0), obs=x)

    def components(x):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("components", 2):
            mu = numpyro.sample("mu", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    for program, told in ((gamma, "Gamma"), (components, "'mu'")):
        with pytest.raises(ValueError, match=told):
            Model(program, programs.Y)


def test_more_crossed_latents_than_a_matrix_holds_are_refused_with_the_size():
    def program(y, a, b):
        tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
        with numpyro.plate("plates", 9000):
            u = numpyro.sample("u", dist.Normal(0.0, tau[0]))
        with numpyro.plate("samples", 5000):
            v = numpyro.sample("v", dist.Normal(0.0, tau[1]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(u[a] + v[b], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'u', 'v' have 14000 numbers together \(u: 9000 x 1"):
        Model(program, programs.Y, programs.GROUP, np.arange(9) % 3)


def test_a_variance_of_zero_is_at_the_boundary():
    """Rubin's eight schools: by maximum likelihood there is no difference between them."""
    shelf = find_model("eight_schools")
    model = Model(shelf.program, **shelf.data())
    data = shelf.data()
    pooled = np.average(data["y"], weights=data["s"] ** -2)
    best = stats.norm(pooled, data["s"]).logpdf(data["y"]).sum()
    for fit in (fit_mle(model), fit_em(model)):
        assert fit.status == "boundary" and "tau" in fit.status_note
        assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
        assert fit.params["mu"] == pytest.approx(pooled, abs=1e-4)
        assert np.isnan(fit.standard_errors()["tau"])
        assert fit.standard_errors()["mu"] == pytest.approx(
            (data["s"] ** -2).sum() ** -0.5, rel=1e-3
        )


def test_the_posterior_with_the_latents_integrated_out(tmp_path):
    """Against the posterior of tau on a grid, and a fit that is stored and read."""
    shelf = find_model("eight_schools")
    model = Model(shelf.program, **shelf.data())
    fit = fit_nuts(model, chains=2, warmup=300, draws=500, seed=1, progress=False)
    mu, tau = np.meshgrid(np.linspace(-20, 30, 201), np.linspace(1e-3, 60, 400), indexing="ij")
    y, s = shelf.data()["y"], shelf.data()["s"]
    spread = np.sqrt(tau[..., None] ** 2 + s**2)
    logs = stats.norm(mu[..., None], spread).logpdf(y).sum(-1)
    logs += stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(0, 5).logpdf(tau)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    error = 4 * np.sqrt((weights * tau**2).sum()) / np.sqrt(fit.diagnostics["min_ess"])
    assert fit.params["tau"] == pytest.approx((weights * tau).sum(), abs=error)
    assert fit.params["mu"] == pytest.approx((weights * mu).sum(), abs=error)
    theta = fit.posterior()["theta"]
    assert theta.mean.shape == theta.sd.shape == (8,)
    fit.save(tmp_path / "fit.nc")
    again = load(tmp_path / "fit.nc", model=model)
    np.testing.assert_allclose(again.posterior()["theta"].mean, theta.mean, rtol=1e-9)


def test_loadings_are_not_identified_and_the_rest_is():
    shelf = find_model("probabilistic_pca")
    model = Model(shelf.program, **shelf.data(), **shelf.options)
    fit = fit_mle(model, starts=2)
    errors = fit.standard_errors()
    loadings = [name for name in errors.index if name.startswith("W")]
    assert errors[loadings].isna().all() and errors.drop(loadings).notna().all()
    assert "not identified" in fit.summary()["note"]["W[0,0]"]
    values = np.linalg.eigvalsh(np.cov(model.arguments.dynamic[0].T, bias=True))
    assert fit.params["sigma"] ** 2 == pytest.approx(values[:2].mean(), rel=1e-7)


def test_starts_of_a_mixture_with_real_latents():
    """Clusters assign the components at the start, whatever the base parameters say of the rows."""
    rng = np.random.default_rng(3)
    z = rng.integers(0, 3, 300)
    centres = np.array([[0.0, 0, 0, 0], [8, 8, 0, 0], [0, 0, 8, 8]])
    x = centres[z] + rng.normal(size=(300, 1)) * [1.0, 1, 1, 1] + 0.8 * rng.normal(size=(300, 4))
    fit = fit_em(Model(programs.mixture_of_factors, x, latents={"u"}), starts=4, seed=0)
    labels = fit.decode()["z"]
    assert all(len(np.unique(labels[z == k])) == 1 for k in range(3))
    assert fit.converged


def test_data_drawn_anew_and_fitted_in_lanes():
    shelf = find_model("random_effects")
    model = Model(shelf.program, **shelf.data())
    fit = fit_mle(model)
    fit.bootstrap(20, seed=0)
    errors = np.sqrt(np.diag(fit.covariance("bootstrap")))
    assert np.all(np.isfinite(errors)) and np.all(errors > 0)
    again = model.redraw(fit.params, seed=1)
    assert again.log_likelihood(fit.params) != model.log_likelihood(fit.params)


def test_a_flat_law_of_coefficients_gives_the_restricted_likelihood():
    """Against statsmodels, and the whole Gaussian with the coefficients integrated out by hand."""

    def program(y, x, group):
        beta = numpyro.sample("beta", dist.ImproperUniform(real_vector, (), (2,)))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("groups", 6):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x + u[group], sigma), obs=y)

    real_vector = dist.constraints.real_vector
    rng = np.random.default_rng(2)
    group, x = np.arange(60) % 6, rng.normal(size=60)
    y = 1.0 + 2.0 * x + rng.normal(size=6)[group] + 0.5 * rng.normal(size=60)
    model = Model(program, y, x, group, latents={"beta"})
    design = np.column_stack([np.ones(60), x])
    V = 0.6**2 * (group[:, None] == group) + 0.8**2 * np.eye(60)
    precision = np.linalg.inv(V)
    bend = design.T @ precision @ design
    mean = np.linalg.solve(bend, design.T @ precision @ y)
    left = y - design @ mean
    value = -0.5 * (left @ precision @ left + np.linalg.slogdet(V)[1] + np.linalg.slogdet(bend)[1])
    value -= 58 / 2 * np.log(2 * np.pi)
    params = {"tau": 0.6, "sigma": 0.8}
    assert model.log_likelihood(params) == pytest.approx(value, rel=1e-10)
    told = model.posterior(params)["beta"]
    np.testing.assert_allclose(told.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(told.covariance, np.linalg.inv(bend), rtol=1e-8)
    theirs = MixedLM(y, design, group).fit(reml=True)
    fit = fit_mle(model)
    assert fit.log_likelihood == pytest.approx(theirs.llf, abs=1e-6)
    assert fit.params["sigma"] ** 2 == pytest.approx(theirs.scale, rel=1e-4)
    assert fit_em(model).log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-9)


def test_classification_is_of_finite_latents():
    shelf = find_model("random_effects")
    fit = fit_mle(Model(shelf.program, **shelf.data()))
    assert fit.icl == pytest.approx(fit.bic, rel=1e-12)
    mixed = Model(programs.mixture_of_factors, programs.WIDE, latents={"u"})
    with working_precision(mixed.dtype):
        params = {k: np.asarray(v) for k, v in neutral_parameters(mixed.reading, 3).items()}
    chosen = mixed.decode(params)["z"]
    known = Model(programs.mixture_of_factors, programs.WIDE, latents={"u"}, observe={"z": chosen})
    assert mixed.classification_log_likelihood(params) == pytest.approx(
        known.log_likelihood(params), rel=1e-10
    )


def test_normal_equations_are_the_maximum_of_the_expected_likelihood():
    model = Model(*[programs.slopes, programs.Y, programs.X, programs.GROUP])
    with working_precision(model.dtype):
        target = model.target()
        vector = 0.2 * np.random.default_rng(1).normal(size=target.space.size)
        kinds = {b.method for b in target.problem.blocks}
        statistics = target.expectation(vector)[1]
        step = quick_jit(target.maximise)
        for _ in range(60):  # in turn, until both are at rest
            vector = step(vector, statistics)
        slope = jax.grad(target.expected)(vector, statistics)
    assert "closed, in turn" in kinds
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_masks_that_no_quadratic_knows_are_refused():
    def over_the_latent(x, group, seen):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4), numpyro.handlers.mask(mask=seen):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(u[group], 1.0), obs=x)

    def by_a_label(x):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            u = numpyro.sample("u", dist.Normal(0.0, tau))
            with numpyro.handlers.mask(mask=z == 1):
                numpyro.sample("x", dist.Normal(u, 1.0), obs=x)

    with pytest.raises(ValueError, match="mask hides latent 'u' where 'x'.*the same mask"):
        Model(over_the_latent, programs.Y, programs.GROUP, np.array([True, True, False, True]))
    with pytest.raises(ValueError, match="whose mask depends on z"):
        Model(by_a_label, programs.Y)
