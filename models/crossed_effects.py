"""Crossed effects: samples of penicillin, each tested on every one of 24 plates.

a_p ~ Normal(0, tau[0]),  b_s ~ Normal(0, tau[1]),  y_ps ~ Normal(mu + a_p + b_s, sigma)

y: diameter of the zone (mm)

y is the diameter of the zone in which the growth of bacteria is inhibited. mu, tau and sigma are
parameters; the effects of plates and of samples are latent, and integrated out together, since no plate's
can be before the samples'. EM's M-steps are least squares and mean expected squares. By maximum
likelihood -2 log L = 332.188349, mu = 22.97222, tau = (0.845572, 1.770666) and sigma = 0.549932 (lme4's
test suite). Source: Davies & Goldsmith, Statistical Methods in Research and Production (1972), table 6.6;
Bates et al. (2015), doi:10.18637/jss.v067.i01.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

DIAMETERS = np.array([
    [27, 23, 26, 23, 23, 21], [27, 23, 26, 23, 23, 21], [25, 21, 25, 24, 24, 20],
    [26, 23, 25, 23, 23, 20], [25, 22, 26, 22, 23, 20], [24, 22, 25, 23, 22, 19],
    [24, 20, 23, 21, 22, 19], [26, 22, 26, 24, 24, 21], [24, 21, 24, 22, 22, 20],
    [24, 21, 24, 23, 22, 19], [26, 23, 26, 24, 24, 21], [25, 22, 26, 24, 24, 20],
    [26, 24, 26, 24, 25, 22], [26, 23, 26, 23, 23, 20], [26, 23, 25, 24, 24, 22],
    [25, 22, 25, 23, 23, 20], [25, 21, 24, 23, 23, 20], [25, 22, 24, 23, 23, 19],
    [24, 21, 23, 21, 21, 19], [26, 23, 26, 24, 24, 21], [25, 21, 24, 22, 22, 18],
    [25, 22, 25, 22, 22, 20], [24, 21, 24, 22, 24, 19], [24, 21, 24, 22, 21, 18],
])  # fmt: skip

published = {
    "log_likelihood": (-166.0941743, 5e-5), "mu": (22.97222, 5e-6), "tau[0]": (0.845572, 5e-6),
    "tau[1]": (1.770666, 5e-5), "sigma": (0.549932, 5e-6),
}  # fmt: skip


def model(y, plate, sample, plates=24, samples=6):
    mu = numpyro.sample("mu", dist.Normal(20, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(2).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("plates", plates):
        a = numpyro.sample("a", dist.Normal(0, tau[0]))
    with numpyro.plate("samples", samples):
        b = numpyro.sample("b", dist.Normal(0, tau[1]))
    with numpyro.plate("zones", len(y)):
        numpyro.sample("y", dist.Normal(mu + a[plate] + b[sample], sigma), obs=y)


def data():
    plate, sample = (i.ravel() for i in np.indices(DIAMETERS.shape))
    return {"y": DIAMETERS.ravel().astype(float), "plate": plate, "sample": sample}
