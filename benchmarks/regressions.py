"""Time of one EM iteration of a mixture of regressions: an intercept and five covariates, three
components, Normal, Poisson and logistic; the difference between fits of few and of more iterations,
from the same start.

Run: python benchmarks/regressions.py [--rows 100000] [--against FOLDER]
FOLDER is another checkout: both are timed alternately, each in processes of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

K, COVARIATES = 3, 5
FEW = 2  # iterations of the shorter fit
LONG = 3.0  # seconds that the longer takes more, roughly
ROUNDS = 2  # of alternate measurements


def program(x, y, kind):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([x.shape[1]]).to_event(1))
        if kind == "normal":
            s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        u = (b[z] * x).sum(-1)
        if kind == "normal":
            law = dist.Normal(u, s[z])
        elif kind == "poisson":
            law = dist.Poisson(jnp.exp(u))
        else:
            law = dist.Bernoulli(logits=u)
        numpyro.sample("y", law, obs=y)


def draw(kind, n):
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, COVARIATES))])
    b = rng.normal(size=(K, COVARIATES + 1)) * (0.4 if kind == "poisson" else 1.0)
    u = (x * b[rng.integers(K, size=n)]).sum(1)
    if kind == "normal":
        y = u + rng.normal(size=n)
    elif kind == "poisson":
        y = rng.poisson(np.exp(u)).astype(float)
    else:
        y = (rng.random(n) < 1 / (1 + np.exp(-u))).astype(float)
    init = {"w": np.full(K, 1 / K), "b": b + 0.3 * rng.normal(size=b.shape)}
    return x, y, init | ({"s": np.full(K, 1.5)} if kind == "normal" else {})


def seconds(kind, n):
    """Of one EM iteration."""
    from pp_mlem import Model, fit_em

    x, y, init = draw(kind, n)
    model = Model(program, x, y, kind)

    def fit(iterations):
        clock = time.perf_counter()
        fit_em(
            model, init=init, max_iter=iterations, accelerate=False, polish=False, tol=1e-300,
            progress=False,
        )  # fmt: skip
        return time.perf_counter() - clock

    fit(FEW)
    pilot = max((fit(FEW + 2) - fit(FEW)) / 2, 0.02)
    more = int(np.clip(LONG / pilot, 2, 60))
    return min((fit(FEW + more) - fit(FEW)) / more for _ in range(2))


def measure(folder, kind, n):
    """The same in a process of its own, with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, "--one", kind, "--rows", str(n)]
    ended = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    return float(ended.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--one")
    options = parser.parse_args()
    if options.one:
        print(seconds(options.one, options.rows))
        return
    here = Path(__file__).resolve().parents[1]
    folders = [here] + ([options.against] if options.against else [])
    print(
        f"{options.rows} rows, {K} components, {COVARIATES} covariates: seconds of an EM iteration"
    )
    print(f"{'':10}" + "".join(f"{str(f):>28}" for f in folders))
    for kind in ("normal", "poisson", "logistic"):
        times = [[] for _ in folders]
        for _ in range(ROUNDS if len(folders) > 1 else 1):
            for own, folder in zip(times, folders, strict=True):
                own.append(measure(folder, kind, options.rows))
        best = [min(own) for own in times]
        ratio = f"   {best[1] / best[0]:.1f} times" if len(best) > 1 else ""
        print(f"{kind:10}" + "".join(f"{b:28.4f}" for b in best) + ratio, flush=True)


if __name__ == "__main__":
    main()
