"""pp_mlem: latent-variable models declared once in NumPyro, fitted by EM, MLE, MAP and NUTS."""

from pp_mlem.model import Model

__all__ = ["Model"]
