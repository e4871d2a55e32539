"""Random effects: the yield of dyestuff from six batches of raw material.

b_j ~ Normal(0, tau),  y_n ~ Normal(mu + b_{j(n)}, sigma)

mu, tau and sigma are parameters; the batches' effects b are latent and integrated out exactly. EM's
M-steps are means and expected squares. By maximum likelihood -2 log L = 327.327060, mu = 1527.5, tau =
37.26034 and sigma = 49.51010 (lme4's test suite).

y: yield of dyestuff (g of standard colour)
batch: batch

Source: Davies & Goldsmith, Statistical Methods in Research and Production (1972), table 6.3; Bates et al.
(2015), doi:10.18637/jss.v067.i01.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

YIELD = np.array([
    [1545, 1440, 1440, 1520, 1580], [1540, 1555, 1490, 1560, 1495], [1595, 1550, 1605, 1510, 1560],
    [1445, 1440, 1595, 1465, 1545], [1595, 1630, 1515, 1635, 1625], [1520, 1455, 1450, 1480, 1445],
])  # fmt: skip

published = {
    "log_likelihood": (-163.66352994, 1e-7), "mu": (1527.5, 1e-6), "tau": (37.26034, 1e-5),
    "sigma": (49.51010, 6e-6),
}  # fmt: skip


def model(y, batch, batches=6):
    mu = numpyro.sample("mu", dist.Normal(1500, 100))
    tau = numpyro.sample("tau", dist.HalfNormal(100))
    sigma = numpyro.sample("sigma", dist.HalfNormal(100))
    with numpyro.plate("batches", batches):
        b = numpyro.sample("b", dist.Normal(0, tau))
    with numpyro.plate("samples", len(y)):
        numpyro.sample("y", dist.Normal(mu + b[batch], sigma), obs=y)


def data():
    return {"y": YIELD.ravel().astype(float), "batch": np.repeat(np.arange(6), 5)}
