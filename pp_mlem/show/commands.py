"""What the commands of the command line do."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pp_mlem.base.files import write_table
from pp_mlem.comparison.compare import Comparison, compare
from pp_mlem.comparison.experiment import experiment
from pp_mlem.comparison.selection import select
from pp_mlem.estimate.estimators import check_methods, fit_by
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.catalogue import Shelf, arguments_from_table, find_model, first_line, read_table
from pp_mlem.show.options import Given, named, stop, value_of, values_of
from pp_mlem.show.plots.comparison import render_pictures
from pp_mlem.show.plots.look import rendered
from pp_mlem.show.plots.studies import plot_selection
from pp_mlem.show.report import write_report

console = Console()
# A command says by itself what went wrong: NumPy's warnings of log 0 and the like are not shown.
quiet = np.errstate(all="ignore")


def _print(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _arguments(shelf: Shelf, given: Given) -> dict[str, Any]:
    settings = {name: value_of(text) for name, text in named(given.settings, "--set").items()}
    if given.data is None:
        if given.columns:
            raise ValueError("--column maps the columns of --data FILE, which is missing.")
        return {**shelf.data(), **settings}
    columns = {k: v.split(",") for k, v in named(given.columns, "--column").items()}
    table = read_table(given.data)
    return {**arguments_from_table(shelf.program, table, columns, str(given.data)), **settings}


def _build(shelf: Shelf, given: Given) -> Model:
    return Model(shelf.program, **_arguments(shelf, given), **shelf.options)


@quiet
def show_model(given: Given) -> None:
    shelf = find_model(given.model)
    model = _build(shelf, given)
    console.print(shelf.docstring, highlight=False, markup=False)
    console.print()
    _print(repr(model))


@quiet
def compare_methods(
    given: Given,
    methods: str,
    *,
    starts: int,
    seed: int,
    chains: int,
    draws: int,
    out: Path | None,
) -> None:
    chosen = check_methods(methods, "--methods")
    shelf = find_model(given.model)
    clock = time.perf_counter()
    model = _build(shelf, given)
    _print(repr(model))
    console.print()
    folder = out or Path("runs") / f"{shelf.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    options = {"starts": starts, "chains": chains, "draws": draws}
    fits = _fit_each(model, chosen, folder, seed=seed, **options)
    console.print()
    comparison = compare(fits)
    comparison.print(console)
    written = _write_comparison(comparison, shelf, folder, {**options, "warmup": draws})
    console.print()
    names = ", ".join([f"{m}.nc" for m in chosen] + [p.name for p in written])
    _print(f"Written to {folder}: {names}")
    console.print(f"{time.perf_counter() - clock:.1f} s in all", highlight=False)


def _fit_each(
    model: Model, methods: tuple[str, ...], folder: Path, **options: Any
) -> dict[str, Fit]:
    """Fit by each method, save and tell; Ctrl-C ends the command."""
    fits: dict[str, Fit] = {}
    interrupted = False
    for method in methods:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                fit = fit_by(method, model, **options)
            fits[method.upper()] = fit
            fit.save(folder / f"{method}.nc")
            interrupted = fit.interrupted
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:
            stop(", ".join(f"{m.lower()}.nc" for m in fits), folder)
        console.print(
            f"{method.upper():<7} {fit.status:<12} {fit.seconds:6.2f} s   {fit.story}",
            highlight=False, markup=False,
        )  # fmt: skip
    return fits


def _write_comparison(
    comparison: Comparison, shelf: Shelf, folder: Path, settings: dict[str, int]
) -> list[Path]:
    """Tables, pictures and report; returns the pictures and the report."""
    write_table(folder / "estimates.csv", comparison.estimates, "compare")
    write_table(folder / "scores.csv", comparison.scores, "compare")
    if len(comparison.latents):
        write_table(folder / "latents.csv", comparison.latents.reset_index(), "compare")
    pictures = render_pictures(comparison, shelf.picture)
    saved = [path for own in pictures for path in own.save(folder)]
    report = write_report(
        comparison, folder / "report.html", f"{shelf.name}: {first_line(shelf.path)}",
        " ".join(["pp-mlem", *map(shlex.quote, sys.argv[1:])]), settings,
        pictures,
    )  # fmt: skip
    return [*saved, report]


@quiet
def select_size(
    given: Given,
    over: list[str],
    methods: str,
    *,
    starts: int,
    seed: int,
    bootstrap: int,
    out: Path | None,
) -> None:
    shelf = find_model(given.model)
    arguments = _arguments(shelf, given)
    varied = {k: values_of(v) for k, v in named(over, "--over").items()}
    selection = select(
        shelf.program, methods=methods, starts=starts, seed=seed, bootstrap=bootstrap, out=out,
        **shelf.options, **{**arguments, **varied},
    )  # fmt: skip
    _print(repr(selection))
    if out is not None:
        write_table(out / "selection.csv", selection.table, "select")
        if len(varied) == 1 and selection.fits:
            rendered(plot_selection(selection), "selection", "").save(out)
        _print(f"Written to {out}")
    if selection.interrupted:
        stop("the finished fits", out)


@quiet
def simulate_study(
    given: Given,
    methods: str,
    *,
    replicates: int,
    at: Path | None,
    starts: int,
    seed: int,
    out: Path | None,
) -> None:
    model = _build(find_model(given.model), given)
    truth = _truth(at) if at is not None else _fitted(model, starts, seed)
    study = experiment(model, truth, replicates, methods, starts, seed, out=out)
    _print(repr(study))
    if out is not None:
        _print(f"Written to {out}")
    if study.interrupted:
        stop("the finished data sets", out)


def _truth(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"--at: {path} is not JSON ({error}).") from None


def _fitted(model: Model, starts: int, seed: int) -> dict[str, Any]:
    fit = fit_by("em", model, starts=max(starts, 10), seed=seed)
    if fit.interrupted:
        stop("", None)
    return fit.params
