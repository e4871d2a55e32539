"""Eight schools: how much coaching for a test helps, a random effect for each school.

theta_j ~ Normal(mu, tau),  y_j ~ Normal(theta_j, s_j)

mu and tau are parameters, the schools' effects theta are latent and integrated out exactly; the
standard errors s are known. EM's M-step is the mean and spread of the expected effects. By maximum
likelihood tau is zero, at the edge of its support, and mu = 7.7 the pooled estimate; the posterior says
how much larger tau may be. Source: Rubin (1981), doi:10.3102/10769986006004377,
table 1, and Gelman et al., Bayesian Data Analysis, section 5.5, whose prior this is.

y: effect of coaching (points)
"""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

published = {"mu": (7.7, 0.05)}


def model(y, s):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, s), obs=y)


def data():
    return {
        "y": pd.Series([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], index=list("ABCDEFGH")),
        "s": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    }


def picture(fit):
    """A forest plot: every school with its 95% interval, and its expected effect given all of them."""
    from matplotlib.figure import Figure

    given = fit.model.arguments.values()[0]
    y, s = given[:2]
    theta, mu = fit.posterior()["theta"], float(fit.params["mu"])
    mean, sd = np.ravel(theta.mean), np.ravel(theta.sd)
    place = np.arange(len(y))[::-1]
    figure = Figure(figsize=(6.4, 1.6 + 0.3 * len(y)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(mu, color="0.75", lw=1, label="mean of all")
    own = {"color": "0.45", "fmt": "s", "ms": 4, "lw": 1}
    axes.errorbar(y, place + 0.12, xerr=1.96 * np.asarray(s), label="own estimate", **own)
    shared = {"color": "#4477aa", "fmt": "o", "ms": 4, "lw": 1.6}
    axes.errorbar(mean, place - 0.16, xerr=1.96 * sd, label="given all schools", **shared)
    axes.set_yticks(place, getattr(y, "index", range(len(y))))
    axes.set_xlabel("effect of coaching (points), with 95% intervals")
    axes.set_title(f"Own and shrunken effects, {fit.method}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
