"""Genetic linkage: the example of Dempster, Laird & Rubin (1977).

197 animals in four cells with probabilities 1/2 + t/4, (1-t)/4, (1-t)/4, t/4. The first cell hides
two: an animal in it comes from the part 1/2 or from the part t/4.

z_n in {0..4} ~ Categorical(1/2, t/4, (1-t)/4, (1-t)/4, t/4),  cell_n = z_n with 0 and 1 merged

t is the parameter, z is latent and summed out; the counts 125, 18, 20, 34 are case weights. The M-step
is numeric, as the program computes the probabilities from t; it finds the closed form. EM from t = 0.5 gives
0.608247423, 0.624321051, 0.626488879, ..., 0.626821498 and converges at rate 0.1328. Source:
doi:10.1111/j.2517-6161.1977.tb01600.x, section 1.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

SEEN = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)

published = {"t": (0.626821498, 5e-9), "log_likelihood": (-205.7158870, 1e-6)}


def model(cell, count):
    t = numpyro.sample("t", dist.Uniform(0, 1))
    probs = jnp.stack([0.5 + 0 * t, t / 4, (1 - t) / 4, (1 - t) / 4, t / 4])
    with numpyro.plate("cells", len(cell)), numpyro.handlers.scale(scale=count):
        z = numpyro.sample("z", dist.Categorical(probs))
        numpyro.sample("x", dist.Categorical(jnp.asarray(SEEN)[z]), obs=cell)


def data():
    return {"cell": np.arange(4), "count": np.array([125, 18, 20, 34])}
