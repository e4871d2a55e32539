"""One estimation problem: a model, what is fixed, and the objective, as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.precision import quick_jit, working_precision
from pp_mlem.data.layout import ProgramData
from pp_mlem.factors.factor import own_density
from pp_mlem.marginal.marginal import Marginal, Natural
from pp_mlem.maximise.blocks import Block, plan_blocks
from pp_mlem.maximise.step import NUMERIC_STEPS, Params, expected_log_joint, maximise
from pp_mlem.program.distributions import as_floating, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role
from pp_mlem.program.space import ParameterSpace

F = TypeVar("F", bound=Callable[..., Any])


def takes_gradients(fit: F) -> F:
    """A fit of a program that JAX cannot differentiate says so in the program's words."""

    @functools.wraps(fit)
    def wrapper(model: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return fit(model, *args, **kwargs)
        except (ValueError, NotImplementedError) as error:
            text = str(error)
            if "Reverse-mode differentiation does not work" in text:
                raise ValueError(
                    "the program computes a distribution's parameter by jax.lax.while_loop, or by "
                    "fori_loop with a number of steps that is computed, whose gradient JAX cannot "
                    "take. Use jax.lax.scan or fori_loop with a fixed number of steps, or a solver "
                    "with a rule of its own (jax.lax.custom_root)."
                ) from error
            if "radient" not in text and "ifferentiat" not in text:
                raise
            site = _without_gradient(model)
            if site is None:
                raise
            raise ValueError(
                f"site '{site.name}' ({site.distribution}): its density has no derivative in JAX: "
                f"{text.splitlines()[0]} Hold the parameters in question by fixed={{...}}, or write "
                "the density with functions that JAX differentiates."
            ) from error

    return wrapper  # type: ignore[return-value]


def climb_function(
    model: Any, problem: Problem, fixed: Params
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """vector -> (objective, its gradient) on the model's data, compiled once."""
    key = ("objective and gradient", frozenset(fixed), problem.with_prior)
    function = model.compiled(key, lambda: quick_jit(jax.value_and_grad(problem.objective)))

    def climb(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(jnp.asarray(vector), model.data, fixed)
        return float(value), np.asarray(gradient, float)

    return climb


def _without_gradient(model: Any) -> Any:
    """The first site whose density JAX cannot differentiate in its parameters."""
    reading, marginal, space = model.reading, model.marginal, model.space
    with working_precision(model.dtype):
        for site in (*reading.laws, *reading.observed):
            wanted = frozenset({site.name})

            def total(vector: jax.Array, wanted: frozenset[str] = wanted) -> jax.Array:
                eta = marginal.natural(space.constrain(vector), model.data, wanted)
                return sum((jnp.sum(a) for a in jax.tree.leaves(eta)), jnp.zeros(()))

            try:
                jax.eval_shape(jax.grad(total), jnp.zeros(space.size))
            except (ValueError, NotImplementedError):
                return site
    return None


def at_one_value(
    reading: Reading, params: Params, data: ProgramData, extract: Any, names: frozenset[str]
) -> dict[str, Any]:
    """Run the program with every gathered latent at one value, for what concerns parameters; those
    of a scan's body are taken at every step."""
    return reading.run(params, data.dynamic, extract, reading.zeros(), wanted=names, wide=names)


def log_prior(
    reading: Reading, params: Params, data: ProgramData, names: frozenset[str]
) -> jax.Array:
    """Sum of the log prior densities of the named parameters, at constrained values."""
    wanted = frozenset(
        s.name for s in reading.with_role(Role.PARAMETER) if s.name in names and s.prior
    )

    def extract(message: Message) -> jax.Array:
        return jnp.sum(own_density(message, message.value))  # in a scan, that of one step

    found = at_one_value(reading, params, data, extract, wanted)
    return sum((jnp.sum(v) for v in found.values()), jnp.zeros(()))


def prior_distributions(reading: Reading, params: Params, data: ProgramData) -> dict[str, Any]:
    """The unwrapped prior of each parameter; parameters without one are left out."""
    wanted = frozenset(
        s.name
        for s in reading.with_role(Role.PARAMETER)
        if s.prior and s.distribution != "ImproperUniform"
    )

    def extract(message: Message) -> Any:
        # Integer literals, Normal(0, 10), as floating: closed forms take powers of them.
        return jax.tree.map(as_floating, unwrap(message.fn).fn)

    return at_one_value(reading, params, data, extract, wanted)


def after(array: jax.Array, other: jax.Array) -> jax.Array:
    """The same values, computed after `other`: in a way that the compiler cannot see through."""
    return array * jnp.where(jnp.abs(other).sum() < -1.0, 0.0, 1.0).astype(array.dtype)


@dataclass(frozen=True)
class Problem:
    """Maximise log Z (MLE) or log Z + log prior (MAP) over the free parameters.

    All methods are pure in (vector, data, fixed) and can be jitted and vmapped. `fixed` holds the
    constrained values of the fixed parameters.
    """

    marginal: Marginal
    space: ParameterSpace
    with_prior: bool
    blocks: tuple[Block, ...]

    @property
    def reading(self) -> Reading:
        return self.marginal.reading

    def params(self, vector: jax.Array, fixed: Params) -> Params:
        return {**fixed, **self.space.constrain(vector)}

    def log_likelihood(self, vector: jax.Array, data: ProgramData, fixed: Params) -> jax.Array:
        eta = self.marginal.natural(self.params(vector, fixed), data)
        return self.marginal.log_z(eta, data)

    def log_prior(self, vector: jax.Array, data: ProgramData, fixed: Params) -> jax.Array:
        names = frozenset(self.space.names)
        return log_prior(self.reading, self.params(vector, fixed), data, names)

    def objective(self, vector: jax.Array, data: ProgramData, fixed: Params) -> jax.Array:
        value = self.log_likelihood(vector, data, fixed)
        return value + self.log_prior(vector, data, fixed) if self.with_prior else value

    def log_posterior(self, vector: jax.Array, data: ProgramData, fixed: Params) -> jax.Array:
        """log Z + log prior + log|Jacobian|, the density that NUTS samples."""
        value = self.log_likelihood(vector, data, fixed) + self.log_prior(vector, data, fixed)
        return value + self.space.log_abs_det_jacobian(vector)

    def expectation(
        self, vector: jax.Array, data: ProgramData, fixed: Params
    ) -> tuple[jax.Array, Natural]:
        """E-step: log Z and the expected sufficient statistics."""
        eta = self.marginal.natural(self.params(vector, fixed), data)
        return self.marginal.log_z_and_statistics(eta, data)

    def expected(
        self, vector: jax.Array, statistics: Natural, data: ProgramData, fixed: Params
    ) -> jax.Array:
        """Q(theta) = <eta(theta), S> (+ log prior), up to a constant."""
        params = self.params(vector, fixed)
        sites = frozenset(f.site for f in self.marginal.factors)
        value = expected_log_joint(self.marginal, params, statistics, data, sites)
        return value + self.log_prior(vector, data, fixed) if self.with_prior else value

    def maximisation(
        self,
        vector: jax.Array,
        statistics: Natural,
        data: ProgramData,
        fixed: Params,
        steps: int = NUMERIC_STEPS,
    ) -> jax.Array:
        """M-step from the current vector."""
        prior = priors = None
        if self.with_prior:

            def prior(params: Params, names: frozenset[str]) -> jax.Array:
                return log_prior(self.reading, params, data, names)

            def priors(params: Params) -> dict[str, Any]:
                return prior_distributions(self.reading, params, data)

        params = self.params(vector, fixed)
        new = maximise(self.marginal, self.blocks, params, statistics, data, prior, priors, steps)
        return self.space.unconstrain(new)

    def em_step(
        self, vector: jax.Array, data: ProgramData, fixed: Params, steps: int = NUMERIC_STEPS
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(next vector, objective and its gradient at `vector`), from one sweep over the data.

        By Fisher's identity the gradient of log Z is that of <eta(theta), S> at the same theta.
        """

        def natural(v: jax.Array) -> Natural:
            return self.marginal.natural(self.params(v, fixed), data)

        eta, pull = jax.vjp(natural, vector)
        value, statistics = self.marginal.log_z_and_statistics(eta, data)
        (gradient,) = pull(statistics)
        if self.with_prior:
            prior, slope = jax.value_and_grad(self.log_prior)(vector, data, fixed)
            value, gradient = value + prior, gradient + slope
        # jaxlib 0.10 locks up when two batched factorisations run at once on two threads.
        for factor in self.marginal.factors:
            if factor.family is not None and factor.family.event_dim:
                statistics[factor.site] = after(statistics[factor.site], gradient)
        return self.maximisation(vector, statistics, data, fixed, steps), value, gradient


def make_problem(marginal: Marginal, data: ProgramData, fixed: Params, with_prior: bool) -> Problem:
    """Plan the M-step for this choice of fixed parameters and objective."""
    reading = marginal.reading
    names = frozenset(fixed)
    priors = None
    if with_prior:
        neutral = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
        kept: dict[str, Any] = {}

        def capture(params: Params, d: ProgramData) -> int:
            kept.update(prior_distributions(reading, params, d))
            return 0

        jax.eval_shape(capture, {**neutral, **fixed}, data)  # only the classes matter here
        priors = kept
    blocks = plan_blocks(reading, marginal.factors, data, names, priors)
    return Problem(marginal, reading.space.without(names), with_prior, blocks)
