"""Estimators of scikit-learn: `Mixture` and `HMM`, from a family's name or from any NumPyro program.

They work in pipelines, grid searches and cross-validation, can be cloned and pickled, and take pandas
objects and missing values (NaN). scikit-learn is needed for this module only.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pp_mlem.sklearn needs scikit-learn: python -m pip install 'pp-mlem[sklearn]'."
    ) from error

from pp_mlem.scikit.hmm import HMM
from pp_mlem.scikit.mixture import Mixture

__all__ = ["HMM", "Mixture"]
