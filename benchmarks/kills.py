"""Kills `select` and `experiment` again and again, and compares what they end with.

    python benchmarks/kills.py [kills of each, default 100] [select or experiment, default both]

Each run is a process of its own, killed (SIGKILL) at a random moment after it has begun and
started anew on the same files until it ends; then its table must be that of a run without kills.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys, numpy as np, numpyro, numpyro.distributions as dist
from pp_mlem import Model, experiment, select
print("begun", flush=True)

def program(x, K=1):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0 * K), obs=x)

x = np.random.default_rng(0).normal(size=30)
if sys.argv[1] == "select":
    found = select(program, x, K=range(1, 9), starts=1, out=sys.argv[2], progress=False)
    print(found.table.drop(columns="seconds").to_json())
else:
    import importlib
    importlib.import_module("pp_mlem.comparison.experiment").SAVE_EVERY = 0.05
    model = Model(program, x)
    found = experiment(model, {"mu": 1.0}, 60, starts=1, out=sys.argv[2], progress=False)
    print(found.results.drop_vars("seconds").to_dataframe().to_json(orient="records"))
"""


def whole(kind: str, out: Path) -> str:
    done = subprocess.run([sys.executable, "-c", RUN, kind, str(out)], capture_output=True,
                          text=True, check=True)  # fmt: skip
    return done.stdout.splitlines()[-1]


def from_its_beginning(kind: str, out: Path) -> float:
    """Seconds that a run takes once its libraries are there."""
    process = subprocess.Popen([sys.executable, "-c", RUN, kind, str(out)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    process.stdout.readline()
    clock = time.perf_counter()
    process.communicate()
    return time.perf_counter() - clock


def killed(kind: str, out: Path, span: float, chance: random.Random) -> bool:
    """Whether a run was killed before its end."""
    process = subprocess.Popen([sys.executable, "-c", RUN, kind, str(out)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    process.stdout.readline()
    time.sleep(chance.uniform(0, span))
    process.kill()
    process.communicate()
    return process.returncode != 0


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    chance = random.Random(0)
    for kind in sys.argv[2:] or ("select", "experiment"):
        kills = runs = same = 0
        with tempfile.TemporaryDirectory() as folder:
            expected = whole(kind, Path(folder) / "first.nc")  # and fills the cache of kernels
            span = 0.5 * from_its_beginning(kind, Path(folder) / "timed.nc")
            while kills < count:
                out = Path(folder) / f"run{runs}.nc"
                for _ in range(min(10, count - kills)):
                    kills += killed(kind, out, span, chance)
                runs += 1
                same += whole(kind, out) == expected
                print(f"{kind}: {kills} kills, {same} of {runs} runs the same", flush=True)
        print(f"{kind}: {kills} kills, {same} of {runs} runs ended with the same table", flush=True)


if __name__ == "__main__":
    main()
