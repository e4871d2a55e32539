"""Tobit: spending on durable goods, which cannot be less than nothing.

y*_i ~ Normal(x_i' beta, sigma),  y_i = max(y*_i, 0)

beta and sigma are parameters; the y* of households that bought nothing is latent, a Normal below zero, and is
integrated out in the formula: such a row gives P(y* <= 0). EM and MLE are the same maximum; EM's M-step is
numeric.

durable: spending on durable goods
x: intercept, age (years), liquidity ratio (per 1000)

Data: 20 households of Tobin (1958), doi:10.2307/1907382, the table `tobin` of R's survival. Published for
`survreg(Surv(durable, durable > 0, type = "left") ~ age + quant, dist = "gaussian")` in that package's
documentation: 15.14487, -0.12906, -0.04554, scale 5.57, log L = -28.9. Thirteen of the twenty bought nothing.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

HOUSEHOLDS = np.array([  # durable, age, quant
    [0.0, 57.7, 236], [0.7, 50.9, 283], [0.0, 48.5, 207], [0.0, 41.7, 220], [0.0, 47.7, 238],
    [0.0, 59.8, 216], [0.0, 44.3, 284], [3.7, 45.1, 221], [0.0, 51.7, 275], [3.0, 50.0, 269],
    [10.4, 46.8, 207], [0.0, 58.0, 249], [0.0, 58.9, 246], [0.0, 40.0, 277], [1.5, 34.1, 231],
    [0.0, 39.9, 219], [0.0, 33.4, 240], [3.5, 48.1, 266], [6.1, 46.6, 214], [0.0, 53.1, 251],
])  # fmt: skip

options = {
    "dims": {"beta": "covariate"},
    "coords": {"covariate": ["intercept", "age", "liquidity"]},
}
published = {
    "log_likelihood": (-28.9, 0.05),
    "beta[intercept]": (15.14486636, 1e-6),
    "beta[age]": (-0.12905928, 1e-8),
    "beta[liquidity]": (-0.04554166, 1e-8),
    "sigma": (5.57254, 6e-6),
}


class CensoredBelow(dist.Distribution):
    """A Normal(loc, scale) of which only max(value, 0) is seen."""

    arg_constraints = {"loc": dist.constraints.real, "scale": dist.constraints.positive}
    support = dist.constraints.nonnegative

    def __init__(self, loc, scale, *, validate_args=None):
        self.loc, self.scale = jnp.broadcast_arrays(loc, scale)
        super().__init__(jnp.shape(self.loc), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        return jnp.maximum(dist.Normal(self.loc, self.scale).sample(key, sample_shape), 0)

    def log_prob(self, value):
        law = dist.Normal(self.loc, self.scale)
        return jnp.where(value > 0, law.log_prob(value), law.log_cdf(0.0))


def model(durable, x):
    beta = numpyro.sample("beta", dist.Normal(0, 20).expand([x.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(1, 1))
    with numpyro.plate("households", len(durable)):
        numpyro.sample("durable", CensoredBelow(x @ beta, sigma), obs=durable)


def data():
    durable, age, quant = HOUSEHOLDS.T
    return {"durable": durable, "x": np.column_stack([np.ones(20), age, quant])}


def picture(fit):
    """Spending against the index x' beta, with the mean of y* and of what is seen of it."""
    from matplotlib.figure import Figure
    from scipy.stats import norm

    (y,) = fit.model.observed_values().values()
    given = fit.model.arguments
    x = np.asarray(dict(zip(given.names, given.dynamic))["x"])
    index, sigma = x @ np.asarray(fit.params["beta"]), float(fit.params["sigma"])
    grid = np.linspace(index.min() - 1, index.max() + 1, 200)
    mean = grid * norm.cdf(grid / sigma) + sigma * norm.pdf(grid / sigma)
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.8", lw=1)
    axes.plot(grid, grid, "--", color="#ee6677", lw=1.5, label="mean of y*: x' beta")
    axes.plot(grid, mean, color="#4477aa", lw=2, label="mean of y = max(y*, 0)")
    axes.plot(index[y > 0], y[y > 0], "ko", ms=5, label="bought")
    axes.plot(index[y <= 0], y[y <= 0], "o", mfc="none", mec="k", ms=5, label="bought nothing")
    axes.set_xlabel("index x' beta")
    axes.set_ylabel("spending on durable goods")
    axes.set_title(f"Tobit, sigma = {sigma:.2f}, {fit.method}")
    axes.legend(frameon=False, loc="upper left")
    return figure
