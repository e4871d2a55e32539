"""pp_mlem: latent-variable models declared once in NumPyro, fitted by EM, MLE, MAP and NUTS."""

from pp_mlem.compare import Comparison, compare
from pp_mlem.em import fit_em
from pp_mlem.experiment import calibrate, experiment
from pp_mlem.fit import Fit, load
from pp_mlem.laplace import fit_laplace
from pp_mlem.model import Model
from pp_mlem.nuts import fit_nuts
from pp_mlem.optimise import fit_map, fit_mle
from pp_mlem.selection import likelihood_ratio_test, select

__all__ = [
    "Comparison",
    "Fit",
    "Model",
    "calibrate",
    "compare",
    "experiment",
    "fit_em",
    "fit_laplace",
    "fit_map",
    "fit_mle",
    "fit_nuts",
    "likelihood_ratio_test",
    "load",
    "select",
]
