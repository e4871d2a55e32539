"""Ordered logit: who is satisfied with the housing?

P(sat_i <= k) = 1 / (1 + exp(-(zeta_k - x_i' beta))),  k = 0, 1

beta and the cutpoints zeta are parameters, and nothing is latent: the continuous satisfaction behind the
three answers, with a logistic law around x' beta, is integrated out in the formula. Positive coefficients
mean more satisfaction. Rows are the cells of a table, with their counts as case weights; EM and MLE are the
same maximum, and EM's M-step is numeric.

sat: satisfaction (0 low, 1 medium, 2 high)

Data: 1,681 residents of Copenhagen by their influence on the management, the type of their housing and contact
with other residents: Madsen (1976), Scandinavian Journal of Statistics 3, 97-106, the table `housing` of R's
MASS. Published for `polr` (Venables & Ripley, Modern Applied Statistics with S, 2002,
doi:10.1007/978-0-387-21706-2, section 7.3): deviance 3479.149, and the coefficients below.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist

INFLUENCE, TYPE, CONTACT = ["low", "medium", "high"], "tower apartment atrium terrace".split(), 2
# low, medium, high satisfaction; rows by influence, then type, then contact
COUNTS = """21 21 28 34 22 36 10 11 36 61 23 17 43 35 40 26 18 54 13 9 10 8 8 12 6 7 9 18 6 7 15 13 13 7 5 11
14 19 37 17 23 40 3 5 23 78 46 43 48 45 86 15 25 62 20 23 20 10 22 24 7 10 21 57 23 13 31 21 13 5 6 13"""

options = {
    "dims": {"beta": "covariate", "zeta": "cutpoint"},
    "coords": {
        "covariate": ["influence medium", "influence high", *TYPE[1:], "contact high"],
        "cutpoint": ["low|medium", "medium|high"],
    },
}
published = {
    "log_likelihood": (-3479.149 / 2, 3e-4),
    "beta[influence medium]": (0.5663937, 2e-5),
    "beta[influence high]": (1.2888191, 2e-5),
    "beta[apartment]": (-0.5723501, 2e-5),
    "beta[atrium]": (-0.3661866, 2e-5),
    "beta[terrace]": (-1.0910149, 2e-5),
    "beta[contact high]": (0.3602841, 2e-5),
    "zeta[low|medium]": (-0.4961353, 2e-5),
    "zeta[medium|high]": (0.6907083, 2e-5),
}


def model(sat, x, count, levels=3):
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    apart = dist.Normal(0, 2).expand([levels - 1]).to_event(1)
    ordered = dist.transforms.OrderedTransform()
    zeta = numpyro.sample("zeta", dist.TransformedDistribution(apart, ordered))
    with numpyro.plate("cells", len(sat)), numpyro.handlers.scale(scale=count):
        numpyro.sample("sat", dist.OrderedLogistic(x @ beta, zeta), obs=sat)


def data():
    """One row for each cell of the table: contact by type by influence by satisfaction."""
    contact, kind, influence, sat = np.indices((2, 4, 3, 3)).reshape(4, -1)
    dummies = [influence == 1, influence == 2, kind == 1, kind == 2, kind == 3, contact == 1]
    return {
        "sat": sat,
        "x": np.column_stack(dummies).astype(float),
        "count": np.array(COUNTS.split(), int),
    }


def picture(fit):
    """Shares of the answers by group of the table: observed (dots) and fitted (lines)."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    values = {k: np.asarray(v) for k, v in zip(given.names, given.dynamic)}
    sat, x, count = values["sat"].astype(int), values["x"], values["count"]
    beta, zeta = np.asarray(fit.params["beta"]), np.asarray(fit.params["zeta"])
    rows, group = np.unique(x, axis=0, return_inverse=True)
    observed = np.zeros((len(rows), len(zeta) + 1))
    np.add.at(observed, (group.ravel(), sat), count)
    observed /= observed.sum(1, keepdims=True)
    eta = np.linspace(*(np.array([-0.25, 0.25]) + [(rows @ beta).min(), (rows @ beta).max()]), 100)
    below = 1 / (1 + np.exp(-(zeta - eta[:, None])))
    below = np.column_stack([np.zeros(100), below, np.ones(100)])
    fitted = np.diff(below, axis=1)
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.subplots()
    size = np.bincount(group.ravel(), count)
    names = ["low", "medium", "high"] if len(zeta) == 2 else range(len(zeta) + 1)
    for k, name in enumerate(names):
        axes.plot(eta, fitted[:, k], color=f"C{k}", lw=2, label=str(name))
        axes.scatter(
            rows @ beta,
            observed[:, k],
            s=60 * size / size.mean() / 2,
            color=f"C{k}",
            alpha=0.5,
            lw=0,
        )
    axes.set_xlabel("x' beta")
    axes.set_ylabel("share of the answer")
    axes.set_title(f"Fitted shares and those of each group (area: its size), {fit.method}")
    figure.legend(
        loc="outside lower center", ncols=len(zeta) + 1, title="satisfaction", frameon=False
    )
    return figure
