"""Eight schools: how much coaching for a test helps, a random effect for each school.

theta_j ~ Normal(mu, tau),  y_j ~ Normal(theta_j, s_j)

mu and tau are parameters, the schools' effects theta are latent and integrated out exactly; the
standard errors s are known. EM's M-step is the mean and spread of the expected effects. By maximum
likelihood tau is zero, at the edge of its support, and mu = 7.7 the pooled estimate; the posterior says
how much larger tau may be. Source: Rubin (1981), doi:10.3102/10769986006004377,
table 1, and Gelman et al., Bayesian Data Analysis, section 5.5, whose prior this is.

y: effect of coaching (points)
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

published = {"mu": (7.7, 0.05)}


def model(y, s):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, s), obs=y)


def data():
    return {
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
        "s": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    }
