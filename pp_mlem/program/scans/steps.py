"""A scan within one run of the program: its carry before every step, and what steps are run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.messages import Supply
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.scan import Scan

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
