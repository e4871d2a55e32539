"""A scan within one run of the program: its carry before every step, and what steps are run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.errors import Refused
from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.messages import Supply, Timed
from pp_mlem.program.provenance import mark
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.scan import Scan, Update

PROVENANCE_STEPS = 4  # at most, after which what a leaf depends on is taken as known

Earlier = Callable[[int], Supply]  # number of steps back -> values of that step's sites


@dataclass(frozen=True)
class Steps:
    """A scan within one run: its carry before every step, but for what depends on states, which is
    `neutral`."""

    scan: Scan
    body: Body
    stateless: Callable[[Any], list[Any]]
    neutral: list[Any]

    def carry(self, t: Any, stateful: Any = None) -> Any:
        """The carry before step t, once it has its form, with the given (or neutral) leaves that
        depend on states."""
        states = self.neutral if stateful is None else jax.tree.leaves(stateful)
        return merged(self.scan, states, self.stateless(t))

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
        return pieces[0] if len(pieces) == 1 else jax.tree.map(concatenated, *pieces)


def merged(scan: Scan, stateful: list[Any], stateless: list[Any]) -> Any:
    """The carry with its leaves that depend on states from the one list, the others from the other."""
    pairs = zip(scan.stateful, stateful, stateless, strict=True)
    return jax.tree.unflatten(scan.treedef, [a if depends else b for depends, a, b in pairs])


def concatenated(*arrays: Any) -> Any:
    """Arrays over steps, one after the other."""
    shape = jnp.broadcast_shapes(*(a.shape[1:] for a in arrays))
    return jnp.concatenate([jnp.broadcast_to(a, (len(a), *shape)) for a in arrays])


class _Stateless:
    """The leaves of the carry that depend on no state, run over all steps; `supply` gives values of
    the body's continuous sites where `body` does not hold them."""

    def __init__(self, scan: Scan, body: Body, supply: Supply | None = None) -> None:
        self.scan, self.body = scan, body
        neutral_of = neutral_supply()

        def given(msg: dict[str, Any]) -> Any:
            known = supply is not None and msg["name"] in scan.continuous
            return supply(msg) if supply is not None and known else neutral_of(msg)

        self.given = given
        start = body.init
        for k in range(scan.formed):
            start = body.step(start, min(k, body.length - 1), given)[0]
        leaves = zip(jax.tree.leaves(start), scan.leaves, strict=True)
        self.init = [jnp.asarray(a, leaf.dtype) for a, leaf in leaves]
        self.first = min(scan.formed, body.length - 1)
        # States only need the right shape: nothing that is taken depends on their value here.
        self.neutral = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in scan.leaves]
        if self.kinds - {Update.CONSTANT}:
            self.neutral = jax.tree.leaves(body.step(start, self.first, given)[0])

    @property
    def kinds(self) -> set[Update]:
        pairs = zip(self.scan.updates, self.scan.stateful, strict=True)
        return {update for update, depends in pairs if not depends}

    def advance(self, leaves: list[Any], t: Any) -> list[Any]:
        """The leaves after step t."""
        carry = merged(self.scan, self.neutral, leaves)
        new = jax.tree.leaves(self.body.step(carry, t, self.given)[0])
        return [jnp.asarray(b, a.dtype) for a, b in zip(self.init, new, strict=True)]

    def for_provenance(self) -> list[Any]:
        """The leaves after a few steps, which depend on all that they ever depend on."""
        current = list(self.init)
        for t in range(min(PROVENANCE_STEPS, len(self.init) + 1)):
            new = self.advance(current, min(t, self.body.length - 1))
            kept = zip(self.scan.updates, current, new, strict=True)
            current = [a if u is Update.CONSTANT else b for u, a, b in kept]
        return current

    def stacked(self) -> list[Any] | None:
        """The leaves before every step from `scan.formed` on; None where all are constants."""
        if not self.kinds & {Update.RECURSION, Update.MAP}:
            return None
        self.init = self._widened()
        many = max(self.body.length - self.scan.formed, 1)
        times = self.scan.formed + jnp.arange(many)
        if Update.RECURSION in self.kinds:
            return jax.lax.scan(self._forward, self.init, times)[1]
        if many == 1:
            return [a[None] for a in self.init]
        mapped = jax.vmap(lambda t: self.advance(self.init, t))(times[:-1])
        return [
            jnp.concatenate([a[None], jnp.broadcast_to(m, (many - 1, *a.shape))])
            for a, m in zip(self.init, mapped, strict=True)
        ]

    def _forward(self, leaves: list[Any], t: Any) -> tuple[list[Any], list[Any]]:
        new = self.advance(leaves, jnp.minimum(t, self.body.length - 1))
        return [jnp.broadcast_to(b, a.shape) for a, b in zip(leaves, new, strict=True)], leaves

    def _widened(self) -> list[Any]:
        """The initial leaves, broadcast to what latents above the scan make of them."""
        init = self.init
        for _ in range(len(init) + 1):
            after = jax.eval_shape(lambda leaves: self.advance(leaves, self.first), init)
            shapes = [
                jnp.broadcast_shapes(a.shape, b.shape) for a, b in zip(init, after, strict=True)
            ]
            if all(a.shape == s for a, s in zip(init, shapes, strict=True)):
                break
            init = [jnp.broadcast_to(a, s) for a, s in zip(init, shapes, strict=True)]
        return init


def bind(scan: Scan, body: Body) -> Steps:
    """The scan in one run, with what depends on no state run over all steps."""
    leaves = _Stateless(scan, body)
    stacked = leaves.stacked()

    def before(t: Any) -> list[Any]:
        if stacked is None:
            return list(leaves.init)
        kept = zip(scan.updates, leaves.init, stacked, strict=True)
        return [a if u is Update.CONSTANT else s[t - scan.formed] for u, a, s in kept]

    return Steps(scan, body, before, leaves.neutral)


def bind_for_provenance(scan: Scan, body: Body, supply: Supply) -> Steps:
    """The same to find what depends on what: a few steps stand for all, marked by their number."""
    leaves = _Stateless(scan, body, supply)
    last = leaves.for_provenance()

    def before(t: Any) -> list[Any]:
        kept = zip(scan.updates, last, strict=True)
        return [a if u is Update.CONSTANT else mark(a, t) for u, a in kept]

    return Steps(scan, body, before, leaves.neutral)


def place_steps(tree: Any, depth: int, stacked: bool) -> Any:
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
