"""Probabilistic principal components: the iris measurements in two dimensions.

u_n ~ Normal(0, I),  x_n ~ Normal(mu + W u_n, sigma)

mu, W and sigma are parameters, the scores u are latent and integrated out exactly. EM regresses the
measurements on the expected scores. The likelihood is the same for W and for any rotation of it: W has no
standard errors, and sigma has. The maximum is known: sigma^2 is the mean of the smallest eigenvalues of
the covariance, 0.0506821 for two scores, and log L = -404.9627802. Source: Tipping & Bishop (1999),
doi:10.1111/1467-9868.00196, equations 7 and 8. Data: Fisher's iris, from scikit-learn.

x: sepal length (cm), sepal width (cm), petal length (cm), petal width (cm)
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

options = {"latents": {"u"}}  # a score for each row, not a parameter

published = {"log_likelihood": (-404.9627802, 1e-7), "sigma": (0.2251270, 1e-7)}


def model(x, L=2):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("flowers", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.Normal(mu + u @ W.T, sigma).to_event(1), obs=x)


def data():
    from sklearn.datasets import load_iris

    return {"x": np.asarray(load_iris().data, float)}
