"""Runs a program with every latent at all its values, or at given ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.initial import neutral_value
from pp_mlem.program.messages import Supply
from pp_mlem.program.scans.bind import bind
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.enumerated import EnumeratedScan
from pp_mlem.program.scans.extraction import Extraction
from pp_mlem.program.scans.scan import Scan, before
from pp_mlem.program.scans.sequence import ScanInSequence
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.trace import Runner, run_program


@dataclass(frozen=True)
class Enumeration:
    """What of a program is enumerated, and how.

    `slots` are the latents and the states one step earlier, each with its own dimension, left of
    `depth` plate dimensions; `values` are the values of each latent.
    """

    arguments: Arguments
    sites: dict[str, Site]
    scans: dict[str, Scan]
    slots: dict[str, int]
    values: dict[str, np.ndarray]
    depth: int

    def run(
        self, params: dict[str, Any], given: dict[str, Any], dynamic: tuple, extraction: Extraction,
        lengths: dict[str, int],
    ) -> dict[str, Any]:  # fmt: skip
        """What is extracted of each site, the axes of latents enumerated by vmap leading."""
        outer = [
            n for n in self.slots
            if self.sites[n].vmapped and not {n, self.sites[n].origin} & given.keys()
        ]  # fmt: skip

        def inner(codes: tuple[Any, ...]) -> dict[str, Any]:
            coded = dict(zip(outer, codes, strict=True))
            return _Run(self, params, given, coded, extraction, lengths).sites(dynamic)

        function = inner
        for i in reversed(range(len(outer))):
            axes = tuple(0 if j == i else None for j in range(len(outer)))
            function = jax.vmap(function, in_axes=(axes,))
        return function(tuple(jnp.arange(self.sites[n].size) for n in outer))


@dataclass(frozen=True)
class _Run:
    """One run: its parameters, the latents whose values are `given`, and the `codes` of those that
    are enumerated by vmap, at one value."""

    program: Enumeration
    params: dict[str, Any]
    given: dict[str, Any]
    codes: dict[str, Any]
    extraction: Extraction
    lengths: dict[str, int]
    of_scans: dict[str, Any] = field(default_factory=dict)

    def sites(self, dynamic: tuple) -> dict[str, Any]:
        arguments, scans = self.program.arguments, iter(self.program.scans.values())

        def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
            return self._scan(scans, runner, msg)

        messages = run_program(
            lambda p: arguments.call(p, dynamic), arguments.program, self._supply, on_scan
        )
        extraction = self.extraction
        own = {n: extraction.extract(m) for n, m in messages.items() if extraction.wants(n)}
        return self.of_scans | own

    def _scan(self, scans: Iterator[Scan], runner: Runner, msg: dict[str, Any]) -> Any:
        """Run a scan, the next of the program's; its value."""
        scan = next(scans)
        known = {n: self.params[n] for n in scan.continuous if n in self.params}
        body = Body(runner, msg, known)
        self.lengths[scan.time] = body.length
        scan = replace(scan, length=body.length)
        states = {*scan.latents, *scan.continuous} & self.given.keys()
        if states and not self._probed(scan):
            given = {n: self._by_steps(n) for n in states}
            value, extracted = ScanInSequence(scan, body, given, self.extraction).run()
        else:
            steps = bind(scan, body)
            value, extracted = EnumeratedScan(
                steps, self._supply, self._earlier, self.extraction, self._carry(scan)
            ).run()
        self.of_scans.update(extracted)
        return value

    def _by_steps(self, name: str) -> Any:
        """The given values of a state, of a real one (steps, *plates, *event)."""
        site, value = self.program.sites[name], jnp.asarray(self.given[name])
        return _by_steps(self.program, site, value) if site.real else value

    def _probed(self, scan: Scan) -> bool:
        """Whether the given values are those of any one step, rather than of every step."""
        finite = any(n in self.given for n in scan.latents)
        in_sequence = scan.first_carry in self.given  # a mark, whatever its value
        return not finite and not in_sequence and (scan.carry in self.given or not scan.movers)

    def _carry(self, scan: Scan) -> Any:
        """What the scan carries of real latents into any step: as given, or nothing but zeros."""
        if scan.reals is None:
            return None
        site = self.program.sites[scan.carry]
        value = self.given.get(scan.carry)
        if value is None:
            inner = _inner(self.program, site)
            return jnp.zeros((*(1,) * max((-d for d in inner.values()), default=0), site.size))
        return _by_steps(self.program, site, value)[0]

    def _supply(self, msg: dict[str, Any]) -> Any:
        name = msg["name"]
        if name in self.params:
            return jnp.asarray(self.params[name])
        site = self.program.sites[name]
        if name in self.given:
            value = jnp.asarray(self.given[name])  # a program may index it by a tracer
            return _by_steps(self.program, site, value)[0] if site.scan and site.real else value
        if site.real:
            own = max((-d for d in _inner(self.program, site).values()), default=0)
            batch = tuple(msg["fn"].batch_shape)
            return jnp.zeros((*batch[max(len(batch) - own, 0) :], *site.event_shape))
        if site.role is Role.LATENT:
            return self._all_values(msg, name)
        return neutral_value(msg, 0)

    def _earlier(self, lag: int) -> Supply:
        """The states of the step that lies `lag` steps back."""

        def supply(msg: dict[str, Any]) -> Any:
            slot = before(msg["name"], lag)
            return (
                self._all_values(msg, slot) if slot in self.program.sites else neutral_value(msg, 0)
            )

        return supply

    def _all_values(self, msg: dict[str, Any], slot: str) -> Any:
        """The values of a latent, or of the same state earlier, in the dimension of this slot."""
        program = self.program
        support = jnp.asarray(program.values[msg["name"]])
        if slot in self.codes:
            # Without the dimensions of the latents that its law depends on: a program
            # that indexes it, as in g[group], finds its plates alone.
            site = program.sites[slot]
            own = [-d for d in site.dims.values() if not site.scan or d != -program.depth]
            batch = tuple(msg["fn"].batch_shape)
            shape = batch[max(len(batch) - max(own, default=0), 0) :]
            return jnp.full(shape, support[self.codes[slot]])
        return support.reshape((-1,) + (1,) * (-program.slots[slot] - 1))


def _inner(program: Enumeration, site: Site) -> dict[str, int]:
    """The plates of a site with their dimensions, without the steps of its scan."""
    return {p: d for p, d in site.dims.items() if not site.scan or d != -program.depth}


def _by_steps(program: Enumeration, site: Site, value: Any) -> jax.Array:
    """Values (steps, ..., *plates, *event) of a real site of a scan, nothing between."""
    inner = max((-d for d in _inner(program, site).values()), default=0)
    shape = value.shape[value.ndim - len(site.event_shape) - inner :]
    return jnp.asarray(value).reshape(value.shape[0], *shape)
