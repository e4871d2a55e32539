"""Change point: British coal mines became safer, but in which year did the disasters become fewer?

tau ~ DiscreteUniform over the years after the first,  y_t ~ Poisson(early) for t < tau, Poisson(late) from tau on

The two rates are parameters. The year of the change is one latent for the whole series, summed out: its posterior
gives every year a probability, where least squares or a profile likelihood give a single one. In EM each rate
is the mean of the years, weighed by how likely they lie before or after the change.

y: disasters in a year

Data: explosions that killed ten miners or more, 15 March 1851 to 22 March 1962, Jarrett (1979),
doi:10.1093/biomet/66.1.191. Carlin, Gelfand & Smith (1992), doi:10.2307/2347570, find the posterior mode of the
change after 1891 and rates near 3.1 and 0.9; by maximum likelihood they are 3.12
and 0.92, log-likelihood -171.9311 (the sum over all years by hand is the same). The series is one independent
unit, so that there is no leave-one-out.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

FIRST = 1851
DISASTERS = """4 5 4 1 0 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 2 2 1 1 1 1 3 0 0
1 0 1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 1 2 1 1 1 1 2 3 3 0 0 0 1
4 0 0 0 1 0 0 0 0 0 1 0 0 1 0 1"""


def model(y):
    early = numpyro.sample("early", dist.Gamma(2, 1))
    late = numpyro.sample("late", dist.Gamma(2, 1))
    tau = numpyro.sample("tau", dist.DiscreteUniform(1, len(y) - 1))
    with numpyro.plate("years", len(y)):
        rate = jnp.where(jnp.arange(len(y)) < tau, early, late)
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def data():
    return {"y": np.array(DISASTERS.split(), int)}


def picture(fit):
    """The counts with the expected rate of each year, and the posterior of the year of the change."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    y = np.asarray(dict(zip(given.names, given.dynamic))["y"])
    years = FIRST + np.arange(len(y))
    change = np.ravel(fit.posterior()["tau"])  # over the years 1, 2, ... after the first
    begun = np.concatenate(
        [[0], np.cumsum(change)]
    )  # probability that a year lies at or after the change
    rate = (1 - begun) * fit.params["early"] + begun * fit.params["late"]
    figure = Figure(figsize=(7.6, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.bar(years, y, color="0.78", width=1)
    above.plot(years, rate, color="#cc3311", label="expected rate")
    above.set_ylabel("disasters in a year")
    above.legend()
    above.set_title(f"Disasters and the year from which they are fewer, {fit.method}")
    below.bar(years[1:], change, color="#4477aa", width=1)
    best = int(change.argmax())
    below.annotate(str(years[1 + best]), (years[1 + best], change[best]), xytext=(12, -10),
                   textcoords="offset points", color="#4477aa")  # fmt: skip
    below.set_ylabel("probability")
    below.set_xlabel("first year at the lower rate")
    return figure
