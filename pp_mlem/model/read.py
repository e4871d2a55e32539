"""From a program and its arguments to log Z and its data; and what of that holds for other data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import jax

from pp_mlem.base.compiling import Kept
from pp_mlem.base.memory import collector_paused, note_shapes
from pp_mlem.data.prepare import prepare_data
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.gathers import Gathers
from pp_mlem.factors.named import names_from
from pp_mlem.factors.origins import find_origins
from pp_mlem.factors.verify import Verification, read_factors
from pp_mlem.marginal.marginal import build_marginal
from pp_mlem.model.bound import Bound
from pp_mlem.model.improper import refuse_improper
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.checks.inputs import Unchecked, read_inputs
from pp_mlem.program.errors import StatesMeet, UnderMask, UnitsMeet
from pp_mlem.program.hidden import Hidden
from pp_mlem.program.interleaved import is_unobserved, whole
from pp_mlem.program.joined import joined, told_joined, undeclared
from pp_mlem.program.names import given_names
from pp_mlem.program.read_program import read_program
from pp_mlem.program.reading import Reading
from pp_mlem.program.roles import ONLY_TIMES
from pp_mlem.program.rows import thin
from pp_mlem.program.sites import Role


def names_of(argument: str, given: Collection[str] | str) -> frozenset[str]:
    if isinstance(given, str):
        return frozenset({given})
    try:
        return frozenset(given)
    except TypeError:
        raise TypeError(
            f"{argument}: received {type(given).__name__}, expected a set of site names."
        ) from None


@collector_paused()
def read_bound(
    arguments: Arguments,
    overrides: Mapping[str, frozenset[str]],
    observe: Mapping[str, Any],
    naming: Mapping[str, Any],
) -> tuple[Arguments, Bound]:
    """The arguments as they were read, and log Z with the data.

    Raises TypeError, ValueError for a program or data that cannot be read.
    """
    note_shapes(arguments.dynamic)
    if overrides["latents"]:
        hidden = Hidden(arguments.program, overrides["latents"])
        arguments = replace(arguments, program=hidden)
    try:
        return _read_exactly(arguments, overrides, observe, naming)
    except ValueError as refusal:
        taken = _taken_for_effects(arguments, overrides)
        if not taken:
            raise
        estimated = {**overrides, "parameters": overrides["parameters"] | taken}
        try:
            return _read_exactly(arguments, estimated, observe, naming)
        except ValueError:
            raise refusal from None


def _taken_for_effects(
    arguments: Arguments, overrides: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    """The Gaussians that nothing but their scale makes random effects: where these cannot be integrated out,
    they are parameters."""
    try:
        reading, _ = read_program(arguments, **overrides)
    except ValueError:
        return frozenset()
    return frozenset(s.name for s in reading.reals if s.reason.startswith(ONLY_TIMES))


def _read_exactly(
    arguments: Arguments,
    overrides: Mapping[str, frozenset[str]],
    observe: Mapping[str, Any],
    naming: Mapping[str, Any],
) -> tuple[Arguments, Bound]:
    """The same for one choice of the roles."""
    try:
        return _read(arguments, overrides, observe, naming)
    except (StatesMeet, UnitsMeet, UnderMask) as error:
        return _read_otherwise(arguments, overrides, observe, naming, error)


def _read(
    arguments: Arguments,
    overrides: Mapping[str, frozenset[str]],
    observe: Mapping[str, Any],
    naming: Mapping[str, Any],
) -> tuple[Arguments, Bound]:
    """The same for a program with no latents left to join."""
    reading, dynamic = read_program(arguments, **overrides)
    ranks = undeclared(reading)
    if not ranks:
        return _bound(reading, dynamic, observe, naming)
    try:
        return _bound(reading, dynamic, observe, naming)
    except Exception:  # the entries of a batch move together: they are no series of their own
        program = joined(arguments.program, ranks)
        reading, dynamic = read_program(replace(arguments, program=program), **overrides)
        return _bound(reading, dynamic, observe, naming)


def _read_otherwise(
    arguments: Arguments,
    overrides: Mapping[str, frozenset[str]],
    observe: Mapping[str, Any],
    naming: Mapping[str, Any],
    error: StatesMeet | UnitsMeet | UnderMask,
) -> tuple[Arguments, Bound]:
    """The same where rows read several units of real latents at once, or states of a scan meet, which are one
    vector each then, or where a site has an `obs_mask`. What cannot be read so either is refused as it was written."""
    ranks: dict[str, int | None] = {}
    plain, refusal = arguments.program, error
    while True:
        if isinstance(error, StatesMeet) and error.ranks.keys() - ranks.keys():
            ranks |= error.ranks
        elif isinstance(error, UnitsMeet) and set(error.latents) - ranks.keys():
            ranks |= dict.fromkeys(error.latents)
        elif (
            isinstance(error, UnderMask)
            and is_unobserved(error.latent)
            and plain is arguments.program
        ):
            plain = whole(plain)
        else:
            raise refusal
        program = joined(plain, ranks) if ranks else plain
        try:
            reading, dynamic = read_program(replace(arguments, program=program), **overrides)
            return _bound(told_joined(reading, ranks), dynamic, observe, naming)
        except (StatesMeet, UnitsMeet, UnderMask) as another:
            error = another
        except (ValueError, TypeError):
            if not ranks:
                raise
            raise refusal from None


def _bound(
    reading: Reading, dynamic: tuple, observe: Mapping[str, Any], naming: Mapping[str, Any]
) -> tuple[Arguments, Bound]:
    """The same for a program whose sites are read."""
    _check_observe(reading, observe, naming["words"])
    given = given_names(reading.sites.values(), reading.plates, naming["dims"], naming["coords"])
    inputs = read_inputs(reading)
    # A mistake in the data is told as such, before all else.
    arguments = inputs.check(reading.arguments)
    if arguments is not reading.arguments:
        reading = replace(reading, arguments=arguments)
        dynamic = tuple(jax.device_put(a) for a in thin(arguments))
    verification = read_factors(reading, dynamic)
    if isinstance(inputs, Unchecked):
        inputs.tell()
    reading, factors = verification.reading, verification.factors
    reading = replace(reading, names=names_from(reading, given, dynamic))
    data = prepare_data(reading, factors, observe, verification.gathers)
    data = replace(data, origins=find_origins(reading, factors, verification.left, data.sites))
    marginal = build_marginal(reading, factors)
    bound = Bound(marginal, marginal.summed(data), Kept())
    bound.kept.once("verification", lambda: verification)
    bound.kept.once("inputs", lambda: inputs)
    refuse_improper(bound)
    return reading.arguments, bound


def _check_observe(
    reading: Reading, observe: Mapping[str, Any], words: Mapping[str, tuple]
) -> None:
    for name in observe:
        site = reading.sites.get(name)
        if site is not None and site.real and site.scan:
            raise ValueError(
                f"observe: '{name}' is a real state of a scan, whose values cannot be given. Pass them to the "
                "program as an argument, as what its observations read."
            )
        if site is None or site.role is not Role.LATENT:
            known = [s.name for s in (*reading.latents, *reading.reals)]
            hint = (
                " It is a parameter: pass fixed={...} to a fit instead."
                if site is not None and site.role is Role.PARAMETER
                else ""
            )
            raise ValueError(
                f"observe: '{name}' is no latent of the program; the latents are {known}.{hint}"
            )
        if name in words and site.real:
            raise TypeError(
                f"observe: '{name}' received values that are no numbers, expected numbers, or NaN where unknown."
            )
        if len(words.get(name, ())) > site.size:
            raise ValueError(
                f"observe: '{name}' received {len(words[name])} different words {list(words[name])[:5]}, expected "
                f"no more than its {site.size} values."
            )


def other_data(bound: Bound, arguments: Arguments, observe: Mapping[str, Any]) -> ProgramData:
    """Other arguments of the same shapes, checked and laid out."""
    reading = bound.reading
    inputs = bound.kept.once("inputs", lambda: read_inputs(reading))
    reading = replace(reading, arguments=inputs.check(arguments))
    gathers, marginal = _verification(bound).gathers, bound.marginal
    data = prepare_data(reading, marginal.factors, observe, gathers)
    data = marginal.summed(replace(data, origins=bound.data.origins))
    refuse_improper(replace(bound, data=data))
    return data


def reads_alike(bound: Bound, arguments: Arguments) -> bool:
    """Whether a reading is right for other data of the same shapes."""
    dynamic = tuple(jax.device_put(a) for a in thin(arguments))
    try:
        return _verification(bound).difference(dynamic) is None
    except ValueError:  # a gather that the new data make into something else
        return False


def _verification(bound: Bound) -> Verification:
    def make() -> Verification:
        return Verification(Gathers(bound.reading, bound.marginal.factors))

    return bound.kept.once("verification", make)
