"""Categorical hidden Markov model: the occasionally dishonest casino, simulated.

z_t ~ Categorical(P[z_{t-1}]),  x_t ~ Categorical(face[z_t])

P and face are parameters, z (0 fair, 1 loaded) is latent and summed out by forward-backward; the first
die comes from a uniform law. EM is Baum-Welch: P and face are shares of expected counts.

x: face (0 to 5)

600 rolls are simulated at P = [[0.95, 0.05], [0.1, 0.9]], a fair die, and a loaded one that
shows six half of the time: Durbin, Eddy, Krogh & Mitchison (1998), doi:10.1017/CBO9780511790492,
section 3.2.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

truth = {"P": [[0.95, 0.05], [0.1, 0.9]], "face": [[1 / 6] * 6, [0.1] * 5 + [0.5]]}


def model(x, K=2, faces=6):
    with numpyro.plate("from", K):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("dice", K):
        face = numpyro.sample("face", dist.Dirichlet(jnp.ones(faces)))
    before = numpyro.sample("before", dist.Categorical(jnp.ones(K) / K))

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Categorical(face[z]), obs=x_t)
        return z, None

    scan(step, before, x)


def data():
    rng = np.random.default_rng(6)
    P, face = truth["P"], truth["face"]
    z, rolls = 0, []
    for _ in range(600):
        z = rng.choice(2, p=P[z])
        rolls.append(rng.choice(6, p=face[z]))
    return {"x": np.array(rolls)}
