"""NUTS in blocks of steps with the state carried, so that an interrupted run keeps its draws.

Chains are independent, and each has a key of its own: on threads, which XLA keeps busy without Python, they
are the same as one after the other.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

from pp_mlem.base.compiling import Effort, jit, meanwhile, quick_jit
from pp_mlem.base.machine import cores
from pp_mlem.base.precision import alone, working_precision
from pp_mlem.base.progress import Progress
from pp_mlem.target.problem import Problem
from pp_mlem.target.target import Target

FIELDS = ("diverging", "potential_energy", "energy", "accept_prob", "num_steps")
ROOM = 250  # steps that a block holds
FIRST_STEPS = 10
BLOCK_SECONDS = 1.0  # how long Ctrl-C may have to wait, where a step is shorter
SHOWN_SECONDS = 0.2  # how often the bar of chains on threads moves


@dataclass(frozen=True)
class Settings:
    """What a compiled sampler depends on besides the problem."""

    warmup: int
    target_accept: float
    max_tree_depth: int
    together: int  # chains in one computation
    dense: bool
    on_threads: bool = False  # whether several such computations run at once


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
    """All chains: in one computation, on threads, or one after the other. Ctrl-C keeps what finished blocks hold,
    of as many chains as makes the most draws of one length."""
    begin, block = _compiled(target, settings)
    keys = _keys(seed, settings, len(starts))
    chains: list[_Chain] = []
    clock, first = time.perf_counter(), 0.0
    stop, inside = threading.Event(), functools.partial(working_precision, target.dtype)

    def advance(chain: _Chain, steps: int) -> int:
        """A block, and how many steps the next one may have."""
        since = time.perf_counter()
        made = chain.advance(block, target.data, target.fixed, steps)
        seconds = time.perf_counter() - since
        return int(np.clip(made * BLOCK_SECONDS / max(seconds, 1e-3), 1, ROOM))

    def through(chain: _Chain) -> None:
        with inside():
            steps = FIRST_STEPS
            while not chain.finished and not stop.is_set():
                steps = advance(chain, steps)
                if not settings.on_threads:
                    _show(bar, chains, settings)

    try:
        for i, key in enumerate(keys):
            start = starts if settings.together > 1 else starts[i]
            state = begin(key, start, mass, target.data, target.fixed)
            chains.append(_Chain(state, settings.warmup, draws))
        advance(chains[0], FIRST_STEPS)  # what is still to be compiled is so once
        first = time.perf_counter() - clock
        if settings.on_threads:
            _on_threads(through, chains, stop, functools.partial(_show, bar, chains, settings))
        else:
            for chain in chains:
                through(chain)
    except KeyboardInterrupt:
        if not chains or not chains[0].at.pieces:
            raise  # nothing was sampled yet
        return _collected(chains, settings, len(starts), draws, first, stopped=True)
    return _collected(chains, settings, len(starts), draws, first, stopped=False)


def _on_threads(
    through: Callable[[_Chain], None],
    chains: list[_Chain],
    stop: threading.Event,
    show: Callable[[], None],
) -> None:
    """Every chain on a thread, as many at once as there are cores; after an error or Ctrl-C they end with their
    blocks."""
    with ThreadPoolExecutor(min(cores(), len(chains)), "pp_mlem samples") as pool:
        waiting: Iterable[Future] = [pool.submit(through, chain) for chain in chains]
        try:
            while waiting:
                done, waiting = wait(waiting, SHOWN_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
                show()
        finally:
            stop.set()


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
        return quick_jit(begin), jit(block, Effort.LEAN, on_threads=settings.on_threads)

    return target.once(("nuts", target.problem, settings), make)


def _show(bar: Progress, chains: list[_Chain], settings: Settings) -> None:
    drawn = sum(c.drawn for c in chains) * settings.together
    divergent = int(sum(p["diverging"].sum() for c in chains if c.drawn for p in c.at.pieces))
    share = sum(c.at.done / c.total for c in chains) * settings.together
    doing = f"{drawn} draws, {divergent} divergences" if drawn else "warming up"
    bar.advance(share, "chains", doing)


def _collected(
    chains: list[_Chain],
    settings: Settings,
    wanted: int,
    draws: int,
    first: float,
    stopped: bool,
) -> Sample:
    drawn = np.array([c.drawn for c in chains])
    lengths = np.sort(drawn)[::-1]
    length = int(lengths[np.argmax(lengths * np.arange(1, len(chains) + 1))])
    kept = [c for c in chains if c.at.pieces and c.drawn >= length]
    found = [c.result() for c in kept]
    length = length or min(f["diverging"].shape[1] for f in found)  # states of the warm-up
    whole = {k: np.concatenate([f[k][:, :length] for f in found]) for k in found[0]}
    vectors = whole.pop("vector")
    note = ""
    if stopped:
        got = f"{vectors.shape[0]} of {wanted} chains with {vectors.shape[1]}"
        note = f"stopped by the user: {got} of {draws} draws"
        if not kept[0].drawn:
            steps = min(c.at.done for c in kept)
            note = (
                f"stopped by the user after {steps} of {settings.warmup} steps of the warm-up: "
                "these are its states, not draws of the posterior"
            )
    return Sample(vectors, whole, first, note, not kept[0].drawn)
