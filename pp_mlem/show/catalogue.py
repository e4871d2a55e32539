"""Finds models: by name in the shelf of shipped models, or a user's file in the same form."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pp_mlem.base.near import did_you_mean

PACKAGES = {"sklearn": "scikit-learn", "statsmodels": "statsmodels", "pyarrow": "pyarrow"}


@dataclass(frozen=True)
class Shelf:
    """A model file: its program, its default data, options for `Model`, and how it draws a fit, if it does (a
    function of the fit that returns a matplotlib figure)."""

    name: str
    path: Path
    program: Callable[..., Any]
    data: Callable[[], dict[str, Any]]
    docstring: str
    options: dict[str, Any]
    picture: Callable[..., Any] | None


def shelf_folder() -> Path:
    """Where the shipped models lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def model_names() -> list[str]:
    return sorted(p.stem for p in shelf_folder().glob("*.py") if not p.stem.startswith("_"))


def first_line(path: Path) -> str:
    """The first line of a model file's docstring, without running the file."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0] if text else ""


def find_model(model: str) -> Shelf:
    """A model by name or by the path of a file.

    Raises:
        ValueError: when there is no such model, or the file lacks `model` or `data`.
    """
    path = Path(model)
    if path.suffix != ".py":
        path = shelf_folder() / f"{model}.py"
        if not path.is_file():
            names = model_names()
            raise ValueError(
                f"there is no model '{model}'.{did_you_mean(model, names)} The models are: "
                f"{', '.join(names)}; or give the path of a .py file of your own."
            )
    elif not path.is_file():
        there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ValueError(f"there is no file {path}.{did_you_mean(path.name, there)}")
    spec = importlib.util.spec_from_file_location(f"pp_mlem_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file that can be loaded.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ValueError(_missing(error, str(path))) from error
    except Exception as error:
        raise ValueError(f"{path} could not be run: {type(error).__name__}: {error}.") from error
    program = getattr(module, "model", None)
    if not callable(program):
        raise ValueError(
            f"{path} has no function `model`. A model file holds a NumPyro program `model`, a "
            "function `data()` that returns its arguments as a dict, and a docstring."
        )
    return Shelf(
        path.stem,
        path,
        program,
        _data_of(module, path),
        inspect.cleandoc(module.__doc__ or ""),
        dict(getattr(module, "options", {})),
        getattr(module, "picture", None),
    )


def _data_of(module: ModuleType, path: Path) -> Callable[[], dict[str, Any]]:
    """A model file's `data`; what goes wrong in it is told with the file's name."""
    own = getattr(module, "data", None)

    def data() -> dict[str, Any]:
        if own is None:
            raise ValueError(f"{path} has no function `data()`; pass --data FILE.")
        try:
            found = own()
        except ImportError as error:
            raise ValueError(_missing(error, f"the data of {path.name}")) from error
        if not isinstance(found, dict):
            raise ValueError(
                f"{path}: data() returned {type(found).__name__}, expected a dict of the program's arguments."
            )
        return found

    return data


def _missing(error: ImportError, what: str) -> str:
    """What to install; a name that a package lacks is told as Python does."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return f"{what} could not be run: ImportError: {error}."
    top = error.name.partition(".")[0]
    package = PACKAGES.get(top, top)
    return f"{what}: needs the package {package}, which is not installed: pip install {package}"
