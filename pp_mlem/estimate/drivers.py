"""A driver for so many starts of a target, and the starts that its looks make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.estimate.algorithm import Algorithm
from pp_mlem.estimate.em import em_look_or_start
from pp_mlem.estimate.lbfgs import DensityClimb
from pp_mlem.estimate.loop import Driver, StreamedDriver
from pp_mlem.estimate.starts import SUBSET_ROWS, AssignedLook, starting_vectors
from pp_mlem.maximise.blocks.base import NUMERIC_STEPS
from pp_mlem.model.model import Model
from pp_mlem.target.streamed import StreamedTarget
from pp_mlem.target.target import Target

SHARED_WORK = 2e6  # of a sweep, beyond which starts have a function of their own
WARM_STEPS = 30
SETTLED = 1e-6  # slope per unit at which a climb has come to a mode


def driver_for(
    target: Target, algorithm: Algorithm, starts: int, limit: int, with_path: bool = False
) -> Driver:
    """Runs as many starts together as their work allows."""
    if isinstance(target, StreamedTarget):
        effort = target.part_work.steady
        return StreamedDriver(target, algorithm, effort, limit, starts, with_path=with_path)
    work = target.work
    return Driver(
        target=target,
        algorithm=algorithm,
        effort=work.loop(starts),
        limit=limit,
        group=int(min(starts, work.together)),
        on_threads=work.on_threads,
        with_path=with_path,
    )


def em_driver(
    target: Target, algorithm: Algorithm, starts: int, limit: int, with_path: bool
) -> Driver:
    """The same, on data with clamps where the looks of EM serve its starts as well."""
    shared = algorithm.look is em_look_or_start
    looked_at = target.on(with_clamps(target)) if shared else target
    return driver_for(looked_at, algorithm, starts, limit, with_path)


def em_starts(model: Model, driver: Driver, starts: int, seed: int, init: Any) -> np.ndarray:
    """Starting points (starts, size), made by the driver's own looks where these can."""
    look = _assigned_look(driver) if driver.algorithm.look is em_look_or_start else None
    return starting_vectors(model, driver.target, starts, seed, init, look)


def density_driver(target: Target, starts: int) -> Driver:
    """Climbs the density that NUTS samples: a few steps, into the typical set."""
    return driver_for(target, DensityClimb(target.units, SETTLED, -np.inf, 0), starts, WARM_STEPS)


def density_starts(model: Model, driver: Driver, starts: int, seed: int, init: Any) -> np.ndarray:
    """Where a `density_driver` ends (starts, size).

    Starts are M-steps from assigned latents. Gradient steps in their place, from a draw of a wide prior, would end
    where one component holds all rows, and from there no climb leads back.
    """
    return climbed(driver, starting_vectors(model, driver.target, starts, seed, init))


def climbed(driver: Driver, vectors: np.ndarray) -> np.ndarray:
    """Where the starts have come to (starts, size)."""
    run = driver.run(driver.algorithm.begin(vectors))
    if run.interrupted:
        raise KeyboardInterrupt
    return np.asarray(run.state.point)


def starts_too(target: Target, init: Any) -> bool:
    """Whether the looks of an algorithm serve its starts as well: where starts are not given, all rows are looked
    at, and a look costs less than compiling another function."""
    return (
        not isinstance(target, StreamedTarget)
        and bool(target.reading.latents)
        and not is_whole(init, target.space.names)
        and target.marginal.rows.size <= 2 * SUBSET_ROWS
        and target.work.sweep <= SHARED_WORK
    )


def is_whole(init: Any, names: Iterable[str]) -> bool:
    """Whether a start is given for all these parameters."""
    return isinstance(init, Mapping) and set(names) <= set(init)


def with_clamps(target: Target) -> ProgramData:
    """The data with clamps of every latent, those that are unknown free."""
    reading, clamps = target.reading, dict(target.data.clamps)
    for latent in reading.latents:
        shape = (*reading.plate_shape(latent.dims), latent.size)
        clamps.setdefault(latent.name, jax.device_put(np.zeros(shape, target.dtype)))
    return replace(target.data, clamps=clamps)


def _assigned_look(driver: Driver) -> AssignedLook:
    """EM's own look, at latents that clamps assign."""
    lanes = driver.group

    def assigned(target: Target, base: np.ndarray) -> np.ndarray:
        every = np.broadcast_to(base, (lanes, base.shape[0]))
        wanted = every, np.full(lanes, NUMERIC_STEPS), np.full(lanes, True)
        seen = replace(driver, target=target).look(np.arange(lanes) == 0, wanted)
        following: np.ndarray = seen.following[0]
        return following

    return assigned
