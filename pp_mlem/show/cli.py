"""The command line: pp-mlem models, show, compare, select, predict, bootstrap, profile, simulate,
simulate-study, calibrate.

Here stand the options and their help; what the commands do is loaded when one is run, so that help
comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pp_mlem.base.lazy import Lazy
from pp_mlem.show.interrupts import run_watched
from pp_mlem.show.mistakes import Commands
from pp_mlem.show.options import Given, Output

if TYPE_CHECKING:
    from pp_mlem.show import building, catalogue, commands, fit_commands, results, runs
    from pp_mlem.show import study_commands as studies
else:
    building = Lazy("pp_mlem.show.building")
    catalogue = Lazy("pp_mlem.show.catalogue")
    commands = Lazy("pp_mlem.show.commands")
    fit_commands = Lazy("pp_mlem.show.fit_commands")
    results = Lazy("pp_mlem.show.results")
    runs = Lazy("pp_mlem.show.runs")
    studies = Lazy("pp_mlem.show.study_commands")

# Plain help: rich would take the brackets of mu[z] for its own.
app = typer.Typer(
    cls=Commands,
    help="Latent-variable models from NumPyro programs: EM, MLE, MAP and NUTS side by side.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _models(incomplete: str) -> list[str]:
    """For the shell to complete."""
    return [n for n in catalogue.model_names() if n.startswith(incomplete)]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pp-mlem {runs.package_version()}")
        raise typer.Exit


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A name from `pp-mlem models`, or a .py file. A file is run as Python with your rights: "
        "give only one that you trust.",
        autocompletion=_models,
    ),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A run (the folder that `compare` wrote, or a fit in it), or a model, which is fitted first.",
        autocompletion=_models,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="CSV, Parquet, Arrow or .npy file, folder or glob; separator and decimal sign of a CSV are found, and what "
        "is large is read in chunks.",
    ),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="ARGUMENT=COLUMN, or ARGUMENT=A,B,C for a matrix; a name with a comma in quotes.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="ARGUMENT=VALUE, for example K=3.")
]
ObserveOption = Annotated[
    list[str] | None,
    typer.Option("--observe", help="LATENT=COLUMN of known labels, empty where unknown."),
]
GroupsOption = Annotated[
    str | None,
    typer.Option(
        "--groups",
        help="The column by which rows are sorted into groups, which are numbered from 0.",
    ),
]
SequencesOption = Annotated[
    str | None,
    typer.Option(
        "--sequences",
        help="The column by which rows, one a step, are sorted into sequences: columns are then (sequences, longest), "
        "and n_steps the steps of each.",
    ),
]
FixedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fixed", help="A parameter held: mu=0, mu=1,2,3 or 'b[1]=0'; 'b[1]=b[2]' for equal ones."
    ),
]
InitOption = Annotated[
    str,
    typer.Option("--init", help="mixed, random, kmeans++, prior, or a JSON file of values."),
]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", help="Of the fit [default: the run's first, or em]."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]
StartsOption = Annotated[int, typer.Option(min=1, help="Starting points of each fit.")]
LevelOption = Annotated[float, typer.Option(min=0.01, max=0.9999, help="Of the intervals.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON, and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")]
FileOption = Annotated[Path | None, typer.Option(help="CSV or Parquet file for it.")]


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    pass


@app.command()
def models(json: JsonOption = False) -> None:
    """List the shipped models."""
    told, names = results.Results(Output(json)), catalogue.model_names()
    lines = {n: catalogue.first_line(catalogue.shelf_folder() / f"{n}.py") for n in names}
    for name, line in lines.items():
        told.say(f"{name:<{max(map(len, names))}}  {line}")
    told.as_json([{"model": name, "about": line} for name, line in lines.items()])


@app.command()
def show(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    *,
    groups: GroupsOption = None,
    sequences: SequencesOption = None,
    json: JsonOption = False,
) -> None:
    """Show how a model is read.

    Roles, what is summed out, each M-step and why. The model's file is run (imported and called with its data) to read it; nothing is fitted.
    """
    commands.show_model(
        Given.of(model, data, column, set, observe, groups=groups, sequences=sequences),
        Output(json),
    )


@app.command()
def compare(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    fixed: FixedOption = None,
    init: InitOption = "mixed",
    *,
    groups: GroupsOption = None,
    sequences: SequencesOption = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, of em, mle, map, laplace, nuts. [default: em, and of mle, map and nuts "
            "those that should end within three minutes]"
        ),
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="Starting points of the point fits.")] = 20,
    seed: SeedOption = 0,
    chains: Annotated[int, typer.Option(min=1, help="NUTS chains.")] = 4,
    draws: Annotated[int, typer.Option(min=1, help="NUTS draws (and warm-up) per chain.")] = 1000,
    loo: Annotated[bool, typer.Option(help="Leave-one-out predictive densities.")] = True,
    plots: Annotated[bool, typer.Option(help="Pictures and report.")] = True,
    labels: Annotated[
        bool | None,
        typer.Option(
            help="Labels of each row as CSV, of data in chunks Parquet [default: up to 200,000 rows].",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all that is written [default: runs/MODEL-TIME].")
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit by several methods, side by side.

    A run folder holds the fits (netCDF), tables and labels (CSV), pictures (PNG), a report (HTML) and run.json, by
    which predict, bootstrap, profile and simulate use the fits again. Ctrl-C once stops and keeps what is
    finished, twice quits.
    """
    commands.compare_methods(
        Given.of(model, data, column, set, observe, groups=groups, sequences=sequences),
        building.Held(fixed, init),
        commands.Asked(methods, starts, seed, chains, draws, loo, plots, labels),
        Output(json, quiet, out, overwrite),
    )


@app.command()
def predict(
    run: Annotated[
        Path, typer.Argument(help="The folder that `compare` wrote, or a fit (.nc) in it.")
    ],
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    *,
    method: MethodOption = None,
    latent: Annotated[
        str | None, typer.Option(help="Which latent, where they have other units.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Those of all values, a column each.")
    ] = False,
    out: FileOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label every row, with its probability.

    As CSV; of real latents mean and sd. Of the data of --data, else of those that were fitted. A state of a chain is the most probable one of its
    step. By draws the probabilities are averaged over the posterior. Labels of data in chunks go to a Parquet file.
    """
    fit_commands.predict(
        _source(str(run), (data, column, set, observe), method=method),
        latent=latent, probabilities=probabilities, output=Output(json, quiet, out, overwrite),
    )  # fmt: skip


@app.command()
def bootstrap(
    source: SourceArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    fixed: FixedOption = None,
    init: InitOption = "mixed",
    *,
    method: MethodOption = None,
    replicates: Annotated[int, typer.Option(min=2, help="Refits.")] = 200,
    kind: Annotated[str, typer.Option(help="parametric or nonparametric.")] = "parametric",
    level: LevelOption = 0.95,
    starts: StartsOption = 20,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="CSV file for the refits.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Standard errors and intervals by refits.

    Data are drawn from the fitted program (parametric), or its units resampled (nonparametric).
    """
    fit_commands.bootstrap(
        _source(source, (data, column, set, observe), (fixed, init), method, starts, seed),
        replicates=replicates, kind=kind, level=level, output=Output(json, quiet, out, overwrite),
    )  # fmt: skip


@app.command()
def profile(
    source: SourceArgument,
    names: Annotated[
        list[str] | None, typer.Argument(help="Scalars such as 'mu[0]' [default: all of them].")
    ] = None,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    fixed: FixedOption = None,
    init: InitOption = "mixed",
    *,
    method: MethodOption = None,
    level: LevelOption = 0.95,
    starts: StartsOption = 20,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="CSV file for the profiles' points.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Profile-likelihood intervals of single scalars."""
    fit_commands.profile(
        _source(source, (data, column, set, observe), (fixed, init), method, starts, seed),
        names or [], level=level, output=Output(json, quiet, out, overwrite),
    )  # fmt: skip


@app.command()
def simulate(
    source: SourceArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    fixed: FixedOption = None,
    init: InitOption = "mixed",
    *,
    method: MethodOption = None,
    at: Annotated[
        Path | None, typer.Option(help="JSON file of parameter values [default: the fit].")
    ] = None,
    latents: Annotated[bool, typer.Option(help="The true latents as columns.")] = True,
    starts: StartsOption = 20,
    seed: SeedOption = 0,
    out: FileOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw data from the program, as CSV.

    In the shape of the data that are given or were fitted; --data reads it.
    """
    fit_commands.simulate(
        _source(source, (data, column, set, None), (fixed, init), method, starts, seed),
        at=at, latents=latents, output=Output(json, quiet, out, overwrite),
    )  # fmt: skip


@app.command()
def select(
    model: ModelArgument,
    over: Annotated[list[str], typer.Option(help="ARGUMENT=1:6 or ARGUMENT=A,B: what varies.")],
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    observe: ObserveOption = None,
    fixed: FixedOption = None,
    *,
    groups: GroupsOption = None,
    sequences: SequencesOption = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    starts: StartsOption = 10,
    seed: SeedOption = 0,
    bootstrap: Annotated[
        int,
        typer.Option(min=0, help="Replicates of the bootstrap likelihood-ratio test; 0: none."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder; a run that was cut goes on from it.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit at several sizes, and score them.

    Sizes are values of an argument of the program, as in --over K=1:6.
    """
    studies.select_size(
        Given.of(model, data, column, set, observe, groups=groups, sequences=sequences), over, methods, starts=starts, seed=seed,
        bootstrap=bootstrap, fixed=fixed, output=Output(json, quiet, out),
    )  # fmt: skip


@app.command()
def simulate_study(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    fixed: FixedOption = None,
    *,
    replicates: Annotated[int, typer.Option(min=1, help="Data sets to draw.")] = 100,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "em",
    at: Annotated[
        Path | None, typer.Option(help="JSON file of parameter values [default: the fit by EM].")
    ] = None,
    starts: StartsOption = 5,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="netCDF file; a study that was cut goes on from it.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bias, RMSE and coverage over drawn data.

    Data sets are drawn from the program, and each is fitted.
    """
    studies.simulate_study(
        Given.of(model, data, column, set, None), methods, replicates=replicates, at=at,
        starts=starts, seed=seed, fixed=fixed, output=Output(json, quiet, out),
    )  # fmt: skip


@app.command()
def calibrate(
    model: ModelArgument,
    data: DataOption = None,
    column: ColumnOption = None,
    set: SetOption = None,
    *,
    replicates: Annotated[int, typer.Option(min=2, help="Data sets to draw.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="NUTS draws per chain, of two.")] = 495,
    warmup: Annotated[int, typer.Option(min=1, help="NUTS warm-up per chain.")] = 300,
    thin: Annotated[int, typer.Option(min=1, help="Every how many draws one is ranked.")] = 5,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for ranks (CSV) and picture.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Calibration of NUTS by simulation.

    Parameters are drawn from the prior and data from the program; ranked among the draws of their
    posteriors they are uniform where the sampler is right.
    """
    studies.calibrate_model(
        Given.of(model, data, column, set, None), replicates=replicates, draws=draws,
        warmup=warmup, thin=thin, seed=seed, output=Output(json, quiet, out, overwrite),
    )  # fmt: skip


def _source(
    source: str,
    table: tuple[Path | None, list[str] | None, list[str] | None, list[str] | None],
    held: tuple[list[str] | None, str] = (None, "mixed"),
    method: str | None = None,
    starts: int = 20,
    seed: int = 0,
) -> fit_commands.Source:
    """The run or model of a command on a fit."""
    data, columns, settings, observe = table
    given = Given.of(source, data, columns, settings, observe)
    return fit_commands.Source(given, method, building.Held(*held), starts, seed)


def main() -> None:
    """Entry point."""
    run_watched(app)


if __name__ == "__main__":
    main()
