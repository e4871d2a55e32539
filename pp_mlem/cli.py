"""The command line: pp-mlem models, show, compare."""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pp_mlem.catalogue import (
    Shelf,
    arguments_from_table,
    find_model,
    first_line,
    model_names,
    read_table,
    shelf_folder,
)
from pp_mlem.compare import compare
from pp_mlem.em import fit_em
from pp_mlem.fit import Fit
from pp_mlem.model import Model
from pp_mlem.nuts import fit_nuts
from pp_mlem.optimise import fit_map, fit_mle
from pp_mlem.plots import save_pictures

app = typer.Typer(
    help="Latent-variable models from NumPyro programs: EM, MLE, MAP and NUTS side by side.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
METHODS = ("em", "mle", "map", "nuts")
console = Console()

ModelArgument = Annotated[str, typer.Argument(help="A name from `pp-mlem models`, or a .py file.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="CSV or Parquet file.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="ARGUMENT=COLUMN, or ARGUMENT=A,B,C for a matrix."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="ARGUMENT=VALUE, for example K=3.")
]


def _split(pairs: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for pair in pairs or []:
        name, mark, value = pair.partition("=")
        if not mark or not name or not value:
            raise ValueError(f"{option}: received '{pair}', expected NAME=VALUE.")
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False", "None") else text)
    except json.JSONDecodeError:
        return None if text == "None" else text


def _build(
    shelf: Shelf, data: Path | None, column: list[str] | None, settings: list[str] | None
) -> tuple[Model, dict[str, Any]]:
    options = {name: _value(text) for name, text in _split(settings, "--set").items()}
    if data is None:
        if column:
            raise ValueError("--column maps the columns of --data FILE, which is missing.")
        arguments = dict(shelf.data())
    else:
        mapping = {k: v.split(",") for k, v in _split(column, "--column").items()}
        arguments = dict(arguments_from_table(shelf.program, read_table(data), mapping, str(data)))
    arguments.update(options)
    return Model(shelf.program, **arguments, **shelf.options), arguments


def _fit(method: str, model: Model, starts: int, seed: int, chains: int, draws: int) -> Fit:
    match method:
        case "em":
            return fit_em(model, starts=starts, seed=seed)
        case "mle":
            return fit_mle(model, starts=starts, seed=seed)
        case "map":
            return fit_map(model, starts=starts, seed=seed)
        case _:
            return fit_nuts(model, chains=chains, warmup=draws, draws=draws, seed=seed)


@app.command()
def models() -> None:
    """List the shipped models."""
    table = Table(box=None)
    table.add_column("model", style="bold")
    table.add_column("what it is")
    for name in model_names():
        table.add_row(name, first_line(shelf_folder() / f"{name}.py"))
    console.print(table)


@app.command()
def show(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
) -> None:
    """Show how a model is read: roles, what is summed, each M-step and why."""
    shelf = find_model(model)
    built, _ = _build(shelf, data, column, set)
    console.print(shelf.docstring, highlight=False, markup=False)
    console.print()
    console.print(repr(built), highlight=False, markup=False, soft_wrap=True)


@app.command("compare")
def compare_command(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em,mle,map,nuts",
    starts: Annotated[int, typer.Option(help="Starting points of the point fits.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    chains: Annotated[int, typer.Option(help="NUTS chains.")] = 4,
    draws: Annotated[int, typer.Option(help="NUTS draws (and warm-up) per chain.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for fits and plots [default: runs/MODEL-TIME].")
    ] = None,
) -> None:
    """Fit by several methods, print the comparison, write fits (netCDF) and plots (PNG)."""
    chosen = [m.strip().lower() for m in methods.split(",") if m.strip()]
    unknown = [m for m in chosen if m not in METHODS]
    if unknown or not chosen:
        raise ValueError(f"--methods: received {methods!r}, expected some of {','.join(METHODS)}.")
    shelf = find_model(model)
    clock = time.perf_counter()
    built, _ = _build(shelf, data, column, set)
    console.print(repr(built), highlight=False, markup=False, soft_wrap=True)
    console.print()
    folder = out or Path("runs") / f"{shelf.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    fits: dict[str, Fit] = {}
    for method in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            fit = _fit(method, built, starts, seed, chains, draws)
        fits[method.upper()] = fit
        fit.save(folder / f"{method}.nc")
        console.print(
            f"{method.upper():<5} {fit.status:<12} {fit.seconds:6.2f} s   {fit.story}",
            highlight=False,
        )
    console.print()
    found = compare(fits)
    found.print(console)
    found.estimates.to_csv(folder / "estimates.csv")
    found.scores.to_csv(folder / "scores.csv")
    pictures = save_pictures(found, folder)
    if shelf.picture is not None:
        pictures += shelf.picture(built, found.fits, folder) or []
    console.print()
    written = ", ".join([f"{m}.nc" for m in chosen] + [p.name for p in pictures])
    console.print(f"Written to {folder}: {written}", highlight=False, soft_wrap=True)
    console.print(f"{time.perf_counter() - clock:.1f} s in all", highlight=False)


def main() -> None:
    """Entry point: user mistakes end in one line, not in a traceback."""
    np.seterr(all="ignore")
    try:
        app()
    except (ValueError, TypeError, FileNotFoundError, NotImplementedError) as error:
        Console(stderr=True).print(f"[bold red]error[/bold red] {error}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
