"""Poisson hidden Markov model: major earthquakes in the world, 1900-2006.

z_1 ~ Categorical(pi) or the stationary law of P,  z_t ~ Categorical(P[z_{t-1}]),
x_t ~ Poisson(rate[z_t])

pi, P and rate are parameters, the states z are latent and summed out by forward-backward; EM is
Baum-Welch, in closed form. With stationary=True the first state has the law that P leaves unchanged,
which the program computes. Data: annual counts of earthquakes of magnitude 7 or more, Zucchini, MacDonald
& Langrock (2016), doi:10.1201/b20790, tables 4.1 and 4.2: log-likelihood -341.8787 for K=2 with a free
first state (rates 15.421 and 26.018), -342.3183 when stationary. Of a single sequence the first state's
law ends at the boundary.

x: earthquakes in a year
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

published = {
    "log_likelihood": (-341.8787, 6e-5), "rate[0]": (15.421, 6e-4), "rate[1]": (26.018, 6e-4),
    "P[0,1]": (0.071626, 1e-6), "P[1,0]": (0.11903, 6e-6), "pi[0]": (1.0, 6e-6),
}  # fmt: skip


def model(x, K=2, stationary=False):
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
    if stationary:
        pi = jnp.linalg.solve((jnp.eye(K) - P + 1.0).T, jnp.ones(K))
    else:
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    first = numpyro.sample("first", dist.Categorical(pi))
    numpyro.sample("x_first", dist.Poisson(rate[first]), obs=x[0])

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
        return z, None

    scan(step, first, x[1:])


def data():
    counts = """13 14 8 10 16 26 32 27 18 32 36 24 22 23 22 18 25 21 21 14 8 11 14 23 18 17 19 20 22
    19 13 26 13 14 22 24 21 22 26 21 23 24 27 41 31 27 35 26 28 36 39 21 17 22 17 19 15 34 10 15 22
    18 15 20 15 22 19 16 30 27 29 23 20 16 21 21 25 16 18 15 18 14 10 15 8 15 6 11 8 7 18 16 13 12
    13 20 15 16 12 18 15 16 13 15 16 11 11"""
    return {"x": np.array(counts.split(), int)}
