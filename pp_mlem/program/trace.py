"""Runs a program once under NumPyro's handlers and records its statements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions.distribution import Unit
from numpyro.primitives import _PYRO_STACK, Messenger

from pp_mlem.base.precision import alone
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.arrays import observed_array
from pp_mlem.program.distributions import innermost, is_factor, is_point
from pp_mlem.program.errors import Refused
from pp_mlem.program.literals import Literals, prepare_distribution, with_arrays
from pp_mlem.program.messages import Message, Supply, messages_of
from pp_mlem.program.scans.handlers import at_one_step


class Runner(Messenger):
    """Gives every unobserved sample site and every param its value, and runs bodies of scans."""

    def __init__(self, fn: Callable[..., Any], supply: Supply, on_scan: Any) -> None:
        super().__init__(fn)
        self.supply = supply
        self.on_scan = on_scan
        self.inside = False
        self.initial = False  # while a param computes its initial value, for which it has a key
        self.kinds: dict[str, str] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            msg["value"] = self._control_flow(msg)
            return
        self._check(msg)
        if msg["type"] == "sample":
            prepare_distribution(msg)
        if msg["type"] in ("sample", "param"):
            self._give_value(msg)
        if self.inside:  # what lies below is ours, and must not see single steps
            msg["stop"] = True

    def _control_flow(self, msg: dict[str, Any]) -> Any:
        if msg["fn"] is not scan_wrapper:
            raise Refused(
                "the program uses numpyro's cond or while_loop, which cannot be read. Use "
                "jnp.where, or jax.lax.cond around code without sample statements."
            )
        if self.inside:
            raise Refused(
                "a scan inside the body of a scan is not supported. Write the inner loop as "
                "a plate, or as one scan over the product of the two."
            )
        return self.on_scan(self, msg)

    def _check(self, msg: dict[str, Any]) -> None:
        """Refuse random numbers that are no site, and names that cannot be."""
        if msg["type"] == "prng_key" and msg["value"] is None and not self.initial:
            raise Refused(
                "the program draws random numbers that are no site: by numpyro.prng_key(), or at a "
                "sample statement that handlers.block hides. What is drawn would stand in the "
                "likelihood as if it were known. Let the site be seen, give it a value "
                "(handlers.substitute or condition), or draw with a key of your own (jax.random.key(0))."
            )
        name = str(msg.get("name") or "")
        if msg["type"] in ("sample", "param") and ("Tracer(" in name or "Traced<" in name):
            raise Refused(
                f"site name '{name}' is made from a value that varies with the step of a scan or "
                "with an argument. A site of a scan has one name for all its steps; a name made "
                "from the step's number (f'y_{t}') belongs to a Python loop."
            )
        _check_name(self.kinds, msg)

    def _give_value(self, msg: dict[str, Any]) -> None:
        is_param = msg["type"] == "param"
        if is_param and self.inside:
            raise Refused(
                f"numpyro.param '{msg['name']}' stands inside the body of a scan; declare it "
                "before the scan."
            )
        if msg["value"] is None and not is_param and is_point(msg["fn"]):
            _determine(msg)  # one value: deterministic, whatever it depends on
        elif msg["value"] is None:
            self.initial = is_param
            try:
                msg["value"] = self.supply(msg)
            finally:
                self.initial = False
        elif is_param:  # handlers.substitute inside the program made it a constant
            msg["stop"] = True
        else:  # obs=, or a value given by a handler inside the program
            msg["is_observed"] = True
            if not is_factor(msg["fn"]):
                msg["value"] = observed_array(msg["name"], msg["value"])

    def step(
        self,
        body: Callable[..., Any],
        carry: Any,
        x: Any,
        supply: Supply,
        number: Any = None,
        length: int = 0,
    ) -> tuple[Any, Any, dict[str, Message]]:
        """One step of a scan's body: its carry, its output and its sites. `number` is that of the
        step, for handlers that act along the steps."""
        outer, self.supply, self.inside = self.supply, supply, True
        stack = list(_PYRO_STACK)
        own = stack.index(self) + 1
        _PYRO_STACK[own:] = at_one_step(stack[own:], number, length)
        try:
            with handlers.trace() as sites:
                carry, y = body(carry, x)
        finally:
            self.supply, self.inside = outer, False
            _PYRO_STACK[:] = stack
        return carry, y, messages_of(sites, in_scan=True)


def _check_name(kinds: dict[str, str], msg: dict[str, Any]) -> None:
    """NumPyro's trace lets a plate replace the site that has its name, without a word."""
    if msg["type"] not in ("sample", "param", "plate"):
        return
    kind = "plate" if msg["type"] == "plate" else "site"
    if kinds.setdefault(msg["name"], kind) != kind:
        raise Refused(
            f"'{msg['name']}' is the name of a plate and of a site; names are unique in NumPyro. "
            "Rename one of them."
        )


def _determine(msg: dict[str, Any]) -> None:
    """Give an unobserved Delta its one value, as numpyro.deterministic would; its weight counts as
    that of a numpyro.factor."""
    point, shape = innermost(msg["fn"]), msg["fn"].batch_shape + msg["fn"].event_shape
    msg["value"] = jnp.broadcast_to(point.v, shape)
    density = point.log_density
    if isinstance(density, jax.core.Tracer) or np.any(np.asarray(density) != 0):
        msg["fn"] = Unit(msg["fn"].log_prob(msg["value"]))  # what numpyro.factor would add
        msg["is_observed"] = True
    else:
        msg["type"] = "deterministic"


@contextmanager
def no_outer_handlers() -> Iterator[None]:
    """Run a program out of reach of handlers that are active around us (NUTS runs our density)."""
    outer = list(_PYRO_STACK)
    _PYRO_STACK.clear()
    _RUNNING.depth += 1
    try:
        yield
    finally:
        _RUNNING.depth -= 1
        _PYRO_STACK[:] = outer


class _Running(threading.local):
    """How many programs this thread is inside of."""

    depth = 0


_RUNNING = _Running()


def inside_program() -> bool:
    """Whether this thread is running a program."""
    return _RUNNING.depth > 0


def _no_scan(runner: Runner, msg: dict[str, Any]) -> Any:
    raise Refused("the program has a scan where none was expected.")


@alone
def run_program(
    call: Callable[[Callable[..., Any]], Any],
    program: Callable[..., Any],
    supply: Supply,
    on_scan: Callable[[Runner, dict[str, Any]], Any] = _no_scan,
) -> dict[str, Message]:
    """Run `program` once; `supply` returns the value of each unobserved site, `on_scan` the value
    of a scan's message."""
    try:
        with no_outer_handlers(), handlers.trace() as sites, handlers.seed(rng_seed=0):
            call(Runner(program, supply, on_scan))
    except NotImplementedError as error:
        if "under a `plate`" not in str(error):
            raise
        raise Refused(
            "a scan stands inside a plate. Put the plate inside the body of the scan "
            "(with numpyro.plate(...): in the function that is scanned); a latent of each "
            "sequence can be sampled in the same plate before the scan."
        ) from None
    return messages_of(sites)


@alone
def plain_messages(
    arguments: Arguments, dynamic: tuple, given: dict[str, Any]
) -> dict[str, Message]:
    """The sites of the program as NumPyro itself runs it at given values, scans included: those
    of a scan are stacked over its steps."""
    with (
        no_outer_handlers(),
        handlers.trace() as sites,
        handlers.seed(rng_seed=0),
        Literals(),
    ):
        arguments.call(handlers.substitute(arguments.program, data=given), dynamic)
    messages = messages_of(sites)
    if any(with_arrays(m.fn) is not m.fn for m in messages.values()):
        raise NotImplementedError("lists in the body of a scan")
    return messages
