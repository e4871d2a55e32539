"""The statements of a program as one run of it executed them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from pp_mlem.program.distributions import innermost, is_factor
from pp_mlem.program.errors import Refused
from pp_mlem.program.gaussians import plainly

Supply = Callable[[dict[str, Any]], Any]  # NumPyro's message of an unobserved site -> its value


@dataclass(frozen=True)
class Message:
    """One sample or param statement as the program executed it; a Gaussian by its own name."""

    name: str
    kind: str  # "sample" or "param"
    fn: Any
    value: Any
    observed: bool
    plates: tuple[tuple[str, int, int], ...]  # (name, dim, size), outermost first
    scale: Any
    constraint: Any
    in_scan: bool = False

    def placed(self, array: Any, trailing: int = 0) -> Any:
        """An array of this site with batch dimensions and `trailing` others. Inside a scan it is
        marked, so that the dimension of the steps can be put left of the plates."""
        return Timed(jnp.asarray(array), trailing) if self.in_scan else array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Timed:
    """An array that belongs to one step of a scan, with `trailing` dimensions after its batch."""

    array: Any
    trailing: int = field(metadata={"static": True})


def messages_of(sites: dict[str, dict[str, Any]], in_scan: bool = False) -> dict[str, Message]:
    """The sample and param statements in a trace of NumPyro's."""
    messages = {}
    for name, site in sites.items():
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise Refused(
                f"plate '{name}' subsamples {site['args'][1]} of {site['args'][0]} rows; pass the "
                "whole data and drop subsample_size."
            )
        if site["type"] not in ("sample", "param"):
            continue
        value = site["value"]
        if site["type"] == "sample" and is_factor(site["fn"]) and jnp.shape(value)[-1:] != (0,):
            # A weighted Delta: the program goes on with its value, a factor has none. Over the steps
            # of a scan the batch shape is still that of one step.
            value = jnp.zeros((*jnp.shape(innermost(site["fn"]).log_factor), 0))
        frames = tuple((f.name, f.dim, f.size) for f in site["cond_indep_stack"])
        messages[name] = Message(
            name=name,
            kind=site["type"],
            fn=plainly(site["fn"]) if site["type"] == "sample" else None,
            value=value,
            observed=bool(site.get("is_observed", False)),
            plates=frames,
            scale=site.get("scale"),
            constraint=site["kwargs"].get("constraint", dist.constraints.real),
            in_scan=in_scan,
        )
    return messages
