"""Negative binomial regression: the days that pupils missed school, far more spread than a Poisson law allows.

y_n ~ NegativeBinomial with mean mu_n = exp(x_n' beta) and variance mu_n + mu_n^2 / theta

beta and theta are parameters. The law is that of Poisson counts whose rates vary by a Gamma(theta) factor from pupil
to pupil; the factors are integrated out in closed form, so that no latent is left and EM has no E-step. The
larger theta, the nearer to Poisson.

x: for girls and for boys apart, an age group, whether not aboriginal, whether a slow learner, both
y: days absent in a year

Data: 146 pupils of Walgett, New South Wales, as R's MASS has them (`quine`): Quine (1975), in Aitkin (1978), The
analysis of unbalanced cross-classifications, doi:10.2307/2344453. Venables & Ripley, Modern Applied Statistics
with S (2002), doi:10.1007/978-0-387-21706-2, section 7.4: for the formula Days ~ Sex/(Age + Eth*Lrn) theta is
1.597991, and twice the log-likelihood -1063.025.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

DAYS = {  # sex, age group, aboriginal or not, average or slow learner
    "F 0 A average": [5, 11, 24, 45], "F 0 A slow": [3], "F 1 A average": [5, 5, 11, 17, 19],
    "F 1 A slow": [5, 6, 6, 9, 13, 23, 25, 32, 53, 54], "F 2 A average": [2],
    "F 2 A slow": [8, 13, 14, 20, 47, 48, 60, 81],
    "F 3 A average": [0, 2, 3, 5, 10, 14, 21, 36, 40], "M 0 A average": [5, 5, 13, 20, 22],
    "M 0 A slow": [2, 11, 14], "M 1 A average": [7, 14], "M 1 A slow": [6, 6, 15],
    "M 2 A average": [14, 16, 16, 17, 40, 43, 46], "M 2 A slow": [6, 32, 53, 57],
    "M 3 A average": [8, 23, 23, 28, 34, 36, 38], "F 0 N average": [10, 11, 20, 33],
    "F 0 N slow": [25], "F 1 N average": [5, 6, 6, 7, 14, 28],
    "F 1 N slow": [0, 1, 5, 5, 5, 5, 5, 7, 7, 11, 15], "F 2 N average": [1],
    "F 2 N slow": [0, 2, 2, 3, 5, 8, 10, 12, 14],
    "F 3 N average": [1, 3, 3, 5, 9, 15, 18, 22, 22, 37], "M 0 N average": [0, 0, 2, 7, 11, 12],
    "M 0 N slow": [6, 17, 67], "M 1 N average": [3, 4], "M 1 N slow": [0, 0, 5, 5, 5, 11, 17],
    "M 2 N average": [0, 1, 5, 7, 8, 16, 27], "M 2 N slow": [22, 30, 36],
    "M 3 N average": [0, 10, 14, 27, 30, 41, 69],
}  # fmt: skip

WITHIN = [
    "constant",
    "form 1",
    "form 2",
    "form 3",
    "not aboriginal",
    "slow",
    "not aboriginal and slow",
]
COLUMNS = [f"{sex}: {name}" for sex in ("girls", "boys") for name in WITHIN]
options = {"dims": {"beta": "covariate"}, "coords": {"covariate": COLUMNS}}


def model(y, x):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([x.shape[1]]).to_event(1))
    theta = numpyro.sample("theta", dist.LogNormal(0, 2))
    with numpyro.plate("pupils", len(y)):
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(x @ beta), theta), obs=y)


def row(cell):
    """The covariates of a pupil in a cell of the table."""
    sex, age, origin, learner = cell.split()
    other, slow = origin == "N", learner == "slow"
    within = [1, age == "1", age == "2", age == "3", other, slow, other and slow]
    return np.kron([sex == "F", sex == "M"], within).astype(float)


def data():
    return {
        "y": np.concatenate(list(DAYS.values())),
        "x": np.concatenate([np.tile(row(cell), (len(days), 1)) for cell, days in DAYS.items()]),
    }


published = {"log_likelihood": (-1063.025 / 2, 3e-4), "theta": (1.597991, 1e-6)}


def picture(fit):
    """Each pupil's days by cell of the table, with the cell's mean and where nine pupils of ten should lie."""
    from matplotlib.figure import Figure
    from scipy import stats

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    y, x, theta = np.asarray(arguments["y"]), np.asarray(arguments["x"]), p["theta"]
    cells, of = np.unique(x, axis=0, return_inverse=True)
    mu = np.exp(cells @ np.asarray(p["beta"]))
    order = np.argsort(mu)
    figure = Figure(figsize=(8.4, 5), layout="constrained")
    axes = figure.subplots()
    for at, k in enumerate(order):
        low, high = stats.nbinom.ppf([0.05, 0.95], theta, theta / (theta + mu[k]))
        axes.plot([at, at], [low, high], color="#4477aa", lw=7, alpha=0.25, solid_capstyle="butt")
        axes.plot([at - 0.35, at + 0.35], [mu[k]] * 2, color="#4477aa", lw=2)
        days = np.sort(y[of.ravel() == k])
        axes.plot(at + np.linspace(-0.2, 0.2, len(days) + 2)[1:-1], days, "o", ms=3.5, color="0.3")
    names = {tuple(row(cell)): cell for cell in DAYS}
    ticks = [names.get(tuple(cells[k]), "") for k in order]
    axes.set_xticks(range(len(cells)), ticks, rotation=90, fontsize=8)
    axes.set_xlabel("sex, age group, A(boriginal) or N(ot), learner")
    axes.set_ylabel("days absent")
    axes.set_title(f"Pupils, means, and 90% of the negative binomial, {fit.method}")
    return figure
