"""A whole fit with 10 starts to the same tolerance: fit_em against GaussianMixture(n_init=10).

scikit-learn stops when the log-likelihood per row rises by less than 1e-3; fit_em stops by its own
rule (gradient per observation, stricter) and is timed cold (compilation included) and warm.

Run: python benchmarks/em_fit.py
"""

from __future__ import annotations

import time

from em_iteration import draw, mixture
from sklearn.mixture import GaussianMixture

from pp_mlem import Model, fit_em


def main(n=100_000, d=2, k=3):
    x, _ = draw(n, d, k, seed=1)
    clock = time.perf_counter()
    other = GaussianMixture(k, n_init=10, init_params="k-means++", random_state=0).fit(x)
    theirs = time.perf_counter() - clock
    clock = time.perf_counter()
    model = Model(mixture, x, k)
    fit = fit_em(model, starts=10, seed=0, tol=1e-6, progress=False)
    cold = time.perf_counter() - clock
    clock = time.perf_counter()
    fit = fit_em(model, starts=10, seed=0, tol=1e-6, progress=False)
    warm = time.perf_counter() - clock
    print(
        f"N={n:,} D={d} K={k}, 10 starts: scikit-learn {theirs:.2f} s, pp_mlem {cold:.2f} s cold "
        f"(ratio {theirs / cold:.1f}, asked 4), {warm:.2f} s warm (ratio {theirs / warm:.1f}, "
        f"asked 8)"
    )
    print(
        f"log-likelihood: scikit-learn {other.score(x) * n:.4f}, pp_mlem {fit.log_likelihood:.4f}"
    )
    print(fit.story)


if __name__ == "__main__":
    main()
