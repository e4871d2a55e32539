"""Run random programs by seed: `python tests/fuzz/run.py plates 0 50 [--show]`."""

import collections
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import gaussian
import gaussian_check
import numpy as np
import programs
from check import check

KINDS = {
    "plates": programs.in_plates,
    "gather": programs.gathered,
    "chain": programs.chained,
    "across": programs.across_units,
    "holes": programs.holes_and_gathers,
    "any": programs.any_program,
    "gaussian": gaussian.any_gaussian,
}


def main(kind: str, first: int, last: int, *flags: str) -> None:
    warnings.simplefilter("ignore")
    counts, begin = collections.Counter(), time.time()
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        program = KINDS[kind](lambda n, rng=rng: int(rng.integers(n)))
        if "--print" in flags:
            print(program.source)
            continue
        by = gaussian_check.check if kind == "gaussian" else check
        outcome = by(program, thorough="--thorough" in flags or seed % 10 == 0)
        counts[outcome.status] += 1
        if outcome.status not in ("right", "skipped"):
            print(f"[{kind} {seed}] {outcome.status}: {outcome.detail}", flush=True)
            if "--show" in flags:
                print(outcome)
    print(f"{dict(counts)} in {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
