"""Real latents whose numbers are known in part: sites with a value that latents= names, the missing cells of
which are integrated out, and latents that observe= gives values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.labels import in_shape
from pp_mlem.program.draw import drawing_function
from pp_mlem.program.hidden import Hidden
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading

# (*plates, size) values, zero where unknown, and where they are known
Known = dict[str, tuple[Any, Any]]


def known_values(reading: Reading, observe: Mapping[str, Any]) -> Known:
    """The values that the program, or the user, gives to sites which are read as real latents.

    Raises TypeError, ValueError for infinities and for what has not the shape of the latent.
    """
    given = _by_program(reading)
    for name, value in observe.items():
        if reading.sites[name].real:
            shape = reading.real_shape(reading.sites[name])
            given[name] = in_shape(name, value, shape, "values", "real ones, or NaN where unknown")
    known: Known = {}
    for name, value in sorted(given.items()):
        site = reading.sites[name]
        flat = value.reshape(*reading.plate_shape(site.dims), site.size)
        if np.isinf(flat).any():
            raise ValueError(f"site '{name}': infinite value among those that are known.")
        known[name] = jnp.asarray(np.nan_to_num(flat)), jnp.asarray(~np.isnan(flat))
    return known


def _by_program(reading: Reading) -> dict[str, np.ndarray]:
    """The values of sites with obs= that are read as latents."""
    program = reading.arguments.program
    while not isinstance(program, Hidden) and hasattr(program, "__wrapped__"):  # joined
        program = program.__wrapped__
    if not isinstance(program, Hidden) or not program.found:
        return {}
    whole = replace(reading.arguments, program=program.fn)
    dynamic, params = whole.device_arrays(), neutral_parameters(reading, 0)
    seen = drawing_function(whole)(dynamic, params, jax.random.key(0))[1]
    shapes = {n: reading.real_shape(reading.sites[n]) for n in program.found}
    return {n: np.broadcast_to(np.asarray(seen[n], float), shape) for n, shape in shapes.items()}
