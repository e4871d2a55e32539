"""Batched factorisations one after the other.

A batch of factorisations or triangular solves waits, on a thread of the pool on which it runs, for others
of that pool to do its parts (jaxlib 0.10, `ParallelBatchMap`). When as many batches run at once as there
are threads, all of them wait for ever. In what is compiled here each batch therefore depends on the one
before it, in a way that the compiler does not see through; and what is to run on several threads at once has
no batches at all, but loops over their members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

FACTORISATIONS = {
    "cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur",
    "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
}  # fmt: skip
LOOPS = {"scan", "while", "cond"}
Run = Callable[..., Any]


def one_at_a_time(function: Run, apart: bool = False) -> Run:
    """The same function, to be compiled; `apart`: with loops in place of batches."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        flat, tree = jax.tree.flatten(arguments)

        def of_leaves(*leaves: Any) -> Any:
            return function(*jax.tree.unflatten(tree, leaves))

        closed, shape = jax.make_jaxpr(of_leaves, return_shape=True)(*flat)
        changes = _count(closed.jaxpr) > (0 if apart else 1)
        evaluate = _Evaluation(apart).run if changes else jax.core.eval_jaxpr
        out = evaluate(closed.jaxpr, closed.consts, *flat)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return run


def _inner(equation: Any) -> Iterator[tuple[str, Any]]:
    """The programs that an equation holds, by parameter."""
    for name, value in equation.params.items():
        for part in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(part, (core.Jaxpr, core.ClosedJaxpr)):
                yield name, part


def _is_batch(equation: Any) -> bool:
    if equation.primitive.name not in FACTORISATIONS:
        return False
    shape = equation.invars[0].aval.shape
    return len(shape) > 2 and int(np.prod(shape[:-2])) > 1


def _count(program: Any) -> int:
    """How many batches a program holds."""
    program = getattr(program, "jaxpr", program)
    return sum(int(_is_batch(e)) + sum(_count(part) for _, part in _inner(e)) for e in program.eqns)


class _Evaluation:
    """Evaluates a program; `last` is what the batch before gave."""

    def __init__(self, apart: bool) -> None:
        self.apart = apart
        self.last: Any = None

    def run(self, program: Any, consts: Sequence[Any], *arguments: Any) -> list[Any]:
        known: dict[Any, Any] = {}

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else known[variable]

        known.update(zip(program.constvars, consts, strict=True))
        known.update(zip(program.invars, arguments, strict=True))
        for equation in program.eqns:
            found = self._bind(equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [read(v) for v in program.outvars]

    def _bind(self, equation: Any, values: list[Any]) -> list[Any]:
        inner = [part for _, part in _inner(equation)]
        inside = sum(_count(part) for part in inner)
        name, parameters = equation.primitive.name, equation.params
        if inside and name not in LOOPS and len(inner) == 1:  # a call: its batches are ours
            (part,) = inner
            return self.run(getattr(part, "jaxpr", part), getattr(part, "consts", ()), *values)
        if inside and name == "custom_linear_solve":  # its other programs are for derivatives
            constants = parameters["const_lengths"]
            before, every = constants.matvec + constants.vecmat, sum(constants)
            solve = parameters["jaxprs"].solve
            own = [*values[before : before + constants.solve], *values[every:]]
            return self.run(solve.jaxpr, solve.consts, *own)
        if inside and name in LOOPS:
            parameters = {k: _rewritten(v, self.apart) for k, v in parameters.items()}
        bound = equation.primitive.get_bind_params(parameters)
        # Of JAX before 0.10 a pair: functions among the parameters come first.
        functions, parameters = bound if isinstance(bound, tuple) else ((), bound)

        def bind(*values: Any) -> list[Any]:
            found = equation.primitive.bind(*functions, *values, **parameters)
            return list(found) if equation.primitive.multiple_results else [found]

        if self.apart:
            return _one_by_one(bind, values) if _is_batch(equation) else bind(*values)
        chained = inside > 0 or _is_batch(equation)
        found = bind(*(self._after_the_last(values) if chained else values))
        if chained:
            self.last = next((f for f in found if _is_floating(f)), self.last)
        return found

    def _after_the_last(self, values: list[Any]) -> list[Any]:
        """The same values, the first number among which depends on what the last batch gave."""
        place = next((i for i, v in enumerate(values) if _is_floating(v)), None)
        if self.last is None or place is None:
            return values
        corner = jax.lax.slice(self.last, (0,) * self.last.ndim, (1,) * self.last.ndim)
        one = jnp.where(jnp.abs(corner).sum() < -1.0, 0.0, 1.0)
        values = list(values)
        values[place] = values[place] * one.astype(values[place].dtype)
        return values


def _one_by_one(bind: Callable[..., list[Any]], values: Sequence[Any]) -> list[Any]:
    """A batch of a factorisation, by a loop over its members."""
    batch = values[0].shape[:-2]
    members = [v.reshape(-1, *v.shape[len(batch) :]) for v in values]
    found = jax.lax.map(lambda own: bind(*own), members)
    return [f.reshape(*batch, *f.shape[1:]) for f in found]


def _rewritten(parameter: Any, apart: bool) -> Any:
    """A parameter of a loop, with its programs rewritten."""
    if isinstance(parameter, (tuple, list)):
        return type(parameter)(_rewritten(p, apart) for p in parameter)
    if not isinstance(parameter, core.ClosedJaxpr) or not _count(parameter):
        return parameter

    def inside(*arguments: Any) -> list[Any]:
        return _Evaluation(apart).run(parameter.jaxpr, parameter.consts, *arguments)

    return jax.make_jaxpr(inside)(*(_abstract(a) for a in parameter.in_avals))


def _abstract(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact) and bool(np.size(value))
