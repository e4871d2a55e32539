"""Factor analysis: eight body measures of 305 girls by two factors, length and stoutness.

u_n ~ Normal(0, I),  x_n ~ Normal(mu + W u_n, psi), psi of each measure its own

mu, W and psi are parameters, the factors u are latent and integrated out exactly. EM regresses every
measure on the expected factors (Rubin & Thayer 1982, doi:10.1007/BF02293851). W is not identified:
any rotation of it fits as well, so it has no standard errors, and psi has. Of the girls only the
correlations were published: the rows here are drawn so that their correlations are these to the last
digit. By maximum likelihood the uniquenesses psi^2 of two factors are 0.170, 0.107, 0.166, 0.199,
0.089, 0.364, 0.416 and 0.537; three factors leave nothing of the arm span to itself (a Heywood case: its
psi is at the boundary). Source: Harman (1976), Modern Factor Analysis, table 2.3, as Harman23.cor in R,
whose `factanal` prints these numbers.

x: height, arm span, forearm, lower leg, weight, bitrochanteric diameter, chest girth, chest width
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

options = {"latents": {"u"}}  # a score for each row, not a parameter

MEASURES = (
    "height", "arm span", "forearm", "lower leg", "weight", "bitrochanteric diameter", "chest girth",
    "chest width",
)  # fmt: skip
CORRELATIONS = np.array([
    [1.000, 0.846, 0.805, 0.859, 0.473, 0.398, 0.301, 0.382],
    [0.846, 1.000, 0.881, 0.826, 0.376, 0.326, 0.277, 0.415],
    [0.805, 0.881, 1.000, 0.801, 0.380, 0.319, 0.237, 0.345],
    [0.859, 0.826, 0.801, 1.000, 0.436, 0.329, 0.327, 0.365],
    [0.473, 0.376, 0.380, 0.436, 1.000, 0.762, 0.730, 0.629],
    [0.398, 0.326, 0.319, 0.329, 0.762, 1.000, 0.583, 0.577],
    [0.301, 0.277, 0.237, 0.327, 0.730, 0.583, 1.000, 0.539],
    [0.382, 0.415, 0.345, 0.365, 0.629, 0.577, 0.539, 1.000],
])  # fmt: skip

UNIQUENESSES = (0.170, 0.107, 0.166, 0.199, 0.089, 0.364, 0.416, 0.537)
published = {
    f"psi[{i}]": (round(u**0.5, 5), round(0.00055 / (2 * u**0.5), 5))
    for i, u in enumerate(UNIQUENESSES)
}


def model(x, L=2):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([d]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    psi = numpyro.sample("psi", dist.HalfNormal(1).expand([d]).to_event(1))
    with numpyro.plate("girls", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.Normal(mu + u @ W.T, psi).to_event(1), obs=x)


def data():
    free = np.random.default_rng(0).normal(size=(305, len(CORRELATIONS)))
    free -= free.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(free.T @ free / len(free)), free.T).T
    return {"x": white @ np.linalg.cholesky(CORRELATIONS).T}
