"""What is compiled, how hard, and where it is kept: the one place that decides.

A function is compiled at its first call and kept as long as the structure that it belongs to lives:
a model and all that share its structure (other data, bootstrap replicates) compile nothing again.
How hard the compiler works follows from what the function will do in its life: compiling a function
well takes seconds, which a function that runs once on a thousand rows never earns back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.factorisations import one_at_a_time
from pp_mlem.base.machine import cores, machine

S = TypeVar("S")
T = TypeVar("T")

QUICK_WORK = 1e5  # of the lanes of a loop together, up to which optimised code does not pay
SINGLE_WORK = 1e8  # of a function that runs a few times
STEADY_WORK = 3e5  # of a recursion, from which the slower compiler's loops win
LONG_WORK = 1e9  # of a sweep that takes seconds
LIGHT = 1e7  # numbers of the data times parameters squared, up to which derivatives are light


class Effort(Enum):
    """How hard XLA works. QUICK: little code optimisation. LEAN: kernels are emitted straight as
    LLVM code, in two thirds of the time; mixtures also run faster so, long chains about a tenth
    slower. FULL: all that XLA does by default."""

    QUICK = "quick"
    LEAN = "lean"
    FULL = "full"


@functools.cache
def _options(effort: Effort) -> dict[str, Any]:
    """Compiler options, those that this version of XLA knows; on an accelerator its own."""
    if not machine().cpu:
        return {}
    # A parallel reduction waits on a thread of its pool, as a batch of factorisations does: never both.
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if effort is not Effort.FULL:
        options["xla_cpu_use_fusion_emitters"] = False
    if effort is Effort.QUICK:
        options["xla_backend_optimization_level"] = 0
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    def asks_for_option(x: Any) -> Any:
        return x

    try:
        jax.jit(asks_for_option, compiler_options={name: value}).lower(1.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(function: Callable[..., Any], effort: Effort, on_threads: bool = False) -> Any:
    """`jax.jit` with this effort, for what belongs to no structure; else use `Kept`. `on_threads`: it will run on
    several at once."""
    function = one_at_a_time(function, apart=on_threads) if machine().cpu else function
    return jax.jit(function, compiler_options=_options(effort))


def in_turn(function: Callable[..., T], going: Any, arrays: tuple) -> T:
    """`function` of every lane of the arrays that is `going`, one after the other, and zeros of the others. Traceable.

    Each is mapped over a lane of its own (`jax.vmap`): XLA's loops over blocks of rows run almost twice as fast so.
    """

    def one(own: tuple) -> Any:
        lane = jax.vmap(lambda given: function(*given))(jax.tree.map(lambda a: a[None], own))
        return jax.tree.map(lambda a: a[0], lane)

    def nothing(own: tuple) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, own))

    found: T = jax.lax.map(
        lambda each: jax.lax.cond(each[0], one, nothing, each[1]), (going, arrays)
    )
    return found


quick_jit = functools.partial(jit, effort=Effort.QUICK)
lean_jit = functools.partial(jit, effort=Effort.LEAN)


@dataclass(frozen=True)
class Work:
    """What one sweep over the data costs, in multiplications, roughly; whether it goes step by step
    along a scan. What follows for compiling and for running starts side by side."""

    sweep: float
    recurrent: bool = False

    @property
    def once(self) -> Effort:
        """For a function that sweeps a few times."""
        return Effort.QUICK if self.sweep <= SINGLE_WORK else Effort.LEAN

    @property
    def steady(self) -> Effort:
        """For a function that sweeps very many times."""
        heavy = self.recurrent and self.sweep > STEADY_WORK
        return Effort.FULL if heavy else Effort.LEAN

    def is_quick(self, lanes: int = 1) -> bool:
        """Whether so many lanes together are so small that optimised code does not pay."""
        return self.sweep * lanes <= QUICK_WORK

    def loop(self, lanes: int = 1) -> Effort:
        """For a function that sweeps some hundred times, for so many lanes at a time."""
        return Effort.QUICK if self.is_quick(lanes) else self.steady

    @property
    def side_by_side(self) -> bool:
        """Whether several starts run in one computation, at the same time."""
        return self.sweep <= machine().lane_work

    @property
    def on_threads(self) -> bool:
        """Whether every start is a computation of its own, as many at once as there are cores."""
        return machine().cpu and not self.side_by_side

    @property
    def together(self) -> float:
        """How many starts go on at the same pace, at most: where a sweep takes long, few, so that some have ended when
        others begin."""
        if self.side_by_side or self.on_threads and self.sweep <= LONG_WORK:
            return np.inf
        return cores() if self.on_threads else 1


def of_derivatives(numbers: int, parameters: int) -> Effort:
    """For second derivatives by all parameters, a few times, of a function of so many numbers."""
    return Effort.QUICK if numbers * parameters**2 <= LIGHT else Effort.LEAN


def of_program(is_long: bool) -> Effort:
    """For a function that runs a program a few times; `is_long`: along a scan of many steps."""
    return Effort.LEAN if is_long else Effort.QUICK


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="pp_mlem runs")


def at_once(
    function: Callable[[S], T], items: Sequence[S], inside: Callable[[], AbstractContextManager]
) -> list[T]:
    """`function` of every item, each on a thread within the context `inside()`, as many at once as there are cores.

    It runs what was compiled `on_threads`: XLA leaves Python free meanwhile.
    """

    def one(item: S) -> T:
        with inside():
            return function(item)

    if len(items) < 2:
        return [function(item) for item in items]
    begun = [_pool().submit(one, item) for item in items]
    try:
        return [future.result() for future in begun]
    finally:
        for future in begun:
            future.cancel()


@functools.cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="pp_mlem compiles")


def meanwhile(work: Callable[[], Any], inside: Callable[[], AbstractContextManager]) -> Future:
    """Do some work in another thread, within the context `inside()`.

    Above all to compile a jitted function that was lowered for some arguments: XLA leaves Python free
    meanwhile. (To lower it there, too, gains nothing: two threads that trace only wait for one
    another.) A call with such arguments then compiles nothing; what fails here fails again there.
    """

    def run() -> None:
        with inside():
            work()

    return _worker().submit(run)


class Kept:
    """What is made once for a structure and kept as long as it lives: compiled functions, and what
    else is found once."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__(
        self,
        function: Callable[..., Any],
        *static: Hashable,
        effort: Effort,
        lanes: tuple[int | None, ...] | None = None,
        on_threads: bool = False,
        name: str = "",
    ) -> Callable[..., Any]:
        """`function(*static, *arrays)`, compiled, as a function of the arrays.

        `lanes` are the axes of the arrays along which it is mapped (`jax.vmap`); `on_threads` as in `jit`. `function`
        belongs to a module, so that it is the same at every call: it and the static parts are the key.
        """

        def make() -> Callable[..., Any]:
            def run(*arrays: Any) -> Any:
                return function(*static, *arrays)

            run.__name__ = name or function.__name__
            mapped = run if lanes is None else jax.vmap(run, in_axes=lanes)
            return jit(mapped, effort, on_threads)

        return self.once((function, static, effort, lanes, on_threads), make)

    def __len__(self) -> int:
        return len(self._made)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
