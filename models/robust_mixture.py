"""Robust mixture: a straight line through points of which some are outliers, and which ones is latent.

z_n ~ Bernoulli(share),  y_n ~ Normal(a + b x_n, s_n) where z_n = 0,  y_n ~ Normal(m, sqrt(s_n^2 + t^2)) where z_n = 1

The line's a and b, the share of outliers and their own law, centre m and spread t, are parameters; z is latent and
summed out, and the points' own errors s are known. In EM each point pulls at the line by the probability that it
is no outlier; the M-step is Newton's. Least squares, which believes every error, finds a slope of 1.08 where the
mixture has 2.26. The position x is taken as exact.

x: position
y: measured value
s: its standard error

Data: 20 points, Hogg, Bovy & Lang (2010), Data analysis recipes: fitting a model to data, arXiv:1008.4686, table 1,
made up there with four outliers (the first four); their exercise 6 is this model. Without these four least
squares has b = 2.24 and a = 34 (exercise 1). Checked against a maximisation of the same density in scipy.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

POINTS = np.array([  # x, y, standard error of y
    [201, 592, 61], [244, 401, 25], [47, 583, 38], [287, 402, 15], [203, 495, 21], [58, 173, 15],
    [210, 479, 27], [202, 504, 14], [198, 510, 30], [158, 416, 16], [165, 393, 14], [201, 442, 25],
    [157, 317, 52], [131, 311, 16], [166, 400, 34], [160, 337, 31], [186, 423, 42], [125, 334, 26],
    [218, 533, 16], [146, 344, 22],
], float)  # fmt: skip


def model(y, x, s):
    a = numpyro.sample("a", dist.Normal(0, 200))
    b = numpyro.sample("b", dist.Normal(0, 5))
    share = numpyro.sample("share", dist.Beta(2, 6))
    m = numpyro.sample("m", dist.Normal(400, 300))
    t = numpyro.sample("t", dist.LogNormal(4.5, 0.8))
    with numpyro.plate("points", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        centre = jnp.where(z == 1, m, a + b * x)
        spread = jnp.where(z == 1, jnp.sqrt(s**2 + t**2), s)
        numpyro.sample("y", dist.Normal(centre, spread), obs=y)


def data():
    x, y, s = POINTS.T
    return {"y": y, "x": x, "s": s}


def picture(fit):
    """The line, the points coloured by the probability of being an outlier, and weighted least squares."""
    from matplotlib.figure import Figure

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    x, y, s = (np.asarray(arguments[name]) for name in "xys")
    outlier = np.asarray(fit.posterior()["z"])[:, 1]
    slope, level = np.polyfit(x, y, 1, w=1 / s)
    line = np.array([0.9 * x.min(), 1.05 * x.max()])
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(x, y, s, fmt="none", ecolor="0.6", lw=1, zorder=1)
    points = axes.scatter(
        x, y, 40, c=outlier, cmap="coolwarm", vmin=0, vmax=1, edgecolor="0.3", zorder=2
    )
    axes.plot(line, p["a"] + p["b"] * line, color="#4477aa", label=f"mixture: slope {p['b']:.2f}")
    axes.plot(line, level + slope * line, "--", color="0.4", label=f"least squares: {slope:.2f}")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.legend(loc="lower right")
    figure.colorbar(points, label="probability of being an outlier")
    axes.set_title(f"A line and its outliers, {fit.method}")
    return figure
