"""The verbs of `base.verbs` for the classes of the floors below; pictures and tables are loaded when
one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_mlem.base.lazy import Lazy
from pp_mlem.base.verbs import (
    describe,
    plot,
    plot_components,
    plot_latents,
    plot_loadings,
    plot_predictive_check,
    tables,
    write,
)
from pp_mlem.comparison.calibrate import Calibration
from pp_mlem.comparison.compare import Comparison
from pp_mlem.comparison.selection import Selection
from pp_mlem.fit.base import Fit
from pp_mlem.model.model import Model
from pp_mlem.show.describe import describe_model

if TYPE_CHECKING:
    from pp_mlem.show import plots
    from pp_mlem.show import tables as terminal
else:
    plots = Lazy("pp_mlem.show.plots")
    terminal = Lazy("pp_mlem.show.tables")

describe.register(Model, describe_model)


@plot.register
def _(thing: Comparison, **options: Any) -> Any:
    return plots.plot_comparison(thing, **options)


@plot.register
def _(thing: Calibration, scalars: int) -> Any:
    return plots.plot_ranks(thing, scalars)


@plot.register
def _(thing: Selection) -> Any:
    return plots.plot_selection(thing)


@plot.register
def _(thing: Fit, a: str, b: str, **options: Any) -> Any:
    return plots.plot_surface(thing, a, b, **options)


@plot_components.register
def _(thing: Fit, site: Any) -> Any:
    return plots.plot_components(thing, site)


@plot_predictive_check.register
def _(thing: Fit, draws: int) -> Any:
    return plots.plot_predictive_check(thing, draws)


@plot_latents.register
def _(thing: Fit, names: Any, **options: Any) -> Any:
    return plots.plot_latents(thing, names, **options)


@plot_loadings.register
def _(thing: Fit, loadings: Any, **options: Any) -> Any:
    return plots.plot_loadings(thing, loadings, **options)


@tables.register
def _(thing: Comparison) -> list[Any]:
    return terminal.comparison_tables(thing)


@write.register
def _(thing: Comparison, console: Any) -> None:
    terminal.write_comparison(thing, console)
