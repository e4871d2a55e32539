"""Imports go down the floors only."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pp_mlem"
FLOORS = {
    "status": 0, "precision": 0, "progress": 0,
    "families": 1, "program": 1,
    "partition": 2, "maximise": 3,
    "problem": 4, "sequences": 4, "plan": 5, "model": 5,
    "labels": 6, "spurious": 6, "uncertainty": 7, "optima": 6, "datatree": 6,
    "bootstrap": 8, "fit": 8, "starts": 8, "loop": 8, "quasi_newton": 8,
    "point": 9, "em": 10, "optimise": 11, "nuts": 11,
    "compare": 12, "plots": 13, "catalogue": 13, "cli": 14,
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
