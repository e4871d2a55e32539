"""What each part of each site depends on: other sites, the data, the number of a scan's step."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.families import family_of
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.distributions import innermost
from pp_mlem.program.errors import Refused
from pp_mlem.program.messages import Message, Supply
from pp_mlem.program.parts import site_parts
from pp_mlem.program.provenance import all_names, mark, provenance
from pp_mlem.program.scans.bind import bind_for_provenance
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.scan import Scan, at_step, before
from pp_mlem.program.scans.steps import merged
from pp_mlem.program.trace import Runner, run_program

# What a part may depend on besides sites.
_DATA = "the data"
_STEP = "the step"  # what varies with the step
_END = "the end of the scan"  # what the scan returns

Parts = dict[str, frozenset[str]]  # part of a site -> the unobserved sites it depends on


def _at_all_steps(state: str) -> str:
    return f"{state} at every step"


class Varies(enum.Enum):
    """By what the arguments of a scan's site vary with the step."""

    DATA = "by the data"
    COUNT = "by the step's number alone"


@dataclass(frozen=True)
class Dependencies:
    """`parts` of each factor; `timed`, the sites of scans whose arguments vary with the step;
    `used`, whether any site uses what a scan returns."""

    parts: dict[str, Parts]
    timed: dict[str, Varies]
    used: bool

    def parents(self, factor: str, site: str) -> frozenset[str]:
        """The sites that a factor depends on, but for the site whose factor it is."""
        return frozenset().union(*self.parts.get(factor, {}).values()) - {site}


def earlier_states(scans: dict[str, Scan]) -> dict[str, str]:
    """The name of each state at each of the steps before that one could meet, and its own."""
    return {
        before(n, lag): n
        for scan in scans.values()
        for n in scan.latents
        for lag in range(1, max(scan.order, scan.formed) + 1)
    }


def read_dependencies(
    arguments: Arguments, messages: dict[str, Message], scans: dict[str, Scan]
) -> tuple[Dependencies, dict[str, Scan]]:
    """The dependencies, and the scans with all that sites outside of them meet."""
    dependencies = _dependencies(arguments, messages, scans)
    deeper = _deeper(scans, dependencies.parts)
    if any(deeper[n].start > scan.start for n, scan in scans.items()):
        dependencies = _dependencies(arguments, messages, deeper)
    return dependencies, {n: replace(s, used=dependencies.used) for n, s in deeper.items()}


def _dependencies(
    arguments: Arguments, messages: dict[str, Message], scans: dict[str, Scan]
) -> Dependencies:
    values = {
        n: np.zeros(jnp.shape(m.value), m.value.dtype)
        for n, m in messages.items()
        if not m.observed
    }
    values |= {scan.carry: np.zeros(()) for scan in scans.values()}
    values |= {name: values[state] for name, state in earlier_states(scans).items()}
    states = [n for scan in scans.values() for n in scan.latents]
    values |= {_at_all_steps(n): values[n] for n in states}
    if scans:
        values |= {_STEP: np.zeros((), int), _END: np.zeros((), int)}
    traced = provenance(_parts_of(arguments, scans), values | {_DATA: arguments.dynamic})
    whole = {n: {k: all_names(tree) for k, tree in parts.items()} for n, parts in traced.items()}
    _refuse_all_steps(whole, states)
    tokens = {_DATA, _STEP, _END}
    return Dependencies(
        {n: {k: names - tokens for k, names in parts.items()} for n, parts in whole.items()},
        {n: how for scan in scans.values() for n, how in _timed(scan, messages, whole).items()},
        any(_END in names for parts in whole.values() for names in parts.values()),
    )


def _parts_of(arguments: Arguments, scans: dict[str, Scan]) -> Callable[..., dict[str, Any]]:
    """(values of unobserved sites, states at steps before, ...) -> the parts of every factor."""

    def parts(**given: Any) -> dict[str, dict[str, Any]]:
        remaining = iter(scans.values())
        of_scans: dict[str, dict[str, Any]] = {}

        def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
            value, own = _MarkedScan(next(remaining), Body(runner, msg), given).run()
            of_scans.update(own)
            return value

        outside = run_program(
            lambda p: arguments.call(p, given[_DATA]),
            arguments.program,
            lambda msg: given[msg["name"]],
            on_scan,
        )
        own = {n: site_parts(m) for n, m in outside.items() if m.kind == "sample"}
        return own | of_scans

    return parts


@dataclass(frozen=True)
class _MarkedScan:
    """A scan in the run that finds what depends on what, at `given` values by name."""

    scan: Scan
    body: Body
    given: dict[str, Any]

    def run(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The scan's value, and the parts of its sites."""
        scan, body, t = self.scan, self.body, self.given[_STEP]
        steps = bind_for_provenance(scan, body, self._now)
        parts: dict[str, dict[str, Any]] = {}
        for k in range(min(scan.start, scan.length)) if scan.pairs else ():
            _, _, begin = body.step(self._marked(steps.at(k, self._earlier)), k, self._now)
            parts |= {at_step(n, k): site_parts(begin[n]) for n in scan.pairs}
        moved, _, alone = body.step(self._marked(steps.carry(t)), t, self._now)
        carry, _, after = body.step(self._marked(steps.carry_from(t, self._earlier)), t, self._now)
        parts |= self._of_carry(body.init, moved)
        for site in scan.sites:
            if site not in scan.pairs:
                parts[site] = site_parts(alone[site])
            elif scan.length > scan.start:
                parts[scan.later(site)] = site_parts(after[site])
        carry = merged(scan, jax.tree.leaves(carry), jax.tree.leaves(steps.carry(t)))
        y = body.step(self._marked(steps.carry(t)), t, self._all_steps)[1]
        ys = jax.tree.map(lambda a: jnp.broadcast_to(a, (scan.length, *jnp.shape(a))), y)
        carry, ys = jax.tree.map(lambda a: mark(a, self.given[_END]), (carry, ys))
        return body.result(carry, ys), parts

    def _marked(self, carry: Any) -> Any:
        """A carry before a step whose leaves that hold real latents are known as what is carried."""
        if not self.scan.movers:
            return carry
        leaves, token = jax.tree.leaves(carry), self.given[self.scan.carry]
        held = zip(self.scan.held, leaves, strict=True)
        leaves = [
            mark(jnp.zeros(jnp.shape(a), jnp.result_type(a)), token) if h else a for h, a in held
        ]
        return jax.tree.unflatten(self.scan.treedef, leaves)

    def _of_carry(self, init: Any, moved: Any) -> dict[str, dict[str, Any]]:
        """What the carry of real latents is computed from, before the first step and at every one."""
        if not self.scan.movers:
            return {}
        own = [i for i, held in enumerate(self.scan.held) if held]
        first, later = ([jax.tree.leaves(c)[i] for i in own] for c in (init, moved))
        return {self.scan.first_carry: {"initial": first}, self.scan.carry: {"update": later}}

    def _named(self, msg: dict[str, Any], name: str) -> Any:
        """The value of a state under the name of some of its steps; a continuous site has its own
        value at every step."""
        if msg["name"] in self.scan.continuous:
            return mark(self.given[msg["name"]], self.given[_STEP])
        return self.given[name]

    def _now(self, msg: dict[str, Any]) -> Any:
        return self._named(msg, msg["name"])

    def _earlier(self, lag: int) -> Supply:
        return lambda msg: self._named(msg, before(msg["name"], lag))

    def _all_steps(self, msg: dict[str, Any]) -> Any:
        return self._named(msg, _at_all_steps(msg["name"]))


def _timed(scan: Scan, messages: dict[str, Message], whole: dict[str, Parts]) -> dict[str, Varies]:
    """The sites of a scan whose arguments, those that a family estimates, vary with the step."""
    timed = {}
    for site in scan.sites:
        family = family_of(innermost(messages[site].fn))
        known = {f"argument {k}" for k in family.known} if family else set()
        for name in scan.names(site):
            varying = [
                names
                for part, names in whole[name].items()
                if part.startswith("argument") and part not in known and _STEP in names
            ]
            unlike = scan.formed > 0 and name == site  # its first steps may be of another form
            if varying or unlike:
                by_data = any(_DATA in names for names in varying)
                timed[name] = Varies.DATA if by_data else Varies.COUNT
    names = whole[scan.carry].get("update", frozenset()) if scan.movers else frozenset()
    if _STEP in names:
        timed[scan.carry] = Varies.DATA if _DATA in names else Varies.COUNT
    return timed


def _refuse_all_steps(whole: dict[str, Parts], states: list[str]) -> None:
    for name, parts in whole.items():
        for state in states:
            if any(_at_all_steps(state) in names for names in parts.values()):
                raise Refused(
                    f"site '{name}' depends on '{state}' at every step, by the output of the scan. "
                    "Put the site inside the body of the scan, where it meets one state."
                )


def _deeper(scans: dict[str, Scan], dependencies: dict[str, Parts]) -> dict[str, Scan]:
    """The scans with the states that sites outside of them meet before the last one."""
    inside = {name for scan in scans.values() for site in scan.sites for name in scan.names(site)}
    met = frozenset().union(
        *(names for n, parts in dependencies.items() if n not in inside for names in parts.values())
    )
    deeper = {}
    for key, scan in scans.items():
        lags = {
            n: lag + 1
            for n in scan.latents
            for lag in range(1, scan.order)
            if before(n, lag) in met
        }
        carried = {n: max(lags.get(n, 0), scan.carried.get(n, 0)) for n in scan.latents}
        deeper[key] = replace(scan, carried={n: lag for n, lag in carried.items() if lag})
    return deeper


def refuse_recurrent(scans: dict[str, Scan], parameters: frozenset[str]) -> None:
    """A continuous site of a scan that depends on its own last value is a continuous state."""
    for scan in scans.values():
        for name in sorted(scan.recurrent - parameters - scan.movers):
            raise Refused(
                f"latent '{name}' is continuous, depends on its own value at the step before and is not "
                "Gaussian: a state which no structure can integrate out along a chain. Estimate "
                f'its values with Model(..., parameters={{"{name}"}}), as fit_map or fit_nuts on '
                "the joint density would, or make it discrete."
            )
