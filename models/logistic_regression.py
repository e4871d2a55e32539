"""Logistic regression: does a new teaching method improve grades (Spector & Mazzeo 1980)?

y_n ~ Bernoulli(logits = x_n' beta)

beta is the parameter, y is observed.

x: grade point average, test of economics, new method (PSI), constant
y: improved grade

Data: statsmodels'
`spector`; published log-likelihood -12.8896 (Greene, Econometric Analysis, table 17.1).
"""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("students", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def data():
    import statsmodels.api as sm

    table = sm.datasets.spector.load_pandas()
    x = np.column_stack([table.exog.to_numpy(), np.ones(len(table.endog))])
    return {"x": x, "y": table.endog.to_numpy()}
