"""Mixture of normals: velocities of 82 galaxies in the Corona Borealis region (1000 km/s).

z_n ~ Categorical(w),  x_n ~ Normal(mu[z_n], sigma[z_n])

w, mu and sigma are parameters, z is latent and summed out. EM is in closed form: shares, weighted means
and standard deviations.

x: velocity (1000 km/s)

Data: Roeder (1990), doi:10.1080/01621459.1990.10474918, with the 78th value 26690 as in R's MASS. The
interior maximum of the likelihood for K=3 is -203.1792, with clusters of 7, 72 and 3 galaxies (mclust:
Scrucca et al. 2016, doi:10.32614/RJ-2016-021). Collapse onto one galaxy has no bound; the prior on
sigma therefore vanishes at zero (a HalfNormal would leave the posterior improper).
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

VELOCITIES = """
9172 9350 9483 9558 9775 10227 10406 16084 16170 18419 18552 18600 18927 19052 19070 19330 19343
19349 19440 19473 19529 19541 19547 19663 19846 19856 19863 19914 19918 19973 19989 20166 20175
20179 20196 20215 20221 20415 20629 20795 20821 20846 20875 20986 21137 21492 21701 21814 21921
21960 22185 22209 22242 22249 22314 22374 22495 22746 22747 22888 22914 23206 23241 23263 23484
23538 23542 23666 23706 23711 24129 24285 24289 24366 24717 24990 25633 26690 26995 32065 32789
34279
"""

published = {"log_likelihood": (-203.1792, 6e-5)}


def model(x, K=3):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(20, 10))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("galaxies", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)


def data():
    return {"x": np.array(VELOCITIES.split(), float) / 1000}
