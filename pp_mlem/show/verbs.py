"""The verbs of `base.verbs` for the classes of the floors below; pictures are loaded when one is asked
for."""

from __future__ import annotations

from typing import Any

from pp_mlem.base.verbs import describe, plot
from pp_mlem.comparison.compare import Comparison
from pp_mlem.comparison.experiment import Calibration
from pp_mlem.comparison.selection import Selection
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.describe import describe_model

describe.register(Model, describe_model)


@plot.register
def _(found: Comparison, **options: Any) -> Any:
    from pp_mlem.show.plots import plot_comparison

    return plot_comparison(found, **options)


@plot.register
def _(found: Calibration, scalars: int) -> Any:
    from pp_mlem.show.plots import plot_ranks

    return plot_ranks(found, scalars)


@plot.register
def _(found: Selection) -> Any:
    from pp_mlem.show.plots import plot_selection

    return plot_selection(found)


@plot.register
def _(fit: Fit, *args: Any) -> Any:
    from pp_mlem.show.plots import plot_surface

    return plot_surface(fit, *args)
