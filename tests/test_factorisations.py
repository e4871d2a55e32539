"""Batched factorisations wait for no thread that waits for them."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import solve_triangular

from pp_mlem.base.compiling import Effort, jit
from pp_mlem.base.factorisations import _count, one_at_a_time

MANY = """
import jax, numpy as np, jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from pp_mlem.base.compiling import Effort, jit

jax.config.update("jax_enable_x64", True)

def several(a, b, x):
    y, z = jnp.exp(jnp.sin(x)), jnp.cos(x)
    return solve_triangular(a, y, lower=True).sum() + solve_triangular(b, z, lower=True).sum()

rng = np.random.default_rng(0)
a = np.tril(rng.normal(size=(8, 8, 8))) + 8 * np.eye(8)
x = rng.normal(size=(8, 8, 4000))
for effort in Effort:
    run = jit(several, effort)
    for _ in range(200):
        run(a, 1.1 * a, x).block_until_ready()
"""


def test_batches_that_are_independent_do_not_lock_up():
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=300)


A = np.tril(np.random.default_rng(0).normal(size=(3, 4, 4))) + 4 * np.eye(4)
X = np.random.default_rng(1).normal(size=(3, 4, 2))


def solved(a, x):
    return solve_triangular(a, x, lower=True)


def in_a_scan(a, x):
    def step(carry, i):
        both = solved(a + i, carry), solved(2 * a + i, carry)
        return both[0] + both[1], both[1].sum()

    return jax.lax.scan(step, x, jnp.arange(4.0))


def in_a_loop(a, x):
    def body(state):
        i, y = state
        return i + 1, solved(a, y) + solved(2 * a, y)

    return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x))


def in_branches(a, x):
    def one(y):
        return solved(a, y) + solved(2 * a, y)

    return jax.lax.cond(x.sum() > 0, one, lambda y: y, x), jax.lax.cond(
        x.sum() < 0, one, jnp.sin, x
    )


def in_a_derivative(a, x):
    def value(a, x):
        root = jnp.linalg.cholesky(a @ jnp.swapaxes(a, -1, -2))
        return jnp.sum(solved(root, x) ** 2) + jnp.linalg.slogdet(root)[1].sum()

    return jax.value_and_grad(value, (0, 1))(a, x)


@pytest.mark.parametrize("function", [in_a_scan, in_a_loop, in_branches, in_a_derivative])
@pytest.mark.parametrize("on_threads", [False, True])
def test_values_are_the_same(function, on_threads):
    with jax.enable_x64(True):
        found = jit(function, Effort.QUICK, on_threads)(A, X)
        expected = jax.jit(function)(A, X)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert own.dtype == other.dtype
            np.testing.assert_allclose(own, other, rtol=1e-12)


@pytest.mark.parametrize("function", [in_a_scan, in_a_loop, in_branches, in_a_derivative])
def test_what_runs_on_threads_has_no_batches(function):
    program = jax.make_jaxpr(one_at_a_time(function, apart=True))(A, X)
    assert _count(jax.make_jaxpr(function)(A, X)) > 0
    assert _count(program) == 0


def test_each_batch_depends_on_the_one_before_it():
    def several(a, b, x):
        return solved(a, x), solved(b, x)

    program = jax.make_jaxpr(one_at_a_time(several))(A, A, X).jaxpr
    depends: dict = {}
    solves = []
    for equation in program.eqns:
        behind = set().union(
            *(depends.get(v, set()) for v in equation.invars if not hasattr(v, "val"))
        )
        if equation.primitive.name == "triangular_solve":
            solves.append(set(behind))
            behind = behind | {len(solves)}
        depends.update({v: behind for v in equation.outvars})
    assert solves == [set(), {1}]
