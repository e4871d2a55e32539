"""Whether two versions of the code give the same numbers.

    python benchmarks/same.py record FILE [--fits] [--starts OTHER] [--every N] [--only WORD]  # of the code that is imported
    python benchmarks/same.py compare OLD NEW

Recorded are, of every program of the shelf and of the tests: log Z and its gradient
at two random points of the parameters, its information at the second, and with --fits the ends of fit_em and fit_mle from one start. Where another record is given, of its programs, from its starts. To record
an old version, run its checkout's package: PYTHONPATH=<old checkout> python benchmarks/same.py ...
Compared are numbers to 1e-10 of their size, log-likelihoods of fits to 1e-9, estimates to 1e-5 of a
standard error, and statuses.
"""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem import Model, fit_em, fit_mle

try:
    from pp_mlem.show.catalogue import find_model, model_names
except ModuleNotFoundError:  # of the code before it had floors
    from pp_mlem.catalogue import find_model, model_names

TESTS = Path(__file__).resolve().parents[1] / "tests"
RANDOM = 60
PARAMETERS = 60  # beyond so many, no information
NUMBERS, LIKELIHOOD, ESTIMATES = 1e-10, 1e-9, 1e-5


def cases() -> Iterator[tuple[str, Callable[[], Model]]]:
    """Names and how to build the models."""
    sys.path[:0] = [str(TESTS), str(TESTS / "fuzz")]
    import chain_programs
    import programs as random_programs
    import scan_programs
    from numpyro_programs import PROGRAMS
    from test_numpyro_programs import build

    for name in model_names():
        shelf = find_model(name)
        yield f"shelf/{name}", lambda s=shelf: Model(s.program, **s.data())
    for program, data in scan_programs.PROGRAMS:
        options = scan_programs.OPTIONS.get(program, {})
        yield f"scan/{program.__name__}", lambda p=program, d=data, o=options: Model(p, d, **o)
    for program in chain_programs.SINGLE:
        yield f"chain/{program.__name__}", lambda p=program: Model(p, chain_programs.X)
    for program in chain_programs.SEVERAL:
        few = program in (chain_programs.classes, chain_programs.sequences)
        data = chain_programs.COUNTS[:, :2] if few else chain_programs.COUNTS
        yield f"chain/{program.__name__}", lambda p=program, d=data: Model(p, d)
    for name, case in PROGRAMS.items():
        if not case.refused:
            yield f"numpyro/{name}", lambda c=case: build(c)
    for kind in ("any_program", "holes_and_gathers"):
        for i in range(RANDOM):
            yield (
                f"random/{kind} {i}",
                lambda k=kind, i=i: made(getattr(random_programs, k)(random.Random(i).randrange)),
            )


def made(program: Any) -> Model:
    """A random program's model."""
    import brute_force

    names: dict[str, Any] = {}
    exec(compile(brute_force.HEADER + program.text, "program", "exec"), names)
    return Model(names["program"], **program.arguments, observe=program.observe)


def _objective(model: Model) -> Callable[..., Any]:
    """(vector, data) -> log Z, also of versions from before there were targets."""
    if not hasattr(model, "target"):
        return lambda vector, data: model.problem({}, False).objective(vector, data, {})
    target = model.target()
    return lambda vector, data: target.on(data).value(vector)


def values(model: Model) -> dict[str, Any]:
    """log Z and gradient at two points, information at the second."""
    found: dict[str, Any] = {}
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = _objective(model)
        look = jax.jit(jax.value_and_grad(objective))
        size = model.space.size
        for i in range(2):
            vector = jnp.asarray(np.random.default_rng(i).uniform(-1, 1, size))
            value, gradient = look(vector, model.data)
            found[f"log Z {i}"], found[f"gradient {i}"] = float(value), np.asarray(gradient)
        if 0 < size <= PARAMETERS:
            found["information"] = np.asarray(jax.jit(jax.hessian(objective))(vector, model.data))
    return found


def fits(model: Model, start: dict[str, Any] | None) -> dict[str, Any]:
    """The ends of both estimators from `start`; by default from beside the maximum that EM finds."""
    if start is None:
        first = fit_em(model, starts=1, max_iter=500, progress=False)
        with jax.enable_x64(True):
            vector = model.space.unconstrain(first.params)
            moved = vector + 0.1 * np.random.default_rng(0).normal(size=vector.shape)
            start = {k: np.asarray(v) for k, v in model.space.constrain(moved).items()}
    found: dict[str, Any] = {"start": start}
    for name, fit_by in (("EM", fit_em), ("MLE", fit_mle)):
        clock = time.perf_counter()
        fit = fit_by(model, init=start, max_iter=500, progress=False)
        found[name] = {
            "log likelihood": fit.log_likelihood,
            "estimates": np.asarray(fit.estimates()),
            "errors": np.asarray(fit.standard_errors()),
            "status": fit.status,
            "seconds": time.perf_counter() - clock,
        }
    return found


def record(path: Path, with_fits: bool, starts: Path | None, every: int, only: str) -> None:
    """Write what every program gives (or each `every`th); what cannot be built is kept as its error."""
    kept: dict[str, Any] = {}
    others = pickle.loads(starts.read_bytes()) if starts else {}
    for i, (name, build) in enumerate(cases()):
        if only not in name or i % every or (starts and name not in others):
            continue
        clock = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = build()
                kept[name] = values(model)
                if with_fits:
                    kept[name] |= fits(model, others.get(name, {}).get("start"))
        except Exception as error:
            kept[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {time.perf_counter() - clock:.1f} s", flush=True)
        path.write_bytes(pickle.dumps(kept))
        jax.clear_caches()


def apart(old: Any, new: Any) -> float:
    """The largest difference, in parts of the largest entry; infinite where one is not finite."""
    a, b = np.asarray(old, float), np.asarray(new, float)
    if a.shape != b.shape or np.any(np.isfinite(a) != np.isfinite(b)):
        return np.inf
    seen = np.isfinite(a)
    scale = np.abs(a[seen]).max(initial=0.0)
    return float(np.abs(a - b)[seen].max(initial=0.0) / scale) if scale else 0.0


def different(old: dict, new: dict) -> Iterator[str]:
    """What differs between two records of a program."""
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new:
            yield f"{key} is in one only"
        elif key == "error":
            if old[key] != new[key]:
                yield f"error: {old[key][:80]} -> {new[key][:80]}"
        elif key == "start":
            continue
        elif key in ("EM", "MLE"):
            a, b = old[key], new[key]
            if a["status"] != b["status"]:
                yield f"{key}: {a['status']} -> {b['status']}"
            if not apart(a["log likelihood"], b["log likelihood"]) <= LIKELIHOOD:
                yield f"{key}: log-likelihood {a['log likelihood']} -> {b['log likelihood']}"
            moved = np.abs(a["estimates"] - b["estimates"]) / a["errors"]
            if np.nanmax(moved, initial=0.0) > ESTIMATES:
                yield f"{key}: an estimate moved by {np.nanmax(moved):.1e} standard errors"
        elif not apart(old[key], new[key]) <= NUMBERS:
            yield f"{key}: {apart(old[key], new[key]):.1e} apart"


def compare(old_path: Path, new_path: Path) -> int:
    """Print every difference; how many programs differ."""
    old, new = (pickle.loads(p.read_bytes()) for p in (old_path, new_path))
    differ = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            print(f"{name}: in one record only")
            differ += 1
            continue
        told = list(different(old[name], new[name]))
        differ += bool(told)
        for line in told:
            print(f"{name}: {line}")
    print(f"{len(old) - differ} of {len(old)} programs give the same numbers")
    return differ


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("file", type=Path)
    one.add_argument("--fits", action="store_true")
    one.add_argument("--starts", type=Path)
    one.add_argument("--every", type=int, default=1)
    one.add_argument("--only", default="")
    two = commands.add_parser("compare")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.file, given.fits, given.starts, given.every, given.only)
    else:
        sys.exit(bool(compare(given.old, given.new)))
