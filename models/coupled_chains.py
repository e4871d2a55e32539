"""Coupled hidden Markov models: do two dogs wake each other up?

a_t ~ Categorical(A[a_{t-1}, b_{t-1}]),  b_t ~ Categorical(B[b_{t-1}, a_{t-1}]),
x_t ~ Poisson(rate_a[a_t]),  y_t ~ Poisson(rate_b[b_t])

Each of two chains has two states (calm and awake) and counts of its own; where a chain goes depends on where it
is and on where the other one is. The states are latent, those before the first hour too, where either is as
likely; A[own, other, next], B[own, other, next] and the rates are parameters. Forward-backward runs over the
four states of the pair, and EM's M-steps are in closed form. Without the influence A[own, 0] = A[own, 1], and
they are two hidden Markov models.

x: barks of the one dog in an hour
y: barks of the other

Data: 500 hours, simulated at the `truth` below: the second dog often wakes the first, and does not mind it. The
likelihood was checked against the forward recursion over the pairs in NumPy. Source: Brand, Oliver &
Pentland (1997), doi:10.1109/CVPR.1997.609450.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

truth = {
    "A": np.array([[[0.95, 0.05], [0.5, 0.5]], [[0.4, 0.6], [0.1, 0.9]]]),
    "B": np.array([[[0.9, 0.1], [0.9, 0.1]], [[0.15, 0.85], [0.15, 0.85]]]),
    "rate_a": np.array([1.0, 6.0]),
    "rate_b": np.array([2.0, 9.0]),
}


def model(x, y):
    A = numpyro.sample("A", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    B = numpyro.sample("B", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    rate_a = numpyro.sample("rate_a", dist.Gamma(2, 0.4).expand([2]).to_event(1))
    rate_b = numpyro.sample("rate_b", dist.Gamma(2, 0.4).expand([2]).to_event(1))

    def step(carry, counts):
        a, b = carry
        x_t, y_t = counts
        to_a, to_b = A[a, b], B[b, a]  # both look at the hour before
        a = numpyro.sample("a", dist.Categorical(to_a))
        b = numpyro.sample("b", dist.Categorical(to_b))
        numpyro.sample("x", dist.Poisson(rate_a[a]), obs=x_t)
        numpyro.sample("y", dist.Poisson(rate_b[b]), obs=y_t)
        return (a, b), None

    before = [numpyro.sample(f"{name}_before", dist.Categorical(jnp.ones(2) / 2)) for name in "ab"]
    scan(step, tuple(before), (x, y))


def simulated(hours=500, seed=0):
    """The counts and the states that made them."""
    rng = np.random.default_rng(seed)
    states = np.zeros((hours + 1, 2), int)
    for t in range(hours):
        a, b = states[t]
        states[t + 1] = rng.uniform(size=2) < [truth["A"][a, b, 1], truth["B"][b, a, 1]]
    a, b = states[1:].T
    return {"x": rng.poisson(truth["rate_a"][a]), "y": rng.poisson(truth["rate_b"][b])}, (a, b)


def data():
    return simulated()[0]


def picture(fit, steps=120):
    """The first counts with the probability of being awake, and what each state of the other does to it."""
    from matplotlib.figure import Figure

    counts = list(fit.model.observed_values().values())
    posterior = fit.posterior()
    awake = [np.argmax(fit.params[f"rate_{name}"]) for name in "ab"]  # whichever state has more
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots(2, 2, width_ratios=[3, 1])
    for i, (name, own, other) in enumerate((("a", 0, 1), ("b", 1, 0))):
        series, chance = axes[i]
        hours = np.arange(min(steps, len(counts[i])))
        series.bar(hours, np.ravel(counts[i])[: len(hours)], width=1.0, color="#bbbbbb")
        twin = series.twinx()
        states = np.asarray(posterior[name]).reshape(-1, 2)[-len(counts[i]) :]
        twin.plot(hours, states[: len(hours), awake[own]], color="#4477aa", lw=1.4)
        twin.set_ylim(0, 1.03)
        series.set_ylabel(f"counts {'xy'[i]}")
        twin.set_ylabel("P(awake | counts)", color="#4477aa")
        table = np.asarray(fit.params[name.upper()])[..., awake[own]]  # by own and other state
        table = table[:: 1 if awake[own] == 1 else -1, :: 1 if awake[other] == 1 else -1]
        for j, state in enumerate(("calm", "awake")):
            chance.plot([0, 1], table[j], "o-", color=f"C{j}", label=f"itself {state}")
        chance.set_xticks([0, 1], ["calm", "awake"])
        chance.set_xlim(-0.3, 1.3)
        chance.set_ylim(0, 1)
        chance.set_xlabel(f"state of {'ba'[i]}")
        chance.set_title(f"P({name} awake next)", fontsize=10)
    axes[1, 0].set_xlabel("hour")
    figure.suptitle(f"Two chains that influence each other, {fit.method}")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure
