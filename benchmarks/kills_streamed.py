"""Kills a fit of data in chunks again and again, and compares what it ends with.

    python benchmarks/kills_streamed.py [kills, default 20]

Each run is a process of its own, killed (SIGKILL) at a random moment after it has read its model, and started anew on
the same checkpoint until it ends; then its parameters and the path of its objective must be, to the bit, those of a run
without kills. Passes over the rows that were under way at a kill, and are made again, are counted.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys, time, pathlib, numpy as np, numpyro, numpyro.distributions as dist, jax.numpy as jnp
from pp_mlem import Model, fit_em, open_source
from pp_mlem.estimate.checkpoint import Checkpoint
from pp_mlem.model.streamed import StreamedModel

folder = pathlib.Path(sys.argv[1])
log = open(folder / "log", "a", buffering=1)
feed, write = StreamedModel.feed, Checkpoint._write

def feeding(self, *given):
    print("pass", file=log)
    for part in feed(self, *given):
        time.sleep(0.003)  # of a chunk: kills shall meet passes
        yield part

def writing(self):
    write(self)
    print("kept", file=log)

def mixture(x, K=3):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)

rng = np.random.default_rng(0)
x = rng.normal(2.0 * rng.integers(0, 3, 20_000), 1.0)
model = Model(mixture, open_source({"x": x}, chunk_rows=2000)["x"])
StreamedModel.feed, Checkpoint._write = feeding, writing
print("begun", flush=True)
far = {"w": np.ones(3) / 3, "mu": np.array([-3.0, 0.0, 1.0]), "s": np.full(3, 4.0)}
fit = fit_em(model, init=far, starts=1, online=False, checkpoint=folder / "fit.checkpoint")
print([{k: v.tobytes().hex() for k, v in fit.params.items()}, list(map(float, fit.history))])
"""


def begun(folder: Path) -> subprocess.Popen[str]:
    """A process whose model has been read."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    process.stdout.readline()
    return process


def ended(process: subprocess.Popen[str]) -> str | None:
    """What it ended with, if it did."""
    out, err = process.communicate()
    if process.returncode == 0:
        return out.splitlines()[-1]
    if process.returncode > 0:
        raise RuntimeError(err)
    return None


def lost(folder: Path, before: int) -> int:
    """Passes that the last process had begun and not kept."""
    after = events(folder)[before:][::-1]
    return (after[: after.index("kept")] if "kept" in after else after).count("pass")


def events(folder: Path) -> list[str]:
    return (folder / "log").read_text().split() if (folder / "log").exists() else []


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    chance, kills, runs, same, losses = random.Random(0), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        expected = ended(begun(base / "first"))
        clock, process = time.perf_counter(), begun(base / "timed")
        ended(process)
        span = 0.4 * (time.perf_counter() - clock)
        whole = events(base / "first").count("pass")
        while kills < count:
            folder, found = base / f"run{runs}", None
            while found is None:
                before = len(events(folder))
                process = begun(folder)
                if kills < count:
                    time.sleep(chance.uniform(0, span))
                    process.kill()
                found = ended(process)
                if found is None:
                    kills += 1
                    losses.append(lost(folder, before))
            runs += 1
            same += found == expected
            print(f"{kills} kills, {same} of {runs} runs the same", flush=True)
        passes = sum(events(base / f"run{i}").count("pass") for i in range(runs))
    print(
        f"{kills} kills: {same} of {runs} fits ended with the same bits; {sum(losses)} passes were made again, at most "
        f"{max(losses)} for a kill; {passes} passes in all, and {whole} of each fit without kills"
    )


if __name__ == "__main__":
    main()
