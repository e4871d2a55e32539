"""What a program is worth by brute force: NumPyro's own joint density as a quadratic in all real numbers that are
unobserved, missing cells of observations too, summed over the configurations of finite latents."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger


class _Fill(Messenger):
    """Values for the missing cells of observed sites, and zero for what has no draws."""

    def __init__(self, fn, cells=None):
        super().__init__(fn)
        self.cells = cells or {}

    def process_message(self, msg):
        if msg["type"] != "sample":
            return
        if msg["name"] in self.cells:
            missing, value = self.cells[msg["name"]]
            msg["value"] = jnp.where(missing, value, msg["value"])
        inner = getattr(msg["fn"], "base_dist", msg["fn"])
        if msg["value"] is None and isinstance(inner, dist.ImproperUniform):
            free = biject_to(msg["fn"].support).inverse_shape(msg["fn"].shape())
            msg["value"] = biject_to(msg["fn"].support)(jnp.zeros(free))


class Oracle:
    """Of a program on its data: `latents` are its real ones, `observe` their known numbers; every other
    continuous site without a value is a parameter, every finite one is summed."""

    def __init__(self, program, data: tuple, latents: tuple[str, ...], observe: Mapping = {}):
        self.program, self.data = program, tuple(jnp.asarray(a) for a in data)
        with validation_enabled(False):
            sites = handlers.trace(handlers.seed(_Fill(program), 0)).get_trace(*data)
        self.supports: dict[str, Any] = {}
        self.shapes: dict[str, Any] = {}
        self.missing: dict[str, np.ndarray] = {}
        finite: dict[str, tuple] = {}
        for name, site in sites.items():
            value = np.asarray(site["value"])
            if site["type"] == "param":
                self.supports[name] = (
                    site["kwargs"]["constraint"]
                    if "constraint" in site["kwargs"]
                    else dist.constraints.real,
                    value.shape,
                )
            elif site["type"] != "sample":
                continue
            elif site["is_observed"]:
                if value.dtype.kind == "f" and np.isnan(value).any():
                    self.missing[name] = np.isnan(value)
            elif site["fn"].support.is_discrete:
                finite[name] = value.shape, len(site["fn"].enumerate_support(expand=False))
            elif name in latents:
                self.shapes[name] = value.shape
            else:
                self.supports[name] = site["fn"].support, value.shape
        self.finite = {n: shape for n, (shape, _) in finite.items()}
        spaces = [range(k) for shape, k in finite.values() for _ in range(int(np.prod(shape)))]
        self.codes = np.array(list(itertools.product(*spaces)))
        sizes = [*(int(np.prod(s)) for s in self.shapes.values())]
        sizes += [int(m.sum()) for m in self.missing.values()]
        self.names = (*self.shapes, *self.missing)
        self.ends = np.cumsum(sizes)
        known = np.full(self.ends[-1], np.nan)
        for name, value in observe.items():
            known[self.place(name)] = np.broadcast_to(value, self.shapes[name]).ravel()
        self.free, self.known = np.flatnonzero(np.isnan(known)), np.nan_to_num(known)
        self.run = jax.jit(self._run)

    def place(self, name: str) -> slice:
        i = self.names.index(name)
        return slice(0 if i == 0 else self.ends[i - 1], self.ends[i])

    def params(self, seed: int) -> dict[str, np.ndarray]:
        """Random parameters inside of their supports."""
        rng, found = np.random.default_rng(seed), {}
        for name, (support, shape) in self.supports.items():
            free = biject_to(support).inverse_shape(shape)
            found[name] = np.asarray(biject_to(support)(jnp.asarray(0.5 * rng.normal(size=free))))
        return found

    def _joint(self, vector, codes, params):
        given, cells, begin = dict(params), {}, 0
        for name, shape in self.shapes.items():
            given[name] = vector[self.place(name)].reshape(shape)
        for name, missing in self.missing.items():
            where = np.nonzero(missing)
            cells[name] = missing, jnp.zeros(missing.shape).at[where].set(vector[self.place(name)])
        for name, shape in self.finite.items():
            size = int(np.prod(shape))
            given[name] = codes[begin : begin + size].reshape(shape).astype(int)
            begin += size
        program = handlers.substitute(_Fill(self.program, cells), given)
        sites = handlers.trace(handlers.seed(program, 0)).get_trace(*self.data)
        total = 0.0
        for name, site in sites.items():
            if site["type"] == "sample" and name not in params:
                scale = 1.0 if site["scale"] is None else site["scale"]
                total = total + jnp.sum(scale * site["fn"].log_prob(site["value"]))
        return total

    def _run(self, params):
        def at(codes):
            def joint(free):
                return self._joint(jnp.asarray(self.known).at[self.free].set(free), codes, params)

            zero = jnp.zeros(len(self.free))
            value, slope, bend = joint(zero), jax.grad(joint)(zero), -jax.hessian(joint)(zero)
            mean = jnp.linalg.solve(bend, slope)
            value = value + slope @ mean / 2 - jnp.linalg.slogdet(bend)[1] / 2
            return value + len(self.free) / 2 * jnp.log(2 * jnp.pi), mean, jnp.linalg.inv(bend)

        values, means, covariances = jax.lax.map(at, jnp.asarray(self.codes))
        log_z = jax.scipy.special.logsumexp(values)
        share = jnp.exp(values - log_z)
        mean = share @ means
        second = covariances + means[:, :, None] * means[:, None]
        return log_z, mean, jnp.einsum("c,cij->ij", share, second) - jnp.outer(mean, mean)

    def moments(self, params) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """log Z, and of every latent and of a site's missing cells the means and standard deviations."""
        log_z, own, covariance = self.run(params)
        mean, sd = self.known.copy(), np.zeros(len(self.known))
        mean[self.free], sd[self.free] = own, np.sqrt(np.diagonal(covariance))
        places = {n: self.place(n) for n in self.names}
        return (
            float(log_z),
            {n: mean[p] for n, p in places.items()},
            {n: sd[p] for n, p in places.items()},
        )
