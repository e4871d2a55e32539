"""How far the process grows while a Gaussian mixture with N=1M, D=8, K=8 is read and fitted.

Run: python benchmarks/memory.py
"""

from __future__ import annotations

import resource

import numpy as np
import psutil
from em_iteration import draw, mixture

from pp_mlem import Model, fit_em


def main(n=1_000_000, d=8, k=8):
    small, small_start = draw(2_000, d, k)
    init = {"w": np.full(k, 1 / k), "S": np.broadcast_to(np.eye(d), (k, d, d))}
    options = {"accelerate": False, "polish": False, "max_iter": 5, "tol": 1e-300}
    fit_em(Model(mixture, small, k), init={**init, "mu": small_start}, **options)  # libraries in
    x, start = draw(n, d, k)
    before = psutil.Process().memory_info().rss
    fit_em(Model(mixture, x, k), init={**init, "mu": start}, progress=False, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = x.nbytes
    print(
        f"data {size / 2**20:.0f} MiB, process grew by {(peak - before) / 2**20:.0f} MiB at its "
        f"peak: {(peak - before) / size:.2f} times the data (asked at most 3)"
    )


if __name__ == "__main__":
    main()
