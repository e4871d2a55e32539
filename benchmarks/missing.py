"""Vectors with missing entries: an iteration of EM for a multivariate normal against plain NumPy that goes row
by row (Little & Rubin 2019, section 11.2.1), float64, the same data and the same iterates; and memory by rows.

Run: python benchmarks/missing.py [--rows 100000] [--share 0.1] [--theirs 2000] [--memory]
(`theirs` are the rows that NumPy is timed on.)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from pp_mlem import Model, fit_em
from pp_mlem.base.compiling import Effort
from pp_mlem.base.precision import working_precision

ENTRIES = 10


def normal(x):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    S = numpyro.param("S", jnp.eye(d), constraint=dist.constraints.positive_definite)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(mu, S), obs=x)


def mixture(x, K=3):
    d = x.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([K, d]).to_event(2))
    S = numpyro.param(
        "S", jnp.stack([jnp.eye(d)] * K), constraint=dist.constraints.positive_definite
    )
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], S[z]), obs=x)


def data(rows, share):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(ENTRIES, ENTRIES))
    x = rng.normal(size=(rows, ENTRIES)) @ mix.T + rng.normal(size=ENTRIES)
    x[rng.uniform(size=x.shape) < share] = np.nan
    return x


def plain_step(x, mean, covariance):
    """One iteration over the rows, one by one: (mean, covariance, seconds of the pass over the rows)."""
    clock = time.perf_counter()
    count, first, second = 0, np.zeros_like(mean), np.zeros_like(covariance)
    for row in x:
        seen = ~np.isnan(row)
        if not seen.any():
            continue
        gone = ~seen
        filled, left = row.copy(), 0.0
        if gone.any():
            among = covariance[seen][:, seen]
            across = np.linalg.solve(among, covariance[seen][:, gone]).T
            filled[gone] = mean[gone] + across @ (row[seen] - mean[seen])
            left = covariance[gone][:, gone] - across @ covariance[seen][:, gone]
            second[np.ix_(gone, gone)] += left
        count += 1
        first += filled
        second += np.outer(filled, filled)
    new = first / count
    return new, second / count - np.outer(new, new), time.perf_counter() - clock


def ours(model, mean, covariance, steps=20):
    """Seconds for an iteration, `steps` of them in one call, and where they end."""
    with working_precision(model.dtype):
        target = model.target()
        vector = target.space.to_vector({"mu": mean, "S": covariance})

        def run(target, vector):
            return jax.lax.fori_loop(0, steps, lambda _, v: target.em_step(v)[0], vector)

        compiled = target.compiled(run, effort=Effort.LEAN)
        end = jax.block_until_ready(compiled(vector))
        seconds = []
        for _ in range(3):
            clock = time.perf_counter()
            jax.block_until_ready(compiled(vector))
            seconds.append((time.perf_counter() - clock) / steps)
        params = {k: np.asarray(v) for k, v in target.params(end).items()}
        return min(seconds), params


def iterations(rows, share, theirs):
    x = data(rows, share)
    clock = time.perf_counter()
    model = Model(normal, x)
    reading = time.perf_counter() - clock
    mean, covariance = np.nanmean(x, 0), np.diag(np.nanvar(x, 0))
    seconds, _ = ours(model, mean, covariance)
    part = x[:theirs]
    measured = min(plain_step(part, mean, covariance)[2] for _ in range(3))
    scaled = measured * rows / len(part)
    patterns = len(np.unique(np.isnan(x), axis=0))
    print(
        f"{rows:,} rows of {ENTRIES}, {share:.0%} missing, {patterns} patterns: read in {reading:.1f} s; an EM "
        f"iteration {1e3 * seconds:.1f} ms, NumPy row by row {scaled:.2f} s (measured on {len(part):,} rows), "
        f"ratio {scaled / seconds:.0f}, asked 20",
        flush=True,
    )
    small = Model(normal, part)
    _, end = ours(small, mean, covariance, steps=1)
    step = plain_step(part, mean, covariance)
    apart = max(np.abs(end["mu"] - step[0]).max(), np.abs(end["S"] - step[1]).max())
    print(f"after one iteration the estimates differ by {apart:.1e}", flush=True)
    for name, program in (("normal", normal), ("mixture", mixture)):
        model = Model(program, x)
        for kind in ("cold", "warm"):
            clock = time.perf_counter()
            fit = fit_em(model, starts=1, progress=False, max_iter=200)
            took = time.perf_counter() - clock
            print(
                f"{name}, {kind}: {took:.2f} s, {fit.iterations} iterations, {fit.status}",
                flush=True,
            )


def memory(share):
    """The most memory of a process that fits so many rows."""
    for rows in (50_000, 100_000, 200_000):
        command = [sys.executable, __file__, "--peak", str(rows), "--share", str(share)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"{rows:,} rows: {found[0]} MB at most, mixture of three {found[1]} MB", flush=True)


def peak(rows, share):
    x, told = data(rows, share), []
    for program in (normal, mixture):
        fit_em(Model(program, x), starts=1, progress=False, max_iter=3)
        told.append(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
    print(*told)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--theirs", type=int, default=2_000)
    parser.add_argument("--peak", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="measure memory by rows as well")
    given = parser.parse_args()
    if given.peak:
        peak(given.peak, given.share)
        return
    iterations(given.rows, given.share, given.theirs)
    if given.memory:
        memory(given.share)


if __name__ == "__main__":
    main()
