"""Real latents whose values are known in some units: sites with a value that latents= names, the missing cells
of which are integrated out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.program.draw import drawing_function
from pp_mlem.program.hidden import Hidden
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading

Known = dict[
    str, tuple[Any, Any]
]  # (*plates, size) values, zero where unknown, and (*plates) where they are known


def known_values(reading: Reading) -> Known:
    """The values that the program gives to sites which are read as real latents.

    Raises ValueError for infinities, and for a vector of which some entries are known.
    """
    program = reading.arguments.program
    if not isinstance(program, Hidden) or not program.found:
        return {}
    whole = replace(reading.arguments, program=program.fn)
    dynamic, params = whole.device_arrays(), neutral_parameters(reading, 0)
    seen = drawing_function(whole)(dynamic, params, jax.random.key(0))[1]
    known: Known = {}
    for name in sorted(program.found):
        site = reading.sites[name]
        shape = reading.plate_shape(site.dims)
        value = np.broadcast_to(np.asarray(seen[name], float), (*shape, *site.event_shape))
        flat = value.reshape(*shape, site.size)
        missing = np.isnan(flat)
        if np.isinf(flat).any():
            raise ValueError(f"site '{name}': infinite value among those that are known.")
        if (missing.any(-1) & ~missing.all(-1)).any():
            where = tuple(int(i) for i in np.argwhere(missing.any(-1) & ~missing.all(-1))[0])
            raise ValueError(
                f"latent '{name}': its vector at index {where} is known in part. Give each entry a site of its "
                "own, or drop these rows."
            )
        known[name] = jnp.asarray(np.nan_to_num(flat)), jnp.asarray(~missing.any(-1))
    return known
