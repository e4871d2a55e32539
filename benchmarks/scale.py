"""Data on disk: a mixture of five bivariate normals fitted to Parquet files larger than the memory it takes.

For 1M, 10M and 100M rows: rows a second of a pass of EM over the files, of the same sweep over rows in memory, and
(where it is installed) of pomegranate's `summarize` over the same chunks; the whole fit from ten starts; the largest
memory of the process. Every size runs in a process of its own. scikit-learn's GaussianMixture has no fit in chunks.
Then two CPU devices and two processes against one, on 10M rows.

Run: python benchmarks/scale.py [rows ...] [--devices]     (100M rows need 1.6 GB of disk; the files go to
$TMPDIR and are removed)
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("PP_MLEM_CACHE", "off")  # what is cold is compiled
ROWS = (1_000_000, 10_000_000, 100_000_000)
FILE_ROWS, GROUP_ROWS, CHUNK = 20_000_000, 1_000_000, 2**18
MEANS = np.array([[0, 0], [4, 1], [1, 5], [-3, 4], [5, -3.0]])
SCALES = np.array([1.0, 0.7, 1.5, 0.9, 1.2])
SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
REPEATS = 3


def mixture(x, K=5):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        P = numpyro.sample("P", dist.Wishart(4.0, scale_matrix=jnp.eye(2)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=P[z]), obs=x)


def write(folder: Path, rows: int) -> None:
    """Parquet files of columns x and y."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, left = np.random.default_rng(0), rows
    while left:
        own = min(left, FILE_ROWS)
        path = folder / f"{(rows - left) // FILE_ROWS:03d}.parquet"
        writer = None
        for first in range(0, own, GROUP_ROWS):
            size = min(GROUP_ROWS, own - first)
            z = rng.choice(5, size, p=SHARES)
            xy = MEANS[z] + rng.normal(size=(size, 2)) * SCALES[z][:, None]
            table = pa.table({"x": xy[:, 0], "y": xy[:, 1]})
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="none", use_dictionary=False
            )
            writer.write_table(table)
        writer.close()
        left -= own


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def best(action) -> float:
    """Seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(REPEATS):
        clock = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - clock)
    return min(seconds)


def fitted(folder: str, devices: int | None = None):
    """A model of the files, and its fit."""
    from pp_mlem import Model, fit_em, open_source

    clock = time.perf_counter()
    source = open_source(f"{folder}/*.parquet")
    model = Model(mixture, source[["x", "y"]], devices=devices)
    read = time.perf_counter() - clock
    clock = time.perf_counter()
    fit = fit_em(model, starts=10, progress=False)
    return source, model, fit, read, time.perf_counter() - clock


def one_size(folder: str) -> None:
    import jax

    from pp_mlem.base.precision import working_precision
    from pp_mlem.estimate.em import em_look
    from pp_mlem.model.model import Model

    source, model, fit, read, seconds = fitted(folder)
    count, largest = source.count(), peak()
    print(
        f"{count:>11,} rows: read and checked {read:.1f} s, fit {seconds:.1f} s ({fit.status}, {fit.iterations} passes, "
        f"log-likelihood {fit.log_likelihood:.4f}), peak memory {largest:.0f} MB",
        flush=True,
    )
    rows = min(count, 2**21)
    chunks = source.chunks([source[["x", "y"]]], CHUNK, 0, -(-rows // CHUNK))
    x = np.concatenate([c.arrays[0][: c.count] for c in chunks])
    whole = Model(mixture, x)
    with working_precision(model.dtype):
        target, memory = model.target(), whole.target()
        vector = np.array(target.unconstrained({k: v[None] for k, v in fit.params.items()}))
        wanted = vector, np.array([2])
        run = memory.compiled(em_look, lanes=(0, 0), effort=memory.work.steady)
        jax.block_until_ready(run(*wanted))
        inside = len(x) / best(lambda: jax.block_until_ready(run(*wanted)))
        streamed = count / best(lambda: target.looked(em_look, np.array([True]), wanted))
    told = f"{'':>11}  a pass: {streamed / 1e6:.1f}M rows/s, in memory {inside / 1e6:.1f}M ({streamed / inside:.2f} of it; asked 0.5)"
    other = pomegranate(source, fit, min(count, 10_000_000))
    if other is not None:
        told += f", pomegranate's summarize {other / 1e6:.2f}M ({streamed / other:.1f}x; asked 5)"
    print(told, flush=True)


def pomegranate(source, fit, rows: int) -> float | None:
    """Rows a second of pomegranate's summarize over the same chunks, None without it."""
    sys.path = [p for p in sys.path if Path(p).name != "benchmarks"]  # whose coverage.py numba would take
    try:
        import torch
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel
    except ImportError:
        return None
    covariances = np.linalg.inv(fit.params["P"])
    parts = [
        Normal(torch.tensor(m), torch.tensor(c))
        for m, c in zip(fit.params["mu"], covariances, strict=True)
    ]
    model = GeneralMixtureModel(parts, priors=torch.tensor(fit.params["w"]))

    def one_pass() -> None:
        for chunk in source.chunks([source[["x", "y"]]], CHUNK, 0, rows // CHUNK):
            model.summarize(torch.from_numpy(chunk.arrays[0]))
        model.from_summaries()

    return rows // CHUNK * CHUNK / best(one_pass)


def devices(folder: str, count: int) -> None:
    """A fit on so many CPU devices, which share XLA's threads."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    _, _, fit, _, seconds = fitted(folder, count)
    print(
        f"{'':>11}  {count} CPU device(s): fit {seconds:.1f} s, {fit.log_likelihood.hex()}",
        flush=True,
    )


def process(folder: str, rank: int, port: int) -> None:
    """One of two processes."""
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    _, _, fit, _, seconds = fitted(folder)
    if rank == 0:
        print(f"{'':>11}  2 processes: fit {seconds:.1f} s, {fit.log_likelihood.hex()}", flush=True)


def main(sizes: list[int], with_devices: bool) -> None:
    script = [sys.executable, __file__]
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows)
            subprocess.run([*script, "--size", folder], check=True)
            if with_devices and rows <= 10_000_000:
                for count in (1, 2):
                    subprocess.run([*script, "--on", folder, str(count)], check=True)
                both = [
                    subprocess.Popen(
                        [*script, "--process", folder, str(rank), "29471"],
                        stderr=subprocess.DEVNULL,
                    )
                    for rank in (0, 1)
                ]
                for one in both:
                    one.wait()


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["--size"]:
        one_size(given[1])
    elif given[:1] == ["--on"]:
        devices(given[1], int(given[2]))
    elif given[:1] == ["--process"]:
        process(given[1], int(given[2]), int(given[3]))
    else:
        main([int(float(a)) for a in given if a != "--devices"] or list(ROWS), "--devices" in given)
