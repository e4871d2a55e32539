"""Weibull survival with censoring: does 6-mercaptopurine lengthen the remission of leukaemia?

log t_i = beta_0 + beta_1 control_i + e_i / shape,  e_i standard extreme value; t_i is known to be later where censored

That is t_i ~ Weibull(exp(x_i' beta), shape). beta and shape are parameters and nothing is latent: a censored
row gives the survival function at its time in place of the density. EM and MLE are the same maximum; EM's
M-step is numeric. `simulate` draws times of events and leaves the marks of censoring where they are.

t: time in remission (weeks)
censored: 1 where the remission went on

Data: 42 patients, 21 given 6-MP and 21 a placebo, Freireich et al. (1963),
doi:10.1182/blood.V21.6.699.699; Gehan (1965), doi:10.1093/biomet/52.1-2.203. Published (Venables & Ripley, Modern
Applied Statistics with S, 2002, doi:10.1007/978-0-387-21706-2, section 13.2): intercept 3.516, control
-1.267, log(1 / shape) = -0.312, log L = -106.6. Median remission is exp(1.267) = 3.6 times as long under 6-MP.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

DRUG = "6 6 6 7 10 13 16 22 23 6+ 9+ 10+ 11+ 17+ 19+ 20+ 25+ 32+ 32+ 34+ 35+"  # + censored
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"

options = {
    "dims": {"beta": "covariate"},
    "coords": {"covariate": ["intercept", "control"]},
}
published = {
    "log_likelihood": (-106.6, 0.05),
    "beta[intercept]": (3.516, 5e-4),
    "beta[control]": (-1.267, 5e-4),
    "shape": (np.exp(0.312), 7e-4),
}


def model(t, censored, x):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([x.shape[1]]).to_event(1))
    shape = numpyro.sample("shape", dist.LogNormal(0, 1))
    with numpyro.plate("patients", len(t)):
        law = dist.Weibull(jnp.exp(x @ beta), shape)
        numpyro.sample("t", dist.RightCensoredDistribution(law, censored), obs=t)


def data():
    times = DRUG.split() + PLACEBO.split()
    control = np.arange(42) >= 21
    return {
        "t": np.array([float(w.rstrip("+")) for w in times]),
        "censored": np.array([w.endswith("+") for w in times], int),
        "x": np.column_stack([np.ones(42), control]),
    }


def kaplan_meier(t, censored):
    """Times of events and the share that survives each, from 1 at time zero (Kaplan & Meier 1958)."""
    times = np.unique(t[censored == 0])
    at_risk = np.array([(t >= u).sum() for u in times])
    events = np.array([((t == u) & (censored == 0)).sum() for u in times])
    return np.append(0, times), np.append(1, np.cumprod(1 - events / at_risk))


def picture(fit):
    """Kaplan-Meier's curves of the groups with the Weibull's; censored patients are ticks."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    values = {k: np.asarray(v) for k, v in zip(given.names, given.dynamic)}
    t, censored, x = (values[k] for k in ("t", "censored", "x"))
    beta, shape = np.asarray(fit.params["beta"]), float(fit.params["shape"])
    grid = np.linspace(0, 1.05 * t.max(), 200)
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    axes = figure.subplots()
    names = {(1.0, 0.0): "6-MP", (1.0, 1.0): "control"}
    for i, row in enumerate(np.unique(x, axis=0)[:6]):
        own = (x == row).all(1)
        times, share = kaplan_meier(t[own], censored[own])
        times, share = np.append(times, t[own].max()), np.append(share, share[-1])
        axes.step(times, share, where="post", color=f"C{i}", lw=1.2)
        ticks = t[own][censored[own] == 1]
        axes.plot(ticks, share[np.searchsorted(times[:-1], ticks, "right") - 1], "|", color=f"C{i}")
        curve = np.exp(-((grid / np.exp(row @ beta)) ** shape))
        median = np.exp(row @ beta) * np.log(2) ** (1 / shape)
        name = names.get(tuple(row), str(row))
        axes.plot(grid, curve, color=f"C{i}", lw=2, alpha=0.7, label=f"{name}: median {median:.1f}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("weeks")
    axes.set_ylabel("share in remission")
    axes.set_title(f"Kaplan-Meier (steps) and Weibull with shape {shape:.2f}, {fit.method}")
    axes.legend(frameon=False)
    return figure
