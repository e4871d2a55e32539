"""Linear regression: Longley's employment data, the classic ill-conditioned test.

y_n ~ Normal(x_n' beta, sigma)

beta and sigma are parameters, y is observed; nothing is latent, and EM's one M-step is least squares.
Data: statsmodels' `longley` (Longley 1967, doi:10.1080/01621459.1967.10500896), a column of ones last.
NIST certifies the coefficients and the sum of squares 836424.0555 (Statistical Reference Datasets,
doi:10.18434/T43G6C); the maximum likelihood sigma has divisor n. log L = -109.6174.

x: price deflator, gross national product, unemployed, armed forces, population, year, constant
y: employment (1000)
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

published = {
    "log_likelihood": (-109.6174, 6e-5), "beta[0]": (15.0618722713733, 1.5e-5),
    "beta[1]": (-0.0358191792925910, 3.5e-8), "beta[2]": (-2.02022980381683, 2e-6),
    "beta[3]": (-1.03322686717359, 1e-6), "beta[4]": (-0.0511041056535807, 5e-8),
    "beta[5]": (1829.15146461355, 1.8e-3), "beta[6]": (-3482258.63459582, 3.4),
    "sigma": (228.640555, 1e-6),
}  # fmt: skip


def model(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 1e7).expand([x.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(5, 5))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def data():
    import statsmodels.api as sm

    table = sm.datasets.longley.load_pandas()
    x = np.column_stack([table.exog.to_numpy(), np.ones(len(table.endog))])
    return {"x": x, "y": table.endog.to_numpy()}
