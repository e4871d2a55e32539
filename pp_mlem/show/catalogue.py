"""Finds models: by name in the shelf of shipped models, or a user's file in the same form."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pp_mlem.base.near import did_you_mean

PACKAGES = {"sklearn": "scikit-learn", "statsmodels": "statsmodels", "pyarrow": "pyarrow"}


@dataclass(frozen=True)
class Shelf:
    """A model file: its program, its default data, options for `Model`, and how it draws a fit, if it does (a
    function of the fit that returns a matplotlib figure).

    Attributes:
        published: of maximum likelihood on the default data what its source prints, as (value, absolute
            tolerance) by the names of `fit.summary()`; "log_likelihood" (nats) beside them.
        truth: the parameters that the default data were simulated at, by name, as `Model.simulate` takes them.
    """

    name: str
    path: Path
    program: Callable[..., Any]
    data: Callable[[], dict[str, Any]]
    docstring: str
    options: dict[str, Any]
    picture: Callable[..., Any] | None
    published: dict[str, tuple[float, float]] = field(default_factory=dict)
    truth: dict[str, np.ndarray] = field(default_factory=dict)


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
        _published_of(module, path),
        _truth_of(module, path),
    )


def _named_values(module: ModuleType, path: Path, attribute: str) -> Mapping[str, Any]:
    """A dictionary by name that a model file may hold."""
    value = getattr(module, attribute, {})
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{path}: {attribute} is {type(value).__name__}, expected a dict of values by name."
        )
    unnamed = [key for key in value if not isinstance(key, str) or not key]
    if unnamed:
        raise ValueError(f"{path}: {attribute} has the key {unnamed[0]!r}, expected names.")
    return value


def _published_of(module: ModuleType, path: Path) -> dict[str, tuple[float, float]]:
    """A model file's `published` values with their tolerances."""
    found = {}
    for name, pair in _named_values(module, path, "published").items():
        numbers = _numbers(pair)
        if numbers is None or numbers.shape != (2,) or numbers[1] <= 0:
            raise ValueError(
                f"{path}: published[{name!r}] is {pair!r}, expected a value and its absolute tolerance, "
                "two finite numbers of which the second is positive."
            )
        found[name] = (float(numbers[0]), float(numbers[1]))
    return found


def _truth_of(module: ModuleType, path: Path) -> dict[str, np.ndarray]:
    """The parameters at which a model file's data were simulated."""
    found = {}
    for name, value in _named_values(module, path, "truth").items():
        numbers = _numbers(value)
        if numbers is None:
            raise ValueError(
                f"{path}: truth[{name!r}] is {value!r}, expected finite numbers: the value of that parameter."
            )
        found[name] = numbers
    return found


def _numbers(value: Any) -> np.ndarray | None:
    """Finite numbers as an array, or nothing."""
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None


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
    if importlib.util.find_spec(top) is not None:
        return f"{what} could not be run: there is no module {error.name}."
    package = PACKAGES.get(top, top)
    return f"{what}: needs the package {package}, which is not installed: pip install {package}"
