"""The questions of a model about what runs along a scan: filters, forecasts, residuals."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.base.checks import check_counts
from pp_mlem.base.lazy import pd
from pp_mlem.base.precision import in_model_precision
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model import sequences, states
from pp_mlem.model.bound import Bound
from pp_mlem.model.residuals import pseudo_residuals

Params = Mapping[str, Any]


class AlongScans(abc.ABC):
    """What a model says along its scans."""

    bound: Bound
    dtype: np.dtype

    @property
    @abc.abstractmethod
    def marginal(self) -> Marginal:
        """log Z of the program."""

    @abc.abstractmethod
    def check_params(self, params: Params, argument: str = "params") -> dict[str, jax.Array]:
        """Constrained values of every parameter, checked."""

    @in_model_precision
    def filtered(self, params: Params) -> dict[str, Any]:
        """p(state_t | x_1, ..., x_t): for each state of a scan an array (steps, *plates, values); of a real
        state its `mean`, `sd` and `covariance` (Kalman filter).

        Raises ValueError when the program has no chain, and where a real state depends on what has
        no Gaussian law by itself (a flat first state).
        """
        values = self.check_params(params)
        if not self.marginal.kalmans:
            return sequences.filtered(self.bound, values)
        finite = sequences.filtered(self.bound, values) if self.marginal.chains else {}
        return {**finite, **states.filtered(self.bound, values)}

    @in_model_precision
    def innovations(self, params: Params) -> dict[str, states.Predicted]:
        """One-step-ahead predictions of each observed site of a linear Gaussian state space: its `mean` and
        `sd` given all data before, and the standardised `residual` (Harvey 1989, section 5.4,
        doi:10.1017/CBO9781107049994), each (steps, *plates, *event).

        Raises ValueError when no scan carries real latents.
        """
        values = self.check_params(params)
        if not self.marginal.kalmans:
            raise ValueError(
                "innovations: no scan of the program carries real latents. For finite states use "
                "pseudo_residuals()."
            )
        return states.innovations(self.bound, values)

    @in_model_precision
    def transition_counts(self, params: Params) -> dict[str, np.ndarray]:
        """Expected number of transitions given the data: for each state (values, values), summed
        over steps and sequences."""
        return sequences.transition_counts(self.bound, self.check_params(params))

    @in_model_precision
    def forecast(self, params: Params, steps: int = 1) -> dict[str, Any]:
        """p(state | data) 1, ..., `steps` steps after the last: for each state (steps, *plates,
        values), of a real state its `mean`, `sd` and `covariance`; and for each observed site of the scan whose distribution is the same at every
        step its "mean" and "sd", (steps, *plates, ...).

        Raises ValueError when the transitions vary with the step, so that they are not known
        ahead.
        """
        values = self.check_params(params)
        finite = {}
        if self.marginal.chains or not self.marginal.kalmans:
            finite = sequences.forecast(self.bound, values, steps)
        check_counts(steps=steps)
        return {**finite, **states.forecast(self.bound, values, steps)}

    @in_model_precision
    def pseudo_residuals(self, params: Params) -> dict[str, pd.DataFrame]:
        """Ordinary normal pseudo-residuals of each scalar observed site of a scan: its value's
        place in its distribution given all other observations (Zucchini, MacDonald & Langrock
        2016, section 6.2, doi:10.1201/b20790). Of real states those of the Normals, the auxiliary
        residuals of Harvey & Koopman (1992, doi:10.1080/07350015.1992.10509913); the errors of
        predictions from earlier data alone are `innovations`.

        Returns:
            a DataFrame for each site, one row per observation, with columns "lower", "upper" and
            "mid" (equal for a continuous site); standard normal if the model holds.
        """
        return pseudo_residuals(self.bound, self.check_params(params))
