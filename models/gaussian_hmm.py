"""Gaussian hidden Markov model: the flow of the Nile at Aswan, 1871-1970.

z_t ~ Categorical(P[z_{t-1}]),  x_t ~ Normal(mu[z_t], sigma[z_t])

P, mu and sigma are parameters, the states z are latent and summed out by forward-backward; the chain
starts from a uniform law. EM is Baum-Welch, in closed form. By maximum likelihood the low state of 1899
is never left, so that P ends at the boundary. A prior on sigma that vanishes at zero keeps a state from
collapsing onto one year.

x: annual flow (10^8 m^3)

Data from statsmodels (Cobb 1978, doi:10.1093/biomet/65.2.243, who finds one change in 1898).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(x, K=2):
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        mu = numpyro.sample("mu", dist.Normal(1000.0, 500.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(5.0, 1.0))
    before = numpyro.sample("before", dist.Categorical(jnp.ones(K) / K))

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x_t)
        return z, None

    scan(step, before, x)


def data():
    from statsmodels.datasets import nile

    table = nile.load_pandas().data
    return {"x": table.set_index(table["year"].astype(int))["volume"]}
