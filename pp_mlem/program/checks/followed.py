"""A program followed from its arguments to its distributions: made once per structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint

from pp_mlem.program.checks.dataflow import UNKNOWN, Node, data_bit, flow
from pp_mlem.program.checks.held import Held
from pp_mlem.program.distributions import is_array, is_factor, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import base_support

VALUE = ""  # among the parts of a site: what is observed


@dataclass(frozen=True)
class InputSite:
    """A site as nodes of the dataflow: its arguments, its masks and its value."""

    arguments: dict[str, Node]
    limits: dict[str, Any]  # the constraint of each argument
    masks: tuple[Node, ...]
    value: Node | None  # of an observed site
    layouts: dict[str, tuple[int, int]]  # own dimensions of each argument; those of the event

    def visible(self, part: str, cells: np.ndarray, results: dict[str, Any]) -> np.ndarray:
        """Which of these cells of an argument, or of the value, the masks do not hide."""
        rank, event = self.layouts[part]
        arrays = [cells]
        for mask in results["masks"]:
            shown = np.asarray(mask).astype(bool)
            arrays.append(shown.reshape(shown.shape + (1,) * event))
        return np.all(np.broadcast_arrays(*aligned(arrays, cells.ndim - rank)), axis=0)


class Followed:
    """The dataflow of a program: its `sites`, the `lookups` by data, what it holds (`held`)."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.held = Held(reading.arguments)
        self.neutral = _neutral(reading)
        seen = _Sites()

        def run(params: dict, latents: dict, dynamic: tuple) -> dict[str, Any]:
            return reading.run(params, dynamic, seen.extract, latents, wide=True)

        self.run = run
        dynamic = reading.arguments.device_arrays()
        closed, shapes = jax.make_jaxpr(run, return_shape=True)(*self.neutral, dynamic)
        params, latents = self.neutral
        signs = {s.name: is_positive(s.support) for s in reading.space.sites}
        positive = [signs[n] for n in sorted(params)] + [False] * len(latents)
        bits = [UNKNOWN] * len(positive) + [data_bit(i) for i in range(len(dynamic))]
        nodes, self.lookups = flow(
            closed, bits, positive + [False] * len(dynamic), self.held.of, self.held.flawed
        )
        tree = jax.tree.unflatten(jax.tree.structure(shapes), nodes)
        self.sites = {name: seen.site(name, parts) for name, parts in tree.items() if parts}


@dataclass(frozen=True)
class _Sites:
    """What a run sees of its sites besides their arrays: the constraint and layout of each part."""

    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    layouts: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def extract(self, m: Message) -> dict[str, Any]:
        if m.kind != "sample":
            return {}
        bare = unwrap(m.fn)
        own = _own_arguments(bare.fn)
        self.limits[m.name] = {k: limit for k, (_, limit) in own.items()}
        self.layouts[m.name] = {
            k: (jnp.ndim(v), getattr(limit, "event_dim", 0)) for k, (v, limit) in own.items()
        }
        value = None
        if m.observed and not is_factor(m.fn):
            value = m.placed(jnp.asarray(m.value), jnp.ndim(m.value))
            self.layouts[m.name][VALUE] = jnp.ndim(m.value), len(bare.fn.event_shape)
        return {
            "value": value,
            "arguments": {k: m.placed(jnp.asarray(v), jnp.ndim(v)) for k, (v, _) in own.items()},
            "masks": tuple(m.placed(mask, jnp.ndim(mask)) for mask in bare.masks),
        }

    def site(self, name: str, parts: dict[str, Any]) -> InputSite:
        return InputSite(
            parts["arguments"],
            self.limits[name],
            tuple(parts["masks"]),
            parts["value"],
            self.layouts[name],
        )


def aligned(arrays: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Arrays of one site with as many dimensions each, behind the `steps` leading ones of a scan."""
    most = max(a.ndim for a in arrays)
    return [a.reshape(a.shape[:steps] + (1,) * (most - a.ndim) + a.shape[steps:]) for a in arrays]


def _own_arguments(fn: Any) -> dict[str, tuple[Any, Any]]:
    """(value, constraint) of each argument of a distribution, those of its parts included."""
    arguments: dict[str, tuple[Any, Any]] = {}
    for name, value in fn.get_args().items():
        if isinstance(value, dist.Distribution):
            parts = _own_arguments(unwrap(value).fn)
            arguments |= {f"{name}.{k}": v for k, v in parts.items()}
        elif is_array(value):
            limit = fn.arg_constraints.get(name)
            arguments[name] = (value, limit if _is_known(limit) else None)
    return arguments


def _is_known(limit: Any) -> bool:
    try:
        return isinstance(limit, Constraint) and limit.event_dim >= 0
    except NotImplementedError:  # it depends on other arguments, as that of a Delta's value does
        return False


def _neutral(reading: Reading) -> tuple[dict, dict]:
    """Parameters inside their supports, and latents at their first value; states of a scan run
    through all of theirs where the program broadcasts."""
    params = {n: np.asarray(v) for n, v in neutral_parameters(reading, 0).items()}
    latents = {
        s.name: np.full(reading.plate_shape(s.dims), reading.values[s.name][0])
        for s in reading.latents
        if not s.scan or s.vmapped
    }
    return params, latents


def is_positive(support: Any) -> bool:
    """Whether nothing in a support is below zero."""
    base = base_support(support)
    lower = getattr(base, "lower_bound", None)
    known = lower is not None and not isinstance(lower, jax.core.Tracer)
    simplex = isinstance(base, type(constraints.simplex))
    return simplex or (known and bool(np.all(np.asarray(lower) >= 0)))
