"""From one size of a selection to the next: starts that are split from the solution before, another try where
a larger size ends below a smaller one, and how many starts reached the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.status import Status
from pp_mlem.diagnose.optima import SAME_OPTIMUM, label_optima
from pp_mlem.estimate.sampled import sample_of
from pp_mlem.estimate.splits import Split, is_larger
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel

ASIDE = (Status.COLLAPSED.label, Status.SPURIOUS.label, Status.NOT_FINITE.label)
SPLITS = 0.5  # for each start and each value of the smaller fit
ANOTHER = 7_919  # what is added to the seed for another try


def fit_before(
    setting: Mapping[str, Any], finished: Sequence[tuple[Mapping[str, Any], Fit]]
) -> Fit | None:
    """Of the finished fits that of the nearest smaller size: one whole number differs, and is smaller."""
    nearest: tuple[int, Fit] | None = None
    for other, fit in finished:
        differs = [k for k in setting if setting[k] != other[k]]
        if len(differs) != 1:
            continue
        own, below = setting[differs[0]], other[differs[0]]
        if not all(
            isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in (own, below)
        ):
            continue
        if below < own and (nearest is None or own - below < nearest[0]):
            nearest = int(own - below), fit
    return None if nearest is None else nearest[1]


def split_from(smaller: Fit | None, model: Model, starts: int) -> Split | None:
    """Starts of a model from the solution of a smaller one: half as many as it has of its own for each value
    of the latent that has grown, where looks at the data are cheap, else as many as its own. None where no
    finite latent has grown."""
    if smaller is None or smaller.model is None or smaller.status in ASIDE:
        return None
    if isinstance(model, StreamedModel) and isinstance(smaller.model, StreamedModel):
        posterior = sample_of(smaller.model).posterior(smaller.params)
        model = sample_of(model)
    else:
        posterior = smaller.posterior()
    held = {name: np.asarray(own) for name, own in posterior.items() if isinstance(own, np.ndarray)}
    grown = [
        held[s.name].shape[-1]
        for s in model.reading.latents
        if s.name in held
        and is_larger(tuple(model.reading.plate_shape(s.dims)), s.size, held[s.name])
    ]
    if not grown:
        return None
    same = {
        s.name: held[s.name]
        for s in model.reading.latents
        if s.name in held
        and held[s.name].shape[:-1] == tuple(model.reading.plate_shape(s.dims))
        and held[s.name].shape[-1] <= s.size
    }
    count = int(np.ceil(SPLITS * starts * max(grown)))
    return Split(same, count if model.target().work.side_by_side else min(count, starts))


def is_below(fit: Fit, smaller: Fit | None) -> bool:
    """Whether a fit by maximum likelihood is worse than one with fewer parameters, or has no sound start."""
    if not (isinstance(fit, PointFit) and isinstance(smaller, PointFit)):
        return False
    if smaller.status in ASIDE or fit.objective != "mle" or smaller.objective != "mle":
        return False
    if fit.n_parameters <= smaller.n_parameters:
        return False
    level = smaller.log_likelihood - SAME_OPTIMUM * (1 + abs(smaller.log_likelihood))
    return fit.status in ASIDE or fit.log_likelihood < level


def joined(first: PointFit, second: PointFit) -> PointFit:
    """The better of two fits of one model, with the starts of both."""

    def height(fit: PointFit) -> tuple[bool, float]:
        value = fit.objective_value
        return fit.status not in ASIDE, value if np.isfinite(value) else -np.inf

    best = max((first, second), key=height)
    table = pd.concat([first.starts, second.starts], ignore_index=True)
    table.index.name = first.starts.index.name
    status = np.array([int(Status.of_label(s)) for s in table["status"]])
    table["optimum"] = label_optima(table["objective"].to_numpy(float), status)
    return replace(
        best,
        starts=table,
        histories=(*first.histories, *second.histories),
        start_params=(*first.start_params, *second.start_params),
        seed=first.seed,
        seconds=first.seconds + second.seconds,
        compile_seconds=first.compile_seconds + second.compile_seconds,
        _cache={},
    )


def reached(fit: Fit) -> tuple[int, int]:
    """How many starts ended at the optimum that was chosen, and how many there were; (0, 0) for draws."""
    if not isinstance(fit, PointFit):
        return 0, 0
    starts = fit.starts[fit.starts["optimum"] > 0]
    sound = starts[~starts["status"].isin(ASIDE)]
    told = sound if fit.status not in ASIDE and len(sound) else starts
    best = int((told["optimum"] == told["optimum"].min()).sum()) if len(told) else 0
    return best, len(fit.starts)
