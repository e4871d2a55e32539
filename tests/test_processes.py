"""Fits in several processes, and what becomes of one that fails or is killed: real processes over loopback."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from process_fit import FAR, HEARTBEAT, ROWS, free_port, model_of, told

from pp_mlem import fit_em, load
from pp_mlem.base import processes
from pp_mlem.estimate.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
SPAN = 0.8  # seconds after the reading of a model, within which it is killed: about half a fit
SCRIPT = str(ROOT / "tests" / "process_fit.py")


def started(*args):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, args)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By what they do: the folder of the processes, what each printed, and when all had ended. All run at the same time."""
    kept = {}
    for what, count in (("one", 1), ("two", 2), ("four", 4)):
        folder, port = tmp_path_factory.mktemp(what), free_port()
        kept[what] = folder, [started(what, folder, port, count, rank) for rank in range(count)]
    ended = {}

    def get(what):
        if what not in ended:
            folder, every = kept[what]
            said = [p.communicate(timeout=300) for p in every]
            ended[what] = folder, said, time.time()
        return ended[what]

    yield get
    for _, every in kept.values():
        for process in every:
            process.kill()
            process.communicate()


def events(folder):
    log = folder / "log"
    return log.read_text().split() if log.exists() else []


def fits(folder, name="fit"):
    return [p.read_text() for p in sorted(folder.glob(f"{name}-*.json"))]


def numbers(text):
    found = json.loads(text)
    return np.concatenate([found["history"], *map(np.ravel, found["params"].values())])


@pytest.mark.slow
@pytest.mark.parametrize(("what", "count"), [("two", 2), ("four", 4)])
def test_every_process_ends_with_the_fit_of_one(runs, what, count):
    (alone,) = fits(runs("one")[0])
    folder, _, _ = runs(what)
    found = fits(folder)
    assert len(found) == count and len(set(found)) == 1
    assert len(json.loads(alone)["history"]) > 10
    np.testing.assert_allclose(numbers(found[0]), numbers(alone), rtol=1e-12)


@pytest.mark.slow
def test_two_devices_give_the_same_bits(runs):
    folder = runs("one")[0]
    assert fits(folder, "devices") == fits(folder)


@pytest.mark.slow
def test_the_first_process_writes_and_all_write_their_rows(runs):
    alone, (folder, said, _) = runs("one")[0], runs("two")
    errors = [np.load(folder / f"errors-{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*errors)
    np.testing.assert_allclose(errors[0], np.load(alone / "errors-0.npy"), rtol=1e-10)
    assert [p.name for p in folder.glob("fit-*.nc")] == ["fit-0.nc"]
    assert load(folder / "fit-0.nc").params["mu"].shape == (2,)
    parts = sorted(p.name for p in (folder / "posterior").iterdir())
    assert parts == ["rows-00000-of-00002.parquet", "rows-00001-of-00002.parquet"]
    ours, theirs = (pd.read_parquet(f / "posterior") for f in (folder, alone))
    assert (alone / "posterior").is_file() and len(ours) == ROWS
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert ["EM" in err.partition("Traceback")[0] for _, err in said] == [True, False]


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(runs):
    """In the first look at its rows; in a later pass; by asking another question than the others."""
    ours, theirs = ([x for x in out.splitlines() if "Gloo" not in x] for out, _ in runs("two")[1])
    where = "chunk 9 of 13 (row 401): observed site 'x': infinite"
    assert theirs[0].startswith(f"ValueError: {where}")
    assert ours[0].startswith(f"RuntimeError: process 1 of 2 has failed: ValueError: {where}")
    assert ours[1] == "RuntimeError: process 1 of 2 has failed: OSError: the disk is gone"
    assert theirs[1] == "OSError: the disk is gone"
    for own in (ours, theirs):
        assert "come apart" in own[2] and "'log z'" in own[2] and "'classified'" in own[2]
    assert ours[3] == theirs[3]  # and they can go on together


@pytest.mark.slow
def test_a_killed_process_ends_the_others(runs):
    """With a message at once, and their processes by the heartbeat; what is left goes on in one process."""
    folder, said, end = runs("two")
    killed = (folder / "killed").stat().st_mtime
    assert (folder / "noticed").stat().st_mtime - killed < HEARTBEAT
    assert end - killed < HEARTBEAT + 10.0
    assert "process 0 of 2 cannot reach the others" in said[0][1]
    assert "with checkpoint= the fit goes on" in said[0][1]
    out, _ = started("slow", folder).communicate(timeout=120)
    first = runs("one")[0]
    (alone,) = fits(first)
    assert events(folder).count("pass") == int((first / "passes").read_text()) - 2
    np.testing.assert_allclose(numbers(out.splitlines()[-1]), numbers(alone), rtol=1e-12)


def lost(own):
    """Passes that were begun after the last checkpoint."""
    after = own[::-1]
    return (after[: after.index("kept")] if "kept" in after else after).count("pass")


def is_told(folder):
    """Whether all stages of a fit are in its checkpoint: what follows is its verdict."""
    if not (folder / "checkpoint").exists():
        return False
    with np.load(folder / "checkpoint") as file:
        _, stages = json.loads(str(file["told"]))
    return "algorithm" in stages and all(own["done"] for own in stages.values())


@pytest.mark.slow
def test_kills_lose_one_pass_and_no_bit(runs, tmp_path):
    """Killed at random moments and started anew, a fit makes the passes that it would have made, and at most those
    again that were under way; and ends with the same bits."""
    alone = runs("one")[0]
    chance, kills, wasted, fits_made = random.Random(1), 0, 0, 0
    while kills < 5:
        folder, fits_made, found = tmp_path / str(fits_made), fits_made + 1, None
        folder.mkdir()
        while found is None:
            before = len(events(folder))
            process = started("slow", folder)
            process.stdout.readline()
            if kills < 5:
                time.sleep(chance.uniform(0, SPAN))
                process.kill()
            out, _ = process.communicate()
            found = out.splitlines()[-1] if process.returncode == 0 else None
            if found is None:
                kills += 1
                own = lost(events(folder)[before:])
                assert own <= 1 or is_told(folder)
                wasted += own
        assert [found] == fits(alone)
    passes = sum(events(f).count("pass") for f in tmp_path.iterdir())
    whole = int((alone / "passes").read_text())
    assert whole > 10 and 0 <= passes - whole * fits_made <= wasted


def test_a_full_disk_costs_the_checkpoint_alone(tmp_path, monkeypatch):
    """The fit goes on, the file that was there is intact, and later passes are written again."""
    path, save, calls = tmp_path / "fit.checkpoint", np.savez, []

    def full(file, **arrays):
        calls.append(path.read_bytes() if path.exists() else b"")
        if 4 < len(calls) < 8:
            file.write(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    model = model_of()
    whole = fit_em(model, init=FAR, starts=1)
    with pytest.warns(
        UserWarning, match="fit.checkpoint could not be written .*is intact"
    ) as warned:
        fit = fit_em(model, init=FAR, starts=1, checkpoint=path)
    assert len(warned) == 1 and "goes on" in str(warned[0].message)
    assert calls[4] and calls[4] == calls[5] == calls[6] == calls[7] != calls[8]
    assert told(fit) == told(whole) == told(fit_em(model, init=FAR, starts=1, checkpoint=path))
    assert [p.name for p in tmp_path.iterdir()] == ["fit.checkpoint"]


def test_starts_from_a_sample_leave_the_checkpoint_alone(tmp_path, monkeypatch):
    """A fit that is cut where its starts are made goes on, too."""
    path, write = tmp_path / "fit.checkpoint", Checkpoint._write

    def cut(self):
        write(self)
        if self.path is not None:
            raise KeyboardInterrupt

    model = model_of()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoint, "_write", cut)
        fit_em(model, starts=2, checkpoint=path)
    assert path.exists()
    assert told(fit_em(model, starts=2, checkpoint=path)) == told(fit_em(model, starts=2))


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as if it was the second of two."""
    monkeypatch.setattr(processes, "_STATE", processes._State())
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)


def test_one_that_does_not_come_is_given_up(second_of_two, monkeypatch):
    monkeypatch.setattr(processes, "_of_all", lambda block: time.sleep(5.0))
    monkeypatch.setenv("PP_MLEM_PATIENCE", "0.1")
    with pytest.raises(RuntimeError, match="a test: process 1 of 2 has waited 0.1 s .* Start all"):
        processes.summed(np.ones(3), np.add, "a test")
    with pytest.raises(RuntimeError, match="more: an earlier exchange .* was cut off"):
        processes.of_first(np.ones(3), "more")
    monkeypatch.setattr(processes, "_STATE", processes._State())
    monkeypatch.setenv("PP_MLEM_PATIENCE", "soon")
    with pytest.raises(ValueError, match="PP_MLEM_PATIENCE: received 'soon', expected seconds"):
        processes.met("a test")


def test_folders_and_files_of_rows(monkeypatch, tmp_path):
    """What is in the way of rows is told before a pass is made."""
    model, out = model_of(), tmp_path / "rows"
    (out / "deeper").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="rows is a folder, as several processes write"):
        model.posterior(FAR, out=out)
    monkeypatch.setattr(processes, "_STATE", processes._State())
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "_of_all", lambda block: [block, block])
    for old in ("rows-00002-of-00003.parquet", ".rows-00002-of-00003.parquet.part"):
        (out / old).touch()
    assert model.posterior(FAR, out=out) == out
    assert {p.name for p in out.iterdir()} == {"rows-00000-of-00002.parquet", "deeper"}
    assert len(pd.read_parquet(out / "rows-00000-of-00002.parquet")) == ROWS
    (out / "other.parquet").touch()
    with pytest.raises(FileExistsError, match="has other Parquet files .other.parquet."):
        model.posterior(FAR, out=out)
    with pytest.raises(FileExistsError, match="is a file, and 2 processes write a folder"):
        model.posterior(FAR, out=out / "other.parquet")


@pytest.mark.parametrize("size", [0, 3, 2000, 100_001])
def test_sums_of_any_size(second_of_two, monkeypatch, size):
    monkeypatch.setattr(processes, "_of_all", lambda block: [block, block])
    tree = {"a": np.arange(size) + 0.1, "b": (np.array(7), np.arange(size) > 3)}
    found = processes.summed(tree, lambda x, y: {"a": x["a"] + y["a"], "b": y["b"]}, "a test")
    assert np.array_equal(found["a"], 2 * tree["a"]) and found["a"].dtype == float
    assert found["b"][0] == 7 and found["b"][0].dtype == int
    assert np.array_equal(found["b"][1], tree["b"][1])


def test_shares_are_all_chunks(monkeypatch):
    for count, chunks in ((3, 13), (4, 4), (1, 7)):
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        found = []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            found += range(*processes.share(chunks))
        assert found == list(range(chunks))
