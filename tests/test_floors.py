"""Imports go down the floors only."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pp_mlem"
FLOORS = {
    "status": 0, "digits": 0, "kinks": 0, "checks": 0, "fingerprint": 0, "copies": 0, "memory": 0, "files": 0, "record": 8, "precision": 0, "progress": 0,
    "families": 1, "program": 1,
    "partition": 2, "maximise": 3,
    "problem": 4, "sequences": 4, "plan": 5, "model": 5,
    "labels": 6, "relabel": 6, "groups": 6, "exchange": 6, "spurious": 6, "quasi_newton": 6, "datatree": 6, "uncertainty": 7, "extremes": 6, "separation": 8, "switching": 7, "summary": 7,
    "optima": 8, "information": 8, "profile": 8, "bootstrap": 8, "fit": 9,
    "starts": 9, "loop": 9, "point": 10, "em": 11, "sampler": 11, "optimise": 12, "nuts": 12, "laplace": 13,
    "compare": 13, "estimators": 14, "components": 14, "surface": 14, "experiment": 15, "selection": 15, "plots": 16, "report": 17,
    "catalogue": 17, "cli": 18,
}  # fmt: skip


def _module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_floor():
    found = {_module(p) for p in PACKAGE.rglob("*.py")} - {"__init__", "models"}
    assert found <= set(FLOORS), found - set(FLOORS)


def test_imports_go_down():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = _module(path)
        if own in ("__init__", "models"):
            continue
        tree = ast.parse(path.read_text())
        top = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
        for node in top:
            name = node.module or ""
            if not name.startswith("pp_mlem."):
                continue
            other = name.split(".")[1]
            if FLOORS[other] > FLOORS[own]:
                wrong.append(f"{path.name} imports {name}")
    assert not wrong


def test_only_the_program_package_uses_numpyro_handlers():
    users = {
        _module(p) for p in PACKAGE.rglob("*.py") if "numpyro import handlers" in p.read_text()
    }
    assert users == {"program"}
