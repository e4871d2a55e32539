"""The estimators by name, with the options that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pp_mlem.estimate.em import fit_em
from pp_mlem.estimate.laplace import fit_laplace
from pp_mlem.estimate.lbfgs import fit_map, fit_mle
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model

METHODS = ("em", "mle", "map", "laplace", "nuts")
POINT_METHODS = ("em", "mle", "map")


def check_methods(methods: Iterable[str] | str, argument: str = "methods") -> tuple[str, ...]:
    """Names of estimators in lower case."""
    listed = methods.split(",") if isinstance(methods, str) else list(methods)
    chosen = tuple(dict.fromkeys(str(m).strip().lower() for m in listed if str(m).strip()))
    unknown = [m for m in chosen if m not in METHODS]
    if unknown or not chosen:
        raise ValueError(f"{argument}: received {methods!r}, expected some of {','.join(METHODS)}.")
    return chosen


def fit_by(
    method: str,
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    chains: int = 4,
    draws: int = 1000,
    progress: bool | None = None,
    init: Any = "mixed",
) -> Fit:
    """Fit by the estimator of this name; `chains` and `draws` (as many for warm-up) are for NUTS."""
    match method:
        case "em":
            return fit_em(model, starts, seed, init, progress=progress)
        case "mle":
            return fit_mle(model, starts, seed, init, progress=progress)
        case "map":
            return fit_map(model, starts, seed, init, progress=progress)
        case "laplace":
            return fit_laplace(model, starts, seed, init)
        case _:
            return fit_nuts(model, chains, draws, draws, seed, progress=progress)
