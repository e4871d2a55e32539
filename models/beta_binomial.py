"""Beta-binomial regression: seeds of a plate germinate or fail together, more than a binomial allows.

p_n ~ Beta with mean sigmoid(x_n' beta) and intraclass correlation rho,  y_n ~ Binomial(seeds_n, p_n)

beta and rho are parameters. The plates' own probabilities p are integrated out in closed form, which is the
beta-binomial law; its variance is 1 + (seeds - 1) rho times the binomial one. Nothing else is latent, so that EM
has no E-step and climbs the likelihood itself.

x: constant, Orobanche aegyptiaca 75 in place of 73, root extract of cucumber in place of bean, both
y: seeds that germinated
seeds: seeds on the plate

Data: 21 plates, Crowder (1978), Beta-binomial Anova for proportions, doi:10.2307/2346223, table 3. The
coefficients by maximum likelihood are -0.44, -0.10, 0.52 and 0.80 (R's aod, in the documentation of
agridat's crowder.seeds).
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

GERMINATED = [
    [10, 23, 23, 26, 17], [5, 53, 55, 32, 46, 10], [8, 10, 8, 23, 0], [3, 22, 15, 32, 3],
]  # fmt: skip
SEEDS = [
    [39, 62, 81, 51, 39], [6, 74, 72, 51, 79, 13], [16, 30, 28, 45, 4], [12, 41, 30, 51, 7],
]  # fmt: skip
GROUPS = ["75, bean", "75, cucumber", "73, bean", "73, cucumber"]  # seed, root extract

COLUMNS = ["constant", "75", "cucumber", "75 and cucumber"]
options = {"dims": {"beta": "covariate"}, "coords": {"covariate": COLUMNS}}


def model(y, seeds, x):
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    rho = numpyro.sample("rho", dist.Beta(1, 10))
    mu, size = jax.nn.sigmoid(x @ beta), (1 - rho) / rho
    with numpyro.plate("plates", len(y)):
        numpyro.sample("y", dist.BetaBinomial(mu * size, (1 - mu) * size, seeds), obs=y)


def data():
    group = np.repeat(np.arange(4), [len(row) for row in SEEDS])
    seed, root = group < 2, group % 2
    return {
        "y": np.concatenate(GERMINATED),
        "seeds": np.concatenate(SEEDS),
        "x": np.column_stack([np.ones(len(group)), seed, root, seed * root]),
    }


published = {
    "beta[constant]": (-0.44, 0.005),
    "beta[75]": (-0.10, 0.005),
    "beta[cucumber]": (0.52, 0.005),
    "beta[75 and cucumber]": (0.80, 0.005),
}


def picture(fit):
    """Each plate's share of seeds that germinated, and where nine plates of ten should lie."""
    from matplotlib.figure import Figure
    from scipy import stats

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    y, seeds, x = (np.asarray(arguments[name]) for name in ("y", "seeds", "x"))
    mu = 1 / (1 + np.exp(-x @ np.asarray(p["beta"])))
    size = (1 - p["rho"]) / p["rho"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(np.unique(x, axis=0)):
        here = (x == row).all(1)
        mean, n = mu[here][0], seeds[here]
        low, high = stats.beta.ppf([0.05, 0.95], mean * size, (1 - mean) * size)
        axes.fill_between([at - 0.36, at + 0.36], low, high, color="#4477aa", alpha=0.25, lw=0)
        axes.plot([at - 0.36, at + 0.36], [mean, mean], color="#4477aa")
        across = at + np.linspace(-0.26, 0.26, len(n))
        axes.scatter(across, y[here] / n, 3 + 2 * n, color="0.25", alpha=0.75, lw=0, zorder=3)
        axes.text(at, 1.05, f"{mean:.2f}", ha="center", color="#4477aa")
    axes.set_xticks(range(4), ["73, bean", "73, cucumber", "75, bean", "75, cucumber"])
    axes.set_ylim(-0.05, 1.12)
    axes.set_xlabel("seed, root extract")
    axes.set_ylabel("share of seeds that germinated")
    axes.set_title(
        f"Plates (area: seeds), means and 90% of plates' own probabilities, {fit.method}",
        fontsize=11,
    )
    return figure
