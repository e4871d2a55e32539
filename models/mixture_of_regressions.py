"""Mixture of linear regressions: two quadratic curves, labels hidden.

z_n ~ Categorical(w),  y_n ~ Normal(x_n' beta[z_n], sigma[z_n])

w, beta and sigma are parameters, z is latent and summed out; columns of x are 1, x, x^2. EM's M-steps are
shares and weighted least squares. The design is that of flexmix's NPreg (Leisch 2004,
doi:10.18637/jss.v011.i08): y = 5x + e in one class and 40 - (x - 5)^2 + e in the other. Data: 200 rows
drawn from the program.

x: constant, x, x^2
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

truth = {"w": [0.5, 0.5], "beta": [[0.0, 5.0, 0.0], [15.0, 10.0, -1.0]], "sigma": [3.0, 3.0]}


def model(x, y, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        beta = numpyro.sample("beta", dist.Normal(0, 50).expand([x.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(1, 1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal((beta[z] * x).sum(-1), sigma[z]), obs=y)


def data(seed=1, n=200):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    first = rng.random(n) < 0.5
    mean = np.where(first, 5 * x, 40 - (x - 5) ** 2)
    return {"x": np.column_stack([np.ones(n), x, x**2]), "y": mean + rng.normal(0, 3, n)}
