"""One normal sample: mean and standard deviation of the Nile's annual flow, 1871-1970.

x_n ~ Normal(mu, sigma)

x: annual flow (10^8 m^3)

mu and sigma are parameters, x is observed; nothing is latent. Data: statsmodels' `nile` (10^8 m^3).
The maximum likelihood estimates are the sample mean and the standard deviation with divisor n.
"""

import numpyro
import numpyro.distributions as dist


def model(x):
    mu = numpyro.sample("mu", dist.Normal(1000, 1000))
    sigma = numpyro.sample("sigma", dist.LogNormal(5, 2))
    with numpyro.plate("years", len(x)):
        numpyro.sample("x", dist.Normal(mu, sigma), obs=x)


def data():
    import statsmodels.api as sm

    return {"x": sm.datasets.nile.load_pandas().data["volume"].to_numpy()}
