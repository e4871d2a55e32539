"""Bootstrap of a point fit: refits of drawn or resampled data, warm-started from the estimate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_counts, check_level, check_seed
from pp_mlem.base.compiling import lean_jit
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd
from pp_mlem.base.precision import working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.data.program_data import ProgramData
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import align
from pp_mlem.diagnose.separation import find_separation_old
from pp_mlem.diagnose.spurious import component_report
from pp_mlem.diagnose.uncertainty import Covariance
from pp_mlem.marginal.units import reweighted
from pp_mlem.maximise.broyden import quasi_newton_em
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names
from pp_mlem.target.problem import Problem

KINDS = ("parametric", "nonparametric")
SWEEPS = 300
ENOUGH = 1e-6  # nats that EM's step still promises: a thousandth of a standard error
TOLERANCE = 1e-6  # largest gradient entry per unit at which a refit has converged
LANES = 50
LANE_CELLS = 2e7  # lanes times cells of the data: keeps a block within memory
MOST = 0.5  # share of refits that must succeed for a standard error


@dataclass(frozen=True)
class Bootstrap:
    """Refits of one model.

    Attributes:
        kind: "parametric" (data drawn from the fitted program) or "nonparametric" (independent
            units drawn with replacement).
        estimates: DataFrame (replicates, scalars), labels aligned to the fit; failures left out.
        covariance: DataFrame of the scalars, NaN with `reason` when most refits failed.
        failed: how many refits failed, by what happened; `unfinished` counts kept refits whose
            gradient was not yet zero.
        log_likelihoods: objective of each kept refit on its own data.
        interrupted: the user stopped it; `replicates` are those that were finished.
    """

    kind: str
    estimates: pd.DataFrame
    reference: pd.Series
    log_likelihoods: np.ndarray
    failed: dict[str, int]
    unfinished: int
    replicates: int
    seconds: float
    seed: int
    interrupted: bool = False

    @property
    def reason(self) -> str:
        """Why no standard error is given ("" when one is)."""
        lost = sum(self.failed.values())
        if lost <= (1 - MOST) * self.replicates and len(self.estimates) > 1:
            return ""
        told = ", ".join(f"{n} {why}" for why, n in self.failed.items())
        return f"{lost} of {self.replicates} bootstrap refits failed ({told})"

    @property
    def covariance(self) -> pd.DataFrame:
        found = self.estimates.cov() if len(self.estimates) > 1 else None
        names = list(self.reference.index)
        if self.reason or found is None:
            return pd.DataFrame(np.nan, index=names, columns=names)
        return found

    @property
    def standard_errors(self) -> pd.Series:
        return pd.Series(np.sqrt(np.diag(self.covariance)), index=list(self.reference.index))

    @property
    def bias(self) -> pd.Series:
        """Mean of the refits minus the estimate."""
        return self.estimates.mean() - self.reference

    def intervals(self, level: float = 0.95, kind: str = "percentile") -> pd.DataFrame:
        """Percentile or basic (reversed percentile) intervals (Davison & Hinkley 1997, chapter 5,
        doi:10.1017/CBO9780511802843)."""
        check_level(level)
        if kind not in ("percentile", "basic"):
            raise ValueError(f"kind: received {kind!r}, expected 'percentile' or 'basic'.")
        tails = [(1 - level) / 2, (1 + level) / 2]
        if self.reason:
            low = high = pd.Series(np.nan, index=self.reference.index)
        else:
            low, high = (self.estimates.quantile(t) for t in tails)
        if kind == "basic":
            low, high = 2 * self.reference - high, 2 * self.reference - low
        return pd.DataFrame({"low": low, "high": high})

    def __repr__(self) -> str:
        told = [f"{n} {why}" for why, n in self.failed.items()]
        if self.unfinished:
            told.append(f"{self.unfinished} kept before their gradient was zero")
        head = (
            ("! stopped by the user: " if self.interrupted else "")
            + f"{self.kind} bootstrap: {len(self.estimates)} of {self.replicates} refits kept"
            + (f" ({', '.join(told)})" if told else "")
            + f", {self.seconds:.1f} s"
        )
        table = pd.DataFrame(
            {"estimate": self.reference, "std err": self.standard_errors, "bias": self.bias}
        ).join(self.intervals())
        return head + "\n" + table.to_string(float_format=written, max_rows=40)


def as_covariance(found: Bootstrap) -> Covariance:
    """The bootstrap as a `Covariance` of a fit."""
    names = tuple(found.reference.index)
    matrix = found.covariance.to_numpy()
    reasons = dict.fromkeys(names, found.reason) if found.reason else {}
    return Covariance(names, matrix, np.full_like(matrix, np.nan), reasons, "bootstrap")


def _check(replicates: Any, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: received {kind!r}, expected one of {list(KINDS)}.")
    check_counts(2, replicates=replicates)


def _replicate(model: Model, kind: str) -> Any:
    """Traceable (params, key, data) -> the data of one replicate."""
    weights = np.asarray(model.unit_weights())
    if kind == "parametric":
        return model.redrawing()
    total = weights.sum()
    if np.any(np.abs(weights - np.rint(weights)) > 1e-9):
        raise ValueError(
            "units carry case weights that are no counts, so they cannot be resampled. Use "
            "kind='parametric'."
        )
    reweighted(model.marginal, model.data, jnp.asarray(weights))
    cumulative = jnp.asarray(np.cumsum(weights) / total)
    count = int(round(total))

    def resample(params: Any, key: jax.Array, data: ProgramData) -> ProgramData:
        uniform = jax.random.uniform(key, (count,), cumulative.dtype)
        chosen = jnp.searchsorted(cumulative, uniform, side="right")
        counts = jnp.zeros(len(weights), cumulative.dtype)
        counts = counts.at[jnp.minimum(chosen, len(weights) - 1)].add(1.0)
        return reweighted(model.marginal, data, counts)

    return resample


def bootstrap_point(
    model: Model,
    problem: Problem,
    params: Mapping[str, Any],
    vector: np.ndarray,
    fixed: Mapping[str, Any],
    groups: tuple[Group, ...],
    replicates: int,
    kind: str,
    seed: int,
    progress: bool | None,
) -> Bootstrap:
    """Refit `replicates` data sets; see `Fit.bootstrap`."""
    _check(replicates, kind)
    check_seed(seed)
    clock = time.perf_counter()
    with working_precision(model.dtype):
        units = max(float(model.n_observations), 1.0)
        fixed = {k: jnp.asarray(v) for k, v in fixed.items()}
        values = {k: jnp.asarray(v) for k, v in params.items()}
        replicate = _replicate(model, kind)
        tolerance = TOLERANCE if model.dtype == np.float64 else 1e-4

        def refit(key: jax.Array, start: jax.Array, data: Any, values: Any, held: Any) -> Any:
            own = replicate(values, key, data)
            result = quasi_newton_em(
                lambda v: problem.em_step(v, own, held), start, SWEEPS, tolerance * units,
                lambda value: 1e3 * jnp.finfo(start.dtype).eps * (jnp.abs(value) + units),
                ENOUGH,
            )  # fmt: skip
            slope = jnp.abs(result.gradient).max(initial=0.0) / units
            return result.point, result.value, slope, problem.params(result.point, held)

        key = ("bootstrap", kind, frozenset(fixed), problem.with_prior)
        in_axes = (0, None, None, None, None)
        run = model.compiled(key, lambda: lean_jit(jax.vmap(refit, in_axes=in_axes)))
        draw = model.compiled((*key, "data"), lambda: lean_jit(replicate))
        report = model.compiled(("components", frozenset(fixed)), lambda: component_report(problem))
        cells = sum(a.size for a in jax.tree.leaves(model.data)) + 1
        lanes = int(np.clip(LANE_CELLS / cells, 1, min(LANES, replicates)))
        keys = jax.random.split(jax.random.key(seed), -(-replicates // lanes) * lanes)
        start = jnp.asarray(vector)
        rows, objectives, failed, unfinished, interrupted = [], [], {}, 0, False
        order = [n for n in params if n not in fixed]
        done = 0
        with Progress("bootstrap", replicates, progress) as bar:
            for first in range(0, replicates, lanes):
                some = keys[first : first + lanes]
                try:
                    points, found, slopes, estimates = jax.device_get(
                        run(some, start, model.data, values, fixed)
                    )
                    whys = []
                    for i in range(min(lanes, replicates - first)):
                        why = _failure(points[i], found[i])
                        if not why:
                            own = draw(values, some[i], model.data)
                            flag, _ = report(points[i], own, fixed)
                            why = flag.label if flag is not None else ""
                        if not why and find_separation_old(model, problem, points[i], fixed, own):
                            why = Status.SEPARATION.label
                        whys.append(why)
                except KeyboardInterrupt:
                    if not done:
                        raise
                    interrupted, replicates = True, done
                    break
                for i, why in enumerate(whys):
                    done += 1
                    if why:
                        failed[why] = failed.get(why, 0) + 1
                        continue
                    unfinished += int(slopes[i] > 100 * tolerance)
                    moved = align({k: estimates[k][i] for k in params}, dict(params), groups, model)
                    rows.append(np.concatenate([np.ravel(moved[n]) for n in order]))
                    objectives.append(found[i])
                bar.advance(done, "refits", f"{sum(failed.values())} failed")
    names = list(scalar_names(problem.space))
    reference = np.concatenate([np.ravel(params[n]) for n in order])
    return Bootstrap(
        kind=kind,
        estimates=pd.DataFrame(np.reshape(rows, (-1, len(names))), columns=names),
        reference=pd.Series(reference, index=names),
        log_likelihoods=np.asarray(objectives),
        failed=failed,
        unfinished=unfinished,
        replicates=int(replicates),
        seconds=time.perf_counter() - clock,
        seed=seed,
        interrupted=interrupted,
    )


def _failure(point: np.ndarray, value: float) -> str:
    sound = np.isfinite(value) and np.all(np.isfinite(point))
    return "" if sound else "not_finite"
