"""Runs that are cut, resumed, edited in between, run in threads, copied to processes, or long."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from pp_mlem import Model, compare, experiment, fit_em, fit_mle, select
from pp_mlem.base.files import write_table
from pp_mlem.base.fingerprint import digest
from pp_mlem.comparison.folder import Folder
from pp_mlem.estimate.estimators import fit_by
from pp_mlem.show.report import write_report
from pp_mlem.target.target import Target

BOOTSTRAP, COMPARE, EXPERIMENT, PROFILE, REPORT, SELECTION = (
    importlib.import_module(f"pp_mlem.{name}")
    for name in (
        "diagnose.bootstrap", "comparison.compare", "comparison.experiment", "diagnose.profile",
        "show.report", "comparison.selection",
    )
)  # fmt: skip

RNG = np.random.default_rng(5)
X = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(3, 1, 20)])


def mixture(x, K=2, spread=5.0):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, spread))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma), obs=x)


def mean_of(constant, name="mu"):
    def prior():
        return numpyro.sample(name, dist.Normal(constant, 10))

    def program(x, K=1):
        mu = prior()
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0 + 0 * K), obs=x)

    return program


# --- fingerprints ---------------------------------------------------------------------------

SCALE = 1.0


def reads_a_global(x):
    return numpyro.sample("x", dist.Normal(0, SCALE), obs=x)


def test_a_fingerprint_is_of_what_a_program_does(monkeypatch):
    assert digest(mean_of(0)) == digest(mean_of(0))
    assert digest(mean_of(0)) != digest(mean_of(1))
    assert digest(mean_of(0, "a")) != digest(mean_of(0, "b"))
    conditioned = [
        numpyro.handlers.condition(mean_of(0), data={"mu": np.full(2, v)}) for v in (0, 0, 1)
    ]
    assert digest(conditioned[0]) == digest(conditioned[1]) != digest(conditioned[2])
    before = digest(reads_a_global)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert digest(reads_a_global) != before
    loop: list = [1]
    loop.append(loop)
    assert digest(loop) == digest(loop)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(pd.DataFrame({"a": [1, 2]})) != digest(pd.DataFrame({"a": [1, 3]}))


def test_a_fingerprint_is_the_same_in_every_process():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_reliability as t\n"
        "print(t.digest(t.mean_of(3)), t.digest(t.mixture), t.digest({'a', 'b', 'c'}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert found == {f"{digest(mean_of(3))} {digest(mixture)} {digest({'a', 'b', 'c'})}\n"}


# --- what changed between two calls ---------------------------------------------------------

QUICK = {"starts": 1, "progress": False}


def test_a_selection_of_other_inputs_is_refused_with_what_changed(tmp_path):
    def run(program=None, x=X, **options):
        return select(program or mean_of(0), x, K=[1, 2], out=tmp_path, **{**QUICK, **options})

    first = run()
    again = run()
    assert again.table["seconds"].equals(first.table["seconds"])  # from the files
    assert not list(tmp_path.glob("*.part"))
    for words, changes in {
        "program": {"program": mean_of(1)},
        "argument x": {"x": X + 1},
        "starts": {"starts": 2},
        "seed": {"seed": 1},
        "latents": {"latents": ("z",)},
        "observe": {"observe": {"z": np.zeros(3)}},
        "dtype": {"dtype": np.float32},
    }.items():
        with pytest.raises(ValueError, match=f"holds another selection.*{words}"):
            run(**changes)
    with pytest.raises(ValueError, match="argument spread"):
        select(mixture, X, K=[1], spread=1.0, out=tmp_path / "b", **QUICK)
        select(mixture, X, K=[1], spread=2.0, out=tmp_path / "b", **QUICK)


def test_every_label_has_a_file_of_its_own(tmp_path):
    def program(x, kind="a/b"):
        mu = numpyro.sample("mu", dist.Normal(len(kind), 10))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0 + (kind == "a_b")), obs=x)

    kinds = ["a/b", "a_b", "a b", "a.b", "a%2Fb", None, "None", "ü", "../a", "x" * 300]
    found = select(program, X, kind=kinds[:5], out=tmp_path, **QUICK)
    again = select(program, X, kind=kinds[:5], out=tmp_path, **QUICK)
    assert found.table["log_likelihood"].equals(again.table["log_likelihood"])
    assert len(list(tmp_path.glob("*.nc"))) == 5
    folder = Folder(tmp_path)
    names = {folder.file(f"kind={SELECTION._shown(k, kinds)} em") for k in kinds}
    assert len(names) == len(kinds) and all(n.parent == tmp_path for n in names)


def test_a_damaged_file_of_a_selection_is_fitted_anew(tmp_path):
    first = select(mean_of(0), X, K=[1, 2], out=tmp_path, **QUICK)
    path = tmp_path / "K=1.em.nc"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.warns(UserWarning, match="fitted anew"):
        again = select(mean_of(0), X, K=[1, 2], out=tmp_path, **QUICK)
    assert again.table["log_likelihood"].equals(first.table["log_likelihood"])
    (tmp_path / "select.json").write_text("{")
    with pytest.raises(ValueError, match=r"select\.json is damaged"):
        select(mean_of(0), X, K=[1, 2], out=tmp_path, **QUICK)


def test_a_study_keeps_the_union_and_refuses_other_inputs(tmp_path):
    path = tmp_path / "study.nc"

    def run(replicates, methods, model=None, **options):
        settings = {"starts": 1, "progress": False, "out": path, **options}
        return experiment(
            model or Model(mean_of(0), X), {"mu": 1.0}, replicates, methods, **settings
        )

    first = run(3, "em,mle")
    small = run(2, "em")
    assert small.results.sizes == {"method": 1, "replicate": 2, "scalar": 1}
    again = run(3, "em,mle")
    assert again.results.equals(first.results)  # seconds too: nothing was fitted anew
    for words, changes in {
        "program": {"model": Model(mean_of(1), X)},
        "data": {"model": Model(mean_of(0), X + 1)},
        "seed": {"seed": 1},
        "level": {"level": 0.9},
    }.items():
        with pytest.raises(ValueError, match=f"another study.*{words}"):
            run(2, "em", **changes)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="out: .*study"):
        run(2, "em")


# --- Ctrl-C ---------------------------------------------------------------------------------


@pytest.fixture
def cut(monkeypatch):
    """Let the n-th fit be stopped by the user, as an error or as a fit that was cut."""

    def arrange(module, after, returned):
        count = [0]

        def stopped(*args, **kwargs):
            count[0] += 1
            if count[0] <= after:
                return fit_by(*args, **kwargs)
            if count[0] > after + 1:
                pytest.fail("the run went on after Ctrl-C")
            if not returned:
                raise KeyboardInterrupt
            return dataclasses.replace(fit_by(*args, **kwargs), status="interrupted")

        monkeypatch.setattr(module, "fit_by", stopped)

    return arrange


@pytest.mark.parametrize("returned", [False, True])
def test_a_selection_that_is_stopped(cut, monkeypatch, tmp_path, returned):
    whole = select(mean_of(0), X, K=[1, 2, 3], **QUICK)
    cut(SELECTION, 1, returned)
    with pytest.warns(UserWarning, match="stopped by the user"):
        found = select(mean_of(0), X, K=[1, 2, 3], out=tmp_path, **QUICK)
    assert found.interrupted and list(found.fits) == ["K=1 em"] and "! stopped" in repr(found)
    assert found.table["status"].tolist()[1:] == ["interrupted"] * 2
    assert [p.name for p in tmp_path.glob("*.nc")] == ["K=1.em.nc"]
    monkeypatch.undo()
    again = select(mean_of(0), X, K=[1, 2, 3], out=tmp_path, **QUICK)
    assert not again.interrupted
    assert again.table["log_likelihood"].equals(whole.table["log_likelihood"])


@pytest.mark.parametrize("returned", [False, True])
def test_a_study_that_is_stopped(cut, monkeypatch, tmp_path, returned):
    model, settings = Model(mean_of(0), X), {"starts": 1, "progress": False}
    whole = experiment(model, {"mu": 1.0}, 4, **settings)
    cut(EXPERIMENT, 2, returned)
    with pytest.warns(UserWarning, match="stopped by the user"):
        found = experiment(model, {"mu": 1.0}, 4, out=tmp_path / "a.nc", **settings)
    assert found.interrupted and np.isfinite(found.results["seconds"]).sum() == 2
    monkeypatch.undo()
    again = experiment(model, {"mu": 1.0}, 4, out=tmp_path / "a.nc", **settings)
    assert not again.interrupted
    assert again.results.drop_vars("seconds").equals(whole.results.drop_vars("seconds"))


def test_a_bootstrap_that_is_stopped(monkeypatch):
    fit = fit_mle(Model(mean_of(0), X), **QUICK)
    monkeypatch.setattr(BOOTSTRAP, "LANES", 5)
    whole = fit.bootstrap(15, progress=False)

    real, calls = Target.compiled, [0]

    def compiled(target, function, *static, **options):
        run = real(target, function, *static, **options)

        def third(*args):
            calls[0] += function is BOOTSTRAP._refit
            if calls[0] == 3:
                raise KeyboardInterrupt
            return run(*args)

        return third

    monkeypatch.setattr(Target, "compiled", compiled)
    found = fit.bootstrap(15, progress=False)
    assert found.interrupted and found.replicates == 10 and "! stopped" in repr(found)
    assert found.estimates.equals(whole.estimates.iloc[:10])


def test_a_profile_that_is_stopped(monkeypatch):
    fit = fit_mle(Model(mean_of(0), X), **QUICK)
    whole = fit.profile("mu")

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    count, brentq = [0], PROFILE.scipy_optimize.brentq

    def second(*args, **kwargs):
        count[0] += 1
        return brentq(*args, **kwargs) if count[0] == 1 else stopped()

    monkeypatch.setattr("scipy.optimize.brentq", second)
    found = fit.profile("mu")
    assert found.interrupted and found.low == whole.low and np.isnan(found.high)
    assert "stopped by the user" in repr(found)


def test_a_comparison_that_is_stopped(monkeypatch):
    fit = fit_mle(Model(mean_of(0), X), **QUICK)

    def stopped(fit):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMPARE, "loo_of", stopped)
    found = compare({"a": fit, "b": fit})
    assert "stopped by the user" in found.warnings[0] and found.scores["elpd_loo"].isna().all()


# --- what others read -----------------------------------------------------------------------

EVIL = "<script>alert(1)</script>&\"'[z][/z]"


def named_fit():
    def program(x):
        a = numpyro.sample(EVIL, dist.Normal(0, 10))
        b = numpyro.sample("=cmd|'/c calc'!A1", dist.Normal(0, 10))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(a + 0.0 * b, 1.0), obs=x)
            numpyro.sample("y", dist.Normal(b, 1.0), obs=x)

    return fit_mle(Model(program, X), **QUICK)


def test_a_report_and_a_table_show_names_as_text(tmp_path, monkeypatch):
    found = compare({EVIL: named_fit()})
    monkeypatch.setattr(REPORT, "render_pictures", lambda found: [])  # words, not pictures
    page = write_report(found, tmp_path / "r.html", EVIL, EVIL, {EVIL: EVIL}).read_text()
    assert "<script" not in page and "&amp;lt;" not in page
    assert "[z]" in repr(found) and "[/z]" in repr(found)
    text = write_table(tmp_path / "t.csv", found.estimates, "compare").read_text()
    assert "\n=" not in text and ",=" not in text and "'=cmd" in text
    frame = pd.DataFrame(
        {"=h": ["+1", "-x", "@s", "plain"], "n": [-1.0, 2, 3, 4]}, index=list("ab=d")
    )
    back = pd.read_csv(write_table(tmp_path / "u.csv", frame, "t"), index_col=0)
    assert list(back.columns) == ["'=h", "n"] and back["n"].tolist() == [-1.0, 2, 3, 4]
    assert back["'=h"].tolist() == ["'+1", "'-x", "'@s", "plain"] and back.index[2] == "'="


# --- threads and processes ------------------------------------------------------------------


def test_threads_fit_at_once_as_one_does():
    expected = fit_em(Model(mixture, X), starts=2, seed=1, progress=False)
    found: dict[int, object] = {}

    def run(i):
        try:
            fit = fit_em(Model(mixture, X), starts=2, seed=1, progress=False)
            found[i] = fit.log_likelihood
        except BaseException as error:
            found[i] = error

    before = numpyro.distributions.distribution._VALIDATION_ENABLED
    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected.log_likelihood] * 3
    assert numpyro.distributions.distribution._VALIDATION_ENABLED is before


SEEDED = """
import hashlib, sys
import numpy as np
sys.path.insert(0, "tests")
from test_reliability import X, mixture
from pp_mlem import Model, fit_em, fit_nuts
model = Model(mixture, X)
found = hashlib.sha256()
fits = fit_em(model, starts=3, seed=4), fit_nuts(model, warmup=40, draws=20, chains=2, seed=4)
for values in (fits[0].params, fits[1].draws):
    for name in sorted(values):
        found.update(name.encode() + np.ascontiguousarray(values[name]).tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SEEDED], capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(4)
    }  # fmt: skip
    assert len(found) == 1


def test_models_and_fits_are_copied_without_what_is_compiled():
    for program in (mixture, mean_of(2)):
        model = Model(program, X)
        fit = fit_em(model, starts=2, seed=3, progress=False)
        other = pickle.loads(pickle.dumps(model))
        assert other.fingerprint == model.fingerprint
        assert fit_em(other, starts=2, seed=3, progress=False).log_likelihood == fit.log_likelihood
        again = pickle.loads(pickle.dumps(fit))
        assert again.summary().equals(fit.summary()) and again.model.roles == model.roles
        assert copy.deepcopy(fit).log_likelihood == fit.log_likelihood
        moved = pickle.loads(pickle.dumps(model.redraw(fit.params, 1)))
        assert moved.log_likelihood(fit.params) == model.redraw(fit.params, 1).log_likelihood(
            fit.params
        )


def test_a_closure_without_cloudpickle_is_told(monkeypatch):
    monkeypatch.setattr("pp_mlem.base.copies.cloudpickle", None)
    with pytest.raises(TypeError, match="install cloudpickle"):
        pickle.dumps(Model(mean_of(0), X))
    assert pickle.loads(pickle.dumps(Model(mixture, X))).roles["z"] == "latent"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_child_is_told_at_once():
    model = Model(mean_of(0), X)
    child = os.fork()
    if child == 0:
        try:
            model.log_likelihood({"mu": 0.0})
        except RuntimeError as error:
            os._exit(7 if "spawn" in str(error) else 1)
        os._exit(2)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline or os.kill(child, signal.SIGKILL), "the child hangs"
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


def test_a_model_on_other_data_is_told_apart(tmp_path):
    model = Model(mean_of(0), X)
    other = model.with_data(x=X + 1)
    assert other.fingerprint != model.fingerprint
    assert np.array_equal(other.arguments.dynamic[0], X + 1)


SHAPES = """
import gc, sys, numpy as np, psutil
sys.path.insert(0, "tests")
from test_reliability import mixture
from pp_mlem import Model, fit_em
def memory():
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6
rows = np.random.default_rng(0).normal(size=1000)
shared = Model(mixture, rows[:20])
for i in range(8):
    fit_em(Model(mixture, rows[: 30 + i]), starts=2, progress=False)
before = memory()
for i in range(COUNT):
    fit_em(shared, starts=2, seed=i, progress=False)
    Model(mixture, rows[: 50 + i]).log_likelihood({"w": [0.5, 0.5], "mu": [0.0, 1.0], "sigma": 1.0})
    if i % 10 == 0:
        fit_em(Model(mixture, rows[: 400 + i]), starts=2, progress=False)
print(memory() - before)
"""


@pytest.mark.slow
def test_a_hundred_fits_and_shapes_within_seventy_megabytes():
    done = subprocess.run(
        [sys.executable, "-c", SHAPES.replace("COUNT", "100")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert float(done.stdout) < 70, done.stdout
