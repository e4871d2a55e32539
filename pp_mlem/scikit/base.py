"""What both estimators share: how a program is chosen, fitted and told."""

from __future__ import annotations

import abc
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from pp_mlem.base.checks import check_counts
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.estimate.point_estimators import fit_em, fit_map, fit_mle
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Site
from pp_mlem.scikit.bound import bind
from pp_mlem.scikit.families import Emission, Scaling, emission

METHODS: dict[str, Callable[..., PointFit]] = {"em": fit_em, "mle": fit_mle, "map": fit_map}
REACHED = (Status.CONVERGED, Status.BOUNDARY)
WITHOUT_BOUND = (Status.COLLAPSED, Status.SPURIOUS)


class LatentEstimator(DensityMixin, BaseEstimator, abc.ABC):
    """A latent-variable model as an estimator of scikit-learn; see `Mixture` and `HMM`."""

    n_components: int
    family: str
    covariance: str
    program: Callable[..., Any] | None
    data_argument: str | Sequence[str]
    size_argument: str | None
    latent: str | None
    arguments: Mapping[str, Any] | None
    method: str
    n_init: int
    init: Any
    max_iter: int
    tol: float
    random_state: Any
    result_: PointFit
    _scaling: Scaling
    _row: np.ndarray

    @classmethod
    def from_program(
        cls,
        program: Callable[..., Any],
        data_argument: str | Sequence[str] = "x",
        size_argument: str | None = "K",
        **arguments: Any,
    ) -> Self:
        """An estimator of a NumPyro program; its other options by `set_params`.

        Args:
            program: a function with NumPyro statements.
            data_argument: the argument that takes X (samples, features), a single column as a vector
                (samples,); or a list of names, one for each column, each taking a vector.
            size_argument: the argument that takes `n_components`; None where the program has none.
            **arguments: the program's other arguments, and `latents` or `parameters` of a Model. A value for
                `size_argument` becomes `n_components`.

        >>> Mixture.from_program(mixture, K=3).set_params(n_init=20)  # doctest: +SKIP
        """
        size = {} if size_argument is None else {size_argument: 1}
        size |= {k: arguments.pop(k) for k in list(size) if k in arguments}
        return cls(
            *size.values(),
            program=program,
            data_argument=data_argument,
            size_argument=size_argument,
            arguments=arguments or None,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        if self.program is None:
            try:
                rows = emission(self.family, self.covariance)
            except ValueError:  # told by fit
                return tags
            tags.input_tags.allow_nan = rows.has_gaps
            tags.input_tags.positive_only = rows.least is not None
        return tags

    # --- the program and its data -----------------------------------------------------------

    @property
    @abc.abstractmethod
    def _own_program(self) -> Callable[..., Any]:
        """The program behind a family's name."""

    def _emission(self) -> Emission:
        return emission(self.family, self.covariance)

    def _checked(self, X: Any, fresh: bool = False) -> np.ndarray:
        """X (samples, features) as float64, NaN where a value is missing."""
        gaps = "allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True
        X = validate_data(
            self, X, dtype=np.float64, reset=fresh, ensure_all_finite=gaps,
            ensure_min_samples=2 if fresh else 1,
        )  # fmt: skip
        least = None if self.program is not None else self._emission().least
        if least is not None and np.nanmin(X, initial=np.inf) < least:
            raise ValueError(
                f"Negative values in data passed to {type(self).__name__}: family={self.family!r} "
                f"expects X of at least {least:g}."
            )
        return X

    def _check_options(self, samples: int) -> None:
        check_counts(n_components=self.n_components, n_init=self.n_init, max_iter=self.max_iter)
        if self.method not in METHODS:
            raise ValueError(
                f"method: received {self.method!r}, expected one of {list(METHODS)}. Draws of a posterior: "
                "fit_nuts(estimator.result_.model)."
            )
        if self.n_components > samples:
            raise ValueError(
                f"n_components: received {self.n_components}, expected no more than there are rows "
                f"(n_samples = {samples})."
            )
        if self.program is None:
            self._emission()
            return
        known = inspect.signature(self.program).parameters
        named = [*self._names(), *([] if self.size_argument is None else [self.size_argument])]
        lacking = [n for n in named if n not in known]
        if lacking and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ValueError(
                f"the program has no argument {lacking[0]!r}; it has {list(known)}. Pass data_argument= the one "
                "that takes the data, and size_argument= the one that takes n_components (None: neither)."
            )

    def _names(self) -> list[str]:
        """The arguments of the program that take the data."""
        given = self.data_argument
        return [given] if isinstance(given, str) else list(given)

    def _columns(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """X as the arguments of a user's program."""
        if isinstance(self.data_argument, str):
            return {self.data_argument: X[..., 0] if X.shape[-1] == 1 else X}
        names = self._names()
        if len(names) != X.shape[-1]:
            raise ValueError(
                f"data_argument: received {len(names)} names, expected one for each of the "
                f"{X.shape[-1]} columns of X."
            )
        return {name: X[..., i] for i, name in enumerate(names)}

    def _arguments(
        self, X: np.ndarray, **others: np.ndarray
    ) -> tuple[Callable[..., Any], dict[str, np.ndarray], dict[str, Any]]:
        """The program, its data, and its other arguments."""
        if self.program is not None:
            size = {} if self.size_argument is None else {self.size_argument: self.n_components}
            return self.program, {**self._columns(X), **others}, {**(self.arguments or {}), **size}
        scaling = self._scaling
        data = {"x": X, "center": scaling.center, "spread": scaling.spread, **others}
        rest = {
            "K": self.n_components, "family": self.family, "covariance": self.covariance,
            "categories": scaling.categories,
        }  # fmt: skip
        return self._own_program, data, rest

    def _bind(self, X: np.ndarray, **others: np.ndarray) -> Model:
        return bind(*self._arguments(X, **others))

    @abc.abstractmethod
    def _candidates(self, model: Model) -> list[Site]:
        """The latents that may be the components."""

    def _latent(self, model: Model) -> Site:
        """The latent whose values are the components."""
        sites = self._candidates(model)
        chosen = [s for s in sites if self.latent in (None, s.name)]
        if len(chosen) != 1:
            raise ValueError(
                f"latent: received {self.latent!r}, expected one of {[s.name for s in sites]}: the latents of the "
                "program that have a value for each row, one of which is the component."
            )
        return chosen[0]

    # --- the fit ----------------------------------------------------------------------------

    def _begin(self, X: Any) -> np.ndarray:
        """The data to fit, checked with all options; what later calls need of them."""
        checked = self._checked(X, fresh=True)
        self._check_options(len(checked))
        self._scaling = Scaling.of(checked, self.family == "categorical")
        first = np.isfinite(checked).argmax(0)
        self._row = checked[first, np.arange(checked.shape[1])]
        return checked

    def _fit(self, model: Model, samples: int) -> None:
        site = self._latent(model)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        result = METHODS[self.method](
            model,
            self.n_init,
            seed,
            self.init,
            max_iter=self.max_iter,
            tol=self.tol,
            progress=False,
        )
        self.result_, self.latent_ = result, site.name
        self.params_ = dict(result.params)
        self.n_iter_ = max(1, result.iterations)
        self.converged_ = result.outcome in REACHED
        self.log_likelihood_ = result.log_likelihood
        self.lower_bound_ = result.log_likelihood / samples
        if self.program is None:
            self._tell_parameters()
        if not self.converged_:
            self._warn()

    def _tell_parameters(self) -> None:
        """Fitted attributes with scikit-learn's names."""
        with working_precision(np.dtype(np.float64)):
            found = self._emission().attributes(self.params_)
        for name, value in found.items():
            setattr(self, name, np.asarray(value))

    def _warn(self) -> None:
        result = self.result_
        remedy = "Raise n_init or max_iter, or scale the columns of X alike."
        if result.outcome in WITHOUT_BOUND:
            remedy = (
                "Every start ended so: have fewer components, a simpler covariance, or method='map', whose "
                "prior keeps a component from shrinking onto a few rows."
            )
        warnings.warn(
            f"{type(self).__name__}: {result.method} ended with status '{result.status}': {result.status_note}. "
            f"{remedy}",
            ConvergenceWarning,
            stacklevel=4,
        )

    # --- sampling ---------------------------------------------------------------------------

    def _drawn(self, model: Model, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows drawn from the fitted program in the place of a model's data, and their components."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        labels = model.simulate(self.params_, seed)[self.latent_]
        if self.program is None:
            rows = model.simulate(self.params_, seed)["x"]
        else:
            new = model.redraw(self.params_, seed).arguments
            drawn = dict(zip(new.names, new.dynamic, strict=True))
            rows = np.stack([np.asarray(drawn[n], float) for n in self._names()], -1)
        rows = rows.reshape(-1, self.n_features_in_)[:samples]
        return np.asarray(rows, float), labels.reshape(-1)[:samples].astype(int)

    # --- scores -----------------------------------------------------------------------------

    def _fitted(self) -> None:
        check_is_fitted(self, "result_")

    def _penalised(self, log_likelihood: float, each: float) -> float:
        return -2 * log_likelihood + each * self.result_.n_parameters
