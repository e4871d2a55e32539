"""Which batch dimension of a site belongs to which plate."""

from __future__ import annotations

import jax.numpy as jnp

from pp_mlem.program.distributions import is_factor
from pp_mlem.program.errors import SiteValueError
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Plate


def dims_of(message: Message, plates: dict[str, Plate], implicit: bool) -> dict[str, int]:
    """The dimension of each plate of a site; `plates` receives them, `implicit` says whether a batch
    dimension without a plate makes one."""
    for name, _, size in message.plates:
        known = plates.get(name)
        if known is not None and known.size != size:
            raise ValueError(
                f"plate '{name}' has size {size} at site '{message.name}' and {known.size} "
                "elsewhere. Use one size per plate name (subsampling is not supported)."
            )
        plates[name] = Plate(name, size)
    dims = {name: dim for name, dim, _ in message.plates}
    return _with_implicit(message, plates, dims) if implicit else dims


def _with_implicit(
    message: Message, plates: dict[str, Plate], declared: dict[str, int]
) -> dict[str, int]:
    """The dimensions with those of the batch shape that no plate declares."""
    dims, taken = dict(declared), set(declared.values())
    batch = _batch_shape(message)
    outermost = max((-d for d in taken), default=0)
    for i, size in enumerate(reversed(batch)):
        alone = message.observed and i >= outermost
        if -(i + 1) not in taken and (size > 1 or alone):
            name = f"dim {-(i + 1)} of {size}"
            plates[name] = Plate(name, size, implicit=True)
            dims[name] = -(i + 1)
    for name, dim in dims.items():
        size = batch[dim] if len(batch) >= -dim else 1
        if size not in (1, plates[name].size):
            raise ValueError(
                f"site '{message.name}': batch size {size} in dimension {dim} does not fit "
                f"plate '{name}' of size {plates[name].size}."
            )
    return dims


def _batch_shape(message: Message) -> tuple[int, ...]:
    """Batch shape of a site, the observed value's own batch dimensions included."""
    shape = tuple(message.fn.batch_shape)
    if message.observed and not is_factor(message.fn):
        value = jnp.shape(message.value)
        batch = value[: len(value) - len(message.fn.event_shape)]
        try:
            return tuple(jnp.broadcast_shapes(shape, batch))
        except ValueError:
            raise SiteValueError(
                f"observed site '{message.name}': its data have shape {value}, its distribution "
                f"has batch shape {shape} and event shape {tuple(message.fn.event_shape)}. Check "
                "the plate sizes against the shape of the data."
            ) from None
    return shape


def check_observed_shape(m: Message) -> None:
    """An observed value, its case weights and its distribution have to fit each other."""
    if not m.observed or m.kind != "sample" or is_factor(m.fn):
        return
    event, value = len(m.fn.event_shape), jnp.shape(m.value)
    batch, own = value[: len(value) - event], value[len(value) - event :]
    try:
        jnp.broadcast_shapes(tuple(m.fn.batch_shape), batch)
        jnp.broadcast_shapes(tuple(m.fn.event_shape), own)
    except ValueError:
        plates = ", ".join(f"'{name}' of {size}" for name, _, size in m.plates) or "none"
        raise SiteValueError(
            f"observed site '{m.name}': its data have shape {value}, expected "
            f"{(*m.fn.batch_shape, *m.fn.event_shape)} (plates: {plates}). Give the data and the "
            "arguments of the distribution the same number of rows."
        ) from None
    try:
        if m.scale is not None and not m.in_scan:
            shape = jnp.broadcast_shapes(tuple(m.fn.batch_shape), batch)
            jnp.broadcast_shapes(jnp.shape(m.scale), shape)
    except ValueError:
        raise SiteValueError(
            f"observed site '{m.name}': the weights of handlers.scale have shape "
            f"{jnp.shape(m.scale)}, expected {shape}, one for each row."
        ) from None
