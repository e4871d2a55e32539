"""Log densities of every site as NumPyro itself runs the program, at given values of all that is
unobserved."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.distribution import validation_enabled

from pp_mlem.factors.tables import log_table, own_density
from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.scans.scan import Scan, at_step
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.trace import plain_messages


def plain_densities(
    reading: Reading, params: dict[str, Any], dynamic: tuple, latents: dict[str, Any]
) -> dict[str, Any]:
    """Weighted log densities by site as NumPyro runs the program at these values."""
    given = {**params, **{n: _as_sampled(reading, n, v) for n, v in latents.items()}}
    try:
        messages = plain_messages(reading.arguments, dynamic, given)
    except (AttributeError, NotImplementedError, TypeError, ValueError):  # NumPyro does not run it
        return _own_densities(reading, params, dynamic, latents)
    densities: dict[str, Any] = {}
    for name, message in messages.items():
        if message.kind != "sample":
            continue
        scan = next((s for s in reading.scans.values() if name in s.sites), None)
        site = reading.sites.get(scan.names(name)[0] if scan else name, reading.sites.get(name))
        if site is None or site.role is Role.IGNORED:
            continue
        density = _weighted(message, site)
        if scan is None or site.role is Role.PARAMETER:
            densities[name] = density
        else:
            densities |= _by_steps(name, density, scan, reading.depth)
    return densities


def _weighted(message: Message, site: Site) -> jax.Array:
    # A masked latent sums to one; NumPyro would add the logarithm of its number of values.
    law = site.role in (Role.LATENT, Role.LAW) and not site.hidden
    fn = unwrap(message.fn).fn if law else message.fn
    with warnings.catch_warnings(), validation_enabled(True):  # else no density is ever zero
        warnings.filterwarnings("ignore", message="Out-of-support")
        density = log_density(fn, message.value)
    return density if message.scale is None else density * message.scale


def _by_steps(name: str, density: jax.Array, scan: Scan, depth: int) -> dict[str, Any]:
    """The density of a site of a scan, (steps, *plates), under its names as a factor."""
    density = density[::-1] if scan.reverse else density
    ones = (1,) * (depth - density.ndim)
    density = density.reshape(density.shape[:1] + ones + density.shape[1:])
    if name not in scan.pairs:
        return {name: density}
    heads = {at_step(name, t): density[t] for t in range(min(scan.start, scan.length))}
    rest = {scan.later(name): density[scan.start :]} if scan.length > scan.start else {}
    return heads | rest


def _as_sampled(reading: Reading, name: str, value: Any) -> Any:
    """A latent's value as NumPyro holds it: of a state (steps, *plates, *event), nothing between."""
    site = reading.sites[name]
    if not site.scan:
        return value
    inner = max((-d for d in site.dims.values() if d != -reading.depth), default=0)
    own = inner + (len(site.event_shape) if site.real else 0)
    return value.reshape(value.shape[:1] + value.shape[value.ndim - own :])


def _own_densities(
    reading: Reading, params: dict[str, Any], dynamic: tuple, latents: dict[str, Any]
) -> dict[str, Any]:
    """The same by our own run, for programs that NumPyro runs in its enumeration only."""

    def extract(message: Message) -> Any:
        if message.kind != "sample":
            return jnp.zeros(())
        site = reading.sites[message.name]
        scale = 1.0 if message.scale is None else message.scale
        if site.role is Role.PARAMETER:
            return own_density(message, message.value)
        return message.placed(log_table(message, site) * scale)

    densities = reading.run(params, dynamic, extract, latents, wide=True)
    return {n: v for n, v in densities.items() if n in reading.sites}
