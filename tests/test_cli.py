"""The command line, as a person would run it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console
from typer.testing import CliRunner

from pp_mlem import compare, load
from pp_mlem.show import interrupts
from pp_mlem.show.catalogue import model_names
from pp_mlem.show.cli import app
from pp_mlem.show.methods import plan_of
from pp_mlem.show.table_files import read_table
from pp_mlem.show.tables import frame_table, show_table

ROOT = Path(__file__).resolve().parents[1]
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


def run(*arguments):
    """In this process: (exit code, standard output, standard error)."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "80"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model file and its table, as a German spreadsheet writes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.py").write_text(OWN)
    (tmp_path / "empty.py").write_text("x = 1\n")
    rng = np.random.default_rng(0)
    counts = np.concatenate([rng.poisson(1, 60), rng.poisson(9, 40)])
    rows = "".join(f"{c};1,5;a\n" for c in counts)
    (tmp_path / "rows.csv").write_text(f"deaths, in all;weight;who\n{rows}")
    return tmp_path


@pytest.fixture
def results(here):
    """A run folder, made by EM."""
    code, out, error = run(
        "compare", "rates.py", "--data", "rows.csv", "--column", "x=deaths, in all", "--set", "K=2",
        "--methods", "em", "--starts", "3", "--out", "results", "--no-plots", "--no-loo",
    )  # fmt: skip
    assert code == 0, error
    return here / "results", out


def test_show_tells_what_is_published():
    """Of a model's own data, and of no others."""
    code, out, _ = run("show", "normal")
    assert code == 0 and "Published" in out and "919.35" in out
    code, out, _ = run("show", "normal", "--json")
    assert code == 0 and json.loads(out)["published"]["mu"] == {"value": 919.35, "tolerance": 0.005}
    code, out, _ = run("show", "galaxies", "--set", "K=2", "--json")
    assert code == 0 and json.loads(out)["published"] == {}


def test_models_lists_the_shelf():
    code, out, _ = run("models")
    assert code == 0 and all(name in out for name in model_names())


def test_labels_of_a_run(results):
    """Labels are those of Bayes' rule, on the table that was fitted and on another; by the program that
    was fitted."""
    folder, told = results
    for part in ("rate[1]", "reached by 3 of 3 starts", "Written to results", "in all: reading"):
        assert part in told
    labels = pd.read_csv(folder / "labels.csv", index_col=0)
    fit, counts = load(folder / "em.nc"), read_table(Path("rows.csv"))["deaths, in all"]
    joint = fit.params["w"] * scipy.stats.poisson.pmf(
        counts.to_numpy()[:, None], fit.params["rate"]
    )
    share = joint / joint.sum(1, keepdims=True)
    np.testing.assert_array_equal(labels["z"], share.argmax(1))
    np.testing.assert_allclose(labels["z probability"], share.max(1), atol=1e-6)
    assert pd.read_csv(folder / "optima.csv")["starts"].sum() == 3

    Path("new.csv").write_text("n\n0\n\n30\n")  # the middle one is missing
    code, out, _ = run(
        "predict", "results", "--data", "new.csv", "--column", "x=n", "--probabilities"
    )
    new = pd.read_csv(io.StringIO(out), index_col=0)
    high = int(np.argmax(fit.params["rate"]))
    assert code == 0 and list(new["z"]) == [1 - high, int(fit.params["w"].argmax()), high]
    np.testing.assert_allclose(new[["z=0", "z=1"]].iloc[1], fit.params["w"], atol=1e-6)

    Path("rates.py").write_text(OWN.replace("Gamma(2, 1)", "Gamma(3, 1)"))
    code, out, _ = run(
        "predict", "results"
    )  # by the program that was fitted, of which there is a copy
    assert code == 0 and out == (folder / "labels.csv").read_text()


def test_bootstrap_profile_simulate_of_a_run(results):
    fit = load(results[0] / "em.nc")
    code, out, _ = run("bootstrap", "results", "--replicates", 8, "--json")
    found = json.loads(out)
    assert code == 0 and found["kept"] + sum(found["failed"].values()) == 8
    code, out, _ = run("profile", "results", "rate[1]", "--json")
    (row,) = json.loads(out)["scalars"]
    assert code == 0 and row["low"] < fit.params["rate"][1] < row["high"]
    code, out, _ = run("simulate", "results", "--out", "drawn.csv")
    assert code == 0 and list(pd.read_csv("drawn.csv")) == ["x", "z"]
    code, _, error = run("simulate", "results", "--out", "drawn.csv")
    assert code == 2 and "--overwrite" in error


def test_a_folder_is_not_written_over_unasked(results):
    again = ["compare", "rates.py", "--data", "rows.csv", "--column", "x=deaths, in all",
             "--methods", "em", "--starts", "2", "--out", "results", "--no-plots", "--no-loo"]  # fmt: skip
    code, _, error = run(*again)
    assert code == 2 and "holds a run" in error
    code, out, error = run(*again, "--overwrite", "--json", "--no-labels", "--fixed", "rate=1,9")
    assert code == 0 and json.loads(out)["estimates"][0]["scalar"] == "w[0]"
    assert not (results[0] / "labels.csv").exists() and set(json.loads(out)["written"]) <= set(
        os.listdir("results")
    )


def test_one_method_that_fails_costs_no_other(here):
    """Nor does a picture of the user's own."""
    Path("own.py").write_text(
        OWN + "\n\ndef data():\n    return {'x': [0, 1, 9, 8, 1, 0, 12]}\n"
        "\n\ndef picture(fit):\n    raise KeyError('colour')\n"
    )
    code, out, error = run(
        "compare", "own.py", "--methods", "nuts,em", "--starts", 2, "--fixed", "w=0.5,0.5", "--fixed",
        "rate=1,9", "--out", "results", "--no-loo",
    )  # fmt: skip
    assert code == 2 and "not fitted: NUTS: " in error and "nothing to sample" in error
    assert "model cannot be drawn (KeyError" in error
    assert "EM" in out and {"em.nc", "estimates.csv", "report.html"} <= set(os.listdir("results"))


def test_pictures_and_report(here):
    done = subprocess.run(
        [sys.executable, "-m", "pp_mlem.show.cli", "compare", "rates.py", "--data", "rows.csv",
         "--column", "x=deaths, in all", "--methods", "em", "--starts", "3", "--out", "results"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {
        "em.nc",
        "estimates.png",
        "scores.csv",
        "components.png",
        "report.html",
        "run.json",
    } <= set(os.listdir("results"))
    page = Path("results/report.html").read_text()
    assert "--starts 3" in page and "rate[1]" in page


@pytest.mark.slow
def test_select_simulate_study_calibrate(here):
    data = ["--data", "rows.csv", "--column", "x=deaths, in all"]
    code, out, error = run(
        "select",
        "rates.py",
        *data,
        "--over",
        "K=1:2",
        "--starts",
        2,
        "--bootstrap",
        3,
        "--out",
        "choice",
    )
    assert code == 0, error
    assert "BIC: K=2 em" in out and Path("choice/selection.png").exists()
    code, out, error = run(
        "simulate-study", "rates.py", *data, "--replicates", 4, "--out", "study.nc"
    )
    assert code == 0, error
    assert "4 data sets" in out and "coverage" in out and Path("study.nc").exists()
    code, out, error = run(
        "calibrate", "normal", "--replicates", 3, "--draws", 20, "--warmup", 20, "--out", "ranks"
    )
    assert code == 0, error
    assert "3 data sets" in out and set(os.listdir("ranks")) == {
        "ranks.csv", "uniformity.csv", "ranks.png", "ranks.svg"
    }  # fmt: skip


# --- tables in a terminal, tables on disk -----------------------------------------------------


@pytest.mark.parametrize("width", [30, 60, 80, 140])
def test_nothing_of_a_table_is_cut(width, galaxies_em):
    """Whatever the width of the terminal; brackets are no markup."""
    frame = pd.DataFrame(
        {f"method {i}": [-1.2345678e6 * 10**i, 3.6e92] for i in range(5)}, index=["mu[z]", "b" * 40]
    )
    file = io.StringIO()
    console = Console(file=file, width=width)
    table = frame_table("Scores", frame)
    show_table(console, table)
    shown = file.getvalue().split()
    cells = [c for column in (table.names, *table.columns) for c in column.cells]
    assert set(cells) <= set(shown) and "3.6e+92" in shown
    compare({"EM": galaxies_em}, loo=False).print(console)
    told = file.getvalue()
    assert "…" not in told and "sigma[2]" in told and "-203.1792" in told
    widest = max(map(len, told.splitlines()))
    assert widest <= max(width, 40 + max(c.width for c in table.columns) + 4)


TABLES = {
    "comma": ("a,b\n1.5,2\n2.5,3\n", [1.5, 2.5]),
    "semicolon and decimal comma": ("a;b\n1,5;x\n2,5;y\n", [1.5, 2.5]),
    "semicolon and point": ("a;b\n1.5;x\n2.5;y\n", [1.5, 2.5]),
    "tab and decimal comma": ("a\tb\n1,5\tx, y\n2,5\ty\n", [1.5, 2.5]),
    "bar": ("a|b\n1.5|2\n2.5|3\n", [1.5, 2.5]),
    "byte order mark": ("\ufeffa;b\n1,5;2\n2,5;3\n", [1.5, 2.5]),
    "a quoted comma": ('"b, in cm",a\n"x, y",1.5\n"z",2.5\n', [1.5, 2.5]),
    "missing": ("a,b\n1.5,2\n,3\n", [1.5, np.nan]),
    "one column with a gap": ("a\n1.5\n\n2.5\n", [1.5, np.nan, 2.5]),
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_as_people_have_them(name, tmp_path):
    text, expected = TABLES[name]
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_table(tmp_path / "t.csv")["a"], expected)


# --- what goes wrong, and what stops it -------------------------------------------------------

RATES = ["show", "rates.py", "--data"]
WRONG = {
    "no such model": (["show", "galaxie"], "no model 'galaxie'. Did you mean 'galaxies'"),
    "no such file": (["show", "rate.py"], "no file rate.py. Did you mean 'rates.py'"),
    "no such table": ([*RATES, "row.csv"], "no file row.csv. Did you mean 'rows.csv'"),
    "column missing": ([*RATES, "rows.csv"], "no column for argument 'x'"),
    "column not numeric": ([*RATES, "rows.csv", "--column", "x=who"], "'who' is not numeric"),
    "column unknown": (
        [*RATES, "rows.csv", "--column", "x=weigth"], "no column 'weigth'. Did you mean 'weight'",
    ),
    "argument unknown": ([*RATES, "rows.csv", "--column", "y=who"], "no argument 'y'"),
    "setting unknown": (["show", "rates.py", "--set", "k=3"], "no argument 'k'. Did you mean 'K'"),
    "one bad cell": ([*RATES, "bad.csv"], "column 'x', row 3 (line 4 of the file): 'l2' is not a number"),
    "header only": ([*RATES, "header.csv"], "has a header (x, y) but no rows"),
    "empty": ([*RATES, "nothing.csv"], "it is empty"),
    "column without a table": (["show", "rates.py", "--column", "x=a"], "names columns of --data"),
    "no default data": (["show", "rates.py"], "no function `data()`"),
    "no model in the file": (["show", "empty.py"], "no function `model`"),
    "package missing": (["show", "needs.py"], "needs the package no_such_package_at_all"),
    "module missing": (["show", "lost.py"], "there is no module numpyro.no_such_part"),
    "unknown method": (["compare", "galaxies", "--methods", "em,nutz"], "'nutz'"),
    "method of a fit": (["bootstrap", "galaxies", "--method", "nuts"], "expected one of em, mle, map"),
    "kind of bootstrap": (["bootstrap", "galaxies", "--kind", "parametrik"], "Did you mean 'parametric'"),
    "scalar unknown": (["profile", "linkage", "mu[z]"], "there is no scalar 'mu[z]'"),
    "parameter unknown": (["compare", "linkage", "--fixed", "tau[z]=1"], "no parameter 'tau[z]'"),
    "start unknown": (["compare", "linkage", "--init", "kmeans"], "Did you mean 'kmeans++'"),
    "no run": (["predict", "mu[z]"], "mu[z] is no run"),
    "nothing varies": (["select", "galaxies", "--over", "K"], "--over: received 'K'"),
    "truth is no JSON": (["simulate-study", "linkage", "--at", "rows.csv"], "is not JSON"),
    "no number of starts": (["compare", "galaxies", "--starts", "0"], "--starts"),
    "no such option": (["compare", "galaxies", "--mu[z]"], "--mu[z]"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRONG))
def test_mistakes_end_in_one_line(name, here):
    Path("bad.csv").write_text("x\n1\n2\nl2\n4\n5\n6\n7\n")
    Path("header.csv").write_text("x,y\n")
    Path("nothing.csv").write_text("\n")
    Path("needs.py").write_text("import no_such_package_at_all\n")
    arguments, message = WRONG[name]
    Path("lost.py").write_text("import numpyro.no_such_part\n")
    code, out, error = run(*arguments)
    assert code == 2 and message in error and "Traceback" not in error
    assert not Path("runs").exists()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, error = run("show", "image_segmentation")
    assert code == 2 and "pip install scikit-learn" in error and len(error.splitlines()) == 1


def test_json_of_models_and_of_one():
    code, out, _ = run("models", "--json")
    assert code == 0 and "galaxies" in [row["model"] for row in json.loads(out)]
    code, out, _ = run("show", "galaxies", "--json")
    told = json.loads(out)
    assert code == 0 and told["roles"]["z"] == "latent" and told["free_parameters"] == 8
    assert told["latents"] == [{"name": "z", "plates": ["galaxies"], "values": 3}]


def test_fixed_of_many_fits(here):
    code, out, _ = run(
        "select", "galaxies", "--over", "K=1:2", "--fixed", "sigma=2", "--starts", "2", "--json"
    )
    table = json.loads(out)["table"]
    assert code == 0 and [row["parameters"] for row in table] == [1, 3]
    code, out, _ = run(
        "simulate-study",
        "linear_regression",
        "--replicates",
        "2",
        "--fixed",
        "beta[1]=beta[2]",
        "--json",
    )
    rows = {row["scalar"]: row for row in json.loads(out)["summary"]}
    assert code == 0 and rows["beta[1]"]["intervals"] == 0 and rows["beta[2]"]["intervals"] == 2
    code, _, error = run("simulate-study", "linear_regression", "--fixed", "betta=1")
    assert code == 2 and "no parameter 'betta'" in error


def test_help_keeps_brackets():
    code, out, _ = run("compare", "--help")
    assert code == 0 and "[default: runs/MODEL-" in out and "'b[1]=0'" in out


def test_nuts_is_left_out_where_it_does_not_end(galaxies):
    few, many = (plan_of(galaxies, None, 20, 4, draws) for draws in (1000, 10**7))
    assert few.chosen == ("em", "mle", "map", "nuts") and not few.lines()
    assert many.chosen == ("em", "mle", "map") and "--methods em,mle,map,nuts" in many.lines()[-1]
    assert plan_of(galaxies, ("nuts",), 20, 4, 10**7).chosen == ("nuts",)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times, here):
    """Once: what is finished is kept; twice: it quits. Nothing written is no folder."""
    command = [sys.executable, "-m", "pp_mlem.show.cli", "compare", "galaxies", "--methods", "nuts,em",
               "--draws", "200000", "--out", "results"]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while "Expected" not in process.stdout.readline():
        pass
    time.sleep(15 if times == 1 else 2)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, error = process.communicate(timeout=120)
    assert process.returncode == interrupts.INTERRUPTED and "Ctrl-C again quits" in error
    if times == 2:
        # What one press had stopped in time is kept; there is no empty folder.
        assert not Path("results").exists() or load("results/nuts.nc").interrupted
    else:
        assert "nuts.nc kept in results" in error and load("results/nuts.nc").interrupted


@pytest.mark.slow
def test_a_collapsed_start_has_no_number():
    """Of a covariance that is singular but for rounding log Z can be anything, 1e127 too."""
    from pp_mlem import Model, fit_mle
    from pp_mlem.show.catalogue import find_model

    x = np.random.default_rng(0).normal(size=(12, 3)) * 1000
    x[:, 1] = 300.0
    fit = fit_mle(Model(find_model("image_segmentation").program, x=x, K=2), starts=1, seed=0)
    assert fit.status == "collapsed" and not fit.log_likelihood > 750 * x.size
    assert "beyond all numbers" in fit.story
    assert len(repr(compare({"MLE": fit}, loo=False)).split("log-lik")[1].split()[7]) < 20
