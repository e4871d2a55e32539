"""The command line, as a person would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pp_mlem.show.catalogue import model_names

OWN = '''"""Two rates."""
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    rate = numpyro.sample("rate", dist.Gamma(2, 1).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)
'''


def run(*arguments, cwd):
    command = [sys.executable, "-m", "pp_mlem.show.cli", *map(str, arguments)]
    root = str(Path(__file__).resolve().parents[1])
    import os

    environment = {**os.environ, "PYTHONPATH": root, "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_models_lists_the_shelf(tmp_path):
    done = run("models", cwd=tmp_path)
    assert done.returncode == 0
    for name in model_names():
        assert name in done.stdout


def test_own_file_with_a_table(tmp_path):
    (tmp_path / "rates.py").write_text(OWN)
    rng = np.random.default_rng(0)
    counts = np.concatenate([rng.poisson(1, 60), rng.poisson(9, 40)])
    pd.DataFrame({"deaths": counts, "who": "a"}).to_csv(tmp_path / "rows.csv", index=False)
    done = run(
        "compare", "rates.py", "--data", "rows.csv", "--column", "x=deaths", "--set", "K=2",
        "--methods", "em", "--starts", "3", "--out", "results", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in ("rate[1]", "elpd_loo", "reached by 3 of 3 starts", "Written to results"):
        assert part in done.stdout
    assert {"em.nc", "estimates.png", "scores.csv", "components.png", "report.html"} <= {
        p.name for p in (tmp_path / "results").iterdir()
    }
    page = (tmp_path / "results" / "report.html").read_text()
    assert "--set K=2" in page and "rate[1]" in page


@pytest.mark.slow
def test_select_and_simulate_study(tmp_path):
    (tmp_path / "rates.py").write_text(OWN)
    rng = np.random.default_rng(0)
    counts = np.concatenate([rng.poisson(1, 60), rng.poisson(9, 40)])
    pd.DataFrame({"x": counts}).to_csv(tmp_path / "rows.csv", index=False)
    done = run(
        "select", "rates.py", "--data", "rows.csv", "--over", "K=1:2", "--starts", "2",
        "--bootstrap", "3", "--out", "choice", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "BIC: K=2 em" in done.stdout and (tmp_path / "choice" / "selection.png").exists()
    done = run(
        "simulate-study", "rates.py", "--data", "rows.csv", "--replicates", "4", "--out",
        "study.nc", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 data sets" in done.stdout and "coverage" in done.stdout
    assert (tmp_path / "study.nc").exists()


WRONG = {
    "no such model": (["show", "galaxy"], "there is no model 'galaxy'"),
    "no such file": (["show", "mine.py"], "there is no file mine.py"),
    "column missing": (["show", "rates.py", "--data", "rows.csv"], "no column for argument 'x'"),
    "column not numeric": (
        ["show", "rates.py", "--data", "rows.csv", "--column", "x=who"], "'who' is not numeric",
    ),
    "column unknown": (
        ["show", "rates.py", "--data", "rows.csv", "--column", "x=age"], "['age'] are missing",
    ),
    "no default data": (["show", "rates.py"], "no function `data()`"),
    "no model in the file": (["show", "empty.py"], "no function `model`"),
    "unknown method": (["compare", "galaxies", "--methods", "em,vb"], "--methods"),
    "nothing varies": (["select", "galaxies", "--over", "K"], "--over: received 'K'"),
    "truth is no JSON": (["simulate-study", "linkage", "--at", "rows.csv"], "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRONG))
def test_mistakes_end_in_one_line(name, tmp_path):
    (tmp_path / "rates.py").write_text(OWN)
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "rows.csv").write_text("deaths,who\n1,a\n2,b\n")
    arguments, message = WRONG[name]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
