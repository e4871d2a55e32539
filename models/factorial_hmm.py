"""Factorial hidden Markov model: two chains that together make one signal, simulated.

a_t ~ Categorical(A[a_{t-1}]),  b_t ~ Categorical(B[b_{t-1}]),
x_t ~ Normal(base + rise a_t + step b_t, sigma)

A, B, base, rise, step and sigma are parameters, the two chains a and b are latent; both start at 0 before
the first step. The sum runs over the product of the two. Of levels of both chains only sums would be seen, so
each rises by a positive amount from a common base. Which chain is which, only the priors say (the first rises
by about 3). In EM the transitions are shares of expected counts, the levels and sigma a few Newton steps on expected statistics. Ghahramani &
Jordan (1997), doi:10.1023/A:1007425814087. 400 steps are simulated with levels 0 and 3, and 0 and 1.2,
noise 0.4.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

truth = {
    "A": [[0.95, 0.05], [0.05, 0.95]], "B": [[0.8, 0.2], [0.2, 0.8]], "base": 0.0, "rise": 3.0, "step": 1.2,
    "sigma": 0.4,
}  # fmt: skip


def model(x):
    with numpyro.plate("from", 2):
        A = numpyro.sample("A", dist.Dirichlet(jnp.ones(2)))
        B = numpyro.sample("B", dist.Dirichlet(jnp.ones(2)))
    base = numpyro.sample("base", dist.Normal(0.0, 3.0))
    rise = numpyro.sample("rise", dist.LogNormal(1.1, 0.4))
    step = numpyro.sample("step", dist.LogNormal(0.0, 0.4))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    mu, nu = base + jnp.array([0.0, rise]), jnp.array([0.0, step])

    def of_time(carry, x_t):
        a, b = carry
        a = numpyro.sample("a", dist.Categorical(A[a]))
        b = numpyro.sample("b", dist.Categorical(B[b]))
        numpyro.sample("x", dist.Normal(mu[a] + nu[b], sigma), obs=x_t)
        return (a, b), None

    scan(of_time, (0, 0), x)


def data():
    rng = np.random.default_rng(3)
    a = b = 0
    signal = []
    for _ in range(400):
        a = a if rng.uniform() < 0.95 else 1 - a
        b = b if rng.uniform() < 0.8 else 1 - b
        signal.append(3.0 * a + 1.2 * b + 0.4 * rng.normal())
    return {"x": np.array(signal)}
