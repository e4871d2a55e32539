"""The estimators by name: a new one is a function and a line here, or a call of `register`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pp_mlem.estimate.laplace import fit_laplace
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.estimate.point_estimators import fit_em, fit_map, fit_mle
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model


@dataclass(frozen=True)
class How:
    """The options that all estimators share; `chains` and `draws` (as many for warm-up) are for those
    that sample."""

    starts: int | None = None
    seed: int = 0
    init: Any = "mixed"
    fixed: Mapping[str, Any] | None = None
    chains: int = 4
    draws: int = 1000
    progress: bool | None = None


@dataclass(frozen=True)
class Estimator:
    """How a model is fitted, and whether the result has draws of a posterior."""

    fit: Callable[[Model, How], Fit]
    has_draws: bool = False


def _point(fit: Callable[..., Fit]) -> Callable[[Model, How], Fit]:
    return lambda model, how: fit(
        model, how.starts, how.seed, how.init, how.fixed, progress=how.progress
    )


def _laplace(model: Model, how: How) -> Fit:
    return fit_laplace(model, how.starts, how.seed, how.init, how.fixed)


def _nuts(model: Model, how: How) -> Fit:
    return fit_nuts(
        model, chains=how.chains, warmup=how.draws, draws=how.draws, seed=how.seed,
        init=how.init, fixed=how.fixed, progress=how.progress,
    )  # fmt: skip


ESTIMATORS: dict[str, Estimator] = {
    "em": Estimator(_point(fit_em)),
    "mle": Estimator(_point(fit_mle)),
    "map": Estimator(_point(fit_map)),
    "laplace": Estimator(_laplace, has_draws=True),
    "nuts": Estimator(_nuts, has_draws=True),
}


def register(name: str, fit: Callable[[Model, How], Fit], has_draws: bool = False) -> None:
    """Let `compare`'s command line, `select` and `experiment` know an estimator by name."""
    ESTIMATORS[name] = Estimator(fit, has_draws)


def method_names(has_draws: bool | None = None) -> tuple[str, ...]:
    """The names of all estimators, or of those with or without draws."""
    return tuple(n for n, e in ESTIMATORS.items() if has_draws is None or e.has_draws is has_draws)


def check_methods(methods: Iterable[str] | str, argument: str = "methods") -> tuple[str, ...]:
    """Names of estimators in lower case."""
    listed = methods.split(",") if isinstance(methods, str) else list(methods)
    chosen = tuple(dict.fromkeys(str(m).strip().lower() for m in listed if str(m).strip()))
    unknown = [m for m in chosen if m not in ESTIMATORS]
    if unknown or not chosen:
        known = ",".join(method_names())
        raise ValueError(f"{argument}: received {methods!r}, expected some of {known}.")
    return chosen


def fit_by(method: str, model: Model, **how: Any) -> Fit:
    """Fit by the estimator of this name; the options are those of `How`."""
    return ESTIMATORS[method].fit(model, How(**how))
