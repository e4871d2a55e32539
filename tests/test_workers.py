"""Passes over chunks by workers: an executor's processes and threads, a cluster of Dask."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from process_fit import FAR, ROWS, X, mixture, model_of, told

from pp_mlem import Model, fit_em, fit_mle, open_source
from pp_mlem.data.stream import Stream
from pp_mlem.model import workers
from pp_mlem.model.workers import ranges


def normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, s), obs=x)


@pytest.fixture(scope="module")
def alone():
    return fit_em(model_of(), init=FAR, starts=1)


def agree(fit, alone):
    ours, theirs = (json.loads(told(f)) for f in (fit, alone))
    np.testing.assert_allclose(ours["history"], theirs["history"], rtol=1e-12)
    np.testing.assert_allclose(fit.standard_errors(), alone.standard_errors(), rtol=1e-10)


def test_threads_and_the_order_of_ranges(alone, monkeypatch):
    """To the bit, where every range is one chunk; to rounding, where ranges have several."""
    with ThreadPoolExecutor(3) as pool:
        model = model_of(workers=pool)
        assert told(fit_em(model, init=FAR, starts=1)) == told(alone)
        monkeypatch.setattr(workers, "TASKS", 4)
        agree(fit_em(model, init=FAR, starts=1), alone)


@pytest.mark.slow
def test_processes(alone, tmp_path):
    """Fits, checks, what few points say, entries that are held; and processes that are gone."""
    path = tmp_path / "fit.checkpoint"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        model = model_of(workers=pool)
        assert model.n_observations == ROWS
        fit = fit_em(model, init=FAR, starts=1, checkpoint=path)
        agree(fit, alone)
        fixed = {"mu[0]": 2.0}
        ours, theirs = (fit_em(m, init=FAR, starts=1, fixed=fixed) for m in (model, alone.model))
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
        few = Model(normal, open_source({"x": X}, chunk_rows=47)["x"], workers=pool)
        assert few.summary is not None
        ours, theirs = (fit_mle(m, starts=1) for m in (few, Model(normal, X)))
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
        with pytest.raises(ValueError, match=r"chunk 9 of 13 \(row 401\): observed site 'x'"):
            model_of(np.where(np.arange(ROWS) == 400, np.inf, X), workers=pool)
        for process in list(pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="ProcessPoolExecutor has lost tasks .*checkpoint="):
            model.log_likelihood(FAR)
    assert told(fit_em(model_of(), init=FAR, starts=1, checkpoint=path)) == told(fit)


@pytest.mark.slow
def test_missing_values_that_one_worker_has_not_seen():
    """Every worker lays all chunks out as the checks of all have told."""
    x = np.where(np.arange(ROWS) >= ROWS - 30, np.nan, X)
    params = {"mu": np.array(0.3), "s": np.array(1.2)}
    whole = Model(normal, x)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        model = Model(normal, open_source({"x": x}, chunk_rows=47)["x"], workers=pool)
        assert model.n_observations == whole.n_observations
        for _ in range(4):
            ours = model.log_likelihood(params)
            assert ours == pytest.approx(whole.log_likelihood(params), rel=1e-12)


@pytest.mark.slow
def test_dask(alone):
    """A worker that is killed in the middle of a fit costs its tasks alone."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            model = model_of(workers=client)
            agree(fit_em(model, init=FAR, starts=1), alone)
            victim = next(iter(client.run(os.getpid).values()))
            killer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
            killer.start()
            agree(fit_em(model, init=FAR, starts=1), alone)
            killer.join()
            assert victim not in client.run(os.getpid).values()


@pytest.mark.parametrize("chunks", [1, 13, 64, 100, 64 * 64, 10_001])
def test_ranges_follow_one_another(chunks):
    found = ranges(chunks)
    assert [i for begin, end in found for i in range(begin, end)] == list(range(chunks))
    assert len(found) >= min(chunks, 64) and max(b - a for a, b in found) <= 64


def test_a_copy_checks_no_row_again(alone, monkeypatch):
    packed = pickle.dumps(alone.model)

    def none(self):
        raise AssertionError("a pass over the rows")

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "parts", none)
        copy = pickle.loads(packed)
    assert copy.n_observations == ROWS
    assert copy.log_likelihood(FAR) == alone.model.log_likelihood(FAR)


def test_refused(monkeypatch):
    column = open_source({"x": X}, chunk_rows=47)["x"]
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="devices, workers: received both"):
            Model(mixture, column, devices=1, workers=pool)
        with pytest.raises(TypeError, match="workers: received int, expected a client"):
            Model(mixture, column, workers=4)
        with pytest.raises(ValueError, match="workers: .* data must come in chunks"):
            Model(mixture, X, workers=pool)
        batches = open_source(lambda: [{"x": jnp.asarray(X)[:300]}, {"x": X[300:]}], chunk_rows=47)
        with pytest.raises(TypeError, match="workers: the model cannot be sent"):
            Model(mixture, batches["x"], workers=pool)
        monkeypatch.setattr(workers, "LARGEST", 1000)
        with pytest.raises(ValueError, match="bytes with its data in memory"):
            Model(mixture, column, workers=pool)
