"""A scan within one run of the program, its states at all their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.messages import Supply
from pp_mlem.program.scans.extraction import Extraction
from pp_mlem.program.scans.scan import at_step
from pp_mlem.program.scans.steps import Earlier, Steps, merged

CarryAt = Callable[[Any], Any]  # number of a step -> the carry before it


@dataclass(frozen=True)
class EnumeratedScan:
    """`supply` gives the states of a step, `earlier` those of the steps before; `carry` what is carried
    of real latents into any step, (*plates, size), if the scan carries any."""

    steps: Steps
    supply: Supply
    earlier: Earlier
    extraction: Extraction
    carry: Any = None

    def run(self) -> tuple[Any, dict[str, Any]]:
        """The scan's value, and what is extracted of its sites."""
        scan, length = self.steps.scan, self.steps.body.length
        extracted: dict[str, Any] = {}
        for k in range(min(scan.start, length)):
            chosen = self._chosen(scan.pairs, partial(at_step, step=k))
            if chosen:
                sites = self._sites(self.steps.at(k, self.earlier), k, chosen)
                extracted |= self.extraction.one_step(sites)
        if length > scan.start:
            later = self._chosen(scan.pairs, scan.later)
            extracted |= self._from(scan.start, later, scan.rolled, self._carry_from_states)
        if scan.reals is not None and self.extraction.wants_carry(scan.first_carry):
            first = self.extraction.of_carry(scan, self.steps.body.init, scan.first_carry)
            extracted |= self.extraction.one_step({scan.first_carry: first})
        alone = self._chosen([s for s in scan.sites if s not in scan.pairs], lambda site: site)
        if scan.reals is not None and self.extraction.wants_carry(scan.carry):
            alone[scan.carry] = scan.carry
        extracted |= self._from(0, alone, scan.formed, self.steps.carry)
        return (self._value() if scan.used else self._zeros()), extracted

    def _chosen(self, sites: Iterable[str], name: Callable[[str], str]) -> dict[str, str]:
        """Those of these sites that are wanted, with their names as factors."""
        return {site: name(site) for site in sites if self.extraction.wants(name(site))}

    def _carry_from_states(self, t: Any) -> Any:
        return self.steps.carry_from(t, self.earlier)

    def _sites(self, carry: Any, t: Any, chosen: dict[str, str]) -> dict[str, Any]:
        """What is extracted of the chosen sites at step t."""
        scan = self.steps.scan
        if scan.reals is not None:
            leaves = scan.reals.put(self.carry, jax.tree.leaves(carry))
            carry = jax.tree.unflatten(scan.treedef, leaves)
        after, _, messages = self.steps.body.step(carry, t, self.supply)
        return {
            name: self.extraction.of_carry(scan, after, name)
            if site == scan.carry
            else self.extraction.of(messages[site], name)
            for site, name in chosen.items()
        }

    def _from(
        self, start: int, chosen: dict[str, str], rolled: int, carry: CarryAt
    ) -> dict[str, Any]:
        """The same of sites that stand for all steps from `start` on: at the first of these, or at
        every one. From step `rolled` on their carry is `carry`."""
        extracted: dict[str, Any] = {}
        wide = self.extraction.wide
        single = {site: name for site, name in chosen.items() if name not in wide}
        if single:
            at = self.steps.at(start, self.earlier) if start < rolled else carry(start)
            extracted |= self.extraction.one_step(self._sites(at, start, single))
        every = {site: name for site, name in chosen.items() if name in wide}
        if every:
            stacked = self.steps.over(
                lambda c, t: self._sites(c, t, every), start, rolled, self.earlier, carry
            )
            extracted |= self.extraction.every_step(stacked)
        return extracted

    def _zeros(self) -> Any:
        """In place of the scan's value where the program does not use it."""
        scan, body = self.steps.scan, self.steps.body
        ys = jax.tree.map(lambda a: jnp.zeros((body.length, *a.shape), a.dtype), scan.output)
        leaves = [jnp.zeros(a.shape, a.dtype) for a in scan.leaves]
        return body.result(jax.tree.unflatten(scan.treedef, leaves), ys)

    def _value(self) -> Any:
        """What the scan returns to the program: the carry after the last step as a function of the
        last states, and the outputs, which depend on no state."""
        steps, scan, body = self.steps, self.steps.scan, self.steps.body
        last = body.length - 1
        early = last < scan.rolled
        carry = steps.at(last, self.earlier) if early else self._carry_from_states(last)
        carry = body.step(carry, last, self.supply)[0]
        if not early:
            stateless = jax.tree.leaves(body.step(steps.carry(last), last, neutral_supply())[0])
            carry = merged(scan, jax.tree.leaves(carry), stateless)

        def neutral(lag: int) -> Supply:
            return neutral_supply()

        def output(carry: Any, t: Any) -> Any:
            return body.step(carry, t, neutral_supply())[1]

        return body.result(carry, steps.over(output, 0, scan.formed, neutral, steps.carry))
