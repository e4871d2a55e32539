"""pp_mlem: latent-variable models declared once in NumPyro, fitted by EM, MLE, MAP and NUTS."""

from pp_mlem.comparison.compare import Comparison, compare
from pp_mlem.comparison.experiment import calibrate, experiment
from pp_mlem.comparison.selection import likelihood_ratio_test, select
from pp_mlem.estimate.laplace import fit_laplace
from pp_mlem.estimate.nuts import fit_nuts
from pp_mlem.estimate.point_estimators import fit_em, fit_map, fit_mle
from pp_mlem.fit.base import Fit
from pp_mlem.fit.draws import DrawsFit
from pp_mlem.fit.point import PointFit
from pp_mlem.fit.saving import load
from pp_mlem.model.model import Model
from pp_mlem.show import verbs as _verbs  # noqa: F401  teaches results their pictures

__all__ = [
    "Comparison",
    "DrawsFit",
    "Fit",
    "Model",
    "PointFit",
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
