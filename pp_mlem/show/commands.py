"""What the commands on models do: show one, and fit it by several methods side by side."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.files import write_table
from pp_mlem.base.lazy import pd
from pp_mlem.comparison.compare import Comparison, compare
from pp_mlem.diagnose.summary import FAILURES
from pp_mlem.estimate.estimators import fit_by
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.space import describe
from pp_mlem.show.building import Held, build
from pp_mlem.show.catalogue import Shelf, find_model, first_line
from pp_mlem.show.interrupts import stop, stopped
from pp_mlem.show.labels import labels_of, latents_of, write_labels
from pp_mlem.show.methods import named_methods, plan_of
from pp_mlem.show.options import Given, Output
from pp_mlem.show.plots.comparison import render_pictures
from pp_mlem.show.plots.look import Rendered
from pp_mlem.show.report import write_report
from pp_mlem.show.results import Results, plain, records, write_plain
from pp_mlem.show.runs import Run
from pp_mlem.show.stages import Stages
from pp_mlem.show.tables import published_table, write_comparison

# A command says by itself what went wrong: NumPy's warnings of log 0 and the like are not shown.
quiet = np.errstate(all="ignore")
MOST_LABELS = 200_000  # rows that a run folder has labels of without being asked
OPTIMA = ("objective", "below_best", "starts", "share", "kind", "status", "gradient",
          "smallest_eigenvalue", "points", "start", "note")  # fmt: skip


@quiet
def show_model(given: Given, output: Output) -> None:
    shelf = find_model(given.model)
    results = Results(output)
    model = build(shelf, given, results.note)
    results.say(shelf.docstring)
    results.say()
    results.say(repr(model))
    published = _published(shelf, given)
    if published:
        results.say()
        results.show(published_table(published))
    parameters = [
        {"name": s.name, "shape": list(s.shape), "support": describe(s.support)}
        for s in model.space.sites
    ]
    latents = [
        {"name": s.name, "plates": list(s.dims), "values": None if s.real else s.size}
        for s in (*model.reading.latents, *model.reading.reals)
    ]
    results.as_json(
        {"model": shelf.name, "roles": model.roles, "parameters": parameters, "latents": latents,
         "free_parameters": model.space.size, "about": shelf.docstring, "told": repr(model),
         "published": {n: {"value": v, "tolerance": t} for n, (v, t) in published.items()}}
    )  # fmt: skip


def _published(shelf: Shelf, given: Given) -> dict[str, tuple[float, float]]:
    """What is published of the model as it is given: of its own data, and nothing set otherwise."""
    return shelf.published if given == Given(given.model) else {}


@dataclass(frozen=True)
class Asked:
    """What a comparison is to consist of."""

    methods: str | None
    starts: int
    seed: int
    chains: int
    draws: int
    loo: bool
    plots: bool
    labels: bool | None


@quiet
def compare_methods(given: Given, held: Held, asked: Asked, output: Output) -> None:
    named = named_methods(asked.methods)
    shelf = find_model(given.model)
    folder = output.out or Path("runs") / f"{shelf.name}-{datetime.now():%Y%m%d-%H%M%S}"
    Run(folder, {}).check(output.overwrite)
    results, stages = Results(output), Stages(output.quiet)
    with stages.stage("reading"):
        model = build(shelf, given, results.note)
        how = held.for_model(model)
    results.say(repr(model))
    results.say()
    plan = plan_of(model, named, asked.starts, asked.chains, asked.draws)
    for line in plan.lines():
        results.say(line)
    for line in plan.notes():
        results.note(line)
    options = {
        "starts": asked.starts,
        "seed": asked.seed,
        "chains": asked.chains,
        "draws": asked.draws,
    }
    run = Run.begun(folder, shelf, given, {**options, **plain(how)})
    run.check(output.overwrite)
    how |= {**options, "progress": output.progress}
    fits, failed = _fit_each(model, plan.chosen, run, stages, results, how)
    try:
        _finish(fits, shelf, model, run, asked, stages, results)
    except KeyboardInterrupt:
        stop(", ".join(run.written), folder)
    if failed:
        raise ValueError(f"not fitted: {'; '.join(f'{m}: {why}' for m, why in failed.items())}")


def _fit_each(
    model: Model, methods: tuple[str, ...], run: Run, stages: Stages, results: Results, how: dict
) -> tuple[dict[str, Fit], dict[str, str]]:
    """Fit by each method, save and tell; why others could not. Ctrl-C ends the command."""
    fits: dict[str, Fit] = {}
    failed: dict[str, str] = {}
    for method in methods:
        try:
            with warnings.catch_warnings(), stages.stage(method.upper(), spinner=False):
                warnings.simplefilter("always")
                fit = fit_by(method, model, **how)
            with stages.stage("standard errors"):
                fits[method.upper()] = fit
                run.save_fit(method, fit)
        except FAILURES as error:
            if method == methods[-1] and not fits:
                raise
            failed[method.upper()] = str(error)
            results.say(f"{method.upper():<7} failed: {error}")
            continue
        except KeyboardInterrupt:
            pass
        if stopped() or (method.upper() in fits and fit.interrupted):
            stop(", ".join(f"{m}.nc" for m in run.record["methods"]), run.folder)
        results.say(f"{method.upper():<7} {fit.status:<12} {fit.seconds:6.2f} s   {fit.story}")
    return fits, failed


def _finish(
    fits: dict[str, Fit], shelf: Shelf, model: Model, run: Run, asked: Asked, stages: Stages,
    results: Results,
) -> None:  # fmt: skip
    """The comparison, told and written, one part after the other; Ctrl-C keeps the finished ones."""
    folder = run.folder
    with stages.stage("LOO and scores" if asked.loo else "scores"):
        comparison = compare(fits, loo=asked.loo)
    results.say()
    if not results.output.silent:
        write_comparison(comparison, results.console)
    pictures: list[Rendered] = []
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("tables", lambda: run.wrote(*_write_tables(comparison, folder))),
        ("labels", lambda: run.wrote(*_write_labels(comparison, folder, asked.labels, results))),
        ("optima", lambda: run.wrote(*_write_optima(comparison, folder))),
    ]
    if asked.plots:
        parts += [
            ("pictures", lambda: pictures.extend(_pictures(comparison, shelf, run))),
            ("report", lambda: run.wrote(_write_report(comparison, shelf, run, pictures))),
        ]
    try:
        for name, write in parts:
            try:
                with stages.stage(name), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Detected at least one discrete variable")
                    write()
            except OSError:
                raise
            except (
                Exception
            ) as error:  # a picture of the user's own may raise anything: the rest goes on
                results.note(f"{name} failed: {type(error).__name__}: {error}")
            if stopped():
                break
    except KeyboardInterrupt:
        pass
    run.save(seconds=stages.seconds)
    if stopped():
        stop(", ".join(run.written), folder)
    results.say()
    results.say(f"Written to {folder}: {', '.join([*run.written, 'run.json'])}")
    results.say(str(stages))
    results.as_json(
        {
            "folder": folder, "model": shelf.name, "methods": run.record["methods"],
            "estimates": records(comparison.estimates), "scores": records(comparison.scores, "method"),
            "stories": {n: f.story for n, f in fits.items()}, "warnings": comparison.warnings,
            "seconds": stages.seconds, "written": run.written,
        }
    )  # fmt: skip


def _write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    tables = {"estimates.csv": comparison.estimates, "scores.csv": comparison.scores}
    if len(comparison.latents):
        tables["agreement.csv"] = comparison.latents.reset_index()
    return [write_table(folder / name, frame, "compare") for name, frame in tables.items()]


def _write_labels(
    comparison: Comparison, folder: Path, wanted: bool | None, results: Results
) -> list[Path]:
    """Of the first fit: labels.csv, of latents in other plates labels_PLATES.csv, and latents.csv; of data in chunks
    labels.parquet."""
    name, fit = next(iter(comparison.fits.items()))
    model = fit.model_for("labels")
    if wanted is False or not model.latent_names:
        return []
    streamed = isinstance(model, StreamedModel)
    if wanted is None and _rows(model) > MOST_LABELS:
        results.say(
            f"{_rows(model):,} labels are not written; `pp-mlem predict {folder} --out labels."
            f"{'parquet' if streamed else 'csv'}` writes them, or --labels."
        )
        return []
    if streamed:
        return [write_labels(folder / "labels.parquet", fit, model)]
    posterior = fit.posterior()
    frames: dict[str, pd.DataFrame] = {}
    for plates, frame in labels_of(model, posterior).items():
        frames[
            "labels.csv" if not frames else f"labels_{'_'.join(plates or [frame.columns[0]])}.csv"
        ] = frame
    written = [write_plain(folder / n, f) for n, f in frames.items()]
    if model.reading.reals:
        written.append(
            write_plain(folder / "latents.csv", latents_of(model, posterior), index=False)
        )
    return written


def _rows(model: Model) -> int:
    latents = (*model.reading.latents, *model.reading.reals)
    if isinstance(model, StreamedModel):
        return model.stream.count * len(latents)
    return sum(int(np.prod(model.reading.plate_shape(s.dims))) for s in latents)


def _write_optima(comparison: Comparison, folder: Path) -> list[Path]:
    """The optima of each point fit."""
    parts = {
        name: fit.optima[list(OPTIMA)]
        for name, fit in comparison.fits.items()
        if isinstance(fit, PointFit) and fit.start_params and len(fit.starts)
    }
    parts = {name: frame for name, frame in parts.items() if len(frame)}
    if not parts:
        return []
    return [write_table(folder / "optima.csv", pd.concat(parts, names=["method"]), "compare")]


def _pictures(comparison: Comparison, shelf: Shelf, run: Run) -> list[Rendered]:
    """The pictures of a comparison, written as PNG and SVG."""
    pictures = render_pictures(comparison, shelf.picture)
    for picture in pictures:
        run.wrote(*picture.save(run.folder))
    return pictures


def _write_report(comparison: Comparison, shelf: Shelf, run: Run, pictures: list[Rendered]) -> Path:
    settings = {k: run.record[k] for k in ("starts", "chains", "draws")}
    return write_report(
        comparison, run.folder / "report.html", f"{shelf.name}: {first_line(shelf.path)}",
        " ".join(["pp-mlem", *map(shlex.quote, sys.argv[1:])]),
        {**settings, "warmup": settings["draws"]},
        pictures or None,
    )  # fmt: skip
