"""The first run of a program: in which form it takes its data, its sites and their supports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.distributions import is_discrete
from pp_mlem.program.domains import Interval, finite_support, listed
from pp_mlem.program.errors import NEEDS_VALUES, Refused
from pp_mlem.program.failures import program_error
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral_run import neutral_run
from pp_mlem.program.plates import check_observed_shape
from pp_mlem.program.scans.scan import Scan


@dataclass(frozen=True)
class FirstRun:
    """The program's messages (shapes only, unless its data are constants) and its supports.

    `enumerated` holds the values of each discrete unobserved site, `refusals` why there are none;
    `supports` the constraint of each continuous unobserved site. `sized` are the sites whose values
    come from the data: a total count that is an array.
    """

    arguments: Arguments
    messages: dict[str, Message]
    enumerated: dict[str, np.ndarray]
    refusals: dict[str, str]
    supports: dict[str, Any]
    finite: dict[str, Any]
    scans: dict[str, Scan]
    sized: frozenset[str]


def first_run(arguments: Arguments) -> FirstRun:
    """Execute the program once; find whether its data can be traced."""
    run, results = _in_first_form(arguments)
    supports_of, supports, finite = jax.device_get(results)
    enumerated, refusals = {}, dict(run.refusals)
    for name, support in supports_of.items():
        try:
            enumerated[name] = listed(name, support)
        except ValueError as error:
            refusals[name] = str(error)
    return FirstRun(
        run.arguments, run.messages, enumerated, refusals, supports, finite, run.scans,
        frozenset(run.sized),
    )  # fmt: skip


def _in_first_form(arguments: Arguments) -> tuple[_Run, Any]:
    """The run in the first form of the arguments that the program takes, and its results."""
    dynamic = tuple(jax.device_put(a) for a in arguments.dynamic)
    failures: list[Exception] = []
    for form in arguments.forms():
        form.refused()
        run = _Run(form)
        try:
            results = quick_jit(run.supports)(dynamic) if form.traced else run.supports(())
            if not form.refused():
                return run, results
        except (NotImplementedError, Refused):
            raise
        except NEEDS_VALUES as error:
            failures.append(error)
        except Exception as error:
            if not form.has_forms:
                raise program_error(error, form) from error
            failures.append(error)
    others = [e for e in failures if not isinstance(e, NEEDS_VALUES)]
    cause = (others or failures[-1:])[0]
    raise program_error(cause, form) from cause


class _Run:
    """One run in one form of the arguments, and what it sees that is no array."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.messages: dict[str, Message] = {}
        self.scans: dict[str, Scan] = {}
        self.refusals: dict[str, str] = {}
        self.sized: set[str] = set()

    def supports(self, dynamic: tuple) -> tuple[dict, dict, dict]:
        """The values of each discrete unobserved site; the support of each continuous one; and
        whether it is finite."""
        self.messages, self.scans = neutral_run(self.arguments, dynamic)
        for message in self.messages.values():
            check_observed_shape(message)
        self.refusals.clear()
        self.sized.clear()
        enumerated: dict[str, Any] = {}
        supports: dict[str, Any] = {}
        finite: dict[str, Any] = {}
        for name, m in self.messages.items():
            if m.observed:
                continue
            if m.kind == "sample" and is_discrete(m.fn):
                self._enumerate(name, m, enumerated)
                continue
            finite[name] = jnp.isfinite(m.value).all()
            if m.kind == "sample":
                supports[name] = m.fn.support
        return enumerated, supports, finite

    def _enumerate(self, name: str, message: Message, enumerated: dict[str, Any]) -> None:
        try:
            support = finite_support(name, message.fn)
        except ValueError as error:
            self.refusals[name] = str(error)
            return
        if isinstance(support, Interval) and support.is_traced:
            self.sized.add(name)
        enumerated[name] = support
