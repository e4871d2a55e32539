"""Reads `scan` over discrete states: what the carry holds, and each step's factors.

The body of a scan is run for two neighbouring steps: once with the states of the step before at
all their values, to obtain the carry as a function of those states, and once more on that carry
with the states of the step itself at all their values. What the carry holds besides states (the
previous observation, a counter, parameters) is computed apart, for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.ops.provenance import eval_provenance

from pp_mlem.program.trace import (
    Message,
    PytreeTrace,
    Refused,
    Runner,
    Supply,
    Timed,
    is_discrete,
    neutral_value,
)

STEP = "the step"  # what varies with the step, in provenance
END = "the end of the scan"  # what the scan returns, in provenance
INPUTS = "the inputs"
PROVENANCE_STEPS = 4


def before(name: str) -> str:
    """The state `name` one step earlier."""
    return f"{name} before"


def first(name: str) -> str:
    """Site `name` at the first step, where it meets the scan's initial carry."""
    return f"{name}[0]"


def later(name: str) -> str:
    """Site `name` at every later step, where it meets the states of the step before."""
    return f"{name}[1:]"


@dataclass(frozen=True)
class Scan:
    """One scan of the program.

    `time` and `rest` name its plates of all steps and of the steps after the first. `moving` says
    which leaves of the carry depend on the states of the step; `course` how the others run:
    "constant", "map" (each from its own step alone) or "recursion". `pairs` are the sites of the
    body that meet the carry's states; `latents` the discrete unobserved ones; `carried` those that
    reach the carry.
    """

    time: str
    rest: str
    length: int
    reverse: bool
    sites: tuple[str, ...]
    latents: tuple[str, ...]
    moving: tuple[bool, ...]
    course: tuple[str, ...]
    pairs: frozenset[str]
    carried: frozenset[str]
    leaves: tuple[Any, ...]  # shape and type of each leaf of the carry
    output: Any  # and of what a step returns
    used: bool = True  # whether the program uses what the scan returns

    def names(self, site: str) -> tuple[str, ...]:
        """The site's names as a factor: itself, or its first and its later steps."""
        if site not in self.pairs:
            return (site,)
        return (first(site), later(site)) if self.length > 1 else (first(site),)


class Body:
    """The body of a scan within one run of the program."""

    def __init__(self, runner: Runner, msg: dict[str, Any]) -> None:
        f, init, xs, length, reverse = msg["args"]
        self.runner, self.f = runner, f
        leaves, self.treedef = jax.tree.flatten(init)
        self.init = [jnp.asarray(a) for a in leaves]
        sizes = {jnp.shape(a)[0] if jnp.ndim(a) else None for a in jax.tree.leaves(xs)}
        if None in sizes or len(sizes) > 1 or (not sizes and length is None):
            raise Refused(
                f"scan: the leading sizes of xs are {sorted(map(str, sizes))}; all arrays of xs "
                "need one common leading size, or pass length=."
            )
        self.length = int(sizes.pop() if sizes else length)
        if self.length < 1:
            raise Refused("scan: it has no steps; expected at least one.")
        self.reverse = bool(reverse)
        self.xs = jax.tree.map(lambda a: jnp.asarray(a)[::-1] if reverse else jnp.asarray(a), xs)
        self.numbered = runner.acts_along_steps()
        if self.numbered:
            self.xs = (jnp.arange(self.length), self.xs)

    def x(self, t: Any) -> Any:
        return jax.tree.map(lambda a: a[t], self.xs)

    def step(self, leaves: list[Any], x: Any, supply: Supply) -> tuple[list, Any, dict]:
        """(new carry leaves, output, sites) of one step."""
        carry = jax.tree.unflatten(self.treedef, leaves)
        number, x = x if self.numbered else (None, x)
        carry, y, messages = self.runner.step(self.f, carry, x, supply, number, self.length)
        new, treedef = jax.tree.flatten(carry)
        if treedef != self.treedef:
            raise Refused(
                f"scan: the carry changes its structure, from {self.treedef} to {treedef}. Return "
                "a carry of the same form as the initial one."
            )
        return [jnp.asarray(a) for a in new], y, messages

    def result(self, leaves: list[Any], ys: Any) -> Any:
        """What the scan's message must hold."""
        if self.reverse:
            ys = jax.tree.map(lambda a: a[::-1], ys)
        carry = jax.tree.unflatten(self.treedef, leaves)
        return (self.length, None, carry), (PytreeTrace({}), ys)


def neutral_supply() -> Supply:
    counter = iter(range(10_000))
    return lambda msg: neutral_value(msg, next(counter))


def discover(
    body: Body, name: str, parts: Callable[[Message], Any]
) -> tuple[Scan, dict[str, Message], Any]:
    """Find the structure of a scan by its first step; also that step's sites and the scan's value.

    Raises `Refused` for carries that change shape, continuous latents in the body, and states
    that depend on more than the step before.
    """
    leaves, y, messages = body.step(body.init, body.x(0), neutral_supply())
    for i, (old, new) in enumerate(zip(body.init, leaves, strict=True)):
        if old.shape != new.shape:
            raise Refused(
                f"scan: leaf {i} of the carry has shape {old.shape} before a step and {new.shape} "
                "after it. Give the initial carry the shape that the body returns."
            )
    latents = []
    for site, m in messages.items():
        if m.observed or m.kind != "sample":
            continue
        if not is_discrete(m.fn):
            raise Refused(
                f"latent '{site}' is continuous and unobserved inside a scan; no structure can "
                "integrate it out along a chain. Sample it before the scan (as a parameter), or "
                "make it discrete."
            )
        latents.append(site)
    values = {n: messages[n].value for n in latents}
    tokens = {f"leaf {i}": a for i, a in enumerate(leaves)}

    def traced(**given: Any) -> Any:
        carry = [given[f"leaf {i}"] for i in range(len(leaves))]
        new, _, found = body.step(carry, given[INPUTS], lambda msg: given[msg["name"]])
        return new, {n: parts(m) for n, m in found.items() if m.kind == "sample"}

    flat_leaves, flat_sites = eval_provenance(traced, **{INPUTS: body.x(0)}, **tokens, **values)
    depends = [frozenset(d) for d in flat_leaves]
    sites = {
        n: frozenset().union(*jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, frozenset)))
        for n, tree in flat_sites.items()
    }
    moving = {i for i, d in enumerate(depends) if d & set(latents)}
    while True:
        more = {
            i
            for i, d in enumerate(depends)
            if i not in moving and d & {f"leaf {j}" for j in moving}
        }
        if not more:
            break
        moving |= more
    moving_names = {f"leaf {i}" for i in moving}
    for i in sorted(moving):
        if depends[i] & moving_names:
            raise Refused(
                f"scan: leaf {i} of the carry depends on states of more than one step, so "
                f"{', '.join(latents)} is a chain of second or higher order. Declare one state "
                "that holds the last states together (a Categorical over their product), and "
                "carry only that one."
            )
    carried = frozenset().union(*(depends[i] for i in moving), frozenset()) & frozenset(latents)
    pairs = frozenset(n for n, d in sites.items() if d & moving_names)
    quiet = {f"leaf {i}" for i in range(len(leaves))} - moving_names
    same = _unchanged(body, leaves, values)
    course = tuple(
        "constant" if same[i] else "recursion" if depends[i] & quiet else "map"
        for i in range(len(leaves))
    )
    scan = Scan(
        time=name,
        rest=f"{name} after the first",
        length=body.length,
        reverse=body.reverse,
        sites=tuple(n for n, m in messages.items() if m.kind == "sample"),
        latents=tuple(latents),
        moving=tuple(i in moving for i in range(len(leaves))),
        course=course,
        pairs=pairs,
        carried=carried,
        leaves=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves),
        output=jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), y),
    )
    ys = jax.tree.map(lambda a: jnp.broadcast_to(a, (body.length, *jnp.shape(a))), y)
    return scan, messages, body.result(leaves, ys)


def _unchanged(body: Body, leaves: list[Any], values: dict[str, Any]) -> list[bool]:
    """Which leaves of the carry the body passes on as they are."""

    def run(carry: list[Any], x: Any, given: dict[str, Any]) -> list[Any]:
        return body.step(carry, x, lambda msg: given[msg["name"]])[0]

    jaxpr = jax.make_jaxpr(run)(leaves, body.x(0), values).jaxpr
    return [out is jaxpr.invars[i] for i, out in enumerate(jaxpr.outvars)]


def mark(array: Any, t: Any) -> Any:
    """The same array, known to provenance as one that depends on `t`."""
    array = jnp.asarray(array)
    return jnp.where(jnp.zeros((), bool) & (jnp.asarray(t) < 0), array, array)


@dataclass(frozen=True)
class Steps:
    """A scan within one run: the carry's quiet leaves before every step, and its neutral states."""

    scan: Scan
    body: Body
    quiet: Callable[[Any], list[Any]]
    neutral: list[Any]

    def carry(self, t: Any, moving: list[Any] | None = None) -> list[Any]:
        """The carry before step t, with the given (or neutral) leaves that depend on states."""
        states = self.neutral if moving is None else moving
        quiet = self.quiet(t)
        return [s if m else q for m, s, q in zip(self.scan.moving, states, quiet, strict=True)]

    def carry_from(self, t: Any, supply: Supply) -> list[Any]:
        """The carry after step t - 1, whose states `supply` gives."""
        new, _, _ = self.body.step(self.carry(t - 1), self.body.x(t - 1), supply)
        return self.carry(t, new)


def bind(scan: Scan, body: Body, for_provenance: bool = False) -> Steps:
    """Run the quiet part of the carry over all steps."""
    init = [jnp.asarray(a, n.dtype) for a, n in zip(body.init, scan.leaves, strict=True)]
    # states only need the right shape: nothing that is taken depends on their value here
    neutral = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in scan.leaves]
    if any(c != "constant" and not m for c, m in zip(scan.course, scan.moving, strict=True)):
        neutral, _, _ = body.step(body.init, body.x(0), neutral_supply())

    def merge(quiet: list[Any]) -> list[Any]:
        return [n if m else q for m, n, q in zip(scan.moving, neutral, quiet, strict=True)]

    def advance(quiet: list[Any], x: Any) -> list[Any]:
        new, _, _ = body.step(merge(quiet), x, neutral_supply())
        return [jnp.asarray(b, a.dtype) for a, b in zip(init, new, strict=True)]

    if for_provenance:
        current = list(init)
        for t in range(min(PROVENANCE_STEPS, len(init) + 1)):
            new = advance(current, body.x(min(t, body.length - 1)))
            current = [
                q if c == "constant" else n
                for c, q, n in zip(scan.course, current, new, strict=True)
            ]

        def at(t: Any) -> list[Any]:
            return [
                q if c == "constant" else mark(q, t)
                for c, q in zip(scan.course, current, strict=True)
            ]

        return Steps(scan, body, at, neutral)
    kinds = {c for c, m in zip(scan.course, scan.moving, strict=True) if not m}
    if "recursion" in kinds:

        def forward(quiet: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
            return advance(quiet, x), quiet

        _, stacked = jax.lax.scan(forward, list(init), body.xs, length=body.length)
    elif "map" in kinds:
        if body.length > 1:
            past = jax.tree.map(lambda a: a[:-1], body.xs)
            mapped = jax.vmap(lambda x: advance(list(init), x))(past)
        else:
            mapped = [jnp.zeros((0, *a.shape), a.dtype) for a in init]
        stacked = [jnp.concatenate([a[None], m]) for a, m in zip(init, mapped, strict=True)]
    else:
        stacked = None

    def quiet_at(t: Any) -> list[Any]:
        if stacked is None:
            return list(init)
        return [
            a if c == "constant" else s[t]
            for c, a, s in zip(scan.course, init, stacked, strict=True)
        ]

    return Steps(scan, body, quiet_at, neutral)


def settle(tree: Any, depth: int, stacked: bool) -> Any:
    """Put the dimension of the steps (leading, when `stacked`) at batch dimension -depth."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, Timed):
            return leaf
        array, trailing = leaf.array, leaf.trailing
        if not stacked:
            return array
        batch = array.ndim - 1 - trailing
        if batch < depth - 1:
            ones = (1,) * (depth - 1 - batch)
            array = array.reshape(array.shape[:1] + ones + array.shape[1:])
            batch = depth - 1
        if batch >= depth:  # the place is held open by a dimension of size one
            hole = 1 + batch - depth
            if array.shape[hole] != 1:
                raise Refused(
                    "scan: an array inside the body has more batch dimensions than its plates "
                    f"explain (shape {array.shape[1:]}). Declare them with numpyro.plate or "
                    "to_event."
                )
            array = jnp.squeeze(array, hole)
            return jnp.moveaxis(array, 0, hole - 1)
        return array

    return jax.tree.map(place, tree, is_leaf=lambda v: isinstance(v, Timed))
