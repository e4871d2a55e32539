"""Which methods a comparison runs when none are named: those that end within minutes, by how long they take."""

from __future__ import annotations

from dataclasses import dataclass

from pp_mlem.base.machine import cores
from pp_mlem.base.near import did_you_mean
from pp_mlem.estimate.estimators import check_methods, method_names
from pp_mlem.estimate.nuts import run_at_once
from pp_mlem.estimate.point import HESSIAN_WORK
from pp_mlem.estimate.sampled import SAMPLE
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.show.stages import told_seconds

DEFAULT = ("em", "mle", "map", "nuts")
SAMPLERS = ("nuts", "laplace")
OF_CHUNKS = "needs all rows at each of its steps, and the data come in chunks"
LIMIT = 180.0  # seconds, beyond which a method is left out
WORTH_TELLING = 15.0
# Measured with the shipped models on two cores; a machine or a posterior may differ by a factor of three.
MULTIPLICATION = 1.5e-9  # seconds for each of a sweep's, with its gradient
STEP_OF_A_SCAN, OF_REALS = (
    7e-7,
    4e-6,
)  # seconds for each step of a recursion: over finite latents, over real ones
CALL = 2e-5  # seconds of a gradient of no data at all
COMPILING, OF_NUTS = 2.0, 4.0
LOOKS = 60  # sweeps of a start
FINISH = 20  # more for each parameter, where it ends with second derivatives
LEAPFROGS = 8  # gradients of a draw


@dataclass(frozen=True)
class Plan:
    """The methods to run, what each would take in seconds, those left out, and those that data in chunks do not
    allow."""

    chosen: tuple[str, ...]
    seconds: dict[str, float]
    left_out: tuple[str, ...] = ()
    unable: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What to expect, where that is worth telling."""
        found = []
        if sum(self.seconds[m] for m in self.chosen) > WORTH_TELLING or self.left_out:
            each = ", ".join(f"{m.upper()} {told_seconds(self.seconds[m])}" for m in self.chosen)
            found.append(f"Expected, roughly: {each}.")
        if self.left_out:
            names = " and ".join(
                f"{m.upper()} ({told_seconds(self.seconds[m])})" for m in self.left_out
            )
            every = ",".join(dict.fromkeys([*self.chosen, *self.left_out]))
            found.append(
                f"Left out, as it would take long: {names}. --methods {every} runs it all the same."
            )
        return found

    def notes(self) -> list[str]:
        """What does not run, though it was asked for or would by default."""
        return [f"Left out: {m.upper()}, which {OF_CHUNKS}." for m in self.unable]


def named_methods(text: str | None) -> tuple[str, ...] | None:
    """The methods that --methods names; None where it names none.

    Raises:
        ValueError: for one that is not there.
    """
    if text is None:
        return None
    for name in text.split(","):
        word = name.strip().lower()
        if word and word not in method_names():
            raise ValueError(
                f"--methods: received '{name.strip()}', expected some of {','.join(method_names())}."
                f"{did_you_mean(word, method_names())}"
            )
    return check_methods(text, "--methods")


def plan_of(
    model: Model, named: tuple[str, ...] | None, starts: int, chains: int, draws: int
) -> Plan:
    """The methods that are named; or the default ones that end within `LIMIT`, EM always. Samplers are left out where
    they would need all rows and these come in chunks.

    Raises:
        ValueError: where none is left.
    """
    every = DEFAULT if named is None else named
    in_chunks = isinstance(model, StreamedModel) and model.summary is None
    able = tuple(m for m in every if not (in_chunks and m in SAMPLERS))
    unable = tuple(m for m in every if m not in able)
    if not able:
        raise ValueError(f"--methods: {unable[0]} {OF_CHUNKS}. Take some of em,mle,map.")
    seconds = {m: seconds_of(m, model, starts, chains, draws) for m in able}
    if named is not None:
        return Plan(able, seconds, unable=unable)
    chosen = tuple(m for m in able if m == "em" or seconds[m] <= LIMIT)
    return Plan(chosen, seconds, tuple(m for m in able if m not in chosen), unable)


def gradient_seconds(model: Model) -> float:
    """One pass over the data with its gradient; where few points stand for rows in chunks, over these."""
    if isinstance(model, StreamedModel):
        if model.summary is not None:
            return gradient_seconds(model.summary)
        return model.stream.chunks * _call_seconds(model)
    return _call_seconds(model)


def _call_seconds(model: Model) -> float:
    """Of the rows that are laid out: all, or a chunk."""
    scans = model.reading.scans.values()
    steps = sum(s.length * (STEP_OF_A_SCAN if s.reals is None else OF_REALS) for s in scans)
    return CALL + steps + MULTIPLICATION * (model.marginal.work.sweep + model.marginal.entries)


def seconds_of(method: str, model: Model, starts: int, chains: int, draws: int) -> float:
    """How long a method will take, roughly."""
    each, work = gradient_seconds(model), model.marginal.work
    if method == "nuts":
        at_once = min(chains, cores()) if run_at_once(model, chains) else 1
        return OF_NUTS + each * chains / at_once * 2 * draws * LEAPFROGS
    size = model.space.size
    finishes = work.sweep * size <= HESSIAN_WORK
    looks = LOOKS + FINISH * size * finishes
    if isinstance(model, StreamedModel) and model.summary is None:
        share = min(1.0, SAMPLE / model.stream.count)  # the rows that the starts are tried on
        return 2 * COMPILING + each * (share * starts + 1) * looks
    return COMPILING + each * starts / (min(starts, cores()) if work.on_threads else 1) * looks
