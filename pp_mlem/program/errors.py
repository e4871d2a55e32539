"""The errors of reading a program, and how they are told in the words of the program."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping

import jax

from pp_mlem.program.frames import NeedsValues

# What a program raises that needs the value of a traced array.
NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    NeedsValues,
)


class Refused(ValueError):
    """A program that runs but is not read, with the remedy."""


class SiteError(Exception):
    """An error that is told in the words of the program already: it names its site."""


class SiteValueError(SiteError, ValueError):
    """A value, shape or distribution of a site that cannot be."""


class StatesMeet(SiteValueError):
    """Units of states of a scan meet: no unit has a recursion of its own. `ranks` are the real latents that
    are one vector each if their last so many batch dimensions are joined; empty where that is too large."""

    def __init__(self, message: str, ranks: Mapping[str, int]) -> None:
        super().__init__(message)
        self.ranks = dict(ranks)


class UnitsMeet(SiteValueError):
    """A site reads several units of `latents` at once, so that no unit can be taken out by itself."""

    def __init__(self, message: str, latents: Iterable[str]) -> None:
        super().__init__(message)
        self.latents = tuple(latents)


class UnderMask(SiteValueError):
    """The law of a real latent is masked."""

    def __init__(self, message: str, latent: str) -> None:
        super().__init__(message)
        self.latent = latent


class SiteTypeError(SiteError, TypeError):
    """Data of a site that are no numbers."""


def own_line(error: Exception) -> str:
    """Where in the user's own code an exception comes from, as ", at file.py, line 3: `code`"."""
    libraries = tuple(f"{os.sep}{name}{os.sep}" for name in ("jax", "numpyro", "numpy", "pp_mlem"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folder = os.path.dirname(frame.filename) + os.sep
        inside = "site-packages" in folder or folder.endswith(libraries[-1])
        if not inside and not any(name in folder for name in libraries) and frame.line:
            where = os.path.basename(frame.filename)
            return f", at {where}, line {frame.lineno}: `{frame.line}`"
    return ""


def control_flow_error(names: list[str], error: Exception) -> ValueError:
    """For a program that needs the value of an unobserved site while it runs."""
    sites = ", ".join(f"'{n}'" for n in names) or "an unobserved site"
    text, where = str(error).splitlines()[0], own_line(error)
    if "__array__()" in text:
        return ValueError(
            f"the program hands the value of {sites}, or another array of JAX's, to NumPy or in a "
            f"Python list to a distribution{where}. Such values are not known while the "
            "program runs: write jnp.exp, jnp.array, ... for np.exp, np.array, ..., and "
            "jnp.array([a, b]) for the list [a, b]."
        )
    if "scalar index" in text or "__index__()" in text:
        return ValueError(
            f"the program uses the value of {sites} in Python, as an index or number{where}. "
            "Its value is not known while the program runs: index an array by it, as in "
            "jnp.stack(values)[z] for values[z], and replace range(z) by jnp.where over all its "
            "values."
        )
    return ValueError(
        f"the program uses the value of {sites} in Python control flow or as a Python number"
        f"{where}: {text} Its value is not known while the "
        "program runs: replace `if z:` by jnp.where(z, a, b), int(z) or range(z) by indexing "
        "with z or by jnp.where over all its values, and float(z) or math.exp(z) by z or jnp.exp(z)."
    )
