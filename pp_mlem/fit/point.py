"""The result of EM, MLE and MAP: a point, the starts that led there, and its uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import Effort
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd, scipy_stats
from pp_mlem.base.status import Status
from pp_mlem.diagnose.bootstrap import Bootstrap, Refits, as_covariance, bootstrap_point
from pp_mlem.diagnose.hypotheses import ChiSquaredTest, score, wald
from pp_mlem.diagnose.information import MissingInformation, missing_information_at
from pp_mlem.diagnose.intervals import limits
from pp_mlem.diagnose.kinks import REASON as KINK
from pp_mlem.diagnose.kinks import at_kink
from pp_mlem.diagnose.optima import describe_optima
from pp_mlem.diagnose.profile import ProfileInterval, profile_interval
from pp_mlem.diagnose.rotations import free_scalars
from pp_mlem.diagnose.separation import REASON, UNBOUNDED, find_separation, without_errors
from pp_mlem.diagnose.uncertainty import (
    Covariance,
    Estimate,
    covariance_at,
    delta_method,
    restricted,
    too_many,
)
from pp_mlem.fit.base import Fit, Params, headed, params_of
from pp_mlem.fit.datatree import ASYMPTOTIC, FEWEST_DRAWS, POINTWISE_CELLS, Drawn
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.space import scalar_names
from pp_mlem.target.parts import without_rows
from pp_mlem.target.priors import log_prior
from pp_mlem.target.solution import Solution
from pp_mlem.target.target import Target

ASYMPTOTIC_DRAWS = 1000
FLAT = 1e-10  # of a correlation's eigenvalues: rounding, where a direction has no spread
SETTLED = 1e-4  # slope per observation below which the two informations belong together
HALF_WIDTH = 1.959963984540054  # of a 95% interval, in standard errors


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PointFit(Fit):
    """A point estimate.

    Attributes:
        objective: "mle" or "map"; `value` is what was maximised, at the estimate.
        slope: the largest entry of its gradient, in unconstrained coordinates and per observation.
        histories, start_params: of every start. trace: parameters of every iteration of the chosen
            start, of a fit made with trace=True.
    """

    value: float = float("nan")
    trace: Sequence[Params] | None = None
    histories: Sequence[np.ndarray] = ()
    start_params: Sequence[Params] = ()
    draws: ClassVar[None] = None
    draw_vectors: ClassVar[None] = None
    sample_stats: ClassVar[None] = None

    @classmethod
    def from_point(
        cls,
        solution: Solution,
        *,
        model: Model,
        method: str,
        params: Mapping[str, Any],
        status: Status,
        status_note: str,
        starts: pd.DataFrame,
        **rest: Any,
    ) -> PointFit:
        """The fit that ended at a solution; `params` are all parameters there, labels in order."""
        target = solution.target
        with_prior = target.problem.with_prior
        params = {k: np.asarray(params[k]) for k in model.space.names}
        free_prior = prior_of(target, params) if with_prior else 0.0
        for name in ("trace", "histories", "start_params"):
            if rest.get(name) is not None:
                rest[name] = tuple(rest[name])
        return cls(
            model=model,
            method=method,
            objective="map" if with_prior else "mle",
            fixed={k: np.asarray(v) for k, v in target.fixed.items()},
            params=params,
            vector=solution.vector,
            log_likelihood=float(solution.value - free_prior),
            prior=None if target.fixed or not with_prior else free_prior,
            slope=solution.slope,
            status=status.label,
            status_note=status_note or status.meaning,
            starts=starts,
            n_parameters=free_scalars(target),
            n_observations=model.n_observations,
            scalar_names=scalar_names(target.space),
            value=float(solution.value),
            **rest,
        )

    @property
    def has_draws(self) -> bool:
        return False

    @property
    def objective_value(self) -> float:
        """What was maximised, the log-likelihood, or with the log prior of the free parameters."""
        return self.value if np.isfinite(self.value) else self.log_likelihood

    def relabelled(self, reference: Mapping[str, Any]) -> PointFit:
        params, vector, _, _ = self._relabelling(reference)
        known = self._cache.get("classification")
        if self.stored is not None and self.stored.classification is not None:
            known = self.stored.classification
        kept = {} if known is None else {"classification": known}  # no order of labels changes it
        return replace(self, params=params, vector=vector, stored=None, _cache=kept)

    # --- scores -----------------------------------------------------------------------------

    @property
    def aic(self) -> float:
        return -2 * self.log_likelihood + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        return -2 * self.log_likelihood + self.n_parameters * np.log(self.n_observations)

    @property
    def icl(self) -> float:
        classification = self.classification
        if classification is None:
            classification = self.model_for("icl").classification_log_likelihood(self.params)
        return self.bic - 2 * (classification - self.log_likelihood)

    @property
    def classification(self) -> float | None:
        if self.stored is not None and self.stored.classification is not None:
            return self.stored.classification
        model = self.model
        if model is None:
            return None
        return self._once(
            "classification", lambda: model.classification_log_likelihood(self.params)
        )

    @property
    def story(self) -> str:
        starts = self.starts
        n = len(starts)
        aside = starts["status"].isin([Status.COLLAPSED.label, Status.SPURIOUS.label])
        main = starts[~aside & (starts["optimum"] > 0)].groupby("optimum")["objective"]
        label = "log-likelihood" if self.objective == "mle" else "log-likelihood + log prior"
        parts = []
        if len(main):
            sizes, best = main.size(), main.max()
            first = sizes.index[0]
            parts.append(
                f"best {label} {written(best[first])} reached by {sizes[first]} of {n} starts"
                + (
                    ", the distinct optima of a sample"
                    if isinstance(self.model, StreamedModel)
                    else ""
                )
            )
            if len(sizes) > 1:
                second = sizes.index[1]
                parts.append(f"next best {written(best[second])} by {sizes[second]}")
            if len(sizes) > 2:
                parts.append(f"{len(sizes)} optima in all")
        if aside.any():
            worst = starts[aside]
            top = worst.loc[worst["objective"].fillna(-np.inf).idxmax()]
            known = np.isfinite(top["objective"])
            height = f"up to {written(top['objective'])}" if known else "beyond all numbers"
            parts.append(
                f"{int(aside.sum())} set aside as {'/'.join(sorted(set(worst['status'])))} "
                f"({label} {height}: {top['note']})"
            )
        failed = int(((starts["optimum"] == 0) & ~aside).sum())
        if failed:
            parts.append(f"{failed} not finite")
        return "; ".join(parts)

    # --- uncertainty ------------------------------------------------------------------------

    def covariance_details(self, kind: str = "observed") -> Covariance:
        if kind == "observed" and self.stored is not None:
            return self.stored.covariance
        if kind == "bootstrap":
            return as_covariance(self._last_bootstrap())
        return self._once(("covariance", kind), lambda: self._covariance(kind))

    def _covariance(self, kind: str) -> Covariance:
        """NaN where there is no maximum for a curvature to be that of."""
        if too_many(self.scalar_names):
            return Covariance.of_too_many(self.scalar_names, len(self.vector), kind)
        with self.computing("covariance") as target:
            covariance = covariance_at(target, self.vector, kind)
            names = covariance.names
            if self.outcome is Status.COLLAPSED:
                return without_errors(covariance, names, UNBOUNDED)
            if self.outcome is Status.FLAT and at_kink(target.climb, self.vector):
                return without_errors(covariance, names, KINK)
            if self.outcome is Status.SEPARATION:
                separation = find_separation(target, self.vector)
                return without_errors(
                    covariance, separation.scalars if separation else names, REASON
                )
        return covariance

    def _last_bootstrap(self) -> Bootstrap:
        if "bootstrap" not in self._cache:
            self.model_for("covariance")
            self.bootstrap()
        last: Bootstrap = self._cache["bootstrap"]
        return last

    def summary(self, kind: str = "observed") -> pd.DataFrame:
        estimates, errors = self.estimates(), self.standard_errors(kind)
        low, high = self._wald(kind, HALF_WIDTH)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (estimates / errors).where(self._could_be_zero())
        table = pd.DataFrame(
            {
                "coef": estimates,
                "std err": errors,
                "z": z,
                "P>|z|": 2 * scipy_stats.norm.sf(np.abs(z)),
                "[0.025": low,
                "0.975]": high,
            }
        )
        reasons = self.covariance_details(kind).reasons
        if reasons:
            table["note"] = [reasons.get(str(n), "") for n in table.index]
        return headed(self, table)

    def _could_be_zero(self) -> np.ndarray:
        """Of each scalar whether zero lies inside of its support, so that somebody would test it."""
        low, high = self.bounds
        return (low < 0) & (high > 0)

    def _wald(self, kind: str, half: float) -> tuple[np.ndarray, np.ndarray]:
        """Limits `half` standard errors from the estimates, inside of the supports."""
        estimates, errors = self.estimates().to_numpy(), self.standard_errors(kind).to_numpy()
        return limits(estimates, errors, self.bounds, half)

    def draw_table(self) -> pd.DataFrame:
        raise ValueError(f"draw_table: {self.method} is a point estimate and has no draws.")

    def estimate(
        self, function: Callable[[dict[str, Any]], ArrayLike], kind: str = "observed",
        level: float = 0.95,
    ) -> Estimate:  # fmt: skip
        with self.computing("estimate") as target:
            details = self.covariance_details(kind)
            if kind != "bootstrap":
                return delta_method(target, self.vector, details, function, level)
            last = self._last_bootstrap()
            rows = [params_of(r, self.params, self.fixed) for r in last.estimates.to_numpy()]
            values = np.asarray([np.asarray(function(params)) for params in rows])
            here = np.asarray(function({k: jnp.asarray(v) for k, v in self.params.items()}))
            return Estimate.from_draws(values, here, level, last.reason)

    def bootstrap(
        self,
        replicates: int = 200,
        kind: str = "parametric",
        seed: int = 0,
        progress: bool | None = None,
    ) -> Bootstrap:
        """Refit drawn ("parametric") or resampled ("nonparametric") data, warm-started from the
        estimate; all replicates of a block in one computation, labels aligned to this fit.

        Failed refits (collapsed, spurious, not finite) are left out and counted. The result also
        becomes `covariance(kind="bootstrap")`. Efron & Tibshirani (1993),
        doi:10.1201/9780429246593.

        Raises:
            ValueError: where data cannot be drawn or units cannot be resampled, with the reason.
        """
        model = self.model_for("bootstrap")
        refits = Refits(replicates, kind, seed)
        with self.computing("bootstrap") as target:
            bootstrap = bootstrap_point(
                model, target, self.params, self.vector, self.groups, refits, progress
            )
        self._cache["bootstrap"] = bootstrap
        return bootstrap

    def profile(self, name: str, level: float = 0.95) -> ProfileInterval:
        """Profile-likelihood interval of one free scalar, such as "mu[0]": all the others are
        maximised anew at every value. For a MAP fit the log posterior is profiled."""
        self.model_for("profile")
        if self.outcome is Status.COLLAPSED:
            raise ValueError(
                f"profile: the likelihood has no bound, so no interval can be had from it: "
                f"{self.status_note}."
            )
        details = self.covariance_details("observed")
        if self.outcome is Status.SEPARATION and name in details.reasons:
            # at infinity curvature measures no distance
            details = replace(details, free=0 * details.free)
        with self.computing("profile") as target:
            solution = Solution(target, self.vector, self.objective_value, self.slope)
            return profile_interval(solution, details, name, level)

    def _limits(self, kind: str, names: list[str], level: float) -> pd.DataFrame:
        if kind == "wald":
            low, high = self._wald("observed", scipy_stats.norm.ppf((1 + level) / 2))
            return pd.DataFrame({"low": low, "high": high}, index=list(self.scalar_names))
        if kind == "bootstrap":
            return self._last_bootstrap().intervals(level)
        if kind != "profile":
            raise ValueError(f"kind: received {kind!r}, expected 'wald', 'profile' or 'bootstrap'.")
        limits = pd.DataFrame(np.nan, index=names, columns=["low", "high"])
        for name in names:
            interval = self.profile(name, level)
            limits.loc[name] = [interval.low, interval.high]
            if interval.interrupted:
                warnings.warn(
                    "intervals: stopped by the user; limits not found yet are NaN", stacklevel=3
                )
                break
        return limits

    def wald_test(
        self,
        restrictions: Iterable[str] | Callable[[dict[str, Any]], ArrayLike],
        value: ArrayLike = 0.0,
        kind: str = "observed",
    ) -> ChiSquaredTest:
        """That several scalars, or functions of the parameters, have a value (Wald 1943).

        Args:
            restrictions: names of free scalars, such as ["b[age]", "b[income]"], or a function of the
                parameters that returns an array, as in `estimate`.
            value: what they are under the hypothesis, a number or one for each.
            kind: of the covariance, as in `covariance`.

        Returns:
            a `ChiSquaredTest` with `statistic`, `df` and `p_value`; NaN with its reason where a standard error
            cannot be trusted.
        """
        details = self.covariance_details(kind)
        if callable(restrictions):
            with self.computing("wald_test") as target:
                gaps, matrix, reason = restricted(target, self.vector, details, restrictions)
        else:
            names = [restrictions] if isinstance(restrictions, str) else list(restrictions)
            unknown = [n for n in names if n not in self.scalar_names]
            if unknown or not names:
                raise ValueError(
                    f"restrictions: received {unknown or names}, expected names among {list(self.scalar_names)[:8]} "
                    "..., or a function of the parameters."
                )
            places = [self.scalar_names.index(n) for n in names]
            gaps, matrix = (
                self.estimates().to_numpy()[places],
                details.matrix[np.ix_(places, places)],
            )
            reason = next((details.reasons[n] for n in names if n in details.reasons), "")
        return wald(gaps - np.broadcast_to(np.asarray(value, float), gaps.shape), matrix, reason)

    def score_test(self, kind: str = "observed") -> ChiSquaredTest:
        """That the parameters (or entries of them) which this fit holds fixed have those values (Rao 1948): the gradient of the whole
        problem at the restricted maximum, nothing else is fitted.

        Args:
            kind: of the information there, "observed" or "opg".

        >>> fit_mle(model, fixed={"slope": 0.0}).score_test()  # doctest: +SKIP
        """
        if kind not in ("observed", "opg"):
            raise ValueError(f"kind: received {kind!r}, expected 'observed' or 'opg'.")
        model = self.model_for("score_test")
        unheld, pins = model.unheld or (model, {})
        if not (self.fixed or pins) or self.objective != "mle":
            raise ValueError(
                "score_test: this fit holds nothing fixed, or has a prior. Fit the hypothesis by "
                "fit_mle(model, fixed={...}), and ask that fit."
            )
        with self.computing("score_test") as target:
            params = {n: pins[n].whole(v) if n in pins else v for n, v in self.params.items()}
            whole = unheld.target(None)
            vector = np.asarray(whole.space.to_vector(params))
            return score(whole, vector, whole.space.size - target.space.size, kind)

    def missing_information(self) -> MissingInformation:
        """The fraction of missing information of every scalar and EM's rate of convergence, from
        the complete and the observed information."""

        def make() -> MissingInformation:
            details = self.covariance_details("observed")
            if details.too_large:
                raise ValueError(f"missing_information: {next(iter(details.reasons.values()))}.")
            with self.computing("missing_information") as target:
                return missing_information_at(target, self.vector, details, self.slope < SETTLED)

        self.model_for("missing_information")
        return self._once("missing", make)

    @property
    def optima(self) -> pd.DataFrame:
        """The distinct optima that the starts found, labels aligned, the best first.

        Columns: objective, below_best (nats; negative where what was set aside lies above), starts and
        their share, kind ("maximum", "saddle", "ridge", "boundary", "collapsed", "spurious"), gradient per
        observation, the smallest eigenvalue of the information scaled to a unit diagonal, how many distinct
        points share the value, and the start that represents it (`start_params[start]`).
        """
        model = self.model_for("optima")
        if not self.start_params:
            raise ValueError("optima: this fit does not hold its starts' parameters.")

        def make() -> pd.DataFrame:
            with self.computing("optima") as target:
                return describe_optima(target, self.starts, self.start_params, self.groups, model)

        return self._once("optima", make)

    # --- latents, draws for a tree ----------------------------------------------------------

    def posterior(self, out: str | Path | None = None) -> Any:
        return self.model_for("posterior").posterior(self.params, out)

    def impute(self, draws: int = 0, seed: int = 0) -> dict[str, Any]:
        model = self.model_for("impute")
        check_counts(0, draws=draws)
        check_seed(seed)
        if draws == 0:
            return model.impute(self.params)
        if self.outcome is Status.COLLAPSED:
            raise ValueError(
                f"impute: the likelihood has no bound, so its estimates have no spread: {self.status_note}. "
                "Ask for model.impute(fit.params, draws), at the estimates."
            )
        with self.computing("impute") as target:
            vectors, _ = self._asymptotic(draws, np.random.default_rng(seed))
            params = target.constrained(vectors)
        several = [{name: value[i] for name, value in params.items()} for i in range(draws)]
        return model.impute_at(several, seed)

    def several_params(self, draws: int, seed: int) -> Params:
        return {k: np.broadcast_to(v, (draws, *np.shape(v))) for k, v in self.params.items()}

    def spread_params(self, draws: int, seed: int) -> tuple[Params, int, str]:
        with self.computing("posterior_predictive") as target:
            vectors, _ = self._asymptotic(draws, np.random.default_rng(seed))
            free = target.constrained(vectors)
        return self.several_params(draws, seed) | free, 1, ASYMPTOTIC

    def drawn(self) -> Drawn:
        """Draws of the vector from the normal approximation in unconstrained coordinates."""
        units = max(float(self.n_observations), 1.0)
        draws = int(np.clip(0.4 * POINTWISE_CELLS / units, FEWEST_DRAWS, ASYMPTOTIC_DRAWS))
        vectors, log_q = self._asymptotic(draws, np.random.default_rng(self.seed))
        return Drawn(vectors[None], None, None, ASYMPTOTIC, log_q[None])

    def _asymptotic(self, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (draws, size) and their log density, up to a constant; along what has no standard error
        all are at the estimate."""
        details = self.covariance_details("observed")
        if details.too_large:
            return np.broadcast_to(self.vector, (draws, len(self.vector))), np.zeros(draws)
        free = np.where(np.isfinite(details.free), details.free, 0.0)
        scale = np.sqrt(np.maximum(np.diag(free), 0.0))
        scale = np.where(scale > 0, scale, 1.0)
        values, axes = np.linalg.eigh(free / np.outer(scale, scale))
        values = np.where(values > FLAT, values, 0.0)
        # by the symmetric root, which does not hang on the signs and order of axes
        noise = (rng.standard_normal((draws, len(scale))) @ axes) * (values > 0)
        vectors = self.vector + scale * ((noise * np.sqrt(values)) @ axes.T)
        return vectors, -0.5 * (noise**2).sum(1)


@without_rows
def _free_prior(target: Target, params: dict[str, jax.Array]) -> jax.Array:
    return log_prior(target.reading, params, target.data, frozenset(target.space.names))


def prior_of(target: Target, params: Mapping[str, Any]) -> float:
    """The log prior of the free parameters, at all of them."""
    run = target.compiled(_free_prior, effort=Effort.LEAN)
    return float(run({k: np.asarray(v) for k, v in params.items()}))
