"""Occupancy: how many fields hold the bird, when a visit may miss it?

z_i ~ Bernoulli(psi),  y_i ~ Binomial(3, z_i p)

z (the field is occupied) is latent; psi, the share of fields that are occupied, and p, the probability that
one visit detects the species where it lives, are parameters. A field with a detection is occupied for
certain; one without is either empty or was missed three times. EM moves psi in closed form, to the expected
share of occupied fields, and p by Newton's method, to detections over expected visits of occupied fields.

y: visits with a detection (of 3)

Data: blue grosbeaks on 41 fields planted to longleaf pine in southern Georgia, three visits in 2001: 8 fields
had no detection, and 14, 11 and 8 fields had one, two and three (an exercise of J. E. Hines for the program
PRESENCE). The birds were seen on 33 / 41 = 0.80 of the fields; by maximum likelihood psi = 0.885 and
p = 0.551, and log L = -84.0949 for the visits one by one (AIC 172.1898). The numbers of detections have
25 log 3 more, log L = -56.6296: checked against a maximisation of the formula in SciPy.
Source of the model: MacKenzie, Nichols, Lachman, Droege, Royle & Langtimm (2002),
doi:10.1890/0012-9658(2002)083[2248:ESORWD]2.0.CO;2.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

FIELDS = [8, 14, 11, 8]  # with 0, 1, 2 and 3 detections


def model(y, visits=3):
    psi = numpyro.sample("psi", dist.Beta(1, 1))
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("fields", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(psi))
        numpyro.sample("y", dist.Binomial(visits, z * p), obs=y)


def data():
    return {"y": np.repeat(np.arange(4), FIELDS)}


def picture(fit):
    """Fields by their number of detections: seen, and expected of occupied and of empty fields."""
    from matplotlib.figure import Figure
    from scipy.stats import binom

    (y,) = fit.model.observed_values().values()
    visits = max(int(np.max(y)), 3)
    psi, p = (float(fit.params[k]) for k in ("psi", "p"))
    times = np.arange(visits + 1)
    occupied = len(y) * psi * binom.pmf(times, visits, p)
    empty = len(y) * (1 - psi) * (times == 0)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.bar(times, occupied, color="#4477aa", width=0.7, label="expected, occupied")
    axes.bar(times, empty, bottom=occupied, color="#bbbbbb", width=0.7, label="expected, empty")
    axes.plot(times, np.bincount(y.astype(int), minlength=visits + 1), "ko", label="observed")
    missed = psi * (1 - p) ** visits
    axes.set_title(
        f"psi = {psi:.2f} (naive {np.mean(y > 0):.2f}), p = {p:.2f}, {fit.method}\n"
        f"a field without detections is occupied with probability {missed / (missed + 1 - psi):.2f}",
        fontsize=10,
    )
    axes.set_ylim(0, 1.12 * max(axes.get_ylim()[1], 1) / 1.05)
    axes.set_xticks(times)
    axes.set_xlabel("visits with a detection")
    axes.set_ylabel("fields")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
