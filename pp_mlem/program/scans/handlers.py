"""Handlers that act along the steps of a scan, as its body meets them at one step."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro import handlers
from numpyro.primitives import Messenger

from pp_mlem.program.errors import Refused

_ALONG_STEPS = (
    handlers.condition,
    handlers.substitute,
    handlers.do,
    handlers.mask,
    handlers.scale,
)


def at_one_step(stack: list[Messenger], number: Any, length: int) -> list[Messenger]:
    """The handlers around a scan of `length` steps as its body is to meet them at step `number`."""
    return [AtStep(h, number, length) if isinstance(h, _ALONG_STEPS) else h for h in stack]


class AtStep(Messenger):
    """A handler around a scan as its body meets it at one step: NumPyro runs the body out of its
    reach and shows it the sites with a leading dimension of steps, so what it holds is sliced."""

    def __init__(self, handler: Messenger, number: Any, length: int) -> None:
        super().__init__()
        self.handler, self.number, self.length = handler, number, length

    def process_message(self, msg: dict[str, Any]) -> None:
        handler = self.handler
        if msg["type"] != "sample":
            return
        if isinstance(handler, (handlers.condition, handlers.substitute)):
            if msg["value"] is None:
                self.give(msg)
        elif isinstance(handler, handlers.mask):
            handlers.mask(mask=self.of_step(handler.mask, msg)).process_message(msg)
        elif isinstance(handler, handlers.scale):
            handlers.scale(scale=self.of_step(handler.scale, msg)).process_message(msg)

    def give(self, msg: dict[str, Any]) -> None:
        handler = self.handler
        condition = isinstance(handler, handlers.condition)
        compute = handler.condition_fn if condition else handler.substitute_fn
        value = compute(msg) if compute is not None else (handler.data or {}).get(msg["name"])
        if value is None:
            return
        fn, shape = msg["fn"], jnp.shape(value)
        plates = max((-f.dim for f in msg["cond_indep_stack"]), default=0)
        if len(shape) - len(fn.event_shape) > plates:  # latents may have widened the batch shape
            if shape[0] != self.length:
                kind = type(handler).__name__
                raise Refused(
                    f"site '{msg['name']}': handlers.{kind} gives it {shape[0]} values (shape "
                    f"{shape}) for the {self.length} steps of the scan. Give one value for every "
                    "step, NaN where it is missing."
                )
            value = jnp.asarray(value)[self.number]
        msg["value"], msg["is_observed"] = value, True

    def of_step(self, array: Any, msg: dict[str, Any]) -> Any:
        """The entries of this step where the array has a dimension of steps."""
        rank = max((-f.dim for f in msg["cond_indep_stack"]), default=0)
        if msg["value"] is not None:
            rank = max(rank, jnp.ndim(msg["value"]) - len(msg["fn"].event_shape))
        if jnp.ndim(array) != rank + 1:
            return array
        array = jnp.asarray(array)
        return array[0] if array.shape[0] == 1 else array[self.number]
