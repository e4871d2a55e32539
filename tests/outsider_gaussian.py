"""Programs with real latents as users of Stan, lme4, brms and statsmodels would write them, and what they are worth
by NumPyro's own joint density: a quadratic in all that is unobserved, missing cells too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions import transforms as maps
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

RNG = np.random.default_rng(11)
Y, X = RNG.normal(size=(2, 12))
GROUP = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 1, 2])
OTHER = np.arange(12) % 3
SCHOOL = np.array([0, 1, 1, 0])
WIDE = RNG.normal(size=(5, 4))
TIMES = np.array([0.0, 1.0, 2.0, 4.0])
HOLES = np.where(np.arange(20).reshape(5, 4) % 7 == 1, np.nan, WIDE)
HOLES[4] = np.nan
GAPS = np.where(np.arange(12) % 5 == 2, np.nan, Y)
SEEN = np.arange(12) % 3 != 0
SEEN[[4, 8]] = False
UNKNOWN = np.nan


@dataclass
class Case:
    """A program with its data, the options of its model, the `latents` that it has, and whether it is
    checked in a plain run."""

    program: Any
    data: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    latents: tuple[str, ...] = ()
    plain: bool = False


CASES: dict[str, Case] = {}


def case(*data, latents, plain=False, roles=(), **options):
    def add(program):
        named = {"latents": set(roles)} if roles else {}
        CASES[program.__name__] = Case(
            program, data, options | named, tuple(latents.split()), plain
        )
        return program

    return add


def half(count=None):
    law = dist.HalfNormal(1)
    return law if count is None else law.expand([count]).to_event(1)


def normal(count=None):
    law = dist.Normal(0, 1)
    return law if count is None else law.expand([count]).to_event(1)


# --- random effects as a scale times a standard Gaussian ------------------------------------------


@case(Y, GROUP, latents="z", plain=True)
def noncentred(y, group):
    mu, tau, sigma = (numpyro.sample(n, d) for n, d in (("mu", normal()), ("tau", half()), ("sigma", half())))  # fmt: skip
    with numpyro.plate("groups", 4):
        z = numpyro.sample("z", normal())
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + tau * z[group], sigma), obs=y)


@case(Y, X, GROUP, latents="z")
def noncentred_matrix(y, x, group):
    """Stan's: a matrix of standard Gaussians, premultiplied by scales and a Cholesky factor."""
    beta = numpyro.sample("beta", normal(2))
    scale = numpyro.sample("scale", dist.Exponential(1.0), sample_shape=(2,))
    corr = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([2, 4]).to_event(2))
    effects = ((scale[:, None] * corr) @ z).T
    design = jnp.stack([jnp.ones_like(x), x], axis=-1)
    sigma = numpyro.sample("sigma", dist.Exponential(1.0))
    mean = design @ beta + jnp.sum(effects[group] * design, axis=-1)
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


@case(Y, GROUP, latents="b_decentered")
def decentred_without_plate(y, group):
    mu, tau, sigma = (numpyro.sample(n, d) for n, d in (("mu", normal()), ("tau", half()), ("sigma", half())))  # fmt: skip
    with handlers.reparam(config={"b": LocScaleReparam(0.0)}):
        b = numpyro.sample("b", dist.Normal(mu, tau).expand([4]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group], sigma), obs=y)


@case(Y, np.abs(X) + 0.5, latents="theta_base", roles=("theta_base",))
def schools_by_transform(y, errors):
    mu, tau = numpyro.sample("mu", normal()), numpyro.sample("tau", dist.HalfCauchy(5))
    law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), maps.AffineTransform(mu, tau))
    with numpyro.plate("schools", 12):
        with handlers.reparam(config={"theta": TransformReparam()}):
            theta = numpyro.sample("theta", law)
        numpyro.sample("y", dist.Normal(theta, errors), obs=y)


@case(Y, X, GROUP, latents="z")
def noncentred_by_a_covariance(y, x, group):
    S = numpyro.param("S", jnp.eye(2), constraint=constraints.positive_definite)
    sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
    beta = numpyro.param("beta", jnp.zeros(2))
    with numpyro.plate("groups", 4):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    b = beta + z @ jnp.linalg.cholesky(S).T
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group, 0] + b[group, 1] * x, sigma), obs=y)


@case(HOLES, TIMES, latents="b")
def growth_of_params(y, times):
    """Only numpyro.param stands above the latent."""
    S = numpyro.param("S", jnp.eye(2), constraint=constraints.positive_definite)
    sigma = numpyro.param("sigma", 1.0, constraint=constraints.positive)
    beta = numpyro.sample("beta", normal(2))
    design = jnp.stack([jnp.ones_like(times), times], -1)
    with numpyro.plate("subjects", len(y)):
        b = numpyro.sample("b", dist.MultivariateNormal(jnp.zeros(2), S))
        mean = jnp.einsum("tk,nk->nt", design, beta + b)
        numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)


# --- rows that read several units ---------------------------------------------------------------


@case(Y, GROUP, OTHER, latents="u", plain=True)
def round_robin(y, giver, taker):
    """Differences of two units of one plate; a unit met with itself reads none."""
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    with numpyro.plate("people", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(u[giver] - u[taker], sigma), obs=y)


@case(Y, GROUP, OTHER, latents="u")
def social_relations(y, giver, taker):
    corr, sigma = numpyro.sample("corr", dist.LKJCholesky(2)), numpyro.sample("sigma", half())
    tau = numpyro.sample("tau", half(2))
    with numpyro.plate("people", 4):
        law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=tau[..., None] * corr)
        u = numpyro.sample("u", law)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(u[giver, 0] + u[taker, 1], sigma), obs=y)


@case(Y, GROUP, OTHER, latents="u")
def two_sites_two_units(y, group, other):
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(u[group], sigma), obs=y)
        numpyro.sample("again", dist.Normal(u[other], sigma), obs=y + 1)


@case(Y, GROUP, OTHER, latents="a b ab")
def cells_of_two_factors(y, group, other):
    """An interaction as a matrix, centred at the sum of the main effects, read by two indices."""
    mu, s = numpyro.sample("mu", normal()), numpyro.sample("s", half(4))
    rows, columns = numpyro.plate("A", 4, dim=-2), numpyro.plate("B", 3, dim=-1)
    with rows:
        a = numpyro.sample("a", dist.Normal(0, s[0]))
    with columns:
        b = numpyro.sample("b", dist.Normal(0, s[1]))
    with rows, columns:
        ab = numpyro.sample("ab", dist.Normal(a + b, s[2]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + ab[group, other], s[3]), obs=y)


@case(Y, X, GROUP, latents="u")
def one_multivariate_observation(y, x, group):
    """Correlated residuals of all rows, the random effects in a plate."""
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    row = jnp.arange(12)
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    residuals = sigma**2 * rho ** jnp.abs(row[:, None] - row)
    numpyro.sample("y", dist.MultivariateNormal(x + u[group], residuals), obs=y)


@case(GAPS, np.abs(X) + 0.3, latents="theta")
def effects_of_a_batch(y, errors):
    """A batch that no plate declares, under an observation that is one event."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    variance = numpyro.sample("variance", dist.ImproperUniform(constraints.positive, (), ()))
    theta = numpyro.sample("theta", dist.Normal(mu, jnp.sqrt(variance)).expand([12]))
    numpyro.sample("y", dist.Normal(theta, errors).to_event(1), obs=y)


@case(GAPS, np.arange(12.0), latents="eta", roles=("eta",))
def process_by_its_cholesky_factor(y, times):
    """A Gaussian process not centred, in the plate of its observations."""
    scale, length = (numpyro.sample(n, dist.LogNormal(0, 1)) for n in ("scale", "length"))
    sigma = numpyro.sample("sigma", half())
    kernel = jnp.exp(-0.5 * ((times[:, None] - times) / length) ** 2) + 1e-6 * jnp.eye(12)
    with numpyro.plate("points", 12):
        eta = numpyro.sample("eta", normal())
        f = scale * jnp.linalg.cholesky(kernel) @ eta
        numpyro.sample("y", dist.Normal(f, sigma), obs=y)


@case(np.stack([X, X**2, X * Y], 1)[:8], Y[:8], latents="betas")
def coefficients_of_a_batch(x, y):
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    betas = numpyro.sample("betas", dist.Normal(0.0, jnp.ones(3) * tau))
    numpyro.sample("y", dist.Normal(x @ betas, 0.5), obs=y)


# --- masks, and values that are known in part -----------------------------------------------------


@case(Y, GROUP, SEEN, latents="u", plain=True)
def masked_rows(y, group, seen):
    mu, tau, sigma = (numpyro.sample(n, d) for n, d in (("mu", normal()), ("tau", half()), ("sigma", half())))  # fmt: skip
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(y)), handlers.mask(mask=seen):
        numpyro.sample("y", dist.Normal(u[group], sigma), obs=y)


def slopes(y, x, group):
    tau, sigma = numpyro.sample("tau", half(2)), numpyro.sample("sigma", half())
    mu, corr = numpyro.sample("mu", normal(2)), numpyro.sample("corr", dist.LKJCholesky(2))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.MultivariateNormal(mu, scale_tril=tau[:, None] * corr))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group, 0] + b[group, 1] * x, sigma), obs=y)


PARTLY = np.array([[0.2, UNKNOWN], [UNKNOWN, UNKNOWN], [0.1, 0.3], [UNKNOWN, -0.5]])
case(Y, X, GROUP, latents="b", observe={"b": PARTLY})(slopes)


@case(
    Y, GROUP, OTHER, latents="a b", plain=True,
    observe={"a": np.array([UNKNOWN, 0.3, UNKNOWN, UNKNOWN]), "b": PARTLY[[0, 1, 2]]},
)  # fmt: skip
def crossed_and_partly_known(y, group, other):
    mu, s = numpyro.sample("mu", normal()), numpyro.sample("s", half(4))
    corr = numpyro.sample("corr", dist.LKJCholesky(2))
    with numpyro.plate("A", 4):
        a = numpyro.sample("a", dist.Normal(mu, s[0]))
    with numpyro.plate("B", 3):
        law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=s[1:3, None] * corr)
        b = numpyro.sample("b", law)
    with numpyro.plate("rows", len(y)):
        mean = a[group] + b[other, 0] + b[other, 1] * jnp.arange(12) / 5
        numpyro.sample("y", dist.Normal(mean, s[3]), obs=y)


@case(
    Y, GROUP, SCHOOL, latents="a b",
    observe={"a": np.array([UNKNOWN, 1.0]), "b": np.array([0.2, UNKNOWN, UNKNOWN, -0.4])},
)  # fmt: skip
def nested_and_partly_known(y, group, school):
    mu, s = numpyro.sample("mu", normal()), numpyro.sample("s", half(3))
    with numpyro.plate("schools", 2):
        a = numpyro.sample("a", dist.Normal(mu, s[0]))
    with numpyro.plate("classes", 4):
        b = numpyro.sample("b", dist.Normal(a[school], s[1]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group], s[2]), obs=y)


@case(Y, GROUP, OTHER, latents="u", observe={"u": np.array([0.2, UNKNOWN, UNKNOWN, -0.4])})
def round_robin_partly_known(y, giver, taker):
    round_robin(y, giver, taker)


# --- missing covariates ---------------------------------------------------------------------------


COVARIATES = np.where(np.arange(12).reshape(6, 2) % 5 == 1, np.nan, RNG.normal(size=(6, 2)))
COVARIATES[4] = np.nan


@case(Y[:6], COVARIATES, latents="", roles={"c"})
def covariates_missing_in_part(y, c):
    beta, mu = numpyro.sample("beta", normal(2)), numpyro.sample("mu", normal(2))
    corr, sigma = numpyro.sample("corr", dist.LKJCholesky(2)), numpyro.sample("sigma", half())
    with numpyro.plate("rows", len(y)):
        c = numpyro.sample("c", dist.MultivariateNormal(mu, scale_tril=corr), obs=c)
        numpyro.sample("y", dist.Normal(c @ beta, sigma), obs=y)


def covariate(y, x, c):
    """A covariate with NaN where it is missing."""
    beta, mu = numpyro.sample("beta", normal(2)), numpyro.sample("mu", normal())
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    with numpyro.plate("rows", len(y)):
        c = numpyro.sample("c", dist.Normal(mu + 0.5 * x, tau), obs=c)
        numpyro.sample("y", dist.Normal(beta[0] * x + beta[1] * c, sigma), obs=y)


def covariate_by_mask(y, x, c, seen):
    """The same by NumPyro's obs_mask."""
    beta, mu = numpyro.sample("beta", normal(2)), numpyro.sample("mu", normal())
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    with numpyro.plate("rows", len(y)):
        c = numpyro.sample("c", dist.Normal(mu + 0.5 * x, tau), obs=c, obs_mask=seen)
        numpyro.sample("y", dist.Normal(beta[0] * x + beta[1] * c, sigma), obs=y)


# --- other kinds ----------------------------------------------------------------------------------


@case(RNG.normal(size=(2, 3, 4)), latents="a b ab c")
def three_ways(y):
    s = numpyro.sample("s", half(5))
    A, B, C = (numpyro.plate(n, k, dim=d) for n, k, d in (("A", 2, -3), ("B", 3, -2), ("C", 4, -1)))
    with A:
        a = numpyro.sample("a", dist.Normal(0, s[0]))
    with B:
        b = numpyro.sample("b", dist.Normal(0, s[1]))
    with C:
        c = numpyro.sample("c", dist.Normal(0, s[2]))
    with A, B:
        ab = numpyro.sample("ab", dist.Normal(0, s[3]))
    with A, B, C:
        numpyro.sample("y", dist.Normal(a + b + ab + c, s[4]), obs=y)


@case(HOLES, latents="zeta", roles={"zeta"})
def reduced_form(y):
    """LISREL's: the structural equations solved by a matrix inverse."""
    b, noise, scale = (numpyro.sample(*a) for a in (("b", normal(3)), ("noise", half(4)), ("scale", half(3))))  # fmt: skip
    B = jnp.zeros((3, 3)).at[1, 0].set(b[0]).at[2, 0].set(b[1]).at[2, 1].set(b[2])
    loadings = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])
    with numpyro.plate("rows", len(y)):
        zeta = numpyro.sample("zeta", dist.Normal(jnp.zeros(3), scale).to_event(1))
        eta = zeta @ jnp.linalg.inv(jnp.eye(3) - B).T
        numpyro.sample("y", dist.Normal(eta @ loadings.T, noise).to_event(1), obs=y)


@case(HOLES, np.array([0, 1, 0, 1, 1]), latents="f b", roles={"f"})
def two_levels_of_factors(y, group):
    w, s = (numpyro.sample(n, d.expand([2, 4]).to_event(2)) for n, d in (("w", normal()), ("s", half())))  # fmt: skip
    with numpyro.plate("groups", 2):
        b = numpyro.sample("b", dist.Normal(w[1], s[1]).to_event(1))
    with numpyro.plate("rows", len(y)):
        f = numpyro.sample("f", normal())
        numpyro.sample("y", dist.Normal(b[group] + f[:, None] * w[0], s[0]).to_event(1), obs=y)


@case(WIDE, HOLES, latents="eta", roles={"eta"})
def two_views(one, two):
    """Probabilistic canonical correlations, the views in a Python loop."""
    corr = numpyro.sample("corr", dist.LKJCholesky(4))
    loads = [numpyro.sample(f"W{i}", dist.Normal(0, 1).expand([4, 1]).to_event(2)) for i in (0, 1)]
    with numpyro.plate("rows", 5):
        eta = numpyro.sample("eta", dist.Normal(jnp.zeros(1), 1).to_event(1))
        for i, (W, x) in enumerate(zip(loads, (one, two), strict=True)):
            numpyro.sample(f"x{i}", dist.MultivariateNormal(eta @ W.T, scale_tril=corr), obs=x)


@case(Y, X, latents="alpha")
def spline_by_a_precision(y, x):
    """Second differences penalised, their null space by a wide law."""
    smooth, sigma = numpyro.sample("smooth", half()), numpyro.sample("sigma", half())
    basis = jnp.exp(-0.5 * (x[:, None] - jnp.linspace(-2, 2, 5)) ** 2)
    D = jnp.diff(jnp.eye(5), 2, axis=0)
    Q = D.T @ D / smooth**2 + 0.01 * jnp.eye(5)
    alpha = numpyro.sample("alpha", dist.MultivariateNormal(jnp.zeros(5), precision_matrix=Q))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(basis @ alpha, sigma), obs=y)


@case(Y, X, GROUP, latents="ab")
def cafes(y, afternoon, cafe):
    """McElreath's: a vector of stacked means, a covariance from correlations."""
    a, b, sigma = (numpyro.sample(n, d) for n, d in (("a", dist.Normal(5, 2)), ("b", dist.Normal(-1, 0.5)), ("sigma", dist.Exponential(1))))  # fmt: skip
    scale = numpyro.sample("scale", dist.Exponential(1).expand([2]))
    rho = numpyro.sample("rho", dist.LKJ(2, 2))
    law = dist.MultivariateNormal(jnp.stack([a, b]), jnp.outer(scale, scale) * rho)
    ab = numpyro.sample("ab", law.expand([4]))
    mean = ab[:, 0][cafe] + ab[:, 1][cafe] * afternoon
    numpyro.sample("wait", dist.Normal(mean, sigma), obs=y)


@case(WIDE, latents="eta")
def low_rank_residuals(y):
    F = numpyro.sample("F", dist.Normal(0, 1).expand([4, 1]).to_event(2))
    d, tau = numpyro.sample("d", half(4)), numpyro.sample("tau", half())
    with numpyro.plate("rows", 5):
        eta = numpyro.sample("eta", dist.Normal(0.2, tau))
        law = dist.LowRankMultivariateNormal(eta[..., None] * jnp.ones(4), F, d)
        numpyro.sample("y", law, obs=y)


@case(HOLES[:4], latents="u")
def classes_with_covariances(y):
    """A growth mixture whose classes have covariances of their own."""
    w, sigma = numpyro.sample("w", dist.Dirichlet(jnp.ones(2))), numpyro.sample("sigma", half())
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    corr = numpyro.sample("corr", dist.LKJCholesky(2).expand([2]).to_event(1))
    design = jnp.stack([jnp.ones(4), jnp.arange(4.0)], -1)
    with numpyro.plate("rows", 4):
        k = numpyro.sample("k", dist.Categorical(w))
        u = numpyro.sample("u", dist.MultivariateNormal(mu[k], scale_tril=corr[k]))
        numpyro.sample("y", dist.Normal(u @ design.T, sigma).to_event(1), obs=y)


@case(Y, X, GROUP, OTHER, latents="top t a b")
def nested_and_crossed(y, x, group, other):
    """Effects centred at those above them, crossed with others."""
    s, m = numpyro.sample("s", half(5)), numpyro.sample("m", normal(2))
    corr = numpyro.sample("corr", dist.LKJCholesky(2))
    top = numpyro.sample("top", dist.Normal(m[0], s[4]))
    with numpyro.plate("schools", 2):
        t = numpyro.sample("t", dist.MultivariateNormal(m + top, scale_tril=s[0] * corr))
    with numpyro.plate("A", 4):
        a = numpyro.sample("a", dist.MultivariateNormal(t[SCHOOL] * m[1], scale_tril=s[2] * corr))
    with numpyro.plate("B", 3):
        b = numpyro.sample("b", dist.Normal(0.3 * top, s[1]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group, 0] + a[group, 1] * x + b[other], s[3]), obs=y)


@case(GAPS, X, GROUP, latents="beta u", roles={"beta"})
def restricted(y, x, group):
    """REML, with missing responses."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    tau, sigma = numpyro.sample("tau", half()), numpyro.sample("sigma", half())
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x + u[group], sigma), obs=y)
