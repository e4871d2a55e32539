"""Random-effects meta-analysis: 13 trials of the BCG vaccine against tuberculosis.

theta_i ~ Normal(mu, tau),  y_i ~ Normal(theta_i, s_i)

y is the log odds ratio of trial i and s its standard error, sqrt(1/a + 1/b + 1/c + 1/d) of its table of
two by two. mu and tau are parameters, the trials' effects theta are latent and integrated out exactly;
EM's M-step is the mean and spread of the expected effects. By maximum likelihood the pooled odds ratio
exp(mu) is 0.4762 and tau^2 is 0.3025. Source: Colditz et al. (1994),
doi:10.1001/jama.1994.03510330076038; van Houwelingen, Arends & Stijnen (2002), doi:10.1002/sim.1040,
section 3; metafor's test suite (Viechtbauer 2010, doi:10.18637/jss.v036.i03).

y: log odds ratio
"""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

# Cases and others among the vaccinated, cases and others among the controls.
TRIALS = np.array([
    [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619],
    [33, 5036, 47, 5761], [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892],
    [29, 7470, 45, 7232], [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338],
    [27, 16886, 29, 17825],
])  # fmt: skip

AUTHORS = [
    "Aronson 1948", "Ferguson 1949", "Rosenthal 1960", "Hart 1977", "Frimodt-Moller 1973",
    "Stein 1953", "Vandiviere 1973", "Madras 1980", "Coetzee 1968", "Rosenthal 1961", "Comstock 1974",
    "Comstock 1969", "Comstock 1976",
]  # fmt: skip

published = {
    "log_likelihood": (-13.0731, 1e-3), "mu": (-0.7419, 1.5e-4), "tau": (0.55, 6e-5),
}  # fmt: skip


def model(y, s):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("trials", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, s), obs=y)


def data():
    a, b, c, d = TRIALS.T.astype(float)
    ratio = pd.Series(np.log(a * d / (b * c)), index=AUTHORS)
    return {"y": ratio, "s": np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)}


def picture(fit):
    """A forest plot: every trial with its 95% interval, and its expected effect given all of them."""
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
    axes.errorbar(mean, place - 0.16, xerr=1.96 * sd, label="given all trials", **shared)
    axes.set_yticks(place, getattr(y, "index", range(len(y))))
    axes.set_xlabel("log odds ratio, with 95% intervals")
    axes.set_title(f"Own and shrunken effects, {fit.method}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
