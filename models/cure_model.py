"""Cure model: of the patients who have not relapsed, who never will?

cured_i ~ Bernoulli(logistic(x_i' gamma)),
t_i ~ Weibull(exp(x_i' beta), shape) where not cured, and never where cured

A patient without a relapse so far is cured, or is not and was lucky: which, is latent; gamma, beta and shape are
parameters. A censored row gives the probability that its time is later, which is one for the cured. So
treatment may cure (gamma[treated]) or delay (beta[treated]). EM's M-steps are Newton's: each censored patient
counts as cured with a probability.

t: time to relapse or end of follow-up (years)
censored: 1 where there was no relapse
x: intercept, treated

Data: a trial of 300 patients over eight years, simulated at gamma = (-0.8, 1.0), beta = (0.5, 0.3) and
shape = 1.4. The likelihood was checked against its formula in SciPy. `simulate` draws times of relapse and
leaves the marks of censoring where they are. Source: Berkson & Gage (1952), doi:10.1080/01621459.1952.10501187;
Farewell (1982), doi:10.2307/2529885.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

NEVER = 1e30  # the scale of the times of the cured: no density and full survival in any follow-up
truth = {"gamma": np.array([-0.8, 1.0]), "beta": np.array([0.5, 0.3]), "shape": 1.4}
options = {
    "dims": {"gamma": "covariate", "beta": "covariate"},
    "coords": {"covariate": ["intercept", "treated"]},
}


def model(t, censored, x):
    gamma = numpyro.sample("gamma", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    shape = numpyro.sample("shape", dist.LogNormal(0, 0.5))
    with numpyro.plate("patients", len(t)):
        cured = numpyro.sample("cured", dist.Bernoulli(logits=x @ gamma))
        scale = jnp.where(cured == 1, NEVER, jnp.exp(x @ beta))
        law = dist.Weibull(scale, shape)
        numpyro.sample("t", dist.RightCensoredDistribution(law, censored), obs=t)


def data():
    rng = np.random.default_rng(5)
    treated = np.arange(300) % 2
    cured = rng.uniform(size=300) < 1 / (1 + np.exp(-(truth["gamma"] @ [np.ones(300), treated])))
    relapse = np.exp(truth["beta"] @ [np.ones(300), treated]) * rng.weibull(truth["shape"], 300)
    follow_up = rng.uniform(2, 8, 300)
    censored = cured | (relapse > follow_up)
    return {
        "t": np.where(censored, follow_up, relapse),
        "censored": censored.astype(int),
        "x": np.column_stack([np.ones(300), treated]),
    }


def kaplan_meier(t, censored):
    """Times of events and the share that survives each, from 1 at time zero (Kaplan & Meier 1958)."""
    times = np.unique(t[censored == 0])
    at_risk = np.array([(t >= u).sum() for u in times])
    events = np.array([((t == u) & (censored == 0)).sum() for u in times])
    return np.append(0, times), np.append(1, np.cumprod(1 - events / at_risk))


def picture(fit):
    """Kaplan-Meier's curves with the model's, which level off at the share of the cured."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    values = {k: np.asarray(v) for k, v in zip(given.names, given.dynamic)}
    t, censored, x = (values[k] for k in ("t", "censored", "x"))
    gamma, beta = np.asarray(fit.params["gamma"]), np.asarray(fit.params["beta"])
    shape = float(fit.params["shape"])
    grid = np.linspace(0, 1.02 * t.max(), 300)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(("control", "treated")):
        own = x[:, 1] == k
        times, share = kaplan_meier(t[own], censored[own])
        axes.step(
            np.append(times, t[own].max()),
            np.append(share, share[-1]),
            f"C{k}",
            where="post",
            lw=1,
        )
        cure = 1 / (1 + np.exp(-(gamma[0] + gamma[1] * k)))
        late = np.exp(-((grid / np.exp(beta[0] + beta[1] * k)) ** shape))
        axes.plot(
            grid,
            cure + (1 - cure) * late,
            color=f"C{k}",
            lw=2.2,
            alpha=0.7,
            label=f"{name}: {cure:.0%} cured",
        )
        axes.axhline(cure, color=f"C{k}", ls=":", lw=1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time (years)")
    axes.set_ylabel("share without relapse")
    axes.set_title(f"Kaplan-Meier (steps) and cure model, {fit.method}")
    axes.legend(frameon=False)
    return figure
