"""x"""
import collections, sys, time, warnings
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np, gaussian
from gaussian_check import check
def main(kind, first, last, *flags):
    warnings.simplefilter("ignore")
    counts, begin, reasons = collections.Counter(), time.time(), collections.Counter()
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        program = getattr(gaussian, kind)(lambda n: int(rng.integers(n)))
        if "--print" in flags:
            print(program.source); continue
        outcome = check(program, thorough="--thorough" in flags or seed % 10 == 0)
        counts[outcome.status] += 1
        if outcome.status == "refused": reasons[outcome.detail[:110]] += 1
        if outcome.status not in ("right", "skipped"):
            print(f"[{kind} {seed}] {outcome.status} {program.refusable}: {outcome.detail}", flush=True)
            if "--show" in flags: print(outcome)
    print(dict(counts), f"{time.time()-begin:.0f} s"); print(reasons)
main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
