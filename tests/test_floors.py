"""Imports go down the floors only, those inside functions and for type checkers too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pp_mlem

PACKAGE = Path(__file__).resolve().parents[1] / "pp_mlem"
# From the ground up; inside a floor no two files import each other, directly or around a corner.
FLOORS = (
    "base", "sources", "families", "potentials", "program", "factors", "data", "marginal", "maximise",
    "target", "model", "diagnose", "fit", "estimate", "comparison", "scikit", "show",
)  # fmt: skip
ROOF = ("sklearn.py",)  # public modules above all floors
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE)


def _name(path: Path) -> str:
    return ".".join(("pp_mlem", *path.relative_to(PACKAGE).with_suffix("").parts))


def _imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pp_mlem"):
            for alias in node.names:
                inner = PACKAGE.joinpath(*f"{node.module}.{alias.name}".split(".")[1:])
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("pp_mlem"))


def _floor(name: str) -> int:
    parts = name.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 else len(FLOORS)


def test_every_folder_is_a_floor():
    assert {p.relative_to(PACKAGE).parts[0] for p in FILES} == set(FLOORS)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", *ROOF}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_down(path):
    above = [n for n in _imports(path) if _floor(n) > _floor(_name(path))]
    assert not above


def test_only_the_scikit_floor_uses_scikit_learn():
    users = {_name(p).split(".")[1] for p in FILES if "sklearn" in _roots(p)}
    assert users == {"scikit"}


def _roots(path: Path) -> set[str]:
    """The packages that a file imports from anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[0] for a in node.names}
    return found


def test_every_imported_module_is_there():
    """Those inside functions too; mypy takes a missing module for anything."""
    modules = {_name(p).removesuffix(".__init__") for p in FILES} | {"pp_mlem"}
    modules |= {f"pp_mlem.{floor}" for floor in FLOORS}
    missing = {(_name(p), n) for p in FILES for n in _imports(p) if n not in modules}
    assert not missing


def test_no_two_files_import_each_other_around_a_corner():
    names = {_name(p).removesuffix(".__init__"): p for p in FILES}
    below = {n: {i for i in _imports(p) if i in names and i != n} for n, p in names.items()}
    while free := [n for n, imported in below.items() if not imported & below.keys()]:
        for n in free:
            del below[n]
    assert not below


def test_init_files_hold_no_logic():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        if path.parent == PACKAGE:  # hands on the public names when one is asked for (PEP 562)
            functions = [n.name for n in body if isinstance(n, ast.FunctionDef)]
            assert functions == ["__getattr__", "__dir__"]
            body = [n for n in body if not isinstance(n, (ast.FunctionDef, ast.If))]
        assert {type(n).__name__ for n in body} <= {"Expr", "ImportFrom", "Assign"}, path


def test_no_module_has_the_name_of_a_public_function():
    names = {p.stem for p in PACKAGE.iterdir() if p.is_dir() or p.suffix == ".py"}
    assert not names & set(pp_mlem.__all__)


def test_only_the_program_package_uses_numpyro_handlers():
    users = {_name(p).split(".")[1] for p in FILES if "numpyro import handlers" in p.read_text()}
    assert users == {"program"}
