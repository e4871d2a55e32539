"""From the options of the command line to a model: every option is checked before the model is read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.near import did_you_mean
from pp_mlem.estimate.starts import KINDS
from pp_mlem.model.model import Model
from pp_mlem.show.catalogue import Shelf
from pp_mlem.show.data_files import (
    OnDisk,
    Tell,
    comes_in_chunks,
    is_one_table,
    opened,
    tell_chunks,
    with_floats,
)
from pp_mlem.show.options import Given, named, read_json_values, value_of
from pp_mlem.show.table_files import Data, Table, arguments_from, read_table


def arguments_of(
    shelf: Shelf, given: Given, floats: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The program's arguments, and the values of the latents that are observed. Of data in chunks the columns that
    hold them; those among `floats` as floats."""
    settings = settings_of(shelf.program, given)
    if given.data is None:
        return {**shelf.data(), **settings}, {}
    data = _data_of(given, given.data, floats)
    columns = named(given.columns, "--column")
    arguments = arguments_from(shelf.program, data, columns, settings)
    observed = named(given.observe, "--observe")
    return {**arguments, **settings}, {n: data.numbers([c]) for n, c in observed.items()}


def _data_of(given: Given, path: Path, floats: frozenset[str]) -> Data:
    in_chunks = comes_in_chunks(given)
    if in_chunks and given.observe:
        raise ValueError(
            f"--observe: labels of data that come in chunks, as those of {path} do, are an argument of the program: "
            "pass their column with --column, and observe the latent there (obs=)."
        )
    if in_chunks or given.units or not is_one_table(path):
        return OnDisk(opened(path, **given.units), str(path), not in_chunks, floats)
    return Table(read_table(path), str(path))


def settings_of(program: Callable[..., Any], given: Given) -> dict[str, Any]:
    """The values of --set, by arguments that the program has."""
    settings = {name: value_of(text) for name, text in named(given.settings, "--set").items()}
    check_arguments(program, settings, "--set")
    return settings


def check_arguments(program: Callable[..., Any], names: Mapping[str, Any], option: str) -> None:
    parameters = inspect.signature(program).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in names:
        if name not in parameters:
            raise ValueError(
                f"{option}: the program has no argument '{name}'.{did_you_mean(name, parameters)} Its "
                f"arguments are {', '.join(parameters)}."
            )


def nobody(text: str) -> None:
    """Hears what a command tells, where none does."""


def build(shelf: Shelf, given: Given, tell: Tell = nobody) -> Model:
    """The model of a file on the data that the options name; of data in chunks `tell` hears how many."""

    def make(floats: frozenset[str]) -> Model:
        arguments, observed = arguments_of(shelf, given, floats)
        if not floats:
            tell_chunks(arguments, tell)
        return Model(shelf.program, **arguments, **options_of(shelf, observed))

    return with_floats(make, tell)


def options_of(shelf: Shelf, observed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The options of a file's model, with the latents that are observed."""
    options = dict(shelf.options)
    if observed:
        options["observe"] = {**options.get("observe", {}), **observed}
    return options


class Held:
    """The options that hold parameters: --fixed and --init, their form checked at once, their names
    where the model is known."""

    def __init__(self, fixed: list[str] | None, init: str) -> None:
        self.fixed = numbers_of(fixed, "--fixed")
        self.kind, self.start = _init_of(init)

    def for_model(self, model: Model) -> dict[str, Any]:
        """`fixed` and `init` as the fits take them."""
        shapes = {s.name: tuple(s.shape) for s in model.space.sites}
        init = held_values(self.start, shapes, "--init") if self.start else self.kind
        return {"fixed": held_values(self.fixed, shapes, "--fixed"), "init": init}


def _init_of(text: str) -> tuple[str, dict[str, Any]]:
    """A way to start, or values from a JSON file."""
    if text in KINDS:
        return text, {}
    path = Path(text)
    if path.suffix != ".json" and not path.is_file():
        raise ValueError(
            f"--init: received '{text}', expected {', '.join(KINDS)}, or a JSON file of values by "
            f"parameter.{did_you_mean(text, KINDS)}"
        )
    return "mixed", read_json_values(path, "--init")


def numbers_of(pairs: Iterable[str] | None, option: str) -> dict[str, Any]:
    """Values of parameters: `mu=1.5`, `mu=1,2,3`, `P=[[0.9,0.1],[0.2,0.8]]`, `b[1]=0`; `b[1]=b[2]` is the name
    of another entry."""
    found: dict[str, Any] = {}
    for name, text in named(pairs, option).items():
        if name.endswith("]") and re.fullmatch(r"[^\[\]]+\[.+\]", text):
            found[name] = text
            continue
        value = value_of(text if "," not in text or text.startswith("[") else f"[{text}]")
        try:
            array = np.asarray(value, float)
        except (TypeError, ValueError):
            array = None
        if value is None or isinstance(value, bool) or array is None:
            raise ValueError(f"{option}: {name}={text}: expected a number, or numbers as in 1,2,3.")
        found[name] = value
    return found


def held_values(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], option: str
) -> dict[str, Any]:
    """The values by parameter; entries such as `b[1]` are put together where all of a parameter are
    given, single ones handed on.

    Raises:
        ValueError: for names that are no parameters', and entries beyond a parameter's shape.
    """
    whole: dict[str, Any] = {}
    entries: dict[str, dict[tuple[int, ...], Any]] = {}
    for name, value in values.items():
        owner, mark, rest = name.partition("[")
        owner = name if name in shapes else owner
        if owner not in shapes:
            raise ValueError(
                f"{option}: there is no parameter '{name}'.{did_you_mean(owner, shapes)} The parameters "
                f"are {', '.join(shapes)}."
            )
        if owner == name or not re.fullmatch(r"\d+(,\s*\d+)*\]", rest):
            whole[name] = value
            continue
        index, shape = tuple(int(i) for i in rest[:-1].split(",")), shapes[owner]
        if len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=True)):
            raise ValueError(f"{option}: {name} is no entry of '{owner}', whose shape is {shape}.")
        entries.setdefault(owner, {})[index] = value
    for owner, given in entries.items():
        if len(given) < np.prod(shapes[owner]):
            whole |= {f"{owner}[{','.join(map(str, i))}]": v for i, v in given.items()}
            continue
        whole[owner] = np.empty(shapes[owner])
        for index, value in given.items():
            whole[owner][index] = value
    return whole
