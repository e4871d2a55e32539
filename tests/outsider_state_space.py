"""State space programs as users write them, by hands that had not seen the package, and their joint Gaussian
written out: NumPyro's joint log density is a quadratic of all latents and observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density

T = 8


@dataclass(frozen=True)
class Case:
    """A program, its data, the numbers of those that are observed, parameters, and shapes of the latents."""

    program: Any
    data: tuple
    params: dict[str, Any]
    latents: dict[str, tuple[int, ...]]
    named: frozenset[str] = frozenset()
    observed: tuple[int, ...] = (0,)
    reverse: bool = False
    flat: int = 0  # numbers of flat latents


class Joint:
    """The joint Gaussian of the latents and of all cells of the data."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.y = np.concatenate([np.ravel(case.data[i]) for i in case.observed])
        self.size = sum(int(np.prod(s)) for s in case.latents.values())
        slope = jax.value_and_grad(self._density)
        self.slopes = jax.jit(jax.vmap(slope, (0, None)))

    def _density(self, vector: jax.Array, params: dict[str, Any]) -> jax.Array:
        data, values, begin = list(self.case.data), {}, 0
        for name, shape in self.case.latents.items():
            end = begin + int(np.prod(shape))
            values[name], begin = vector[begin:end].reshape(shape), end
        for i in self.case.observed:
            end = begin + np.size(data[i])
            data[i], begin = vector[begin:end].reshape(np.shape(data[i])), end
        at = {**params, **values}
        value, trace = log_density(self.case.program, tuple(data), {}, at)
        return value - sum(
            trace[n]["fn"].log_prob(at[n]).sum() for n in params if trace[n]["type"] == "sample"
        )

    def quadratic(self, params: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray]:
        """Value and slope at zero, and the precision."""
        whole = self.size + len(self.y)
        points = np.concatenate([np.zeros((1, whole)), np.eye(whole)])
        with jax.enable_x64(True):
            params = {n: jnp.asarray(v, float) for n, v in params.items()}
            values, slopes = (np.asarray(a) for a in self.slopes(points, params))
        value, slope = values[0], slopes[0]
        precision = slope - slopes[1:]
        return float(value), slope, (precision + precision.T) / 2

    def given(
        self, quadratic: tuple[float, np.ndarray, np.ndarray], y: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """log p of the cells that are not NaN, and mean and covariance of the latents and cells."""
        value, slope, precision = quadratic
        seen = np.concatenate([np.zeros(self.size, bool), np.isfinite(y)])
        at = np.concatenate([np.zeros(self.size), np.nan_to_num(y)])
        free = np.flatnonzero(~seen)
        pull, own = (slope - precision @ at)[free], precision[np.ix_(free, free)]
        covariance = np.zeros_like(precision)
        covariance[np.ix_(free, free)] = np.linalg.inv(own)
        at_mean = at.copy()
        at_mean[free] = covariance[np.ix_(free, free)] @ pull
        total = value + slope @ at - at @ precision @ at / 2 + pull @ at_mean[free] / 2
        volume = len(free) / 2 * np.log(2 * np.pi) - np.linalg.slogdet(own)[1] / 2
        return total + volume, at_mean, covariance

    def log_z(self, params: dict[str, Any]) -> float:
        return self.given(self.quadratic(params), self.y)[0]

    def steps(self) -> np.ndarray:
        """The step of each cell, in the order in which the scan sees them."""
        parts = []
        for i in self.case.observed:
            shape = np.shape(self.case.data[i])
            own = np.arange(shape[0])[:: -1 if self.case.reverse else 1]
            parts.append(np.broadcast_to(own.reshape(-1, *(1,) * (len(shape) - 1)), shape).ravel())
        return np.concatenate(parts)


def half(name, scale=1.0):
    return numpyro.sample(name, dist.HalfNormal(scale))


def harmonics(y):
    """Trigonometric season, its harmonics in a plate that the observation sums over."""
    angle = 2 * jnp.pi * jnp.arange(1, 3) / 6
    s, r = half("s"), half("r")
    with numpyro.plate("harmonics", 2):
        c0 = numpyro.sample("c0", dist.Normal(0, 2))
        d0 = numpyro.sample("d0", dist.Normal(0, 2))

    def step(carry, y_t):
        c, d = carry
        with numpyro.plate("harmonics", 2):
            moved = jnp.cos(angle) * c + jnp.sin(angle) * d, jnp.cos(angle) * d - jnp.sin(angle) * c
            c, d = (numpyro.sample(n, dist.Normal(m, s)) for n, m in zip("cd", moved, strict=True))
        numpyro.sample("y", dist.Normal(c.sum(), r), obs=y_t)
        return (c, d), None

    scan(step, (c0, d0), y)


def common_and_own(y):
    """One cycle for all series, a level and an effect of each."""
    s, r = half("s"), half("r")
    with numpyro.plate("series", y.shape[1]):
        loading = numpyro.sample("loading", dist.Normal(0, 1))
        effect = numpyro.sample("effect", dist.Normal(0, s))
        first = numpyro.sample("first", dist.Normal(0.0, 1.0))

    def step(carry, y_t):
        g, x = carry
        g = numpyro.sample("g", dist.Normal(0.8 * g, 1.0))
        with numpyro.plate("series", y.shape[1]):
            x = numpyro.sample("x", dist.Normal(0.5 * x, s))
            numpyro.sample("y", dist.Normal(loading * g + x + effect, r), obs=y_t)
        return (g, x), None

    scan(step, (0.0, first), y)


def smooth_trend(y):
    """A slope that moves, a level that follows it without noise, both flat before the first step."""
    q = numpyro.param("q", 0.5, constraint=dist.constraints.positive)
    r = numpyro.param("r", 0.5, constraint=dist.constraints.positive)
    flat = dist.ImproperUniform(dist.constraints.real, (), ())
    first = {n: numpyro.sample(f"{n}0", flat) for n in ("level", "slope")}

    def step(carry, y_t):
        level = carry["level"] + carry["slope"]
        slope = numpyro.sample("slope", dist.Normal(carry["slope"], jnp.sqrt(q)))
        numpyro.sample("y", dist.Normal(level, jnp.sqrt(r)), obs=y_t)
        return {"level": level, "slope": slope}, None

    scan(step, first, y)


def shared_shock(y):
    """Exponential smoothing: one shock moves the level and the observation."""
    alpha = numpyro.sample("alpha", dist.Beta(2, 2))
    s, r = half("s"), half("r", 0.3)

    def step(level, y_t):
        e = numpyro.sample("e", dist.Normal(0, s))
        numpyro.sample("y", dist.Normal(level + e, r), obs=y_t)
        return level + alpha * e, None

    scan(step, 0.0, y)


def mixed_frequency(monthly, quarterly):
    """A month is seen every month, a quarter every third as the sum of its months."""
    s, r = half("s"), half("r")

    def step(carry, data):
        one, two = carry
        x = numpyro.sample("x", dist.Normal(0.9 * one, s))
        numpyro.sample("m", dist.Normal(x, r), obs=data[0])
        numpyro.sample("q", dist.Normal(x + one + two, 0.3), obs=data[1])
        return (x, one), None

    scan(step, (0.0, 0.0), (monthly, quarterly))


def idiosyncratic(y):
    """A dynamic factor of two lags, errors of each series that are autoregressive."""
    phi = numpyro.sample("phi", dist.Normal(0, 0.5).expand([2]).to_event(1))
    rho = numpyro.sample("rho", dist.Uniform(-1, 1).expand([2]).to_event(1))
    loading = numpyro.sample("loading", dist.Normal(0, 1).expand([2]).to_event(1))

    def step(carry, y_t):
        f, before, u = carry
        new = numpyro.sample("f", dist.Normal(phi[0] * f + phi[1] * before, 1.0))
        u = numpyro.sample("u", dist.Normal(rho * u, 0.5).to_event(1))
        numpyro.sample("y", dist.Normal(loading * new + u, 0.1).to_event(1), obs=y_t)
        return (new, f, u), None

    scan(step, (0.0, 0.0, jnp.zeros(2)), y)


def places(a, b, c):
    """Three sites: before the state moves, after it, and on how it moved."""
    s = half("s")
    r = numpyro.sample("r", dist.HalfNormal(1).expand([3]).to_event(1))

    def step(x, data):
        numpyro.sample("a", dist.Normal(x, r[0]), obs=data[0])
        new = numpyro.sample("x", dist.Normal(0.8 * x + 0.2, s))
        numpyro.sample("b", dist.Normal(new, r[1]), obs=data[1])
        numpyro.sample("c", dist.Normal(2 * new - x + 1, r[2]), obs=data[2])
        return new, None

    scan(step, numpyro.sample("x0", dist.Normal(0.0, 1.0)), (a, b, c))


def lagged(y):
    """Two measurements, the second of states before."""
    s, r = half("s"), half("r")
    k = numpyro.sample("k", dist.Normal(0, 1).expand([2]).to_event(1))

    def step(carry, y_t):
        one, two = carry
        x = numpyro.sample("x", dist.Normal(1.2 * one - 0.4 * two, s))
        mean = jnp.stack([x, k[0] * one + k[1] * two])
        numpyro.sample("y", dist.Normal(mean, r).to_event(1), obs=y_t)
        return (x, one), None

    a = numpyro.sample("a", dist.Normal(0, 1.0))
    scan(step, (numpyro.sample("b", dist.Normal(0.5 * a, 1.0)), a), y)


def vector_autoregression(y):
    """Stationary, its first law from the discrete Lyapunov equation, seen before it moves."""
    A = numpyro.sample("A", dist.Normal(0, 0.3).expand([2, 2]).to_event(2))
    sd, r = numpyro.sample("sd", dist.HalfNormal(1).expand([2]).to_event(1)), half("r")
    Q = jnp.diag(sd**2)
    P = jnp.linalg.solve(jnp.eye(4) - jnp.kron(A, A), Q.reshape(-1)).reshape(2, 2)
    first = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(2), (P + P.T) / 2))

    def step(x, y_t):
        numpyro.sample("y", dist.Normal(x, r).to_event(1), obs=y_t)
        return numpyro.sample("x", dist.MultivariateNormal(A @ x, Q)), None

    scan(step, first, y)


def matrix_state(y):
    s, r = half("s"), half("r")

    def step(x, y_t):
        x = numpyro.sample("x", dist.Normal(0.9 * x, s).to_event(2))
        numpyro.sample("y", dist.Normal(x.sum(0), r).to_event(1), obs=y_t)
        return x, None

    scan(step, jnp.zeros((2, 3)), y)


def ornstein_uhlenbeck(y, dt, se):
    """Irregular steps, known standard errors."""
    q, theta = half("q"), half("theta")
    mu = numpyro.sample("mu", dist.Normal(0, 5))

    def step(x, data):
        y_t, dt_t, se_t = data
        a = jnp.exp(-theta * dt_t)
        sd = q * jnp.sqrt((1 - a**2) / (2 * theta))
        x = numpyro.sample("x", dist.Normal(mu + a * (x - mu), sd))
        numpyro.sample("y", dist.Normal(x, se_t), obs=y_t)
        return x, None

    scan(step, numpyro.sample("x0", dist.Normal(mu, q / jnp.sqrt(2 * theta))), (y, dt, se))


def reparametrised(data, against):
    """Backwards, by LocScaleReparam, with a regression."""
    s, r, b = half("s"), half("r"), numpyro.sample("b", dist.Normal(0, 1))

    def step(x, row):
        with handlers.reparam(config={"x": LocScaleReparam(0)}):
            x = numpyro.sample("x", dist.Normal(0.9 * x, s))
        numpyro.sample("y", dist.Normal(x + b * row["x"], r), obs=row["y"])
        return x, None

    scan(step, 0.0, {"y": data, "x": against}, reverse=True)


def durbin_koopman(y):
    """Z a_t is seen, then a_t moves by T a_t + R eta_t: level, slope and a season of three."""
    s = numpyro.sample("s", dist.HalfNormal(1).expand([3]).to_event(1))
    r = half("r")
    season = jnp.array([[-1.0, -1.0], [1.0, 0.0]])
    F = jax.scipy.linalg.block_diag(jnp.array([[1.0, 1.0], [0.0, 1.0]]), season)
    G, Z = jnp.eye(4)[:, :3], jnp.array([1.0, 0.0, 1.0, 0.0])
    first = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(4), 100.0 * jnp.eye(4)))

    def step(a, y_t):
        numpyro.sample("y", dist.Normal(Z @ a, r), obs=y_t)
        eta = numpyro.sample("eta", dist.Normal(0, 1).expand([3]).to_event(1))
        return F @ a + G @ (s * eta), None

    scan(step, first, y)


def random_slopes(y, x):
    """Series side by side with correlated intercepts and slopes above the scan."""
    mean = numpyro.sample("mean", dist.Normal(0, 1).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([2]).to_event(1))
    s, r = half("s"), half("r")
    corr = jnp.array([[1.0, 0.0], [0.4, 0.9]])
    with numpyro.plate("units", 3):
        b = numpyro.sample("b", dist.MultivariateNormal(mean, scale_tril=sd[:, None] * corr))

    def step(u, data):
        with numpyro.plate("units", 3):
            u = numpyro.sample("u", dist.Normal(u, s))
            numpyro.sample("y", dist.Normal(b[:, 0] + b[:, 1] * data[1] + u, r), obs=data[0])
        return u, None

    scan(step, jnp.zeros(3), (y, x))


def many_shocks(y):
    """Six shocks of a step, three observations with a full covariance of the shocks."""
    s, r = half("s"), half("r")
    mix = jnp.sin(jnp.arange(18.0)).reshape(3, 6)

    def step(x, y_t):
        e = numpyro.sample("e", dist.Normal(0, 1).expand([6]).to_event(1))
        x = 0.8 * x + s * e
        numpyro.sample("y", dist.Normal(mix @ x, r).to_event(1), obs=y_t)
        return x, None

    scan(step, jnp.zeros(6), y)


def masked_panel(y, seen):
    """Series end: state and observation under one mask."""
    phi, tau = numpyro.sample("phi", dist.Uniform(0, 1)), half("tau")
    s, r = half("s"), half("r")
    with numpyro.plate("firms", 3):
        alpha = numpyro.sample("alpha", dist.Normal(0.3, tau))

    def step(u, data):
        with numpyro.plate("firms", 3), handlers.mask(mask=data[1]):
            u = numpyro.sample("u", dist.Normal(phi * u, s))
            numpyro.sample("y", dist.Normal(alpha + u, r), obs=data[0])
        return u, None

    scan(step, jnp.zeros(3), (y, seen))


def shared_mean(y):
    """A latent mean that all series share."""
    s, r, m = half("s"), half("r"), numpyro.sample("m", dist.Normal(0, 2.0))

    def step(x, y_t):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(0.8 * x, s))
            numpyro.sample("y", dist.Normal(x + m, r), obs=y_t)
        return x, None

    scan(step, jnp.zeros(3), y)


def arma(y):
    """ARMA(1, 1), seen with hardly any noise."""
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))
    theta = numpyro.sample("theta", dist.Uniform(-1, 1))
    s, r = half("s"), half("r")

    def step(carry, y_t):
        x, e = carry
        new = numpyro.sample("e", dist.Normal(0, s))
        x = phi * x + new + theta * e
        numpyro.sample("y", dist.Normal(x, r), obs=y_t)
        return (x, new), None

    scan(step, (0.0, 0.0), y)


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(12)

    def walks(*shape):
        return 3 + rng.normal(size=shape).cumsum(0)

    holes, quarters = walks(T, 3), walks(T)
    holes[2, 1], holes[5] = np.nan, np.nan
    quarters[np.arange(T) % 3 != 2] = np.nan
    one, noise = {"s": 0.5, "r": 0.3}, np.array([0.4, 0.6, 0.8])
    return {
        "harmonics": Case(
            harmonics, (walks(T),), one, {"c0": (2,), "d0": (2,), "c": (T, 2), "d": (T, 2)}, frozenset({"c0", "d0"})
        ),
        "common and own": Case(
            common_and_own, (holes,), {**one, "loading": np.array([1.0, 0.5, -0.3])},
            {"effect": (3,), "first": (3,), "g": (T,), "x": (T, 3)}, frozenset({"first"}),
        ),
        "smooth trend": Case(
            smooth_trend, (walks(T),), {"q": 0.3, "r": 0.7}, {"level0": (), "slope0": (), "slope": (T,)},
            frozenset({"level0", "slope0"}), flat=2,
        ),
        "shared shock": Case(shared_shock, (walks(T),), {**one, "alpha": 0.4}, {"e": (T,)}),
        "mixed frequency": Case(mixed_frequency, (walks(T), quarters), one, {"x": (T,)}, observed=(0, 1)),
        "idiosyncratic": Case(
            idiosyncratic, (walks(T, 2),),
            {"phi": np.array([0.5, 0.2]), "rho": np.array([0.3, -0.2]), "loading": np.array([1.0, 0.5])},
            {"f": (T,), "u": (T, 2)},
        ),
        "places": Case(
            places, (walks(T), walks(T), quarters), {"s": 0.5, "r": noise}, {"x0": (), "x": (T,)},
            frozenset({"x0"}), observed=(0, 1, 2),
        ),
        "lagged": Case(
            lagged, (walks(T, 2),), {**one, "k": np.array([0.4, -0.3])}, {"a": (), "b": (), "x": (T,)},
            frozenset({"a", "b"}),
        ),
        "vector autoregression": Case(
            vector_autoregression, (walks(T, 2),),
            {"A": np.array([[0.5, 0.2], [-0.1, 0.4]]), "sd": np.array([0.5, 0.6]), "r": 0.3},
            {"first": (2,), "x": (T, 2)},
        ),
        "matrix state": Case(matrix_state, (walks(T, 3),), one, {"x": (T, 2, 3)}),
        "ornstein uhlenbeck": Case(
            ornstein_uhlenbeck, (walks(T), rng.exponential(size=T), rng.uniform(0.2, 1, T)),
            {"q": 0.5, "theta": 0.7, "mu": 0.3}, {"x0": (), "x": (T,)},
        ),
        "reparametrised": Case(
            reparametrised, (walks(T), rng.normal(size=T)), {**one, "b": 0.7}, {"x_decentered": (T,)}, reverse=True
        ),
        "durbin koopman": Case(
            durbin_koopman, (walks(T),), {"s": np.array([0.3, 0.2, 0.1]), "r": 0.4},
            {"first": (4,), "eta": (T, 3)}, frozenset({"first"}),
        ),
        "random slopes": Case(
            random_slopes, (walks(T, 3), rng.normal(size=T)),
            {**one, "mean": np.array([0.3, -0.2]), "sd": np.array([0.5, 0.8])}, {"b": (3, 2), "u": (T, 3)},
        ),
        "many shocks": Case(many_shocks, (walks(T, 3),), one, {"e": (T, 6)}),
    }  # fmt: skip
