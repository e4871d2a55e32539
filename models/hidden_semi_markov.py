"""Hidden semi-Markov model: a seal rests and hunts, and does both for a while of its own.

a bout of state k lasts d ~ 1 + Poisson(stay[k]) steps (at most `longest`), then the other state begins;
x_t ~ Normal(mu[k_t], sigma[k_t])

A hidden Markov model leaves a state with the same chance at every step, so that the shortest stay is the
likeliest; here the stay has a law of its own. The state of the chain is expanded: what the animal does, k,
and how many steps are left of it. Both are latent, stay, mu and sigma are parameters. When nothing is
left the next k and its duration are drawn; otherwise k stays and the counter falls by one. EM is Baum-Welch
on 2 x `longest` states; the stays have a numeric M-step.

x: activity (counts per minute)

Data: 250 records, simulated at stays of 1 + (2, 5) steps, mean activities of 10 and 20 and standard deviations
of 3 and 5, the first record beginning a bout. The likelihood was checked against the explicit recursion over
segments. Source: Rabiner (1989), doi:10.1109/5.18626, section IV.D; Yu (2010),
doi:10.1016/j.artint.2009.11.011.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

truth = {"stay": np.array([2.0, 5.0]), "mu": np.array([10.0, 20.0]), "sigma": np.array([3.0, 5.0])}


def model(x, longest=12):
    with numpyro.plate("states", 2):
        stay = numpyro.sample("stay", dist.Gamma(2, 0.4))
        mu = numpyro.sample("mu", dist.Normal(15, 15))
        sigma = numpyro.sample("sigma", dist.Gamma(2, 0.4))
    steps = jnp.arange(longest)
    log_stay = dist.Poisson(stay[:, None]).log_prob(steps)
    law = jnp.exp(log_stay) / jnp.exp(log_stay).sum(
        -1, keepdims=True
    )  # of the steps after the first
    switch, keep = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.eye(2)
    down = jnp.eye(longest)[jnp.maximum(steps - 1, 0)]  # one step less is left

    def step(carry, x_t):
        k, left = carry
        over = left == 0
        k = numpyro.sample("k", dist.Categorical(jnp.where(over[..., None], switch[k], keep[k])))
        left = numpyro.sample(
            "left", dist.Categorical(jnp.where(over[..., None], law[k], down[left]))
        )
        numpyro.sample("x", dist.Normal(mu[k], sigma[k]), obs=x_t)
        return (k, left), None

    before = numpyro.sample("before", dist.Categorical(jnp.ones(2) / 2))
    scan(step, (before, jnp.array(0)), x)


def simulated(steps=250, seed=0):
    """The activities, and what the animal did."""
    rng = np.random.default_rng(seed)
    states = []
    while len(states) < steps:
        k = 1 - states[-1] if states else 0
        states += [k] * (1 + rng.poisson(truth["stay"][k]))
    k = np.array(states[:steps])
    return {"x": rng.normal(truth["mu"][k], truth["sigma"][k])}, k


def data():
    return simulated()[0]


def picture(fit, steps=200):
    """The series by decoded state, and the laws of the stays with the decoded ones."""
    from matplotlib.figure import Figure
    from scipy.stats import poisson

    (x,) = fit.model.observed_values().values()
    x = np.ravel(x)
    k = np.ravel(fit.decode()["k"])[-len(x) :].astype(int)
    stay, mu = np.asarray(fit.params["stay"]), np.asarray(fit.params["mu"])
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    series, law = figure.subplots(1, 2, width_ratios=[2, 1])
    t = np.arange(min(steps, len(x)))
    series.plot(t, x[t], color="0.8", lw=0.8)
    ends = np.append(np.flatnonzero(np.diff(k)) + 1, len(k))
    stays = np.diff(np.append(0, ends))[1:-1]  # neither the first nor the last, which is cut off
    which = k[ends - 1][1:-1]
    d = np.arange(1, 13)
    for j in (0, 1):
        name = f"state {j}: mean {mu[j]:.1f}, stays {1 + stay[j]:.1f}"
        series.plot(t[k[t] == j], x[t][k[t] == j], ".", color=f"C{j}", label=name)
        law.plot(d, poisson.pmf(d - 1, stay[j]), "o-", ms=3, color=f"C{j}")
        share = np.bincount(np.minimum(stays[which == j], 12), minlength=13)[1:] / max(
            (which == j).sum(), 1
        )
        law.bar(d, share, color=f"C{j}", alpha=0.3)
    series.set_xlabel("step")
    series.set_ylabel("activity (counts per minute)")
    law.set_xlabel("length of a stay (steps)")
    law.set_ylabel("probability (bars: decoded)")
    figure.suptitle(f"Hidden semi-Markov model, {fit.method}")
    figure.legend(loc="outside lower left", ncols=2)
    return figure
