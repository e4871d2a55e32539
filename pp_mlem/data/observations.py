"""What observed values may not be: none at all, or at an edge where no parameters allow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import base_support

_SIMPLEX = type(constraints.simplex)
_CIRCULAR = type(constraints.circular)


def at_edge(support: Any, value: Any) -> np.ndarray | None:
    """Elements of real values that lie on a bound of their support; None if there are none."""
    support = base_support(support)
    value = np.asarray(value)
    discrete = bool(getattr(support, "is_discrete", False))
    if value.dtype.kind != "f" or discrete or isinstance(support, _CIRCULAR):
        return None
    if isinstance(support, _SIMPLEX):
        found = (value == 0).any(-1)
    else:
        bounds = [getattr(support, b, None) for b in ("lower_bound", "upper_bound")]
        found = np.zeros((), bool)
        for bound in bounds:
            if bound is not None:
                found = found | (value == np.asarray(bound))
    return found if found.any() else None


def refuse_impossible(
    reading: Reading,
    dynamic: tuple,
    suspects: Mapping[str, tuple[np.ndarray, np.ndarray]],
    keep: Callable[[Any, Callable], Callable],
) -> None:
    """Raise ValueError for a value at which the density is zero or infinite whatever the
    latents are, at two values of the parameters: then it is so at (almost) all of them."""
    if not suspects:
        return

    def extract(m: Message) -> Any:
        bare = unwrap(m.fn)
        return m.placed(log_density(bare.fn, m.value), bare.columns)

    names = frozenset(suspects)

    def run(params: dict, given: tuple) -> dict[str, Any]:
        return reading.run(params, given, extract, wanted=names, wide=True)

    run = keep(("edges", names), run)
    densities = [run(neutral_parameters(reading, seed), dynamic) for seed in (1, 2)]
    for name, (suspect, value) in suspects.items():
        bad = suspect
        for found in densities:
            log = np.asarray(found[name])
            bad = bad & (~np.isfinite(log)).all(tuple(range(log.ndim - suspect.ndim)))
        if not bad.any():
            continue
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        told = np.asarray(value)[where]
        kind = reading.sites[name].distribution
        raise ValueError(
            f"observed site '{name}': the value {told} at index {where} lies on the edge of the "
            f"support of {kind}, where its density is zero or infinite whatever the parameters "
            "are. Move it inside (as (y (n - 1) + 0.5) / n does for shares), drop it, or model the edge on its "
            "own, as a mixture with a point mass."
        )


def inside_supports(
    reading: Reading, names: frozenset[str], dynamic: tuple
) -> dict[str, jax.Array]:
    """Whether all values of each of these observed sites lie in its support, where that moves with no parameter.
    Traceable."""

    def extract(m: Message) -> jax.Array:
        return jnp.all(unwrap(m.fn).fn.support.check(m.value))

    params = {s.name: jnp.ones(s.shape) for s in reading.space.sites}
    found = reading.run(params, dynamic, extract, reading.zeros(), wanted=names, wide=True)
    return {name: jnp.all(steps) for name, steps in found.items()}


def refuse_no_data(seen: Mapping[str, bool], weighed: bool) -> None:
    """Raise ValueError when no observed site has a value left."""
    if not seen or any(seen.values()):
        return
    names = ", ".join(f"'{n}'" for n in seen)
    lost = "missing, masked or of weight zero" if weighed else "missing or masked"
    raise ValueError(
        f"no data: every observation of {names} is {lost}. Check the mask, the weights and what "
        "was read from the file."
    )
