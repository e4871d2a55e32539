"""Fits of data that come in chunks by those of few rows: starts where fits of a sample have ended, and posteriors
where few weighted rows say what all do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from pp_mlem.base.status import Status
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.held import with_held_entries
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.target.target import Target

F = TypeVar("F", bound=Callable[..., DrawsFit])
SAMPLE = 20_000  # rows that starts are fitted to
ERRORS = 4.0  # standard errors of a difference of mean log-likelihoods, beyond which an optimum is out of reach
ASIDE = (Status.COLLAPSED.label, Status.SPURIOUS.label, Status.NOT_FINITE.label)


def sample_of(model: StreamedModel) -> Model:
    """The rows to which starts are fitted, the same at every call."""
    return model.subsample(SAMPLE)


def sampled_starts(
    model: StreamedModel, target: Target, fit: Callable[[Any], PointFit]
) -> np.ndarray:
    """Vectors (starts, size): the distinct optima that `fit` finds on a sample of the rows, the best first; those
    left out whose log-likelihood for a row is below the best one's by more than chance explains."""
    sample = sample_of(model)
    found = fit(sample)
    table = found.starts
    sound = table[~table["status"].isin(ASIDE) & np.isfinite(table["objective"])]
    if not len(sound):
        sound = table.nlargest(1, "objective")
    order = sound.sort_values("objective", ascending=False)
    numbers = order[~order["optimum"].duplicated() | (order["optimum"] <= 0)].index
    kept: list[dict[str, Any]] = []
    best = None
    for i in numbers:
        params = found.start_params[i]
        own = sample.pointwise_log_likelihood(params)
        best = own if best is None else best
        gap = best - own
        if not kept or gap.mean() <= ERRORS * gap.std() / np.sqrt(len(gap)):
            kept.append(params)
    names = target.space.names
    return np.asarray(target.unconstrained({n: np.stack([p[n] for p in kept]) for n in names}))


def by_few_rows(fit: F) -> F:
    """Let a sampler, which needs all rows at each of its steps, take a model of data in chunks where few weighted rows
    say the same.

    Raises:
        NotImplementedError: where none do.
    """

    @functools.wraps(fit)
    def wrapper(model: Any, *args: Any, **kwargs: Any) -> DrawsFit:
        if not isinstance(model, StreamedModel):
            return fit(model, *args, **kwargs)
        given = inspect.signature(fit).bind(model, *args, **kwargs)
        given.apply_defaults()
        own = given.arguments
        held, own["fixed"], own["init"] = with_held_entries(model, own["fixed"], own["init"])
        if not isinstance(held, StreamedModel) or held.summary is None:
            raise NotImplementedError(
                f"{fit.__name__}: a sampler needs all rows at each of its steps, and the data come in chunks. Sample a model of "
                "some rows, model.subsample(rows), or take the normal approximation of a fit by fit_map or fit_mle."
            )
        own["model"] = held.summary
        return replace(fit(*given.args, **given.kwargs), model=held, _cache={})

    return wrapper  # type: ignore[return-value]
