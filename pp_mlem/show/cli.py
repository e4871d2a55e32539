"""The command line: pp-mlem models, show, compare, select, simulate-study."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pp_mlem.base.files import write_table
from pp_mlem.comparison.compare import compare
from pp_mlem.comparison.experiment import experiment
from pp_mlem.comparison.selection import select
from pp_mlem.estimate.estimators import check_methods, fit_by, method_names
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.catalogue import (
    Shelf,
    arguments_from_table,
    find_model,
    first_line,
    model_names,
    read_table,
    shelf_folder,
)
from pp_mlem.show.plots import plot_selection, save_pictures
from pp_mlem.show.report import write_report

app = typer.Typer(
    help="Latent-variable models from NumPyro programs: EM, MLE, MAP and NUTS side by side.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A name from `pp-mlem models`, or a .py file. A file is run as Python with your rights: "
        "give only one that you trust."
    ),
]
INTERRUPTED = 130  # as a shell ends what Ctrl-C stopped
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


def _arguments(
    shelf: Shelf, data: Path | None, column: list[str] | None, settings: list[str] | None
) -> dict[str, Any]:
    options = {name: _value(text) for name, text in _split(settings, "--set").items()}
    if data is None:
        if column:
            raise ValueError("--column maps the columns of --data FILE, which is missing.")
        arguments = dict(shelf.data())
    else:
        mapping = {k: v.split(",") for k, v in _split(column, "--column").items()}
        arguments = dict(arguments_from_table(shelf.program, read_table(data), mapping, str(data)))
    arguments.update(options)
    return arguments


def _build(
    shelf: Shelf, data: Path | None, column: list[str] | None, settings: list[str] | None
) -> tuple[Model, dict[str, Any]]:
    arguments = _arguments(shelf, data, column, settings)
    return Model(shelf.program, **arguments, **shelf.options), arguments


@app.command()
def models() -> None:
    """List the shipped models."""
    table = Table(box=None)
    table.add_column("model", style="bold")
    table.add_column("what it is")
    for name in model_names():
        table.add_row(escape(name), escape(first_line(shelf_folder() / f"{name}.py")))
    console.print(table)


@app.command()
def show(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
) -> None:
    """Show how a model is read: roles, what is summed, each M-step and why.

    The model's file is run (imported and called with its data) to read it; nothing is fitted.
    """
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
    methods: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(method_names())}.")
    ] = "em,mle,map,nuts",
    starts: Annotated[int, typer.Option(help="Starting points of the point fits.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    chains: Annotated[int, typer.Option(help="NUTS chains.")] = 4,
    draws: Annotated[int, typer.Option(help="NUTS draws (and warm-up) per chain.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for fits and plots [default: runs/MODEL-TIME].")
    ] = None,
) -> None:
    """Fit by several methods, print the comparison, write fits (netCDF), plots (PNG) and a report (HTML)."""
    chosen = check_methods(methods, "--methods")
    shelf = find_model(model)
    clock = time.perf_counter()
    built, _ = _build(shelf, data, column, set)
    console.print(repr(built), highlight=False, markup=False, soft_wrap=True)
    console.print()
    folder = out or Path("runs") / f"{shelf.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    fits: dict[str, Fit] = {}
    interrupted = False
    for method in chosen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                fit = fit_by(method, built, starts=starts, seed=seed, chains=chains, draws=draws)
            fits[method.upper()] = fit
            fit.save(folder / f"{method}.nc")
            interrupted = fit.interrupted
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:
            _stop(", ".join(f"{m.lower()}.nc" for m in fits), folder)
        console.print(
            f"{method.upper():<7} {fit.status:<12} {fit.seconds:6.2f} s   {fit.story}",
            highlight=False, markup=False,
        )  # fmt: skip
    console.print()
    found = compare(fits)
    found.print(console)
    write_table(folder / "estimates.csv", found.estimates, "compare")
    write_table(folder / "scores.csv", found.scores, "compare")
    pictures = save_pictures(found, folder)
    if shelf.picture is not None:
        extra = shelf.picture(built, found.fits, folder) or []
        pictures += extra
    else:
        extra = []
    settings = {"starts": starts, "chains": chains, "draws": draws, "warmup": draws}
    report = write_report(
        found, folder / "report.html", f"{shelf.name}: {first_line(Path(shelf.path))}",
        " ".join(["pp-mlem", *map(shlex.quote, sys.argv[1:])]), settings,
        [(f"{shelf.name}: {p.stem}", p) for p in extra if p.suffix == ".png"],
    )  # fmt: skip
    console.print()
    written = ", ".join([f"{m}.nc" for m in chosen] + [p.name for p in pictures] + [report.name])
    console.print(f"Written to {folder}: {written}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{time.perf_counter() - clock:.1f} s in all", highlight=False)


def _values(text: str) -> list:
    """`1:6` is 1 to 6; `a,b` a list."""
    low, mark, high = text.partition(":")
    if mark and low.lstrip("-").isdigit() and high.lstrip("-").isdigit():
        return list(range(int(low), int(high) + 1))
    return [_value(v) for v in text.split(",")]


@app.command("select")
def select_command(
    model: ModelArgument,
    over: Annotated[list[str], typer.Option(help="ARGUMENT=1:6 or ARGUMENT=A,B: what varies.")],
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    starts: Annotated[int, typer.Option(help="Starting points of each fit.")] = 10,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    bootstrap: Annotated[
        int, typer.Option(help="Replicates of the bootstrap likelihood-ratio test; 0: none.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a run that was cut goes on from it.")
    ] = None,
) -> None:
    """Fit at several values of an argument (--over K=1:6) and score them in one table."""
    shelf = find_model(model)
    built_arguments = _arguments(shelf, data, column, set)
    varied = {k: _values(v) for k, v in _split(over, "--over").items()}
    found = select(
        shelf.program, methods=methods, starts=starts, seed=seed, bootstrap=bootstrap, out=out,
        **shelf.options, **{**built_arguments, **varied},
    )  # fmt: skip
    console.print(repr(found), highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        write_table(out / "selection.csv", found.table, "select")
        if len(varied) == 1 and found.fits:
            plot_selection(found).savefig(out / "selection.png", dpi=120)
        console.print(f"Written to {out}", highlight=False, markup=False, soft_wrap=True)
    if found.interrupted:
        _stop("the finished fits", out)


@app.command("simulate-study")
def simulate_study(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    replicates: Annotated[int, typer.Option(help="Data sets to draw.")] = 100,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    at: Annotated[
        Path | None, typer.Option(help="JSON file of parameter values [default: the fit by EM].")
    ] = None,
    starts: Annotated[int, typer.Option(help="Starting points of each fit.")] = 5,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="netCDF file; a study that was cut goes on from it.")
    ] = None,
) -> None:
    """Draw data sets from the program, fit each, report bias, RMSE and coverage."""
    shelf = find_model(model)
    built, _ = _build(shelf, data, column, set)
    if at is not None:
        try:
            truth = json.loads(at.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"--at: {at} is not JSON ({error}).") from None
    else:
        first = fit_by("em", built, starts=max(starts, 10), seed=seed)
        if first.interrupted:
            _stop("", None)
        truth = first.params
    found = experiment(built, truth, replicates, methods, starts, seed, out=out)
    console.print(repr(found), highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"Written to {out}", highlight=False, markup=False, soft_wrap=True)
    if found.interrupted:
        _stop("the finished data sets", out)


def _stop(kept: str, where: Path | None) -> None:
    """End as Ctrl-C does, and say what is kept."""
    told = f"stopped; {kept} kept in {where}" if kept and where is not None else "stopped"
    Console(stderr=True).print(told, highlight=False, markup=False, soft_wrap=True)
    sys.exit(INTERRUPTED)


def main() -> None:
    """Entry point: user mistakes end in one line, not in a traceback."""
    np.seterr(all="ignore")
    try:
        app()
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        Console(stderr=True).print(
            f"[bold red]error[/bold red] {escape(str(error))}", highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        _stop("", None)


if __name__ == "__main__":
    main()
