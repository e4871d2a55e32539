"""Recursions along a chain: forward-backward, Viterbi, filtering and sampling.

All take `initial` (states, lanes), `transition` (steps - 1 or 1, states, states, lanes or 1) and
`emission` (steps, states, lanes), logs that need not be normalised, and `running` (steps - 1,
lanes or 1), or None: false where a sequence has ended, so that its state and its likelihood stay
as they are. Lanes are independent chains (sequences, starts, values of a latent above the chain);
they come last, so that one instruction works on several.

The sum over paths is scaled in linear space at every step (Rabiner 1989, doi:10.1109/5.18626),
so it neither drifts nor takes a logarithm of a sum per step.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from pp_mlem.base.machine import machine

PARALLEL_STATES, PARALLEL_LANES = 32, 64


class Smoothed(NamedTuple):
    """log Z (lanes,), p(state | data) (steps, states, lanes), and expected transitions
    (steps - 1 or 1, states, states, lanes), summed over the steps that share a transition."""

    log_z: Float[Array, " lanes"]
    states: Float[Array, "steps states lanes"]
    transitions: Float[Array, "moves states states lanes"]


def _scaled(logs: jax.Array, axis: Any) -> tuple[jax.Array, jax.Array]:
    """exp(logs - top) and top, with nothing but zeros where all are impossible.

    What is taken out is put back, so it may count as a constant. It must: the derivative of a
    maximum looks for the entry equal to it, and a compiler that computes the entry twice need not
    round it twice alike.
    """
    top = jax.lax.stop_gradient(logs.max(axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.exp(logs - top), top


def _positive(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, total, 1.0)


def _log(total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, jnp.log(_positive(total)), -jnp.inf)


def _width(*arrays: Any) -> int:
    """Number of lanes: the last dimension, or one where an array is the same for all."""
    return max(a.shape[-1] for a in arrays if a is not None)


class _Forward(NamedTuple):
    weights: jax.Array  # emission in linear space (steps, states, lanes)
    moves: jax.Array  # transition in linear space
    alpha: jax.Array  # filtered probabilities (steps, states, lanes)
    total: jax.Array  # normaliser of each step (steps, lanes)
    increments: jax.Array  # log p(x_t | x before) (steps, lanes)


def _forward(initial: Any, transition: Any, emission: Any, running: Any) -> _Forward:
    """The forward sweep; again and with more care where all the states that can be reached are so
    much less likely than another that their weights vanish beside it."""
    quick = _forward_from_top(initial, transition, emission, running)
    lost = jnp.any(quick.total <= 0)
    return jax.lax.cond(lost, _forward_reachable, lambda *_: quick, *(
        initial, transition, emission, running
    ))  # fmt: skip


class _Swept(NamedTuple):
    """What the loop forward leaves: filtered probabilities and normalisers of all steps but the last, and
    the last step's weights before they are normalised."""

    alpha: jax.Array
    total: jax.Array
    last: jax.Array


def _assemble(
    swept: _Swept, weights: Any, moves: Any, shift: Any, scale: Any, running: Any
) -> _Forward:
    """`scale` (steps, lanes) and `shift` are what was taken out of the logs of each step's emission and
    transition."""
    alpha, total, last = swept
    lanes = alpha.shape[-1]
    end = last.sum(0)
    alpha = jnp.concatenate([alpha, (last / _positive(end))[None]])
    total = jnp.concatenate([total, end[None]])
    rest = scale[1:] + jnp.broadcast_to(shift[:, 0, 0], (len(total) - 1, lanes))
    rest = rest if running is None else jnp.where(running, rest, 0.0)
    weights = jnp.broadcast_to(weights, alpha.shape)
    increments = _log(total) + jnp.concatenate([scale[:1], rest])
    return _Forward(weights, moves, alpha, total, increments)


def _forward_from_top(initial: Any, transition: Any, emission: Any, running: Any) -> _Forward:
    """Each step's emission is scaled by its most likely state, before the loop."""
    weights, top = _scaled(jnp.moveaxis(emission, 1, 0), 0)  # the layout of the scores
    weights, top = jnp.moveaxis(weights, 0, 1), jnp.moveaxis(top, 0, 1)
    moves, shift = _scaled(transition, (1, 2))
    start, base = _scaled(initial, 0)
    lanes = _width(initial, transition, emission, running)
    begin = jnp.broadcast_to(start * weights[0], (emission.shape[1], lanes))
    fixed = transition.shape[0] == 1

    def step(alpha: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        weight, move, on = inputs
        total = alpha.sum(0)
        alpha = alpha / _positive(total)
        move = moves[0] if move is None else move
        new = (alpha[:, None, :] * move).sum(0) * weight
        new = new if on is None else jnp.where(on, new, alpha)
        return new, (alpha, total)

    inputs = (weights[1:], None if fixed else moves, running)
    last, (alpha, total) = jax.lax.scan(step, begin, inputs)
    scale = jnp.broadcast_to(top[:, 0], (emission.shape[0], lanes))
    scale = jnp.concatenate([scale[:1] + base, scale[1:]])
    return _assemble(_Swept(alpha, total, last), weights, moves, shift, scale, running)


def _forward_reachable(initial: Any, transition: Any, emission: Any, running: Any) -> _Forward:
    """Each step's emission is scaled, in the loop, by the state that is most probable given it."""
    moves, shift = _scaled(transition, (1, 2))
    start, base = _scaled(initial, 0)
    size = emission.shape[1]
    lanes = _width(initial, transition, emission, running)
    emission = jnp.broadcast_to(emission, (len(emission), size, lanes))
    fixed = transition.shape[0] == 1

    def weigh(ahead: jax.Array, logs: jax.Array) -> tuple[jax.Array, jax.Array]:
        reached = (ahead > 0) & (logs > -jnp.inf)
        joint = jnp.where(reached, _log(ahead) + logs, -jnp.inf).max(0)
        joint = jax.lax.stop_gradient(joint)
        joint = jnp.where(jnp.isfinite(joint), joint, 0.0)
        safe = jnp.where(reached, logs - joint, 0.0)
        return jnp.where(reached, jnp.exp(safe), 0.0), joint

    weight, top = weigh(jnp.broadcast_to(start, (size, lanes)), emission[0])

    def step(alpha: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        logs, move, on = inputs
        total = alpha.sum(0)
        alpha = alpha / _positive(total)
        ahead = (alpha[:, None, :] * (moves[0] if move is None else move)).sum(0)
        weight, top = weigh(ahead, logs)
        new = ahead * weight
        new = new if on is None else jnp.where(on, new, alpha)
        return new, (alpha, total, weight, top)

    inputs = (emission[1:], None if fixed else moves, running)
    last, (alpha, total, weights, tops) = jax.lax.scan(step, start * weight, inputs)
    scale = jnp.concatenate([(top + base[0])[None], tops])
    weights = jnp.concatenate([weight[None], weights])
    return _assemble(_Swept(alpha, total, last), weights, moves, shift, scale, running)


def smooth(initial: Any, transition: Any, emission: Any, running: Any) -> Smoothed:
    """Forward-backward, one sweep each way: smoothed probabilities and expected transitions."""
    f = _forward(initial, transition, emission, running)
    fixed = transition.shape[0] == 1

    lanes = f.alpha.shape[-1]
    together = fixed and lanes > 1  # else one matrix product after the loop is faster
    zero = jnp.zeros((), f.alpha.dtype)
    counts = jnp.zeros((*f.moves.shape[1:3], lanes), f.alpha.dtype) if together else zero

    def step(carry: tuple, inputs: Any) -> tuple[tuple, Any]:
        beta, counts = carry
        weight, total, alpha, move, on = inputs
        move = f.moves[0] if move is None else move
        ahead = beta * weight / _positive(total)
        if on is not None:
            ahead = jnp.where(on, ahead, 0.0)
        new = (move * ahead[None]).sum(1)
        new = new if on is None else jnp.where(on, new, beta)
        if together:
            return (new, counts + alpha[:, None] * ahead[None]), beta
        return (new, counts), (beta, ahead)

    ones = jnp.ones_like(f.alpha[0])
    past = f.alpha[:-1]
    inputs = (f.weights[1:], f.total[1:], past, None if fixed else f.moves, running)
    (begin, counts), kept = jax.lax.scan(step, (ones, counts), inputs, reverse=True)
    beta = jnp.concatenate([begin[None], kept if together else kept[0]])
    if together:
        pairs = counts[None]
    elif fixed:
        pairs = jnp.einsum("tjb,tkb->jkb", past, kept[1])[None]
    else:
        pairs = past[:, :, None] * kept[1][:, None]
    return Smoothed(f.increments.sum(0), f.alpha * beta, pairs * f.moves)


def _best(initial: Any, transition: Any, emission: Any, running: Any) -> Smoothed:
    """Viterbi (1967, doi:10.1109/TIT.1967.1054010): the best path as degenerate probabilities."""
    steps, size = emission.shape[:2]
    lanes = _width(initial, transition, emission, running)
    begin = jnp.broadcast_to(initial + emission[0], (size, lanes))
    fixed = transition.shape[0] == 1
    stay = jnp.broadcast_to(jnp.arange(size)[:, None], (size, lanes))

    def step(score: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        gain, move, on = inputs
        reach = score[:, None, :] + (transition[0] if move is None else move)
        new = reach.max(0) + gain
        origin = reach.argmax(0)
        if on is not None:
            new, origin = jnp.where(on, new, score), jnp.where(on, origin, stay)
        return new, origin

    inputs = (emission[1:], None if fixed else transition, running)
    score, origins = jax.lax.scan(step, begin, inputs)

    def back(state: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.take_along_axis(origin, state[None], 0)[0], state

    first, path = jax.lax.scan(back, score.argmax(0), origins, reverse=True)
    path = jnp.concatenate([first[None], path])
    return _as_smoothed(score.max(0), path, transition, running, size, emission.dtype)


def _as_smoothed(
    value: jax.Array, path: jax.Array, transition: jax.Array, running: Any, size: int, dtype: Any
) -> Smoothed:
    states = jax.nn.one_hot(path, size, axis=1, dtype=dtype)
    ahead = states[1:] if running is None else jnp.where(running[:, None], states[1:], 0.0)
    if transition.shape[0] == 1:
        pairs = jnp.einsum("tjb,tkb->jkb", states[:-1], ahead)[None]
    else:
        pairs = states[:-1, :, None] * ahead[:, None]
    return Smoothed(value, states, pairs)


def _drawn(key: jax.Array, initial: Any, transition: Any, emission: Any, running: Any) -> Smoothed:
    """One path from its posterior: forward filtering, backward sampling (Scott 2002,
    doi:10.1198/016214502753479464)."""
    f = _forward(initial, transition, emission, running)
    steps, size, lanes = f.alpha.shape
    noise = jax.random.gumbel(key, (steps, size, lanes), emission.dtype)
    fixed = transition.shape[0] == 1
    state = (_log(f.alpha[-1]) + noise[-1]).argmax(0)

    def back(after: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        alpha, gumbel, move, on = inputs
        move = f.moves[0] if move is None else move
        move = jnp.broadcast_to(move, (size, size, lanes))
        towards = jnp.take_along_axis(move, after[None, None], 1)[:, 0]
        drawn = (_log(alpha * towards) + gumbel).argmax(0)
        drawn = drawn if on is None else jnp.where(on, drawn, after)
        return drawn, after

    inputs = (f.alpha[:-1], noise[:-1], None if fixed else f.moves, running)
    first, path = jax.lax.scan(back, state, inputs, reverse=True)
    path = jnp.concatenate([first[None], path])
    value = f.increments.sum(0)
    return _as_smoothed(value, path, transition, running, size, emission.dtype)


# --- log Z as a function whose derivative is the posterior ----------------------------------


@custom_vmap
def _smooth_lanes(initial: Any, transition: Any, emission: Any, running: Any) -> Smoothed:
    return smooth(initial, transition, emission, running)


@_smooth_lanes.def_vmap
def _smooth_lanes_vmap(
    size: int, batched: Any, initial: Any, transition: Any, emission: Any, running: Any
) -> Any:
    """A batch of chains (starts) becomes more lanes: (batch, ..., lanes) to (..., lanes, batch)."""
    arrays = [initial, transition, emission, running]
    lanes = _width(*arrays)

    def spread(array: Any, is_batched: bool | None) -> Any:
        if array is None:
            return None
        if not is_batched:
            array = jnp.broadcast_to(array, (size, *array.shape))
        array = jnp.broadcast_to(array, (*array.shape[:-1], lanes))
        moved = jnp.moveaxis(array, 0, -1)
        return moved.reshape(*moved.shape[:-2], lanes * size)

    wide = [spread(a, b) for a, b in zip(arrays, batched, strict=True)]
    found = _smooth_lanes(*wide)

    def back(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(*array.shape[:-1], lanes, size), -1, 0)

    every: Any = True
    return jax.tree.map(back, found), Smoothed(every, every, every)


@jax.custom_jvp
def _posterior(initial: Any, transition: Any, emission: Any, running: Any) -> Smoothed:
    return _smooth_lanes(initial, transition, emission, running)


@_posterior.defjvp
def _posterior_jvp(primals: tuple, tangents: tuple) -> tuple:
    *logs, running = primals

    def smoothed(initial: Any, transition: Any, emission: Any) -> Smoothed:
        return smooth(initial, transition, emission, running)

    return jax.jvp(smoothed, tuple(logs), tuple(tangents[:3]))


@jax.custom_jvp
def sum_product(initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    """log of the sum over all paths (lanes,); its derivatives of any order go through the
    forward-backward recursion, never through the logarithms."""
    return _posterior(initial, transition, emission, running).log_z


@sum_product.defjvp
def _sum_product_jvp(primals: tuple, tangents: tuple) -> tuple:
    found = _posterior(*primals)
    return found.log_z, _tangent(found, tangents, primals[-1])


def _tangent(found: Smoothed, tangents: tuple, running: Any) -> jax.Array:
    d_initial, d_transition, d_emission, _ = tangents
    shown = found.states
    if running is not None:  # what follows the end of a sequence does not count
        rest = jnp.where(running[:, None], shown[1:], 0.0)
        shown = jnp.concatenate([shown[:1], jnp.broadcast_to(rest, shown[1:].shape)])
    change = (shown * d_emission).sum((0, 1)) + (shown[0] * d_initial).sum(0)
    return change + (found.transitions * d_transition).sum((0, 1, 2))


@jax.custom_jvp
def max_product(initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    """log of the largest product over all paths (lanes,); its derivative marks the path."""
    return _best(initial, transition, emission, running).log_z


@max_product.defjvp
def _max_product_jvp(primals: tuple, tangents: tuple) -> tuple:
    found = _best(*primals)
    return found.log_z, _tangent(found, tangents, primals[-1])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _draw(key: jax.Array, initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    return _drawn(key, initial, transition, emission, running).log_z


@_draw.defjvp
def _draw_jvp(key: jax.Array, primals: tuple, tangents: tuple) -> tuple:
    found = _drawn(key, *primals)
    return found.log_z, _tangent(found, tangents, primals[-1])


def draw_product(key: jax.Array) -> Any:
    """As `sum_product`, but its derivative marks one path drawn from the posterior."""
    return partial(_draw, key)


def in_sequence(states: int, lanes: int) -> bool:
    """Whether steps are summed one after the other: on a CPU, where that was measured to be
    fastest, and anywhere for many states, whose matrix products would cost more, and for many chains
    (`lanes`), which keep the machine busy at every step."""
    few = states <= PARALLEL_STATES and lanes <= PARALLEL_LANES
    return not (machine().parallel_scans and few)


def sum_paths(initial: Any, transition: Any, emission: Any, running: Any) -> jax.Array:
    """`sum_product` in the form that suits the machine."""
    lanes = _width(initial, transition, emission, running)
    form = sum_product if in_sequence(emission.shape[1], lanes) else sum_product_parallel
    return form(initial, transition, emission, running)


def filtered(initial: Any, transition: Any, emission: Any, running: Any) -> tuple:
    """(log p(x_t | x before) (steps, lanes), p(state_t | x up to t) (steps, states, lanes))."""
    f = _forward(initial, transition, emission, running)
    return f.increments, f.alpha


def sum_product_parallel(
    initial: Any, transition: Any, emission: Any, running: Any = None
) -> jax.Array:
    """`sum_product` by an associative scan over the steps (Särkkä & García-Fernández 2021,
    doi:10.1109/TAC.2020.2976316): more work, but its depth is the logarithm of the steps, for
    accelerators. Equal to `sum_product`."""
    steps, size = emission.shape[:2]
    lanes = _width(initial, transition, emission, running)
    moves = jnp.broadcast_to(transition, (steps - 1, size, size, lanes)) + emission[1:, None]
    if running is not None:
        eye = jnp.where(jnp.eye(size, dtype=bool), 0.0, -jnp.inf)[None, :, :, None]
        moves = jnp.where(running[:, None, None], moves, eye)
    matrix, top = _scaled(moves, (1, 2))
    matrix, log_scale = jnp.moveaxis(matrix, -1, 1), top[:, 0, 0]

    def join(a: tuple, b: tuple) -> tuple:
        product = a[0] @ b[0]
        total = jax.lax.stop_gradient(product.max((-2, -1), keepdims=True))
        return product / _positive(total), a[1] + b[1] + _log(total)[..., 0, 0]

    begin, base = _scaled(initial + emission[0], 0)
    begin = jnp.broadcast_to(begin, (size, lanes)).T
    base = jnp.broadcast_to(base[0], (lanes,))
    if steps == 1:
        return _log(begin.sum(-1)) + base
    products, scales = jax.lax.associative_scan(join, (matrix, log_scale))
    end = jnp.einsum("bj,bjk->bk", begin, products[-1])
    found = _log(end.sum(-1)) + base + scales[-1]
    # Weights that vanish beside those of a state out of reach: see `_forward`.
    logs = (initial, transition, emission)
    return jax.lax.cond(
        jnp.all(jnp.isfinite(found)), lambda *_: found, lambda *a: sum_product(*a, running), *logs
    )
