"""Damages a saved fit in many ways and counts what loading it does.

    python benchmarks/damage.py [flipped bits, default 1000]

Every damaged file must be refused with a ValueError that names it: nothing silent, nothing raw.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

from pp_mlem import Model, fit_mle, load
from pp_mlem.base.files import FOOTER, write_netcdf

X = np.random.default_rng(0).normal(3.0, 1.5, 40)
VALUES = (None, "text", 3, [], {}, [1, "a"], {"a": [1]}, True)


def normal(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def outcome(path: Path) -> str:
    try:
        load(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else "refused without its name"
    except Exception as error:
        return f"raw {type(error).__name__}"
    return "silent"


def flipped(whole: bytes, count: int, path: Path) -> Counter:
    rng = np.random.default_rng(1)
    found: Counter = Counter()
    for place in rng.choice(len(whole) * 8, count, replace=False):
        bad = bytearray(whole)
        bad[place // 8] ^= 1 << (place % 8)
        path.write_bytes(bad)
        found[outcome(path)] += 1
    return found


def crafted(saved: Path, path: Path) -> Counter:
    """Cut files, and files with a sound checksum whose record is not that of a fit."""
    whole, found = saved.read_bytes(), Counter()
    for size in (0, 1, 8, 512, len(whole) // 3, len(whole) - FOOTER, len(whole) - 1):
        path.write_bytes(whole[:size])
        found[outcome(path)] += 1
    with xr.open_datatree(saved, engine="netcdf4") as opened:
        tree = opened.load()
    node = tree["pp_mlem_fit"]
    record = json.loads(node.attrs["record"])

    def check(changed: dict) -> None:
        other = node.to_dataset()
        other.attrs["record"] = json.dumps(changed)
        whole = tree.copy()
        whole["pp_mlem_fit"] = xr.DataTree(other)
        found[outcome(write_netcdf(path, whole, "save"))] += 1

    required = [k for k in record if k not in ("classification", "value", "fingerprint")]
    for key in required:
        check({k: v for k, v in record.items() if k != key})
        for value in VALUES:
            if type(value) is not type(record[key]) or (value and isinstance(value, (list, dict))):
                numeric = isinstance(record[key], float) and type(value) is int
                if not numeric and not (key in ("diagnostics", "reasons") and value == {"a": [1]}):
                    check({**record, key: value})
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        saved = fit_mle(Model(normal, X), starts=1, progress=False).save(Path(folder) / "fit.nc")
        bad = Path(folder) / "bad.nc"
        for what, found in (
            (f"{count} flipped bits", flipped(saved.read_bytes(), count, bad)),
            ("crafted files", crafted(saved, bad)),
        ):
            print(f"{what}: {sum(found.values())} files, {dict(found)}")


if __name__ == "__main__":
    main()
