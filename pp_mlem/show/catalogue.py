"""Finds models: by name in the shelf of shipped models, or a user's file in the same form."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd


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
            raise ValueError(
                f"there is no model '{model}'. The models are: {', '.join(model_names())}; or give "
                "the path of a .py file of your own."
            )
    elif not path.is_file():
        raise ValueError(f"there is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"pp_mlem_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file that can be loaded.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} could not be run: {type(error).__name__}: {error}.") from error
    program = getattr(module, "model", None)
    if not callable(program):
        raise ValueError(
            f"{path} has no function `model`. A model file holds a NumPyro program `model`, a "
            "function `data()` that returns its arguments as a dict, and a docstring."
        )
    data = getattr(module, "data", None)
    if data is None:

        def data() -> dict[str, Any]:
            raise ValueError(f"{path} has no function `data()`; pass --data FILE.")

    return Shelf(
        path.stem,
        path,
        program,
        data,
        inspect.cleandoc(module.__doc__ or ""),
        dict(getattr(module, "options", {})),
        getattr(module, "picture", None),
    )


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file."""
    if not path.is_file():
        raise ValueError(f"--data: there is no file {path}.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path)
    except Exception as error:
        raise ValueError(f"--data: {path} cannot be read as a table: {error}") from error


def arguments_from_table(
    program: Callable[..., Any], table: pd.DataFrame, mapping: dict[str, list[str]], source: str
) -> dict[str, np.ndarray]:
    """Arguments of the program from the columns of a table.

    A column goes to the argument of its name; `mapping` sends other columns (several make a
    matrix) to an argument.
    """
    parameters = inspect.signature(program).parameters
    arguments = {}
    for name, parameter in parameters.items():
        columns = mapping.get(name, [name] if name in table.columns else [])
        if not columns:
            if parameter.default is inspect.Parameter.empty and parameter.kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                raise ValueError(
                    f"{source}: no column for argument '{name}'. Its columns are "
                    f"{list(table.columns)}; map one with --column {name}=COLUMN (several, "
                    f"separated by commas, make a matrix)."
                )
            continue
        missing = [c for c in columns if c not in table.columns]
        if missing:
            raise ValueError(
                f"{source}: column(s) {missing} are missing; its columns are {list(table.columns)}."
            )
        for column in columns:
            if not pd.api.types.is_numeric_dtype(table[column]):
                raise ValueError(
                    f"{source}: column '{column}' is not numeric (it holds "
                    f"{table[column].iloc[0]!r}). Encode it as numbers first."
                )
        values = table[columns].to_numpy()
        arguments[name] = values[:, 0] if len(columns) == 1 else values
    unknown = sorted(set(mapping) - set(parameters))
    if unknown:
        raise ValueError(
            f"--column: the program has no argument(s) {unknown}; its arguments are "
            f"{list(parameters)}."
        )
    return arguments
