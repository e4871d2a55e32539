"""The result of every estimator: estimates, verdict, uncertainty, scores; saved and loaded."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_level
from pp_mlem.base.compiling import lean_jit, quick_jit
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd, scipy_stats, xr
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.diagnose.bootstrap import Bootstrap, as_covariance, bootstrap_point
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.information import MissingInformation, missing_information_at
from pp_mlem.diagnose.kinks import REASON as KINK
from pp_mlem.diagnose.kinks import at_kink
from pp_mlem.diagnose.labels import alignment, permute, reorder_draws
from pp_mlem.diagnose.optima import describe_optima
from pp_mlem.diagnose.profile import ProfileInterval, profile_interval
from pp_mlem.diagnose.separation import REASON, UNBOUNDED, find_separation_old, without_errors
from pp_mlem.diagnose.summary import average_posterior
from pp_mlem.diagnose.uncertainty import (
    Covariance,
    Estimate,
    covariance_at,
    delta_method,
    natural_scale,
)
from pp_mlem.fit.datatree import (
    ASYMPTOTIC,
    FEWEST_DRAWS,
    POINTWISE_CELLS,
    build_tree,
    damaged,
    kept_draws,
    observed_arguments,
    read_fit,
    told_pointwise,
    variable_names,
    write_fit,
)
from pp_mlem.fit.record import check_model_of, check_record
from pp_mlem.marginal.units import pointwise_values
from pp_mlem.model.model import Model
from pp_mlem.program.space import scalar_names
from pp_mlem.target.priors import log_prior
from pp_mlem.target.problem import Problem

ASYMPTOTIC_DRAWS = 1000


@dataclass
class Fit:
    """A fitted model.

    Attributes:
        params: estimates by name, constrained (NUTS: posterior means after label alignment).
        log_likelihood: marginal log-likelihood at `params`, nats. log_prior: apart from it.
        converged: True only when the gradient of the objective, in unconstrained coordinates and
            per observation, is within tolerance (NUTS: R-hat below 1.01 and no divergences).
        status: how the chosen start ended; `status_note` says more.
        iterations, history: of the chosen start; `history` is the objective before each M-step
            (EM) or after each step (MLE, MAP).
        starts: a DataFrame with every start: objective, status, iterations, gradient, optimum.
        seconds: wall time, compilation included.
        draws: NUTS and Laplace only: {parameter: (chain, draw, ...)}, labels aligned.
    """

    model: Model | None
    method: str
    objective: str
    fixed: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    vector: np.ndarray
    log_likelihood: float
    log_prior: float
    slope: float
    status: str
    status_note: str
    iterations: int
    history: np.ndarray
    starts: pd.DataFrame
    n_parameters: int
    n_observations: int | float
    groups: tuple[Group, ...]
    seed: int
    seconds: float
    compile_seconds: float
    scalar_names: tuple[str, ...]
    trace: list[dict[str, np.ndarray]] | None = None
    histories: list[np.ndarray] = field(default_factory=list)
    start_params: list[dict[str, np.ndarray]] = field(default_factory=list)
    draws: dict[str, np.ndarray] | None = None
    draw_vectors: np.ndarray | None = None
    sample_stats: dict[str, np.ndarray] | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)
    value: float = float("nan")
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    # --- making -----------------------------------------------------------------------------

    @classmethod
    def from_point(
        cls,
        *,
        model: Model,
        method: str,
        objective: str,
        fixed: dict,
        params: dict,
        vector: np.ndarray,
        value: float,
        slope: float,
        status: Status,
        status_note: str,
        starts: pd.DataFrame,
        **rest: Any,
    ) -> Fit:
        """A point fit; `value` is the objective that was maximised."""
        params = {k: np.asarray(params[k]) for k in model.space.names}
        with_prior = objective == "map"
        log_prior = model.log_prior(params)
        space = model.problem(fixed, with_prior).space
        free_prior = log_prior
        if with_prior and fixed:
            free_prior = prior_of(model, params, frozenset(space.names))
        likelihood = value - free_prior if with_prior else value
        return cls(
            model=model,
            method=method,
            objective=objective,
            fixed=fixed,
            params=params,
            vector=vector,
            log_likelihood=float(likelihood),
            log_prior=log_prior,
            slope=slope,
            status=status.label,
            status_note=status_note or status.meaning,
            starts=starts,
            n_parameters=space.size,
            n_observations=model.n_observations,
            scalar_names=scalar_names(space),
            value=float(value),
            **rest,
        )

    @property
    def has_draws(self) -> bool:
        """Whether this is a sample of a posterior (NUTS, Laplace) rather than a point estimate."""
        return self.draws is not None

    @property
    def converged(self) -> bool:
        return self.status == Status.CONVERGED.label

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it: what was finished is here, and it was not all."""
        return self.status == Status.INTERRUPTED.label or "interrupted" in self.diagnostics

    def _model(self, what: str) -> Model:
        if self.model is None:
            raise ValueError(
                f"{what} needs the model, which a file does not hold. Load the fit with "
                "load(path, model=Model(program, data))."
            )
        return self.model

    def problem(self) -> Problem:
        model = self._model("this")
        with working_precision(model.dtype):
            return model.problem(self.fixed, self.objective == "map")

    def relabelled(self, reference: Mapping[str, Any]) -> Fit:
        """The same fit with its exchangeable components ordered as in `reference`."""
        model = self._model("relabelling")
        params, draws = dict(self.params), None if self.draws is None else dict(self.draws)
        for group in self.groups:
            order = alignment(params, dict(reference), group, model=model)
            params = permute(params, group, order, model, reference)
            if draws is not None:
                draws = self._reordered(draws, group, order)
        with working_precision(model.dtype):
            space = self.problem().space
            vector = np.asarray(space.to_vector(params))
            vectors = self.draw_vectors
            if draws is not None:
                flat = {k: jnp.asarray(v.reshape(-1, *v.shape[2:])) for k, v in draws.items()}
                vectors = np.asarray(jax.vmap(space.unconstrain)(flat)).reshape(vectors.shape)
        kept = {k: v for k, v in self._cache.items() if k == "classification"}
        return dataclasses.replace(
            self, params=params, vector=vector, draws=draws, draw_vectors=vectors, _cache=kept
        )

    def _reordered(
        self, draws: dict[str, np.ndarray], group: Group, order: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Draws (chain, draw, ...) with the components of all of them in one order."""
        shape = next(iter(draws.values())).shape[:2]
        count = shape[0] * shape[1]
        flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.items()}
        flat |= {k: np.broadcast_to(v, (count, *np.shape(v))) for k, v in self.fixed.items()}
        moved, _ = reorder_draws(flat, group, np.tile(order, (count, 1)), self.model)
        return {k: moved[k].reshape(*shape, *moved[k].shape[1:]) for k in draws}

    # --- scores -----------------------------------------------------------------------------

    @property
    def aic(self) -> float:
        """-2 log L + 2 df (Akaike 1974); NaN for NUTS, which has no maximum."""
        return (
            np.nan if self.draws is not None else -2 * self.log_likelihood + 2 * self.n_parameters
        )

    @property
    def bic(self) -> float:
        """-2 log L + df log n (Schwarz 1978), n independent units; smaller is better."""
        if self.draws is not None:
            return np.nan
        return -2 * self.log_likelihood + self.n_parameters * np.log(self.n_observations)

    @property
    def icl(self) -> float:
        """BIC with the complete-data likelihood at the decoded latents, ICL-BIC of Biernacki,
        Celeux & Govaert (2000), doi:10.1109/34.865189, as in mclust and flexmix (smaller is
        better); equals BIC when nothing is latent."""
        if self.draws is not None:
            return np.nan
        return self.bic - 2 * (self._classification() - self.log_likelihood)

    def _classification(self) -> float:
        if "classification" not in self._cache:
            model = self._model("icl")
            self._cache["classification"] = model.classification_log_likelihood(self.params)
        return self._cache["classification"]

    @property
    def story(self) -> str:
        """What the starts found, in a sentence."""
        if self.draws is not None:
            return self.diagnostics.get("story", "")
        found = self.starts
        n = len(found)
        aside = found["status"].isin(["collapsed", "spurious"])
        main = found[~aside & (found["optimum"] > 0)].groupby("optimum")["objective"]
        label = "log-likelihood" if self.objective == "mle" else "log-likelihood + log prior"
        parts = []
        if len(main):
            sizes, best = main.size(), main.max()
            first = sizes.index[0]
            parts.append(
                f"best {label} {written(best[first])} reached by {sizes[first]} of {n} starts"
            )
            if len(sizes) > 1:
                second = sizes.index[1]
                parts.append(f"next best {written(best[second])} by {sizes[second]}")
            if len(sizes) > 2:
                parts.append(f"{len(sizes)} optima in all")
        if aside.any():
            worst = found[aside]
            top = worst.loc[worst["objective"].fillna(-np.inf).idxmax()]
            known = np.isfinite(top["objective"])
            told = f"up to {written(top['objective'])}" if known else "beyond all numbers"
            parts.append(
                f"{int(aside.sum())} set aside as {'/'.join(sorted(set(worst['status'])))} "
                f"({label} {told}: {top['note']})"
            )
        failed = int(((found["optimum"] == 0) & ~aside).sum())
        if failed:
            parts.append(f"{failed} not finite")
        return "; ".join(parts)

    # --- uncertainty ------------------------------------------------------------------------

    def covariance_details(self, kind: str = "observed") -> Covariance:
        """The covariance with its names and the reason of every NaN."""
        key = ("covariance", kind)
        if key not in self._cache:
            if self.draws is not None:
                table, names = self.draw_table().to_numpy(), self.scalar_names
                matrix = np.full((len(names), len(names)), np.nan)
                reasons = dict.fromkeys(names, "one draw has no spread")
                if len(table) > 1:
                    matrix, reasons = np.atleast_2d(np.cov(table.T)), {}
                self._cache[key] = Covariance(names, matrix, matrix, reasons, "posterior")
            else:
                model = self._model("covariance")
                if kind == "bootstrap":
                    self.bootstrap()
                    return self._cache[key]
                found = covariance_at(model, self.problem(), self.vector, self.fixed, kind)
                self._cache[key] = self._trusted(found, model)
        return self._cache[key]

    def _trusted(self, found: Covariance, model: Model) -> Covariance:
        """NaN where there is no maximum for a curvature to be that of."""
        if self.status == Status.COLLAPSED.label:
            return without_errors(found, found.names, UNBOUNDED)
        if self.status not in (Status.SEPARATION.label, Status.FLAT.label):
            return found
        with working_precision(model.dtype):
            held = {k: jnp.asarray(v) for k, v in self.fixed.items()}
            if self.status == Status.FLAT.label:
                kink = at_kink(model.target(self.fixed, self.objective == "map").climb, self.vector)
                return without_errors(found, found.names, KINK) if kink else found
            separation = find_separation_old(model, self.problem(), self.vector, held)
        scalars = separation.scalars if separation else found.names
        return without_errors(found, scalars, REASON)

    def covariance(self, kind: str = "observed") -> pd.DataFrame:
        """Covariance matrix of the free scalars on their natural scale.

        kind: "observed", "sandwich", "opg" or "bootstrap" (that of the last call of `bootstrap`,
        or 200 parametric replicates). Rows of a scalar whose standard error
        cannot be trusted are NaN; `covariance_details(kind).reasons` says why.
        """
        found = self.covariance_details(kind)
        return pd.DataFrame(found.matrix, index=found.names, columns=found.names)

    def standard_errors(self, kind: str = "observed") -> pd.Series:
        """Square roots of the covariance's diagonal."""
        found = self.covariance_details(kind)
        with np.errstate(invalid="ignore"):
            return pd.Series(np.sqrt(np.diag(found.matrix)), index=list(found.names))

    def estimates(self) -> pd.Series:
        """Every free scalar by name."""
        order = [n for n in self.params if n not in self.fixed]
        flat = np.concatenate([np.ravel(self.params[n]) for n in order] or [np.zeros(0)])
        return pd.Series(flat, index=list(self.scalar_names))

    def summary(self, kind: str = "observed") -> pd.DataFrame:
        """One row per scalar: coef, std err, z, P>|z|, [0.025, 0.975]; `note` where a standard
        error is NaN. For NUTS: posterior mean, sd, central interval, ESS and R-hat."""
        estimates, errors = self.estimates(), self.standard_errors(kind)
        if self.draws is not None:
            return self._posterior_summary(estimates, errors)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = estimates / errors
        table = pd.DataFrame(
            {
                "coef": estimates,
                "std err": errors,
                "z": z,
                "P>|z|": 2 * scipy_stats.norm.sf(np.abs(z)),
                "[0.025": estimates - 1.959963984540054 * errors,
                "0.975]": estimates + 1.959963984540054 * errors,
            }
        )
        reasons = self.covariance_details(kind).reasons
        if reasons:
            table["note"] = [reasons.get(n, "") for n in table.index]
        return table

    def draw_table(self) -> pd.DataFrame:
        """Posterior draws as a table (chains x draws, scalars), labels aligned."""
        if self.draws is None:
            raise ValueError(f"draw_table: {self.method} is a point estimate and has no draws.")
        order = [n for n in self.params if n not in self.fixed]
        flat = [self.draws[n].reshape(np.prod(self.draws[n].shape[:2]), -1) for n in order]
        return pd.DataFrame(np.concatenate(flat, 1), columns=list(self.scalar_names))

    def _posterior_summary(self, mean: pd.Series, sd: pd.Series) -> pd.DataFrame:
        tails = self.draw_table().quantile([0.025, 0.975])
        low, high = tails.iloc[0], tails.iloc[1]
        table = pd.DataFrame({"mean": mean, "sd": sd, "[0.025": low, "0.975]": high})
        for column in ("ess_bulk", "ess_tail", "r_hat"):
            if column in self.diagnostics:
                table[column] = [self.diagnostics[column][n] for n in mean.index]
        return table

    def _point_only(self, what: str) -> Model:
        if self.draws is not None:
            raise ValueError(
                f"{what} belongs to a point estimate; {self.method} has posterior draws instead. "
                "Call it on the result of fit_em, fit_mle or fit_map."
            )
        return self._model(what)

    def estimate(
        self, function: Callable[[dict[str, Any]], Any], kind: str = "observed", level: float = 0.95
    ) -> Estimate:
        """Any smooth function of the parameters, with its standard error by the delta method.

        Args:
            function: takes the dictionary of constrained parameters, returns a scalar or an array;
                written with jax.numpy where it does more than arithmetic.
            kind: of covariance, as in `covariance` ("bootstrap" evaluates the function at every
                refit).
            level: of the interval.

        For a fit with draws: posterior mean, standard deviation and central interval.

        >>> fit.estimate(lambda p: p["mu"][1] - p["mu"][0])  # doctest: +SKIP
        """
        model = self._model("estimate")
        with working_precision(model.dtype):
            if self.draws is not None:
                flat = {k: jnp.asarray(v.reshape(-1, *v.shape[2:])) for k, v in self.draws.items()}
                held = {k: jnp.asarray(v) for k, v in self.fixed.items()}
                values = np.asarray(jax.vmap(lambda p: jnp.asarray(function({**held, **p})))(flat))
                return Estimate.from_draws(values, None, level)
            if kind == "bootstrap":
                self.covariance_details(kind)
                found: Bootstrap = self._cache["bootstrap"]
                values = [
                    np.asarray(function(self._params_of(row))) for row in found.estimates.to_numpy()
                ]
                here = np.asarray(function({k: jnp.asarray(v) for k, v in self.params.items()}))
                return Estimate.from_draws(np.asarray(values), here, level, found.reason)
            return delta_method(
                model, self.problem(), self.vector, self.fixed, self.covariance_details(kind), function,
                level,
            )  # fmt: skip

    def _params_of(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Free scalars in order to a dictionary of arrays."""
        found, at = {}, 0
        for name, value in self.params.items():
            if name in self.fixed:
                found[name] = np.asarray(value)
                continue
            size = int(np.size(value))
            found[name] = row[at : at + size].reshape(np.shape(value))
            at += size
        return found

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
        model = self._point_only("bootstrap")
        found = bootstrap_point(
            model, self.problem(), self.params, self.vector, self.fixed, self.groups, replicates,
            kind, seed, progress,
        )  # fmt: skip
        self._cache["bootstrap"] = found
        self._cache["covariance", "bootstrap"] = as_covariance(found)
        return found

    def profile(self, name: str, level: float = 0.95) -> ProfileInterval:
        """Profile-likelihood interval of one free scalar, such as "mu[0]": all the others are
        maximised anew at every value. For a MAP fit the log posterior is profiled."""
        model = self._point_only("profile")
        if self.status == Status.COLLAPSED.label:
            raise ValueError(
                f"profile: the likelihood has no bound, so no interval can be had from it: "
                f"{self.status_note}."
            )
        details = self.covariance_details("observed")
        if self.status == Status.SEPARATION.label and name in details.reasons:
            # at infinity curvature measures no distance
            details = replace(details, free=0 * details.free)
        with working_precision(model.dtype):
            _, jacobian = natural_scale(model, self.problem(), self.vector)
        return profile_interval(
            model, self.problem(), self.vector, self.fixed, details.free, jacobian,
            self.objective_value, name, level,
        )  # fmt: skip

    def intervals(
        self, kind: str = "wald", names: Iterable[str] | None = None, level: float = 0.95
    ) -> pd.DataFrame:
        """Confidence intervals of free scalars: columns low and high.

        kind: "wald" (estimate and standard error), "profile" (one scalar at a time, so name a
        few), "bootstrap" (percentiles of the last bootstrap). NUTS: central posterior intervals.
        """
        check_level(level)
        every = list(self.scalar_names)
        chosen = every if names is None else [names] if isinstance(names, str) else list(names)
        unknown = [n for n in chosen if n not in every]
        if unknown:
            raise ValueError(f"names: {unknown} are no free scalars; these are {every[:8]} ...")
        if self.draws is not None:
            flat = self.draw_table()
            tails = flat.quantile([(1 - level) / 2, (1 + level) / 2])
            found = pd.DataFrame({"low": tails.iloc[0], "high": tails.iloc[1]})
        elif kind == "wald":
            half = scipy_stats.norm.ppf((1 + level) / 2) * self.standard_errors()
            found = pd.DataFrame({"low": self.estimates() - half, "high": self.estimates() + half})
        elif kind == "profile":
            found = pd.DataFrame(np.nan, index=chosen, columns=["low", "high"])
            for name in chosen:
                row = self.profile(name, level)
                found.loc[name] = [row.low, row.high]
                if row.interrupted:
                    warnings.warn(
                        "intervals: stopped by the user; limits not found yet are NaN", stacklevel=2
                    )
                    break
        elif kind == "bootstrap":
            self.covariance_details("bootstrap")
            found = self._cache["bootstrap"].intervals(level)
        else:
            raise ValueError(f"kind: received {kind!r}, expected 'wald', 'profile' or 'bootstrap'.")
        return found.loc[chosen]

    def missing_information(self) -> MissingInformation:
        """The fraction of missing information of every scalar and EM's rate of convergence, from
        the complete and the observed information."""
        model = self._point_only("missing_information")
        if "missing" not in self._cache:
            settled = self.slope < 1e-4
            self._cache["missing"] = missing_information_at(
                model, self.problem(), self.vector, self.fixed, settled
            )
        return self._cache["missing"]

    @property
    def objective_value(self) -> float:
        """What was maximised: the log-likelihood, or with the log prior of the free parameters."""
        return self.value if np.isfinite(self.value) else self.log_likelihood

    @property
    def optima(self) -> pd.DataFrame:
        """The distinct optima that the starts found, labels aligned, the best first.

        Columns: objective, below_best (nats), starts and their share, kind ("maximum", "saddle",
        "ridge", "boundary", "collapsed", "spurious"), gradient per observation, the smallest
        eigenvalue of the information scaled to a unit diagonal, how many distinct points share the
        value, and the start that represents it (`start_params[start]`).
        """
        model = self._point_only("optima")
        if not self.start_params:
            raise ValueError("optima: this fit does not hold its starts' parameters.")
        if "optima" not in self._cache:
            self._cache["optima"] = describe_optima(
                model, self.problem(), self.fixed, self.starts, self.start_params, self.groups
            )
        return self._cache["optima"]

    # --- latents ----------------------------------------------------------------------------

    def posterior(self) -> dict[str, np.ndarray]:
        """p(latent | data) at the estimates: (*plates, values); NUTS: averaged over draws."""
        model = self._model("posterior")
        if self.draws is None:
            return model.posterior(self.params)
        return average_posterior(model, self.draws)

    def decode(self) -> dict[str, np.ndarray]:
        """The jointly most probable latents at the estimates."""
        return self._model("decode").decode(self.params)

    def _on(self, args: tuple, kwargs: dict) -> Model:
        model = self._model("predict")
        new = Model(model.program, *args, **model.overrides, dtype=model.dtype, **kwargs)
        for site in model.space.sites:
            other = {s.name: s for s in new.space.sites}.get(site.name)
            if other is None or other.shape != site.shape:
                raise ValueError(
                    f"predict: parameter '{site.name}' has shape {site.shape} in the fit and "
                    f"{other.shape if other else 'no place'} on the new data; its size must not "
                    "depend on the data."
                )
        return new

    def predict(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """The jointly most probable latents on new data (arguments of the program)."""
        return self._on(args, kwargs).decode(self.params)

    def predict_proba(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Posterior probabilities of the latents on new data (arguments of the program)."""
        return self._on(args, kwargs).posterior(self.params)

    # --- pictures ---------------------------------------------------------------------------

    def plot_surface(
        self,
        a: str,
        b: str,
        kind: str = "slice",
        others: Mapping[str, Fit] | None = None,
        points: int = 41,
        width: float = 4.0,
        axes: Any = None,
    ) -> Any:
        """Contours of the objective over two free scalars, such as "mu[0]" and "mu[1]".

        Args:
            a, b: the scalars on the two axes.
            kind: "slice" (the others stay at the estimate; the rest of a simplex is rescaled) or
                "profile" (the others are maximised anew at every point).
            others: more fits by name: their estimates, their paths (fits made with trace=True) and
                their posterior draws are drawn on it. This fit's own path is drawn too.
            points: per axis. width: of each axis to either side, in standard errors.
            axes: matplotlib axes to draw on.

        Returns:
            the matplotlib figure. Surrounding contours are nats below the best value drawn.
        """
        return verbs.plot(
            self, a, b, kind=kind, others=dict(others or {}), points=points, width=width, axes=axes
        )

    # --- ArviZ, disk ------------------------------------------------------------------------

    def _asymptotic_draws(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(1, draws, ...) from the normal approximation in unconstrained coordinates."""
        details = self.covariance_details("observed")
        free = np.where(np.isfinite(details.free), details.free, 0.0)
        rng = np.random.default_rng(self.seed)
        values, vectors = np.linalg.eigh(free)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        units = max(float(self.n_observations), 1.0)
        draws = int(np.clip(0.4 * POINTWISE_CELLS / units, FEWEST_DRAWS, ASYMPTOTIC_DRAWS))
        noise = rng.standard_normal((draws, len(self.vector)))
        points = self.vector + noise @ root.T
        return points[None]

    def to_datatree(self) -> xr.DataTree:
        """An ArviZ DataTree: posterior, log_likelihood (pointwise marginal), observed_data.

        The variable of the log_likelihood group is "units"; for a single sequence
        "one_step_ahead", since its terms are predictions given the past, not independent units.

        For point fits the posterior group holds draws of the asymptotic normal distribution in
        unconstrained coordinates, and says so in its attributes. The pointwise log-likelihood keeps
        at most 5e7 cells (draws x units, 400 MB): beyond it draws are thinned evenly, and below 100
        draws the group is left out; the attribute `log_likelihood` then says so. A site whose
        name netCDF cannot have ("a/b") is percent-encoded, with its own name in the attribute
        `site`.
        """
        if "tree" in self._cache:
            return self._cache["tree"]
        model = self._model("to_datatree")
        problem = self.problem()
        vectors = self.draw_vectors if self.draws is not None else self._asymptotic_draws()
        units = len(model.unit_weights())
        kept = kept_draws(*vectors.shape[:2], units)
        pointwise = None
        if kept is not None:
            pointwise, params = _along(model, problem, vectors[:, kept], self.fixed)
        if self.draws is not None:
            draws = self.draws
        elif kept is not None and len(kept) == vectors.shape[1]:
            draws = params
        else:
            draws = _params_along(model, problem, vectors, self.fixed)
        told = told_pointwise(kept, vectors.shape[1], units)
        kind = "posterior draws" if self.draws is not None else ASYMPTOTIC
        attributes = {
            "method": self.method,
            "draws": kind,
            "inference_library": "pp_mlem",
            "status": self.status,
        } | ({"log_likelihood": told} if told else {})
        tree = build_tree(
            {k: v for k, v in draws.items() if k not in self.fixed},
            pointwise,
            kept,
            observed_arguments(model.arguments.names, model.arguments.dynamic),
            self.sample_stats,
            attributes,
            "one_step_ahead" if model.marginal.sequential else "units",
        )
        self._cache["tree"] = tree
        return tree

    @property
    def fingerprint(self) -> dict[str, str] | None:
        """Of the program, its data and options: of the model, or as it was saved; None for a file
        of an older pp_mlem."""
        return self._cache.get("fingerprint") if self.model is None else self.model.fingerprint

    def save(self, path: str | Path) -> Path:
        """Write the fit as netCDF (an ArviZ tree plus a group of its own), whole or not at all.

        Raises:
            OSError: naming the file, when it cannot be written (a full disk, a read-only folder).
        """
        covariance = self.covariance_details("observed")
        if self.draws is None and self.model is not None:
            self._cache["classification"] = self._classification()  # for a fit without its model
        record: dict[str, Any] = {f"param.{k}": np.asarray(v) for k, v in self.params.items()}
        record |= {f"fixed.{k}": np.asarray(v) for k, v in self.fixed.items()}
        record |= {
            "vector": np.asarray(self.vector),
            "history": np.asarray(self.history),
            "covariance": covariance.matrix,
            "covariance_free": covariance.free,
        }
        if self.draw_vectors is not None:
            record["draw_vectors"] = self.draw_vectors
        free = [n for n in self.params if n not in self.fixed]
        if self.start_params and free:
            record["start_scalars"] = np.stack(
                [np.concatenate([np.ravel(p[n]) for n in free]) for p in self.start_params]
            )
        plain = (
            "method", "objective", "log_likelihood", "log_prior", "slope", "status",
            "status_note", "iterations", "n_parameters", "n_observations", "seed", "seconds",
            "compile_seconds", "scalar_names", "diagnostics", "value",
        )  # fmt: skip
        record |= {k: _plain(getattr(self, k)) for k in plain}
        record["classification"] = self._cache.get("classification")
        record["reasons"] = covariance.reasons
        record["starts"] = self.starts.reset_index().to_dict("list")
        record["groups"] = [dataclasses.asdict(g) for g in self.groups]
        record["names"] = list(self.params)
        record["fingerprint"] = self.fingerprint
        record = {k: _plain(v) if not isinstance(v, np.ndarray) else v for k, v in record.items()}
        return write_fit(path, self.to_datatree(), record)

    @property
    def _unit_word(self) -> str:
        return "steps" if self.model is not None and self.model.marginal.sequential else "units"

    def __repr__(self) -> str:
        lines = [
            f"{self.method} fit: log-likelihood {written(self.log_likelihood)}, {self.n_parameters} "
            f"parameters, {self.n_observations} {self._unit_word}, status {self.status} "
            f"({self.status_note}), {self.iterations} iterations, {self.seconds:.2f} s"
        ]
        if self.story:
            lines.append(self.story)
        if self.model is not None or ("covariance", "observed") in self._cache:
            lines.append(
                self.summary().to_string(
                    float_format=written, formatters={"P>|z|": "{:.4f}".format}, max_rows=40
                )
            )
        return "\n".join(lines)


def load(path: str | Path, model: Model | None = None) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Args:
        path: the netCDF file.
        model: the model, for what a file cannot hold (posterior, decode, predict).

    Raises:
        FileNotFoundError, ValueError: naming the file when it is absent, damaged, of a newer format
            or not a fit, or when the model is not the one that was fitted.
    """
    tree, record = read_fit(path)
    check_record(path, record)
    try:
        fit = _of_record(tree, record, model)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise damaged(path, error) from None
    if model is not None:
        check_model_of(path, record, model)
    return fit


def _of_record(tree: xr.DataTree, record: dict[str, Any], model: Model | None) -> Fit:
    names = record["names"]
    groups = tuple(Group.of_record(g) for g in record["groups"])
    starts = pd.DataFrame(record["starts"])
    if "start" in starts:
        starts = starts.set_index("start")
    is_nuts = "draw_vectors" in record
    fit = Fit(
        model=model,
        method=record["method"],
        objective=record["objective"],
        fixed={k[6:]: v for k, v in record.items() if k.startswith("fixed.")},
        params={n: record[f"param.{n}"] for n in names},
        vector=record["vector"],
        log_likelihood=record["log_likelihood"],
        log_prior=record["log_prior"],
        slope=record["slope"],
        status=record["status"],
        status_note=record["status_note"],
        iterations=record["iterations"],
        history=record["history"],
        starts=starts,
        n_parameters=record["n_parameters"],
        n_observations=record["n_observations"],
        groups=groups,
        seed=record["seed"],
        seconds=record["seconds"],
        compile_seconds=record["compile_seconds"],
        scalar_names=tuple(record["scalar_names"]),
        diagnostics=record["diagnostics"],
        value=record.get("value", float("nan")),
        draw_vectors=record.get("draw_vectors"),
        draws=_saved_draws(tree, record) if is_nuts else None,
        sample_stats=(
            {n: np.asarray(v.values) for n, v in tree["sample_stats"].data_vars.items()}
            if is_nuts and "sample_stats" in tree.children
            else None
        ),
    )
    fit.start_params = [fit._params_of(row) for row in record.get("start_scalars", ())]
    fit._cache["tree"] = tree
    fit._cache["fingerprint"] = record.get("fingerprint")
    fit._cache["covariance", "observed"] = Covariance(
        fit.scalar_names,
        record["covariance"],
        record["covariance_free"],
        record["reasons"],
        "observed",
    )
    if record.get("classification") is not None:
        fit._cache["classification"] = record["classification"]
    return fit


def _saved_draws(tree: xr.DataTree, record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draws by site, (chain, draw, ...) as the draws of the vector."""
    free = [n for n in record["names"] if f"fixed.{n}" not in record]
    names, found = variable_names(free), {}
    for site in free:
        array = np.asarray(tree["posterior"][names[site]].values)
        expected = (*record["draw_vectors"].shape[:2], *record[f"param.{site}"].shape)
        if array.shape != expected:
            raise ValueError(f"draws of '{site}' have shape {array.shape}, expected {expected}")
        found[site] = array
    return found


def _plain(value: Any) -> Any:
    """Numbers and containers that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value


def prior_of(model: Model, params: dict, names: frozenset[str]) -> float:
    with working_precision(model.dtype):
        values = {k: jnp.asarray(v) for k, v in params.items()}
        function = lean_jit(lambda p, d: log_prior(model.reading, p, d, names))
        return float(function(values, model.data))


def _along(
    model: Model, problem: Problem, vectors: np.ndarray, fixed: dict
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pointwise log-likelihood (chain, draw, units) and parameters along draws of the vector."""
    with working_precision(model.dtype):

        def one(vector: jax.Array, data: Any, values: Any) -> Any:
            params = problem.params(vector, values)
            return pointwise_values(model.marginal, params, data), params

        def many(points: jax.Array, data: Any, values: Any) -> Any:
            return jax.lax.map(lambda v: one(v, data, values), points, batch_size=16)

        key = ("along", frozenset(fixed))
        function = model.compiled(key, lambda: lean_jit(many))
        chains, draws = vectors.shape[:2]
        flat = jnp.asarray(vectors).reshape(chains * draws, -1)
        values = {k: jnp.asarray(v) for k, v in fixed.items()}
        units, params = jax.device_get(function(flat, model.data, values))
    shaped = {k: v.reshape(chains, draws, *v.shape[1:]) for k, v in params.items()}
    return units.reshape(chains, draws, -1), shaped


def _params_along(
    model: Model, problem: Problem, vectors: np.ndarray, fixed: dict
) -> dict[str, np.ndarray]:
    """Parameters (chain, draw, ...) along draws of the vector."""
    with working_precision(model.dtype):
        function = model.compiled(
            ("constrain", frozenset(fixed)),
            lambda: quick_jit(jax.vmap(problem.params, in_axes=(0, None))),
        )
        flat = jnp.asarray(vectors).reshape(-1, vectors.shape[-1])
        params = jax.device_get(function(flat, {k: jnp.asarray(v) for k, v in fixed.items()}))
    return {k: v.reshape(*vectors.shape[:2], *v.shape[1:]) for k, v in params.items()}
