"""What is compiled in our entries is kept for later processes, and nothing else changes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import config as jax_config

from pp_mlem.base import cache
from pp_mlem.base.cache import HERE, Kernels, compiled_once, root_folder

# Counts what JAX asks its cache for, and what it then had to compile, by the function's name.
COUNTS = """
import json, jax
from jax._src import compiler, monitoring
events, missed = [], []
monitoring.register_event_listener(lambda event, **_: events.append(event))
told = compiler.log_persistent_cache_miss
def note(name, key):
    if name != "jit_asks_for_option":  # XLA's options change; one that is gone cannot be kept
        missed.append(name)
    told(name, key)
compiler.log_persistent_cache_miss = note
from pathlib import Path
from pp_mlem import Model, fit_em, fit_nuts
from pp_mlem.base.cache import root_folder
from pp_mlem.show.catalogue import find_model
kept = lambda: sorted(p.name for p in root_folder().rglob("*.kernel"))
def read(name, **more):
    shelf = find_model(name)
    return Model(shelf.program, **{**shelf.data(), **more})
def tell(**more):
    asked = events.count("/jax/compilation_cache/compile_requests_use_cache")
    print(json.dumps({"asked": asked, "missed": missed, **more}))
"""
GALAXIES = """
before = dict(jax.config.values)
fit = fit_em(read("galaxies"), starts=5, seed=0, progress=False)
fit.summary()
ours = kept()
jax.jit(lambda x: x + 0.25)(1.0)  # the user's
tell(same=before == dict(jax.config.values), ours=len(ours), theirs=len(kept()) - len(ours))
"""
NUTS = 'fit_nuts(read("galaxies"), chains=2, warmup=20, draws=20, seed=0, progress=False)'
CASES = {
    "nuts": f"{NUTS}; tell()",
    "chain": 'fit_em(read("gaussian_hmm"), starts=2, seed=0, progress=False).summary(); tell()',
    "classes": 'fit_em(read("latent_class"), starts=2, seed=0, progress=False).summary(); tell()',
    "image": 'fit_em(read("image_segmentation"), starts=1, max_iter=5, progress=False); tell()',
}


def started(code, folder, seed):
    """A Python process on our cache in `folder`, JAX's own not set, warnings errors."""
    own = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    environment = own | {"PP_MLEM_CACHE": str(folder), "PYTHONHASHSEED": str(seed)}
    ignored = ["-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning"]
    return subprocess.Popen(
        [sys.executable, "-W", "error", *ignored, "-c", COUNTS + code],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process):
    told, errors = process.communicate(timeout=500)
    assert process.returncode == 0 and not errors, errors[-2000:]
    return json.loads(told.splitlines()[-1])


def test_a_second_process_compiles_nothing(tmp_path):
    """Two that begin at once on an empty folder write together; a later one reads it all."""
    folder = tmp_path / "kept"
    first = [ended(p) for p in [started(GALAXIES, folder, seed) for seed in (1, 2)]]
    later = ended(started(GALAXIES, folder, 3))
    for run in (*first, later):
        assert run["asked"] > 10 and run["same"] and run["ours"] > 10 and run["theirs"] == 0
    assert (
        len(set().union(*(run["missed"] for run in first))) > 3
    )  # each may find what the other wrote
    assert later["missed"] == ["jit__lambda"]  # the user's own function
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_keys_do_not_hang_on_the_process(case, tmp_path):
    ended(started(CASES[case], tmp_path, 1))
    later = ended(started(CASES[case], tmp_path, 9))
    # NumPyro lists a distribution's fields by a set, so that its scans return them in any order.
    assert not set(later["missed"]) - ({"jit_densities"} if case == "chain" else set())


# --- in this process --------------------------------------------------------------------------


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Our cache in a folder of the test, as where JAX's own is not set."""
    kept = Kernels(tmp_path / "kept")
    monkeypatch.setattr(cache, "_kernels", lambda: kept)
    with jax_config.compilation_cache_dir(None):
        yield kept


def compute():
    """Something that is compiled anew each time, in our entry."""
    jax.clear_caches()
    with compiled_once():
        found = jax.jit(lambda x: jnp.sin(x) * 3.0 + x.sum())(np.arange(5.0))
    np.testing.assert_allclose(found, np.sin(np.arange(5)) * 3 + 10, rtol=1e-6)


def files(kernels):
    return sorted(kernels.folder.glob("*")) if kernels.folder.exists() else []


def test_entries_are_written_and_read(kernels, monkeypatch):
    compute()
    written = files(kernels)
    assert written and all(f.suffix == ".kernel" for f in written)
    monkeypatch.setattr(Kernels, "put", lambda *_: pytest.fail("compiled again"))
    compute()


def test_other_threads_and_what_is_outside_keep_nothing(kernels):
    def theirs():
        assert HERE.kernels is None
        jax.jit(lambda x: x * 0.75)(np.arange(3.0))

    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    with compiled_once():
        assert HERE.kernels is kernels
        with compiled_once():
            pass
        assert HERE.kernels is kernels
        thread = threading.Thread(target=theirs)
        thread.start()
        thread.join()
    theirs()
    assert not files(kernels)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == shortest


@pytest.mark.parametrize("how", ["cut", "empty", "junk under a right digest", "no executable"])
def test_broken_entries_are_compiled_anew(how, kernels):
    from jax._src.compilation_cache import compress_executable

    compute()
    for file in files(kernels):
        content = file.read_bytes()
        other = compress_executable(b"0000 nothing") if how == "no executable" else b"junk"
        left = content[:50] if how == "cut" else b""
        file.write_bytes(left if how in ("cut", "empty") else cache._digest(other) + other)
        broken = len(file.read_bytes())
        compute()  # warnings are errors here
        again = file.read_bytes()
        assert len(again) > broken and cache._digest(again[16:]) == again[:16]


def test_a_folder_that_cannot_be_made(kernels, tmp_path):
    (tmp_path / "file").write_text("")
    kernels.folder = tmp_path / "file" / "kept"
    compute()
    assert not kernels.writable


def test_a_full_disk(kernels, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    compute()
    assert not kernels.writable and not files(kernels)


def test_a_read_only_folder_is_read(kernels, monkeypatch):
    compute()
    kernels.writable = False
    for file in files(kernels):
        os.utime(file, (0, 0))
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError()))
    compute()
    assert files(kernels)


def test_size_is_bounded_by_dropping_the_oldest(tmp_path):
    mine = tmp_path / "jaxlib-notes" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("not ours")
    old = tmp_path / "jaxlib-0.1-x" / "jit_f-0.kernel"  # of another version
    old.parent.mkdir()
    old.write_bytes(bytes(5_000))
    os.utime(old, (0, 0))
    kept = Kernels(tmp_path, limit=100_000)
    for i in range(100):
        kept.put(f"jit_f-{i}", bytes(5_000))
        os.utime(kept._path(f"jit_f-{i}"), (1000 + i, 1000 + i))
    total = sum(f.stat().st_size for f in tmp_path.rglob("*.kernel"))
    assert total <= 1.15 * kept.limit
    assert kept.get("jit_f-99") and kept.get("jit_f-0") is None
    assert mine.exists() and not old.exists()
    kept.put("jit_f-large", bytes(50_000))  # one entry may not drive out all others
    assert kept.get("jit_f-large") is None


# --- whose cache it is ------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["off", "0", "OFF", "false", "no"])
def test_off(value, monkeypatch):
    monkeypatch.setenv("PP_MLEM_CACHE", value)
    assert root_folder() is None
    assert cache._kernels.__wrapped__() is None


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("PP_MLEM_CACHE", raising=False)
    assert "pp_mlem" in str(root_folder())
    monkeypatch.setenv("PP_MLEM_CACHE", str(tmp_path))
    assert root_folder() == tmp_path
    folder = Kernels(tmp_path).folder
    monkeypatch.setattr(cache, "_processor", lambda: ["another"])
    assert folder.parent == tmp_path and folder != Kernels(tmp_path).folder


@pytest.mark.parametrize(
    ("name", "value"), [("compilation_cache_dir", "theirs"), ("enable_compilation_cache", False)]
)
def test_what_the_user_has_set_of_jax_is_left_alone(name, value, kernels, tmp_path):
    value = str(tmp_path / value) if isinstance(value, str) else value
    with getattr(jax_config, name)(value):
        before = dict(jax.config.values)
        with compiled_once():
            assert HERE.kernels is None and dict(jax.config.values) == before


def test_another_jax_goes_on_without(monkeypatch):
    from jax._src import compilation_cache

    monkeypatch.delattr(compilation_cache, "_get_cache")
    assert cache._shortest.__wrapped__() is None
