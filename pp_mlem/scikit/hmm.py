"""Hidden Markov models with the interface of hmmlearn, as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from pp_mlem.base.checks import check_counts
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Site
from pp_mlem.scikit.base import LatentEstimator
from pp_mlem.scikit.bound import padded_size
from pp_mlem.scikit.programs import hmm


def checked_lengths(lengths: Any, samples: int) -> np.ndarray:
    """The lengths of the sequences that follow one another in the rows; one of all rows by default."""
    if lengths is None:
        return np.array([samples])
    found = np.asarray(lengths)
    whole = found.ndim == 1 and found.size > 0 and found.dtype.kind in "iu"
    if not whole or found.min() < 1 or found.sum() != samples:
        raise ValueError(
            f"lengths: received {lengths!r}, expected positive integers, one for each sequence, that add up to "
            f"the {samples} rows of X."
        )
    return found


def refuse_lengths_as_target(y: Any, samples: int) -> None:
    """hmmlearn takes lengths where scikit-learn has y, which is not read here."""
    if y is not None and np.ndim(y) == 1 and np.shape(y)[0] != samples:
        raise ValueError(
            f"y: received {np.shape(y)[0]} values for {samples} rows, which are no targets. Pass the lengths of "
            "sequences by name: lengths=..."
        )


def side_by_side(X: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences one after the other as (steps, sequences, features), with the mask (steps, sequences) that is
    false beyond their ends, where their last row stands."""
    ends = np.cumsum(lengths)
    steps = np.arange(lengths.max())[:, None]
    mask = steps < lengths
    return X[np.where(mask, ends - lengths + steps, ends - 1)], mask


def one_after_the_other(answers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(steps, sequences, ...) as rows again."""
    return np.swapaxes(answers, 0, 1)[mask.T]


class HMM(LatentEstimator):
    """A hidden Markov model with `n_components` states and emissions of one family, or any NumPyro program
    whose scan carries a state.

    Rows of X are steps. Several sequences follow one another, with their `lengths`; they need not be equally
    long. log L, in nats, is summed over all paths by forward-backward and maximised; NaN is a missing value.

    Args:
        n_components: number of states.
        family, covariance: of the emissions, as of a `Mixture`.
        program, data_argument, size_argument, arguments: a NumPyro program in the place of a family; see
            `from_program`. It takes one sequence (steps, features), or (steps,).
        mask_argument: the argument by which a program takes many sequences: its data are then
            (steps, sequences, features), or (steps, sequences), and this (steps, sequences) is false beyond the
            end of a sequence, where state and observation are to be masked.
        latent: the site of the state, where the program has several.
        method, n_init, init, max_iter, tol, random_state: as of a `Mixture`.

    Attributes:
        startprob_: (n_components,).
        transmat_: (n_components, n_components).

    `means_`, `covariances_`, `emissionprob_`, `df_`, `params_`, `result_`, `log_likelihood_`, `lower_bound_`,
    `converged_` and `n_iter_` are as of a `Mixture`; `score` is the log-likelihood of all rows together, as in hmmlearn.

    >>> HMM(2, random_state=0).fit(X, lengths=[100, 80]).predict(X, [100, 80])  # doctest: +SKIP
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
        mask_argument: str | None = None,
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
        self.mask_argument = mask_argument
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
        return hmm

    def _candidates(self, model: Model) -> list[Site]:
        return [s for s in model.reading.latents if s.scan]

    # --- sequences --------------------------------------------------------------------------

    @property
    def _masked(self) -> str | None:
        """The argument that takes many sequences side by side."""
        return "mask" if self.program is None else self.mask_argument

    def _beside(self, X: np.ndarray, lengths: np.ndarray) -> tuple[Model, np.ndarray]:
        rows, mask = side_by_side(X, lengths)
        return self._bind(rows, **{str(self._masked): mask}), mask

    def _joined(self, X: np.ndarray, lengths: np.ndarray) -> Model:
        """All sequences as one chain that begins anew where each does, filled up with missing rows where
        rows may be missing."""
        n = len(X)
        size = padded_size(n) if self._emission().has_gaps else n
        begins = np.zeros(size, bool)
        begins[np.cumsum(lengths) - lengths] = True
        rows = np.concatenate([X, np.full((size - n, X.shape[1]), np.nan)])
        return self._bind(rows, begins=begins, beyond=np.arange(size) >= n)

    def _given(self, X: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
        self._fitted()
        rows = self._checked(X)
        return rows, checked_lengths(lengths, len(rows))

    def _parts(self, X: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        return np.split(X, np.cumsum(lengths)[:-1])

    def _answers(self, X: Any, lengths: Any, ask: Callable[[Model], Any]) -> np.ndarray:
        """What models answer for each step, for the rows of X."""
        rows, lengths = self._given(X, lengths)
        if self.program is None:
            return np.asarray(ask(self._joined(rows, lengths)))[: len(rows)]
        if self.mask_argument is not None:
            model, mask = self._beside(rows, lengths)
            return one_after_the_other(np.asarray(ask(model)), mask)
        return np.concatenate([np.asarray(ask(self._bind(x))) for x in self._parts(rows, lengths)])

    def _total(self, X: Any, lengths: Any, ask: Callable[[Model], float]) -> float:
        """The sum over sequences of what models answer."""
        rows, lengths = self._given(X, lengths)
        if self.program is None:
            return ask(self._joined(rows, lengths))
        if self.mask_argument is not None:
            return ask(self._beside(rows, lengths)[0])
        return sum(ask(self._bind(x)) for x in self._parts(rows, lengths))

    # --- the interface ----------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, lengths: Any = None) -> Self:
        """Fit to the steps in the rows of X (n_samples, n_features); y is not read.

        Args:
            lengths: of the sequences that follow one another in X; by default it is one sequence.

        Raises:
            TypeError, ValueError: for options or data that cannot be fitted.

        Warns:
            ConvergenceWarning: with the status, where no start reached a maximum.
        """
        rows = self._begin(X)
        refuse_lengths_as_target(y, len(rows))
        lengths = checked_lengths(lengths, len(rows))
        if len(lengths) > 1 and self._masked is None:
            raise ValueError(
                f"lengths: received {len(lengths)} sequences, but this program takes one. Give it an argument that "
                "masks sequences side by side, and pass mask_argument= its name."
            )
        side = len(lengths) > 1 or (self.program is not None and self.mask_argument is not None)
        model = self._beside(rows, lengths)[0] if side else self._bind(rows)
        self._fit(model, len(rows))
        return self

    def _tell_parameters(self) -> None:
        super()._tell_parameters()
        self.startprob_ = np.asarray(self.params_["startprob"])
        self.transmat_ = np.asarray(self.params_["transmat"])

    def score_samples(self, X: Any, lengths: Any = None) -> np.ndarray:
        """log p(x_t | x_1, ..., x_{t-1}) of each row given those before it in its sequence, nats,
        (n_samples,); they add up to `score`.

        Raises:
            ValueError: of a program with a mask_argument, whose sequences have one value each.
        """
        if self.program is not None and self.mask_argument is not None:
            raise ValueError(
                "score_samples: a program that takes sequences side by side tells the log-likelihood of each as a "
                "whole: result_.model.pointwise_log_likelihood(params_)."
            )
        return self._answers(X, lengths, lambda m: m.pointwise_log_likelihood(self.params_))

    def score(self, X: Any, y: Any = None, lengths: Any = None) -> float:
        """log p(X), nats: the sum over sequences; y is not read."""
        refuse_lengths_as_target(y, len(X))
        return self._total(X, lengths, lambda m: m.log_likelihood(self.params_))

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        """p(state_t | the whole sequence) of each row, (n_samples, n_components)."""
        return self._answers(X, lengths, lambda m: m.posterior(self.params_)[self.latent_])

    def predict(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The states of the most probable path of each sequence (Viterbi), (n_samples,)."""
        return self._answers(X, lengths, lambda m: m.decode(self.params_)[self.latent_]).astype(int)

    def decode(self, X: Any, lengths: Any = None) -> tuple[float, np.ndarray]:
        """log p(X, path) of the most probable paths, summed over sequences, and the paths (n_samples,)."""
        log_probability = self._total(
            X, lengths, lambda m: m.classification_log_likelihood(self.params_)
        )
        return log_probability, self.predict(X, lengths)

    def bic(self, X: Any, lengths: Any = None) -> float:
        """-2 log L + df log n_samples, as in hmmlearn; `result_.bic` of many sequences counts these."""
        return self._penalised(self.score(X, lengths=lengths), float(np.log(len(X))))

    def aic(self, X: Any, lengths: Any = None) -> float:
        """-2 log L + 2 df."""
        return self._penalised(self.score(X, lengths=lengths), 2.0)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A sequence drawn from the fitted model (n_samples, n_features), and its states (n_samples,)."""
        self._fitted()
        check_counts(n_samples=n_samples)
        size = padded_size(n_samples)
        rows = np.tile(self._row, (size, 1))
        lengths = np.array([size])
        side = self.program is not None and self.mask_argument is not None
        model = self._beside(rows, lengths)[0] if side else self._bind(rows)
        return self._drawn(model, n_samples)
