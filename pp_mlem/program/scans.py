"""Reads `scan` over discrete states: what the carry holds, and each step's factors.

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
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.trace import (
    Message,
    PytreeTrace,
    Refused,
    Runner,
    Supply,
    Timed,
    is_discrete,
    neutral_value,
    provenance,
)

STEP = "the step"  # what varies with the step, in provenance
END = "the end of the scan"  # what the scan returns, in provenance
INPUTS = "the inputs"
PROVENANCE_STEPS = 4
FORMS = 4  # steps after which a carry must have taken its form


def before(name: str, lag: int = 1) -> str:
    """The state `name` some steps earlier."""
    return f"{name} before" if lag == 1 else f"{name} {lag} steps before"


def at_step(name: str, step: int) -> str:
    """Site `name` at one of the first steps, which meet the scan's initial carry."""
    return f"{name}[{step}]"


def later(name: str, start: int = 1) -> str:
    """Site `name` at every later step, where it meets the states of the steps before."""
    return f"{name}[{start}:]"


@dataclass(frozen=True)
class Scan:
    """One scan of the program.

    `time` and `rest` name its plates of all steps and of the steps from `start` on. `moving` says
    which leaves of the carry depend on states, `course` how the others run: "constant", "map"
    (each from its own step alone) or "recursion". After `order` steps nothing of a state is left
    in the carry; before step `settled` the carry has not its later form. `pairs` are the sites of
    the body that meet the carry's states; `latents` the discrete unobserved ones, `carried` how
    many steps back each is met at most; `continuous` the continuous unobserved ones, of which
    `recurrent` depend on their own values of earlier steps.
    """

    time: str
    length: int
    reverse: bool
    sites: tuple[str, ...]
    latents: tuple[str, ...]
    continuous: tuple[str, ...]
    recurrent: frozenset[str]
    settled: int
    order: int
    moving: tuple[bool, ...]
    course: tuple[str, ...]
    pairs: tuple[str, ...]
    carried: dict[str, int]
    leaves: tuple[Any, ...]  # shape and type of each leaf of the settled carry
    treedef: Any
    output: Any  # and of what a step returns
    fed: frozenset[str]  # sites whose distribution depends on inputs of earlier steps
    used: bool = True  # whether the program uses what the scan returns

    @property
    def start(self) -> int:
        """Number of first steps whose paired sites stand alone."""
        return max(1, self.settled, *self.carried.values(), 0)

    @property
    def rest(self) -> str:
        return f"{self.time} after the first" + (f" {self.start}" if self.start > 1 else "")

    @property
    def rolled(self) -> int:
        """The first step whose carry can be had from that of `order` steps before."""
        return self.settled + self.order

    def later(self, site: str) -> str:
        return later(site, self.start)

    def names(self, site: str) -> tuple[str, ...]:
        """The site's names as a factor: itself, or its first and its later steps."""
        if site not in self.pairs:
            return (site,)
        heads = tuple(at_step(site, k) for k in range(min(self.start, self.length)))
        return (*heads, self.later(site)) if self.length > self.start else heads


class Body:
    """The body of a scan within one run of the program.

    `given` are values of continuous sites of the body, (steps, ...) in the order in which the
    steps are run.
    """

    def __init__(
        self, runner: Runner, msg: dict[str, Any], given: dict[str, Any] | None = None
    ) -> None:
        f, init, xs, length, reverse = msg["args"]
        self.runner, self.f, self.given = runner, f, given or {}
        sizes = {jnp.shape(a)[0] if jnp.ndim(a) else None for a in jax.tree.leaves(xs)}
        if None in sizes or len(sizes) > 1 or (not sizes and length is None):
            raise Refused(
                f"scan: the leading sizes of xs are {sorted(map(str, sizes))}; all arrays of xs "
                "need one common leading size, or pass length=."
            )
        self.length = int(sizes.pop() if sizes else length)
        if self.length < 1:
            raise Refused("scan: it has no steps; expected at least one.")
        if length is not None and int(length) != self.length:
            raise Refused(
                f"scan: length={length}, and the arrays of xs have {self.length} entries. Leave "
                "length out, or pass xs=None."
            )
        self.reverse = bool(reverse)
        self.init = jax.tree.map(jnp.asarray, init)
        self.xs = jax.tree.map(lambda a: jnp.asarray(a)[::-1] if reverse else jnp.asarray(a), xs)

    def x(self, t: Any) -> Any:
        return jax.tree.map(lambda a: a[t], self.xs)

    def step(
        self, carry: Any, t: Any, supply: Supply, x: Any = None
    ) -> tuple[Any, Any, dict[str, Message]]:
        """(new carry, output, sites) of step t."""
        x = self.x(t) if x is None else x

        def own(msg: dict[str, Any]) -> Any:
            known = self.given.get(msg["name"])
            return supply(msg) if known is None else jnp.asarray(known)[t]

        carry, y, messages = self.runner.step(self.f, carry, x, own, t, self.length)
        return jax.tree.map(jnp.asarray, carry), y, messages

    def result(self, carry: Any, ys: Any) -> Any:
        """What the scan's message must hold."""
        if self.reverse:
            ys = jax.tree.map(lambda a: a[::-1], ys)
        return (self.length, None, carry), (PytreeTrace({}), ys)


def neutral_supply() -> Supply:
    counter = iter(range(10_000))
    return lambda msg: neutral_value(msg, next(counter))


def _places(carry: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}


def _settle(body: Body) -> tuple[int, Any, dict[str, Message], Any]:
    """Run first steps until the carry keeps its form: their number, the carry then, the sites of
    the next step and its output."""
    carry = body.init
    names: dict[str, bool] | None = None
    for k in range(FORMS):
        new, y, messages = body.step(carry, min(k, body.length - 1), neutral_supply())
        found = {n: m.observed for n, m in messages.items()}
        if names is not None and names != found:
            odd = sorted(n for n in {*names, *found} if names.get(n) != found.get(n))
            raise Refused(
                f"scan: site(s) {odd} of the body are not the same at every step. Give each site "
                "one name and sample it at every step (mask= hides it where it does not count); "
                "a name made from the step's number (f'y_{t}') belongs to a Python loop."
            )
        names = found
        old_places, new_places = _places(carry), _places(new)
        for place, shape in old_places.items():
            if new_places.get(place, shape) != shape:
                raise Refused(
                    f"scan: leaf {place or 0} of the carry has shape {shape} before a step and "
                    f"{new_places[place]} after it. Give the initial carry the shape that the body "
                    "returns."
                )
        if jax.tree.structure(new) == jax.tree.structure(carry):
            return k, carry, messages, y
        lost = sorted(set(old_places) - set(new_places))
        if lost:
            break
        carry = new
    raise Refused(
        f"scan: the carry changes its structure, from {jax.tree.structure(carry)} to "
        f"{jax.tree.structure(new)}. Return a carry of the same form as the initial one; only None "
        "may become a value, at the first steps."
    )


def discover(
    body: Body, name: str, parts: Callable[[Message], Any]
) -> tuple[Scan, dict[str, Message], Any]:
    """Find the structure of a scan by its first steps; also a step's sites and the scan's value.

    Raises `Refused` for carries that change shape, and states of which something is carried on
    for ever.
    """
    settled, carry, messages, y = _settle(body)
    leaves, treedef = jax.tree.flatten(carry)
    unobserved = [n for n, m in messages.items() if not m.observed and m.kind == "sample"]
    latents = tuple(n for n in unobserved if is_discrete(messages[n].fn))
    continuous = tuple(n for n in unobserved if n not in latents)
    values = {n: messages[n].value for n in unobserved}
    tokens = {f"leaf {i}": a for i, a in enumerate(leaves)}

    def traced(**given: Any) -> Any:
        old = jax.tree.unflatten(treedef, [given[f"leaf {i}"] for i in range(len(leaves))])
        new, _, found = body.step(old, 0, lambda msg: given[msg["name"]], given[INPUTS])
        return jax.tree.leaves(new), {n: parts(m) for n, m in found.items() if m.kind == "sample"}

    flat_leaves, flat_sites = provenance(traced, {INPUTS: body.x(0)} | tokens | values)
    depends = [frozenset(d) for d in flat_leaves]
    sites = {
        n: frozenset().union(*jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, frozenset)))
        for n, tree in flat_sites.items()
    }
    reach = _reach(depends, latents)
    moving = {i for i, found in enumerate(reach) if found}
    order = max((lag for found in reach for _, lag in found), default=0)
    met = {n: {p for i in moving if f"leaf {i}" in d for p in reach[i]} for n, d in sites.items()}
    carried: dict[str, int] = {}
    for found in met.values():
        for latent, lag in found:
            carried[latent] = max(lag, carried.get(latent, 0))
    quiet = {f"leaf {i}" for i in range(len(leaves)) if i not in moving}
    held = _descending(depends, {INPUTS})
    same = _unchanged(body, carry, values)
    course = tuple(
        "constant" if same[i] else "recursion" if depends[i] & quiet else "map"
        for i in range(len(leaves))
    )
    scan = Scan(
        time=name,
        length=body.length,
        reverse=body.reverse,
        sites=tuple(n for n, m in messages.items() if m.kind == "sample"),
        latents=latents,
        continuous=continuous,
        recurrent=_recurrent(continuous, sites, depends),
        settled=settled,
        order=order,
        moving=tuple(i in moving for i in range(len(leaves))),
        course=course,
        pairs=tuple(n for n, found in met.items() if found),
        carried=carried,
        leaves=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves),
        treedef=treedef,
        output=jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), y),
        fed=frozenset(n for n, d in sites.items() if d & held & quiet),
    )
    ys = jax.tree.map(lambda a: jnp.broadcast_to(a, (body.length, *jnp.shape(a))), y)
    return scan, messages, body.result(carry, ys)


def _reach(
    depends: list[frozenset[str]], latents: tuple[str, ...]
) -> list[frozenset[tuple[str, int]]]:
    """The (state, number of steps back) that each leaf of the carry holds before a step."""
    own = [frozenset((n, 1) for n in d & set(latents)) for d in depends]
    sources = [[j for j in range(len(depends)) if f"leaf {j}" in d] for d in depends]
    reach = own
    for _ in range(len(depends) + 1):
        older = [frozenset((n, lag + 1) for n, lag in found) for found in reach]
        new = [found.union(*(older[j] for j in sources[i])) for i, found in enumerate(own)]
        if new == reach:
            return reach
        reach = new
    kept = next(i for i, found in enumerate(reach) if any(n > len(depends) for _, n in found))
    names = ", ".join(f"'{n}'" for n in sorted({n for n, _ in reach[kept]}))
    raise Refused(
        f"scan: leaf {kept} of the carry is computed from itself and from states ({names}), so it "
        "depends on the states of all earlier steps, which no finite state can hold. Carry the "
        "last states only (z, or the last two of them), or sample what is to be remembered as a "
        "state of its own."
    )


def _recurrent(
    continuous: tuple[str, ...], sites: dict[str, frozenset[str]], depends: list[frozenset[str]]
) -> frozenset[str]:
    """The continuous sites whose distribution depends on their values at earlier steps."""
    return frozenset(n for n in continuous if sites[n] & _descending(depends, {n}))


def _descending(depends: list[frozenset[str]], sources: set[str]) -> set[str]:
    """The leaves of the carry that are computed from `sources`, at the last step or before."""
    held: set[str] = set()
    while True:
        more = {f"leaf {i}" for i, d in enumerate(depends) if d & (sources | held)} - held
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


def mark(array: Any, t: Any) -> Any:
    """The same array, known to provenance as one that depends on `t`."""
    array = jnp.asarray(array)
    return jnp.where(jnp.zeros((), bool) & (jnp.asarray(t) < 0), array, array)


Earlier = Callable[[int], Supply]  # number of steps back -> values of that step's sites


@dataclass(frozen=True)
class Steps:
    """A scan within one run: the carry's quiet leaves before every step, and its neutral states."""

    scan: Scan
    body: Body
    quiet: Callable[[Any], list[Any]]
    neutral: list[Any]

    def carry(self, t: Any, moving: Any = None) -> Any:
        """The settled carry before step t, with the given (or neutral) leaves that depend on
        states."""
        states = self.neutral if moving is None else jax.tree.leaves(moving)
        quiet = self.quiet(t)
        leaves = [s if m else q for m, s, q in zip(self.scan.moving, states, quiet, strict=True)]
        return jax.tree.unflatten(self.scan.treedef, leaves)

    def at(self, t: int, earlier: Earlier) -> Any:
        """The carry before step t, run from the scan's initial carry."""
        carry = self.body.init
        for k in range(t):
            carry = self.body.step(carry, k, earlier(t - k))[0]
        return carry

    def carry_from(self, t: Any, earlier: Earlier) -> Any:
        """The carry before step t, which `earlier` gives the states of the steps before."""
        carry = self.carry(t - self.scan.order)
        for lag in range(self.scan.order, 0, -1):
            new = self.body.step(carry, t - lag, earlier(lag))[0]
            carry = self.carry(t - lag + 1, new)
        return carry

    def over(
        self,
        run: Callable[[Any, Any], Any],
        start: int,
        rolled: int,
        earlier: Earlier,
        carry: Callable[[Any], Any],
    ) -> Any:
        """`run` (carry, t) at every step from `start`, stacked: up to `rolled` on the carry that
        the initial one leads to, after it on `carry` (t)."""
        rolled = min(max(rolled, start), self.body.length)
        pieces = [
            jax.tree.map(lambda a: jnp.asarray(a)[None], run(self.at(t, earlier), t))
            for t in range(start, rolled)
        ]
        if rolled < self.body.length:
            times = jnp.arange(rolled, self.body.length)
            pieces.append(jax.vmap(lambda t: run(carry(t), t))(times))
        return pieces[0] if len(pieces) == 1 else jax.tree.map(joined, *pieces)


def joined(*arrays: Any) -> Any:
    """Arrays over steps, one after the other."""
    shape = jnp.broadcast_shapes(*(a.shape[1:] for a in arrays))
    return jnp.concatenate([jnp.broadcast_to(a, (len(a), *shape)) for a in arrays])


def bind(
    scan: Scan, body: Body, supply: Supply | None = None, for_provenance: bool = False
) -> Steps:
    """Run the quiet part of the carry over all steps; `supply` gives values of the body's
    continuous sites where `body` does not hold them."""
    neutral_of = neutral_supply()

    def given(msg: dict[str, Any]) -> Any:
        known = supply is not None and msg["name"] in scan.continuous
        return supply(msg) if known else neutral_of(msg)

    start = body.init
    for k in range(scan.settled):
        start = body.step(start, min(k, body.length - 1), given)[0]
    types = [leaf.dtype for leaf in scan.leaves]
    init = [jnp.asarray(a, d) for a, d in zip(jax.tree.leaves(start), types, strict=True)]
    first = min(scan.settled, body.length - 1)
    # states only need the right shape: nothing that is taken depends on their value here
    neutral = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in scan.leaves]
    if any(c != "constant" and not m for c, m in zip(scan.course, scan.moving, strict=True)):
        neutral = jax.tree.leaves(body.step(start, first, given)[0])

    def advance(quiet: list[Any], t: Any) -> list[Any]:
        merged = [n if m else q for m, n, q in zip(scan.moving, neutral, quiet, strict=True)]
        carry = jax.tree.unflatten(scan.treedef, merged)
        new = jax.tree.leaves(body.step(carry, t, given)[0])
        return [jnp.asarray(b, a.dtype) for a, b in zip(init, new, strict=True)]

    if for_provenance:
        current = list(init)
        for t in range(min(PROVENANCE_STEPS, len(init) + 1)):
            new = advance(current, min(t, body.length - 1))
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
    stacked = None
    steps = max(body.length - scan.settled, 1)
    if kinds & {"recursion", "map"}:
        init = _widened(advance, init, first)
        times = scan.settled + jnp.arange(steps)
        if "recursion" in kinds:

            def forward(quiet: list[Any], t: Any) -> tuple[list[Any], list[Any]]:
                new = advance(quiet, jnp.minimum(t, body.length - 1))
                return [
                    jnp.broadcast_to(b, a.shape) for a, b in zip(quiet, new, strict=True)
                ], quiet

            _, stacked = jax.lax.scan(forward, init, times)
        elif steps > 1:
            mapped = jax.vmap(lambda t: advance(init, t))(times[:-1])
            stacked = [
                jnp.concatenate([a[None], jnp.broadcast_to(m, (steps - 1, *a.shape))])
                for a, m in zip(init, mapped, strict=True)
            ]
        else:
            stacked = [a[None] for a in init]

    def quiet_at(t: Any) -> list[Any]:
        if stacked is None:
            return list(init)
        return [
            a if c == "constant" else s[t - scan.settled]
            for c, a, s in zip(scan.course, init, stacked, strict=True)
        ]

    return Steps(scan, body, quiet_at, neutral)


def _widened(advance: Callable, init: list[Any], t: Any) -> list[Any]:
    """The initial leaves, broadcast to what latents above the scan make of them."""
    for _ in range(len(init) + 1):
        after = jax.eval_shape(lambda leaves: advance(leaves, t), init)
        shapes = [jnp.broadcast_shapes(a.shape, b.shape) for a, b in zip(init, after, strict=True)]
        if all(a.shape == s for a, s in zip(init, shapes, strict=True)):
            break
        init = [jnp.broadcast_to(a, s) for a, s in zip(init, shapes, strict=True)]
    return init


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
