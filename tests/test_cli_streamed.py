"""The command line on data in chunks: the numbers of a run in memory, files of labels, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.stats
from test_cli import run

import pp_mlem.show.data_files as data_files
from pp_mlem import Model, load
from pp_mlem.base import free_memory as memory
from pp_mlem.base import machine
from pp_mlem.comparison.growth import split_from
from pp_mlem.estimate.estimators import fit_by
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.show.building import build
from pp_mlem.show.catalogue import find_model
from pp_mlem.show.data_files import VARIABLE, comes_in_chunks
from pp_mlem.show.labels import write_labels
from pp_mlem.show.methods import plan_of, seconds_of
from pp_mlem.show.options import Given

HEAD = '''"""{about}"""
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


'''
MIX = """def model(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]).to_event(1), obs=x)
"""
COUNTS = """def model(n):
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(n)):
        numpyro.sample("n", dist.Poisson(rate), obs=n)
"""
LINE = """def model(a, b):
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(a)):
        f = numpyro.sample("f", dist.Normal(0, 1))
        numpyro.sample("a", dist.Normal(f, s), obs=a)
        numpyro.sample("b", dist.Normal(slope * f, s), obs=b)


options = {"latents": {"f"}}
"""
CHAINS = """def model(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))

    def step(z, x_t):
        with numpyro.plate("sequences", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x_t)
        return z, None

    scan(step, jnp.zeros(x.shape[0], int), x.T)
"""
LEVELS = """def model(x, who, n):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau, s = (numpyro.sample(name, dist.HalfNormal(2)) for name in ("tau", "s"))
    with numpyro.plate("groups", n):
        u = numpyro.sample("u", dist.Normal(mu, tau))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(u[who], s), obs=x)
"""
N, CUTS = 523, (0, 200, 203, 523)
XY = ["--column", "x=a,b"]
FEW = ["--methods", "em,mle", "--starts", "3"]


@pytest.fixture(scope="module")
def patched():
    """Chunks of 149 rows; pictures of 200."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pp_mlem.data.stream.FEWEST_ROWS", 64)
        patch.setattr(machine, "CPU", replace(machine.CPU, chunk_rows=149))
        patch.setattr("pp_mlem.show.sampled.ROWS", 200)
        patch.delenv(VARIABLE, raising=False)
        size = data_files._bytes_in_memory
        inside = lambda path: 2**60 if path.parent != Path(".") else size(path)  # noqa: E731
        patch.setattr(data_files, "_bytes_in_memory", inside)  # files in folders are large
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory, patched):
    """Model files, one table, and its rows in three files."""
    place = tmp_path_factory.mktemp("streamed")
    for name, text in (("mix", MIX), ("counts", COUNTS), ("line", LINE), ("chains", CHAINS)):
        (place / f"{name}.py").write_text(HEAD.format(about=f"About {name}.") + text)
    rng = np.random.default_rng(5)
    z = rng.random(N) < 0.6
    table = pd.DataFrame(
        {"a": rng.normal(size=N) + 3 * z, "b": rng.normal(size=N) * (1 + z), "n": rng.poisson(2, N),
         "who": "me"}
    )  # fmt: skip
    table.to_csv(place / "all.csv", index=False)
    (place / "parts").mkdir()
    for i, (first, last) in enumerate(zip(CUTS, CUTS[1:], strict=False)):
        table.iloc[first:last].to_parquet(place / "parts" / f"p{i}.parquet", index=False)
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder, patched):
    """The folder with a run on a glob and one in memory; what the first told."""
    patched.chdir(folder)
    code, _, error = run("compare", "mix.py", "--data", "all.csv", *XY, *FEW, "--out", "whole",
                         "--no-plots", "--no-loo")  # fmt: skip
    assert code == 0, error
    code, out, error = run(
        "compare", "mix.py", "--data", "parts/*.parquet", *XY, *FEW, "--out", "cut"
    )
    assert code == 0, error
    return out, error


def given(data, *columns, model="mix.py", **options):
    return Given(str(model), Path(data), tuple(columns), **options)


def opened(data, *columns, model="mix.py", **options):
    return build(find_model(model), given(data, *columns, model=model, **options))


# --- a run --------------------------------------------------------------------------------------


def test_the_numbers_of_a_run_in_memory(runs, here):
    out, error = runs
    assert "Data in chunks: 3 files 'parts/*.parquet', 523 rows, in 4 chunks of 149\n" in error
    assert "523 independent units" in out and "no elpd: it needs all rows at once" in out
    columns = ["log_likelihood", "parameters", "AIC", "BIC", "ICL"]
    one, other = (pd.read_csv(f"{f}/scores.csv", index_col=0) for f in ("cut", "whole"))
    np.testing.assert_allclose(one[columns], other[columns], rtol=1e-8)
    assert one["elpd_note"].str.contains("data come in chunks").all()
    one, other = (
        pd.read_csv(f"{f}/estimates.csv", index_col=0, header=[0, 1]) for f in ("cut", "whole")
    )
    for method in ("EM", "MLE"):  # whose gradients are zero to a tolerance
        error = other[method]["error"]
        np.testing.assert_allclose(one[method]["error"], error, rtol=1e-6)
        gap = (one[method]["estimate"] - other[method]["estimate"]) / error
        assert gap.abs().max() < 1e-6
    optima = pd.read_csv("cut/optima.csv")
    assert set(optima["kind"]) == {"maximum"} and {"em", "mle"} == {
        m.lower() for m in optima["method"]
    }
    assert load("cut/em.nc").log_likelihood == pytest.approx(
        load("whole/em.nc").log_likelihood, rel=1e-10
    )


def test_labels_of_a_run(runs, here):
    found = pd.read_parquet("cut/labels.parquet")
    whole = pd.read_csv("whole/labels.csv")
    np.testing.assert_array_equal(found["z"], whole["z"])
    np.testing.assert_allclose(found["z probability"], whole["z probability"], atol=1e-6)
    assert not Path("cut/labels.csv").exists()


def test_the_report_of_a_run(runs, here):
    """No word of Python's for those who have none, and every picture is one."""
    page = Path("cut/report.html").read_text()
    told = re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]*"|<style>.*?</style>', "", page, flags=re.S))
    assert not re.search(r"subsample|model\.|fit_\w+|NotImplemented|source\[|Traceback|out=", told)
    assert "Data in chunks: 3 files" in told and "it needs all rows at once" in told
    pictures = [
        base64.b64decode(s) for s in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    ]
    names = {"components", "estimates", "predictive_check", "paths", "optima"}
    assert len(pictures) == len(names) and names <= {p.stem for p in Path("cut").glob("*.png")}
    for svg in pictures:
        assert len(list(ElementTree.fromstring(svg).iter())) > 50
    assert told.count("Of 200 rows drawn from 523.") == 2  # the components and the predictive check


def test_the_record_of_a_run(runs, here):
    record = json.loads(Path("cut/run.json").read_text())
    assert record["data"] == str(here / "parts" / "*.parquet") and record["data_in_chunks"] is True
    assert record["data_files"]["files"] == "p0.parquet, p1.parquet, p2.parquet"
    assert record["data_sha256"] is None
    record = json.loads(Path("whole/run.json").read_text())
    assert record["data_in_chunks"] is False and len(record["data_sha256"]) == 64


def test_predict_writes_every_row(runs, here):
    fit, table = load("cut/em.nc"), pd.read_csv("all.csv")
    densities = scipy.stats.norm.pdf(
        table[["a", "b"]].to_numpy()[:, None], fit.params["mu"], fit.params["s"]
    )
    joint = fit.params["w"] * densities.prod(-1)
    share = joint / joint.sum(1, keepdims=True)
    code, out, error = run("predict", "cut", "--out", "new/labels.parquet", "--probabilities")
    assert code == 0 and not out and "Written to new/labels.parquet: 523 rows" in error
    found = pd.read_parquet("new/labels.parquet")
    assert list(found) == ["z", "z probability", "z=0", "z=1"]
    assert pq.read_metadata("new/labels.parquet").num_row_groups == 4
    np.testing.assert_array_equal(found["z"], share.argmax(1))
    np.testing.assert_allclose(found["z probability"], share.max(1), rtol=1e-8)
    np.testing.assert_allclose(found[["z=0", "z=1"]], share, atol=1e-10)
    code, _, error = run("predict", "cut", "--out", "new/labels.parquet")
    assert code == 2 and "--overwrite" in error
    code, _, error = run("predict", "cut", "--data", "all.csv", "--out", "one.parquet")
    assert code == 0, error
    np.testing.assert_array_equal(pd.read_parquet("one.parquet")["z"], found["z"])


def test_data_of_a_run_that_have_changed_or_gone(runs, here):
    path = here / "parts" / "p1.parquet"
    before = path.stat()
    try:
        os.utime(path, ns=(1, 1))
        code, _, error = run("predict", "cut", "--out", "changed.parquet")
        assert code == 0 and "*.parquet has changed since the run" in error
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, _, error = run("predict", "cut", "--out", "same.parquet")
    assert code == 0 and "has changed" not in error
    away = (here / "parts").rename(here / "away")
    try:
        code, _, error = run("predict", "cut", "--out", "gone.parquet")
        assert code == 2 and "the data of the run, is gone" in error
    finally:
        away.rename(here / "parts")


def test_a_run_remembers_how_it_read_its_data(here, monkeypatch):
    monkeypatch.setenv(VARIABLE, "always")
    code, _, error = run("compare", "counts.py", "--data", "all.csv", "--methods", "em", "--out", "kept",
                         "--no-plots")  # fmt: skip
    assert code == 0 and "file 'all.csv', 523 rows, in 4 chunks" in error
    monkeypatch.delenv(VARIABLE)
    code, _, error = run("profile", "kept", "rate")
    assert code == 2 and "profile needs all rows at once" in error


@pytest.mark.slow
def test_samplers_where_few_points_say_what_all_rows_do(here):
    """And the moments of real latents in a file."""
    code, out, error = run("compare", "line.py", "--data", "parts", "--methods", "em,nuts", "--draws", "100",
                           "--out", "sampled")  # fmt: skip
    assert code == 0, error
    assert "NUTS" in out and "Left out" not in error
    assert {"latents.png", "posterior_and_normal.png", "labels.parquet"} <= set(
        os.listdir("sampled")
    )
    fit, table = load("sampled/em.nc"), pd.read_csv("all.csv")
    loads = np.array([1.0, fit.params["slope"]])
    precision = 1 + (loads**2).sum() / fit.params["s"] ** 2
    mean = table[["a", "b"]].to_numpy() @ loads / fit.params["s"] ** 2 / precision
    found = pd.read_parquet("sampled/labels.parquet")
    np.testing.assert_allclose(found["f mean"], mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found["f sd"], precision**-0.5, rtol=1e-6)


def test_select(here):
    told = []
    for data, more in (
        ("parts", ["--out", "choice"]),
        ("all.csv", []),
        ("parts", ["--out", "choice"]),
    ):
        code, out, error = run("select", "mix.py", "--data", data, *XY, "--over", "K=1:2", "--starts", 2,
                               "--json", *more)  # fmt: skip
        assert code == 0, error
        assert ("4 chunks of 149" in error) is (data == "parts")
        told.append([row["log_likelihood"] for row in json.loads(out)["table"]])
    np.testing.assert_allclose(told[0], told[1], rtol=1e-8)
    assert told[2] == told[0]  # the finished fits of the folder


def test_starts_are_split_from_a_smaller_size_on_the_sample(here):
    small, large = (opened("parts", "x=a,b", settings=(f"K={k}",)) for k in (2, 3))
    fit = fit_by("em", small, starts=2)
    split = split_from(fit, large, 4)
    assert split is not None and split.posterior["z"].shape == (N, 2)


# --- what --data may name -----------------------------------------------------------------------


def make_array(table):
    np.save("xs.npy", table[["a", "b"]].to_numpy())
    return "xs.npy", ()


def make_feather(table):
    table.to_feather("all.feather")
    return "all.feather", ("x=a,b",)


def make_packed(table):
    table.to_csv("all.csv.gz", index=False, sep=";", decimal=",")
    return "all.csv.gz", ("x=a,b",)


FORMS = {
    "folder": lambda table: ("parts", ("x=a,b",)),
    "glob": lambda table: ("parts/p*.parquet", ("x=a,b",)),
    "npy": make_array,
    "feather": make_feather,
    "packed": make_packed,
}


@pytest.mark.parametrize("name", FORMS)
def test_what_data_may_name(here, name, monkeypatch):
    table = pd.read_csv("all.csv")
    data, columns = FORMS[name](table)
    monkeypatch.setenv(VARIABLE, "always")
    model = opened(data, *columns)
    assert isinstance(model, StreamedModel) and model.stream.chunks == 4
    monkeypatch.setenv(VARIABLE, "never")
    held = opened(data, *columns)
    assert not isinstance(held, StreamedModel)
    np.testing.assert_array_equal(held.arguments.dynamic[0], table[["a", "b"]].to_numpy())
    params = {"w": [0.3, 0.7], "mu": [[0, 0], [3, 0]], "s": [[1, 1], [1, 2]]}
    params = {k: np.asarray(v, float) for k, v in params.items()}
    assert model.log_likelihood(params) == pytest.approx(held.log_likelihood(params), rel=1e-12)


@pytest.mark.parametrize("sign", [",", ";"])
def test_a_large_table_is_read_in_chunks(here, monkeypatch, sign):
    pd.read_csv("all.csv").to_csv(
        "signs.csv", index=False, sep=sign, decimal="." if sign == "," else ","
    )
    for free, expected in ((10**9, False), (1000, True)):
        monkeypatch.setattr("pp_mlem.show.data_files.free_memory", lambda free=free: free)
        model = opened("signs.csv", "x=a,b")
        assert isinstance(model, StreamedModel) is expected and model.n_observations == N
    small = Path("zeros.parquet")
    pd.DataFrame({"x": np.zeros(100_000)}).to_parquet(small)  # packed to next to nothing
    monkeypatch.setattr("pp_mlem.show.data_files.free_memory", lambda: 4 * 700_000)
    assert small.stat().st_size < 50_000 and comes_in_chunks(given(small))


def test_free_memory(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.free_memory() == 4000 * 1024
    for name, text in (
        ("max", "max\n"),
        ("current", "3000"),
        ("stat", "anon 5\ninactive_file 500\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_memory() == 4000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_memory() == 2500
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert memory.free_memory() > 2**20


@pytest.mark.parametrize("last", ["", "2.5"])
def test_whole_numbers_with_gaps_are_floats(here, last, monkeypatch):
    """As a table in memory has them; where the first cells are whole and a later one is not."""
    text = "n\n" + "3\n" * 300 + "1\n2\n" + f'"{last}"\n'
    Path("gaps.csv").write_text(text + "4\n")
    if last:
        told = "n.*outside|support|integer"
        with pytest.raises(ValueError, match=told):
            opened("gaps.csv", model="counts.py")
        monkeypatch.setenv(VARIABLE, "always")
        with pytest.raises(ValueError, match=told):
            opened("gaps.csv", model="counts.py")
        return
    whole = opened("gaps.csv", model="counts.py")
    monkeypatch.setenv(VARIABLE, "always")
    code, out, error = run("show", "counts.py", "--data", "gaps.csv")
    assert code == 0 and "Column 'n' is read as floats" in error
    model = opened("gaps.csv", model="counts.py")
    assert isinstance(model, StreamedModel) and model.n_observations == whole.n_observations == 303
    params = {"rate": np.array(2.0)}
    assert model.log_likelihood(params) == pytest.approx(whole.log_likelihood(params), rel=1e-12)


def test_files_of_several_types(here):
    Path("types").mkdir(exist_ok=True)
    pd.DataFrame({"n": [1, 2, 3] * 40}).to_parquet("types/a.parquet")
    pd.DataFrame({"n": [1.0, np.nan, 3.0] * 40}).to_parquet("types/b.parquet")
    assert opened("types", model="counts.py").n_observations == 200


def test_labels_of_chains(here, monkeypatch, tmp_path):
    """A row for each sequence, a column for each step."""
    monkeypatch.setenv(VARIABLE, "always")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3)) + 2.0 * (rng.random((N, 3)) < 0.5)
    np.save("chains.npy", x)
    model = opened("chains.npy", model="chains.py")
    fit = fit_by(
        "em", model, starts=1, init={"P": np.full((2, 2), 0.5), "mu": np.array([0.0, 2.0])}
    )
    path = write_labels(tmp_path / "z.parquet", fit, model, probabilities=True)
    found = pd.read_parquet(path)
    posterior = Model(model.program, x).posterior(fit.params)["z"]  # (steps, sequences, states)
    assert isinstance(model, StreamedModel) and len(found) == N
    for t in range(3):
        np.testing.assert_array_equal(found[f"z[{t}]"], posterior[t].argmax(-1))
        np.testing.assert_allclose(found[f"z probability[{t}]"], posterior[t].max(-1), atol=1e-10)
        np.testing.assert_allclose(found[f"z=1[{t}]"], posterior[t, :, 1], atol=1e-10)


def test_sequences_and_groups_of_rows(here, monkeypatch, tmp_path):
    """Columns that tell the units, in memory and in chunks alike; a run keeps them for what is asked of it later."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 5, N // 4)
    ids = np.repeat(np.arange(len(lengths)) * 7, lengths)
    table = pd.DataFrame(
        {"who": ids, "x": rng.normal(size=len(ids)) + 3 * (rng.random(len(ids)) < 0.5)}
    )
    table.to_csv("steps.csv", index=False)
    x = np.full((len(lengths), lengths.max()), np.nan)
    x[np.arange(lengths.max()) < lengths[:, None]] = table["x"]
    params = {"P": np.full((2, 2), 0.5), "mu": np.array([0.0, 3.0])}
    whole = opened("steps.csv", model="chains.py", sequences="who")
    np.testing.assert_array_equal(whole.arguments.dynamic[0], x)
    monkeypatch.setenv(VARIABLE, "always")
    streamed = opened("steps.csv", model="chains.py", sequences="who")
    assert isinstance(streamed, StreamedModel) and streamed.n_observations == whole.n_observations
    assert streamed.log_likelihood(params) == pytest.approx(whole.log_likelihood(params), rel=1e-12)
    (here / "levels.py").write_text(HEAD.format(about="Levels.") + LEVELS)
    code, _, error = run("compare", "levels.py", "--data", "steps.csv", "--groups", "who", "--set",
                         f"n={len(lengths)}", "--methods", "em", "--out", "levels", "--no-plots")  # fmt: skip
    assert code == 0 and "grouped by 'who', in one chunk" in error, error
    monkeypatch.setenv(VARIABLE, "never")
    code, _, error = run("compare", "levels.py", "--data", "steps.csv", "--groups", "who", "--set",
                         f"n={len(lengths)}", "--methods", "em", "--out", "all", "--no-plots", "--no-loo")  # fmt: skip
    assert code == 0, error
    both = [load(here / name / "em.nc").log_likelihood for name in ("levels", "all")]
    assert both[0] == pytest.approx(both[1], rel=1e-10)
    code, _, error = run("predict", "all", "--out", str(tmp_path / "u.csv"))
    assert code == 0 and len(pd.read_csv(tmp_path / "u.csv")) == len(lengths), error
    for option in ("--groups", "--sequences"):
        code, _, error = run("show", "levels.py", option, "who")
        assert code == 2 and f"{option} names columns of --data" in error
    code, _, error = run("show", "levels.py", "--data", "steps.csv", "--groups", "whom")
    assert code == 2 and "there is no column 'whom'. Did you mean 'who'?" in error


def test_what_a_fit_takes(here):
    """By chunks times the work of one."""
    model, whole = opened("parts", "x=a,b"), opened("all.csv", "x=a,b")
    plan = plan_of(model, None, 20, 4, 1000)
    assert plan.chosen == ("em", "mle", "map") and not plan.left_out
    told = "Left out: NUTS, which needs all rows at each of its steps, and the data come in chunks."
    assert plan.notes() == [told] and not plan_of(whole, None, 20, 4, 1000).notes()
    assert plan_of(model, ("laplace", "em"), 20, 4, 1000).chosen == ("em",)
    more = [seconds_of("em", m, 1000, 4, 1000) for m in (model, whole)]
    assert 0.5 < more[0] / more[1] < 3


# --- what is refused ----------------------------------------------------------------------------

CUT = ["--data", "parts/*.parquet"]
WRONG = {
    "labels without a file": (["predict", "cut"], "in --out labels.parquet."),
    "labels as CSV": (["predict", "cut", "--out", "x.csv"], "labels.parquet (received x.csv)."),
    "bootstrap": (["bootstrap", "cut"], "bootstrap needs all rows at once, and those of"),
    "profile": (["profile", "mix.py", *CUT, *XY], "PP_MLEM_STREAM=never"),
    "simulate": (["simulate", "mix.py", *CUT, *XY], "simulate needs all rows at once"),
    "simulate at": (["simulate", "cut", "--at", "at.json"], "simulate needs all rows at once"),
    "study": (["simulate-study", "mix.py", *CUT, *XY], "simulate-study needs all rows at once"),
    "calibrate": (["calibrate", "mix.py", *CUT, *XY], "calibrate needs all rows at once"),
    "test of sizes": (["select", "mix.py", *CUT, *XY, "--over", "K=1:2", "--bootstrap", 9],
                      "--bootstrap needs all rows at once"),
    "sizes by a sampler": (["select", "mix.py", *CUT, *XY, "--over", "K=1:2", "--methods", "em,nuts"],
                           "--methods: nuts needs all rows at once"),
    "samplers alone": (["compare", "mix.py", *CUT, *XY, "--methods", "nuts"],
                       "--methods: nuts needs all rows at each of its steps"),
    "labels given": (["compare", "mix.py", *CUT, *XY, "--observe", "z=n"], "--observe: labels of data that come in chunks"),
    "no file": (["show", "mix.py", "--data", "part/*.parquet"], "--data: 'part/*.parquet' matches no file. There is no folder"),
    "empty folder": (["show", "mix.py", "--data", "empty"], "holds no file to read"),
    "several formats": (["show", "mix.py", "--data", "*/a.*"], "--data: files of several formats"),
    "no column": (["show", "mix.py", *CUT], "parts/*.parquet: no column for argument 'x'. Its columns are 'a', 'b'"),
    "column unknown": (["show", "mix.py", *CUT, "--column", "x=a,c"], "there is no column 'c'"),
    "column nearly": (["show", "mix.py", *CUT, "--column", "x=a,whom"], "'whom'. Did you mean 'who'"),
    "argument unknown": (["show", "mix.py", *CUT, "--column", "y=a"], "no argument 'y'"),
    "words": (["show", "counts.py", *CUT, "--column", "n=who"], "column 'who' is of type"),
    "a bad cell": (["show", "counts.py", "--data", "bad/*.csv"], "b.csv, row 2: column 'n': 'l2' is not a number"),
    "outside a support": (["show", "counts.py", *CUT, "--column", "n=a"], "is outside the support"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_end_in_one_line(runs, here, name):
    for place in ("empty", "bad"):
        Path(place).mkdir(exist_ok=True)
    Path("bad/a.csv").write_text("n\n" + "1\n" * 100)
    Path("bad/b.csv").write_text("n\n1\nl2\n")
    np.save("cut/a.npy", np.zeros(3))
    Path("at.json").write_text("{}")
    arguments, message = WRONG[name]
    code, _, error = run(*arguments)
    last = error.splitlines()[-1]
    assert code == 2 and last.startswith("error") and message in last and "subsample" not in error
    assert not Path("runs").exists()


def test_the_environment_is_checked(here, monkeypatch):
    monkeypatch.setenv(VARIABLE, "sometimes")
    code, _, error = run("show", "mix.py", "--data", "all.csv", *XY)
    assert code == 2 and "PP_MLEM_STREAM: received 'sometimes', expected always or never" in error


def test_small_files_are_read_into_memory(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(
        "pp_mlem.show.data_files._bytes_in_memory", lambda path: path.stat().st_size
    )
    model = opened("parts/p*.parquet", "x=a,b")
    assert not isinstance(model, StreamedModel) and model.n_observations == N
