"""Do the intervals cover? 95% Wald intervals from observed information over simulated data sets,
and simulation-based calibration of NUTS.

Run: python benchmarks/coverage.py [coverage] [calibration] [--replicates 1000] [--only NAME]
     [--out FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from pp_mlem import Model, calibrate, experiment


def regression(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(5 * jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 0.3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)


def chain(x):
    with numpyro.plate("states", 2):
        P = numpyro.sample("P", dist.Dirichlet(jnp.array([4.0, 4.0])))
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 0.3))

    first = numpyro.sample("first", dist.Categorical(jnp.ones(2) / 2))
    numpyro.sample("x_first", dist.Normal(mu[first], sigma[first]), obs=x[0])

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x_t)
        return z, None

    scan(step, first, x[1:])


def classes(y):
    n, items = y.shape
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("class", 2, dim=-2), numpyro.plate("item", items, dim=-1):
        p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", n, dim=-2):
        c = numpyro.sample("c", dist.Categorical(w))
        with numpyro.plate("items", items, dim=-1):
            numpyro.sample("y", dist.Bernoulli(p[c, jnp.arange(items)]), obs=y)


def intercepts(y, x, group):
    """A mixed model: random intercepts, integrated out."""
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.LogNormal(0, 1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("groups", 100):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x + u[group], sigma), obs=y)


def level(y):
    """A local level, integrated out along the scan."""
    sd = numpyro.sample("sd", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.LogNormal(0, 1))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(x, sd))
        numpyro.sample("y", dist.Normal(x, noise), obs=y_t)
        return x, None

    scan(step, 0.0, y)


def studies() -> dict:
    """name: (model, truth)."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(400), rng.normal(size=(400, 2))])
    return {
        "linear regression, n=400": (
            Model(regression, X, np.zeros(400)),
            {"beta": [1.0, -0.5, 2.0], "sigma": 1.5},
        ),
        "two-component mixture, n=1000": (
            Model(mixture, np.linspace(-3.0, 4.0, 1000)),
            {"w": [0.4, 0.6], "mu": [-1.5, 2.0], "sigma": [1.0, 1.2]},
        ),
        "hidden Markov model, T=1000": (
            Model(chain, np.linspace(-2.0, 3.0, 1000)),
            {"P": [[0.9, 0.1], [0.2, 0.8]], "mu": [-1.0, 1.5], "sigma": [1.0, 1.0]},
        ),
        "random intercepts, 100 groups of 5": (
            Model(intercepts, np.zeros(500), rng.normal(size=500), np.repeat(np.arange(100), 5)),
            {"beta": [1.0, -0.5], "tau": 0.8, "sigma": 1.2},
        ),
        "local level, T=400": (
            Model(level, np.linspace(-2.0, 2.0, 400)),
            {"sd": 0.7, "noise": 1.0},
        ),
        "latent classes, n=2000": (
            Model(classes, rng.integers(0, 2, (2000, 5))),
            {
                "w": [0.4, 0.6],
                "p": [[0.2, 0.3, 0.15, 0.25, 0.2], [0.7, 0.8, 0.75, 0.85, 0.65]],
            },
        ),
    }


def coverage(replicates: int, out: Path | None, only: str) -> None:
    print(f"Coverage of 95% intervals, observed information, {replicates} data sets each")
    for name, (model, truth) in studies().items():
        if only not in name:
            continue
        clock = time.perf_counter()
        path = None if out is None else out / f"coverage-{name.split(',')[0].replace(' ', '-')}.nc"
        found = experiment(model, truth, replicates, starts=3, out=path)
        table = found.summary()
        free = table[table["intervals"] > 0]
        low, high = free["coverage"].idxmin()[1], free["coverage"].idxmax()[1]
        print(
            f"{name:<30} {len(free):>2} scalars: {100 * free['coverage'].min():.1f}% ({low}) to "
            f"{100 * free['coverage'].max():.1f}% ({high}), mean "
            f"{100 * free['coverage'].mean():.1f}%; {time.perf_counter() - clock:.0f} s"
        )
        print(table[["truth", "bias", "sd", "mean_se", "coverage", "intervals"]].round(4))


def calibration(replicates: int, out: Path | None) -> None:
    print(f"Simulation-based calibration of NUTS, {replicates} data sets each")
    data = {"mixture, n=60": (mixture, 60), "chain, T=80": (chain, 80)}
    for name, (program, n) in data.items():
        clock = time.perf_counter()
        found = calibrate(Model(program, np.linspace(-3.0, 3.0, n)), replicates, 200, 200, 4)
        table = found.uniformity()
        print(
            f"{name:<14} smallest p {table['p'].min():.4f} ({table['p'].idxmin()}) of {len(table)} "
            f"scalars, {int(found.divergences.sum())} divergences; "
            f"{time.perf_counter() - clock:.0f} s"
        )
        print(table.round(4))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            found.ranks.to_csv(out / f"ranks-{name.split(',')[0]}.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["coverage", "calibration"])
    parser.add_argument("--replicates", type=int, default=0)
    parser.add_argument("--only", default="", help="the studies of coverage whose names hold this")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if "coverage" in chosen.parts:
        coverage(chosen.replicates or 1000, chosen.out, chosen.only)
    if "calibration" in chosen.parts:
        calibration(chosen.replicates or 200, chosen.out)
