"""Mixture of Poissons: daily deaths of women aged 80 and over, The Times 1910-1912.

z_n ~ Categorical(w),  x_n ~ Poisson(rate[z_n])

w and rate are parameters, z is latent and summed out. EM is in closed form, and slow: nearly all that
tells the components apart is missing (rate 0.9957).

x: deaths in a day

The 1096 days come as frequencies of 0..9 deaths and enter as case weights. Data: Hasselblad (1969),
doi:10.1080/01621459.1969.10501071. Maximum likelihood for K=2: log-likelihood -1989.946, rates 1.256 and
2.663, weight 0.360 (more digits in the vignette of SQUAREM, Varadhan & Roland 2008,
doi:10.1111/j.1467-9469.2007.00585.x).
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

published = {
    "log_likelihood": (-1989.946, 5e-4), "w[0]": (0.3598855, 2e-6), "rate[0]": (1.2560951, 2e-6),
    "rate[1]": (2.6634044, 2e-6),
}  # fmt: skip


def model(deaths, days, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("cells", len(deaths)), numpyro.handlers.scale(scale=days):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=deaths)


def data():
    days = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    return {"deaths": np.arange(10), "days": days}
