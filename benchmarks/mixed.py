"""Real latents: mixed models, probabilistic PCA and factor analysis against statsmodels, a plain NumPy EM and
scikit-learn. Float64, the same data and the same maximum.

Run: python benchmarks/mixed.py [intercepts] [small] [crossed] [components] [factors]
(crossed needs ../shared/data; where the package mixedlm is installed, whose inside is Rust, intercepts and
crossed compare with it too)
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

from pp_mlem import Model, fit_em, fit_mle

os.environ.setdefault("PP_MLEM_CACHE", "off")  # what is cold is compiled
SHARED = Path(__file__).resolve().parents[2] / "shared"


def timed(run):
    clock = time.perf_counter()
    found = run()
    return time.perf_counter() - clock, found


def against_rust(formula, data, warm, runs=9):
    """The same maximum by mixedlm, where it is installed."""
    try:
        from mixedlm import lmer
    except ImportError:
        print("mixedlm is not installed")
        return
    run = partial(lmer, formula, data, REML=False)
    theirs = [timed(run) for _ in range(runs)]
    seconds = min(t for t, _ in theirs)
    print(
        f"mixedlm {1e3 * seconds:.0f} ms (ratio {seconds / warm:.1f}, asked 1), {theirs[0][1].logLik()}",
        flush=True,
    )


def random_intercepts(y, x, group, groups):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", groups):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[0] + b[1] * x + u[group], sigma), obs=y)


def intercepts(groups=10_000, rows=100_000):
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(0)
    group, x = rng.integers(0, groups, rows), rng.normal(size=rows)
    y = 1 + 0.5 * x + 0.7 * rng.normal(size=groups)[group] + rng.normal(size=rows)
    reading, model = timed(lambda: Model(random_intercepts, y, x, group, groups))
    cold, fit = timed(lambda: fit_mle(model, starts=1, progress=False))
    warm = min(timed(lambda: fit_mle(model, starts=1, progress=False))[0] for _ in range(9))
    em = min(timed(lambda: fit_em(model, starts=1, progress=False))[0] for _ in range(3))
    against_rust("y ~ x + (1 | group)", pd.DataFrame({"y": y, "x": x, "group": group}), warm)
    design = np.column_stack([np.ones(rows), x])
    theirs, other = timed(lambda: MixedLM(y, design, group).fit(reml=False))
    print(
        f"random intercepts, {groups:,} groups, {rows:,} rows: statsmodels {theirs:.1f} s, pp_mlem "
        f"{reading + cold:.1f} s cold, {warm:.2f} s warm (ratio {theirs / warm:.0f}, asked 50), EM {em:.2f} s; "
        f"log-likelihood {fit.log_likelihood:.4f}, theirs {other.llf:.4f}",
        flush=True,
    )


def random_slopes(y, x, group, groups):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("groups", groups):
        law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=tau[:, None] * corr)
        u = numpyro.sample("u", law)
    with numpyro.plate("rows", len(y)):
        mean = b[0] + b[1] * x + u[group, 0] + u[group, 1] * x
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def small(groups=18, days=10):
    """As many rows as sleepstudy has."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(0)
    group, x = np.repeat(np.arange(groups), days), np.tile(np.arange(days) / 5.0, groups)
    u = rng.normal(size=(groups, 2)) * [0.8, 0.5]
    y = 2 + 0.5 * x + u[group, 0] + u[group, 1] * x + 0.8 * rng.normal(size=len(x))
    model = Model(random_slopes, y, x, group, groups)
    cold, fit = timed(lambda: fit_mle(model, starts=1, progress=False))
    warm = min(timed(lambda: fit_mle(model, starts=1, progress=False))[0] for _ in range(5))
    design = np.column_stack([np.ones(len(x)), x])
    run = MixedLM(y, design, group, exog_re=design).fit
    theirs, other = min((timed(lambda: run(reml=False)) for _ in range(3)), key=lambda t: t[0])
    print(
        f"random slopes, {groups} groups, {len(y)} rows: statsmodels {1e3 * theirs:.0f} ms, pp_mlem "
        f"{cold:.1f} s cold, {1e3 * warm:.0f} ms warm (ratio {theirs / warm:.1f}); log-likelihood "
        f"{fit.log_likelihood:.4f}, theirs {other.llf:.4f}",
        flush=True,
    )


def crossed_effects(y, service, s, d, dept, students, lecturers, departments):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([3]).to_event(1))
    with numpyro.plate("students", students):
        u = numpyro.sample("u", dist.Normal(0, tau[0]))
    with numpyro.plate("lecturers", lecturers):
        v = numpyro.sample("v", dist.Normal(0, tau[1]))
    with numpyro.plate("departments", departments):
        w = numpyro.sample("w", dist.Normal(0, tau[2]))
    with numpyro.plate("ratings", len(y)):
        mean = b[0] + b[1] * service + u[s] + v[d] + w[dept]
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def crossed():
    folder = SHARED / "data" / "C20_insteval"
    if not folder.is_dir():
        print("crossed: no data here")
        return
    data = pd.read_csv(next(iter(folder.glob("*.csv*"))))
    codes = {
        n: data[n].astype("category").cat.codes.to_numpy() for n in ("s", "d", "dept", "service")
    }
    sizes = [int(codes[n].max()) + 1 for n in ("s", "d", "dept")]
    arrays = [codes[n] for n in ("s", "d", "dept")]
    y, service = data["y"].to_numpy(float), codes["service"].astype(float)
    reading, model = timed(lambda: Model(crossed_effects, y, service, *arrays, *sizes))
    cold, fit = timed(lambda: fit_mle(model, starts=1, progress=False))
    warm = min(timed(lambda: fit_mle(model, starts=1, progress=False))[0] for _ in range(2))
    em = [timed(lambda: fit_em(model, starts=1, progress=False))[0] for _ in range(2)][1]
    against_rust(
        "y ~ service + (1 | s) + (1 | d) + (1 | dept)", data.astype({"service": float}), warm, 1
    )
    print(
        f"InstEval, {len(y):,} ratings: {reading + cold:.1f} s cold, {warm:.1f} s warm (asked 5), EM {em:.1f} s, "
        f"-2 log-likelihood {-2 * fit.log_likelihood:.5f} (MixedModels.jl 237721.76877)",
        flush=True,
    )


def scores(x, L):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.Normal(mu + u @ W.T, sigma).to_event(1), obs=x)


def plain_step(x, mu, W, sigma):
    """One step of EM for probabilistic PCA over the rows (Tipping & Bishop 1999, appendix B)."""
    centred = x - mu
    inverse = np.linalg.inv(W.T @ W + sigma**2 * np.eye(W.shape[1]))
    mean = centred @ W @ inverse
    second = len(x) * sigma**2 * inverse + mean.T @ mean
    new = centred.T @ mean @ np.linalg.inv(second)
    squares = (
        (centred**2).sum() - 2 * (mean * (centred @ new)).sum() + (second * (new.T @ new)).sum()
    )
    return new, np.sqrt(squares / x.size)


def components(rows=200_000, D=30, L=5, iterations=10):
    rng = np.random.default_rng(1)
    W = rng.normal(size=(D, L))
    x = rng.normal(size=(rows, L)) @ W.T + 0.5 * rng.normal(size=(rows, D))
    start = {"mu": x.mean(0), "W": W + 0.3 * rng.normal(size=W.shape), "sigma": 1.0}
    model = Model(scores, x, L, latents={"u"})
    options = dict(init=start, accelerate=False, polish=False, tol=1e-300, progress=False)
    fit_em(model, max_iter=2, **options)
    mine = []
    for _ in range(3):
        many = timed(lambda: fit_em(model, max_iter=iterations + 1, **options))[0]
        mine.append((many - timed(lambda: fit_em(model, max_iter=1, **options))[0]) / iterations)
    loadings, sigma, theirs = start["W"], 1.0, []
    for _ in range(iterations):
        run = partial(plain_step, x, start["mu"], loadings, sigma)
        seconds, (loadings, sigma) = timed(run)
        theirs.append(seconds)
    ours, other = float(np.median(mine)), float(np.median(theirs))
    print(
        f"probabilistic PCA, N={rows:,}, D={D}, L={L}: an EM iteration {1e3 * ours:.0f} ms, plain NumPy "
        f"{1e3 * other:.0f} ms, ratio {other / ours:.1f} (asked 5)",
        flush=True,
    )


def factor_scores(x, L):
    d = x.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([d]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0, 1).expand([d, L]).to_event(2))
    psi = numpyro.sample("psi", dist.HalfNormal(1).expand([d]).to_event(1))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.Normal(0, 1).expand([L]).to_event(1))
        numpyro.sample("x", dist.Normal(mu + u @ W.T, psi).to_event(1), obs=x)


def factors(rows=20_000, D=50, L=5):
    from sklearn.decomposition import FactorAnalysis

    rng = np.random.default_rng(0)
    W, psi = rng.normal(size=(D, L)), rng.uniform(0.3, 1.5, D)
    x = rng.normal(size=(rows, L)) @ W.T + psi * rng.normal(size=(rows, D)) + rng.normal(size=D)
    reading, model = timed(lambda: Model(factor_scores, x, L, latents={"u"}))
    cold, fit = timed(lambda: fit_mle(model, starts=1, progress=False))
    warm = min(timed(lambda: fit_mle(model, starts=1, progress=False))[0] for _ in range(3))
    fit_em(model, starts=1, progress=False)
    em = min(timed(lambda: fit_em(model, starts=1, progress=False))[0] for _ in range(3))
    for told, tol in (("by default", 1e-2), ("to the same log-likelihood", 1e-6)):
        theirs, other = timed(partial(FactorAnalysis(L, tol=tol, max_iter=5000).fit, x))
        print(
            f"factor analysis, N={rows:,}, D={D}, L={L}: scikit-learn {told} {theirs:.2f} s, pp_mlem "
            f"{reading + cold:.1f} s cold, {warm:.2f} s warm (ratio {theirs / warm:.0f}, asked 10), EM {em:.2f} s; "
            f"log-likelihood {fit.log_likelihood:.4f}, theirs {other.score(x) * rows:.4f}",
            flush=True,
        )


PARTS = {f.__name__: f for f in (intercepts, small, components, factors, crossed)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    warnings.simplefilter("ignore")
    for part in parser.parse_args().parts:
        PARTS[part]()
