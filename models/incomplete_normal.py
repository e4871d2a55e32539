"""Normal vectors with missing entries: the size of an apple crop and its worms, counted on 12 of 18 trees.

(size_n, worms_n) ~ MultivariateNormal(mu, covariance), NaN where the worms were not counted

mu and covariance are parameters; what is missing is integrated out, and EM is the textbook's: regress
the missing entries on the seen ones, then take the mean and covariance of what is expected. Small crops
have more worms, and it was on small crops that they were not counted: the mean of the counted trees, 45,
is too low, the maximum likelihood estimate is 49.3333 worms, with sizes of mean 14.7222 (a closed form
exists), and log L = -101.7856321. `fit.impute()` tells what is expected on the other six trees. Source:
Little & Rubin (2019), Statistical Analysis with Missing Data, 3rd edition, doi:10.1002/9781119482260,
section 7.2. Data: Snedecor & Cochran (1967), Statistical Methods, 6th edition, table 6.9.1: crop in
hundreds of fruits, and the percentage of wormy fruits.

x: size of the crop (100 fruits), wormy fruits (%)
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

SIZE = [8, 6, 11, 22, 14, 17, 18, 24, 19, 23, 26, 40, 4, 4, 5, 6, 8, 10]
WORMS = [59, 58, 56, 53, 50, 45, 43, 42, 39, 38, 30, 27]

published = {
    "mu[0]": (14.7222, 6e-5), "mu[1]": (49.3333, 6e-5), "covariance[0,0]": (89.53395, 6e-6),
    "covariance[0,1]": (-90.69673, 6e-6), "covariance[1,1]": (114.69496, 6e-6),
    "log_likelihood": (-101.7856321, 6e-8),
}  # fmt: skip


def model(x):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 100).expand([d]).to_event(1))
    covariance = numpyro.param(
        "covariance", 100.0 * jnp.eye(d), constraint=dist.constraints.positive_definite
    )
    with numpyro.plate("trees", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(mu, covariance), obs=x)


def data():
    worms = np.full(len(SIZE), np.nan)
    worms[: len(WORMS)] = WORMS
    return {"x": np.column_stack([np.asarray(SIZE, float), worms])}


def picture(fit):
    """The trees in the plane, what is expected of those without a count, and nine tenths of the law of all."""
    from matplotlib.figure import Figure

    (x,) = fit.model.observed_values().values()
    whole = fit.model.impute(fit.params)["x"]
    open_rows = np.isnan(x).any(1)
    spread, axes_of = np.linalg.eigh(np.asarray(fit.params["covariance"]))
    turn = np.linspace(0, 2 * np.pi, 200)
    ring = np.sqrt(2 * np.log(10) * spread) * np.column_stack([np.cos(turn), np.sin(turn)])
    ring = ring @ axes_of.T + fit.params["mu"]
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*ring.T, color="0.6", lw=1, label="90% of the law")
    axes.plot(*x[~open_rows].T, "o", ms=5, color="#4477aa", label="counted")
    mean, sd = whole.mean[open_rows], 1.96 * whole.sd[open_rows]
    bars = {"fmt": "o", "mfc": "white", "ms": 5, "lw": 1, "color": "#cc6677"}
    axes.errorbar(*mean.T, yerr=sd[:, 1], label="expected, with 95% intervals", **bars)
    axes.set_xlabel("size of the crop (100 fruits)")
    axes.set_ylabel("wormy fruits (%)")
    axes.set_title(f"Crops and their worms, {fit.method}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
