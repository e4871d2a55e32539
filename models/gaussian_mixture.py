"""Mixture of multivariate normals with full covariances: iris, four measurements, K=2.

z_n ~ Categorical(w),  x_n ~ MultivariateNormal(mu[z_n], precision[z_n])

w, mu and precision are parameters, z is latent and summed out. EM is in closed form: shares, weighted
means and covariances.

x: sepal length (cm), sepal width (cm), petal length (cm), petal width (cm)

The Wishart prior on each precision vanishes where a component collapses. Data: scikit-learn's iris
(Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x). Maximum likelihood for K=2: log-likelihood -214.355
(mclust: Scrucca et al. 2016, doi:10.32614/RJ-2016-021), the setosa (50) apart from the rest (100).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

published = {"log_likelihood": (-214.355, 6e-4)}


def model(x, K=2):
    d = x.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
        precision = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d)))
    with numpyro.plate("flowers", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=x)


def data():
    from sklearn.datasets import load_iris

    return {"x": load_iris().data}
