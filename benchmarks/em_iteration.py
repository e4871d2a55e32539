"""Time of one EM iteration of a Gaussian mixture: pp_mlem, through its NumPyro program, against
scikit-learn's GaussianMixture and, where it is installed, pomegranate's GeneralMixtureModel. Same data, start, number of iterations and precision (float64).

Run: python benchmarks/em_iteration.py [--quick]
"""

from __future__ import annotations

import argparse
import time
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.mixture import GaussianMixture

from pp_mlem import Model, fit_em

CASES = [(1_000_000, 2, 5, 10.0), (100_000, 8, 8, 7.0), (20_000, 50, 10, 2.5)]


def mixture(x, K):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample(
            "mu", dist.MultivariateNormal(jnp.zeros(x.shape[1]), jnp.eye(x.shape[1]))
        )
        S = numpyro.param(
            "S",
            lambda key: jnp.broadcast_to(jnp.eye(x.shape[1]), (K,) + (x.shape[1],) * 2),
            constraint=dist.constraints.positive_definite,
        )
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], covariance_matrix=S[z]), obs=x)


def draw(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=3.0, size=(k, d))
    x = centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    start = x[rng.choice(n, k, replace=False)]
    return x, start


def pomegranate_iteration(x, init, k, iterations):
    """Seconds of one iteration of pomegranate's GeneralMixtureModel, or None without it."""
    try:
        import torch
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel
    except ImportError:
        return None
    data = torch.tensor(x)

    def fit(steps):
        parts = [
            Normal(torch.tensor(init["mu"][j]), torch.tensor(np.array(init["S"][j])))
            for j in range(k)
        ]
        model = GeneralMixtureModel(
            parts, priors=torch.tensor(init["w"]), max_iter=steps, tol=-1e300
        )
        clock = time.perf_counter()
        model.fit(data)
        return time.perf_counter() - clock

    return (fit(iterations) - fit(1)) / (iterations - 1)


def run(n, d, k, floor, iterations):
    x, start = draw(n, d, k)
    init = {"w": np.full(k, 1 / k), "mu": start, "S": np.broadcast_to(np.eye(d), (k, d, d))}
    model = Model(mixture, x, k)
    options = dict(init=init, accelerate=False, polish=False, tol=1e-300, progress=False)
    times = {"ours": [], "sklearn": []}
    fit_em(model, max_iter=iterations, **options)
    for _ in range(3):
        clock = time.perf_counter()
        fit = fit_em(model, max_iter=iterations, **options)
        long = time.perf_counter() - clock
        clock = time.perf_counter()
        fit_em(model, max_iter=1, **options)
        times["ours"].append((long - (time.perf_counter() - clock)) / (iterations - 1))
        for_sk = []
        for m in (iterations, 1):
            other = GaussianMixture(
                k,
                max_iter=m,
                tol=0.0,
                reg_covar=0.0,
                weights_init=init["w"],
                means_init=start,
                precisions_init=init["S"],
                random_state=0,
            )
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other.fit(x)
            for_sk.append(time.perf_counter() - clock)
            if m == iterations:
                reference = other.score(x) * n
        times["sklearn"].append((for_sk[0] - for_sk[1]) / (iterations - 1))
    ours, theirs = (float(np.median(times[s])) for s in ("ours", "sklearn"))
    gap = abs(fit.log_likelihood - reference) / abs(reference)
    third = pomegranate_iteration(x, init, k, iterations)
    extra = (
        "; pomegranate is not installed"
        if third is None
        else f"; pomegranate {1e3 * third:.1f} ms, ratio {third / ours:.1f}"
    )
    print(
        f"N={n:>9,} D={d:>2} K={k:>2}: pp_mlem {1e3 * ours:8.1f} ms, scikit-learn "
        f"{1e3 * theirs:8.1f} ms, ratio {theirs / ours:5.1f} (asked {floor}), "
        f"log-likelihood apart {gap:.1e} relative{extra}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, few columns")
    quick = parser.parse_args().quick
    for n, d, k, floor in CASES[:2] if quick else CASES:
        run(n // 10 if quick else n, d, k, floor, iterations=6)
