"""The value that a program should have: NumPyro's own densities, summed over every latent."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from pp_mlem import Model
from pp_mlem.base.precision import working_precision


def point(model: Model, seed: int = 1) -> dict[str, np.ndarray]:
    """Parameter values somewhere inside their supports."""
    rng = np.random.default_rng(seed)
    with working_precision(model.dtype):
        vector = jnp.asarray(rng.uniform(-0.8, 0.8, model.space.size))
        return {k: np.asarray(v) for k, v in model.space.constrain(vector).items()}


def enumerated(model: Model, params: dict[str, Any], args: tuple, kwargs: dict) -> tuple:
    """(log-likelihood, log prior) by NumPyro: every configuration of the latents in turn."""

    def joint(values: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        with (
            handlers.trace() as sites,
            handlers.seed(rng_seed=0),
            handlers.substitute(data={k: jnp.asarray(v) for k, v in values.items()}),
        ):
            model.program(*args, **kwargs)
        total = {True: jnp.zeros(()), False: jnp.zeros(())}
        for name, site in sites.items():
            if site["type"] == "sample":
                density = site["fn"].log_prob(site["value"])
                scale = 1.0 if site["scale"] is None else site["scale"]
                total[name in params] += jnp.sum(scale * density)
        return total[False], total[True]

    with jax.enable_x64(True):
        supports = {s.name: model.reading.values[s.name] for s in model.reading.latents}
        plain = {s.name: model.reading.plate_shape(s.dims) for s in model.reading.latents}
        cells = [(n, support) for n, support in supports.items() for _ in range(_size(plain[n]))]
        if not cells:
            return tuple(float(v) for v in joint(params))
        grid = np.array(list(itertools.product(*[support for _, support in cells])))

        def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
            values, start = dict(params), 0
            for name, shape in plain.items():
                values[name] = row[start : start + _size(shape)].reshape(shape)
                start += _size(shape)
            return joint(values)

        likelihood, prior = jax.jit(jax.vmap(one))(jnp.asarray(grid))
        return float(jax.scipy.special.logsumexp(likelihood)), float(prior[0])


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
