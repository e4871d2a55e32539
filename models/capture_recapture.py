"""Capture-recapture (Cormack, Jolly and Seber): how many dippers survive a year?

z_t ~ Bernoulli(phi z_{t-1}),  seen_t ~ Bernoulli(p z_t), from the release of a bird on

z (the bird is alive) is latent; phi, the survival from one year to the next, and p, the probability that
a bird that is alive is caught, are parameters. A bird that is not seen again is dead or was missed. The scan
goes over the years: a mask begins each history at its release and ends it when the bird is caught again
(from then on it is another release), so that the numbers by release and first recapture, the m-array, are all
that is needed; they enter as case weights. With floods=True survival differs in the two years of the flood.

seen: caught
live: followed in this year

Data: European dippers in eastern France, 1981-1987, Lebreton, Burnham, Clobert & Anderson (1992),
doi:10.2307/2937171; the m-array as in Brooks, Catchpole & Morgan (2000), doi:10.1214/ss/1009213003. Published:
-2 log L = 666.8377, phi = 0.5602 and p = 0.9026 (program MARK); with floods=True phi = 0.607 and, over the
flood, 0.469, p = 0.900. EM's M-steps are Newton's: expected survivors over birds at risk.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

YEARS = np.arange(1982, 1988)  # of recapture
FLOOD = np.array([0, 1, 1, 0, 0, 0])
RELEASED = np.array([22, 60, 78, 80, 88, 98])
M_ARRAY = np.array([  # by year of release (1981-1986) and of the next capture (1982-1987)
    [11, 2, 0, 0, 0, 0], [0, 24, 1, 0, 0, 0], [0, 0, 34, 2, 0, 0],
    [0, 0, 0, 45, 1, 2], [0, 0, 0, 0, 51, 0], [0, 0, 0, 0, 0, 52],
])  # fmt: skip

published = {
    "log_likelihood": (-666.8377 / 2, 3e-5),
    "phi": (0.5602430, 6e-8),
    "p": (0.9025835, 6e-8),
}


def model(seen, live, count, floods=False):
    phi = numpyro.sample("phi", dist.Beta(1, 1))
    p = numpyro.sample("p", dist.Beta(1, 1))
    bad = numpyro.sample("phi_flood", dist.Beta(1, 1)) if floods else phi
    survival = jnp.where(FLOOD == 1, bad, phi)

    def step(z, year):
        seen, live, phi_t = year
        with numpyro.plate("histories", len(count)), numpyro.handlers.scale(scale=count):
            with numpyro.handlers.mask(mask=live):
                alive = jnp.where(live, phi_t * z, 1.0)  # at its release a bird is alive
                z = numpyro.sample("z", dist.Bernoulli(alive))
                numpyro.sample("seen", dist.Bernoulli(p * z), obs=seen)
        return z, None

    scan(step, jnp.ones(len(count), int), (seen, live, survival))


def data():
    """One row for each pair of years with birds in it, and one for those released and never seen again."""
    never = RELEASED - M_ARRAY.sum(1)
    rows = [(i, j, M_ARRAY[i, j]) for i, j in np.argwhere(M_ARRAY)]
    rows += [(i, len(YEARS), never[i]) for i in range(len(RELEASED))]
    release, again, count = np.array(rows).T
    year = np.arange(len(YEARS))[:, None]
    return {"seen": year == again, "live": (year >= release) & (year <= again), "count": count}


def picture(fit):
    """Of the birds of each release, how many were caught next in each year: observed and expected."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    values = {k: np.asarray(v) for k, v in zip(given.names, given.dynamic)}
    seen, live, count = (values[k].astype(int) for k in ("seen", "live", "count"))
    phi, p = float(fit.params["phi"]), float(fit.params["p"])
    bad = float(fit.params.get("phi_flood", phi))
    survival = np.where(FLOOD == 1, bad, phi)
    release = live.argmax(0)
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    figure.suptitle(
        f"phi = {phi:.3f}"
        + (f" (flood {bad:.3f})" if bad != phi else "")
        + f", p = {p:.3f}, {fit.method}"
    )
    years = np.arange(len(seen))
    for i, axes in enumerate(figure.subplots(2, -(-len(seen) // 2), sharey=True, sharex=True).flat):
        if i >= len(seen):
            axes.set_visible(False)
            continue
        rows = release == i
        observed = seen[:, rows] @ count[rows]
        after = years >= i
        reach = np.cumprod(np.where(after, survival, 1)) * (1 - p) ** np.maximum(years - i, 0) * p
        expected = np.where(after, count[rows].sum() * reach, 0)
        axes.bar(years + 1982, expected, color="#bbccee", label="expected")
        axes.plot(years[after] + 1982, observed[after], "ko", ms=4, label="observed")
        axes.set_title(f"{count[rows].sum()} released in {1981 + i}", fontsize=10)
        axes.tick_params(axis="x", rotation=45)
    figure.supxlabel("year of the next capture")
    figure.supylabel("birds")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure
