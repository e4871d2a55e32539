"""pp_mlem: latent-variable models declared once in NumPyro, fitted by EM, MLE, MAP and NUTS."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pp_mlem.show.public import *

__all__ = [
    "Comparison",
    "DrawsFit",
    "Fit",
    "Model",
    "PointFit",
    "Pooled",
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
    "open_source",
    "pool",
    "select",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded with JAX and NumPyro when it is first asked for: until then nothing is,
    so that the command line answers at once."""
    if name == "__version__":
        from importlib.metadata import version

        return version("pp-mlem")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pp_mlem.show import public

    globals()[name] = found = getattr(public, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
