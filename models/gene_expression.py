"""Clusters of expression profiles with missing entries: K groups of genes over the conditions of an experiment.

z_n ~ Categorical(w),  x_n ~ MultivariateNormal(mu[z_n], covariance[z_n]), NaN where a spot failed

w, mu and covariance are parameters (the program has its inverse, precision), z is latent and summed out;
EM is in closed form, by expected first and second moments of whole profiles. A failed spot is integrated
out of its gene's density in every cluster, in place of filling it in beforehand as is customary for
arrays (Troyanskaya et al. 2001, doi:10.1093/bioinformatics/17.6.520); `fit.impute()` gives what is
expected there, mixed over the clusters, and `fit.decode()` the cluster of each gene. A prior on each
covariance keeps a cluster from shrinking onto a few genes. The data are simulated: 240 genes under six
conditions in three groups, rising, falling and answering in the middle, 12% of the entries missing.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

TIME = np.linspace(-1, 1, 6)
SHAPES = np.stack([1.5 * TIME, -1.5 * TIME, 2.0 * np.exp(-4 * TIME**2)])
truth = {
    "w": [0.4, 0.35, 0.25],
    "mu": SHAPES,
    "precision": np.repeat(np.linalg.inv(0.4**2 * np.eye(6) + 0.5**2)[None], 3, 0),
}


def model(x, K=3):
    d = x.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("clusters", K):
        mu = numpyro.sample("mu", dist.Normal(0, 3).expand([d]).to_event(1))
        precision = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d)))
    with numpyro.plate("genes", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=x)


def simulated(genes=240, missing=0.12, seed=0):
    """(profiles with NaN, whole profiles, clusters)"""
    rng = np.random.default_rng(seed)
    z = rng.choice(3, genes, p=truth["w"])
    level = 0.5 * rng.normal(size=(genes, 1))  # of a gene, the same under all conditions
    whole = SHAPES[z] + level + 0.4 * rng.normal(size=(genes, 6))
    holes = rng.uniform(size=whole.shape) < missing
    return np.where(holes, np.nan, whole), whole, z


def data():
    x, _, _ = simulated()
    return {"x": x}
