"""One normal sample: mean and standard deviation of the Nile's annual flow, 1871-1970.

x_n ~ Normal(mu, sigma)

x: annual flow (10^8 m^3)

mu and sigma are parameters, x is observed; nothing is latent, and EM's one M-step is the closed form: the
sample mean, 919.35, and the standard deviation with divisor n, 168.38 (169.23 with n - 1, as R's `Nile`
has it). Data: statsmodels' `nile` (Cobb 1978, doi:10.1093/biomet/65.2.243).
"""

import numpyro
import numpyro.distributions as dist

published = {"mu": (919.35, 0.005), "sigma": (168.3792, 1e-4)}


def model(x):
    mu = numpyro.sample("mu", dist.Normal(1000, 1000))
    sigma = numpyro.sample("sigma", dist.LogNormal(5, 2))
    with numpyro.plate("years", len(x)):
        numpyro.sample("x", dist.Normal(mu, sigma), obs=x)


def data():
    import statsmodels.api as sm

    return {"x": sm.datasets.nile.load_pandas().data["volume"].to_numpy()}
