"""Random-effects meta-analysis: 13 trials of the BCG vaccine against tuberculosis.

theta_i ~ Normal(mu, tau),  y_i ~ Normal(theta_i, s_i)

y is the log odds ratio of trial i and s its standard error, sqrt(1/a + 1/b + 1/c + 1/d) of its table of
two by two. mu and tau are parameters, the trials' effects theta are latent and integrated out exactly;
EM's M-step is the mean and spread of the expected effects. By maximum likelihood the pooled odds ratio
exp(mu) is 0.4762 and tau^2 is 0.3025. Source: Colditz et al. (1994),
doi:10.1001/jama.1994.03510330076038; van Houwelingen, Arends & Stijnen (2002), doi:10.1002/sim.1040,
section 3; metafor's test suite (Viechtbauer 2010, doi:10.18637/jss.v036.i03).

y: log odds ratio
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

# Cases and others among the vaccinated, cases and others among the controls.
TRIALS = np.array([
    [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619],
    [33, 5036, 47, 5761], [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892],
    [29, 7470, 45, 7232], [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338],
    [27, 16886, 29, 17825],
])  # fmt: skip

published = {
    "log_likelihood": (-13.0731, 1e-3), "mu": (-0.7419, 1.5e-4), "tau": (0.55, 6e-5),
}  # fmt: skip


def model(y, s):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("trials", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, s), obs=y)


def data():
    a, b, c, d = TRIALS.T.astype(float)
    return {"y": np.log(a * d / (b * c)), "s": np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)}
