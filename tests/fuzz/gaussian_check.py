"""One random program with real latents against the whole joint Gaussian written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import brute_force
import jax
import numpy as np
from check import Outcome, _curvature_faults, _direction, _falls, _judged
from dense_gaussian import Dense, Joint, TooLarge
from gaussian import GaussianProgram

from pp_mlem import Model
from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import working_precision
from pp_mlem.marginal.units import pointwise_values
from pp_mlem.model import latents
from pp_mlem.potentials.modes import SUM


def check(program: GaussianProgram, thorough: bool = False) -> Outcome:
    """log Z, its gradient, pointwise values and posterior moments; `thorough` adds draws, the Hessian and
    EM."""
    names: dict[str, Any] = {}
    exec(compile(brute_force.HEADER + program.text, "program", "exec"), names)
    try:
        truth = Joint(program.text, program.arguments, program.params)
    except TooLarge as error:
        return Outcome("skipped", str(error), program)
    try:
        options = {"latents": set(program.latents)} if program.latents else {}
        model = Model(names["program"], **program.arguments, **options)
        found = _evaluate(model, program)
        solution = truth.solve(program.params)
        faults = _faults(model, program, truth, solution, found)
        if thorough and not faults:
            faults = _falls(model, program, 4) + _curvature_faults(model, program)
            faults += _draw_faults(model, program, solution)
    except Exception as error:  # told or raw: told apart below
        refusable = program.refusable or not truth.has_data(program.params)
        return Outcome(*_judged(error), replace(program, refusable=refusable))
    return Outcome("wrong", "; ".join(faults), program) if faults else Outcome("right", "", program)


def _evaluate(model: Model, program: GaussianProgram) -> dict[str, Any]:
    with working_precision(model.dtype):
        params = model.check_params(program.params)

        def everything(p: Any, tables: Any, data: Any) -> Any:
            def value(q: Any) -> Any:
                return model.marginal.log_z(model.marginal.natural(q, data), data)

            log_z, gradient = jax.value_and_grad(value)(p)
            posterior = latents.marginals(model.marginal, SUM, tables, p, data)
            return log_z, gradient, pointwise_values(model.marginal, p, data), posterior

        run = quick_jit(everything) if model.reading.arguments.traced else everything
        return jax.device_get(run(params, latents.no_tables(model.marginal), model.data))


def _faults(
    model: Model, program: GaussianProgram, truth: Joint, solution: Dense, found: Any
) -> list[str]:
    faults = []
    log_z, gradient, pointwise, posterior = found
    scale = 1e-8 * max(1.0, abs(solution.log_z))

    def differs(name: str, value: float, expected: float, tolerance: float = scale) -> None:
        if not abs(value - expected) <= tolerance:
            faults.append(f"{name} {value:.10g} for {expected:.10g}")

    differs("log Z", float(log_z), solution.log_z)
    differs("pointwise sum", float(np.sum(pointwise)), solution.log_z)
    at = 0
    for name, shape in solution.shapes.items():
        size = int(np.prod(shape))
        if name not in posterior:  # no observation depends on it
            at += size
            continue
        place = slice(at, at + size)
        mean, covariance = solution.mean[place], solution.covariance[place, place]
        told = latents.moments(model.bound, name, posterior[name])
        off = np.abs(told.mean.ravel() - mean).max(initial=0.0)
        if not off <= 1e-7 * max(1.0, np.abs(mean).max(initial=0.0)):
            faults.append(f"the mean of '{name}' is {off:.3g} away")
        width = told.covariance.shape[-1]
        blocks = [covariance[i : i + width, i : i + width] for i in range(0, size, width)]
        off = np.abs(told.covariance.reshape(-1, width, width) - np.array(blocks)).max(initial=0.0)
        if not off <= 1e-7 * max(1.0, np.abs(mean).max() ** 2):
            faults.append(f"the covariance of '{name}' is {off:.3g} away")
        at += size
    for name, expected in solution.finite.items():
        off = np.abs(
            latents.outward(model.bound, name, posterior[name]).reshape(expected.shape) - expected
        )
        if not off.max() <= 1e-8:
            faults.append(f"probabilities of '{name}' are {off.max():.3g} away")
    direction = {n: _allowed(program.params[n], d) for n, d in _direction(program).items()}
    slope = sum(float(np.sum(gradient[k] * d)) for k, d in direction.items())
    step = 1e-5
    ends = [
        truth.log_z({k: v + s * step * direction[k] for k, v in program.params.items()})
        for s in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / (2 * step)
    differs("slope", slope, expected, 1e-6 * max(1.0, abs(expected), abs(solution.log_z)))
    return faults


def _allowed(value: np.ndarray, step: np.ndarray) -> np.ndarray:
    """A direction in which a symmetric matrix stays one; none of a root of a correlation matrix."""
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        return step
    if not np.triu(value, 1).any():
        return 0 * step
    return step + step.T if np.array_equal(value, value.T) else step


def _draw_faults(
    model: Model, program: GaussianProgram, solution: Dense, count: int = 400
) -> list[str]:
    """Means and covariance of joint draws, within six standard errors."""
    if not solution.shapes:
        return []
    drawn = model.sample_latents(program.params, draws=count, seed=3)
    rows = np.concatenate([drawn[n].reshape(count, -1) for n in solution.shapes], 1)
    spread = np.sqrt(np.diagonal(solution.covariance))
    off = np.abs(rows.mean(0) - solution.mean) / np.maximum(spread, 1e-12)
    faults = []
    if not off.max() <= 6 / np.sqrt(count):
        faults.append(f"the draws' mean is {off.max():.3g} sd away")
    outer = np.maximum(spread[:, None] * spread, 1e-12)
    off = np.abs(np.cov(rows.T).reshape(outer.shape) - solution.covariance) / outer
    if not off.max() <= 10 / np.sqrt(count):
        faults.append(f"the draws' correlation is {off.max():.3g} away")
    return faults
