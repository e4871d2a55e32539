"""Finds the structure of a scan over finite states: what the carry holds, and each step's factors.

The body of a scan is run for neighbouring steps: with the states of the steps before at all their
values, to obtain the carry as a function of those states, and once more on that carry with the
states of the step itself at all their values. What the carry holds besides states (the previous
observation, a counter, parameters) is computed apart, for all steps.

The first steps stand alone: those that meet the initial carry, and those before the carry has
taken its form (a carry that begins as None).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.distributions import is_discrete, is_gaussian_or_flat
from pp_mlem.program.errors import Refused
from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.messages import Message
from pp_mlem.program.provenance import all_names, provenance
from pp_mlem.program.scans.body import Body, same_form
from pp_mlem.program.scans.scan import Scan, Update

FORMS = 4  # steps after which a carry must have taken its form
_INPUTS = "the inputs"


def discover(
    body: Body, name: str, parts: Callable[[Message], Any]
) -> tuple[Scan, dict[str, Message], Any]:
    """Find the structure of a scan by its first steps; also a step's sites and the scan's value.

    Raises `Refused` for carries that change shape, and states of which something is carried on
    for ever.
    """
    formed, carry, messages, y = _first_steps(body)
    leaves, treedef = jax.tree.flatten(carry)
    unobserved = [n for n, m in messages.items() if not m.observed and m.kind == "sample"]
    latents = tuple(n for n in unobserved if is_discrete(messages[n].fn))
    continuous = tuple(n for n in unobserved if n not in latents)
    values = {n: messages[n].value for n in unobserved}
    in_carry, at_sites = _sources(body, carry, values, parts)
    reach = _reach(in_carry, latents)
    met = {n: frozenset().union(*(reach[i] for i in s.leaves)) for n, s in at_sites.items()}
    stateless = {i for i, states in enumerate(reach) if not states}
    from_inputs = _descending(in_carry, lambda source: source.inputs)
    scan = Scan(
        time=name,
        length=body.length,
        reverse=body.reverse,
        sites=tuple(n for n, m in messages.items() if m.kind == "sample"),
        latents=latents,
        continuous=continuous,
        recurrent=_recurrent(continuous, at_sites, in_carry),
        formed=formed,
        order=max((lag for states in reach for _, lag in states), default=0),
        stateful=tuple(bool(states) for states in reach),
        updates=_updates(in_carry, stateless, _unchanged(body, carry, values)),
        pairs=tuple(n for n, states in met.items() if states),
        carried=_longest_lags(met),
        leaves=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves),
        treedef=treedef,
        output=jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), y),
        fed=frozenset(n for n, s in at_sites.items() if s.leaves & from_inputs & stateless),
        held=_held(
            in_carry, frozenset(n for n in continuous if is_gaussian_or_flat(messages[n].fn))
        ),
    )
    ys = jax.tree.map(lambda a: jnp.broadcast_to(a, (body.length, *jnp.shape(a))), y)
    return scan, messages, body.result(carry, ys)


def _first_steps(body: Body) -> tuple[int, Any, dict[str, Message], Any]:
    """Run first steps until the carry keeps its form: their number, the carry then, the sites of
    the next step and its output."""
    carry = body.init
    observed: dict[str, bool] | None = None
    for k in range(FORMS):
        new, y, messages = body.step(carry, min(k, body.length - 1), neutral_supply())
        now = {n: m.observed for n, m in messages.items()}
        if observed is not None and observed != now:
            _refuse_other_sites(observed, now)
        observed = now
        old_places, new_places = _places(carry), _places(new)
        for place, shape in old_places.items():
            if new_places.get(place, shape) != shape:
                raise Refused(
                    f"scan: leaf {place or 0} of the carry has shape {shape} before a step and "
                    f"{new_places[place]} after it. Give the initial carry the shape that the body "
                    "returns."
                )
        if same_form(new, carry):
            return k, carry, messages, y
        if set(old_places) - set(new_places):
            break
        carry = new
    raise Refused(
        f"scan: the carry changes its structure, from {jax.tree.structure(carry)} to "
        f"{jax.tree.structure(new)}. Return a carry of the same form as the initial one; only None "
        "may become a value, at the first steps."
    )


def _refuse_other_sites(before: dict[str, bool], now: dict[str, bool]) -> None:
    odd = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    raise Refused(
        f"scan: site(s) {odd} of the body are not the same at every step. Give each site "
        "one name and sample it at every step (mask= hides it where it does not count); "
        "a name made from the step's number (f'y_{t}') belongs to a Python loop."
    )


def _places(carry: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}


@dataclass(frozen=True)
class _Source:
    """What a leaf of the next carry, or a site of the body, is computed from within one step."""

    leaves: frozenset[int]  # of the carry before the step
    sites: frozenset[str]
    inputs: bool


def _sources(
    body: Body, carry: Any, values: dict[str, Any], parts: Callable[[Message], Any]
) -> tuple[list[_Source], dict[str, _Source]]:
    """The sources of each leaf of the carry and of each site."""
    leaves, treedef = jax.tree.flatten(carry)
    names = {f"leaf {i}": i for i in range(len(leaves))}

    def step(**given: Any) -> Any:
        old = jax.tree.unflatten(treedef, [given[n] for n in names])
        new, _, sites = body.step(old, 0, lambda msg: given[msg["name"]], given[_INPUTS])
        return jax.tree.leaves(new), {n: parts(m) for n, m in sites.items() if m.kind == "sample"}

    def source(depends: frozenset[str]) -> _Source:
        own = frozenset(names[n] for n in depends if n in names)
        return _Source(own, depends & set(values), _INPUTS in depends)

    given = {_INPUTS: body.x(0)} | dict(zip(names, leaves, strict=True)) | values
    in_carry, at_sites = provenance(step, given)
    return [source(d) for d in in_carry], {n: source(all_names(t)) for n, t in at_sites.items()}


def _reach(in_carry: list[_Source], latents: tuple[str, ...]) -> list[frozenset[tuple[str, int]]]:
    """The (state, number of steps back) that each leaf of the carry holds before a step."""
    own = [frozenset((n, 1) for n in source.sites & set(latents)) for source in in_carry]
    reach = own
    for _ in range(len(in_carry) + 1):
        older = [frozenset((n, lag + 1) for n, lag in states) for states in reach]
        new = [
            states.union(*(older[j] for j in source.leaves))
            for states, source in zip(own, in_carry, strict=True)
        ]
        if new == reach:
            return reach
        reach = new
    kept = next(i for i, s in enumerate(reach) if any(lag > len(in_carry) for _, lag in s))
    names = ", ".join(f"'{n}'" for n in sorted({n for n, _ in reach[kept]}))
    raise Refused(
        f"scan: leaf {kept} of the carry is computed from itself and from states ({names}), so it "
        "depends on the states of all earlier steps, which no finite state can hold. Carry the "
        "last states only (z, or the last two of them), or sample what is to be remembered as a "
        "state of its own."
    )


def _longest_lags(met: dict[str, frozenset[tuple[str, int]]]) -> dict[str, int]:
    """How many steps back each state is met at most by any site."""
    carried: dict[str, int] = {}
    for states in met.values():
        for latent, lag in states:
            carried[latent] = max(lag, carried.get(latent, 0))
    return carried


def _updates(
    in_carry: list[_Source], stateless: set[int], unchanged: list[bool]
) -> tuple[Update, ...]:
    """How each leaf of the carry runs from step to step."""
    return tuple(
        Update.CONSTANT if same else Update.RECURSION if source.leaves & stateless else Update.MAP
        for source, same in zip(in_carry, unchanged, strict=True)
    )


def _recurrent(
    continuous: tuple[str, ...], at_sites: dict[str, _Source], in_carry: list[_Source]
) -> frozenset[str]:
    """The continuous sites whose distribution depends on their values at earlier steps."""
    return frozenset(
        n
        for n in continuous
        if at_sites[n].leaves & _descending(in_carry, partial(_is_made_from, n))
    )


def _held(in_carry: list[_Source], sites: frozenset[str]) -> tuple[frozenset[str], ...]:
    """Which of the sites each leaf of the carry is computed from, at the last step or before."""
    held = [source.sites & sites for source in in_carry]
    for _ in in_carry:
        held = [
            own.union(*(held[j] for j in source.leaves))
            for own, source in zip(held, in_carry, strict=True)
        ]
    return tuple(held)


def _is_made_from(site: str, source: _Source) -> bool:
    return site in source.sites


def _descending(in_carry: list[_Source], begins: Callable[[_Source], bool]) -> set[int]:
    """The leaves of the carry that are computed from what `begins` says, at the last step or
    before."""
    held: set[int] = set()
    while True:
        more = {i for i, s in enumerate(in_carry) if begins(s) or s.leaves & held} - held
        if not more:
            return held
        held |= more


def _unchanged(body: Body, carry: Any, values: dict[str, Any]) -> list[bool]:
    """Which leaves of the carry the body passes on as they are."""

    def run(leaves: list[Any], given: dict[str, Any]) -> list[Any]:
        old = jax.tree.unflatten(jax.tree.structure(carry), leaves)
        return jax.tree.leaves(body.step(old, 0, lambda msg: given[msg["name"]])[0])

    jaxpr = jax.make_jaxpr(run)(jax.tree.leaves(carry), values).jaxpr
    return [out is jaxpr.invars[i] for i, out in enumerate(jaxpr.outvars)]
