"""Brute force for real latents: the whole joint Gaussian of a program's text, in plain numpy.

The text of a program runs with this module's names in place of NumPyro's. A Normal site is an affine
function of standard normals, kept as its values at zero and at each unit vector; every configuration of
the finite latents gives one dense Gaussian, and these are added up. Nothing of pp_mlem, NumPyro or JAX
is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain_numpyro
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

MOST = 160  # standard normals of one program


class NotAffine(Exception):
    """Two real latents multiplied, or one under a function that is not linear."""


class TooLarge(Exception):
    """More configurations or latents than are worth a test."""


class Affine:
    """An array that is affine in standard normals: `points[0]` is its value at zero, `points[i]` with the
    i-th at one."""

    __array_ufunc__ = None  # numpy's arrays leave the arithmetic to this class

    def __init__(self, points: Any) -> None:
        self.points = np.asarray(points, float)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.points.shape[1:]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> Affine:
        return self.each(np.transpose)

    def __len__(self) -> int:
        return self.shape[0]

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Affine:
        return Affine([change(p) for p in self.points])

    def __array_function__(self, function, types, args, kwargs):
        del types
        if function not in LINEAR:
            raise NotAffine(function.__name__)
        found = [function(*_at(args, i), **_at(kwargs, i)) for i in range(len(self.points))]
        return Affine(found)

    def _with(self, other: Any, operation: Callable) -> Affine:
        if isinstance(other, Affine):
            return Affine([operation(a, b) for a, b in zip(self.points, other.points, strict=True)])
        return self.each(lambda p: operation(p, other))

    def _times(self, other: Any, operation: Callable) -> Affine:
        if isinstance(other, Affine):
            raise NotAffine("a product of latents")
        return self.each(lambda p: operation(p, np.asarray(other)))

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other):
        return self._with(other, lambda a, b: b - a)

    def __neg__(self):
        return self.each(np.negative)

    def __mul__(self, other):
        return self._times(other, np.multiply)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self._times(other, np.divide)

    def __matmul__(self, other):
        return self._times(other, np.matmul)

    def __rmatmul__(self, other):
        return self._times(other, lambda a, b: b @ a)

    def __getitem__(self, index):
        return self.each(lambda p: p[index])

    def sum(self, axis=None):
        return self.each(lambda p: p.sum(axis))

    def reshape(self, *shape):
        return self.each(lambda p: p.reshape(*shape))


LINEAR = (np.stack, np.concatenate, np.sum, np.cumsum, np.expand_dims, np.broadcast_to, np.dot)
LINEAR += (np.tensordot, np.swapaxes, np.moveaxis, np.reshape, np.transpose, np.column_stack)


def _at(tree: Any, i: int) -> Any:
    if isinstance(tree, Affine):
        return tree.points[i]
    if isinstance(tree, (list, tuple)):
        return type(tree)(_at(a, i) for a in tree)
    return {k: _at(a, i) for k, a in tree.items()} if isinstance(tree, dict) else tree


@dataclass(frozen=True)
class Gaussian:
    """mean (*batch, *event) and a root of the covariance: (*batch, *event) of independent entries, or
    (*batch, D, D) of a vector."""

    mean: Any
    root: np.ndarray
    joint: bool
    batch: tuple[int, ...]
    event: tuple[int, ...] = ()

    def to_event(self, dims: int = 1) -> Gaussian:
        cut = len(self.batch) - dims
        return Gaussian(
            self.mean, self.root, self.joint, self.batch[:cut], self.batch[cut:] + self.event
        )

    def expand(self, shape: Any) -> Gaussian:
        wide = np.broadcast_shapes(tuple(shape), self.batch)
        return Gaussian(self.mean, self.root, self.joint, wide, self.event)


@dataclass(frozen=True)
class Flat:
    """The improper uniform law."""

    event: tuple[int, ...]
    batch: tuple[int, ...] = ()


class Prior:
    """A law of parameters: what it says is not wanted here."""

    batch = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def expand(self, shape: Any) -> Prior:
        return self

    def to_event(self, dims: int = 1) -> Prior:
        return self


def _normal(loc: Any = 0.0, scale: Any = 1.0) -> Gaussian:
    root = np.asarray(scale, float)
    return Gaussian(loc, root, False, np.broadcast_shapes(np.shape(_known(loc)), root.shape))


def _known(value: Any) -> np.ndarray:
    return value.points[0] if isinstance(value, Affine) else np.asarray(value, float)


def _multivariate(
    loc: Any = 0.0,
    covariance_matrix: Any = None,
    precision_matrix: Any = None,
    scale_tril: Any = None,
) -> Gaussian:
    if precision_matrix is not None:
        covariance_matrix = np.linalg.inv(precision_matrix)
    root = np.asarray(
        np.linalg.cholesky(covariance_matrix) if scale_tril is None else scale_tril, float
    )
    mean = loc if np.shape(_known(loc)) else np.full(root.shape[-1], loc)
    batch = np.broadcast_shapes(np.shape(_known(mean))[:-1], root.shape[:-2])
    return Gaussian(mean, root, True, batch, root.shape[-1:])


class _Laws:
    """`dist`: Gaussians, the finite laws of `plain_numpyro`, and priors of which nothing is wanted."""

    Normal = staticmethod(_normal)
    MultivariateNormal = staticmethod(_multivariate)
    constraints = SimpleNamespace(
        positive=None, real=None, real_vector=None, positive_definite=None, unit_interval=None
    )

    @staticmethod
    def ImproperUniform(support: Any, batch: tuple[int, ...], event: tuple[int, ...]) -> Flat:
        del support
        return Flat(tuple(event), tuple(batch))

    def __getattr__(self, name: str) -> Any:
        return getattr(plain_numpyro.dist, name, Prior)


@dataclass
class Run(plain_numpyro.Run):
    """One run at given finite latents: `log_density` of these, `reals` by name, and the observations as
    (mean, covariance, value) of each cell of a batch."""

    count: int = 0
    most: int = MOST
    flats: list[int] = field(default_factory=list)
    reals: dict[str, Affine] = field(default_factory=dict)
    cells: list[tuple[Affine, np.ndarray, np.ndarray]] = field(default_factory=list)
    empty: bool = False  # a site of which nothing is seen

    def _fresh(self, shape: tuple[int, ...]) -> Affine:
        """Standard normals of their own."""
        size = int(np.prod(shape))
        if self.count + size > self.most:
            raise TooLarge(f"more than {self.most} real numbers")
        points = np.zeros((1 + self.most, size))
        points[1 + self.count + np.arange(size), np.arange(size)] = 1.0
        self.count += size
        return Affine(points.reshape(-1, *shape))

    def sample(self, name: str, fn: Any, obs: Any = None, infer: Any = None) -> Any:
        if name in self.params:
            return self.params[name]
        if isinstance(fn, Flat):
            shape = np.broadcast_shapes(self.frame(), fn.batch) + fn.event
            self.flats += range(self.count, self.count + int(np.prod(shape)))
            self.reals[name] = self._fresh(shape)
            return self.reals[name]
        if not isinstance(fn, Gaussian):
            return super().sample(name, fn, obs, infer)
        shape = np.broadcast_shapes(self.frame(), fn.batch)
        if obs is not None:
            self._observe(fn, shape, np.asarray(obs, float))
            return obs
        noise = self._fresh(shape + fn.event)
        if fn.joint:
            noise = noise.each(lambda p: (fn.root @ p[..., None])[..., 0])
        else:
            noise = fn.root * noise
        self.reals[name] = noise + fn.mean
        return self.reals[name]

    def _observe(self, fn: Gaussian, shape: tuple[int, ...], value: np.ndarray) -> None:
        whole = shape + fn.event
        mean = fn.mean if isinstance(fn.mean, Affine) else Affine([fn.mean] * (1 + self.most))
        mean = mean.each(lambda p: np.broadcast_to(p, whole))
        value = np.broadcast_to(value, whole)
        mask = np.ones((), bool)
        for own in self.masks:
            mask = mask & own
        mask = np.broadcast_to(mask, shape)
        before = len(self.cells)
        for cell in np.ndindex(shape) if fn.joint else np.ndindex(whole):
            if not mask[cell[: len(shape)]] or np.isnan(value[cell]).all():
                continue
            if fn.joint:
                root = np.broadcast_to(fn.root, shape + fn.root.shape[-2:])[cell]
                seen = ~np.isnan(value[cell])
                covariance = (root @ root.T)[np.ix_(seen, seen)]
                self.cells.append((mean[cell][seen], covariance, value[cell][seen]))
            else:
                root = np.broadcast_to(fn.root, whole)[cell].reshape(1, 1)
                own = mean.each(lambda p, cell=cell: p[cell].reshape(1))
                self.cells.append((own, root**2, value[cell].reshape(1)))
        self.empty = self.empty or len(self.cells) == before

    def names(self) -> dict[str, Any]:
        """What a program's text finds under NumPyro's names."""
        return {**super().names(), "dist": _Laws()}


@dataclass(frozen=True)
class Dense:
    """log Z, the posterior mean and covariance of all real numbers in the order of the sites, and the
    probabilities of every finite latent (*shape, values)."""

    log_z: float
    mean: np.ndarray
    covariance: np.ndarray
    finite: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


class Joint:
    """All configurations of a program's finite latents at given data."""

    def __init__(
        self, text: str, arguments: Mapping[str, Any], params: Mapping[str, Any], limit: int = 300
    ) -> None:
        self.code = compile(text, "program", "exec")
        self.arguments = dict(arguments)
        self.most = MOST
        run = self._run(params, {})
        self.most = max(run.count, 1)
        self.finite = {}
        for d in run.found:
            if d.role == "latent":
                self.finite[d.name] = (d.hidden.shape, np.array(run.values[d.name]))
        choices = [
            values for shape, values in self.finite.values() for _ in range(int(np.prod(shape)))
        ]
        count = float(np.prod([float(len(c)) for c in choices]))
        if count > limit:
            raise TooLarge(f"{count:.3g} configurations")
        self.configurations = list(itertools.product(*choices))

    def _run(self, params: Mapping[str, Any], latents: Mapping[str, Any]) -> Run:
        given = {k: np.asarray(v, float) for k, v in params.items()}
        run = Run(given, latents, most=self.most)
        names = run.names()
        exec(self.code, names)
        names["program"](**self.arguments)
        return run

    def _codes(self, row: tuple) -> dict[str, np.ndarray]:
        found, at = {}, 0
        for name, (shape, _) in self.finite.items():
            size = int(np.prod(shape))
            found[name] = np.array(row[at : at + size]).reshape(shape)
            at += size
        return found

    def has_data(self, params: Mapping[str, Any]) -> bool:
        """Whether every observed site has a cell that is neither missing nor masked."""
        run = self._run(params, {})
        return bool(run.cells) and not run.empty

    def log_z(self, params: Mapping[str, Any]) -> float:
        return self.solve(params).log_z

    def solve(self, params: Mapping[str, Any]) -> Dense:
        logs, means, covariances, codes = [], [], [], []
        for row in self.configurations:
            codes.append(self._codes(row))
            run = self._run(params, codes[-1])
            value = sum(d.array.sum() for d in run.found if d.role != "prior")
            own, mean, covariance = _solved(run, self.most)
            reals = [r.points.reshape(1 + self.most, -1) for r in run.reals.values()]
            points = np.concatenate(reals, 1) if reals else np.zeros((1 + self.most, 0))
            slope = (points[1:] - points[0]).T
            logs.append(value + own)
            means.append(points[0] + slope @ mean)
            covariances.append(slope @ covariance @ slope.T)
        log_z = logsumexp(logs)
        p = np.exp(np.array(logs) - log_z)
        means = np.array(means)
        mean = p @ means
        second = np.einsum("c,cij->ij", p, np.array(covariances))
        second += np.einsum("c,ci,cj->ij", p, means, means) - np.outer(mean, mean)
        finite = {
            name: sum(q * (c[name][..., None] == values) for q, c in zip(p, codes, strict=True))
            for name, (_, values) in self.finite.items()
        }
        shapes = {n: r.shape for n, r in run.reals.items()}
        return Dense(float(log_z), mean, second, finite, shapes)


def _solved(run: Run, size: int) -> tuple[float, np.ndarray, np.ndarray]:
    """log density of the observations, and mean and covariance of the standard normals given them."""
    flat = np.isin(np.arange(size), run.flats)
    if not run.cells:
        return 0.0, np.zeros(size), np.eye(size)
    points = np.concatenate([m.points for m, _, _ in run.cells], 1)
    slope = (points[1:] - points[0]).T
    away = np.concatenate([v for _, _, v in run.cells]) - points[0]
    noise = _diagonal([c for _, c, _ in run.cells])
    bend = np.diag(1.0 - flat) + slope.T @ np.linalg.solve(noise, slope)
    mean = np.linalg.solve(bend, slope.T @ np.linalg.solve(noise, away))
    whole = noise + slope[:, ~flat] @ slope[:, ~flat].T
    if not flat.any():
        value = multivariate_normal(cov=whole, allow_singular=False).logpdf(away)
        return float(value), mean, np.linalg.inv(bend)
    design = slope[:, flat]
    solved = np.linalg.solve(whole, design)
    inner = design.T @ solved
    left = away - design @ np.linalg.solve(inner, solved.T @ away)
    value = -0.5 * (
        left @ np.linalg.solve(whole, left)
        + np.linalg.slogdet(whole)[1]
        + np.linalg.slogdet(inner)[1]
        + (len(away) - flat.sum()) * np.log(2 * np.pi)
    )
    return float(value), mean, np.linalg.inv(bend)


def _diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    size = sum(len(b) for b in blocks)
    whole, at = np.zeros((size, size)), 0
    for block in blocks:
        whole[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return whole
