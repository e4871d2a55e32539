"""A scan within one run of the program at given states, step after step, as NumPyro runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.initial import neutral_value
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.extraction import Extraction
from pp_mlem.program.scans.scan import Scan, at_step
from pp_mlem.program.scans.steps import concatenated


@dataclass(frozen=True)
class ScanInSequence:
    """`given` are the values of the scan's states: of finite ones (steps, ..., *plates), of real ones
    (steps, *plates, *event)."""

    scan: Scan
    body: Body
    given: dict[str, Any]
    extraction: Extraction

    def run(self) -> tuple[Any, dict[str, Any]]:
        """The scan's value, and what is extracted of its sites."""
        start = min(self.scan.start, self.body.length)
        carry, first = self.body.init, []
        for t in range(start):
            carry, taken = self._step(carry, t, t)
            first.append(taken)
        rest = None
        if self.body.length > start:
            carry, rest = self._rolled(carry, start)
        stacked = [jax.tree.map(lambda a: jnp.asarray(a)[None], taken) for taken in first]
        stacked += [rest] if rest is not None else []
        ys = jax.tree.map(concatenated, *(y for _, y in stacked))
        extracted: dict[str, Any] = {}
        for site in self.scan.sites:
            if site not in self.scan.pairs:
                if self.extraction.wants(site):
                    every = jax.tree.map(concatenated, *(sites[site] for sites, _ in stacked))
                    extracted[site] = self.extraction.every_step(every)
                continue
            for k, (sites, _) in enumerate(first):
                if site in sites:
                    extracted[at_step(site, k)] = self.extraction.one_step(sites[site])
            if rest is not None and site in rest[0]:
                extracted[self.scan.later(site)] = self.extraction.every_step(rest[0][site])
        if self.scan.reals is not None and self.extraction.wants_carry(self.scan.carry):
            every = jax.tree.map(concatenated, *(sites[self.scan.carry] for sites, _ in stacked))
            extracted[self.scan.carry] = self.extraction.every_step(every)
            begin = self.extraction.of_carry(self.scan, self.body.init, self.scan.first_carry)
            extracted[self.scan.first_carry] = self.extraction.one_step(begin)
        return self.body.result(carry, ys), extracted

    def _step(self, carry: Any, t: Any, first: int | None = None) -> tuple[Any, Any]:
        """Step t, by its number if it is one of the first: the carry after it; what is extracted of
        its sites, and its output."""

        def state(msg: dict[str, Any]) -> Any:
            if msg["name"] not in self.given:
                return neutral_value(msg, 0)
            value = jnp.asarray(self.given[msg["name"]])[t]
            finite = msg["name"] in self.scan.latents
            return value.reshape(msg["fn"].batch_shape) if finite else value

        carry, y, messages = self.body.step(carry, t, state)
        sites = {}
        for site in self.scan.sites:
            paired = self.scan.later(site) if first is None else at_step(site, first)
            name = paired if site in self.scan.pairs else site
            if self.extraction.wants(name):
                sites[site] = self.extraction.of(messages[site], name)
        if self.scan.reals is not None and self.extraction.wants_carry(self.scan.carry):
            sites[self.scan.carry] = self.extraction.of_carry(self.scan, carry, self.scan.carry)
        return carry, (sites, y)

    def _rolled(self, carry: Any, start: int) -> tuple[Any, Any]:
        """The steps from `start` on, in one loop."""
        for _ in jax.tree.leaves(carry):  # finite latents above the scan may widen it step by step
            after = jax.eval_shape(self._step, carry, start)[0]
            carry = jax.tree.map(_as_after, carry, after)

        def step(carry: Any, t: Any) -> tuple[Any, Any]:
            new, taken = self._step(carry, t)
            return jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), carry, new), taken

        return jax.lax.scan(step, carry, jnp.arange(start, self.body.length))


def _as_after(leaf: Any, after: Any) -> jax.Array:
    """A leaf of the carry in the type of what a step makes of it, and as wide."""
    array = jnp.asarray(leaf, after.dtype)
    return jnp.broadcast_to(array, jnp.broadcast_shapes(array.shape, after.shape))
