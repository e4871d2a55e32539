"""Shared options and helpers of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the long checks too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="long; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def galaxies():
    """The galaxies model, read once."""
    from pp_mlem import Model
    from pp_mlem.catalogue import find_model

    shelf = find_model("galaxies")
    return Model(shelf.program, **shelf.data(), K=3)


@pytest.fixture(scope="session")
def galaxies_em(galaxies):
    from pp_mlem import fit_em

    return fit_em(galaxies, starts=20, seed=0)
