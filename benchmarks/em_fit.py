"""A whole fit with several starts: fit_em against scikit-learn's GaussianMixture.

Two comparisons, since the two stop by different rules. "Loose": scikit-learn's own tolerance
(log-likelihood per row rises by less than 1e-3) against a gradient per observation below 5e-3,
without a finish: the loosest with which fit_em does not end lower than scikit-learn. "Exact": both
go on until the log-likelihood is within about 1e-2 of its maximum. fit_em is timed cold (reading and
compilation included) and warm.

Run: python benchmarks/em_fit.py [loose] [exact]
"""

from __future__ import annotations

import os
import sys
import time
import warnings

from em_iteration import draw, mixture
from sklearn.mixture import GaussianMixture

from pp_mlem import Model, fit_em

os.environ.setdefault("PP_MLEM_CACHE", "off")  # what is cold is compiled


def compare(name, starts, tol_sklearn, asked, n=100_000, d=2, k=3, **options):
    x, _ = draw(n, d, k, seed=1)
    other = GaussianMixture(
        k, n_init=starts, init_params="k-means++", random_state=0, tol=tol_sklearn, max_iter=5000
    )
    clock = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.fit(x)
    theirs = time.perf_counter() - clock
    seconds = []
    for _ in range(3):
        clock = time.perf_counter()
        if not seconds:
            model = Model(mixture, x, k)
        fit = fit_em(model, starts=starts, seed=0, init="kmeans++", progress=False, **options)
        seconds.append(time.perf_counter() - clock)
    cold, warm = seconds[0], min(seconds[1:])
    print(
        f"{name}: N={n:,} D={d} K={k}, {starts} starts: scikit-learn {theirs:.2f} s, pp_mlem "
        f"{cold:.2f} s cold (ratio {theirs / cold:.1f}), {warm:.2f} s warm (ratio "
        f"{theirs / warm:.1f}){asked}\n  log-likelihood: scikit-learn {other.score(x) * n:.3f}, "
        f"pp_mlem {fit.log_likelihood:.3f}; {fit.story}",
        flush=True,
    )


if __name__ == "__main__":
    what = sys.argv[1:] or ["loose", "exact"]
    if "loose" in what:
        compare("loose", 10, 1e-3, "; asked 4 and 8", tol=5e-3, polish=False)
    if "exact" in what:
        compare("exact", 3, 1e-9, "", tol=1e-6)
