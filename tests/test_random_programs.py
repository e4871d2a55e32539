"""Random programs against brute force: right, or refused with a reason; never wrong, never raw.

`python tests/fuzz/run.py KIND FIRST LAST` runs programs by seed; a failure here prints the program
as a text that can be run.
"""

from __future__ import annotations

import collections
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import programs
from check import check


def run(make, examples: int, part: int, thorough_every: int = 20, by=check) -> list:
    """Outcomes of `examples` programs that hypothesis makes, each checked `by` brute force."""
    outcomes = []

    @seed(part)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data):
        program = make(lambda n: data.draw(st.integers(0, n - 1)) if n > 1 else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes.append(by(program, thorough=len(outcomes) % thorough_every == 0))
        if outcomes[-1].status in ("wrong", "raw"):
            print(outcomes[-1], flush=True)

    one()
    return outcomes


def report(outcomes: list, refusals: float, record_property) -> None:
    """Note K of N for the end of the run (conftest.py); fail on what is wrong or raw, and on more
    than this share of refusals."""
    tried = [o for o in outcomes if o.status != "skipped"]
    counts = collections.Counter(o.status for o in tried)
    reasons = collections.Counter(o.detail[:80] for o in tried if o.status == "refused")
    total = len(tried)
    record_property("random programs", (counts["right"], counts["refused"], total))
    print(f"{counts['right']} of {total} right, {counts['refused']} refused {dict(reasons)}")
    bad = [o for o in tried if o.status in ("wrong", "raw")]
    assert not bad, f"{len(bad)} of {total}\n" + "\n".join(str(o) for o in bad[:5])
    refused = [o for o in tried if o.status == "refused" and not o.program.refusable]
    assert len(refused) <= refusals * total, "\n".join(str(o) for o in refused[:5])


def test_some_programs(record_property):
    """The short slice of a plain run."""
    report(run(programs.any_program, 15, 1000, thorough_every=15), 0.1, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_any_program(part, record_property):
    report(run(programs.any_program, 40, part), 0.05, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_missing_cells_gathers_masks_and_labels(part, record_property):
    report(run(programs.holes_and_gathers, 20, 100 + part), 0.05, record_property)


@pytest.mark.slow
def test_dependence_across_units_is_exact_or_refused(record_property):
    report(run(programs.across_units, 20, 200), 0.0, record_property)
