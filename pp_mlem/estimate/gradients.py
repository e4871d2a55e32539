"""Fits of programs that JAX cannot differentiate say so in the program's words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from pp_mlem.base.precision import working_precision
from pp_mlem.model.model import Model
from pp_mlem.program.sites import Site

F = TypeVar("F", bound=Callable[..., Any])


def takes_gradients(fit: F) -> F:
    """A fit of a program that JAX cannot differentiate says so in the program's words."""

    @functools.wraps(fit)
    def wrapper(model: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return fit(model, *args, **kwargs)
        except (ValueError, NotImplementedError) as error:
            text = str(error)
            if "Reverse-mode differentiation does not work" in text:
                raise ValueError(
                    "the program computes a distribution's parameter by jax.lax.while_loop, or by "
                    "fori_loop with a number of steps that is computed, whose gradient JAX cannot "
                    "take. Use jax.lax.scan or fori_loop with a fixed number of steps, or a solver "
                    "with a rule of its own (jax.lax.custom_root)."
                ) from error
            if "radient" not in text and "ifferentiat" not in text:
                raise
            site = _without_gradient(model)
            if site is None:
                raise
            raise ValueError(
                f"site '{site.name}' ({site.distribution}): its density has no derivative in JAX: "
                f"{text.splitlines()[0]} Hold the parameters in question by fixed={{...}}, or write "
                "the density with functions that JAX differentiates."
            ) from error

    return wrapper  # type: ignore[return-value]


def _without_gradient(model: Model) -> Site | None:
    """The first site whose density JAX cannot differentiate in its parameters."""
    reading, marginal, space = model.reading, model.marginal, model.space
    with working_precision(model.dtype):
        for site in (*reading.laws, *reading.observed):
            wanted = frozenset({site.name})

            def total(vector: jax.Array, wanted: frozenset[str] = wanted) -> jax.Array:
                eta = marginal.natural(space.constrain(vector), model.data, wanted)
                return sum((jnp.sum(a) for a in jax.tree.leaves(eta)), jnp.zeros(()))

            try:
                jax.eval_shape(jax.grad(total), jnp.zeros(space.size))
            except (ValueError, NotImplementedError):
                return site
    return None
