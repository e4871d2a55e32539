"""Programs with real states in a scan, and log Z by NumPyro's own joint density, whose second derivatives
with respect to all states are those of one dense Gaussian."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

T = 12


@dataclass(frozen=True)
class StateSpace:
    """A program, its data and parameters, the shapes of its real latents, and the roles to name."""

    program: Any
    data: tuple
    params: dict[str, Any]
    latents: dict[str, tuple[int, ...]]
    named: frozenset[str] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)


def dense(case: StateSpace, data: tuple | None = None) -> tuple[float, np.ndarray, np.ndarray]:
    """log Z, and mean and covariance of all latents one after the other: NumPyro's joint log density is a
    quadratic of them."""
    data = case.data if data is None else data
    shapes = case.latents
    sizes = [int(np.prod(s)) for s in shapes.values()]
    ends = np.cumsum(sizes)

    def joint(vector: jax.Array) -> jax.Array:
        parts = jnp.split(vector, ends[:-1])
        values = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        at = {**case.params, **values}
        value, trace = log_density(case.program, data, {}, at)
        return value - sum(trace[n]["fn"].log_prob(at[n]).sum() for n in case.params)

    with jax.enable_x64(True):
        zero = jnp.zeros(int(ends[-1]))
        value, slope = jax.value_and_grad(joint)(zero)
        precision = -np.asarray(jax.hessian(joint)(zero))
        covariance = np.linalg.inv(precision)
        mean = covariance @ np.asarray(slope)
        volume = -np.linalg.slogdet(precision)[1] / 2 + len(mean) / 2 * np.log(2 * np.pi)
        return float(value) + mean @ np.asarray(slope) / 2 + volume, mean, covariance


def local_level(y):
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, sd))
        numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, None

    scan(step, 0.5, y)


def not_centred(y):
    """The level as a sum of standard normal shocks."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(level, y_t):
        level = level + sd * numpyro.sample("shock", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, None

    scan(step, 0.5, y)


def trend(y):
    """A local linear trend whose first values are latents outside of the scan."""
    sd = numpyro.sample("sd", dist.HalfNormal(5).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(5))
    first = numpyro.sample("first", dist.Normal(0, 10).expand([2]).to_event(1))

    def step(carry, y_t):
        level, slope = carry
        slope = numpyro.sample("slope", dist.Normal(slope, sd[1]))
        level = numpyro.sample("level", dist.Normal(level + slope, sd[0]))
        numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return (level, slope), None

    scan(step, (first[0], first[1]), y)


def seasonal(y):
    """A quarterly pattern, its last three values carried as a tuple, beside a level."""
    sd = numpyro.sample("sd", dist.HalfNormal(5).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(carry, y_t):
        level, (a, b, c) = carry
        level = numpyro.sample("level", dist.Normal(level, sd[0]))
        season = numpyro.sample("season", dist.Normal(-a - b - c, sd[1]))
        numpyro.sample("y", dist.Normal(level + season, noise), obs=y_t)
        return (level, (season, a, b)), None

    scan(step, (0.0, (1.0, -1.0, 0.5)), y)


def autoregression(y, x):
    """AR(2) with a regression, and a random coefficient that acts on every step."""
    phi = numpyro.sample("phi", dist.Normal(0, 1).expand([2]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(5))
    gamma = numpyro.sample("gamma", dist.Normal(0, 2))

    def step(carry, data):
        y_t, x_t = data
        one, two = carry
        z = numpyro.sample("z", dist.Normal(phi[0] * one + phi[1] * two + gamma * x_t, 0.7))
        numpyro.sample("y", dist.Normal(z + beta * x_t, noise), obs=y_t)
        return (z, one), None

    scan(step, (0.0, 0.0), (y, x))


def dynamic_factors(y):
    """Two factors that move as a vector, read by three columns in a plate."""
    load = numpyro.sample("load", dist.Normal(0, 1).expand([3, 2]).to_event(2))
    rotate = numpyro.sample("rotate", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    noise = numpyro.sample("noise", dist.HalfNormal(5).expand([3]).to_event(1))
    root = jnp.array([[1.0, 0.0], [0.4, 0.8]])

    def step(f, y_t):
        f = numpyro.sample("f", dist.MultivariateNormal(rotate @ f, scale_tril=root))
        with numpyro.plate("columns", 3):
            numpyro.sample("y", dist.Normal(load @ f, noise), obs=y_t)
        return f, None

    scan(step, jnp.zeros(2), y)


def varying(y, weight):
    """Known matrices of every step its own, in the transition and in the observation."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(x, data):
        y_t, w_t = data
        mean = jnp.stack([w_t * x[0] + x[1], 0.3 * x[1]])
        x = numpyro.sample(
            "x", dist.Normal(mean, sd * jnp.array([1.0, 0.5]) * (1 + w_t**2)).to_event(1)
        )
        numpyro.sample("y", dist.Normal(x[0] + w_t * x[1], noise), obs=y_t)
        return x, None

    scan(step, jnp.array([1.0, -1.0]), (y, weight))


def many_series(y):
    """Series side by side, each with its own speed and first value."""
    n = y.shape[1]
    with numpyro.plate("own", n):
        sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))
    with numpyro.plate("series", n):
        first = numpyro.sample("first", dist.Normal(0, 3))

    def step(level, y_t):
        with numpyro.plate("series", n):
            level = numpyro.sample("level", dist.Normal(level, sd))
            numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, None

    scan(step, first, y)


def two_sites(y, w):
    """Two observed sites, one of which reads the state of the step before."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5).expand([2]).to_event(1))

    def step(carry, data):
        y_t, w_t = data
        level = numpyro.sample("level", dist.Normal(0.9 * carry, sd))
        numpyro.sample("y", dist.Normal(level, noise[0]), obs=y_t)
        numpyro.sample("w", dist.Normal(level - carry, noise[1]), obs=w_t)
        return level, None

    scan(step, 0.0, (y, w))


def backwards(y):
    """The level runs against the order of the data."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    noise = numpyro.sample("noise", dist.HalfNormal(5))

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, sd))
        numpyro.sample("y", dist.Normal(level, noise), obs=y_t)
        return level, None

    scan(step, 0.5, y, reverse=True)


def shocks(y):
    """A level, and a shock of each step that is not carried on, read by two columns."""
    sd = numpyro.sample("sd", dist.HalfNormal(5).expand([2]).to_event(1))

    def step(level, y_t):
        level = numpyro.sample("level", dist.Normal(level, sd[0]))
        shock = numpyro.sample("shock", dist.Normal(0.0 * sd[1], sd[1]))
        with numpyro.plate("columns", 2):
            numpyro.sample("y", dist.Normal(level + jnp.array([1.0, -2.0]) * shock, 0.5), obs=y_t)
        return level, None

    scan(step, 0.0, y)


def undeclared(y):
    """A vector state without to_event; the data come through a handler."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    turn = jnp.array([[0.9, 0.2], [-0.1, 0.8]])

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(turn @ x, sd))
        numpyro.sample("y", dist.Normal(x[0] + x[1], 0.5))
        return x, None

    with numpyro.handlers.condition(data={"y": y}):
        scan(step, jnp.zeros(2), None, length=T)


def stationary(y):
    """An AR(1) that begins in its stationary law and is seen before it moves."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    first = numpyro.sample("first", dist.Normal(0, sd / jnp.sqrt(1 - phi**2)))

    def step(x, y_t):
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        x = numpyro.sample("x", dist.Normal(phi * x, sd))
        return x, None

    scan(step, first, y)


def counted(y):
    """The first step has a law of its own, by the number of the step."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(carry, y_t):
        x, t = carry
        first = t == 0
        x = numpyro.sample("x", dist.Normal(jnp.where(first, 0.0, x), jnp.where(first, 10.0, sd)))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return (x, t + 1), None

    scan(step, (0.0, 0), y)


def arma(y):
    """ARMA(1, 1) in companion form: the shock is the latent, and parameters carry it on."""
    phi = numpyro.sample("phi", dist.Normal(0, 0.5))
    theta = numpyro.sample("theta", dist.Normal(0, 0.5))
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(a, y_t):
        shock = numpyro.sample("shock", dist.Normal(0, sd))
        a = jnp.stack([phi * a[0] + a[1] + shock, theta * shock])
        numpyro.sample("y", dist.Normal(a[0], 0.1), obs=y_t)
        return a, None

    scan(step, jnp.zeros(2), y)


def lengths(y, mask):
    """Series of several lengths."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(x, data):
        y_t, seen = data
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(x, sd))
            with numpyro.handlers.mask(mask=seen):
                numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return x, None

    scan(step, jnp.zeros(3), (y, mask))


def clustered(y):
    """Series of two kinds, by how fast they move."""
    sd = numpyro.sample("sd", dist.HalfNormal(5).expand([2]).to_event(1))
    weight = numpyro.sample("weight", dist.Dirichlet(jnp.ones(2)))
    n = y.shape[1]
    with numpyro.plate("series", n):
        z = numpyro.sample("z", dist.Categorical(weight))

    def step(x, y_t):
        with numpyro.plate("series", n):
            x = numpyro.sample("x", dist.Normal(x, sd[z]))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return x, None

    scan(step, jnp.zeros(n), y)


def beside(y, counts):
    """A finite chain and a real state in one scan that do not meet."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))
    rate = numpyro.sample("rate", dist.HalfNormal(5).expand([2]).to_event(1))
    moves = jnp.array([[0.9, 0.1], [0.2, 0.8]])

    def step(carry, data):
        z, x = carry
        y_t, k_t = data
        z = numpyro.sample("z", dist.Categorical(moves[z]))
        x = numpyro.sample("x", dist.Normal(x, sd))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        numpyro.sample("k", dist.Poisson(rate[z]), obs=k_t)
        return (z, x), None

    scan(step, (0, 0.0), (y, counts))


def switching(y):
    """A state that chooses how fast another moves: no structure sums it."""
    sd = numpyro.sample("sd", dist.HalfNormal(5).expand([2]).to_event(1))
    moves = jnp.array([[0.9, 0.1], [0.2, 0.8]])

    def step(carry, y_t):
        z, x = carry
        z = numpyro.sample("z", dist.Categorical(moves[z]))
        x = numpyro.sample("x", dist.Normal(x, sd[z]))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return (z, x), None

    scan(step, (0, 0.0), y)


def outside(y):
    """The observations stand outside of the scan."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, sd))
        return x, x

    _, states = scan(step, 0.0, None, length=T)
    numpyro.sample("y", dist.Normal(states, 0.5), obs=y)


def bent(y):
    """The state moves by a curve."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(jnp.sin(x), sd))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y_t)
        return x, None

    scan(step, 0.0, y)


def of_counts(y):
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(x, sd))
        numpyro.sample("y", dist.Poisson(jnp.exp(x)), obs=y_t)
        return x, None

    scan(step, 0.0, y)


def coupled(y):
    """A common level, and one of each series."""
    sd = numpyro.sample("sd", dist.HalfNormal(5))

    def step(carry, y_t):
        common, own = carry
        common = numpyro.sample("common", dist.Normal(common, sd))
        with numpyro.plate("series", y.shape[1]):
            own = numpyro.sample("own", dist.Normal(own, sd))
            numpyro.sample("y", dist.Normal(common + own, 0.5), obs=y_t)
        return (common, own), None

    scan(step, (0.0, jnp.zeros(y.shape[1])), y)


def cases() -> dict[str, StateSpace]:
    rng = np.random.default_rng(3)
    y, x = rng.normal(size=T).cumsum(), rng.normal(size=T)
    own = {"sd": np.float64(0.6), "noise": np.float64(0.9)}
    two = {"sd": np.array([0.6, 0.3]), "noise": np.float64(0.9)}
    return {
        "local level": StateSpace(local_level, (y,), own, {"level": (T,)}),
        "not centred": StateSpace(not_centred, (y,), own, {"shock": (T,)}),
        "trend": StateSpace(
            trend, (y,), two, {"first": (2,), "level": (T,), "slope": (T,)}, frozenset({"first"})
        ),
        "seasonal": StateSpace(seasonal, (y,), two, {"level": (T,), "season": (T,)}),
        "autoregression": StateSpace(
            autoregression, (y, x),
            {"phi": np.array([0.5, -0.3]), "beta": np.float64(0.4), "noise": np.float64(0.9)},
            {"gamma": (), "z": (T,)}, frozenset({"gamma"}),
        ),
        "dynamic factors": StateSpace(
            dynamic_factors, (rng.normal(size=(T, 3)),),
            {"load": rng.normal(size=(3, 2)), "rotate": np.array([[0.6, 0.2], [-0.3, 0.5]]), "noise": np.array([0.5, 0.8, 1.1])},
            {"f": (T, 2)},
        ),
        "varying": StateSpace(varying, (y, x), own, {"x": (T, 2)}),
        "many series": StateSpace(
            many_series, (rng.normal(size=(T, 3)).cumsum(0),),
            {"sd": np.array([0.4, 0.7, 1.2]), "noise": np.float64(0.8)},
            {"first": (3,), "level": (T, 3)}, frozenset({"first"}),
        ),
        "two sites": StateSpace(
            two_sites, (y, x), {"sd": np.float64(0.6), "noise": np.array([0.5, 0.8])}, {"level": (T,)}
        ),
        "backwards": StateSpace(backwards, (y,), own, {"level": (T,)}),
        "undeclared": StateSpace(undeclared, (jnp.asarray(y),), {"sd": np.float64(0.6)}, {"x": (T, 2)}),
        "stationary": StateSpace(
            stationary, (y,), {"phi": np.float64(0.7), "sd": np.float64(0.6)},
            {"first": (), "x": (T,)},
        ),
        "counted": StateSpace(counted, (y,), {"sd": np.float64(0.6)}, {"x": (T,)}),
        "arma": StateSpace(
            arma, (y,), {"phi": np.float64(0.5), "theta": np.float64(0.3), "sd": np.float64(0.8)},
            {"shock": (T,)},
        ),
        "lengths": StateSpace(
            lengths, (rng.normal(size=(T, 3)).cumsum(0), np.arange(T)[:, None] < [12, 7, 9]),
            {"sd": np.float64(0.6)}, {"x": (T, 3)},
        ),
        "shocks": StateSpace(
            shocks, (rng.normal(size=(T, 2)),), {"sd": np.array([0.6, 0.3])},
            {"level": (T,), "shock": (T,)},
        ),
    }  # fmt: skip
