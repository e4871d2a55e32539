"""Local level: the annual flow of the Nile at Aswan, 1871-1970.

level_t ~ Normal(level_{t-1}, sqrt(Q)),  y_t ~ Normal(level_t, sqrt(H))

The variances H (of the observations) and Q (of the level) are parameters, the level is latent and
integrated out by a Kalman recursion; EM's M-steps are mean expected squares, found by Newton. What comes
before the first year is flat (exact diffuse). The maximum likelihood is -632.5456 at H = 15099 and Q =
1469.1 (without the constant of the first observation, which the flat law takes). Source: Durbin &
Koopman, Time Series Analysis by State Space Methods (2012), section 2.10.3,
doi:10.1093/acprof:oso/9780199641178.001.0001. Data from statsmodels (nile).

y: annual flow (10^8 m^3)
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

options = {"latents": {"before"}}

published = {"log_likelihood": (-632.5456, 6e-5), "H": (15099.0, 0.6), "Q": (1469.1, 0.1)}


def model(y):
    H = numpyro.sample("H", dist.HalfNormal(50_000))
    Q = numpyro.sample("Q", dist.HalfNormal(10_000))
    before = numpyro.sample("before", dist.ImproperUniform(dist.constraints.real, (), ()))

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, jnp.sqrt(Q)))
        numpyro.sample("y", dist.Normal(level, jnp.sqrt(H)), obs=y_t)
        return level, None

    scan(step, before, y)


def data():
    from statsmodels.datasets import nile

    table = nile.load_pandas().data
    return {"y": table.set_index(table["year"].astype(int))["volume"]}


def picture(fit, ahead=10):
    """The series with its smoothed level and a forecast of it, with their 95% bands."""
    observed = fit.model.observed_values()["y"]
    ahead = fit.model.forecast(fit.params, ahead)["level"]
    figure = fit.plot_latents("level", observed={"level": observed}, forecasts={"level": ahead})
    figure.axes[0].set_ylabel("annual flow ($10^8$ m$^3$)")
    return figure
