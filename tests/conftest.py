"""Shared options and helpers of the tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Kernels that one test compiled serve the next, and the next run.
KERNELS = Path(__file__).resolve().parents[1] / ".pytest_cache" / "kernels"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KERNELS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest

KERNELS_LIMIT = 2**30  # bytes; beyond it they are thrown away before a run
SHARED = Path(__file__).resolve().parents[2] / "shared"
LONG = Path(__file__).with_name("long.txt")  # tests that a plain run skips, a line each
LONG_SECONDS = 3.0


def pytest_configure(config):
    if not hasattr(config, "workerinput") and KERNELS.exists():
        if sum(f.stat().st_size for f in KERNELS.iterdir()) > KERNELS_LIMIT:
            shutil.rmtree(KERNELS)


def note_long(terminalreporter):
    """Rewrite the list of long tests by how long each took."""
    every = [r for reports in terminalreporter.stats.values() for r in reports]
    calls = [r for r in every if getattr(r, "when", "") == "call"]
    long = {r.nodeid for r in calls if r.duration > LONG_SECONDS and "slow" not in r.keywords}
    LONG.write_text("".join(f"{name.partition('/')[2]}\n" for name in sorted(long)))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--note-long"):
        note_long(terminalreporter)
    count_programs(terminalreporter)


def count_programs(terminalreporter):
    """How many of the programs of NumPyro's documentation, and of the random ones, are right."""
    ended = [
        (status, report)
        for status in ("passed", "failed")
        for report in terminalreporter.getreports(status)
        if "test_numpyro_programs" in report.nodeid and report.when == "call"
    ]
    failed = {r.nodeid.partition("[")[2] for status, r in ended if status == "failed"}
    every = {r.nodeid.partition("[")[2] for _, r in ended}
    if every:
        terminalreporter.write_line(
            f"{len(every - failed)} of {len(every)} programs of NumPyro's documentation are right"
        )
    counts = [
        value
        for status in ("passed", "failed")
        for report in terminalreporter.getreports(status)
        if report.when == "call"
        for name, value in report.user_properties
        if name == "random programs"
    ]
    if counts:
        right, refused, total = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(
            f"{right} of {total} random programs are right, {refused} refused with a reason"
        )


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the long checks too")
    parser.addoption(
        "--note-long", action="store_true",
        help=f"with --slow: list the tests that took over {LONG_SECONDS:g} s in {LONG.name}",
    )  # fmt: skip


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="long; run with --slow")
    long = set(LONG.read_text().splitlines())
    for item in items:
        if "slow" in item.keywords or item.nodeid.partition("/")[2] in long:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def galaxies():
    """The galaxies model, read once."""
    from pp_mlem import Model
    from pp_mlem.show.catalogue import find_model

    shelf = find_model("galaxies")
    return Model(shelf.program, **shelf.data(), K=3)


@pytest.fixture(scope="session")
def galaxies_em(galaxies):
    from pp_mlem import fit_em

    return fit_em(galaxies, starts=20, seed=0)


@pytest.fixture(scope="session")
def small_nuts(galaxies):
    from pp_mlem import fit_nuts

    return fit_nuts(galaxies, chains=2, warmup=300, draws=300, seed=1)
