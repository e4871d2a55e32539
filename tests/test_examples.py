"""The scripts of docs/examples run as they stand, on small files."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from process_fit import free_port

ROOT = Path(__file__).resolve().parents[1]
ROWS = 600_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(2):
        z = rng.random(ROWS // 2) < 0.3
        x = rng.normal(np.where(z, 3.0, 0.0), np.where(z, 0.5, 1.0))
        pd.DataFrame({"x": x}).to_parquet(folder / f"{i}.parquet")
    return folder / "*.parquet"


def started(name, folder, *args):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "docs" / "examples" / name), *map(str, args)], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_processes_by_hand(files, tmp_path):
    where = f"127.0.0.1:{free_port()}"
    every = [started("streamed_slurm.py", tmp_path, files, where, 2, rank) for rank in (0, 1)]
    (first, wrong), (second, also) = (p.communicate(timeout=300) for p in every)
    assert [p.returncode for p in every] == [0, 0], wrong + also
    assert "converged" in first and "converged" not in second
    table = pd.read_parquet(tmp_path / "posterior")
    assert len(table) == ROWS and abs(table["z[1]"].mean() - 0.3) < 0.01
    assert {p.name for p in tmp_path.iterdir()} == {"posterior", "fit.nc", "fit.checkpoint"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask")
def test_dask(files, tmp_path):
    process = started("streamed_dask.py", tmp_path, files)
    out, wrong = process.communicate(timeout=300)
    assert process.returncode == 0 and "status converged" in out, wrong
