"""Programs with real latents, and what they are worth by dense algebra: the whole joint Gaussian."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.distribution import ExpandedDistribution

RNG = np.random.default_rng(7)
GROUP = np.array([0, 0, 1, 2, 2, 2, 1, 0, 3])
SCHOOL = np.array([0, 0, 1, 1])
Y = RNG.normal(size=9)
X = RNG.normal(size=9)
WIDE = RNG.normal(size=(7, 4))
HOLES = np.where(RNG.uniform(size=WIDE.shape) < 0.25, np.nan, WIDE)


def random_intercepts(y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group], sigma), obs=y)


def nested(y, group, school):
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("schools", 2):
        a = numpyro.sample("a", dist.Normal(mu, tau[0]))
    with numpyro.plate("classes", 4):
        b = numpyro.sample("b", dist.Normal(0.5 * a[school], tau[1]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(1.0 + 2.0 * b[group], 0.7), obs=y)


def slopes(y, x, group):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    scales = numpyro.sample("scales", dist.HalfNormal(1).expand([2]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.MultivariateNormal(beta, scale_tril=scales[:, None] * corr))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[group, 0] + b[group, 1] * x, sigma), obs=y)


def factors(x):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([d]).to_event(1))
    w = numpyro.sample("w", dist.Normal(0, 1).expand([d, 2]).to_event(2))
    psi = numpyro.sample("psi", dist.HalfNormal(1).expand([d]).to_event(1))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(mu + u @ w.T, psi).to_event(1), obs=x)


def correlated_noise(x):
    d = x.shape[1]
    w = numpyro.sample("w", dist.Normal(0, 1).expand([d]).to_event(1))
    cov = numpyro.sample("cov", dist.Wishart(d + 2.0, rate_matrix=jnp.eye(d)))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0.3, 2.0))
        numpyro.sample("x", dist.MultivariateNormal(u[:, None] * w, cov), obs=x)


def mixture_of_factors(x):
    d = x.shape[1]
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([d]).to_event(1))
        w = numpyro.sample("w", dist.Normal(0, 1).expand([d]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(p))
        u = numpyro.sample("u", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(mu[z] + u[..., None] * w[z], 0.8).to_event(1), obs=x)


def growth(y, x, group):
    """A mean that is nonlinear in the parameters, and two latents in one plate, one above the other."""
    rate = numpyro.sample("rate", dist.HalfNormal(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("groups", 4):
        a = numpyro.sample("a", dist.Normal(rate, tau))
        b = numpyro.sample("b", dist.Normal(0.5 * a - 1.0, 0.3))
    with numpyro.plate("rows", len(y)):
        mean = a[group] * jnp.exp(-rate * x) + b[group]
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def one_for_all(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    level = numpyro.sample("level", dist.Normal(2.0 * scale, scale))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)


def measured_twice(x, y):
    """Measurement error: the true value is seen through a second site, in columns."""
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("columns", 4, dim=-1), numpyro.plate("rows", 7, dim=-2):
        t = numpyro.sample("t", dist.Normal(sigma, 1.5))
        numpyro.sample("x", dist.Normal(t, sigma), obs=x)
        numpyro.sample("y", dist.Normal(slope * t, 0.4), obs=y)


def weighed(y, group, w):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.Normal(0.0, tau))
    with numpyro.plate("rows", len(y)), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(b[group], 1.0), obs=y)


def crossed(y, x, a, b):
    """Random intercepts and slopes of one grouping, intercepts of another, and one for all."""
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([3]).to_event(1))
    level = numpyro.sample("level", dist.Normal(tau[2], 1.0))
    with numpyro.plate("left", 4):
        u = numpyro.sample("u", dist.Normal(jnp.array([0.3, 0.0]), tau[:2]).to_event(1))
    with numpyro.plate("right", 3):
        v = numpyro.sample("v", dist.Normal(0.5 * level, tau[2]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(u[a, 0] + u[a, 1] * x + v[b], 0.8), obs=y)


def crossed_plates(y):
    """Crossed by the dimensions of the plates alone: rows and columns of a table, with a hole in it."""
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("of rows", 7, dim=-2):
        r = numpyro.sample("r", dist.Normal(1.0, tau[0]))
    with numpyro.plate("of columns", 4, dim=-1):
        c = numpyro.sample("c", dist.Normal(0.0, tau[1]))
    with numpyro.plate("of columns", 4, dim=-1), numpyro.plate("of rows", 7, dim=-2):
        numpyro.sample("y", dist.Normal(r + c, 0.6), obs=y)


def by_shape(data):
    """No plate: the batch shapes of the distributions declare the units."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu * jnp.ones(data["n"]), tau))
    numpyro.sample("obs", dist.Normal(theta, data["sigma"]), obs=data["y"])


SCHOOLS = {
    "n": 8,
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}
PROGRAMS = [
    (random_intercepts, (Y, GROUP), {}),
    (nested, (Y, GROUP, SCHOOL), {}),
    (slopes, (Y, X, GROUP), {}),
    (factors, (WIDE,), {"latents": {"u"}}),
    (factors, (HOLES,), {"latents": {"u"}}),
    (correlated_noise, (WIDE,), {"latents": {"u"}}),
    (mixture_of_factors, (WIDE[:4],), {"latents": {"u"}}),
    (growth, (Y, X, GROUP), {}),
    (one_for_all, (Y,), {}),
    (measured_twice, (WIDE, HOLES), {}),
    (by_shape, (SCHOOLS,), {}),
    (crossed, (Y, X, GROUP, np.arange(9) % 3), {}),
    (crossed_plates, (HOLES,), {}),
    (weighed, (Y, GROUP, 1.0 + np.arange(9) % 3), {}),
]


def own_density(message):
    """The log density of a site, missing cells left out."""
    if message["type"] != "sample":
        return 0.0
    fn, value = message["fn"], jnp.asarray(message["value"])
    while isinstance(fn, (dist.Independent, ExpandedDistribution)):
        fn = fn.base_dist
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return fn.log_prob(value).sum()
    missing = jnp.isnan(value)
    density = fn.log_prob(jnp.where(missing, 0.0, value))
    shown = density if fn.event_shape else jnp.where(missing, 0.0, density)
    return (shown if message["scale"] is None else shown * message["scale"]).sum()


def dense(model, params):
    """(log Z, means of the real latents, their covariances, probabilities of the configurations) by
    the joint density of NumPyro: a quadratic at each configuration of the finite latents."""
    args = model.arguments.values()[0]
    shapes = {s.name: model.reading.real_shape(s) for s in model.reading.reals}
    sizes = {n: int(np.prod(s)) for n, s in shapes.items()}
    finite = {s.name: (model.reading.plate_shape(s.dims), s.size) for s in model.reading.latents}

    def joint(flat, codes):
        values, begin = {}, 0
        for n, size in sizes.items():
            values[n] = flat[begin : begin + size].reshape(shapes[n])
            begin += size
        given = {**{k: jnp.asarray(v) for k, v in params.items()}, **values, **codes}
        sites = handlers.trace(handlers.substitute(model.program, given)).get_trace(*args)
        return sum(own_density(m) for n, m in sites.items() if n not in params)

    n = sum(sizes.values())

    @jax.jit
    def quadratic(codes):
        zero = jnp.zeros(n)
        return joint(zero, codes), jax.grad(joint)(zero, codes), -jax.hessian(joint)(zero, codes)

    spaces = [range(size) for shape, size in finite.values() for _ in range(int(np.prod(shape)))]
    values, means, covariances = [], [], []
    for configuration in itertools.product(*spaces):
        codes, begin = {}, 0
        for name, (shape, _) in finite.items():
            count = int(np.prod(shape))
            codes[name] = np.array(configuration[begin : begin + count], int).reshape(shape)
            begin += count
        value, slope, bend = quadratic(codes)
        mean = jnp.linalg.solve(bend, slope)
        value = value + 0.5 * slope @ mean - 0.5 * jnp.linalg.slogdet(bend)[1]
        values.append(value + n / 2 * np.log(2 * np.pi))
        means.append(mean)
        covariances.append(jnp.linalg.inv(bend))
    values, means = np.array(values), np.array(means)
    top = values.max()
    log_z = top + np.log(np.exp(values - top).sum())
    p = np.exp(values - log_z)
    mean = p @ means
    second = np.einsum("c,cij->ij", p, np.array(covariances) + means[:, :, None] * means[:, None])
    return log_z, mean, second - np.outer(mean, mean), sizes
