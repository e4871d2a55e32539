"""pp_mlem: latent-variable models declared once in NumPyro, fitted by EM, MLE, MAP and NUTS."""

from pp_mlem.compare import Comparison, compare
from pp_mlem.em import fit_em
from pp_mlem.fit import Fit, load
from pp_mlem.model import Model
from pp_mlem.nuts import fit_nuts
from pp_mlem.optimise import fit_map, fit_mle

__all__ = [
    "Comparison",
    "Fit",
    "Model",
    "compare",
    "fit_em",
    "fit_map",
    "fit_mle",
    "fit_nuts",
    "load",
]
