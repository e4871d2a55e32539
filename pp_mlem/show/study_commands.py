"""What the commands on many fits do: selection, simulation studies, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.digits import written
from pp_mlem.base.files import write_table
from pp_mlem.comparison.calibrate import Calibration, calibrate
from pp_mlem.comparison.experiment import experiment
from pp_mlem.comparison.selection import Selection, select
from pp_mlem.estimate.estimators import fit_by
from pp_mlem.model.model import Model
from pp_mlem.show.building import (
    Held,
    arguments_of,
    build,
    check_arguments,
    nobody,
    numbers_of,
    options_of,
)
from pp_mlem.show.catalogue import find_model
from pp_mlem.show.data_files import (
    comes_in_chunks,
    refuse,
    refuse_chunks,
    tell_chunks,
    with_floats,
)
from pp_mlem.show.interrupts import stop
from pp_mlem.show.methods import SAMPLERS, named_methods
from pp_mlem.show.options import Given, Output, named, read_json_values, values_of
from pp_mlem.show.plots.look import rendered
from pp_mlem.show.plots.studies import plot_selection
from pp_mlem.show.results import Results, records
from pp_mlem.show.stages import Stages
from pp_mlem.show.tables import frame_table

quiet = np.errstate(all="ignore")


@quiet
def select_size(
    given: Given,
    over: list[str],
    methods: str,
    *,
    starts: int,
    seed: int,
    bootstrap: int,
    fixed: list[str] | None,
    output: Output,
) -> None:
    chosen = named_methods(methods) or ("em",)
    held = {k: np.asarray(v) for k, v in numbers_of(fixed, "--fixed").items()}
    varied = {k: values_of(v) for k, v in named(over, "--over").items()}
    shelf = find_model(given.model)
    check_arguments(shelf.program, varied, "--over")
    results, stages, out = Results(output), Stages(output.quiet), output.out
    if comes_in_chunks(given):
        _check_for_chunks(given, chosen, bootstrap)

    def selected(floats: frozenset[str]) -> Selection:
        with stages.stage("reading"):
            arguments, observed = arguments_of(shelf, given, floats)
            tell_chunks(arguments, nobody if floats else results.note)
        with stages.stage("fits", spinner=False):
            return select(
                shelf.program, methods=chosen, starts=starts, seed=seed, bootstrap=bootstrap, fixed=held, out=out,
                progress=output.progress, **options_of(shelf, observed), **{**arguments, **varied},
            )  # fmt: skip

    selection = with_floats(selected, results.note)
    _tell_selection(selection, results)
    if out is not None:
        write_table(out / "selection.csv", selection.table, "select")
        if len(varied) == 1 and selection.fits:
            with stages.stage("picture"):
                rendered(plot_selection(selection), "selection", "").save(out)
        results.say(f"Written to {out}")
    results.as_json({"table": records(selection.table, "fit"), "folder": out})
    if selection.interrupted:
        stop("the finished fits", out)
    results.say(str(stages))


def _check_for_chunks(given: Given, methods: tuple[str, ...], bootstrap: int) -> None:
    if bootstrap:
        refuse(given, "--bootstrap")
    for name in methods:
        if name in SAMPLERS:
            refuse(given, f"--methods: {name}")


def _tell_selection(selection: Selection, results: Results) -> None:
    """The table, and below it what the selection says of it."""
    lines = repr(selection).splitlines()
    labels = [str(label) for label in selection.table.index]
    last = max((i for i, line in enumerate(lines) if line.startswith(labels[-1])), default=-1)
    shown = selection.table.drop(columns="note", errors="ignore").dropna(axis=1, how="all")
    forms = dict.fromkeys(shown.select_dtypes("float"), _thousandths)
    results.show(frame_table("Selection", shown, forms))
    for line in [*(line for line in lines[:1] if line.startswith("!")), *lines[last + 1 :]]:
        results.say(line)


def _thousandths(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if value == round(value) else written(value, 3)


@quiet
def simulate_study(
    given: Given,
    methods: str,
    *,
    replicates: int,
    at: Path | None,
    starts: int,
    seed: int,
    fixed: list[str] | None,
    output: Output,
) -> None:
    chosen, options = named_methods(methods) or ("em",), Held(fixed, "mixed")
    given_truth = read_json_values(at, "--at") if at is not None else None
    results, stages, out = Results(output), Stages(output.quiet), output.out
    with stages.stage("reading"):
        refuse_chunks(given, "simulate-study")
        model = build(find_model(given.model), given)
        held = options.for_model(model)["fixed"]
    truth = given_truth
    if truth is None:
        with stages.stage("EM", spinner=False):
            truth = fitted(model, starts, seed, output)
    with stages.stage("study", spinner=False):
        study = experiment(
            model,
            truth,
            replicates,
            chosen,
            starts,
            seed,
            fixed=held,
            out=out,
            progress=output.progress,
        )
    done = int(np.isfinite(study.results["seconds"].values).all(0).sum())
    results.say(f"{done} data sets, {100 * study.level:g}% intervals")
    results.show(frame_table("Errors and coverage", study.summary()))
    results.show(frame_table("How the fits ended", study.statuses))
    results.as_json(
        {
            "data_sets": done,
            "summary": records(study.summary()),
            "statuses": records(study.statuses),
        }
    )
    if out is not None:
        results.say(f"Written to {out}")
    if study.interrupted:
        stop("the finished data sets", out)
    results.say(str(stages))


def fitted(model: Model, starts: int, seed: int, output: Output) -> dict[str, Any]:
    """The parameters of a fit by EM."""
    fit = fit_by("em", model, starts=max(starts, 10), seed=seed, progress=output.progress)
    if fit.interrupted:
        stop("", None)
    return fit.params


@quiet
def calibrate_model(
    given: Given, *, replicates: int, draws: int, warmup: int, thin: int, seed: int, output: Output
) -> None:
    results, stages, out = Results(output), Stages(output.quiet), output.out
    if out is not None and out.is_dir() and any(out.iterdir()) and not output.overwrite:
        raise ValueError(f"--out: {out} is not empty. Choose another folder, or add --overwrite.")
    with stages.stage("reading"):
        refuse_chunks(given, "calibrate")
        model = build(find_model(given.model), given)
    with stages.stage("data sets", spinner=False):
        found = calibrate(
            model, replicates, warmup=warmup, draws=draws, thin=thin, seed=seed,
            progress=output.progress,
        )  # fmt: skip
    _tell_calibration(found, results)
    if out is not None:
        with stages.stage("picture"):
            write_table(out / "ranks.csv", found.ranks, "calibrate")
            write_table(out / "uniformity.csv", found.uniformity(), "calibrate")
            rendered(found.plot(), "ranks", "").save(out)
        results.say(f"Written to {out}: ranks.csv, uniformity.csv, ranks.png, ranks.svg")
    if found.interrupted:
        stop("the finished data sets", out)
    results.say(str(stages))


def _tell_calibration(found: Calibration, results: Results) -> None:
    table, divergent = found.uniformity(), int(found.divergences.sum())
    results.say(
        f"{len(found.ranks)} data sets, ranks among {found.draws} draws, {divergent} divergences"
    )
    caption = (
        "chi-squared test that the ranks of the true values are uniform, as they are where the sampler is "
        "right; with many scalars the smallest p is small by chance: multiply it by their number"
    )
    results.show(frame_table("Uniformity of ranks", table, caption=caption))
    results.as_json(
        {"data_sets": len(found.ranks), "draws": found.draws, "divergences": divergent,
         "uniformity": records(table), "ranks": records(found.ranks, "data_set")}
    )  # fmt: skip
