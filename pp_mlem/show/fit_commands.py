"""What the commands on one fit do: predict, bootstrap, profile, simulate; of a run, or of a model fitted first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.near import did_you_mean
from pp_mlem.diagnose.bootstrap import KINDS
from pp_mlem.diagnose.profile import ProfileInterval
from pp_mlem.estimate.estimators import fit_by, method_names
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.space import scalar_names
from pp_mlem.show.building import Held, build, nobody
from pp_mlem.show.catalogue import Shelf, find_model
from pp_mlem.show.data_files import Tell, comes_in_chunks, parquet_of, refuse_chunks
from pp_mlem.show.interrupts import stop
from pp_mlem.show.labels import labels_of, latents_of, posterior_on, write_labels
from pp_mlem.show.options import Given, Output, read_json_values
from pp_mlem.show.results import Results, records, write_plain
from pp_mlem.show.runs import check_program, find_run, is_run
from pp_mlem.show.stages import Stages
from pp_mlem.show.tables import frame_table

quiet = np.errstate(all="ignore")


@dataclass(frozen=True)
class Source:
    """A run or a model, the method of its fit, and how a model would be fitted."""

    given: Given
    method: str | None
    held: Held
    starts: int
    seed: int

    @property
    def is_run(self) -> bool:
        return is_run(self.given.model)

    def check(self, methods: tuple[str, ...]) -> None:
        """Refuse a method that cannot answer, before anything is read."""
        if self.method is not None and self.method.lower() not in methods:
            near = did_you_mean(self.method, methods)
            raise ValueError(
                f"--method: received '{self.method}', expected one of {', '.join(methods)}.{near}"
            )

    @property
    def own(self) -> tuple[Shelf, Given]:
        """The model file and the options, those of the run where no others are given."""
        given = self.given
        if not self.is_run:
            return find_model(given.model), given
        run, _ = find_run(Path(given.model), self.method)
        return run.shelf, run.given(given.data, given.columns, given.settings, given.observe)

    def model(self, tell: Tell = nobody) -> Model:
        """The model, on the data of the run where no others are given."""
        return build(*self.own, tell)

    def fit(self, stages: Stages, output: Output, scalars: list[str] | None = None) -> Fit:
        """The fit with its model, which must have these scalars; a model that is not a run's is fitted."""
        with stages.stage("reading"):
            model = self.model()
            check_scalars(scalars or [], model)
            if self.is_run:
                run, asked = find_run(Path(self.given.model), self.method)
                method, _ = run.fit(asked)
                return load(run.folder / f"{method}.nc", model)
            how = self.held.for_model(model)
        method = (self.method or "em").lower()
        with stages.stage(method.upper(), spinner=False):
            fit = fit_by(
                method, model, starts=self.starts, seed=self.seed, progress=output.progress, **how
            )
        if fit.interrupted:
            stop("", None)
        return fit


def check_scalars(names: list[str], model: Model) -> None:
    known = scalar_names(model.space)
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no scalar '{name}'.{did_you_mean(name, known)} They are {', '.join(known)}."
            )


def _point(
    source: Source, stages: Stages, output: Output, scalars: list[str] | None = None
) -> PointFit:
    """The point fit that bootstrap and profile start from."""
    source.check(method_names(has_draws=False))
    fit = source.fit(stages, output, scalars)
    if not isinstance(fit, PointFit):
        raise ValueError(
            f"{source.given.model}: the fit is one by {fit.method}, which has draws; take another of the "
            f"run's by --method, of {', '.join(method_names(has_draws=False))}."
        )
    return fit


@quiet
def predict(source: Source, *, latent: str | None, probabilities: bool, output: Output) -> None:
    output.check_file()
    given = source.given
    run, asked = find_run(Path(given.model), source.method)
    results, stages = Results(output), Stages(output.quiet)
    _, own = source.own
    if comes_in_chunks(own):
        parquet_of(str(own.data), output)
    method, fit = run.fit(asked)
    if given.data is None and run.data_changed():
        results.note(
            f"{run.record['data']} has changed since the run; the labels are those of the file now."
        )
    with stages.stage("reading"):
        model = source.model(results.note)
    check_program(fit, model, run.folder)
    if not model.latent_names:
        raise ValueError(
            f"{given.model}: the model has no latents, so there is nothing to predict."
        )
    if latent is not None and latent not in model.latent_names:
        near = did_you_mean(latent, model.latent_names)
        raise ValueError(
            f"--latent: there is no latent '{latent}'.{near} The latents are {', '.join(model.latent_names)}."
        )
    if isinstance(model, StreamedModel):
        path = parquet_of(model.source.told, output)
        with stages.stage("labels"):
            write_labels(path, fit, model, latent, probabilities)
        results.note(f"Written to {path}: {model.stream.count:,} rows")
        return
    posterior = posterior_on(fit, model)
    results.table(*_predicted(model, posterior, latent, probabilities, results))


def _predicted(
    model: Model, posterior: dict[str, Any], latent: str | None, probabilities: bool,
    results: Results,
) -> tuple[pd.DataFrame, bool]:  # fmt: skip
    """The table of a latent's units, by default of those with the most; whether its index tells them."""
    reals = [s.name for s in model.reading.reals]
    labels = labels_of(model, posterior, probabilities)
    if latent in reals or (latent is None and not labels):
        table = latents_of(model, posterior)
        return (table if latent is None else table[table["latent"] == latent]), False
    frames = list(labels.values())
    chosen = next((f for f in frames if latent in f.columns), frames[0])
    others = [n for n in model.latent_names if n not in chosen.columns]
    if others and latent is None:
        results.note(f"Not shown: {', '.join(others)}; --latent NAME shows another.")
    return chosen, True


@quiet
def bootstrap(source: Source, *, replicates: int, kind: str, level: float, output: Output) -> None:
    output.check_file()
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise ValueError(f"--kind: received '{kind}', expected {' or '.join(KINDS)}.{near}")
    refuse_chunks(source.own[1], "bootstrap")
    results, stages = Results(output), Stages(output.quiet)
    fit = _point(source, stages, output)
    with stages.stage("bootstrap", spinner=False):
        found = fit.bootstrap(replicates, kind, source.seed, output.progress)
    table = pd.DataFrame(
        {"estimate": found.reference, "std err": found.standard_errors, "bias": found.bias}
    ).join(found.intervals(level))
    failed = ", ".join(f"{n} {why}" for why, n in found.failed.items())
    notes = [failed] if failed else []
    if found.unfinished:
        notes.append(f"{found.unfinished} kept before their gradient was zero")
    told = f" ({', '.join(notes)})" if notes else ""
    head = f"{kind} bootstrap of {fit.method}: {len(found.estimates)} of {found.replicates} refits kept{told}"
    results.say(head)
    results.show(frame_table("", table, caption=f"low, high: {100 * level:g}% percentile interval"))
    if found.reason:
        results.say(f"No standard errors: {found.reason}.")
    results.as_json(
        {"kind": kind, "replicates": found.replicates, "kept": len(found.estimates),
         "failed": found.failed, "level": level, "scalars": records(table)}
    )  # fmt: skip
    if output.out is not None:
        write_plain(output.out, found.estimates.rename_axis("replicate"))
        results.say(f"Written to {output.out}: the {len(found.estimates)} refits")
    if found.interrupted:
        stop("the finished refits", output.out)
    results.say(str(stages))


@quiet
def profile(source: Source, names: list[str], *, level: float, output: Output) -> None:
    output.check_file()
    refuse_chunks(source.own[1], "profile")
    results, stages = Results(output), Stages(output.quiet)
    fit = _point(source, stages, output, names)
    found: dict[str, ProfileInterval] = {}
    for name in names or fit.scalar_names:
        with stages.stage(f"profile of {name}"):
            try:
                found[name] = fit.profile(name, level)
            except KeyboardInterrupt:
                break
        if found[name].interrupted:
            break
    errors = fit.standard_errors()
    table = pd.DataFrame(
        {
            name: {"estimate": p.estimate, "std err": errors[name], "low": p.low, "high": p.high,
                   "note": "; ".join(p.notes)}
            for name, p in found.items()
        }
    ).T  # fmt: skip
    numbers = ["estimate", "std err", "low", "high"]
    if len(table):
        table = table.astype(dict.fromkeys(numbers, float))
        if not table["note"].any():
            table = table[numbers]
        caption = f"low, high: {100 * level:g}% profile-likelihood interval"
        results.show(frame_table(f"Profiles of {fit.method}", table, caption=caption))
    results.as_json({"level": level, "scalars": records(table)})
    if output.out is not None and found:
        points = [
            pd.DataFrame({"scalar": n, "value": p.values, "objective": p.objective})
            for n, p in found.items()
        ]
        write_plain(output.out, pd.concat(points), index=False)
        results.say(f"Written to {output.out}: the points of the profiles")
    if len(found) < len(names or fit.scalar_names) or any(p.interrupted for p in found.values()):
        stop("the finished profiles", output.out)
    results.say(str(stages))


@quiet
def simulate(source: Source, *, at: Path | None, latents: bool, output: Output) -> None:
    """Data drawn from the program, as a table that --data reads."""
    output.check_file()
    truth = read_json_values(at, "--at") if at is not None else None
    refuse_chunks(source.own[1], "simulate")
    results, stages = Results(output), Stages(output.quiet)
    if truth is None:
        fit = source.fit(stages, output)
        model, params = fit.model_for("simulate"), fit.params
    else:
        model, params = source.model(), truth
    drawn = model.redraw(params, source.seed)
    columns, left_out = _columns_of(drawn)
    if latents:
        columns |= _drawn_latents(model, params, source.seed, drawn, results)
    longest = max((len(c) for c in columns.values()), default=0)
    table = pd.DataFrame({n: c for n, c in columns.items() if len(c) == longest})
    left_out += [n for n, c in columns.items() if len(c) != longest]
    if left_out:
        results.note(f"Left out, of other lengths: {', '.join(left_out)}.")
    results.table(table, index=False)


def _columns_of(model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arguments of a program as columns; a matrix has one for each of its own."""
    columns: dict[str, np.ndarray] = {}
    left_out = []
    for name, array in zip(model.arguments.names, model.arguments.dynamic, strict=True):
        values = np.asarray(array)
        if values.ndim == 1:
            columns[name] = values
        elif values.ndim == 2:
            columns |= {f"{name}[{i}]": values[:, i] for i in range(values.shape[1])}
        else:
            left_out.append(name)
    return columns, left_out


def _drawn_latents(
    model: Model, params: dict[str, Any], seed: int, drawn: Model, results: Results
) -> dict[str, np.ndarray]:
    """The latents behind the drawn data, where they are known to be those."""
    sites = model.simulate(params, seed)
    observed = drawn.observed_values()
    same = all(
        np.array_equal(sites[n], v, equal_nan=True) for n, v in observed.items() if n in sites
    )
    if not same:
        results.note("The latents of data with missing values are not told.")
        return {}
    return {n: np.ravel(sites[n]) for n in model.latent_names if n in sites}
