"""The body of a scan within one run of the program, one step at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.contrib.control_flow.scan import PytreeTrace

from pp_mlem.program.errors import Refused
from pp_mlem.program.messages import Message, Supply
from pp_mlem.program.trace import Runner


class Body:
    """The body of a scan within one run of the program.

    `given` are values of continuous sites of the body, (steps, ...) in the order in which the
    steps are run.
    """

    def __init__(
        self, runner: Runner, msg: dict[str, Any], given: dict[str, Any] | None = None
    ) -> None:
        f, init, xs, length, reverse = msg["args"]
        self.runner, self.f, self.given = runner, f, given or {}
        self.length = _length(xs, length)
        self.reverse = bool(reverse)
        self.init = jax.tree.map(jnp.asarray, init)
        self.xs = jax.tree.map(lambda a: jnp.asarray(a)[::-1] if reverse else jnp.asarray(a), xs)

    def x(self, t: Any) -> Any:
        return jax.tree.map(lambda a: a[t], self.xs)

    def step(
        self, carry: Any, t: Any, supply: Supply, x: Any = None
    ) -> tuple[Any, Any, dict[str, Message]]:
        """(new carry, output, sites) of step t."""
        x = self.x(t) if x is None else x

        def own(msg: dict[str, Any]) -> Any:
            known = self.given.get(msg["name"])
            return supply(msg) if known is None else jnp.asarray(known)[t]

        carry, y, messages = self.runner.step(self.f, carry, x, own, t, self.length)
        return jax.tree.map(jnp.asarray, carry), y, messages

    def result(self, carry: Any, ys: Any) -> Any:
        """What the scan's message must hold."""
        if self.reverse:
            ys = jax.tree.map(lambda a: a[::-1], ys)
        return (self.length, None, carry), (PytreeTrace({}), ys)


def _length(xs: Any, length: Any) -> int:
    """The number of steps, by the arrays that are scanned or as the program says."""
    sizes = {jnp.shape(a)[0] if jnp.ndim(a) else None for a in jax.tree.leaves(xs)}
    if None in sizes or len(sizes) > 1 or (not sizes and length is None):
        raise Refused(
            f"scan: the leading sizes of xs are {sorted(map(str, sizes))}; all arrays of xs "
            "need one common leading size, or pass length=."
        )
    steps = int(next((size for size in sizes if size is not None), length))
    if steps < 1:
        raise Refused("scan: it has no steps; expected at least one.")
    if length is not None and int(length) != steps:
        raise Refused(
            f"scan: length={length}, and the arrays of xs have {steps} entries. Leave "
            "length out, or pass xs=None."
        )
    return steps


def same_form(carry: Any, other: Any) -> bool:
    """Whether two carries have the same structure."""
    form: Any = jax.tree.structure(carry)
    return bool(form == jax.tree.structure(other))
