"""NUTS in blocks of steps with the state carried, so that an interrupted run keeps its draws."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

from pp_mlem.base.compiling import lean_jit, meanwhile, quick_jit
from pp_mlem.base.precision import alone, working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

FIELDS = ("diverging", "potential_energy", "energy", "accept_prob", "num_steps")
ROOM = 250  # steps that a block holds
FIRST_STEPS = 10
BLOCK_SECONDS = 1.0  # how long Ctrl-C may have to wait, where a step is shorter


@dataclass(frozen=True)
class Settings:
    """What a compiled sampler depends on besides the problem."""

    warmup: int
    target_accept: float
    max_tree_depth: int
    together: int  # chains that run side by side
    dense: bool


@dataclass(frozen=True)
class Sample:
    """What came out of a run: `vectors` (chain, draw, size) and `stats` by field (chain, draw).

    `interrupted` says where the user stopped it ("" if nowhere); `warm` that all there is are
    states of the warm-up.
    """

    vectors: np.ndarray
    stats: dict[str, np.ndarray]
    first_seconds: float
    interrupted: str = ""
    warm: bool = False


def make_sampler(problem: Problem, settings: Settings) -> tuple[Callable, Callable]:
    """(begin, block): (keys, starts, inverse mass, data, fixed) -> state, and (state, data, fixed,
    steps) -> (state, what was visited: arrays of ROOM steps of which the first `steps` count).

    Both are functions of the data, so that once compiled they serve other data too.
    """
    size = problem.space.size
    kernels: list[NUTS] = []

    def density(data: Any, values: Any) -> None:
        vector = numpyro.sample("vector", dist.ImproperUniform(dist.constraints.real, (), (size,)))
        value = Target(problem, data, values).density(vector)
        numpyro.factor("density", jnp.where(jnp.isfinite(value), value, -1e30))

    @alone
    def begin(key: jax.Array, start: jax.Array, mass: jax.Array, data: Any, values: Any) -> Any:
        kernel = NUTS(
            density,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            dense_mass=settings.dense,
            inverse_mass_matrix=mass,
        )
        keys = jax.random.split(key, settings.together) if settings.together > 1 else key
        state = kernel.init(
            keys, settings.warmup, {"vector": start}, model_args=(data, values), model_kwargs={}
        )
        kernels[:] = [kernel]  # initialised by this: NumPyro then samples with any data
        return state

    def seen(state: Any) -> dict[str, jax.Array]:
        step_size = state.adapt_state.step_size
        found = {k: getattr(state, k) for k in FIELDS}
        return {"vector": state.z["vector"], "step_size": step_size, **found}

    @alone
    def block(state: Any, data: Any, values: Any, steps: jax.Array) -> tuple[Any, Any]:
        (kernel,) = kernels
        visited = jax.tree.map(lambda a: jnp.zeros((ROOM, *a.shape), a.dtype), seen(state))

        def step(i: jax.Array, carry: tuple) -> tuple:
            state, visited = carry
            state = kernel.sample(state, (data, values), {})
            visited = jax.tree.map(lambda a, new: a.at[i].set(new), visited, seen(state))
            return state, visited

        return jax.lax.fori_loop(0, steps, step, (state, visited))

    return begin, block


@dataclass(frozen=True)
class _Progress:
    """How far a chain (or all chains side by side) is: replaced as a whole after every block, so
    that Ctrl-C finds it consistent."""

    state: Any
    done: int = 0
    pieces: tuple[dict[str, np.ndarray], ...] = ()


class _Chain:
    """One run of the compiled sampler: a chain, or all chains side by side."""

    def __init__(self, state: Any, warmup: int, draws: int) -> None:
        self.warmup, self.total = warmup, warmup + draws
        self.at = _Progress(state)

    def advance(self, block: Callable, data: Any, fixed: Any, steps: int) -> int:
        """Up to `steps` more, and how many: a block ends where the warm-up does."""
        at = self.at
        end = self.warmup if at.done < self.warmup else self.total
        steps = min(steps, ROOM, end - at.done)
        state, visited = block(at.state, data, fixed, np.asarray(steps))
        found = {k: np.array(v[:steps]) for k, v in jax.device_get(visited).items()}
        before = at.pieces if at.done != self.warmup else ()  # states of the warm-up are no draws
        self.at = _Progress(state, at.done + steps, (*before, found))
        return steps

    @property
    def finished(self) -> bool:
        return self.at.done == self.total

    @property
    def drawn(self) -> int:
        return max(self.at.done - self.warmup, 0)

    def result(self) -> dict[str, np.ndarray]:
        """By field (chain, step, ...); of an unfinished warm-up its second half."""
        pieces = self.at.pieces
        whole = {k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}
        if not self.drawn:
            whole = {k: v[len(v) // 2 :] for k, v in whole.items()}
        if whole["diverging"].ndim == 1:
            return {k: v[None] for k, v in whole.items()}
        return {k: np.swapaxes(v, 0, 1) for k, v in whole.items()}


def run_sampler(
    target: Target,
    starts: np.ndarray,
    mass: np.ndarray,
    settings: Settings,
    draws: int,
    seed: int,
    bar: Progress,
) -> Sample:
    """All chains, side by side or one after the other. Ctrl-C keeps what finished blocks hold; of
    chains in sequence the finished ones, or the first as far as it came."""
    begin, block = _compiled(target, settings)
    side_by_side = settings.together > 1
    keys = _keys(seed, settings, len(starts))
    chains: list[_Chain] = []
    clock, first, steps = time.perf_counter(), 0.0, FIRST_STEPS
    stopped = False
    try:
        for i, key in enumerate(keys):
            start = starts if side_by_side else starts[i]
            state = begin(key, start, mass, target.data, target.fixed)
            chains.append(_Chain(state, settings.warmup, draws))
            while not chains[-1].finished:
                since = time.perf_counter()
                made = chains[-1].advance(block, target.data, target.fixed, steps)
                seconds = time.perf_counter() - since
                if first:  # the first block was compiled too
                    steps = int(np.clip(made * BLOCK_SECONDS / max(seconds, 1e-3), 1, ROOM))
                first = first or time.perf_counter() - clock
                _show(bar, chains, settings)
    except KeyboardInterrupt:
        stopped = True
        if not chains or not chains[0].at.pieces:
            raise  # nothing was sampled yet
    return _collected(chains, settings, len(starts), draws, first, stopped)


def _keys(seed: int, settings: Settings, chains: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), 1 if settings.together > 1 else chains)


def compile_sampler(target: Target, settings: Settings, starts: np.ndarray) -> list[Future]:
    """Begin to compile, in another thread, what `run_sampler` runs from as many starts."""
    begin, block = _compiled(target, settings)
    size = starts.shape[1]
    mass = np.zeros((size, size) if settings.dense else size, starts.dtype)
    start = starts if settings.together > 1 else starts[0]
    arguments = _keys(0, settings, len(starts))[0], start, mass, target.data, target.fixed
    inside = functools.partial(working_precision, target.dtype)

    state = jax.eval_shape(begin, *arguments)
    lowered = block.lower(state, target.data, target.fixed, np.asarray(1))
    later = meanwhile(lowered.compile, inside)
    return [later, meanwhile(begin.lower(*arguments).compile, inside)]


def _compiled(target: Target, settings: Settings) -> tuple[Any, Any]:
    def make() -> tuple[Any, Any]:
        begin, block = make_sampler(target.problem, settings)
        return quick_jit(begin), lean_jit(block)

    return target.once(("nuts", target.problem, settings), make)


def _show(bar: Progress, chains: list[_Chain], settings: Settings) -> None:
    drawn = sum(c.drawn for c in chains) * settings.together
    divergent = int(sum(p["diverging"].sum() for c in chains if c.drawn for p in c.at.pieces))
    share = sum(c.at.done / c.total for c in chains) * settings.together
    doing = f"{drawn} draws, {divergent} divergences" if chains[-1].drawn else "warming up"
    bar.advance(share, "chains", doing)


def _collected(
    chains: list[_Chain],
    settings: Settings,
    wanted: int,
    draws: int,
    first: float,
    stopped: bool,
) -> Sample:
    kept = [c for c in chains if c.finished] or chains[:1]
    found = [c.result() for c in kept]
    whole = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    vectors = whole.pop("vector")
    note = ""
    if stopped:
        got = f"{vectors.shape[0]} of {wanted} chains with {vectors.shape[1]}"
        note = f"stopped by the user: {got} of {draws} draws"
        if not kept[0].drawn:
            note = (
                f"stopped by the user after {kept[0].at.done} of {settings.warmup} steps of the "
                "warm-up: these are its states, not draws of the posterior"
            )
    return Sample(vectors, whole, first, note, not kept[0].drawn)
