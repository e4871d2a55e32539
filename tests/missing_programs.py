"""Programs of vectors with missing entries, and what they are worth by plain NumPy, row by row."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.stats import multivariate_normal

RNG = np.random.default_rng(5)


def with_holes(x, share=0.25, seed=0):
    """Some entries missing at random, one row wholly, one row but for its first entry."""
    x = np.array(x)
    x[np.random.default_rng(seed).uniform(size=x.shape) < share] = np.nan
    x[..., 3, :] = np.nan
    x[..., 5, 1:], x[..., 5, 0] = np.nan, 0.3
    return x


MIX = RNG.normal(size=(3, 3))
X = with_holes(RNG.normal(size=(30, 3)) @ MIX.T + [1.0, 5.0, 100.0])
Z = with_holes(RNG.normal(size=(30, 3)), seed=1)  # near zero
COVARIATE = RNG.normal(size=30)
WEIGHTS = RNG.integers(0, 4, 30).astype(float)


def covariance(d):
    return numpyro.param("S", jnp.eye(d), constraint=dist.constraints.positive_definite)


def normal(x):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    S = covariance(d)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(mu, S), obs=x)


def weighted(x, weights):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    S = covariance(d)
    with numpyro.plate("rows", len(x)), numpyro.handlers.scale(scale=weights):
        numpyro.sample("x", dist.MultivariateNormal(mu, S), obs=x)


def regression(x, c):
    d = x.shape[1]
    B = numpyro.sample("B", dist.Normal(0, 10).expand([2, d]).to_event(2))
    S = covariance(d)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(B[0] + c[:, None] * B[1], S), obs=x)


def columns(x):
    """Vectors of two columns (rows, 2, D), each with a mean and a covariance of its own."""
    d = x.shape[2]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2, d]).to_event(2))
    S = numpyro.param(
        "S", jnp.stack([jnp.eye(d)] * 2), constraint=dist.constraints.positive_definite
    )
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(mu, S).to_event(1), obs=x)


def mixture(x, K=2):
    d = x.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([K, d]).to_event(2))
    S = numpyro.param(
        "S", jnp.stack([jnp.eye(d)] * K), constraint=dist.constraints.positive_definite
    )
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], S[z]), obs=x)


def chain(x, K=2):
    d = x.shape[1]
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([K, d]).to_event(2))
    S = covariance(d)

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], S), obs=x_t)
        return z, None

    scan(step, 0, x)


def driven_chain(x, c, K=2):
    """The same on a covariate of each step, so that means differ by step."""
    d = x.shape[1]
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([K, d]).to_event(2))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([d]).to_event(1))
    S = covariance(d)

    def step(z, at):
        x_t, c_t = at
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.MultivariateNormal(mu[z] + b * c_t, S), obs=x_t)
        return z, None

    scan(step, 0, (x, c))


def factors(x, L=2):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([d]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    S = covariance(d)
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.MultivariateNormal(mu + u @ W.T, S), obs=x)


def mixed(x, c, group, K=2):
    """A mixture of regressions with a random intercept of each group's vectors."""
    d = x.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    B = numpyro.sample("B", dist.Normal(0, 1).expand([d]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([K, d]).to_event(2))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    S = covariance(d)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        u = numpyro.sample("u", dist.Normal(0, tau))
        mean = mu[z] + c[:, None] * B + u[:, None] * jnp.arange(1.0, d + 1)
        numpyro.sample("x", dist.MultivariateNormal(mean, S), obs=x)


def answers(y, K=2):
    """Latent classes of categorical answers (rows, items)."""
    items, levels = y.shape[1], 3
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones((K, items, levels))).to_event(2))
    with numpyro.plate("rows", len(y), dim=-2):
        z = numpyro.sample("z", dist.Categorical(w))
        with numpyro.plate("items", items, dim=-1):
            numpyro.sample("y", dist.Categorical(p[z, jnp.arange(items)]), obs=y)


def columns_of_factors(x):
    """Vectors of two columns (rows, 2, D) with one score of each row in both."""
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    S = covariance(x.shape[2])
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1))
        mean = a[:, None] + u[:, None, None] * jnp.arange(1.0, x.shape[2] + 1)
        numpyro.sample("x", dist.MultivariateNormal(mean, S).to_event(1), obs=x)


def nested(x):
    """Vectors of units in groups (groups, units, D), with one effect of each group."""
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    S = covariance(x.shape[2])
    with numpyro.plate("groups", x.shape[0], dim=-2):
        u = numpyro.sample("u", dist.Normal(0, tau))
        with numpyro.plate("units", x.shape[1], dim=-1):
            mean = u[..., None] * jnp.arange(1.0, x.shape[2] + 1)
            numpyro.sample("x", dist.MultivariateNormal(mean, S), obs=x)


def gathered(x, group):
    """The same, each row reading its group's effect."""
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    S = covariance(x.shape[1])
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(x)):
        mean = u[group][:, None] * jnp.arange(1.0, x.shape[1] + 1)
        numpyro.sample("x", dist.MultivariateNormal(mean, S), obs=x)


def classes(x, K=2):
    """Groups of vectors (groups, units, D) of one class each."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([K, x.shape[2]]).to_event(2))
    S = covariance(x.shape[2])
    with numpyro.plate("groups", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(w))
        with numpyro.plate("units", x.shape[1], dim=-1):
            numpyro.sample("x", dist.MultivariateNormal(mu[z], S), obs=x)


# --- by plain NumPy, row by row -------------------------------------------------------------


def row_density(row, mean, covariance):
    """log f of what is seen of a row, by scipy."""
    seen = ~np.isnan(row)
    if not seen.any():
        return 0.0
    law = multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)])
    return float(law.logpdf(row[seen]))


def density(x, means, covariance):
    means = np.broadcast_to(means, x.shape)
    return np.array([row_density(r, m, covariance) for r, m in zip(x, means, strict=True)])


def conditional(row, mean, covariance):
    """Mean and covariance of a whole row given what is seen of it."""
    seen = ~np.isnan(row)
    m = ~seen
    filled, left = np.where(seen, row, mean), np.zeros_like(covariance)
    if m.any():
        across = covariance[np.ix_(m, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        filled[m] = mean[m] + across @ (row[seen] - mean[seen])
        left[np.ix_(m, m)] = covariance[np.ix_(m, m)] - across @ covariance[np.ix_(seen, m)]
    return filled, left


def textbook_step(x, mean, covariance, weights=None):
    """One iteration of EM for a normal sample with missing entries (Little & Rubin, section 11.2.1), rows
    without data left out."""
    weights = np.ones(len(x)) if weights is None else weights
    keep = ~np.isnan(x).all(1)
    x, weights = x[keep], weights[keep]
    parts = [conditional(row, mean, covariance) for row in x]
    filled = np.stack([p[0] for p in parts])
    total = weights.sum()
    new = (weights[:, None] * filled).sum(0) / total
    away = filled - new
    second = (weights[:, None] * away).T @ away + sum(
        w * p[1] for w, p in zip(weights, parts, strict=True)
    )
    return new, second / total


def chain_density(logs, P):
    """log L of a chain from log densities (steps, states), the state before the first being zero, by
    enumeration of all paths."""
    steps, states = logs.shape
    total = -np.inf
    for path in itertools.product(range(states), repeat=steps):
        here, value = 0, 0.0
        for t, z in enumerate(path):
            value += np.log(P[here, z]) + logs[t, z]
            here = z
        total = np.logaddexp(total, value)
    return total


def mixed_conditional(row, shares, means, covariances):
    """Mean and sd of a row of a mixture of normals given what is seen of it."""
    logs = np.log(shares) + [
        row_density(row, m, c) for m, c in zip(means, covariances, strict=True)
    ]
    posterior = np.exp(logs - np.logaddexp.reduce(logs))
    parts = [conditional(row, m, c) for m, c in zip(means, covariances, strict=True)]
    mean = sum(p * f for p, (f, _) in zip(posterior, parts, strict=True))
    second = sum(p * (np.diag(c) + f**2) for p, (f, c) in zip(posterior, parts, strict=True))
    return mean, np.sqrt(np.maximum(second - mean**2, 0.0))


def chain_shares(logs, P):
    """p(state of each step | data) by enumeration of all paths, the state before the first being zero."""
    steps, states = logs.shape
    share = np.zeros((steps, states))
    for path in itertools.product(range(states), repeat=steps):
        before = (0, *path[:-1])
        weight = np.exp(
            sum(
                np.log(P[a, z]) + logs[t, z]
                for t, (a, z) in enumerate(zip(before, path, strict=True))
            )
        )
        share[np.arange(steps), path] += weight
    return share / share.sum(1, keepdims=True)


def covariate(x, y):
    """A regression on a covariate that has a distribution, so that it may be missing."""
    m = numpyro.sample("m", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(1))
    a = numpyro.sample("a", dist.Normal(0, 10))
    b = numpyro.sample("b", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        x = numpyro.sample("x", dist.Normal(m, s), obs=x)
        numpyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)


def covariates(x, v, y):
    """Two covariates of which one predicts the other, a mixture of two regressions on both."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    s = numpyro.sample("s", dist.HalfNormal(1).expand([2]).to_event(1))
    c = numpyro.sample("c", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        x = numpyro.sample("x", dist.Normal(0.3, s[0]), obs=x)
        v = numpyro.sample("v", dist.Normal(c * x, s[1]), obs=v)
        numpyro.sample("y", dist.Normal(b[z, 0] * x + b[z, 1] * v, 0.5), obs=y)


def joint_of_covariates(s, c, b):
    """Mean and covariance of (x, v, y) with coefficients b."""
    root = np.array([
        [s[0], 0, 0], [c * s[0], s[1], 0], [(b[0] + b[1] * c) * s[0], b[1] * s[1], 0.5],
    ])  # fmt: skip
    return 0.3 * np.array([1, c, b[0] + b[1] * c]), root @ root.T
