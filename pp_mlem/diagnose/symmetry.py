"""The minimal sets of axes of parameters that, permuted together, leave a density unchanged.

An axis is made inert by giving the parameter one value along it: permuting it then does nothing.
With `open` axes alone left as they are and all others inert, permuting a set of axes permutes those
of them that are open. If a set S leaves the density unchanged everywhere, it does so there, and
that tells much at little cost:

- an axis of S, alone open, can be permuted by itself. Covariate effects and intercepts of groups
  that merely have as many entries cannot, and are out after one evaluation each;
- where permuting a subset T of S changes the density while W is open too, S has an axis in W. From
  one axis the set is grown so: W is made as small as can be, usually to one axis, and each of its
  axes is tried.

So no set is missed, and where W was one axis each time the set found is the only one that meets it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from pp_mlem.diagnose.groups import Group, permute_axes
from pp_mlem.program.sites import Site
from pp_mlem.program.space import base_support, is_simplex

Axis = tuple[str, int]
Piece = tuple[Axis, ...]  # axes that are permuted together or not at all: of a covariance, both
EVALUATIONS = 5_000  # beyond so many a search is given up, aloud

_SYMMETRIC = (type(constraints.positive_definite), type(constraints.corr_matrix))
_FIXED_ORDER = (  # of these no other order of an event's entries lies inside the support
    type(constraints.lower_cholesky),
    type(constraints.corr_cholesky),
    type(constraints.scaled_unit_lower_cholesky),
)


def pieces_of(sites: Iterable[Site], size: int) -> dict[Piece, Any]:
    """The axes of this size that can be permuted inside the parameters' supports, each with its
    parameter's support."""
    pieces: dict[Piece, Any] = {}
    for site in sites:
        base = base_support(site.support)
        if "Ordered" in type(base).__name__:
            continue
        first = len(site.shape) - base.event_dim  # of the event
        axes = [(site.name, a) for a, n in enumerate(site.shape) if n == size]
        event = [a for a in axes if a[1] >= first]
        pieces |= {(a,): site.support for a in axes if a not in event}
        if isinstance(base, _FIXED_ORDER) or not event:
            continue
        if isinstance(base, _SYMMETRIC):
            pieces[tuple(event)] = site.support
        else:
            pieces |= {(a,): site.support for a in event}
    return pieces


class Symmetries:
    """Which sets of pieces can be turned together, every one by one place, without changing the
    first of the densities `at`(params) near some generic `params`."""

    def __init__(
        self,
        pieces: dict[Piece, Any],
        params: dict[str, np.ndarray],
        at: Callable[[dict[str, np.ndarray]], np.ndarray],
    ) -> None:
        self.pieces, self.params, self.at = tuple(pieces), params, at
        self.centres = {u: _centre(params[u[0][0]], u, s) for u, s in pieces.items()}
        self.seen: dict[frozenset[Piece], tuple[dict[str, np.ndarray], np.ndarray]] = {}
        self.turned: dict[tuple[frozenset[Piece], frozenset[Piece]], np.ndarray] = {}

    def minimal_sets(self) -> list[tuple[Axis, ...]]:
        """Their axes, in the order of the pieces; smaller sets first."""
        alone = [u for u in self.pieces if self._unchanged(frozenset([u]), frozenset([u]))]
        sets: set[frozenset[Piece]] = set()
        done: set[Piece] = set()
        for piece in alone:
            if piece in done:
                continue
            grown: list[frozenset[Piece]] = []
            branched = self._grow(frozenset([piece]), frozenset(alone), grown)
            sets.update(grown)
            if not branched:
                done.update(*grown)
        least = [s for s in sets if not any(t < s for t in sets)]
        ordered = [[u for u in self.pieces if u in s] for s in least]
        ordered.sort(key=lambda s: (len(s), [self.pieces.index(u) for u in s]))
        return [tuple(axis for piece in s for axis in piece) for s in ordered]

    def keeps_prior(self, axes: tuple[Axis, ...]) -> bool:
        """Whether the second density is unchanged too."""
        chosen = frozenset(u for u in self.pieces if set(u) <= set(axes))
        return bool(self._close(chosen, frozenset(self.pieces))[1])

    def _grow(
        self, chosen: frozenset[Piece], candidates: frozenset[Piece], grown: list[frozenset[Piece]]
    ) -> bool:
        """Adds to `grown` every set that contains `chosen`, leaves the density unchanged and has no
        smaller one inside that contains it; whether there was a choice on the way."""
        everything = frozenset(self.pieces)
        if any(g <= chosen for g in grown) or not self._unchanged(chosen, chosen):
            return False
        if self._unchanged(chosen, everything):
            grown.append(chosen)
            return False
        if not self._unchanged(chosen, chosen | (everything - candidates)):
            return False  # what is out already would have to come along
        needed = self._needed(chosen, candidates - chosen, everything - candidates)
        branched = len(needed) > 1
        for piece in needed:
            branched |= self._grow(chosen | {piece}, candidates, grown)
        return branched

    def _needed(
        self, chosen: frozenset[Piece], others: frozenset[Piece], out: frozenset[Piece]
    ) -> list[Piece]:
        """As few of the others as can be with which, open, turning the chosen changes something."""
        order = [u for u in self.pieces if u in others]
        needed: list[Piece] = []
        while self._unchanged(chosen, chosen | out | frozenset(needed)):
            if not order:  # where the density is no number, what changes cannot be told apart
                return [u for u in self.pieces if u in others]
            low, high = 0, len(order)  # open up to `low`: nothing changes; up to `high`: it does
            while high - low > 1:
                middle = (low + high) // 2
                opened = chosen | out | frozenset(needed) | frozenset(order[:middle])
                if self._unchanged(chosen, opened):
                    low = middle
                else:
                    high = middle
            needed.append(order[high - 1])
            order = order[: high - 1]
        return needed

    # --- evaluations ------------------------------------------------------------------------

    def _unchanged(self, turned: frozenset[Piece], opened: frozenset[Piece]) -> bool:
        return bool(self._close(turned, opened)[0])

    def _close(self, turned: frozenset[Piece], opened: frozenset[Piece]) -> np.ndarray:
        """Whether each density is the same after the turn, all but the opened pieces inert."""
        key = turned & opened, opened
        if key not in self.turned:
            if len(self.turned) > EVALUATIONS:
                warnings.warn(
                    "exchangeable components: the search over axes of parameters was given up; "
                    "labels of some may stay as they are.",
                    stacklevel=2,
                )
                return np.zeros(2, bool)
            if opened not in self.seen:
                params = self._with_inert(opened)
                self.seen[opened] = params, self.at(params)
            params, before = self.seen[opened]
            axes = tuple(axis for piece in key[0] for axis in piece)
            after = self.at(_turned(params, axes))
            close = 1e-9 if before.dtype == np.float64 else 1e-5
            unknown = ~np.isfinite(before) & (len(opened) < len(self.pieces))  # says nothing
            self.turned[key] = unknown | np.isclose(after, before, rtol=close, atol=close)
        return self.turned[key]

    def _with_inert(self, opened: frozenset[Piece]) -> dict[str, np.ndarray]:
        """The parameters with one value along all pieces but the opened ones."""
        params = dict(self.params)
        for piece in self.pieces:
            if piece in opened:
                continue
            (name, axis), centre = piece[0], self.centres[piece]
            first = np.take(params[name], [0], axis)  # of a batch
            params[name] = np.broadcast_to(first, params[name].shape) if centre is None else centre
        return params


def _turned(params: dict[str, np.ndarray], axes: Sequence[Axis]) -> dict[str, np.ndarray]:
    if not axes:
        return params
    size = params[axes[0][0]].shape[axes[0][1]]
    group = Group("", size, tuple(axes), True)
    return permute_axes(params, group, np.roll(np.arange(size), 1))


def _centre(value: np.ndarray, piece: Piece, support: Any) -> np.ndarray | None:
    """A value inside the support that is equal along axes of its event (equal shares, the identity,
    zeros); None for an axis of a batch."""
    axis, base = piece[0][1], base_support(support)
    if axis < value.ndim - base.event_dim:
        return None
    if is_simplex(base):
        return np.full_like(value, 1 / value.shape[-1])
    if isinstance(base, _SYMMETRIC):
        return np.zeros_like(value) + np.eye(value.shape[-1])
    if isinstance(base, type(constraints.sphere)):
        return np.full_like(value, value.shape[-1] ** -0.5)
    transform = dist.biject_to(support)
    return np.asarray(transform(jnp.zeros(transform.inverse_shape(value.shape))))
