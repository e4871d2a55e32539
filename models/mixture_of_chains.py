"""Mixture of hidden Markov models: sequences of two kinds, simulated.

c_i ~ Categorical(w),  z_it ~ Categorical(P[c_i, z_i,t-1]),  x_it ~ Poisson(rate[z_it])

w, P and rate are parameters; the kind c of each sequence and its states z are latent and summed out. EM
is in closed form: expected shares and mean counts. The kinds share the states and differ in how long they
stay in them. Smyth (1997), Clustering sequences with hidden Markov models, Advances in Neural Information
Processing Systems 9, pages 648-654. 60 sequences of 40 counts are simulated, half of a kind that stays
with probability 0.95, half of one that changes with probability 0.6. A sequence that is shorter ends in
missing values.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

truth = {
    "w": [0.5, 0.5],
    "P": [[[0.95, 0.05], [0.05, 0.95]], [[0.4, 0.6], [0.6, 0.4]]],
    "rate": [2.0, 8.0],
}


def model(x, kinds=2, K=2):
    n = x.shape[0]
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(kinds)))
    with numpyro.plate("kind", kinds, dim=-2), numpyro.plate("from", K, dim=-1):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2))
    with numpyro.plate("sequences", n):
        c = numpyro.sample("c", dist.Categorical(w))
        before = numpyro.sample("before", dist.Categorical(jnp.ones(K) / K))

    def step(z, x_t):
        with numpyro.plate("sequences", n):
            z = numpyro.sample("z", dist.Categorical(P[c, z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
        return z, None

    scan(step, before, x.T)


def data():
    rng = np.random.default_rng(4)
    stay, rate = (0.95, 0.4), (2.0, 8.0)
    rows = []
    for i in range(60):
        z, row = rng.integers(2), []
        for _ in range(40):
            z = z if rng.uniform() < stay[i % 2] else 1 - z
            row.append(rng.poisson(rate[z]))
        rows.append(row)
    return {"x": np.array(rows)}
