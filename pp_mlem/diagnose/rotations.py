"""Parameters that turn with a real latent: loadings, of which only a rotation could tell the columns apart.

Where u ~ Normal(0, I) enters as W u, the likelihood is the same for W R and any orthogonal R. Whether that is
so is not read from the program but tried: the objective at turned parameters, where nothing is special, is the
one before. The directions of such turns are exactly flat, and of any function of the parameters only what they
leave as it is can be estimated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.program.sites import Site
from pp_mlem.program.space import base_support, scalar_names
from pp_mlem.target.target import Target

TRIALS = 64  # ways to turn that are tried for one latent, at most
CLOSE = 1e-9
LONGER = 1.7
TURNED = 1e-6  # of a rotation's direction, of length one, along a scalar that it moves
_LOST, ANY = "not identified", "any rotation"
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Turn:
    """`size` numbers of a real latent, and the axes of parameters that turn with them; an axis of None is a
    parameter that changes its sign with a latent of one number. `entry`, (axis, index), is the one entry of
    another axis that turns alone: the loadings of a component."""

    latent: str
    size: int
    axes: tuple[tuple[str, int | None], ...]
    entry: tuple[int, int] | None = None

    def __call__(self, params: Values, rotation: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters turned by an orthogonal matrix, or moved by any other."""
        turned = {k: np.array(v) for k, v in params.items()}
        for name, axis in self.axes:
            value = np.asarray(params[name], float)
            last = value[..., None] if axis is None else np.moveaxis(value, axis, -1)
            moved = last @ rotation
            moved = moved[..., 0] if axis is None else np.moveaxis(moved, -1, axis)
            where: list[Any] = [slice(None)] * value.ndim
            if self.entry is not None:
                where[self.entry[0]] = self.entry[1]
            turned[name][tuple(where)] = moved[tuple(where)]
        return turned

    def generators(self) -> Iterator[np.ndarray]:
        """What turns two of the coordinates into one another, for a moment."""
        for i, j in itertools.combinations(range(self.size), 2):
            move = np.zeros((self.size, self.size))
            move[i, j], move[j, i] = 1.0, -1.0
            yield move

    def rotation(self, params: Values, reference: Values) -> np.ndarray:
        """What turns the parameters as near to a reference as can be (Procrustes; Schönemann 1966,
        doi:10.1007/BF02289451)."""
        cross = np.zeros((self.size, self.size))
        for own, theirs in zip(self._columns(params), self._columns(reference), strict=True):
            cross += own.T @ theirs
        left, _, right = np.linalg.svd(cross)
        turned: np.ndarray = left @ right
        return turned

    def of_draws(self) -> Turn:
        """The same of parameters with a leading axis of draws."""
        axes = tuple((name, axis if axis is None else axis + 1) for name, axis in self.axes)
        entry = None if self.entry is None else (self.entry[0] + 1, self.entry[1])
        return replace(self, axes=axes, entry=entry)

    def _columns(self, params: Values) -> Iterator[np.ndarray]:
        """The loadings, (others, size)."""
        for name, axis in self.axes:
            value = np.asarray(params[name], float)
            last = value[..., None] if axis is None else np.moveaxis(value, axis, -1)
            if self.entry is not None:
                along, index = self.entry
                last = np.take(last, index, along - (axis is not None and along > axis))
            yield last.reshape(-1, self.size)

    def told(self) -> str:
        names = " and ".join(dict.fromkeys(name for name, _ in self.axes))
        return f"{ANY} of '{self.latent}' with {names} fits as well"


def turns_of(target: Target, smallest: int = 2) -> tuple[Turn, ...]:
    """The ways to turn parameters, with a real latent of at least so many numbers, that leave the objective
    as it is. Found once for a structure, at parameters of no meaning: they hang on no values."""

    def find() -> tuple[Turn, ...]:
        somewhere = np.random.default_rng(3).normal(size=target.space.size)
        reals = [s for s in target.reading.reals if s.size >= smallest]
        return tuple(turn for latent in reals for turn in _find(target, somewhere, latent))

    return target.once(("turns", target.problem, smallest), find)


def turned_to(turns: tuple[Turn, ...], params: Values, reference: Values) -> dict[str, np.ndarray]:
    """The parameters turned as near to a reference as can be."""
    turned = dict(params)
    for turn in turns:
        turned = turn(turned, turn.rotation(turned, reference))
    return turned


def turned_draws(
    turns: tuple[Turn, ...], draws: Values, reference: Values
) -> dict[str, np.ndarray]:
    """Every draw (draws, ...) turned as near to a reference as can be."""
    turned = {k: np.array(v) for k, v in draws.items()}
    names = {name for turn in turns for name, _ in turn.axes}
    for i in range(len(next(iter(turned.values()))) if names else 0):
        own = turned_to(turns, {n: turned[n][i] for n in names}, reference)
        for n in names:
            turned[n][i] = own[n]
    return turned


def _find(target: Target, vector: np.ndarray, latent: Site) -> list[Turn]:
    """How parameters turn with a latent, entry by entry of another axis where that can be."""
    ways = _ways(target, latent)
    if not ways:
        return []
    params = {k: v[0] for k, v in target.constrained(np.asarray(vector)[None]).items()}
    evaluate = target.compiled(Target.value)
    before = float(evaluate(vector))
    random = np.random.default_rng(5).normal(size=(latent.size, latent.size))
    rotation = np.linalg.qr(random)[0] if latent.size > 1 else -np.ones((1, 1))

    def change(turn: Turn, by: np.ndarray) -> float:
        """Of the objective at moved parameters, in units of what rounding could make of it."""
        moved = turn(params, by)
        point = target.space.to_vector({n: moved[n] for n in target.space.names})
        return abs(float(evaluate(np.asarray(point))) - before) / (CLOSE * (1 + abs(before)))

    def unchanged(turn: Turn) -> bool:
        """Whether the objective is what it was at turned parameters, and hangs on them there."""
        return change(turn, rotation) <= 1 and not change(turn, LONGER * rotation) <= 1

    whole = next(filter(unchanged, ways), None)
    if whole is None:
        return []
    return next((parts for parts in _parts(target, whole) if all(map(unchanged, parts))), [whole])


def _ways(target: Target, latent: Site) -> list[Turn]:
    """What may turn with a latent: of each parameter behind the sites that the latent enters an axis of its
    size, or none; one parameter before several."""
    reading = target.reading
    own = reading.dependencies[latent.name]
    size = latent.size
    turns_alone = not frozenset().union(*own.values()) - {latent.name}
    if len(latent.event_shape) > 1 or (size > 1 and not turns_alone):
        return []  # a law with parameters of its own, under which none but a change of sign may be free
    near = frozenset().union(
        *(s.parents for s in reading.sites.values() if latent.name in s.parents)
    )
    options: list[list[tuple[str, int | None]]] = []
    for site in target.space.sites:
        if site.name not in near or base_support(site.support) is not constraints.real:
            continue
        if size == 1:
            options.append([(site.name, None)])
        else:
            options.append([(site.name, a) for a, n in enumerate(site.shape) if n == size])
    options = [axes for axes in options if axes]
    ways: list[Turn] = []
    for count in range(1, len(options) + 1):
        for some in itertools.combinations(options, count):
            ways += [Turn(latent.name, size, axes) for axes in itertools.product(*some)]
            if len(ways) > TRIALS:
                return ways[:TRIALS]
    return ways


def _parts(target: Target, whole: Turn) -> Iterator[list[Turn]]:
    """A turn taken apart into those of the entries of another axis."""
    shapes = {s.name: s.shape for s in target.space.sites}
    (name, axis), *others = whole.axes
    if others:
        return
    for along, count in enumerate(shapes[name]):
        if along != axis and 1 < count <= TRIALS:
            yield [Turn(whole.latent, whole.size, whole.axes, (along, i)) for i in range(count)]


def is_rotation(reason: str) -> bool:
    """Whether a scalar has no standard error for this reason because a rotation moves it."""
    return reason.startswith(f"{_LOST}: {ANY}")


def rotated(target: Target, vector: Any) -> dict[str, str]:
    """Why scalars have no standard error that a rotation moves, by their names."""
    reasons: dict[str, str] = {}
    where = target.space.slices()
    for turn in turns_of(target):
        moved = np.abs(flat_directions(target, vector, (turn,))).max(1, initial=0.0) > TURNED
        scalars = iter(scalar_names(target.space))
        for site in target.space.sites:
            own = [next(scalars) for _ in range(int(np.prod(site.shape)))]
            if site.name in {name for name, _ in turn.axes}:  # real: a scalar is a coordinate
                turning = itertools.compress(own, moved[where[site.name]])
                reasons |= dict.fromkeys(turning, f"{_LOST}: {turn.told()}")
    return reasons


def free_scalars(target: Target) -> int:
    """How many free scalars there are that the objective can tell: without those of rotations."""
    somewhere = np.random.default_rng(4).normal(size=target.space.size)
    return int(target.space.size - flat_directions(target, somewhere, turns_of(target)).shape[1])


def flat_directions(target: Target, vector: Any, turns: tuple[Turn, ...]) -> np.ndarray:
    """Directions of the unconstrained coordinates (size, count) along which parameters turn, each as long as
    it makes them."""
    space, where = target.space, target.space.slices()
    if not any(turn.size > 1 for turn in turns):
        return np.zeros((space.size, 0))
    params = {k: v[0] for k, v in target.constrained(np.asarray(vector)[None]).items()}
    columns = []
    for turn in turns:
        for generator in turn.generators():
            moved, column = turn(params, generator), np.zeros(space.size)
            for name, _ in turn.axes:
                change = np.asarray(moved[name])
                if turn.entry is not None:  # the other entries stay where they are
                    keep = np.ones(change.shape, bool)
                    keep[(slice(None),) * turn.entry[0] + (turn.entry[1],)] = False
                    change = np.where(keep, 0.0, change)
                column[where[name]] = change.ravel()
            columns.append(column)
    flat = np.array(columns).reshape(-1, space.size).T
    left, values, _ = np.linalg.svd(flat, full_matrices=False)
    return left[:, values > 1e-10 * max(values.max(), 1e-300)]
