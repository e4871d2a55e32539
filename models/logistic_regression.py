"""Logistic regression: does a new teaching method improve grades (Spector & Mazzeo 1980)?

y_n ~ Bernoulli(logits = x_n' beta)

beta is the parameter, y is observed; nothing is latent, and EM's one M-step is iteratively reweighted
least squares.

x: grade point average, test of economics, new method (PSI), constant
y: improved grade

Data: statsmodels' `spector` (Spector & Mazzeo 1980, Journal of Economic Education 11, pages 37-44).
Log-likelihood -12.8896, slopes 2.826, 0.095 and 2.379, constant -13.021 (Greene, Econometric Analysis,
7th edition, table 17.1; more digits by Stata in statsmodels' test suite).
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

published = {
    "log_likelihood": (-12.8896334653335, 2e-6), "beta[0]": (2.82611297201, 1e-5),
    "beta[1]": (0.0951576702557, 1e-5), "beta[2]": (2.37868772835, 1e-5),
    "beta[3]": (-13.0213483201, 1e-5),
}  # fmt: skip


def model(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("students", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def data():
    import statsmodels.api as sm

    table = sm.datasets.spector.load_pandas()
    x = np.column_stack([table.exog.to_numpy(), np.ones(len(table.endog))])
    return {"x": x, "y": table.endog.to_numpy()}
