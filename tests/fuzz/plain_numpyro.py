"""The part of NumPyro's language that random programs use, in plain numpy: for brute force.

The text of a program runs once with NumPyro's names (read by pp_mlem) and once with those of this
module, at one given value of every parameter and latent. Densities are written out here from
their formulas; nothing of pp_mlem, NumPyro or JAX is used. NaN in an observation counts nothing,
a mask removes what it hides; what a mask or a scale covers is noted with each site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import special


@dataclass
class Distribution:
    """log density by element of a batch; `values` of a finite support, `shape` of an event."""

    density: Callable[[np.ndarray], np.ndarray]
    batch: tuple[int, ...]
    values: tuple[int, ...] = ()
    event: int = 0

    def log_prob(self, value: Any) -> np.ndarray:
        """Missing elements count nothing; columns of `to_event` are added up."""
        value = np.asarray(value)
        missing = np.isnan(value) if value.dtype.kind == "f" else np.zeros(value.shape, bool)
        for _ in range(self.event):
            missing = missing.any(-1)
        with np.errstate(all="ignore"):
            found = self.density(value)
        found = np.where(missing, 0.0, found)
        return np.broadcast_to(found, np.broadcast_shapes(found.shape, self.batch))

    def to_event(self, dims: int = 1) -> Distribution:
        axes = tuple(range(-dims, 0))
        inner = self

        def density(value: np.ndarray) -> np.ndarray:
            return inner.log_prob(value).sum(axes)

        return Columns(density, self.batch[:-dims])

    def expand(self, shape: tuple[int, ...] | list[int]) -> Distribution:
        return Distribution(
            self.density, np.broadcast_shapes(self.batch, tuple(shape)), self.values, self.event
        )

    def mask(self, mask: Any) -> Distribution:
        inner = self

        def density(value: np.ndarray) -> np.ndarray:
            return np.where(mask, inner.log_prob(value), 0.0)

        return Columns(density, np.broadcast_shapes(self.batch, np.shape(mask)))


class Columns(Distribution):
    """Elements that are already summed: missing ones were left out within."""

    def log_prob(self, value: Any) -> np.ndarray:
        found = self.density(np.asarray(value))
        return np.broadcast_to(found, np.broadcast_shapes(found.shape, self.batch))


def _batch(*arguments: Any) -> tuple[int, ...]:
    return np.broadcast_shapes(*(np.shape(a) for a in arguments))


def _simple(formula: Callable[..., np.ndarray]) -> Callable[..., Distribution]:
    """A distribution of scalars from its log density (value, *arguments)."""

    def make(*args: Any, **kwargs: Any) -> Distribution:
        args = tuple(np.asarray(a, float) for a in args)
        kwargs = {k: np.asarray(a, float) for k, a in kwargs.items()}
        return Distribution(lambda x: formula(x, *args, **kwargs), _batch(*args, *kwargs.values()))

    return make


LOG_2_PI = np.log(2 * np.pi)
gammaln = special.gammaln


def _normal(x, loc=0.0, scale=1.0):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * LOG_2_PI


def _student_t(x, df, loc=0.0, scale=1.0):
    z = (x - loc) / scale
    return (
        gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(df * np.pi) - np.log(scale)
        - (df + 1) / 2 * np.log1p(z**2 / df)
    )  # fmt: skip


def _gamma(x, concentration, rate=1.0):
    a = concentration
    return a * np.log(rate) + (a - 1) * np.log(x) - rate * x - gammaln(a)


def _beta(x, a, b):
    return special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b)


def _poisson(x, rate):
    return special.xlogy(x, rate) - rate - gammaln(x + 1)


def _choose(n, x):
    return gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)


def _binomial(x, total_count, probs):
    n = total_count
    inside = special.xlogy(x, probs) + special.xlog1py(n - x, -probs) + _choose(n, x)
    return np.where((x >= 0) & (x <= n), inside, -np.inf)


def _geometric(x, probs):
    return x * np.log1p(-probs) + np.log(probs)


def _negative_binomial(x, mean, concentration):
    m, a = mean, concentration
    return (
        gammaln(x + a) - gammaln(a) - gammaln(x + 1)
        + a * np.log(a / (a + m)) + x * np.log(m / (a + m))
    )  # fmt: skip


def _von_mises(x, loc, concentration):
    k = concentration
    return k * (np.cos(x - loc) - 1) - LOG_2_PI - np.log(special.ive(0, k))


def _inflated_poisson(x, gate, rate):
    seen = np.log1p(-gate) + _poisson(x, rate)
    return np.where(x == 0, np.logaddexp(np.log(gate), seen), seen)


def _probability(probs: Any, logits: Any) -> np.ndarray:
    given = 1 / (1 + np.exp(-np.asarray(logits, float))) if probs is None else probs
    return np.asarray(given, float)


def _bernoulli(probs: Any = None, logits: Any = None) -> Distribution:
    p = _probability(probs, logits)
    return Distribution(
        lambda x: special.xlogy(x, p) + special.xlog1py(1 - x, -p), p.shape, values=(0, 1)
    )


def _binomials(total_count: Any = 1, probs: Any = None, logits: Any = None) -> Distribution:
    p, n = _probability(probs, logits), np.asarray(total_count)
    return Distribution(
        lambda x: _binomial(x, n, p), _batch(n, p), values=tuple(range(int(n.max()) + 1))
    )


def _categorical(probs: Any = None, logits: Any = None) -> Distribution:
    scores = np.log(np.asarray(probs, float)) if logits is None else np.asarray(logits, float)
    logs = scores - special.logsumexp(scores, axis=-1, keepdims=True)

    def density(x: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(x.shape, logs.shape[:-1])
        codes = np.broadcast_to(np.nan_to_num(x).astype(int), shape)[..., None]
        table = np.broadcast_to(logs, (*shape, logs.shape[-1]))
        return np.take_along_axis(table, codes, -1)[..., 0]

    return Distribution(density, logs.shape[:-1], values=tuple(range(logs.shape[-1])))


def _discrete_uniform(low: int, high: int) -> Distribution:
    return Distribution(
        lambda x: np.where((x >= low) & (x <= high), -np.log(high - low + 1.0), -np.inf),
        (),
        values=tuple(range(low, high + 1)),
    )


def _multivariate_normal(loc: Any, covariance_matrix: Any) -> Distribution:
    loc, covariance = np.asarray(loc, float), np.asarray(covariance_matrix, float)

    def density(x: np.ndarray) -> np.ndarray:
        away = x - loc
        solved = np.linalg.solve(
            np.broadcast_to(covariance, (*away.shape[:-1], *covariance.shape[-2:])),
            away[..., None],
        )[..., 0]
        determinant = np.linalg.slogdet(covariance)[1]
        return -0.5 * ((away * solved).sum(-1) + determinant + LOG_2_PI * loc.shape[-1])

    batch = np.broadcast_shapes(loc.shape[:-1], covariance.shape[:-2])
    return Distribution(density, batch, event=1)


def _dirichlet(concentration: Any) -> Distribution:
    a = np.asarray(concentration, float)

    def density(x: np.ndarray) -> np.ndarray:
        return (special.xlogy(a - 1, x) - gammaln(a)).sum(-1) + gammaln(a.sum(-1))

    return Distribution(density, a.shape[:-1], event=1)


dist = SimpleNamespace(
    Normal=_simple(_normal),
    LogNormal=_simple(lambda x, loc=0.0, scale=1.0: _normal(np.log(x), loc, scale) - np.log(x)),
    StudentT=_simple(_student_t),
    Laplace=_simple(lambda x, loc=0.0, scale=1.0: -np.abs(x - loc) / scale - np.log(2 * scale)),
    Exponential=_simple(lambda x, rate=1.0: np.log(rate) - rate * x),
    Gamma=_simple(_gamma),
    Beta=_simple(_beta),
    Poisson=_simple(_poisson),
    Geometric=_simple(_geometric),
    NegativeBinomial2=_simple(_negative_binomial),
    VonMises=_simple(_von_mises),
    ZeroInflatedPoisson=_simple(_inflated_poisson),
    Bernoulli=_bernoulli,
    Binomial=_binomials,
    Categorical=_categorical,
    DiscreteUniform=_discrete_uniform,
    MultivariateNormal=_multivariate_normal,
    Dirichlet=_dirichlet,
    constraints=SimpleNamespace(positive=None, real=None, unit_interval=None),
)


# --- the statements -------------------------------------------------------------------------


@dataclass
class Density:
    """log density of one site at one configuration, by element of its plates' frame."""

    name: str
    role: str  # "latent", "observed" or "prior"
    array: np.ndarray
    scale: np.ndarray | None
    hidden: np.ndarray  # where a mask removes a latent
    step: int | None
    plates: tuple[str, ...]


@dataclass
class Run:
    """One run of a program: what is given, and what was met."""

    params: Mapping[str, np.ndarray]
    latents: Mapping[str, np.ndarray]
    found: list[Density] = field(default_factory=list)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    frames: list[tuple[int, int, str]] = field(default_factory=list)  # (dim, size, name)
    masks: list[np.ndarray] = field(default_factory=list)
    scales: list[np.ndarray] = field(default_factory=list)
    step: int | None = None

    @contextmanager
    def plate(self, name: str, size: int, dim: int | None = None):
        taken = {d for d, _, _ in self.frames}
        dim = dim or next(d for d in range(-1, -9, -1) if d not in taken)
        self.frames.append((dim, size, name))
        yield np.arange(size)
        self.frames.pop()

    @contextmanager
    def mask(self, mask: Any):
        self.masks.append(np.asarray(mask))
        yield
        self.masks.pop()

    @contextmanager
    def scale(self, scale: Any):
        self.scales.append(np.asarray(scale, float))
        yield
        self.scales.pop()

    def frame(self) -> tuple[int, ...]:
        depth = max((-d for d, _, _ in self.frames), default=0)
        shape = [1] * depth
        for dim, size, _ in self.frames:
            shape[dim] = size
        return tuple(shape)

    def sample(self, name: str, fn: Distribution, obs: Any = None, infer: Any = None) -> Any:
        del infer
        shape = np.broadcast_shapes(self.frame(), fn.batch)
        role, hidden = "observed", np.zeros(shape, bool)
        mask = np.ones((), bool)
        for own in self.masks:
            mask = mask & own
        if name in self.params:
            role, value = "prior", self.params[name]
        elif obs is None:
            role, hidden = "latent", np.broadcast_to(~mask, shape)
            self.values[name] = fn.values
            value = self.latents.get(name, np.full(shape, fn.values[0]))
            if self.step is not None and name in self.latents:
                value = value[self.step]
        else:
            value = np.asarray(obs)
        array = np.broadcast_to(fn.log_prob(value), shape)
        if role == "observed":
            array = np.where(mask, array, 0.0)
        self._note(name, role, array, hidden)
        return value

    def factor(self, name: str, log_factor: Any) -> None:
        array = np.broadcast_to(log_factor, np.broadcast_shapes(self.frame(), np.shape(log_factor)))
        for own in self.masks:
            array = np.where(own, array, 0.0)
        self._note(name, "observed", array, np.zeros((), bool))

    def _note(self, name: str, role: str, array: np.ndarray, hidden: np.ndarray) -> None:
        scale = None
        for own in self.scales:
            scale = own if scale is None else scale * own
        plates = tuple(plate for _, _, plate in self.frames)
        self.found.append(Density(name, role, array, scale, hidden, self.step, plates))

    def param(self, name: str, init_value: Any, constraint: Any = None) -> Any:
        del init_value, constraint
        return self.params[name]

    def scan(self, body: Callable, init: Any, xs: Any, length: int | None = None) -> Any:
        def at(tree: Any, t: int) -> Any:
            if tree is None:
                return None
            return tuple(at(a, t) for a in tree) if isinstance(tree, tuple) else tree[t]

        carry, outputs = init, []
        first = xs[0] if isinstance(xs, tuple) else xs
        for t in range(len(first) if length is None else length):
            self.step = t
            carry, y = body(carry, at(xs, t))
            outputs.append(y)
        self.step = None
        return carry, outputs

    def names(self) -> dict[str, Any]:
        """What a program's text finds under NumPyro's names."""
        return {
            "numpyro": SimpleNamespace(
                sample=self.sample,
                plate=self.plate,
                factor=self.factor,
                param=self.param,
                deterministic=lambda name, value: value,
            ),
            "handlers": SimpleNamespace(mask=self.mask, scale=self.scale),
            "scan": self.scan,
            "dist": dist,
            "jnp": np,
            "np": np,
        }
