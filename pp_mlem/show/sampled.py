"""Fits of data in chunks on a sample of the rows, for pictures that show the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.sources import Grouped

ROWS = 20_000


def on_sample(fits: Mapping[str, Fit]) -> tuple[dict[str, Fit], str]:
    """The fits, those of data in chunks bound to rows drawn at random: what is asked of the data is told of these;
    the estimates and their covariance are those of all rows. And a sentence that says so, where there are any."""
    samples: dict[int, Model] = {}
    found, told = {}, ""
    for name, fit in fits.items():
        model = fit.model
        if isinstance(model, StreamedModel):
            if id(model) not in samples:
                samples[id(model)] = model.subsample(min(ROWS, model.stream.count))
            found[name] = bound_to(fit, samples[id(model)])
            if model.stream.count > ROWS:
                units = "groups" if isinstance(model.source, Grouped) else "rows"
                told = f" Of {ROWS:,} {units} drawn from {model.stream.count:,}."
        else:
            found[name] = fit
    return found, told


def bound_to(fit: Fit, model: Model) -> Fit:
    """The fit on other rows, with the covariance that it has."""
    known = {("covariance", "observed"): fit.covariance_details("observed")}
    return replace(fit, model=model, stored=None, _cache={} if fit.has_draws else known)
