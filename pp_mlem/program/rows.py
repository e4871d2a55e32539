"""Long data cut to their first rows: enough to read a program's structure from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.distributions import is_discrete
from pp_mlem.program.neutral_run import neutral_run

THIN_ROWS = 2000


def thin(arguments: Arguments) -> tuple[np.ndarray, ...]:
    """The data, with long arrays cut to their first rows: enough to read a structure from. All of
    them where the program has rows by something else, as by a number of its own."""
    longest = max((a.shape[0] for a in arguments.dynamic if a.ndim), default=0)
    if not arguments.traced or longest <= 2 * THIN_ROWS:
        return arguments.dynamic
    cut = tuple(a[:THIN_ROWS] if a.ndim and a.shape[0] == longest else a for a in arguments.dynamic)
    shapes = _unobserved_shapes(arguments, arguments.dynamic)
    return cut if shapes == _unobserved_shapes(arguments, cut) else arguments.dynamic


def _unobserved_shapes(arguments: Arguments, dynamic: tuple) -> dict[str, tuple] | None:
    """The shapes of the continuous unobserved sites; None where the program does not run, or its
    plates are not as long as its observations."""
    shapes: dict[str, tuple] = {}

    def run(given: tuple) -> int:
        for name, message in neutral_run(arguments, given)[0].items():
            if message.kind == "param" or not (message.observed or is_discrete(message.fn)):
                shapes[name] = jnp.shape(message.value)
            elif message.observed:
                event = len(message.fn.event_shape)
                rows = jnp.shape(message.value)[: jnp.ndim(message.value) - event]
                jnp.broadcast_shapes(tuple(message.fn.batch_shape), rows)
        return 0

    try:
        jax.eval_shape(run, dynamic)
    except Exception:  # a program may raise anything where its rows do not fit
        return None
    return shapes
