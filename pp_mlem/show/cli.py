"""The command line: pp-mlem models, show, compare, select, simulate-study.

Here stand the options and their help; what the commands do is loaded when one is run, so that help
comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pp_mlem.base.lazy import Lazy
from pp_mlem.show.options import Given, stop

if TYPE_CHECKING:
    from pp_mlem.show import catalogue, commands
else:
    catalogue = Lazy("pp_mlem.show.catalogue")
    commands = Lazy("pp_mlem.show.commands")

app = typer.Typer(
    help="Latent-variable models from NumPyro programs: EM, MLE, MAP and NUTS side by side.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A name from `pp-mlem models`, or a .py file. A file is run as Python with your rights: "
        "give only one that you trust."
    ),
]
DataOption = Annotated[Path | None, typer.Option("--data", help="CSV or Parquet file.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="ARGUMENT=COLUMN, or ARGUMENT=A,B,C for a matrix."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="ARGUMENT=VALUE, for example K=3.")
]
SeedOption = Annotated[int, typer.Option(help="Random seed.")]
StartsOption = Annotated[int, typer.Option(help="Starting points of each fit.")]


@app.command()
def models() -> None:
    """List the shipped models."""
    table = Table(box=None)
    table.add_column("model", style="bold")
    table.add_column("what it is")
    for name in catalogue.model_names():
        line = catalogue.first_line(catalogue.shelf_folder() / f"{name}.py")
        table.add_row(escape(name), escape(line))
    Console().print(table)


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
    commands.show_model(Given(model, data, column, set))


@app.command()
def compare(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    *,
    methods: Annotated[
        str, typer.Option(help="Comma-separated, of em, mle, map, laplace, nuts.")
    ] = "em,mle,map,nuts",
    starts: Annotated[int, typer.Option(help="Starting points of the point fits.")] = 20,
    seed: SeedOption = 0,
    chains: Annotated[int, typer.Option(help="NUTS chains.")] = 4,
    draws: Annotated[int, typer.Option(help="NUTS draws (and warm-up) per chain.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for fits and plots [default: runs/MODEL-TIME].")
    ] = None,
) -> None:
    """Fit by several methods, print the comparison, write fits (netCDF), plots (PNG) and a report (HTML)."""
    commands.compare_methods(
        Given(model, data, column, set), methods, starts=starts, seed=seed, chains=chains,
        draws=draws, out=out,
    )  # fmt: skip


@app.command()
def select(
    model: ModelArgument,
    over: Annotated[list[str], typer.Option(help="ARGUMENT=1:6 or ARGUMENT=A,B: what varies.")],
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    *,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    starts: StartsOption = 10,
    seed: SeedOption = 0,
    bootstrap: Annotated[
        int, typer.Option(help="Replicates of the bootstrap likelihood-ratio test; 0: none.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a run that was cut goes on from it.")
    ] = None,
) -> None:
    """Fit at several values of an argument (--over K=1:6) and score them in one table."""
    commands.select_size(
        Given(model, data, column, set), over, methods, starts=starts, seed=seed,
        bootstrap=bootstrap, out=out,
    )  # fmt: skip


@app.command()
def simulate_study(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    *,
    replicates: Annotated[int, typer.Option(help="Data sets to draw.")] = 100,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    at: Annotated[
        Path | None, typer.Option(help="JSON file of parameter values [default: the fit by EM].")
    ] = None,
    starts: StartsOption = 5,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="netCDF file; a study that was cut goes on from it.")
    ] = None,
) -> None:
    """Draw data sets from the program, fit each, report bias, RMSE and coverage."""
    commands.simulate_study(
        Given(model, data, column, set), methods, replicates=replicates, at=at, starts=starts,
        seed=seed, out=out,
    )  # fmt: skip


def main() -> None:
    """Entry point: user mistakes end in one line, not in a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        Console(stderr=True).print(
            f"[bold red]error[/bold red] {escape(str(error))}", highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        stop("", None)


if __name__ == "__main__":
    main()
