"""Markov-switching autoregression: growth of real output in the United States, 1959-2009.

z_t ~ Categorical(P[z_{t-1}]),  x_t ~ Normal(mu[z_t] + phi x_{t-1}, sigma)

P, mu, phi and sigma are parameters, the regime z is latent and summed out by forward-backward; the first
regime has a uniform law, and the first quarter is conditioned upon. EM's M-steps are expected shares
and a weighted regression. A switching intercept, after Hamilton (1989),
doi:10.2307/1912559. Nothing is published of these data: log L = -243.2592 at the maximum was checked against
Hamilton's filter, written out. Data: quarterly growth of real GDP in percent, from statsmodels (macrodata).

x: growth of real output (% a quarter)
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(x, K=2):
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("regimes", K):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 0.5))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    before = numpyro.sample("before", dist.Categorical(jnp.ones(K) / K))

    def step(carry, x_t):
        z, last = carry
        z = numpyro.sample("z", dist.Categorical(P[z]))
        x_t = numpyro.sample("x", dist.Normal(mu[z] + phi * last, sigma), obs=x_t)
        return (z, x_t), None

    scan(step, (before, x[0]), x[1:])


def data():
    from statsmodels.datasets import macrodata

    output = np.asarray(macrodata.load_pandas().data["realgdp"], float)
    return {"x": 100 * np.diff(np.log(output))}
