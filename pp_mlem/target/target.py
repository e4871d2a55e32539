"""What is maximised or sampled: a problem, its data, and the values that are held fixed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pp_mlem.base.compiling import Effort, Kept, Work, meanwhile
from pp_mlem.base.precision import working_precision
from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal, Natural
from pp_mlem.marginal.units import unit_weights
from pp_mlem.maximise.blocks.base import NUMERIC_STEPS, Context, Prior, expected_log_joint
from pp_mlem.maximise.step import maximise
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import ParameterSpace
from pp_mlem.target.parts import adds_up, without_rows
from pp_mlem.target.priors import Params, log_prior, prior_distributions
from pp_mlem.target.problem import Problem, problem_of

T = TypeVar("T")


class Sweep(NamedTuple):
    """What one pass over the data gives at a vector: the objective, its gradient, and the expected
    sufficient statistics of every factor."""

    value: Float[Array, ""]
    gradient: Float[Array, " size"]
    statistics: Natural


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Target:
    """A problem with its data and the constrained values of its fixed parameters; a pytree.

    All methods are pure functions of a vector of free, unconstrained parameters. `kept` holds what
    was compiled for the structure, and is absent inside what is compiled.
    """

    problem: Problem = field(metadata={"static": True})
    data: ProgramData
    fixed: Params
    kept: Kept | None = field(default=None, metadata={"static": True})

    @property
    def marginal(self) -> Marginal:
        return self.problem.marginal

    @property
    def reading(self) -> Reading:
        return self.problem.reading

    @property
    def space(self) -> ParameterSpace:
        return self.problem.space

    @property
    def work(self) -> Work:
        return self.problem.work

    def compiled(
        self,
        function: Callable[..., Any],
        *static: Hashable,
        effort: Effort = Effort.QUICK,
        lanes: tuple[int | None, ...] | None = None,
        on_threads: bool = False,
    ) -> Callable[..., Any]:
        """`function(target, *static, *arrays)`, compiled, as a function of the arrays; `lanes` are
        their axes along which it is mapped, `on_threads` says that it will run on several threads at once.
        It serves every target of this problem's structure."""
        run = self._jitted(function, static, effort, lanes, on_threads)

        def call(*arrays: Any) -> Any:
            return run(self.data, self.fixed, *arrays)

        return call

    def _jitted(
        self,
        function: Callable[..., Any],
        static: tuple[Hashable, ...],
        effort: Effort,
        lanes: tuple[int | None, ...] | None,
        on_threads: bool,
    ) -> Any:
        """(data, fixed, *arrays) -> `function`."""
        if self.kept is None:
            raise RuntimeError("this target is part of what is being compiled.")
        axes = None if lanes is None else (None, None, *lanes)
        return self.kept(
            _on_target, function, self.problem, static, effort=effort, lanes=axes,
            on_threads=on_threads, name=function.__name__,
        )  # fmt: skip

    def ahead(
        self,
        function: Callable[..., Any],
        arrays: tuple,
        *static: Hashable,
        effort: Effort = Effort.QUICK,
        lanes: tuple[int | None, ...] | None = None,
        on_threads: bool = False,
    ) -> Future | None:
        """Begin to compile `function` for such arrays in another thread; None if that was done before.
        Wait for it before the function is called, or both compile it."""
        run = self._jitted(function, static, effort, lanes, on_threads)
        shapes = tuple((np.shape(a), str(jnp.result_type(a))) for a in jax.tree.leaves(arrays))

        def begin() -> list[Future | None]:
            lowered = run.lower(self.data, self.fixed, *arrays)
            inside = functools.partial(working_precision, self.dtype)
            return [meanwhile(lowered.compile, inside)]

        key = "ahead", function, self.problem, static, effort, lanes, on_threads, shapes
        begun = self.once(key, begin)
        future, begun[0] = begun[0], None
        return future

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under this key before, or now."""
        if self.kept is None:
            raise RuntimeError("this target is part of what is being compiled.")
        return self.kept.once(key, make)

    def on(self, data: ProgramData) -> Target:
        """The same problem on other data of the same shapes."""
        return replace(self, data=data)

    @cached_property
    def unit_weights(self) -> np.ndarray:
        """Case weight of each independent unit, on the host; 0 where all its data are missing."""
        if self.kept is None:
            raise RuntimeError("this target is part of what is being compiled.")
        run = self.kept(unit_weights, self.marginal, effort=self.work.once)
        return np.asarray(run(self.data))

    @property
    def units(self) -> float:
        """How many independent units there are, each with its case weight; at least one."""
        return max(float(np.sum(self.unit_weights)), 1.0)

    @property
    def dtype(self) -> np.dtype:
        """Of the computation."""
        return np.dtype(jnp.result_type(float))

    # --- values -----------------------------------------------------------------------------

    @without_rows
    def params(self, vector: jax.Array) -> Params:
        return self.problem.params(vector, self.fixed)

    def natural(self, vector: jax.Array) -> Natural:
        return self.marginal.natural(self.params(vector), self.data)

    def log_likelihood(self, vector: jax.Array) -> jax.Array:
        return self.marginal.log_z(self.natural(vector), self.data)

    def log_prior(self, vector: jax.Array) -> jax.Array:
        """Of the free parameters, in the constrained space."""
        names = frozenset(self.space.names)
        return log_prior(self.reading, self.params(vector), self.data, names)

    @adds_up
    def value(self, vector: jax.Array) -> jax.Array:
        """The objective: log Z, or log Z + log prior."""
        likelihood = self.log_likelihood(vector)
        return likelihood + self.log_prior(vector) if self.problem.with_prior else likelihood

    @property
    def likelihood_alone(self) -> Target:
        """The same without the prior: its objective is log Z."""
        if not self.problem.with_prior:
            return self
        if self.kept is None:
            raise RuntimeError("this target is part of what is being compiled.")
        problem = problem_of(self.kept, self.marginal, self.data, self.fixed, with_prior=False)
        return replace(self, problem=problem)

    @property
    def prior_alone(self) -> Target:
        """The same without the data: its objective is the log prior."""
        return _PriorAlone(self.problem, self.data, self.fixed)

    def density(self, vector: jax.Array) -> jax.Array:
        """log Z + log prior + log|Jacobian|, the density that NUTS samples."""
        posterior = self.log_likelihood(vector) + self.log_prior(vector)
        return posterior + self.space.log_abs_det_jacobian(vector)

    # --- EM ---------------------------------------------------------------------------------

    def expectation(self, vector: jax.Array) -> tuple[jax.Array, Natural]:
        """E-step: log Z and the expected sufficient statistics."""
        return self.marginal.log_z_and_statistics(self.natural(vector), self.data)

    def sweep(self, vector: jax.Array, assigned: jax.Array | None = None) -> Sweep:
        """Objective, gradient and statistics from one pass over the data.

        By Fisher's identity the gradient of log Z is that of <eta(theta), S> at the same theta. Where
        `assigned` is true, the statistics are those of latents that the data's clamps assign.
        """
        eta, pull = jax.vjp(self.natural, vector)
        value, statistics = self.marginal.log_z_and_statistics(eta, self.data, assigned)
        (gradient,) = pull(statistics)
        if self.problem.with_prior:
            prior, slope = jax.value_and_grad(self.log_prior)(vector)
            value, gradient = value + prior, gradient + slope
        return Sweep(value, gradient, statistics)

    def expected(self, vector: jax.Array, statistics: Natural) -> jax.Array:
        """Q(theta) = <eta(theta), S> (+ log prior), up to a constant."""
        sites = frozenset(f.site for f in self.marginal.factors)
        context = Context(self.marginal, self.data)
        q = expected_log_joint(context, self.params(vector), statistics, sites)
        return q + self.log_prior(vector) if self.problem.with_prior else q

    @property
    def prior(self) -> Prior | None:
        """What an M-step knows of the priors; nothing for maximum likelihood."""
        if not self.problem.with_prior:
            return None

        def density(params: Params, names: frozenset[str]) -> jax.Array:
            return log_prior(self.reading, params, self.data, names)

        def distributions(params: Params) -> dict[str, Any]:
            return prior_distributions(self.reading, params, self.data)

        return Prior(density, distributions)

    def maximise(
        self, vector: jax.Array, statistics: Natural, steps: int | jax.Array = NUMERIC_STEPS
    ) -> jax.Array:
        """M-step from a vector."""
        context = Context(self.marginal, self.data, steps)
        params, blocks = self.params(vector), self.problem.blocks
        new = maximise(context, blocks, params, statistics, self.prior)
        return self.space.unconstrain(new)

    def em_step(
        self,
        vector: jax.Array,
        steps: int | jax.Array = NUMERIC_STEPS,
        assigned: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(next vector of EM, objective and its gradient at `vector`), from one sweep."""
        value, gradient, statistics = self.sweep(vector, assigned)
        return self.maximise(vector, statistics, steps), value, gradient

    # --- what is compiled -------------------------------------------------------------------

    def climb(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """(objective, its gradient) at a vector, on the host."""
        value, gradient = self.compiled(value_and_gradient)(vector)
        return float(value), np.asarray(gradient, float)

    def constrained(self, vectors: Any) -> dict[str, Any]:
        """All parameters at vectors (lanes, size), on the host."""
        run = self.compiled(Target.params, lanes=(0,))
        return jax.device_get(run(np.asarray(vectors)))

    def unconstrained(self, params: Mapping[str, Any]) -> np.ndarray:
        """Vectors (lanes, size) of free parameters (lanes, ...)."""
        free = {name: params[name] for name in self.space.names}
        return np.array(self.compiled(_unconstrain, lanes=(0,))(free))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _PriorAlone(Target):
    """Of data that say nothing."""

    def log_likelihood(self, vector: jax.Array) -> jax.Array:
        return jnp.zeros((), vector.dtype)


def _on_target(
    function: Callable[..., Any],
    problem: Problem,
    static: tuple,
    data: Any,
    fixed: Any,
    *arrays: Any,
) -> Any:
    return function(Target(problem, data, fixed), *static, *arrays)


@without_rows
def _unconstrain(target: Target, params: Params) -> jax.Array:
    return target.space.unconstrain(params)


@adds_up
def value_and_gradient(target: Target, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The objective and its gradient. Traceable."""
    return jax.value_and_grad(target.value)(vector)
