"""Mixture models with the interface of sklearn.mixture.GaussianMixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from pp_mlem.base.checks import check_counts
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Site
from pp_mlem.scikit.base import LatentEstimator
from pp_mlem.scikit.bound import is_bound, padded_size
from pp_mlem.scikit.programs import mixture


class Mixture(LatentEstimator):
    """A mixture of `n_components` laws of one family, or any NumPyro program with a component for each row.

    log L = sum_n log sum_k weights_k p(x_n | component k), in nats, is maximised exactly; NaN in X is a
    missing value and is integrated out.

    Args:
        n_components: number of components.
        family: "normal", "student_t", or, with independent columns, "poisson", "negative_binomial", "bernoulli",
            "categorical" (codes 0, 1, ...), "exponential", "gamma", "von_mises".
        covariance: "full", "tied", "diag" or "spherical", of "normal" and "student_t".
        program, data_argument, size_argument, arguments: a NumPyro program in the place of a family; see
            `from_program`.
        latent: the site of the component, where the program has several latents for each row.
        method: "em", "mle" (L-BFGS) or "map". Priors count for "map" only: of a family they are weak and take
            their scale from the data (Fraley & Raftery 2007, doi:10.1007/s00357-007-0004-5). This is what keeps
            covariances from vanishing, as `reg_covar` does in scikit-learn; "em" and "mle" set components that
            shrink onto a few rows aside, and warn where all starts end so.
        n_init: number of starts; the best that is neither collapsed nor spurious is kept.
        init: "mixed", "random", "kmeans++", "prior", or a dict of values of the program's parameters.
        max_iter: iterations of each start.
        tol: the largest gradient entry per row, in unconstrained coordinates, at which a start has converged.
        random_state: seed, or RandomState, of the starts and of `sample`.

    Attributes:
        weights_: (n_components,).
        means_: (n_components, n_features).
        covariances_: of a normal family, in the shape of scikit-learn's.
        emissionprob_: (n_components, n_features, categories).
        df_: (n_components,), of "student_t".
        params_: all parameters by the program's names.
        result_: the fit of pp_mlem, with its standard errors, starts, comparison.
        log_likelihood_: of the training data, nats.
        lower_bound_: the same for each row.
        converged_: whether a maximum was reached, inside the parameters' support or at its edge.
        n_iter_: iterations of the best start.

    >>> Mixture(3, random_state=0).fit(X).predict(X)  # doctest: +SKIP
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        family: str = "normal",
        covariance: str = "full",
        program: Callable[..., Any] | None = None,
        data_argument: str | Sequence[str] = "x",
        size_argument: str | None = "K",
        latent: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        method: str = "em",
        n_init: int = 10,
        init: Any = "mixed",
        max_iter: int = 1000,
        tol: float = 1e-8,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.family = family
        self.covariance = covariance
        self.program = program
        self.data_argument = data_argument
        self.size_argument = size_argument
        self.latent = latent
        self.arguments = arguments
        self.method = method
        self.n_init = n_init
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    @property
    def _own_program(self) -> Callable[..., Any]:
        return mixture

    def _candidates(self, model: Model) -> list[Site]:
        rows = len(model.unit_weights())
        shape = model.reading.plate_shape
        sites = [s for s in model.reading.latents if not s.scan]
        return [s for s in sites if int(np.prod(shape(s.dims))) == rows]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to the rows of X (n_samples, n_features); y is not read.

        Raises:
            TypeError, ValueError: for options or data that cannot be fitted.

        Warns:
            ConvergenceWarning: with the status, where no start reached a maximum.
        """
        rows = self._begin(X)
        model = self._bind(rows)
        units = len(model.unit_weights())
        if units != len(rows):
            raise ValueError(
                f"the program has {units} independent units on {len(rows)} rows; a Mixture needs one for each row. "
                "Fit such a program by pp_mlem.fit_em(Model(program, ...)), a chain by HMM."
            )
        self._fit(model, len(rows))
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and the most probable component of each row."""
        return self.fit(X).predict(X)

    def _tell_parameters(self) -> None:
        super()._tell_parameters()
        self.weights_ = np.asarray(self.params_["weights"])

    def _answers(self, X: Any, ask: Callable[[Model], Any]) -> np.ndarray:
        """What a model answers for each row; X is filled up with copies of its first row, which say nothing
        of the others."""
        self._fitted()
        rows = self._checked(X)
        n = len(rows)
        if not is_bound(*self._arguments(rows)):
            rows = rows[np.r_[:n, np.zeros(padded_size(n) - n, int)]]
        return np.asarray(ask(self._bind(rows)))[:n]

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n) of each row, nats, (n_samples,)."""
        return self._answers(X, lambda model: model.pointwise_log_likelihood(self.params_))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(component | x_n) of each row, (n_samples, n_components)."""
        name = getattr(self, "latent_", "")

        def posterior(model: Model) -> np.ndarray:
            found = np.asarray(model.posterior(self.params_)[name])
            return found.reshape(-1, found.shape[-1])

        return self._answers(X, posterior)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, (n_samples,)."""
        return self.predict_proba(X).argmax(1)

    def bic(self, X: Any) -> float:
        """-2 log L + df log n_samples (Schwarz 1978, doi:10.1214/aos/1176344136); smaller is better."""
        scores = self.score_samples(X)
        return self._penalised(float(scores.sum()), float(np.log(len(scores))))

    def aic(self, X: Any) -> float:
        """-2 log L + 2 df (Akaike 1974, doi:10.1109/TAC.1974.1100705)."""
        return self._penalised(float(self.score_samples(X).sum()), 2.0)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows drawn from the fitted mixture (n_samples, n_features), and their components (n_samples,)."""
        self._fitted()
        check_counts(n_samples=n_samples)
        model = self._bind(np.tile(self._row, (padded_size(n_samples), 1)))
        return self._drawn(model, n_samples)
