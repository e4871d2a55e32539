"""What of a scan's carry depends on no state, run over all steps: binds a scan to one run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.messages import Supply
from pp_mlem.program.provenance import mark
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.scan import Scan, Update
from pp_mlem.program.scans.steps import Steps, merged

PROVENANCE_STEPS = 4  # at most, after which what a leaf depends on is taken as known


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
