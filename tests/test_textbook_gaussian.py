"""Models with real latents as textbooks write them, against the whole joint Gaussian written out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

from gaussian import GaussianProgram
from gaussian_check import check
from textbook_gaussian import TEXTBOOK

QUICK = ("casks within batches, numbered through", "a Gaussian process on given points")
ALL = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TEXTBOOK]


@pytest.mark.parametrize("name", ALL)
def test_it_is_read_and_right(name):
    text, arguments, params, latents = TEXTBOOK[name]
    values = {k: np.asarray(v, float) for k, v in params.items()}
    program = GaussianProgram(name, text, arguments, values, {}, False, None, latents)
    outcome = check(program)
    assert outcome.status == "right", outcome
