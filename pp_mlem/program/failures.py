"""Why a program could not be executed, told by what it received and where it failed."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.errors import NEEDS_VALUES, SiteError, control_flow_error, own_line
from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.neutral_run import neutral_run

_SEQUENCE = re.compile(r"'(list|tuple)'|<class '(list|tuple)'>")
# What NumPy and JAX say of a program that uses an array as a number, or arrays of other shapes.
_AS_NUMBER = ("truth value of an array", "scalar array")
_OF_SHAPES = ("shape", "broadcast", "dimension")


def program_error(error: Exception, arguments: Arguments) -> Exception:
    """The error of a program that fails, in words that lead to its cause."""
    text = str(error).split("\n")[0]
    if isinstance(error, SiteError):
        return type(error)(text + arguments.handed_over())
    if isinstance(error, (TypeError, ValueError)) and any(words in text for words in _AS_NUMBER):
        names = used_in_python(arguments)
        if names:
            return control_flow_error(names, error)
    return ValueError(
        f"the program could not be executed: {type(error).__name__}: {text}{own_line(error)}. Run "
        f"it under numpyro.handlers.seed with the same arguments to see the full traceback"
        f"{_hint(error, text, arguments)}.{arguments.handed_over()}"
    )


def _hint(error: Exception, text: str, arguments: Arguments) -> str:
    if isinstance(error, (TypeError, AttributeError)) and _SEQUENCE.search(text):
        return "; write jnp.array([a, b]) where it computes with the list [a, b]"
    if isinstance(error, (TypeError, ValueError)) and any(word in text for word in _OF_SHAPES):
        given = zip(arguments.labels, arguments.dynamic, strict=True)
        shapes = ", ".join(f"'{label}' {array.shape}" for label, array in given)
        received = f" (received {shapes})" if shapes else ""
        return f"; check that the shapes of the arguments fit its plates{received}"
    return ""


def used_in_python(arguments: Arguments) -> list[str]:
    """The unobserved sites whose values the program needs as Python numbers: found by running it
    with one site after the other traced, and all else concrete."""
    seen: dict[str, Any] = {}

    def run(name: str, value: Any) -> jax.Array:
        neutral = neutral_supply()

        def supply(msg: dict[str, Any]) -> Any:
            own = neutral(msg)
            seen.setdefault(msg["name"], own)
            return value if msg["name"] == name else own

        neutral_run(arguments, arguments.dynamic, supply)
        return jnp.zeros(())

    def fails(name: str, value: Any) -> bool:
        try:
            jax.vmap(lambda v: run(name, v))(jnp.asarray(value)[None])
        except NEEDS_VALUES:
            return True
        except Exception:  # the program's own failure, met again: told by the caller
            return False
        return False

    fails("", 0.0)
    every = dict(seen)
    return [n for n, v in every.items() if fails(n, jnp.ravel(v)[0]) or fails(n, v)]
