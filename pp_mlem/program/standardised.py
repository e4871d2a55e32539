"""Random effects written out as a scale times a standard Gaussian, as in `b = mu + tau * z` or by
`handlers.reparam`: nothing random stands above `z`, and still it is no parameter."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.program.depend import Dependencies
from pp_mlem.program.distributions import as_floating, innermost, is_discrete, unwrap
from pp_mlem.program.errors import NEEDS_VALUES
from pp_mlem.program.first_run import FirstRun
from pp_mlem.program.initial import neutral_value
from pp_mlem.program.messages import Message
from pp_mlem.program.space import base_support, is_matrix
from pp_mlem.program.trace import run_program

ENTRIES = 64  # of a site, beyond which it is stretched as a whole
GAUSSIANS = (dist.Normal, dist.MultivariateNormal)
CORRELATIONS = (type(dist.constraints.corr_matrix), type(dist.constraints.corr_cholesky))
Parents = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Standardised:
    """The `scales` by which alone a Gaussian enters the program, and a site below it that is
    `not_gaussian`, under which nothing integrates it out."""

    scales: tuple[str, ...]
    not_gaussian: str | None


def standardised(
    first: FirstRun, dependencies: Dependencies, parents: Parents, dynamic: tuple
) -> dict[str, Standardised]:
    """The Gaussians around zero without parents that enter all sites only times parameters of scale: when
    one is stretched and its scales shrink, nothing changes. As parameters neither are identified by the
    data; with the Gaussian integrated out, its scales are. Where there are several ways to shrink (the
    global and local scales of a horseshoe, loadings beside a scale) they would not be, and it is none."""
    found: dict[str, Standardised] = {}
    for name, message in first.messages.items():
        beside = _beside(name, message, first, dependencies, parents)
        by_scale = tuple(n for n in beside if _is_scale(n, first))
        others = [n for n in beside if _is_real(n, first)]
        if not by_scale:
            continue
        try:
            scales = _Stretching(first, dynamic, (name, *by_scale)).compensating()
            if any(_Stretching(first, dynamic, (name, n)).undo_each_other() for n in others):
                continue
        except NEEDS_VALUES:
            continue
        if scales:
            found[name] = Standardised(scales, _not_gaussian_below(name, first, parents))
    return found


def _beside(
    name: str, message: Message, first: FirstRun, dependencies: Dependencies, parents: Parents
) -> tuple[str, ...]:
    """What is continuous and meets this Gaussian in an argument of a site."""
    candidate = message.kind == "sample" and not message.observed and not parents[name]
    if first.scans or not candidate or type(innermost(message.fn)) not in GAUSSIANS:
        return ()
    met = {
        other
        for parts in dependencies.parts.values()
        for part, names in parts.items()
        if part.startswith("argument") and name in names
        for other in names
    }
    return tuple(sorted(n for n in met - {name} if _support(n, first) is not None))


def _support(name: str, first: FirstRun) -> Any:
    message = first.messages[name]
    return message.constraint if message.kind == "param" else first.supports.get(name)


def _is_scale(name: str, first: FirstRun) -> bool:
    """Whether a site has positive values, or is a covariance matrix or its Cholesky factor."""
    support = _support(name, first)
    lower = getattr(base_support(support), "lower_bound", None)
    if lower is not None:
        return bool(np.all(np.asarray(lower) == 0))
    return is_matrix(support) and not isinstance(base_support(support), CORRELATIONS)


def _is_real(name: str, first: FirstRun) -> bool:
    """Whether a site may be any real numbers."""
    return base_support(_support(name, first)) in (
        dist.constraints.real,
        dist.constraints.real_vector,
    )


def _not_gaussian_below(name: str, first: FirstRun, parents: Parents) -> str | None:
    """A site that depends on this one and is no Gaussian."""
    below = {name}
    while more := {s for s, own in parents.items() if own & below} - below:
        below |= more
    others = (n for n in sorted(below) if type(innermost(first.messages[n].fn)) not in GAUSSIANS)
    return next(others, None)


@dataclass(frozen=True)
class _Stretching:
    """The program as a function of the logarithms by which the entries of some sites are stretched, those
    of the first, a Gaussian, all by the same."""

    first: FirstRun
    dynamic: tuple
    names: tuple[str, ...]

    @property
    def ends(self) -> list[int]:
        sizes = [
            1,
            *(int(np.prod(jnp.shape(self.first.messages[n].value))) for n in self.names[1:]),
        ]
        whole = [1, *(self._is_whole(n) for n in self.names[1:])]
        return np.cumsum([1 if w else size for size, w in zip(sizes, whole, strict=True)]).tolist()

    def _is_whole(self, name: str) -> bool:
        size = np.prod(jnp.shape(self.first.messages[name].value))
        return bool(size > ENTRIES) or is_matrix(_support(name, self.first))

    def compensating(self) -> tuple[str, ...]:
        """The sites that undo a stretching of the Gaussian, where there is one way to do so."""
        still = jnp.zeros(self.ends[-1])
        if not self._is_centred():
            return ()
        moves = np.asarray(jax.jacfwd(self.made)(still), float)
        moves = moves[np.isfinite(moves).all(-1)]
        read = np.abs(moves).max(0, initial=0.0) > 0
        if not read[0]:
            return ()
        rounding = float(np.sqrt(np.finfo(still.dtype).eps))
        _, sizes, rows = np.linalg.svd(moves[:, read])
        free = rows[int((sizes > rounding * sizes[0]).sum()) :]  # what together changes nothing
        if not np.linalg.norm(free[:, 0]) > rounding:
            return ()
        way = free[:, 0] @ free / (free[:, 0] @ free[:, 0])
        way[np.abs(way) < 100 * rounding] = 0.0
        other_ways = free - np.outer(free[:, 0], way)
        if np.abs(other_ways[:, way != 0]).max() > 100 * rounding:
            return ()
        whole = np.zeros(self.ends[-1])
        whole[read] = way
        if not self._is_still(whole):
            return ()
        parts = np.split(whole, self.ends[:-1])
        return tuple(n for n, own in zip(self.names, parts, strict=True) if own.any())[1:]

    def undo_each_other(self) -> bool:
        """Whether nothing changes when the Gaussian is stretched as the other site shrinks: a product."""
        way = -np.ones(self.ends[-1])
        way[0] = 1.0
        return self._is_still(way)

    def _is_still(self, way: np.ndarray) -> bool:
        """Whether nothing changes along this way, however far."""
        before = self.made(jnp.zeros(self.ends[-1]), 1)
        after = self.made(jnp.asarray(0.7 * way, before.dtype), 1)
        near = 100 * float(np.sqrt(np.finfo(before.dtype).eps))
        return np.allclose(before, after, near, near, equal_nan=True)

    def _is_centred(self) -> bool:
        message = self._run(jnp.zeros(self.ends[-1]), 0)[self.names[0]]
        return not np.any(np.asarray(unwrap(message.fn).fn.loc))

    def made(self, logs: jax.Array, seed: int = 0) -> jax.Array:
        """The numbers that all sites are made from."""
        messages = self._run(logs, seed).values()
        numbers = [jnp.ravel(a) for m in messages for a in _made_from(m)]
        return jnp.concatenate([jnp.zeros(0, logs.dtype), *numbers])

    def _run(self, logs: jax.Array, seed: int) -> dict[str, Message]:
        begins = dict(zip(self.names, zip([0, *self.ends], self.ends, strict=False), strict=True))

        def supply(msg: dict[str, Any]) -> Any:
            value = self._value(msg, seed)
            if msg["name"] not in begins:
                return value
            begin, end = begins[msg["name"]]
            stretch = jnp.exp(logs[begin:end])
            return value * (stretch[0] if end - begin == 1 else stretch.reshape(value.shape))

        arguments = self.first.arguments
        return run_program(lambda p: arguments.call(p, self.dynamic), arguments.program, supply)

    def _value(self, msg: dict[str, Any], seed: int) -> Any:
        """A value inside the support of a site, of each its own."""
        seed = zlib.crc32(f"{seed} {msg['name']}".encode())
        if msg["type"] == "sample":
            value = neutral_value(msg, seed)
            return value if is_discrete(msg["fn"]) else as_floating(value)
        message = self.first.messages[msg["name"]]
        transform = dist.biject_to(message.constraint)
        free = transform.inverse_shape(jnp.shape(message.value))
        return transform(jnp.asarray(np.random.default_rng(seed).uniform(-1.0, 1.0, free)))


def _made_from(message: Message) -> Iterable[jax.Array]:
    """The real numbers from which a site's density is computed, its value among them if it is observed."""
    if message.kind != "sample":
        return
    arrays: list[Any] = list(unwrap(message.fn).fn.get_args().values())
    arrays += [message.value] if message.observed else []
    arrays += [] if message.scale is None else [message.scale]
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, (jax.Array, np.ndarray, float)):
            array = jnp.asarray(leaf)
            if jnp.issubdtype(array.dtype, jnp.floating):
                yield array
