"""N-mixture: how many birds live at a site, when each count misses some of them?

N_i ~ Poisson(exp(beta_0 + beta_1 forest_i)),  y_ij ~ Binomial(N_i, p)

N (the birds at a site) is latent and summed over 0 to `most`, of which the Poisson law leaves out next to
nothing; beta and p, the probability that a bird that is there is counted, are parameters. A count above N has
probability zero. The counts alone tell beta_0 and p apart only because they are repeated: their covariance
over visits is the variance of N times p squared. EM's M-steps are Newton's.

y: birds counted
forest: forest cover (standardised)

Data: 100 sites with four visits, simulated at beta = (0.7, 0.6) and p = 0.5. The likelihood was checked
against sums of Poisson and binomial probabilities in SciPy. Source: Royle (2004),
doi:10.1111/j.0006-341X.2004.00142.x.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

truth = {"beta": np.array([0.7, 0.6]), "p": 0.5}
options = {"dims": {"beta": "covariate"}, "coords": {"covariate": ["intercept", "forest"]}}


def model(y, forest, most=20):
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([2]).to_event(1))
    p = numpyro.sample("p", dist.Beta(1, 1))
    birds = jnp.arange(most + 1)
    with numpyro.plate("sites", len(y), dim=-2):
        rate = jnp.exp(beta[0] + beta[1] * forest)[:, None, None]
        N = numpyro.sample("N", dist.Categorical(logits=dist.Poisson(rate).log_prob(birds)))
        with numpyro.plate("visits", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Binomial(N, p), obs=y)


def data():
    rng = np.random.default_rng(2)
    forest = rng.normal(size=100)
    forest = (forest - forest.mean()) / forest.std()
    birds = rng.poisson(np.exp(truth["beta"][0] + truth["beta"][1] * forest))
    return {"y": rng.binomial(birds[:, None], truth["p"], (100, 4)), "forest": forest}


def picture(fit):
    """Counts of each site, the posterior of its birds (5% to 95%), and their mean by forest cover."""
    from matplotlib.figure import Figure

    (y,) = fit.model.observed_values().values()
    given = fit.model.arguments
    forest = np.asarray(dict(zip(given.names, given.dynamic))["forest"])
    (posterior,) = fit.posterior().values()
    posterior = np.asarray(posterior).reshape(len(y), -1)
    below = posterior.cumsum(1)
    low, middle, high = ((below < q).sum(1) for q in (0.05, 0.5, 0.95))
    beta, p = np.asarray(fit.params["beta"]), float(fit.params["p"])
    grid = np.linspace(forest.min(), forest.max(), 100)
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.vlines(
        forest, low, high, color="#88bbdd", lw=2, label="birds at the site: median, 5% to 95%"
    )
    axes.plot(forest, middle, "s", color="#4477aa", ms=3.5)
    axes.plot(np.repeat(forest, y.shape[1]), y.ravel(), "k.", ms=3.5, label="counts")
    mean = np.exp(beta[0] + beta[1] * grid)
    axes.plot(grid, mean, color="#ee6677", lw=2, label="mean number of birds")
    axes.plot(grid, p * mean, "--", color="#ee6677", lw=1.5, label="mean count")
    axes.set_xlabel("forest cover (standardised)")
    axes.set_ylabel("birds")
    axes.set_title(
        f"p = {p:.2f}: {posterior @ np.arange(posterior.shape[1]) @ np.ones(len(y)):.0f} birds "
        f"at {len(y)} sites, {fit.method}"
    )
    axes.legend(frameon=False, loc="upper left")
    return figure
