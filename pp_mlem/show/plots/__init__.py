"""Pictures, as matplotlib figures."""

from pp_mlem.show.plots.comparison import comparison_figures, plot_comparison, save_pictures
from pp_mlem.show.plots.components import plot_components
from pp_mlem.show.plots.latents import plot_latents
from pp_mlem.show.plots.loadings import plot_loadings
from pp_mlem.show.plots.posterior import plot_posterior_against_normal
from pp_mlem.show.plots.predictive import plot_predictive_check
from pp_mlem.show.plots.studies import plot_ranks, plot_selection
from pp_mlem.show.plots.surface import plot_surface

__all__ = [
    "comparison_figures",
    "plot_comparison",
    "plot_components",
    "plot_latents",
    "plot_loadings",
    "plot_posterior_against_normal",
    "plot_predictive_check",
    "plot_ranks",
    "plot_selection",
    "plot_surface",
    "save_pictures",
]
