"""Zero-inflated counts: half of the apple shoots under long days grow no roots, more than chance explains.

z_n ~ Bernoulli(logits = w_n' gamma),  y_n = 0 where z_n = 1,  y_n ~ Poisson(exp(x_n' beta)) where z_n = 0

A shoot that cannot root (z = 1) has no roots for sure; one that can (z = 0) may have none by chance. beta and
gamma are parameters, z is latent and summed out; EM weighs each shoot without roots by how likely it could
have rooted, and its M-step climbs a weighted Poisson and a weighted logistic regression by Newton's method.
With negative=True the counts are negative binomial, of variance mu + mu^2 / theta, and theta is a parameter
as well: log-likelihood -616.2255, so that the counts of roots are overdispersed even among shoots that can root.

x: days of 8 or 16 hours, with four concentrations of the cytokinin BAP (one column for each pair)
w: constant, days of 16 hours
y: roots of a shoot

Data: 270 micropropagated shoots of the columnar apple Trajan, Ridout, Hinde & Demetrio (1998), Models for
count data with many zeros, Proceedings of the 19th International Biometric Conference, 179-192; analysed in
Ridout, Hinde & Demetrio (2001), doi:10.1111/j.0006-341X.2001.00219.x. With a mean for each pair and a share
of shoots that cannot root for each length of day, twice the log-likelihood is -1244.457.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

HOURS, BAP = (8, 16), (2.2, 4.4, 8.8, 17.6)  # of light in a day, uM in the medium
CELLS = [f"{hours} h, {bap} uM" for hours in HOURS for bap in BAP]
SHOOTS = [  # of each cell: how many have 0, 1, 2, ... roots
    [0, 3, 2, 3, 6, 3, 2, 2, 3, 1, 2, 1, 0, 1, 0, 0, 0, 1],
    [0, 0, 3, 0, 1, 0, 3, 7, 3, 5, 3, 4, 0, 1],
    [0, 0, 1, 2, 4, 4, 4, 4, 7, 5, 4, 1, 2, 0, 2],
    [2, 0, 0, 2, 2, 5, 5, 4, 8, 3, 4, 4, 0, 0, 1],
    [15, 0, 2, 2, 1, 2, 1, 0, 1, 3, 1, 1, 1],
    [16, 2, 1, 1, 2, 1, 2, 0, 1, 0, 3, 0, 1],
    [12, 3, 2, 1, 2, 2, 3, 1, 0, 2, 0, 1, 1],
    [19, 2, 2, 4, 3, 1, 4, 3, 0, 2],
]  # fmt: skip

options = {
    "dims": {"beta": "cell", "gamma": "zeros"},
    "coords": {"cell": CELLS, "zeros": ["constant", "16 h"]},
}


def model(y, x, w, negative=False):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([x.shape[1]]).to_event(1))
    gamma = numpyro.sample("gamma", dist.Normal(0, 3).expand([w.shape[1]]).to_event(1))
    mu = jnp.exp(x @ beta)
    if negative:
        theta = numpyro.sample("theta", dist.LogNormal(2, 1.5))
        counts = dist.NegativeBinomial2(mu, theta)
    else:
        counts = dist.Poisson(mu)
    with numpyro.plate("shoots", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(logits=w @ gamma))
        numpyro.sample("y", dist.ZeroInflatedDistribution(counts, gate=1.0 * z), obs=y)


def data():
    cells = np.repeat(np.arange(len(CELLS)), [sum(row) for row in SHOOTS])
    long_days = cells >= len(BAP)
    return {
        "y": np.concatenate([np.repeat(np.arange(len(row)), row) for row in SHOOTS]),
        "x": np.eye(len(CELLS))[cells],
        "w": np.column_stack([np.ones(len(cells)), long_days]),
    }


published = {"log_likelihood": (-1244.457 / 2, 3e-4)}


def picture(fit):
    """Shoots by their roots in each cell, and what the model expects: zeros of both kinds, and counts."""
    from matplotlib.figure import Figure
    from scipy import stats

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    y, x, w = (np.asarray(arguments[name]) for name in "yxw")
    roots = np.arange(int(np.max(y)) + 1)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, row in zip(panels.flat, np.unique(np.column_stack([x, w]), axis=0)[::-1]):
        inside = (x == row[: x.shape[1]]).all(1)
        mu = np.exp(row[: x.shape[1]] @ np.asarray(p["beta"]))
        never = 1 / (1 + np.exp(-row[x.shape[1] :] @ np.asarray(p["gamma"])))
        if "theta" in p:
            chance = stats.nbinom.pmf(roots, p["theta"], p["theta"] / (p["theta"] + mu))
        else:
            chance = stats.poisson.pmf(roots, mu)
        n = inside.sum()
        axes.bar(roots, np.bincount(y[inside].astype(int), minlength=len(roots)), color="0.82")
        axes.plot(roots, n * (1 - never) * chance, "o-", ms=3.5, lw=1, color="#4477aa")
        axes.vlines(
            0,
            n * (1 - never) * chance[0],
            n * (never + (1 - never) * chance[0]),
            color="#cc6677",
            lw=4,
        )
        axes.set_title(CELLS[int(row[: len(CELLS)].argmax())], fontsize=10)
    figure.supxlabel("roots of a shoot")
    figure.supylabel("shoots")
    figure.suptitle(
        f"Grey: observed; blue: expected of shoots that can root; red: that cannot ({fit.method})"
    )
    return figure
