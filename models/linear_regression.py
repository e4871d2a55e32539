"""Linear regression: Longley's employment data, the classic ill-conditioned test.

y_n ~ Normal(x_n' beta, sigma)

beta and sigma are parameters, y is observed. Data: statsmodels' `longley` (Longley 1967,
doi:10.1080/01621459.1967.10500896), a column of ones last. NIST certifies the coefficients; the
maximum likelihood sigma has divisor n.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist


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
