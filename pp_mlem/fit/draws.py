"""The result of NUTS and of Laplace's approximation: draws of the posterior, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pp_mlem.base.checks import check_counts
from pp_mlem.base.lazy import pd
from pp_mlem.base.status import Status
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import reorder_draws
from pp_mlem.diagnose.rotations import free_scalars
from pp_mlem.diagnose.summary import POSTERIOR_DRAWS, average_posterior, thinned
from pp_mlem.diagnose.uncertainty import Covariance, Estimate, too_many
from pp_mlem.fit.base import Fit, Params, headed, not_a_point
from pp_mlem.fit.datatree import Drawn
from pp_mlem.model.imputation import Imputed
from pp_mlem.model.model import Model
from pp_mlem.model.writing import write_rows
from pp_mlem.program.space import scalar_names
from pp_mlem.target.target import Target


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DrawsFit(Fit):
    """A sample of the posterior, labels aligned.

    Attributes:
        draws: {parameter: (chain, draw, ...)} of the free parameters; `params` are their means.
        draw_vectors: the same as unconstrained vectors (chain, draw, size).
        sample_stats: of the sampler, {name: (chain, draw)}.
        diagnostics: divergences, R-hat and effective sample sizes (NUTS); Pareto's k (Laplace).
    """

    objective: str = field(default="map", init=False)  # the posterior is what was sampled
    draws: Params
    draw_vectors: np.ndarray
    sample_stats: Params | None = None
    value: ClassVar[float] = float("nan")
    trace: ClassVar[None] = None
    histories: ClassVar[Sequence[np.ndarray]] = ()
    start_params: ClassVar[Sequence[Params]] = ()

    @classmethod
    def from_draws(
        cls,
        target: Target,
        *,
        model: Model,
        method: str,
        status: Status,
        status_note: str,
        **rest: Any,
    ) -> DrawsFit:
        """Draws of a target's posterior."""
        return cls(
            model=model,
            method=method,
            fixed={k: np.asarray(v) for k, v in target.fixed.items()},
            status=status.label,
            status_note=status_note,
            n_parameters=free_scalars(target),
            n_observations=model.n_observations,
            scalar_names=scalar_names(target.space),
            **rest,
        )

    @property
    def has_draws(self) -> bool:
        return True

    @property
    def objective_value(self) -> float:
        """The log-likelihood at the means; nothing was maximised."""
        return self.log_likelihood

    def relabelled(self, reference: Mapping[str, Any]) -> DrawsFit:
        params, vector, orders, rotations = self._relabelling(reference)
        draws = dict(self.draws)
        for group, order in orders:
            draws = self._reordered(draws, group, order)
        for turn, rotation in rotations:
            draws = turn.of_draws().of_draws()(draws, rotation)  # chains and their draws
        with self.computing("relabelling") as target:
            flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws.items()}
            vectors = target.unconstrained(flat).reshape(self.draw_vectors.shape)
        return replace(
            self, params=params, vector=vector, draws=draws, draw_vectors=vectors, stored=None,
            _cache={},
        )  # fmt: skip

    def _reordered(self, draws: Params, group: Group, order: np.ndarray) -> Params:
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
        return float("nan")

    @property
    def bic(self) -> float:
        return float("nan")

    @property
    def icl(self) -> float:
        return float("nan")

    @property
    def classification(self) -> float | None:
        return None

    @property
    def story(self) -> str:
        return str(self.diagnostics.get("story", ""))

    # --- uncertainty ------------------------------------------------------------------------

    def covariance_details(self, kind: str = "observed") -> Covariance:
        if kind == "observed" and self.stored is not None:
            return self.stored.covariance
        return self._once("covariance", self._covariance)

    def _covariance(self) -> Covariance:
        table, names = self.draw_table().to_numpy(), self.scalar_names
        if too_many(names):
            return replace(Covariance.of_too_many(names, len(names), "posterior"), reasons={})
        matrix = np.full((len(names), len(names)), np.nan)
        reasons = dict.fromkeys(names, "one draw has no spread")
        if len(table) > 1:
            matrix, reasons = np.atleast_2d(np.cov(table.T)), {}
        return Covariance(names, matrix, matrix, reasons, "posterior")

    def standard_errors(self, kind: str = "observed") -> pd.Series:
        details = self.covariance_details(kind)
        if not details.too_large:
            return super().standard_errors(kind)
        return self.draw_table().std()

    def summary(self, kind: str = "observed") -> pd.DataFrame:
        limits = self._limits(kind, [], 0.95)
        table = pd.DataFrame(
            {
                "mean": self.estimates(),
                "sd": self.standard_errors(kind),
                "[0.025": limits["low"],
                "0.975]": limits["high"],
            }
        )
        for column in ("ess_bulk", "ess_tail", "r_hat"):
            if column in self.diagnostics:
                table[column] = [self.diagnostics[column][n] for n in table.index]
        return headed(self, table)

    def draw_table(self) -> pd.DataFrame:
        free = [n for n in self.params if n not in self.fixed]
        flat = [self.draws[n].reshape(np.prod(self.draws[n].shape[:2]), -1) for n in free]
        return pd.DataFrame(np.concatenate(flat, 1), columns=list(self.scalar_names))

    def estimate(
        self, function: Callable[[dict[str, Any]], ArrayLike], kind: str = "observed",
        level: float = 0.95,
    ) -> Estimate:  # fmt: skip
        with self.computing("estimate") as target:
            flat = {k: jnp.asarray(v.reshape(-1, *v.shape[2:])) for k, v in self.draws.items()}
            values = jax.vmap(lambda p: jnp.asarray(function({**target.fixed, **p})))(flat)
            return Estimate.from_draws(np.asarray(values), None, level)

    def _limits(self, kind: str, names: list[str], level: float) -> pd.DataFrame:
        tails = self.draw_table().quantile([(1 - level) / 2, (1 + level) / 2])
        return pd.DataFrame({"low": tails.iloc[0], "high": tails.iloc[1]})

    # --- what only a point has --------------------------------------------------------------

    def bootstrap(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: it belongs to a point estimate."""
        raise not_a_point("bootstrap", self.method)

    def profile(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: it belongs to a point estimate."""
        raise not_a_point("profile", self.method)

    def missing_information(self) -> NoReturn:
        """Refused: it belongs to a point estimate."""
        raise not_a_point("missing_information", self.method)

    @property
    def optima(self) -> NoReturn:
        """Refused: it belongs to a point estimate."""
        raise not_a_point("optima", self.method)

    # --- latents, draws for a tree ----------------------------------------------------------

    def posterior(self, out: str | Path | None = None) -> Any:
        model = self.model_for("posterior")
        if out is not None:
            return write_rows(out, model.chunk_models(), lambda m: average_posterior(m, self.draws))
        return average_posterior(model, self.draws)

    def impute(self, draws: int = 0, seed: int = 0) -> dict[str, Any]:
        model = self.model_for("impute")
        check_counts(0, draws=draws)
        flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in self.draws.items()}
        several = thinned(flat, draws or POSTERIOR_DRAWS, repeat=draws > 0)
        several = [{**self.fixed, **params} for params in several]
        if draws:
            return model.impute_at(several, seed)
        each = [model.impute(params) for params in several]
        return {name: Imputed.mixed([e[name] for e in each]) for name in each[0]}

    def several_params(self, draws: int, seed: int) -> Params:
        every = next(iter(self.draws.values())).shape[:2]
        order = np.resize(np.random.default_rng(seed).permutation(every[0] * every[1]), draws)
        flat = {k: v.reshape(-1, *v.shape[2:])[order] for k, v in self.draws.items()}
        held = {k: np.broadcast_to(v, (draws, *np.shape(v))) for k, v in self.fixed.items()}
        return held | flat

    def spread_params(self, draws: int, seed: int) -> tuple[Params, int, str]:
        chains, length = next(iter(self.draws.values())).shape[:2]
        each = min(max(draws // chains, 1), length)
        some = np.linspace(0, length - 1, each).astype(int)
        flat = {k: v[:, some].reshape(-1, *v.shape[2:]) for k, v in self.draws.items()}
        count = chains * each
        held = {k: np.broadcast_to(v, (count, *np.shape(v))) for k, v in self.fixed.items()}
        return held | flat, chains, "posterior draws"

    def drawn(self) -> Drawn:
        return Drawn(self.draw_vectors, self.draws, self.sample_stats, "posterior draws")
