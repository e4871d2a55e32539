"""Latent class analysis: role conflict, four binary items, 216 subjects.

z_n ~ Categorical(w),  x_nj ~ Bernoulli(p[z_n, j])

w and p are parameters, z is latent and summed out. EM is in closed form: expected shares. x is 1 for a
universalistic answer to four conflicts:

x: car, drama critic, doctor, board meeting

Data: Stouffer & Toby (1951), doi:10.1086/220785, as analysed by Goodman (1974),
doi:10.1093/biomet/61.2.215; the 16 patterns enter with their counts as case weights. Two classes:
log-likelihood -504.4677, the smaller class 0.2792 (poLCA: Linzer & Lewis 2011,
doi:10.18637/jss.v042.i10).
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

COUNTS = [20, 2, 9, 2, 6, 1, 4, 1, 38, 7, 24, 6, 25, 6, 23, 42]

published = {
    "log_likelihood": (-504.4677, 6e-5), "w[0]": (0.2792, 6e-5),
    "p[0,0]": (0.9932, 6e-5), "p[0,1]": (0.9398, 6e-5), "p[0,2]": (0.9265, 6e-5),
    "p[0,3]": (0.7691, 6e-5), "p[1,0]": (0.7136, 6e-5), "p[1,1]": (0.3296, 6e-5),
    "p[1,2]": (0.354, 6e-5), "p[1,3]": (0.1324, 6e-5),
}  # fmt: skip


def model(x, count, C=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(C)))
    with numpyro.plate("classes", C, dim=-2), numpyro.plate("items", x.shape[1], dim=-1):
        p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("patterns", x.shape[0]), numpyro.handlers.scale(scale=count):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


def data():
    patterns = np.array(list(np.ndindex(2, 2, 2, 2)))
    return {"x": patterns, "count": np.array(COUNTS)}
