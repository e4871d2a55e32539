"""Fits in one of several processes, a script for tests: python process_fit.py what folder [port count rank]."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from pp_mlem import Model, fit_em, open_source
from pp_mlem.estimate.checkpoint import Checkpoint
from pp_mlem.model.streamed import StreamedModel

HEARTBEAT = 5  # seconds
ROWS, CHUNK = 600, 47
RNG = np.random.default_rng(5)
X = RNG.normal(2.0 + 3.0 * (RNG.random(ROWS) < 0.4), 1.0)
FAR = {"w": np.array([0.5, 0.5]), "mu": np.array([-2.0, 3.0]), "s": np.array([3.0, 3.0])}


def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]), obs=x)


def model_of(x=X, **options):
    return Model(mixture, open_source({"x": x}, chunk_rows=CHUNK)["x"], **options)


def told(fit):
    """The fit, to the bit."""
    numbers = {k: np.asarray(v).tolist() for k, v in fit.params.items()}
    return json.dumps({"history": list(fit.history), "params": numbers})


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def noted(note, on_pass):
    """`note` is told of every pass and every checkpoint."""
    feed, write = StreamedModel.feed, Checkpoint._write

    def feeding(self, *given):
        note("pass")
        on_pass()
        yield from feed(self, *given)

    def writing(self):
        write(self)
        note("kept")

    StreamedModel.feed, Checkpoint._write = feeding, writing
    yield
    StreamedModel.feed, Checkpoint._write = feed, write


@dataclass
class Process:
    folder: Path
    rank: int

    def fitted(self, model, name="fit"):
        fit = fit_em(model, init=FAR, starts=1)
        (self.folder / f"{name}-{self.rank}.json").write_text(told(fit))
        return fit

    def told_in_full(self, fit):
        fit.posterior(out=self.folder / "posterior")
        np.save(self.folder / f"errors-{self.rank}.npy", fit.standard_errors())

    def one(self):
        passes = []
        with noted(passes.append, lambda: None):
            fit = self.fitted(model_of())
        (self.folder / "passes").write_text(str(passes.count("pass")))
        self.told_in_full(fit)
        self.fitted(model_of(devices=2), "devices")

    def two(self):
        model = model_of()
        fit = self.fitted(model)
        self.told_in_full(fit)
        fit.save(self.folder / f"fit-{self.rank}.nc")
        self.errors(model)
        self.killed(model)

    def four(self):
        self.fitted(model_of())

    def errors(self, model):
        """Three errors, and what this process is told of them."""

        def attempt(what):
            try:
                what()
            except Exception as error:
                print(f"{type(error).__name__}: {error}", flush=True)

        attempt(lambda: model_of(np.where(np.arange(ROWS) == 400, np.inf, X)))
        passes = []

        def on_pass():
            if self.rank == 1 and len(passes) == 4:
                raise OSError("the disk is gone")

        model.__dict__.pop("chunked")  # it has the feed
        with noted(passes.append, on_pass):
            attempt(lambda: fit_em(model, init=FAR, starts=1))
        asked = model.classification_log_likelihood if self.rank else model.log_likelihood
        attempt(lambda: asked(FAR))
        print(model.log_likelihood(FAR), flush=True)

    def killed(self, model):
        """The second process is gone in the third pass."""
        passes = []

        def on_pass():
            if self.rank == 1 and len(passes) > 4:
                (self.folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        options = {"init": FAR, "starts": 1, "checkpoint": self.folder / "checkpoint"}
        model.__dict__.pop("chunked")
        with noted(passes.append, on_pass):
            try:
                fit_em(model, progress=True, **options)
            finally:
                (self.folder / "noticed").touch()

    def slow(self):
        """A fit that can be killed at any moment; its log says what it has done."""
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        model = model_of()
        print("begun", flush=True)
        options = {"init": FAR, "starts": 1, "checkpoint": self.folder / "checkpoint"}
        with noted(lambda word: os.write(log, f"{word}\n".encode()), lambda: time.sleep(0.02)):
            print(told(fit_em(model, **options)))


def main(what, folder, port=0, count=1, rank=0):
    jax.config.update("jax_platforms", "cpu")
    if what == "one":
        jax.config.update("jax_num_cpu_devices", 2)
    if int(count) > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}", int(count), int(rank), heartbeat_timeout_seconds=HEARTBEAT
        )
    getattr(Process(Path(folder), int(rank)), what)()


if __name__ == "__main__":
    main(*sys.argv[1:])
