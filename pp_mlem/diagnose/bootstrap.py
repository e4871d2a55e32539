"""Bootstrap of a point fit: refits of drawn or resampled data, warm-started from the estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.checks import check_counts, check_level, check_seed
from pp_mlem.base.compiling import Effort
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd
from pp_mlem.base.progress import Progress
from pp_mlem.base.status import Status
from pp_mlem.data.program_data import ProgramData
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import align
from pp_mlem.diagnose.rotations import rotated
from pp_mlem.diagnose.separation import find_separation
from pp_mlem.diagnose.spurious import Scales, judge_components, rows_at
from pp_mlem.diagnose.uncertainty import Covariance, numbers_of
from pp_mlem.marginal.units import reweighted
from pp_mlem.maximise.quasi_newton import quasi_newton_em
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names
from pp_mlem.target.target import Target

Params = Mapping[str, np.ndarray]

KINDS = ("parametric", "nonparametric")
SWEEPS = 300
ENOUGH = 1e-6  # nats that EM's step still promises: a thousandth of a standard error
TOLERANCE = 1e-6  # largest gradient entry per unit at which a refit has converged
LANES = 50
LANE_NUMBERS = 2e7  # lanes times numbers of the data: keeps a block within memory
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
        unidentified: why scalars have no standard error, whatever the refits came to.
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
    unidentified: dict[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why no standard error is given ("" when one is)."""
        lost = sum(self.failed.values())
        if lost <= (1 - MOST) * self.replicates and len(self.estimates) > 1:
            return ""
        failures = ", ".join(f"{n} {why}" for why, n in self.failed.items())
        return f"{lost} of {self.replicates} bootstrap refits failed ({failures})"

    @property
    def covariance(self) -> pd.DataFrame:
        names = list(self.reference.index)
        if self.reason or len(self.estimates) < 2:
            return pd.DataFrame(np.nan, index=names, columns=names)
        found = self.estimates.cov()
        lost = list(self.unidentified)
        found.loc[lost] = np.nan
        found[lost] = np.nan
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
            told = self.estimates.assign(**dict.fromkeys(self.unidentified, np.nan))
            low, high = (told.quantile(t) for t in tails)
        if kind == "basic":
            low, high = 2 * self.reference - high, 2 * self.reference - low
        return pd.DataFrame({"low": low, "high": high})

    def __repr__(self) -> str:
        notes = [f"{n} {why}" for why, n in self.failed.items()]
        if self.unfinished:
            notes.append(f"{self.unfinished} kept before their gradient was zero")
        head = (
            ("! stopped by the user: " if self.interrupted else "")
            + f"{self.kind} bootstrap: {len(self.estimates)} of {self.replicates} refits kept"
            + (f" ({', '.join(notes)})" if notes else "")
            + f", {self.seconds:.1f} s"
        )
        table = pd.DataFrame(
            {"estimate": self.reference, "std err": self.standard_errors, "bias": self.bias}
        ).join(self.intervals())
        return head + "\n" + table.to_string(float_format=written, max_rows=40)


def as_covariance(bootstrap: Bootstrap) -> Covariance:
    """The bootstrap as a `Covariance` of a fit."""
    names = tuple(bootstrap.reference.index)
    matrix = bootstrap.covariance.to_numpy()
    reasons = dict(bootstrap.unidentified)
    reasons |= dict.fromkeys(names, bootstrap.reason) if bootstrap.reason else {}
    return Covariance(names, matrix, np.full_like(matrix, np.nan), reasons, "bootstrap")


@dataclass(frozen=True)
class Refits:
    """What is asked for: how many refits, of which kind of replicate."""

    replicates: int
    kind: str
    seed: int

    def check(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: received {self.kind!r}, expected one of {list(KINDS)}.")
        check_counts(2, replicates=self.replicates)
        check_seed(self.seed)


# --- data of a replicate --------------------------------------------------------------------


def _redrawn(target: Target, redraw: Callable[..., Any], key: jax.Array, params: Any) -> Any:
    """Data drawn from the program. Traceable."""
    return redraw(params, key, target.data)


def _resampled(target: Target, count: int, key: jax.Array, cumulative: jax.Array) -> ProgramData:
    """The data with `count` units drawn with replacement. Traceable."""
    units = len(cumulative)
    uniform = jax.random.uniform(key, (count,), cumulative.dtype)
    chosen = jnp.searchsorted(cumulative, uniform, side="right")
    counts = jnp.zeros(units, cumulative.dtype).at[jnp.minimum(chosen, units - 1)].add(1.0)
    return reweighted(target.marginal, target.data, counts)


@dataclass(frozen=True)
class _Replicates:
    """How the data of a replicate are made: `make`(target, `static`, key, `given`)."""

    make: Callable[..., Any]
    static: Any
    given: Any

    @classmethod
    def of(cls, kind: str, model: Model, target: Target, params: Params) -> _Replicates:
        if kind == "parametric":
            redraw = model.redrawing()  # refuses what cannot be drawn
            redraw = model.bound.kept.once("redrawing", lambda: redraw)
            return cls(_redrawn, redraw, {k: jnp.asarray(v) for k, v in params.items()})
        weights = target.unit_weights
        total = weights.sum()
        if np.any(np.abs(weights - np.rint(weights)) > 1e-9):
            raise ValueError(
                "units carry case weights that are no counts, so they cannot be resampled. Use "
                "kind='parametric'."
            )
        reweighted(target.marginal, target.data, jnp.asarray(weights))  # refuses one sequence
        return cls(_resampled, int(round(total)), jnp.asarray(np.cumsum(weights) / total))

    def data(self, target: Target, key: jax.Array) -> ProgramData:
        """Of one replicate, outside of what is compiled."""
        run = target.compiled(self.make, self.static, effort=Effort.LEAN)
        return run(key, self.given)


# --- refits ---------------------------------------------------------------------------------


class _Ends(NamedTuple):
    """Where refits ended: vectors, objectives, largest gradient entry per unit, parameters."""

    vectors: Any
    values: Any
    slopes: Any
    params: dict[str, Any]


def _refit(
    target: Target,
    make: Callable[..., Any],
    static: Any,
    key: jax.Array,
    given: Any,
    start: jax.Array,
    limits: tuple[Any, Any],
) -> _Ends:
    """One refit from `start`; `limits` are how many units there are, and the gradient's tolerance.
    Traceable."""
    units, tolerance = limits
    own = target.on(make(target, static, key, given))
    result = quasi_newton_em(
        own.em_step, start, SWEEPS, tolerance * units,
        lambda value: 1e3 * jnp.finfo(start.dtype).eps * (jnp.abs(value) + units), ENOUGH,
    )  # fmt: skip
    slope = jnp.abs(result.gradient).max(initial=0.0) / units
    return _Ends(result.point, result.value, slope, own.params(result.point))


@dataclass
class _Tally:
    """What the refits have come to so far; `free` are the names of free parameters."""

    free: list[str]
    kept: list[Params] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0
    done: int = 0

    def fail(self, why: str) -> None:
        self.done += 1
        self.failed[why] = self.failed.get(why, 0) + 1

    def keep(self, params: Params, objective: float, unfinished: bool) -> None:
        self.done += 1
        self.kept.append(params)
        self.objectives.append(objective)
        self.unfinished += int(unfinished)

    def scalars(self, params: Params) -> np.ndarray:
        return np.concatenate([np.ravel(params[n]) for n in self.free])

    def aligned(self, params: Params, groups: tuple[Group, ...], model: Model) -> np.ndarray:
        """(refits, scalars), with the labels of `params`: those that bring each refit closest to it, in units of
        how far refits are from it. They begin there, so most of them have its labels, and the median tells."""
        if not self.kept:
            return np.zeros((0, len(self.scalars(params))))
        scales = {}
        for name, value in params.items():
            away = np.abs(np.stack([p[name] for p in self.kept]) - value)
            scales[name] = np.median(away, 0) + 1e-12 + 1e-6 * np.abs(value).mean()
        some = (align(dict(p), dict(params), groups, model, scales) for p in self.kept)
        return np.stack([self.scalars(p) for p in some])


def bootstrap_point(
    model: Model,
    target: Target,
    params: Params,
    vector: np.ndarray,
    groups: tuple[Group, ...],
    refits: Refits,
    progress: bool | None,
) -> Bootstrap:
    """Refit drawn or resampled data from an estimate, `params` at `vector`; see
    `PointFit.bootstrap`."""
    refits.check()
    clock = time.perf_counter()
    source = _Replicates.of(refits.kind, model, target, params)
    tolerance = TOLERANCE if target.dtype == np.float64 else 1e-4
    run = target.compiled(
        _refit, source.make, source.static, effort=Effort.LEAN, lanes=(0, None, None, None)
    )
    arrays = source.given, np.asarray(vector), (np.asarray(target.units), np.asarray(tolerance))
    wanted = refits.replicates
    lanes = int(np.clip(LANE_NUMBERS / (numbers_of(target) + 1), 1, min(LANES, wanted)))
    keys = jax.random.split(jax.random.key(refits.seed), -(-wanted // lanes) * lanes)
    tally, interrupted = _Tally([n for n in params if n not in target.fixed]), False
    with Progress("bootstrap", wanted, progress, "refits") as bar:
        for first in range(0, wanted, lanes):
            some = keys[first : first + lanes]
            try:
                ends = _Ends(*jax.device_get(run(some, *arrays)))
                count = min(lanes, wanted - first)
                failures = [_failure(target, source, some[i], ends, i) for i in range(count)]
            except KeyboardInterrupt:
                if not tally.done:
                    raise
                interrupted = True
                break
            for i, why in enumerate(failures):
                if why:
                    tally.fail(why)
                    continue
                own = {k: ends.params[k][i] for k in params}
                tally.keep(own, ends.values[i], ends.slopes[i] > 100 * tolerance)
            bar.advance(tally.done, "refits", f"{sum(tally.failed.values())} failed")
    names = list(scalar_names(target.space))
    return Bootstrap(
        kind=refits.kind,
        estimates=pd.DataFrame(tally.aligned(params, groups, model), columns=names),
        reference=pd.Series(tally.scalars(params), index=names),
        log_likelihoods=np.asarray(tally.objectives),
        failed=tally.failed,
        unfinished=tally.unfinished,
        replicates=tally.done if interrupted else int(wanted),
        seconds=time.perf_counter() - clock,
        seed=refits.seed,
        interrupted=interrupted,
        unidentified=rotated(target, vector),
    )


def _failure(target: Target, source: _Replicates, key: jax.Array, ends: _Ends, i: int) -> str:
    """Why the refit of one lane does not count ("" if it does)."""
    point = ends.vectors[i]
    if not (np.isfinite(ends.values[i]) and np.all(np.isfinite(point))):
        return Status.NOT_FINITE.label
    own = target.on(source.data(target, key))
    flag, _ = judge_components(own, Scales.at(own, point), rows_at(own, point))
    if flag is not None:
        return flag.label
    return Status.SEPARATION.label if find_separation(own, point) else ""
