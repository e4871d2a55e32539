"""What programs write of real latents: laws that are Gaussian under another name, and bad input."""

from __future__ import annotations

import gaussian_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import transforms as maps
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.program.neutral import neutral_parameters

CORRELATED = np.array([[1.0, 0.3], [0.3, 1.0]])
ROOT = np.array([[1.0, 0.0], [0.5, 2.0]])
CHAIN = np.eye(3, k=1) + np.eye(3, k=-1)


def changed(base, *transforms):
    return dist.TransformedDistribution(base, list(transforms))


def standard(size):
    return dist.Normal(jnp.zeros(size), 1.0).to_event(1)


# The law of b, one for each of four groups, at a mean and a scale.
LAWS = {
    "affine": lambda m, t: changed(dist.Normal(0.0, 1.0), maps.AffineTransform(m, t)),
    "affine, twice and turned": lambda m, t: changed(
        dist.Normal(0.5, 2.0), maps.AffineTransform(m, -t), maps.AffineTransform(1.0, 0.5)
    ),
    "affine, of each group its own": lambda m, t: changed(
        dist.Normal(m, 1.0), maps.AffineTransform(jnp.arange(4.0), t * jnp.arange(1.0, 5.0))
    ),
    "affine of an event": lambda m, t: changed(
        standard(2), maps.AffineTransform(jnp.array([1.0, 0.0]) * m, t)
    ),
    "affine of a vector": lambda m, t: changed(
        dist.MultivariateNormal(m * jnp.ones(2), CORRELATED),
        maps.AffineTransform(jnp.ones(2), t * jnp.array([1.0, -2.0])),
    ),
    "by a Cholesky factor": lambda m, t: changed(
        standard(2), maps.LowerCholeskyAffine(m * jnp.ones(2), t * ROOT)
    ),
    "a vector by a Cholesky factor": lambda m, t: changed(
        dist.MultivariateNormal(jnp.ones(2), CORRELATED),
        maps.ComposeTransform(
            [maps.LowerCholeskyAffine(m * jnp.ones(2), t * ROOT), maps.IdentityTransform()]
        ),
    ),  # fmt: skip
    "low rank": lambda m, t: dist.LowRankMultivariateNormal(
        m * jnp.ones(2), t * jnp.array([[1.0], [2.0]]), jnp.array([0.5, 0.7])
    ),
    "random walk": lambda m, t: dist.GaussianRandomWalk(t, 3),
    "neighbours": lambda m, t: dist.CAR(m * jnp.ones(3), 0.4, t, CHAIN),
    "expanded in an event": lambda m, t: dist.Normal(m, t).expand([4, 2]).to_event(1),
    "independent": lambda m, t: dist.Independent(dist.Normal(m * jnp.ones((4, 2)), t), 1),
    "vectors in an event": lambda m, t: dist.MultivariateNormal(
        m * jnp.ones((3, 2)), scale_tril=t * ROOT
    ).to_event(1),
    "compound symmetry": lambda m, t: dist.MultivariateNormal(
        m * jnp.ones(3), t**2 * (0.7 * jnp.eye(3) + 0.3)
    ),
    "first order autoregression": lambda m, t: dist.MultivariateNormal(
        m * jnp.ones(3), t**2 * 0.6 ** jnp.abs(jnp.arange(3.0)[:, None] - jnp.arange(3.0))
    ),
}


def effects(law):
    """Four groups with effects of this law; a row reads the first entry and the last times x."""

    def program(y, x, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            b = numpyro.sample("b", law(mu, tau))
        flat = b.reshape(*b.shape[: b.ndim - len(law(mu, tau).event_shape)], -1)
        with numpyro.plate("rows", len(y)):
            mean = flat[group, 0] + (flat[group, -1] * x if flat.shape[-1] > 1 else 0.0)
            numpyro.sample("y", dist.Normal(mean, 0.8), obs=y)

    def of_scalars(y, x, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            b = numpyro.sample("b", law(mu, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[group], 0.8), obs=y)

    return program if law(0.5, 0.5).event_shape else of_scalars


def agrees(model):
    """log Z and the posterior of the real latents are those of the whole joint Gaussian."""
    with jax.enable_x64(True):
        params = {k: np.asarray(v) for k, v in neutral_parameters(model.reading, 3).items()}
        value, mean, covariance, _ = programs.dense(model, params)
    assert model.log_likelihood(params) == pytest.approx(float(value), rel=1e-10)
    told = model.posterior(params)
    names = [s.name for s in model.reading.reals]
    found = np.concatenate([told[n].mean.ravel() for n in names])
    spread = np.concatenate([told[n].sd.ravel() for n in names])
    np.testing.assert_allclose(found, mean, atol=1e-9)
    np.testing.assert_allclose(spread, np.sqrt(np.diagonal(covariance)), atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_laws_that_are_gaussian_under_another_name(name):
    model = Model(effects(LAWS[name]), programs.Y, programs.X, programs.GROUP)
    assert model.latent_names == ("b",)
    agrees(model)


def reparametrised(how):
    def program(y, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4), handlers.reparam(config={"b": how}):
            law = dist.Normal(mu, tau)
            if isinstance(how, TransformReparam):
                law = changed(dist.Normal(0.0, 1.0), maps.AffineTransform(mu, tau))
            b = numpyro.sample("b", law)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[group], 0.8), obs=y)

    return program


@pytest.mark.parametrize(
    "how, latent",
    [
        (LocScaleReparam(0.0), "b_decentered"),
        (LocScaleReparam(0.4), "b_decentered"),
        (LocScaleReparam(), "b_decentered"),  # how far is a numpyro.param
        (TransformReparam(), "b_base"),
    ],
)
def test_reparametrised_effects_have_the_likelihood_of_the_plain_ones(how, latent):
    model = Model(reparametrised(how), programs.Y, programs.GROUP, latents={latent})
    plain = Model(effects(LAWS["affine"]), programs.Y, programs.X, programs.GROUP)
    params = {"mu": 0.3, "tau": 0.7}
    more = {n: 0.2 for n in model.space.names if n not in params}
    expected = plain.log_likelihood(params)
    assert model.log_likelihood({**params, **more}) == pytest.approx(expected, rel=1e-12)


def test_values_between_a_latent_and_its_observations():
    """A Delta and a deterministic value are what they are computed from."""

    def program(y, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            z = numpyro.sample("z", dist.Normal(mu, tau))
            twice = numpyro.sample("twice", dist.Delta(2.0 * z))
            b = numpyro.deterministic("b", 1.0 + twice)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[group], 0.8), obs=y)

    agrees(Model(program, programs.Y, programs.GROUP))


# The distribution of a row of four columns with one latent u, at a scale.
OBSERVED = {
    "low rank": lambda u, s: dist.LowRankMultivariateNormal(
        u[:, None] * jnp.arange(1.0, 5.0), s * jnp.ones((4, 1)), s * jnp.ones(4)
    ),
    "affine": lambda u, s: changed(
        standard(4), maps.AffineTransform(u[:, None] * jnp.ones(4), s * jnp.ones(4))
    ),
    "compound symmetry": lambda u, s: dist.MultivariateNormal(
        u[:, None] * jnp.ones(4), s**2 * (0.6 * jnp.eye(4) + 0.4)
    ),
}


@pytest.mark.parametrize("name", OBSERVED)
def test_observations_that_are_gaussian_under_another_name(name):
    def program(x):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.Normal(0.0, tau))
            numpyro.sample("x", OBSERVED[name](u, sigma), obs=x)

    agrees(Model(program, programs.WIDE))


def test_an_affine_law_has_the_m_step_of_the_plain_one():
    rng = np.random.default_rng(0)
    group, x = np.repeat(np.arange(4), 10), np.zeros(40)
    y = 1.0 + rng.normal(size=4)[group] + 0.5 * rng.normal(size=40)
    model = Model(effects(LAWS["affine"]), y, x, group)
    em, mle = fit_em(model), fit_mle(model)
    assert {b.method for b in em.problem().blocks} == {"closed, in turn"}
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-8)


# --- bad input ----------------------------------------------------------------------------------

real_vector = dist.constraints.real_vector


def flat_coefficients(y, design):
    """Coefficients with a flat law: REML."""
    beta = numpyro.sample("beta", dist.ImproperUniform(real_vector, (), (design.shape[1],)))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(design @ beta, sigma), obs=y)


def flat_groups(y, group):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + b[group], sigma), obs=y)


COLUMNS = np.column_stack([np.ones(9), 1e3 * programs.X, 1e-4 * programs.X**2])


def test_a_flat_law_that_the_data_leave_improper_is_refused():
    twice = np.column_stack([COLUMNS, COLUMNS[:, 0] + COLUMNS[:, 1]])
    with pytest.raises(ValueError, match=r"latent 'beta' has a flat law.*beta\[0\].*columns"):
        Model(flat_coefficients, programs.Y, twice, latents={"beta"})
    with pytest.raises(ValueError, match="latent 'b' has a flat law|latent 'mu' has a flat law"):
        Model(flat_groups, programs.Y, programs.GROUP, latents={"b", "mu"})
    model = Model(flat_coefficients, programs.Y, COLUMNS, latents={"beta"})
    told = model.posterior({"sigma": 0.7})["beta"]
    expected = 0.49 * np.linalg.inv(COLUMNS.T @ COLUMNS)
    np.testing.assert_allclose(told.sd, np.sqrt(np.diag(expected)), rtol=1e-8)
    with pytest.raises(ValueError, match="'beta' has a flat law"):
        model.with_data(design=COLUMNS[:, [0, 1, 1]])


def test_a_flat_law_of_what_no_observation_reads_is_refused():
    def program(y):
        numpyro.sample("beta", dist.ImproperUniform(real_vector, (), (2,)))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(0.0, sigma), obs=y)

    with pytest.raises(ValueError, match="latent 'beta' has a flat law, and no observation"):
        Model(program, programs.Y, latents={"beta"})


NOT_GAUSSIAN = {
    "TransformedDistribution": lambda m, t: changed(dist.Normal(m, t), maps.ExpTransform()),
    "LogNormal": lambda m, t: dist.LogNormal(m, t),
    "StudentT": lambda m, t: dist.StudentT(4.0, m, t),
    "ZeroSumNormal": lambda m, t: dist.ZeroSumNormal(t, (4,)),
}


def test_what_would_approximate_is_said():
    def program(y, group):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 4):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=b[group]), obs=y)

    with pytest.raises(ValueError, match=r"'b'.*enters 'y', a Bernoulli.*nodes of a quadrature"):
        Model(program, (programs.Y > 0).astype(int), programs.GROUP)


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_laws_that_are_not_gaussian_are_refused_by_name(name):
    def program(y, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        law = NOT_GAUSSIAN[name](mu, tau)
        b = numpyro.sample("b", law if law.event_shape else law.expand([4]))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[group], 0.8), obs=y)

    with pytest.raises(ValueError, match=f"latent 'b'.*whose distribution is {name}.*parameters="):
        Model(program, programs.Y, programs.GROUP)


@pytest.mark.slow
def test_one_row_in_each_group_tells_no_variances_apart():
    """Their sum alone is told, and has a standard error."""

    def program(y, group):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("groups", 30):
            b = numpyro.sample("b", dist.Normal(0.0, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(b[group], sigma), obs=y)

    y = np.random.default_rng(0).normal(size=30)
    fit = fit_mle(Model(program, y, np.arange(30)), starts=2)
    assert fit.params["tau"] ** 2 + fit.params["sigma"] ** 2 == pytest.approx(np.mean(y**2))
    assert fit.standard_errors().isna().all()
    assert fit.summary()["note"].str.startswith("not identified: the likelihood is flat").all()


@pytest.mark.slow
def test_two_columns_tell_no_factor():
    """Three numbers of a covariance cannot tell four parameters: what fits as well is a curve."""

    def program(x):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        psi = numpyro.sample("psi", dist.HalfNormal(1).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            u = numpyro.sample("u", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(u[:, None] * w, psi).to_event(1), obs=x)

    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 1)) * [1.0, 2.0] + rng.normal(size=(60, 2))
    for fit in (fit_em, fit_mle):
        errors = fit(Model(program, x, latents={"u"}), starts=2).standard_errors()
        assert errors.isna().all()
