"""Chains against brute-force enumeration of all paths by NumPyro's own densities."""

import itertools

import chain_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

from pp_mlem import Model


def enumerate_paths(model: Model, params: dict) -> tuple[float, dict, dict]:
    """log Z, posterior marginals and the best path of a program, by NumPyro's density of every
    joint value of its latents."""
    program, arguments = model.program, model.arguments
    params = {k: jnp.asarray(v) for k, v in params.items()}
    args, kwargs = jax.tree.unflatten(arguments.treedef, _leaves(arguments))
    trace = handlers.trace(handlers.seed(handlers.substitute(program, params), 0)).get_trace(
        *args, **kwargs
    )
    shapes = {n: np.shape(trace[n]["value"]) for n in model.latent_names}
    sizes = {n: model.reading.sites[n].size for n in shapes}
    spaces = [range(sizes[n]) for n in shapes for _ in range(int(np.prod(shapes[n])))]

    def unpack(flat):
        found, at = {}, 0
        for n, shape in shapes.items():
            count = int(np.prod(shape))
            found[n] = flat[at : at + count].reshape(shape)
            at += count
        return found

    def density(flat):
        return log_density(program, args, kwargs, {**params, **unpack(flat)})[0]

    every = np.array(list(itertools.product(*spaces)), int).reshape(
        -1 if spaces else 1, len(spaces)
    )
    prior = model.log_prior(params)
    logs = np.asarray(jax.jit(jax.vmap(density))(jnp.asarray(every))) - prior
    total = np.logaddexp.reduce(logs)
    weights = np.exp(logs - total)
    marginals = {}
    for n in shapes:
        values = np.stack([np.asarray(unpack(row)[n]) for row in every])
        marginals[n] = np.stack([(weights[:, None] * (values.reshape(len(values), -1) == k)).sum(0)
                                 for k in range(sizes[n])], -1).reshape(*shapes[n], sizes[n])  # fmt: skip
    return total, marginals, unpack(every[logs.argmax()])


def _leaves(arguments):
    arrays, statics = iter(arguments.dynamic), iter(arguments.static)
    return [next(arrays) if flag else next(statics) for flag in arguments.is_dynamic]


def draw(model: Model, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        return {
            k: np.asarray(v)
            for k, v in model.space.constrain(
                jnp.asarray(rng.uniform(-1, 1, model.space.size))
            ).items()
        }


@pytest.mark.parametrize("program", programs.SINGLE + programs.SEVERAL, ids=lambda f: f.__name__)
def test_equals_enumeration_of_all_paths(program):
    data = programs.COUNTS if program in programs.SEVERAL else programs.X
    if program in (programs.classes, programs.sequences):
        data = data[:, :2]
    model = Model(program, data)
    params = draw(model, 3)
    with jax.enable_x64(True):
        total, marginals, best = enumerate_paths(model, params)
    assert model.log_likelihood(params) == pytest.approx(total, rel=1e-10)
    assert model.pointwise_log_likelihood(params).sum() == pytest.approx(total, rel=1e-10)
    posterior = model.posterior(params)
    for name, expected in marginals.items():  # NumPyro replays a reversed scan in its own order
        expected = expected[::-1] if program is programs.backwards else expected
        np.testing.assert_allclose(posterior[name], expected, atol=1e-9)
    decoded = model.decode(params)
    for name, expected in best.items():
        expected = expected[::-1] if program is programs.backwards else expected
        np.testing.assert_array_equal(decoded[name], expected)
