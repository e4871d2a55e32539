"""Programs of NumPyro's documentation through every method: prints K of N, and what failed.

`python benchmarks/programs.py [word]` runs those whose name holds the word; NUTS is short.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from test_numpyro_programs import FITTED, REFUSED, build, fit_em, fitted


def main(word: str = "") -> None:
    warnings.simplefilter("ignore")
    right, cases = 0, {n: c for n, c in {**FITTED, **REFUSED}.items() if word in n}
    for name, case in cases.items():
        clock = time.perf_counter()
        try:
            if case.refused:
                try:
                    fit_em(build(case), starts=1, progress=False)
                    raise AssertionError("was not refused")
                except (ValueError, TypeError) as error:
                    assert case.refused in str(error), str(error)
            else:
                fitted(case, sampled=True)
            right += 1
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        else:
            print(f"{name}: {time.perf_counter() - clock:.1f} s", flush=True)
    print(f"{right} of {len(cases)} programs are read and fitted by EM, MLE and NUTS, or refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
