"""EM accelerated by SQUAREM and finished by quasi-Newton steps, one sweep over the data a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pp_mlem.base.arrays import Array, all_finite, dot, largest, namespace, where
from pp_mlem.base.status import Status
from pp_mlem.estimate.algorithm import (
    Algorithm,
    Look,
    State,
    always,
    at_start,
    choose,
    first_of,
    rounding,
)
from pp_mlem.estimate.em import EMLook, at_rest, em_look, em_look_or_start, em_wanted, noise_of
from pp_mlem.maximise import quasi_newton
from pp_mlem.maximise.quasi_newton import QuasiNewton

# Newton steps in an M-step without closed form. One would keep the rate of convergence of EM
# (Lange 1995, doi:10.1111/j.2517-6161.1995.tb02037.x).
FEW_STEPS = 2
STILL = 10  # cycles in a row that gain nothing, after which SQUAREM has stopped
LONGEST = 4.0  # first bound on the length of a leap
ROUNDS, AGAIN_SLOW = 2, 30  # times that quasi-Newton steps may take over; looks between them
NEARLY = 1e-4  # slope per unit beyond which nothing is at rest, whatever rounding
START, SECOND, LEAP, FINISH = range(4)  # what the next look is for


class Squares(NamedTuple):
    """`phase` says what the next look is for. Of a cycle: the point it began at (`start`), EM's first
    and second step from it, the length of the leap and its bound; over cycles: the value at the
    end of the last one, how many gained nothing (`still`), how many looks little (`slow`), and how
    often quasi-Newton steps took over (`rounds`).
    """

    phase: Array
    start: Array
    first: Array
    second: Array
    length: Array
    longest: Array
    before: Array
    still: Array
    slow: Array
    rounds: Array
    finish: QuasiNewton | None


@dataclass(frozen=True)
class Squarem(Algorithm):
    """SQUAREM of Varadhan & Roland (2008), doi:10.1111/j.1467-9469.2007.00585.x, in unconstrained
    coordinates; when `slow` looks in a row gain less than `handover` nats, quasi-Newton
    steps on top of EM's (`finish_steps` of them at most; zero: none).

    A leap that would lower the objective is replaced by the plain second step.
    """

    units: float
    tolerance: float
    handover: float
    slow: int
    finish_steps: int
    starts_too: bool = False  # whether its looks are those of its starts as well
    unit_free: bool = True

    def begin(self, vectors: np.ndarray) -> State:
        zero, one = np.zeros(len(vectors), int), np.ones(len(vectors), vectors.dtype)
        finish = quasi_newton.begin(vectors, vectors, one, vectors) if self.finish_steps else None
        own = Squares(
            zero, vectors, vectors, vectors, one, LONGEST * one, -np.inf * one, zero, zero, zero,
            finish,
        )  # fmt: skip
        return at_start(vectors, own)

    @property
    def look(self) -> Look:
        return em_look_or_start if self.starts_too else em_look

    def wanted(self, state: State) -> tuple[Array, ...]:
        return em_wanted(state, FEW_STEPS, self.starts_too)

    def step(self, state: State, seen: EMLook) -> tuple[State, Array]:
        xp = namespace(state.vector)
        finishing = state.own.phase == FINISH
        if always(finishing):
            finished, better = self._finish(state, seen)
            return finished, xp.where(better, seen.value, xp.nan)
        cycled, accepted = self._cycle(state, seen)
        if self.finish_steps and always(~finishing):
            return cycled, accepted
        if not self.finish_steps:
            late = (cycled.own.slow > self.slow) & (cycled.status == Status.RUNNING)
            status = xp.where(late, int(Status.FLAT), cycled.status)
            return cycled._replace(status=status), accepted
        finished, better = self._finish(state, seen)
        accepted = xp.where(finishing, xp.where(better, seen.value, xp.nan), accepted)
        return choose(finishing, finished, cycled), accepted

    def _cycle(self, state: State, seen: EMLook) -> tuple[State, Array]:
        """One of the three looks of a cycle: at its start, at EM's step from it, at the leap."""
        xp, at, own = namespace(state.vector), state.vector, state.own
        noise, slope = noise_of(seen, at, self.units), largest(seen.gradient) / self.units
        leaping = own.phase == LEAP
        finite = xp.isfinite(seen.value) & xp.isfinite(slope)
        fell = seen.value < state.value - noise
        sound = finite & all_finite(seen.following) & (seen.value >= state.value)
        # A value without a slope is kept: it tells what the start has collapsed onto.
        kept = xp.where(leaping, sound, xp.isfinite(seen.value) & ~fell)
        best = xp.where(kept, seen.value, state.value)
        gain = best - own.before
        patience = xp.where(own.rounds > 0, AGAIN_SLOW, self.slow)
        late = (own.phase == START) & kept & (own.slow > patience)
        own, vector = self._next(own, at, seen.following, kept)
        own = own._replace(
            before=xp.where(leaping, best, own.before),
            still=xp.where(leaping, xp.where(gain <= noise, own.still + 1, 0), own.still),
            slow=xp.where(leaping, xp.where(gain < self.handover, own.slow + 3, 0), own.slow),
        )
        if self.finish_steps and not always(~late):
            finish = quasi_newton.begin(at, seen.following, seen.value, seen.gradient)
            own = own._replace(
                phase=xp.where(late, FINISH, own.phase), finish=choose(late, finish, own.finish)
            )
        status = first_of(
            (~leaping & ~finite, Status.NOT_FINITE),
            (~leaping & fell, Status.DECREASED),
            (kept & at_rest(seen, at, self.units, self.tolerance), Status.CONVERGED),
            (own.still >= STILL, Status.FLAT),
        )
        new = State(
            vector=where(kept | leaping, vector, state.point),
            point=where(kept, at, state.point),
            value=best,
            slope=where(kept, slope, state.slope),
            iterations=state.iterations + 1,
            status=status,
            own=own,
        )
        return new, xp.where(kept, seen.value, xp.nan)

    def _finish(self, state: State, seen: EMLook) -> tuple[State, Array]:
        """A quasi-Newton step; the first look is EM's own step from where SQUAREM stood."""
        xp = namespace(state.vector)
        slack = rounding(state.own.finish.value, self.units)
        found, better = quasi_newton.learn(
            state.own.finish, seen.following, seen.value, seen.gradient, slack
        )
        slope = xp.where(better, largest(seen.gradient) / self.units, state.slope)
        # Where the units put the tolerance below what float64 resolves, the objective stops rising
        # first; what EM's own step still promises knows no units.
        rest = at_rest(seen, state.vector, self.units, self.tolerance)
        rest = rest & ~found.promised(self.units * self.tolerance**2)
        settled = found.stuck & ~found.promised() & (slope <= NEARLY)
        failed = found.stuck | (found.steps >= self.finish_steps)
        rounds = state.own.rounds + xp.where(failed, 1, 0)
        status = first_of(
            ((better & rest) | settled, Status.CONVERGED),
            (failed & (rounds >= ROUNDS), Status.FLAT),
        )
        # SQUAREM goes on from EM's own step where quasi-Newton steps lead nowhere.
        own = state.own._replace(
            finish=found,
            rounds=rounds,
            phase=xp.where(failed, START, FINISH),
            slow=xp.where(failed, 0, state.own.slow),
            before=found.value,
            longest=xp.where(failed, LONGEST, state.own.longest),
        )
        new = State(
            vector=where(failed, found.point + found.residual, found.candidate),
            point=found.point,
            value=found.value,
            slope=slope,
            iterations=state.iterations + 1,
            status=status,
            own=own,
        )
        return new, better

    def _next(
        self, own: Squares, at: Array, following: Array, kept: Array
    ) -> tuple[Squares, Array]:
        """What the next look is for, and where."""
        xp = namespace(at)
        start = where(own.phase == START, at, own.start)
        first = where(own.phase == START, following, own.first)
        second = where(own.phase == SECOND, following, own.second)
        r, v = first - start, (second - first) - (first - start)
        tiny = float(np.finfo(at.dtype).tiny)
        length = xp.sqrt(dot(r, r) / xp.maximum(dot(v, v), tiny))
        length = xp.clip(length, 1.0, own.longest)
        leap = start + 2 * length[:, None] * r + length[:, None] ** 2 * v
        length = xp.where(own.phase == SECOND, length, own.length)
        far = xp.where(length >= own.longest, LONGEST * own.longest, own.longest)
        longest = xp.where(kept, far, xp.maximum(own.longest / LONGEST, 1.0))
        vector = where(own.phase == SECOND, leap, following)
        vector = where((own.phase == LEAP) & ~kept, own.second, vector)
        own = own._replace(
            phase=xp.where(own.phase == LEAP, START, xp.minimum(own.phase + 1, LEAP)),
            start=start,
            first=first,
            second=second,
            length=length,
            longest=xp.where(own.phase == LEAP, longest, own.longest),
        )
        return own, vector
