"""The questions of a model about missing cells of its data."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.precision import in_model_precision
from pp_mlem.model.bound import Bound
from pp_mlem.model.imputation import draw_missing, impute_moments, with_missing
from pp_mlem.program.arguments import Arguments

Params = Mapping[str, Any]


class Imputes(abc.ABC):
    """What a model says of the cells that its data miss."""

    arguments: Arguments
    bound: Bound
    dtype: np.dtype

    @abc.abstractmethod
    def check_params(self, params: Params, argument: str = "params") -> dict[str, jax.Array]:
        """Constrained values of every parameter, checked."""

    @abc.abstractmethod
    def observed_values(self) -> dict[str, np.ndarray]:
        """The data of every observed site, in the shapes of `simulate`."""

    @in_model_precision
    def impute(self, params: Params, draws: int = 0, seed: int = 0) -> dict[str, Any]:
        """The missing cells of the observed sites given all that is seen, by site; those without are left out.

        Returns:
            without draws an `Imputed` each: `mean` and `sd` in the shape of the data, of a seen cell its value
            and 0, exact in models of finite and of real latents (the law of total variance); of a categorical
            site its `probabilities` besides. With draws the completed data (draws, *shape), drawn jointly with
            the latents at these parameters: imputations are proper only if the parameters vary as well, as
            those of `fit.impute` do.
        """
        values = self.check_params(params)
        check_counts(0, draws=draws)
        if draws == 0:
            observed = self.observed_values()
            return impute_moments(
                self.bound, values, {n: observed[n] for n in with_missing(observed)}
            )
        return self.impute_at([values] * draws, seed)

    @in_model_precision
    def impute_at(self, several: Sequence[Params], seed: int = 0) -> dict[str, np.ndarray]:
        """Completed data by site, (draws, *shape), one draw at each of these parameters."""
        check_seed(seed)
        names = with_missing(self.observed_values())
        every = [self.check_params(params) for params in several]
        return draw_missing(self.bound, self.arguments, names, every, seed)
