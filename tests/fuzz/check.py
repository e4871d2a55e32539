"""One random program against brute force: every promise of a model, in few compilations."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import brute_force
import jax
import jax.numpy as jnp
import numpy as np
from brute_force import Enumeration, TooLarge
from programs import Program

import pp_mlem
from pp_mlem import Model
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.marginal.units import pointwise_values
from pp_mlem.model import latents
from pp_mlem.potentials.modes import MAX, SUM
from pp_mlem.target.target import Target

PACKAGE = str(Path(pp_mlem.__file__).parent)


@dataclass(frozen=True)
class Outcome:
    """`status` is "right", "wrong", "raw", "refused" or "skipped"; `detail` says why."""

    status: str
    detail: str
    program: Program

    def __str__(self) -> str:
        return f"--- {self.status}: {self.detail}\n{brute_force.HEADER}{self.program.source}"


def check(program: Program, thorough: bool = False) -> Outcome:
    """Read a program and compare; `thorough` adds EM, the prior and every public method."""
    try:
        truth = Enumeration(
            program.text, program.arguments, program.params, program.observe, program.members
        )
    except TooLarge as error:
        return Outcome("skipped", str(error), program)
    names: dict[str, Any] = {}
    exec(compile(brute_force.HEADER + program.text, "program", "exec"), names)
    try:
        model = Model(names["program"], **program.arguments, observe=program.observe)
        found = _evaluate(model, program)
        slope = thorough or len(program.text) % 2 == 0  # brute force's slope costs two more of it
        faults = _faults(model, program, truth, found, slope)
        if thorough and not faults:
            faults = _public_faults(model, program, truth) + _falls(model, program)
            if len(program.text) % 4 == 0:  # of another compilation
                faults += _curvature_faults(model, program)
    except Exception as error:  # told or raw: told apart below
        refusable = program.refusable or not truth.has_data(program.params)
        return Outcome(*_judged(error), replace(program, refusable=refusable))
    return Outcome("wrong", "; ".join(faults), program) if faults else Outcome("right", "", program)


def _judged(error: Exception) -> tuple[str, str]:
    """A refusal is a ValueError or TypeError that a `raise` of the package itself raises."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {str(error)[:300]}"
    if isinstance(error, (ValueError, TypeError)) and (
        last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise")
    ):
        return "refused", text
    inside = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in f.filename]
    where = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else "outside"
    return "raw", f"{text} ({where})"


def _evaluate(model: Model, program: Program) -> dict[str, Any]:
    """log Z, its gradient, pointwise values, posterior and path from one compiled function."""
    with working_precision(model.dtype):
        params = model.check_params(program.params)

        def everything(p: Any, tables: Any, data: Any) -> Any:
            def value(q: Any) -> Any:
                return model.marginal.log_z(model.marginal.natural(q, data), data)

            log_z, gradient = jax.value_and_grad(value)(p)
            posterior = latents.marginals(model.marginal, SUM, tables, p, data)
            path = latents.marginals(model.marginal, MAX, tables, p, data)
            return log_z, gradient, pointwise_values(model.marginal, p, data), posterior, path

        log_z, gradient, pointwise, posterior, path = jax.device_get(
            quick_jit(everything)(params, latents.no_tables(model.marginal), model.data)
        )
        return {
            "log_z": float(log_z),
            "gradient": gradient,
            "pointwise": pointwise,
            "posterior": {k: latents.outward(model.bound, k, v) for k, v in posterior.items()},
            "path": {k: latents.chosen(model.bound, k, v) for k, v in path.items()},
        }


def _faults(
    model: Model, program: Program, truth: Enumeration, found: dict[str, Any], with_slope: bool
) -> list[str]:
    faults = []
    solution = truth.solve(program.params)
    scale = 1e-8 * max(1.0, abs(solution.log_z))

    def differs(name: str, value: float, expected: float, tolerance: float = scale) -> None:
        if not abs(value - expected) <= tolerance:
            faults.append(f"{name} {value:.10g} for {expected:.10g}")

    differs("log Z", found["log_z"], solution.log_z)
    differs("pointwise sum", float(np.sum(found["pointwise"])), solution.log_z)
    for latent in truth.latents:
        if latent.name not in found["posterior"]:
            faults.append(f"no posterior of '{latent.name}'")
            continue
        table, expected = found["posterior"][latent.name], solution.posterior[latent.name]
        shown = ~latent.hidden
        if table.size != expected.size:
            faults.append(f"posterior of '{latent.name}': shape {table.shape}")
            continue
        away = np.abs(table.reshape(expected.shape) - expected)[shown]
        if away.size and not away.max() <= 1e-8:
            faults.append(f"posterior of '{latent.name}' is {away.max():.3g} away")
    if truth.latents and not any("posterior" in f for f in faults):
        best = truth.joint_at(solution, found["path"])
        differs("the path's log density", best, solution.joint.max(), 10 * scale)
    direction = _direction(program) if with_slope else {}
    slope = sum(float(np.sum(found["gradient"][k] * d)) for k, d in direction.items())
    if direction:
        step = 1e-5
        ends = [
            truth.log_z({k: v + s * step * direction[k] for k, v in program.params.items()})
            for s in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        differs("slope", slope, expected, 1e-6 * max(1.0, abs(expected), abs(solution.log_z)))
    return faults


def _direction(program: Program) -> dict[str, np.ndarray]:
    """A random direction in which every parameter stays in its support."""
    rng = np.random.default_rng(1)
    found = {}
    for name, value in program.params.items():
        step = rng.normal(size=np.shape(value))
        if name.startswith("w"):
            step -= step.mean(-1, keepdims=True)
        found[name] = step
    return found


def _public_faults(model: Model, program: Program, truth: Enumeration) -> list[str]:
    """The same by the public methods, and the log prior."""
    solution = truth.solve(program.params)
    faults = []
    pairs = {
        "log_likelihood": (model.log_likelihood(program.params), solution.log_z),
        "log_prior": (model.log_prior(program.params), truth.log_prior(program.params)),
        "pointwise_log_likelihood": (
            model.pointwise_log_likelihood(program.params).sum(),
            solution.log_z,
        ),
    }
    for name, (value, expected) in pairs.items():
        if not abs(value - expected) <= 1e-8 * max(1.0, abs(expected)):
            faults.append(f"{name} {value:.10g} for {expected:.10g}")
    return faults


def _curvature_faults(model: Model, program: Program, step: float = 1e-5) -> list[str]:
    """The Hessian along one direction, as the slope's own differences have it."""
    with working_precision(model.dtype):
        target = model.target()
        vector = jnp.asarray(target.space.unconstrain(model.check_params(program.params)))
        direction = jnp.asarray(np.random.default_rng(2).normal(size=vector.shape))
        slope = jax.grad(target.log_likelihood)
        run = quick_jit(lambda v, d: jax.jvp(slope, (v,), (d,)))
        _, found = run(vector, direction)
        ends = [run(vector + sign * step * direction, direction)[0] for sign in (1, -1)]
    expected = np.asarray(ends[0] - ends[1]) / (2 * step)
    wrong = np.abs(np.asarray(found) - expected).max(initial=0.0)
    limit = 1e-4 * (1 + np.abs(expected).max(initial=0.0))
    return [] if wrong <= limit else [f"the Hessian is off by {wrong:.3g}"]


def _falls(model: Model, program: Program, iterations: int = 12) -> list[str]:
    """Plain EM from the given parameters: no step lowers log Z."""
    with working_precision(model.dtype):
        target = model.target()
        vector = jnp.asarray(target.space.unconstrain(model.check_params(program.params)))
        step = target.compiled(Target.em_step)
        values = []
        for _ in range(iterations):
            vector, value, _ = step(vector)
            values.append(float(value))
    drops = -np.diff(values)
    worst = drops.max(initial=0.0)
    if not np.all(np.isfinite(values)):
        return [f"EM's log Z is {values}"]
    return [f"EM falls by {worst:.3g}"] if worst > 1e-9 * max(1.0, abs(values[0])) else []
