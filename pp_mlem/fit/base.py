"""What both kinds of fit have: estimates, a verdict, uncertainty, latents."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_level
from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd, xr
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.intervals import bounds_of
from pp_mlem.diagnose.labels import alignment, permute
from pp_mlem.diagnose.rotations import Turn, turns_of
from pp_mlem.diagnose.uncertainty import Covariance, Estimate
from pp_mlem.fit.datatree import OF_A_POINT, Drawn, tree_of
from pp_mlem.fit.groups import latent_dataset, log_priors, of_data, pointwise_dataset
from pp_mlem.fit.pictures import Pictures
from pp_mlem.fit.predictions import (
    Prediction,
    posterior_predictive,
    predict,
    predictive_of,
    residuals,
    score,
)
from pp_mlem.model.datasets import dataset
from pp_mlem.model.model import Model
from pp_mlem.model.predictive import Predicted
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.names import Names
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

T = TypeVar("T")
IN_CHUNKS = (
    "left out: the data come in chunks; pointwise_log_likelihood(params, out=) writes it to a file"
)
Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Stored:
    """What a file holds of a fit that only its model could compute again: the ArviZ tree, the
    model's fingerprint, the observed covariance, max over latents of log p(data, latents), and the bounds of
    every scalar (2, scalars)."""

    tree: xr.DataTree
    fingerprint: dict[str, str] | None
    covariance: Covariance
    classification: float | None
    bounds: np.ndarray | None = None


def not_a_point(what: str, method: str) -> ValueError:
    """The error for a question that only a point estimate can answer."""
    return ValueError(
        f"{what} belongs to a point estimate; {method} has posterior draws instead. "
        "Call it on the result of fit_em, fit_mle or fit_map."
    )


def headed(fit: Fit, table: pd.DataFrame) -> pd.DataFrame:
    """The summary of a fit, which prints with a head."""
    from pp_mlem.fit.summary import Summary  # it needs pandas, which is loaded with the first table

    return Summary.of(fit, table)


def params_of(row: np.ndarray, params: Params, fixed: Params) -> Params:
    """All parameters, with the free scalars as in a row; `params` have their shapes."""
    values, start = {}, 0
    for name, value in params.items():
        if name in fixed:
            values[name] = np.asarray(value)
            continue
        size = int(np.size(value))
        values[name] = row[start : start + size].reshape(np.shape(value))
        start += size
    return values


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Fit(Pictures, abc.ABC):
    """A fitted model: a `PointFit` (EM, MLE, MAP) or a `DrawsFit` (NUTS, Laplace).

    Attributes:
        params: estimates by name, constrained (of draws their means, after label alignment).
        log_likelihood: marginal log-likelihood at `params`, nats. `log_prior` is apart from it;
            `prior` is what is known of that already.
        status: how the chosen start, or the sample, ended: the label of a `Status`; `status_note`
            says more.
        iterations, history: of the chosen start; `history` is the objective before each M-step
            (EM) or after each step (MLE, MAP).
        starts: a DataFrame with every start: objective, status, iterations, gradient, optimum.
        seconds: wall time, compilation included.
    """

    model: Model | None
    method: str
    objective: str
    fixed: Params
    params: Params
    vector: np.ndarray
    log_likelihood: float
    prior: float | None
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
    diagnostics: dict[str, Any] = field(default_factory=dict)
    stored: Stored | None = None
    _cache: dict[Any, Any] = field(default_factory=dict)

    @property
    @abc.abstractmethod
    def has_draws(self) -> bool:
        """Whether this is a sample of a posterior (NUTS, Laplace) rather than a point estimate."""

    @property
    def outcome(self) -> Status:
        """How the chosen start, or the sample, ended."""
        return Status.of_label(self.status)

    @property
    def converged(self) -> bool:
        """True only when the gradient of the objective, in unconstrained coordinates and per
        observation, is within tolerance (NUTS: R-hat below 1.01 and no divergences)."""
        return self.outcome is Status.CONVERGED

    @property
    def log_prior(self) -> float:
        """Log prior density of all parameters at `params`, nats, in the constrained space."""
        if self.prior is not None:
            return self.prior
        model = self.model_for("log_prior")
        return self._once("log_prior", lambda: model.log_prior(self.params))

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it; what was finished is here, and it was not all."""
        return self.outcome is Status.INTERRUPTED or "interrupted" in self.diagnostics

    def model_for(self, what: str) -> Model:
        """The model, which `what` needs; refused where the fit came from a file alone."""
        if self.model is None:
            raise ValueError(
                f"{what} needs the model, which a file does not hold. Load the fit with "
                "load(path, model=Model(program, data))."
            )
        return self.model

    @contextmanager
    def computing(self, what: str) -> Iterator[Target]:
        """What was maximised or sampled, in the model's precision."""
        model = self.model_for(what)
        with working_precision(model.dtype):
            yield model.target(self.fixed, self.objective == "map")

    def problem(self) -> Problem:
        """Which parameters were free, with a prior or not, and their M-step blocks."""
        with self.computing("this") as target:
            return target.problem

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        value: T = self._cache[key]
        return value

    @abc.abstractmethod
    def relabelled(self, reference: Mapping[str, Any]) -> Fit:
        """The same fit with its exchangeable components ordered as in `reference`, and loadings that a
        rotation leaves as good turned as near to it as can be."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """How parameters can be turned with real latents, or their sign changed, with nothing lost."""

        def make() -> tuple[Turn, ...]:
            with self.computing("turns") as target:
                return turns_of(target, smallest=1)

        return self._once("turns", make)

    def _relabelling(
        self, reference: Mapping[str, Any]
    ) -> tuple[Params, np.ndarray, list[tuple[Group, np.ndarray]], list[tuple[Turn, np.ndarray]]]:
        """The parameters and their vector with components as in `reference`, the order of each group's
        components, and the rotations that came after."""
        model = self.model_for("relabelling")
        params, orders = dict(self.params), []
        for group in self.groups:
            order = alignment(params, dict(reference), group, model=model)
            params = permute(params, group, order, model, reference)
            orders.append((group, order))
        rotations = []
        for turn in self.turns:
            rotations.append((turn, turn.rotation(params, reference)))
            params = turn(params, rotations[-1][1])
        with self.computing("relabelling") as target:
            vector = np.asarray(target.space.to_vector(params))
        return params, vector, orders, rotations

    # --- scores -----------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def aic(self) -> float:
        """-2 log L + 2 df (Akaike 1974); NaN for draws, which have no maximum."""

    @property
    @abc.abstractmethod
    def bic(self) -> float:
        """-2 log L + df log n (Schwarz 1978), n independent units; smaller is better. NaN for
        draws."""

    @property
    @abc.abstractmethod
    def icl(self) -> float:
        """BIC with the complete-data likelihood at the decoded latents, ICL-BIC of Biernacki,
        Celeux & Govaert (2000), doi:10.1109/34.865189, as in mclust and flexmix (smaller is
        better); equals BIC when nothing is latent. NaN for draws."""

    @property
    @abc.abstractmethod
    def classification(self) -> float | None:
        """max over latents of log p(data, latents) at the estimates; None where neither the model
        nor a file tells it, and for draws."""

    @property
    @abc.abstractmethod
    def story(self) -> str:
        """What the starts or the chains came to, in a sentence."""

    # --- uncertainty ------------------------------------------------------------------------

    @abc.abstractmethod
    def covariance_details(self, kind: str = "observed") -> Covariance:
        """The covariance with its names and the reason of every NaN."""

    def covariance(self, kind: str = "observed") -> pd.DataFrame:
        """Covariance matrix of the free scalars on their natural scale.

        Rows of a scalar whose standard error cannot be trusted are NaN;
        `covariance_details(kind).reasons` says why.

        Args:
            kind: "observed" (the Hessian of the marginal log-likelihood), "sandwich", "opg" (outer
                products of the units' scores) or "bootstrap" (that of the last call of `bootstrap`,
                or 200 parametric replicates).
        """
        details = self.covariance_details(kind)
        if details.too_large:
            raise ValueError(
                f"covariance: {len(details.names):,} free scalars, whose matrix would be too large; `estimate` and "
                "`draw_table` tell of functions of them where there are draws."
            )
        return pd.DataFrame(details.matrix, index=details.names, columns=details.names)

    def standard_errors(self, kind: str = "observed") -> pd.Series:
        """Square roots of the covariance's diagonal."""
        details = self.covariance_details(kind)
        with np.errstate(invalid="ignore"):
            return pd.Series(np.sqrt(np.diag(details.matrix)), index=list(details.names))

    def estimates(self) -> pd.Series:
        """Every free scalar by name."""
        free = [n for n in self.params if n not in self.fixed]
        flat = np.concatenate([np.ravel(self.params[n]) for n in free] or [np.zeros(0)])
        return pd.Series(flat, index=list(self.scalar_names))

    @abc.abstractmethod
    def summary(self, kind: str = "observed") -> pd.DataFrame:
        """One row per scalar: coef, std err, z, P>|z|, [0.025, 0.975]; `note` where a standard
        error is NaN. Of draws: posterior mean, sd, central interval, ESS and R-hat."""

    @abc.abstractmethod
    def draw_table(self) -> pd.DataFrame:
        """Posterior draws as a table (chains x draws, scalars), labels aligned."""

    @abc.abstractmethod
    def estimate(
        self, function: Callable[[dict[str, Any]], ArrayLike], kind: str = "observed",
        level: float = 0.95,
    ) -> Estimate:  # fmt: skip
        """Any smooth function of the parameters, with its standard error by the delta method.

        Args:
            function: takes the dictionary of constrained parameters, returns a scalar or an array;
                written with jax.numpy where it does more than arithmetic.
            kind: of covariance, as in `covariance` ("bootstrap" evaluates the function at every
                refit).
            level: of the interval.

        Of draws: posterior mean, standard deviation and central interval.

        >>> fit.estimate(lambda p: p["mu"][1] - p["mu"][0])  # doctest: +SKIP
        """

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest value that every free scalar can have."""
        if self.model is not None:
            return bounds_of(self.model.space.without(frozenset(self.fixed)))
        if self.stored is not None and self.stored.bounds is not None:
            return self.stored.bounds[0], self.stored.bounds[1]
        endless = np.full(len(self.scalar_names), np.inf)
        return -endless, endless

    def intervals(
        self, kind: str = "wald", names: Iterable[str] | None = None, level: float = 0.95
    ) -> pd.DataFrame:
        """Confidence intervals of free scalars: columns low and high.

        Of draws: central posterior intervals.

        Args:
            kind: "wald" (estimate and standard error), "profile" (one scalar at a time, so name a
                few) or "bootstrap" (percentiles of the last bootstrap).
            names: of the scalars; all of them by default.
            level: of the intervals.
        """
        check_level(level)
        every = list(self.scalar_names)
        chosen = every if names is None else [names] if isinstance(names, str) else list(names)
        unknown = [n for n in chosen if n not in every]
        if unknown:
            raise ValueError(f"names: {unknown} are no free scalars; these are {every[:8]} ...")
        return self._limits(kind, chosen, level).loc[chosen]

    @abc.abstractmethod
    def _limits(self, kind: str, names: list[str], level: float) -> pd.DataFrame:
        """Intervals of these scalars at least."""

    # --- latents ----------------------------------------------------------------------------

    @abc.abstractmethod
    def posterior(self, out: str | Path | None = None) -> Any:
        """p(latent | data) at the estimates: (*plates, values), of a real latent its mean, sd and
        covariance; of draws: averaged over them. Of data that come in chunks it is written to the Parquet file
        `out`, a row for each of the source."""

    @abc.abstractmethod
    def impute(self, draws: int = 0, seed: int = 0) -> dict[str, Any]:
        """The missing cells of the observed sites given all that is seen, by site.

        Without draws an `Imputed` each, with `mean` and `sd` at the estimates; of posterior draws averaged over
        them (at most 100, evenly thinned). With draws the completed data (draws, *shape), as multiple imputation
        takes them: each at parameters of its own, of a point estimate drawn from its asymptotic normal
        distribution (Rubin 1987, doi:10.1002/9780470316696; `model.impute(params, draws)` stays at one value),
        so that `pool` of what is estimated from each is right.
        """

    def decode(self, out: str | Path | None = None) -> Any:
        """The jointly most probable latents at the estimates; of data in chunks in the Parquet file `out`."""
        return self.model_for("decode").decode(self.params, out)

    def on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
        """The model on new data; its parameters must have the same shapes."""
        model = self.model_for("predict")
        options: dict[str, Any] = {
            **model.overrides,
            "dtype": model.dtype,
            "dims": model.naming["dims"],
        }
        new = Model(model.program, *args, **options, **kwargs)
        there = {s.name: s for s in new.space.sites}
        for site in model.space.sites:
            other = there.get(site.name)
            if other is None or other.shape != site.shape:
                raise ValueError(
                    f"predict: parameter '{site.name}' has shape {site.shape} in the fit and "
                    f"{other.shape if other else 'no place'} on the new data; its size must not "
                    "depend on the data."
                )
        return new

    @abc.abstractmethod
    def several_params(self, draws: int, seed: int) -> Params:
        """So many values (draws, ...) of all parameters: a point repeated, or posterior draws."""

    @abc.abstractmethod
    def spread_params(self, draws: int, seed: int) -> tuple[Params, int, str]:
        """Values (draws, ...) that spread as the estimate does, how many chains they come from, and what they
        are."""

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """On new data (arguments of the program; without any on the fitted ones): of each latent its jointly most
        probable value, of each observed site its predictive mean, marginal over the latents, in a mapping by
        name. Values of observed sites may be left out (`y=None`) where the program allows it; latents are
        then not told. Missing cells given the others are what `impute` tells."""
        return predict(self, args, kwargs)

    def predict_proba(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Posterior probabilities of the latents on new data (arguments of the program)."""
        return self.on(args, kwargs).posterior(self.params)

    def predictive(
        self, *args: Any, draws: int = 1000, seed: int = 0, **kwargs: Any
    ) -> dict[str, Predicted]:
        """The predictive distribution of every observed site on new data (or the fitted ones), marginal over the
        latents, which are drawn anew: `mean`, `sd`, `quantile(q)` and `draws` (draws, *shape), by site. At the
        estimates; of posterior draws over them."""
        return predictive_of(self, args, kwargs, draws, seed)

    def posterior_predictive(
        self, *args: Any, draws: int = 1000, seed: int = 0, **kwargs: Any
    ) -> xr.DataTree:
        """The same draws as the group posterior_predictive of an ArviZ tree: of posterior draws one for each, evenly
        thinned; of a point fit at draws of the estimate's asymptotic normal distribution, as its attribute
        `draws` says."""
        return posterior_predictive(self, args, kwargs, draws, seed)

    def score(self, *args: Any, **kwargs: Any) -> float:
        """Marginal log-likelihood of new data (or the fitted ones) per independent unit, in nats, as scikit-learn's
        `score`; of draws that of the posterior predictive density (at 100 draws)."""
        return score(self, args, kwargs)

    def residuals(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Randomised quantile residuals of every observed site (Dunn & Smyth 1996,
        doi:10.1080/10618600.1996.10474708), in the shape of its values: normal scores of each value's
        rank among 1,000 draws from the fitted program, latents drawn anew (Hartig's DHARMa does the same); standard
        normal where the model is right, NaN where a value is missing. Along a scan `model.pseudo_residuals`,
        given the other observations."""
        return residuals(self, seed)

    # --- ArviZ, disk ------------------------------------------------------------------------

    def to_datatree(
        self, log_likelihood: bool = True, latents: bool = False, posterior_predictive: int = 0
    ) -> xr.DataTree:
        """An ArviZ DataTree.

        Groups: `posterior`, with plates as dims and what names their entries as coords; `sample_stats` under
        ArviZ's names; `log_likelihood`, the pointwise marginal log-likelihood, under the name of the observed
        site ("units" where there are several), its attribute `terms` says what the terms are: of a single
        sequence one-step-ahead predictions, no independent units; `log_prior` of posterior draws, by
        parameter; `observed_data` by site, `constant_data` by argument.

        For point fits the posterior group holds draws of the asymptotic normal distribution in
        unconstrained coordinates, and says so in its attributes; sample_stats has their log density `log_q`
        and that of the posterior, `log_p` (without priors: the likelihood). Their pointwise log-likelihood is called
        `log_likelihood_asymptotic`, so that `az.compare` and `az.loo` do not take them for a posterior;
        `arviz_stats.loo_approximate_posterior` weighs them under its own name.

        The pointwise log-likelihood keeps at most 5e7 cells (draws x units, 400 MB): beyond it draws are
        thinned evenly, and below 100 draws the group is left out; the attribute `log_likelihood`
        then says so. A site whose name netCDF cannot have ("a/b") is percent-encoded, with its own name
        in the attribute `site`.

        Args:
            log_likelihood: whether to compute it.
            latents: add a group `latents`, p(latent | data): probabilities of the values of finite latents,
                `_mean` and `_sd` of real ones.
            posterior_predictive: add a group of so many draws of the observed sites; see `posterior_predictive`.
        """
        extra = latents or posterior_predictive
        if self.stored is not None:
            held = {"log_likelihood", OF_A_POINT} & set(self.stored.tree.children)
            if self.model is None or not extra and (held or not log_likelihood):
                return self.stored.tree
        key = ("tree", log_likelihood, latents, posterior_predictive)
        return self._once(key, lambda: self._tree(log_likelihood, latents, posterior_predictive))

    def _tree(self, log_likelihood: bool, latents: bool, predictive: int) -> xr.DataTree:
        model = self.model_for("to_datatree")
        drawn = self.drawn()
        attributes = {
            "method": self.method,
            "draws": drawn.kind,
            "inference_library": "pp_mlem",
            "status": self.status,
        }
        groups: dict[str, Any] = of_data(model)
        streamed = isinstance(model, StreamedModel)
        log_likelihood = log_likelihood and not streamed
        with self.computing("to_datatree") as target:
            tree, pointwise, kept, note = tree_of(
                target, drawn, model.reading.names, log_likelihood
            )
            if pointwise is not None and kept is not None:
                name = "log_likelihood" if self.has_draws else OF_A_POINT
                sequential = target.marginal.sequential
                groups[name] = pointwise_dataset(model, pointwise, kept, sequential)
            if self.has_draws:
                groups["log_prior"] = dataset(
                    log_priors(target, drawn.vectors), Names(), "chain", "draw"
                )
        if latents:
            groups["latents"] = latent_dataset(model, self.posterior())
        if predictive:
            draws = self.posterior_predictive(draws=predictive)
            groups["posterior_predictive"] = draws["posterior_predictive"].to_dataset()
        for name, group in groups.items():
            tree[name] = xr.DataTree(group)
        note = IN_CHUNKS if streamed else note
        attributes |= {"log_likelihood": note} if note else {}
        tree.attrs.update(attributes)
        tree["posterior"].attrs.update(attributes)
        return tree

    @abc.abstractmethod
    def drawn(self) -> Drawn:
        """Draws of the vector: of the posterior, or of a point's asymptotic normal distribution."""

    @property
    def fingerprint(self) -> dict[str, str] | None:
        """Of the program, its data and options: of the model, or as it was saved; None for a file
        of an older pp_mlem."""
        if self.model is not None:
            return self.model.fingerprint
        return None if self.stored is None else self.stored.fingerprint

    def save(self, path: str | Path, log_likelihood: bool = False) -> Path:
        """Write the fit as netCDF (an ArviZ tree plus a group of its own), whole or not at all.

        The pointwise log-likelihood, draws times units, is written where `log_likelihood` is true; else
        `load(path, model)` computes it again. Observed data of more than 5e5 numbers are not written.
        Where several processes have fitted data in chunks together, all of them must call this, and the first one
        writes; the others do not wait for it.

        Raises:
            OSError: naming the file, when it cannot be written (a full disk, a read-only folder).
        """
        written_to: Path = verbs.save(self, path, log_likelihood)
        return written_to

    def __repr__(self) -> str:
        sequential = self.model is not None and self.model.marginal.sequential
        lines = [
            f"{self.method} fit: log-likelihood {written(self.log_likelihood)}, "
            f"{self.n_parameters} parameters, {self.n_observations} "
            f"{'steps' if sequential else 'units'}, status {self.status} ({self.status_note}), "
            f"{self.iterations} iterations, {self.seconds:.2f} s"
        ]
        if self.story:
            lines.append(self.story)
        if self.model is not None or self.stored is not None:
            table = pd.DataFrame(self.summary())
            formats = {"P>|z|": lambda p: "" if np.isnan(p) else f"{p:.4f}"}
            lines.append(
                table.to_string(float_format=written, formatters=formats, na_rep="", max_rows=40)
            )
        return "\n".join(lines)
