"""Models with real latents as textbooks write them: the text, arguments, parameters, named latents."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(12)
GROUP = np.array([2, 0, 1, 2, 2, 0, 1, 3, 2, 0])  # unsorted, one unit with one row
X = np.round(RNG.normal(size=10), 3)
Y = np.round(RNG.normal(size=10) + X, 3)
WIDE = np.round(RNG.normal(size=(5, 4)), 3)
CHOLESKY = np.array([[1.0, 0.0], [0.6, 0.8]])
TIMES = np.array([0.0, 1.0, 2.0, 3.5])
KNOTS = np.linspace(-1, 1, 4)
HINGE = np.round(np.maximum(X[:, None] - KNOTS, 0.0), 3)
PLACES = np.array([0.0, 0.4, 1.1, 1.7, 3.0])
WITHIN = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.5, -0.2], [-0.2, 0.4]], [[0.2, 0.0], [0.0, 0.6]]])

TEXTBOOK = {}


def add(name, text, arguments, params, latents=()):
    TEXTBOOK[name] = text, arguments, params, latents


add(
    "random slopes, correlations of LKJ",
    """
def program(y, x, group):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    L = numpyro.sample("L", dist.LKJCholesky(2, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), scale_tril=tau[..., None] * L))
    with numpyro.plate("rows", 10):
        mean = beta[0] + u[group, 0] + (beta[1] + u[group, 1]) * x
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)
""",
    {"y": Y, "x": X, "group": GROUP},
    {"beta": [0.3, 1.0], "tau": [0.8, 0.4], "L": CHOLESKY, "sigma": 0.6},
)
add(
    "residuals of autoregression in a vector, a random intercept over them",
    """
def program(y, t):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    rho = numpyro.sample("rho", dist.Uniform(0, 1))
    lags = jnp.abs(t[:, None] - t)
    with numpyro.plate("subjects", 5):
        u = numpyro.sample("u", dist.Normal(mu[0], tau))
        numpyro.sample("y", dist.MultivariateNormal(
            u[:, None] + mu[1] * t, covariance_matrix=sigma ** 2 * rho ** lags), obs=y)
""",
    {"y": WIDE, "t": TIMES},
    {"mu": [0.2, -0.4], "tau": 0.7, "sigma": 0.9, "rho": 0.45},
)
add(
    "compound symmetry, and slopes of time",
    """
def program(y, t):
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    same = sigma[0] ** 2 * jnp.eye(4) + sigma[1] ** 2 * jnp.ones((4, 4))
    with numpyro.plate("subjects", 5):
        slope = numpyro.sample("slope", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.MultivariateNormal(slope[:, None] * t, same), obs=y)
""",
    {"y": WIDE, "t": TIMES},
    {"sigma": [0.8, 0.5], "tau": 0.4},
)
add(
    "casks within batches, numbered through",
    """
def program(y, cask, batch):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("batches", 2):
        a = numpyro.sample("a", dist.Normal(0, tau[0]))
    with numpyro.plate("casks", 4):
        b = numpyro.sample("b", dist.Normal(0, tau[1]))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(mu + a[batch[cask]] + b[cask], sigma), obs=y)
""",
    {"y": Y, "cask": GROUP, "batch": np.array([0, 1, 1, 0])},
    {"mu": 0.4, "tau": [0.7, 0.5], "sigma": 0.6},
)
add(
    "three levels, each centred at the one above",
    """
def program(y, x, pupil, school):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("schools", 2):
        a = numpyro.sample("a", dist.Normal(mu, tau[0]))
    with numpyro.plate("classes", 4):
        b = numpyro.sample("b", dist.Normal(a[school], tau[1]))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(b[pupil] + beta * x, sigma), obs=y)
""",
    {"y": Y, "x": X, "pupil": GROUP, "school": np.array([0, 1, 1, 0])},
    {"mu": 0.4, "beta": 0.9, "tau": [0.7, 0.5], "sigma": 0.6},
)
add(
    "measurement error, the true covariate a latent",
    """
def program(y, w, x_sd):
    alpha = numpyro.sample("alpha", dist.Normal(0, 5).expand([2]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("rows", 10):
        x = numpyro.sample("x", dist.Normal(mu, tau))
        numpyro.sample("w", dist.Normal(x, x_sd), obs=w)
        numpyro.sample("y", dist.Normal(alpha[0] + alpha[1] * x, sigma), obs=y)
""",
    {"y": Y, "w": X, "x_sd": np.abs(X) + 0.3},
    {"alpha": [0.2, 1.1], "mu": 0.1, "tau": 0.8, "sigma": 0.5},
)
add(
    "a path model: latents regressed on latents and on a covariate, indicators of each",
    """
def program(x, y, z):
    lam = numpyro.sample("lam", dist.Normal(1, 1).expand([2]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1).expand([4]).to_event(1))
    with numpyro.plate("people", 5):
        f = numpyro.sample("f", dist.Normal(b[0] * z, s[0]))
        g = numpyro.sample("g", dist.Normal(b[1] * f + b[2] * z, s[1]))
        numpyro.sample("x", dist.Normal(jnp.stack([f, lam[0] * f], -1), s[2]).to_event(1), obs=x)
        numpyro.sample("y", dist.Normal(jnp.stack([g, lam[1] * g], -1), s[3]).to_event(1), obs=y)
""",
    {"x": WIDE[:, :2], "y": WIDE[:, 2:], "z": X[:5]},
    {"lam": [0.8, 1.2], "b": [0.5, 0.7, -0.3], "s": [0.9, 0.6, 0.5, 0.7]},
)
add(
    "correlated factors, one for each half of the items",
    """
def program(x):
    nu = numpyro.sample("nu", dist.Normal(0, 5).expand([4]).to_event(1))
    lam = numpyro.sample("lam", dist.Normal(1, 1).expand([4]).to_event(1))
    L = numpyro.sample("L", dist.LKJCholesky(2, 1.0))
    psi = numpyro.sample("psi", dist.HalfNormal(1).expand([4]).to_event(1))
    W = jnp.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]) * lam[:, None]
    with numpyro.plate("people", 5):
        f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(2), scale_tril=L))
        numpyro.sample("x", dist.Normal(nu + f @ W.T, psi).to_event(1), obs=x)
""",
    {"x": WIDE},
    {
        "nu": [0.1, 0, -0.2, 0.3],
        "lam": [0.9, 0.7, 1.1, 0.5],
        "L": CHOLESKY,
        "psi": [0.5, 0.6, 0.7, 0.8],
    },
)
add(
    "varying coefficients, their means by a covariate of the group",
    """
def program(y, x, group, v):
    gamma = numpyro.sample("gamma", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    S = numpyro.param("S", jnp.eye(2), constraint=dist.constraints.positive_definite)
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("groups", 4):
        b = numpyro.sample("b", dist.MultivariateNormal(v @ gamma, S))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal((b[group] * x).sum(-1), sigma), obs=y)
""",
    {
        "y": Y,
        "x": np.stack([np.ones(10), X], 1),
        "group": GROUP,
        "v": np.stack([np.ones(4), X[:4]], 1),
    },
    {"gamma": [[0.2, 1.0], [0.1, -0.4]], "S": [[0.5, 0.2], [0.2, 0.4]], "sigma": 0.6},
)
add(
    "a penalised spline: coefficients of hinges as a random effect",
    """
def program(y, x, hinge):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    u = numpyro.sample("u", dist.Normal(0, tau).expand([4]).to_event(1))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x + hinge @ u, sigma), obs=y)
""",
    {"y": Y, "x": X, "hinge": HINGE},
    {"beta": [0.2, 0.8], "tau": 0.6, "sigma": 0.7},
)
add(
    "a Gaussian process on given points",
    """
def program(y, place):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    length = numpyro.sample("length", dist.LogNormal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    away = (place[:, None] - place) / length
    kernel = scale ** 2 * jnp.exp(-0.5 * away ** 2) + 1e-6 * jnp.eye(5)
    f = numpyro.sample("f", dist.MultivariateNormal(mu * jnp.ones(5), covariance_matrix=kernel))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Normal(f, sigma), obs=y)
""",
    {"y": Y[:5], "place": PLACES},
    {"mu": 0.3, "scale": 0.9, "length": 0.8, "sigma": 0.4},
)
add(
    "kin: one vector of all animals' values, each read by its records",
    """
def program(y, x, animal, kinship):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    a = numpyro.sample("a", dist.MultivariateNormal(jnp.zeros(4), tau ** 2 * kinship))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x + a[animal], sigma), obs=y)
""",
    {
        "y": Y,
        "x": X,
        "animal": GROUP,
        "kinship": np.eye(4) + 0.5 * (np.eye(4, k=1) + np.eye(4, k=-1)),
    },
    {"beta": [0.2, 0.8], "tau": 0.6, "sigma": 0.7},
)
add(
    "growth to an asymptote of each tree's own",
    """
def program(y, t):
    a = numpyro.sample("a", dist.Normal(0, 5))
    mid = numpyro.sample("mid", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.HalfNormal(5))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("trees", 5, dim=-2):
        top = numpyro.sample("top", dist.Normal(a, tau))
        with numpyro.plate("times", 4, dim=-1):
            numpyro.sample("y", dist.Normal(top / (1 + jnp.exp(-(t - mid) / scale)), sigma), obs=y)
""",
    {"y": WIDE, "t": TIMES},
    {"a": 1.2, "mid": 1.0, "scale": 0.8, "tau": 0.5, "sigma": 0.6},
)
add(
    "multivariate meta-analysis with known covariances of each trial",
    """
def program(y, within, z):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    S = numpyro.param("S", jnp.eye(2), constraint=dist.constraints.positive_definite)
    with numpyro.plate("trials", 3):
        theta = numpyro.sample("theta", dist.MultivariateNormal(z @ beta, S))
        numpyro.sample("y", dist.MultivariateNormal(theta, covariance_matrix=within), obs=y)
""",
    {"y": WIDE[:3, :2], "within": WITHIN, "z": np.stack([np.ones(3), X[:3]], 1)},
    {"beta": [[0.2, 1.0], [0.1, -0.4]], "S": [[0.5, 0.2], [0.2, 0.4]]},
)
add(
    "seemingly unrelated regressions, with an effect of the firm in both",
    """
def program(y, x, firm):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    S = numpyro.param("S", jnp.eye(2), constraint=dist.constraints.positive_definite)
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    load = numpyro.sample("load", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("firms", 3):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("years", 5):
        mean = beta[0] + x[:, None] * beta[1] + u[firm][:, None] * load
        numpyro.sample("y", dist.MultivariateNormal(mean, S), obs=y)
""",
    {"y": WIDE[:, :2], "x": X[:5], "firm": np.array([0, 2, 1, 2, 0])},
    {
        "beta": [[0.2, 1.0], [0.1, -0.4]],
        "S": [[0.5, 0.2], [0.2, 0.4]],
        "tau": 0.7,
        "load": [1.0, -0.5],
    },
)
add(
    "two outcomes that share a latent, with fixed coefficients",
    """
def program(y, x, group):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(2.0 * u[group], sigma[0]), obs=y)
        numpyro.sample("x", dist.Normal(1.0 - 0.5 * u[group], sigma[1]), obs=x)
""",
    {"y": Y, "x": X, "group": GROUP},
    {"tau": 0.8, "sigma": [0.6, 0.9]},
)
add(
    "not centred, by deterministic",
    """
def program(y, x, group):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", 4):
        raw = numpyro.sample("raw", dist.Normal(0, 1))
        b = numpyro.deterministic("b", mu + tau * raw)
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(b[group] + 0.5 * x, sigma), obs=y)
""",
    {"y": Y, "x": X, "group": GROUP},
    {"mu": 0.3, "tau": 0.8, "sigma": 0.6},
    ("raw",),
)
add(
    "a growth mixture: classes of subjects with curves and variances of their own",
    """
def program(y, x, group):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("groups", 4):
        z = numpyro.sample("z", dist.Categorical(w))
        u = numpyro.sample("u", dist.Normal(0, tau[z]))
    with numpyro.plate("rows", 10):
        mean = beta[z[group], 0] + beta[z[group], 1] * x + u[group]
        numpyro.sample("y", dist.Normal(mean, sigma[z[group]]), obs=y)
""",
    {"y": Y, "x": X, "group": GROUP},
    {"w": [0.4, 0.6], "beta": [[0.2, 1.0], [0.5, -0.4]], "tau": [0.5, 0.9], "sigma": [0.6, 0.4]},
)
add(
    "a mixture of factor analysers with noise of their own",
    """
def program(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([4]).to_event(1))
        W = numpyro.sample("W", dist.Normal(0, 1).expand([4, 2]).to_event(2))
        psi = numpyro.sample("psi", dist.HalfNormal(1).expand([4]).to_event(1))
    with numpyro.plate("rows", 5):
        z = numpyro.sample("z", dist.Categorical(w))
        u = numpyro.sample("u", dist.Normal(0, 1).expand([2]).to_event(1))
        mean = mu[z] + (W[z] @ u[..., None])[..., 0]
        numpyro.sample("x", dist.Normal(mean, psi[z]).to_event(1), obs=x)
""",
    {"x": WIDE},
    {
        "w": [0.4, 0.6],
        "mu": RNG.normal(size=(2, 4)),
        "W": RNG.normal(size=(2, 4, 2)),
        "psi": np.exp(0.3 * RNG.normal(size=(2, 4))),
    },
    ("u",),
)
