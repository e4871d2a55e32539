"""Random programs with real latents against the whole joint Gaussian: right, or refused with a reason.

`python tests/fuzz/run.py gaussian FIRST LAST` runs programs by seed; a failure here prints the program
as a text that can be run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import gaussian
from gaussian_check import check
from test_random_programs import report, run


def test_some_programs(record_property):
    """The short slice of a plain run."""
    outcomes = run(gaussian.any_gaussian, 4, 2000, thorough_every=4, by=check)
    report(outcomes, 0.2, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gaussian.by_group, gaussian.in_frames, gaussian.crossed_frames])
def test_any_program(make, record_property):
    report(run(make, 8, 10, thorough_every=4, by=check), 0.05, record_property)
