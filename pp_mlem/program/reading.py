"""Reads a program: its sites and roles, how each latent is enumerated, what depends on what."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.families import family_of
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.densities import log_density
from pp_mlem.program.frames import NeedsValues
from pp_mlem.program.roles import assign_roles
from pp_mlem.program.scans import (
    END,
    STEP,
    Body,
    Earlier,
    Scan,
    Steps,
    at_step,
    before,
    bind,
    discover,
    joined,
    mark,
    neutral_supply,
    settle,
)
from pp_mlem.program.sites import Plate, Role, Site
from pp_mlem.program.space import ParameterSpace
from pp_mlem.program.trace import (
    Interval,
    Message,
    Refused,
    Runner,
    Supply,
    finite_support,
    innermost,
    is_array,
    is_discrete,
    is_factor,
    listed,
    neutral_value,
    provenance,
    run_program,
    unwrap,
)

_CONCRETE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    NeedsValues,
)
_SEQUENCE = re.compile(r"'(list|tuple)'|<class '(list|tuple)'>")
THIN_ROWS = 2000
TABLE_LIMIT = 2**28
LONG_SCAN = 20_000


@dataclass(frozen=True)
class Reading:
    """A program together with the roles of its sites; independent of the values of the data.

    `depth` is the number of plate dimensions; latent i is enumerated in dimension
    -(depth + 1 + i). `dependencies[site][part]` holds the unobserved sites on which a
    distribution argument (or "value", "mask", "scale", "all") of the site depends; `values` are
    the values of each latent, and `sized` the latents whose values come from the data (a total
    count that is an array).
    """

    arguments: Arguments
    sites: dict[str, Site]
    plates: dict[str, Plate]
    depth: int
    dependencies: dict[str, dict[str, frozenset[str]]]
    values: dict[str, np.ndarray]
    scans: dict[str, Scan] = field(default_factory=dict)
    sized: frozenset[str] = frozenset()

    def with_role(self, role: Role) -> tuple[Site, ...]:
        return tuple(s for s in self.sites.values() if s.role is role)

    @property
    def latents(self) -> tuple[Site, ...]:
        return self.with_role(Role.LATENT)

    @property
    def observed(self) -> tuple[Site, ...]:
        return self.with_role(Role.OBSERVED)

    @cached_property
    def space(self) -> ParameterSpace:
        return ParameterSpace(self.with_role(Role.PARAMETER))

    @property
    def is_long(self) -> bool:
        """Whether a scan has so many steps that even a single sweep is worth compiling well."""
        return any(s.length > LONG_SCAN for s in self.scans.values())

    @property
    def slots(self) -> tuple[Site, ...]:
        """Everything that is enumerated: the latents, then states one step earlier."""
        return (*self.latents, *self.with_role(Role.BEFORE))

    @property
    def laws(self) -> tuple[Site, ...]:
        """The sites that are distributions of latents."""
        return tuple(s for s in self.sites.values() if s.law_of)

    def latent_dim(self, name: str) -> int:
        order = [s.name for s in self.slots]
        return -(self.depth + 1 + order.index(name))

    @cached_property
    def mapped(self) -> Reading:
        """The same with every latent enumerated by vmap: the program then meets one value at a time
        and need not broadcast."""
        slots = {s.name for s in self.slots}
        sites = {n: replace(s, vmapped=s.vmapped or n in slots) for n, s in self.sites.items()}
        return replace(self, sites=sites)

    def one_at_a_time(self, latents: Collection[str]) -> str:
        """Why a site is computed for one value of these latents at a time ("": it is not)."""
        own = [self.sites[n] for n in latents if self.sites[n].vmapped]
        if any(s.gathered for s in own):
            return "it is gathered from another plate"
        return "the program is run for one value of its latents at a time" if own else ""

    def zeros(self) -> dict[str, np.ndarray]:
        """Every latent that is enumerated by vmap, at one value."""
        return {s.name: np.zeros(self.plate_shape(s.dims), int) for s in self.latents if s.vmapped}

    def plate_shape(self, dims: dict[str, int]) -> tuple[int, ...]:
        """The batch shape that the given plates span, size one elsewhere."""
        shape = [1] * max((-d for d in dims.values()), default=0)
        for plate, dim in dims.items():
            shape[dim] = self.plates[plate].size
        return tuple(shape)

    def told_plates(self, site: Site) -> str:
        """The plates of a site with their sizes, as text."""
        order = sorted(site.dims, key=lambda p: site.dims[p])
        plates = [self.plates[p] for p in order]
        return ", ".join(
            f"{p.size} values" if p.implicit else f"{p.name}[{p.size}]" for p in plates
        )

    def run(
        self,
        params: dict[str, Any],
        dynamic: tuple[Any, ...],
        extract: Callable[[Message], Any],
        latents: dict[str, Any] | None = None,
        wanted: frozenset[str] | None = None,
        wide: frozenset[str] | bool = False,
        lengths: dict[str, int] | None = None,
    ) -> dict[str, Any]:
        """Run the program with every latent at all its values; return `extract` of each site.

        `latents` gives values by name instead of enumerating them. Latents that are gathered
        across plates are enumerated by vmap: their axis then leads the extracted arrays, the
        first such latent outermost. `wanted` limits the sites. Sites of a scan are taken at one
        step, unless their distribution varies with the step or they are in `wide` (True: all
        are); the dimension of the steps then stands left of the plates. `lengths` receives the
        number of steps of each scan.
        """
        given = latents or {}
        outer = [s for s in self.slots if s.vmapped and not {s.name, s.origin} & given.keys()]
        steps = {n for n, s in self.sites.items() if s.timed}
        steps |= set(self.sites) if wide is True else set(wide or ())

        def inner(codes: tuple[Any, ...]) -> dict[str, Any]:
            coded = dict(zip([s.name for s in outer], codes, strict=True))
            found: dict[str, Any] = {}

            def value_of(msg: dict[str, Any], slot: str) -> Any:
                support = jnp.asarray(self.values[msg["name"]])
                if slot in coded:
                    # Without the dimensions of the latents that its law depends on: a program
                    # that indexes it, as in g[group], finds its plates alone.
                    site = self.sites[slot]
                    own = [-d for d in site.dims.values() if not site.scan or d != -self.depth]
                    batch = tuple(msg["fn"].batch_shape)
                    shape = batch[max(len(batch) - max(own, default=0), 0) :]
                    return jnp.full(shape, support[coded[slot]])
                return support.reshape((-1,) + (1,) * (-self.latent_dim(slot) - 1))

            def supply(msg: dict[str, Any]) -> Any:
                name = msg["name"]
                if name in params:
                    return jnp.asarray(params[name])
                if name in given:
                    return jnp.asarray(given[name])  # a program may index it by a tracer
                if self.sites[name].role is Role.LATENT:
                    return value_of(msg, name)
                return neutral_value(msg, 0)

            def earlier(lag: int) -> Supply:
                def supply_before(msg: dict[str, Any]) -> Any:
                    slot = before(msg["name"], lag)
                    return value_of(msg, slot) if slot in self.sites else neutral_value(msg, 0)

                return supply_before

            scans = iter(self.scans.values())

            def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
                scan = next(scans)
                known = {n: params[n] for n in scan.continuous if n in params}
                body = Body(runner, msg, known)
                if lengths is not None:
                    lengths[scan.time] = body.length
                scan = replace(scan, length=body.length)
                if any(n in given for n in scan.latents):
                    result, taken = _in_sequence(scan, body, given, extract, self.depth, wanted)
                else:
                    result, taken = _enumerated(
                        scan, bind(scan, body), extract, self.depth, supply, earlier, steps, wanted
                    )  # fmt: skip
                found.update(taken)
                return result

            messages = run_program(
                lambda p: self.arguments.call(p, dynamic), self.arguments.program, supply, on_scan
            )
            for name, message in messages.items():
                if wanted is None or name in wanted:
                    found[name] = extract(message)
            return found

        function = inner
        for i in reversed(range(len(outer))):
            function = _vmap_position(function, i, len(outer))
        return function(tuple(jnp.arange(s.size) for s in outer))


def _enumerated(
    scan: Scan,
    steps: Steps,
    extract: Callable[[Message], Any],
    depth: int,
    supply: Supply,
    earlier: Earlier,
    wide: set[str],
    wanted: frozenset[str] | None,
) -> tuple[Any, dict[str, Any]]:
    """The scan's value and what is extracted of its sites, states enumerated."""
    body = steps.body
    found: dict[str, Any] = {}

    def names(which: Callable[[str], tuple[str, ...]], sites: Any) -> dict[str, str]:
        return {
            site: name for site in sites for name in which(site) if wanted is None or name in wanted
        }

    def take(carry: Any, t: Any, chosen: dict[str, str]) -> dict[str, Any]:
        messages = body.step(carry, t, supply)[2]
        return {n: extract(replace(messages[site], name=n)) for site, n in chosen.items()}

    def both(chosen: dict[str, str], start: int, rolled: int, carry: Callable[[Any], Any]) -> None:
        single = {s: n for s, n in chosen.items() if n not in wide}
        if single:
            at = steps.at(start, earlier) if start < rolled else carry(start)
            found.update(settle(take(at, start, single), depth, False))
        every = {s: n for s, n in chosen.items() if n in wide}
        if every:
            stacked = steps.over(lambda c, t: take(c, t, every), start, rolled, earlier, carry)
            found.update(settle(stacked, depth, True))

    def from_states(t: Any) -> Any:
        return steps.carry_from(t, earlier)

    for k in range(min(scan.start, body.length)):
        chosen = names(lambda s, k=k: (at_step(s, k),), scan.pairs)
        if chosen:
            found.update(settle(take(steps.at(k, earlier), k, chosen), depth, False))
    if body.length > scan.start:
        both(names(lambda s: (scan.later(s),), scan.pairs), scan.start, scan.rolled, from_states)
    alone = names(lambda s: (s,), [s for s in scan.sites if s not in scan.pairs])
    both(alone, 0, scan.settled, steps.carry)
    if not scan.used:
        rows = (body.length,)
        ys = jax.tree.map(lambda a: jnp.zeros(rows + a.shape, a.dtype), scan.output)
        leaves = [jnp.zeros(a.shape, a.dtype) for a in scan.leaves]
        return body.result(jax.tree.unflatten(scan.treedef, leaves), ys), found
    return _returned(scan, steps, supply, earlier), found


def _returned(scan: Scan, steps: Steps, supply: Supply, earlier: Earlier) -> Any:
    """What the scan returns to the program: the carry after the last step as a function of the
    last states, and the outputs, which depend on no state."""
    body, last = steps.body, steps.body.length - 1
    early = last < scan.rolled
    carry = steps.at(last, earlier) if early else steps.carry_from(last, earlier)
    carry = body.step(carry, last, supply)[0]
    if not early:
        quiet = jax.tree.leaves(body.step(steps.carry(last), last, neutral_supply())[0])
        leaves = zip(scan.moving, jax.tree.leaves(carry), quiet, strict=True)
        carry = jax.tree.unflatten(scan.treedef, [c if m else q for m, c, q in leaves])

    def neutral(lag: int) -> Supply:
        return neutral_supply()

    def output(carry: Any, t: Any) -> Any:
        return body.step(carry, t, neutral_supply())[1]

    ys = steps.over(output, 0, scan.settled, neutral, steps.carry)
    return body.result(carry, ys)


def _in_sequence(
    scan: Scan,
    body: Body,
    given: dict[str, Any],
    extract: Callable[[Message], Any],
    depth: int,
    wanted: frozenset[str] | None,
) -> tuple[Any, dict[str, Any]]:
    """The same at given states, step after step, as NumPyro itself would run the program."""
    values = {n: jnp.asarray(given[n]) for n in scan.latents}

    def one(carry: Any, t: Any, begins: int | None = None) -> tuple[Any, Any]:
        def state(msg: dict[str, Any]) -> Any:
            if msg["name"] not in values:
                return neutral_value(msg, 0)
            return values[msg["name"]][t].reshape(msg["fn"].batch_shape)

        new, y, messages = body.step(carry, t, state)
        taken = {}
        for n in scan.sites:
            paired = scan.later(n) if begins is None else at_step(n, begins)
            name = paired if n in scan.pairs else n
            taken[n] = extract(replace(messages[n], name=name))
        return new, (taken, y)

    carry, pieces = body.init, []
    start = min(scan.start, body.length)
    for t in range(start):
        carry, piece = one(carry, t, t)
        pieces.append(piece)
    rest = None
    if body.length > start:
        after = jax.eval_shape(one, carry, start)[0]
        carry = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, after)

        def step(carry: Any, t: Any) -> tuple[Any, Any]:
            new, found = one(carry, t)
            return jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), carry, new), found

        carry, rest = jax.lax.scan(step, carry, jnp.arange(start, body.length))
    stacked = [jax.tree.map(lambda a: jnp.asarray(a)[None], piece) for piece in pieces]
    stacked += [rest] if rest is not None else []
    ys = jax.tree.map(joined, *(y for _, y in stacked))
    found: dict[str, Any] = {}
    for site in scan.sites:
        if site not in scan.pairs:
            every = jax.tree.map(joined, *(taken[site] for taken, _ in stacked))
            found[site] = settle(every, depth, True)
            continue
        for k, (taken, _) in enumerate(pieces):
            found[at_step(site, k)] = settle(taken[site], depth, False)
        if rest is not None:
            found[scan.later(site)] = settle(rest[0][site], depth, True)
    if wanted is not None:
        found = {n: v for n, v in found.items() if n in wanted}
    return body.result(carry, ys), found


def _vmap_position(function: Callable, i: int, n: int) -> Callable:
    axes = tuple(0 if j == i else None for j in range(n))
    return jax.vmap(function, in_axes=(axes,))


def _neutral_run(
    arguments: Arguments, dynamic: tuple[Any, ...], supply: Supply | None = None
) -> tuple[dict[str, Message], dict[str, Scan]]:
    """The program's sites at neutral values (those of a scan at its first step), and its scans."""
    scans: dict[str, Scan] = {}
    inside: dict[str, Message] = {}

    def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
        name = "time" if not scans else f"time {len(scans) + 1}"
        scan, messages, value = discover(Body(runner, msg), name, site_parts)
        scans[name] = scan
        inside.update(messages)
        return value

    messages = run_program(
        lambda p: arguments.call(p, dynamic), arguments.program, supply or neutral_supply(), on_scan
    )
    both = sorted(set(messages) & set(inside))
    if both:
        raise Refused(f"site name(s) {both} are used inside and outside of a scan.")
    return messages | inside, scans


def thin(arguments: Arguments) -> tuple[np.ndarray, ...]:
    """The data, with long arrays cut to their first rows: enough to read a structure from. All of
    them where the program has rows by something else, as by a number of its own."""
    longest = max((a.shape[0] for a in arguments.dynamic if a.ndim), default=0)
    if not arguments.traced or longest <= 2 * THIN_ROWS:
        return arguments.dynamic
    cut = tuple(a[:THIN_ROWS] if a.ndim and a.shape[0] == longest else a for a in arguments.dynamic)
    shapes = _unobserved_shapes(arguments, arguments.dynamic)
    return cut if shapes == _unobserved_shapes(arguments, cut) else arguments.dynamic


def _unobserved_shapes(arguments: Arguments, dynamic: tuple) -> dict[str, tuple] | None:
    """The shapes of the continuous unobserved sites; None where the program does not run, or its
    plates are not as long as its observations."""
    shapes: dict[str, tuple] = {}

    def run(given: tuple) -> int:
        for name, message in _neutral_run(arguments, given)[0].items():
            if message.kind == "param" or not (message.observed or is_discrete(message.fn)):
                shapes[name] = jnp.shape(message.value)
            elif message.observed:
                event = len(message.fn.event_shape)
                rows = jnp.shape(message.value)[: jnp.ndim(message.value) - event]
                jnp.broadcast_shapes(tuple(message.fn.batch_shape), rows)
        return 0

    try:
        jax.eval_shape(run, dynamic)
    except Exception:  # a program may raise anything where its rows do not fit
        return None
    return shapes


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
    kept: dict[str, Message] = {}
    scans: dict[str, Scan] = {}
    refusals: dict[str, str] = {}
    sized: set[str] = set()

    def run(dynamic: tuple) -> tuple[dict, dict, dict]:
        messages, found = _neutral_run(arguments, dynamic)
        for message in messages.values():
            _check_observed_shape(message)
        kept.clear()
        kept.update(messages)
        scans.clear()
        scans.update(found)
        refusals.clear()
        sized.clear()
        enumerated, supports, finite = {}, {}, {}
        for name, m in messages.items():
            if m.observed:
                continue
            if m.kind == "param":
                finite[name] = jnp.isfinite(m.value).all()
            elif is_discrete(m.fn):
                try:
                    support = finite_support(name, m.fn)
                    if isinstance(support, Interval) and support.is_traced:
                        sized.add(name)
                    enumerated[name] = support
                except ValueError as error:
                    refusals[name] = str(error)
            else:
                supports[name] = m.fn.support
                finite[name] = jnp.isfinite(m.value).all()
        return enumerated, supports, finite

    dynamic = tuple(jnp.asarray(a) for a in arguments.dynamic)
    failures: list[Exception] = []
    for form in arguments.forms():
        arguments = form  # `run` reads it
        arguments.refused()
        try:
            found = quick_jit(run)(dynamic) if arguments.traced else run(())
            if not arguments.refused():
                break
        except (NotImplementedError, Refused):
            raise
        except _CONCRETE_ERRORS as error:
            failures.append(error)
        except Exception as error:
            if not arguments.has_forms:
                raise _program_error(error, arguments) from error
            failures.append(error)
    else:
        told = [e for e in failures if not isinstance(e, _CONCRETE_ERRORS)] or failures[-1:]
        raise _program_error(told[0], arguments) from told[0]
    supports_of, supports, finite = jax.device_get(found)
    enumerated = {}
    for name, support in supports_of.items():
        try:
            enumerated[name] = listed(name, support)
        except ValueError as error:
            refusals[name] = str(error)
    return FirstRun(
        arguments, dict(kept), enumerated, dict(refusals), supports, finite, dict(scans),
        frozenset(sized),
    )  # fmt: skip


def _check_observed_shape(m: Message) -> None:
    """An observed value, its case weights and its distribution have to fit each other."""
    if not m.observed or m.kind != "sample" or is_factor(m.fn):
        return
    event, value = len(m.fn.event_shape), jnp.shape(m.value)
    batch, own = value[: len(value) - event], value[len(value) - event :]
    try:
        jnp.broadcast_shapes(tuple(m.fn.batch_shape), batch)
        jnp.broadcast_shapes(tuple(m.fn.event_shape), own)
    except ValueError:
        plates = ", ".join(f"'{name}' of {size}" for name, _, size in m.plates) or "none"
        raise ValueError(
            f"observed site '{m.name}': its data have shape {value}, expected "
            f"{(*m.fn.batch_shape, *m.fn.event_shape)} (plates: {plates}). Give the data and the "
            "arguments of the distribution the same number of rows."
        ) from None
    try:
        if m.scale is not None and not m.in_scan:
            shape = jnp.broadcast_shapes(tuple(m.fn.batch_shape), batch)
            jnp.broadcast_shapes(jnp.shape(m.scale), shape)
    except ValueError:
        raise ValueError(
            f"observed site '{m.name}': the weights of handlers.scale have shape "
            f"{jnp.shape(m.scale)}, expected {shape}, one for each row."
        ) from None


def _program_error(error: Exception, arguments: Arguments) -> Exception:
    text = str(error).split("\n")[0]
    if text.startswith("observed site '"):
        return type(error)(text + arguments.handed_over())
    if isinstance(error, (TypeError, ValueError)) and any(
        words in text for words in ("truth value of an array", "scalar array")
    ):
        names = _used_in_python(arguments)
        if names:
            return control_flow_error(names, error)
    about_shapes = isinstance(error, (TypeError, ValueError)) and any(
        word in text for word in ("shape", "broadcast", "dimension")
    )
    hint = ""
    if about_shapes:
        given = zip(arguments.labels, arguments.dynamic, strict=True)
        shapes = ", ".join(f"'{label}' {array.shape}" for label, array in given)
        hint = "; check that the shapes of the arguments fit its plates"
        hint += f" (received {shapes})" if shapes else ""
    if isinstance(error, (TypeError, AttributeError)) and _SEQUENCE.search(text):
        hint = "; write jnp.array([a, b]) where it computes with the list [a, b]"
    return ValueError(
        f"the program could not be executed: {type(error).__name__}: {text}{own_line(error)}. Run "
        f"it under numpyro.handlers.seed with the same arguments to see the full traceback{hint}."
        f"{arguments.handed_over()}"
    )


def _used_in_python(arguments: Arguments) -> list[str]:
    """The unobserved sites whose values the program needs as Python numbers: found by running it
    with one site after the other traced, and all else concrete."""
    seen: dict[str, Any] = {}

    def run(name: str, value: Any) -> jax.Array:
        neutral = neutral_supply()

        def supply(msg: dict[str, Any]) -> Any:
            own = neutral(msg)
            seen.setdefault(msg["name"], own)
            return value if msg["name"] == name else own

        _neutral_run(arguments, arguments.dynamic, supply)
        return jnp.zeros(())

    def fails(name: str, value: Any) -> bool:
        try:
            jax.vmap(lambda v: run(name, v))(jnp.asarray(value)[None])
        except _CONCRETE_ERRORS:
            return True
        except Exception:  # the program's own failure, met again: told by the caller
            return False
        return False

    fails("", 0.0)
    every = dict(seen)
    return [n for n, v in every.items() if fails(n, jnp.ravel(v)[0]) or fails(n, v)]


def own_line(error: Exception) -> str:
    """Where in the user's own code an exception comes from, as ", at file.py, line 3: `code`"."""
    libraries = tuple(f"{os.sep}{name}{os.sep}" for name in ("jax", "numpyro", "numpy", "pp_mlem"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folder = os.path.dirname(frame.filename) + os.sep
        inside = "site-packages" in folder or folder.endswith(libraries[-1])
        if not inside and not any(name in folder for name in libraries) and frame.line:
            where = os.path.basename(frame.filename)
            return f", at {where}, line {frame.lineno}: `{frame.line}`"
    return ""


def _batch_dims(message: Message) -> tuple[int, ...]:
    """Batch shape of a site, the observed value's own batch dimensions included."""
    shape = tuple(message.fn.batch_shape)
    if message.observed and not is_factor(message.fn):
        value = jnp.shape(message.value)
        batch = value[: len(value) - len(message.fn.event_shape)]
        try:
            return tuple(jnp.broadcast_shapes(shape, batch))
        except ValueError:
            raise ValueError(
                f"observed site '{message.name}': its data have shape {value}, its distribution "
                f"has batch shape {shape} and event shape {tuple(message.fn.event_shape)}. Check "
                "the plate sizes against the shape of the data."
            ) from None
    return shape


def _dims_of(message: Message, plates: dict[str, Plate], implicit: bool) -> dict[str, int]:
    dims = {name: dim for name, dim, _ in message.plates}
    for name, _, size in message.plates:
        known = plates.get(name)
        if known is not None and known.size != size:
            raise ValueError(
                f"plate '{name}' has size {size} at site '{message.name}' and {known.size} "
                "elsewhere. Use one size per plate name (subsampling is not supported)."
            )
        plates[name] = Plate(name, size)
    if implicit:
        taken = set(dims.values())
        batch = _batch_dims(message)
        for i, size in enumerate(reversed(batch)):
            alone = message.observed and i >= max((-d for d in taken), default=0)
            if -(i + 1) not in taken and (size > 1 or alone):
                name = f"dim {-(i + 1)} of {size}"
                plates[name] = Plate(name, size, implicit=True)
                dims[name] = -(i + 1)
        for name, dim in dims.items():
            size = batch[dim] if len(batch) >= -dim else 1
            if size not in (1, plates[name].size):
                raise ValueError(
                    f"site '{message.name}': batch size {size} in dimension {dim} does not fit "
                    f"plate '{name}' of size {plates[name].size}."
                )
    return dims


def _arrays(tree: Any) -> list[Any]:
    """The leaves that can be traced; a sparse matrix, for one, is none."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def site_parts(message: Message) -> dict[str, Any]:
    """The arrays that define a site: the distribution's arguments, value, masks and scale."""
    bare = unwrap(message.fn)
    parts: dict[str, Any] = {f"argument {k}": _arrays(v) for k, v in bare.fn.get_args().items()}
    parts["mask"] = bare.masks
    parts["scale"] = 0.0 if message.scale is None else message.scale
    if bare.hidden and not message.observed and is_discrete(bare.fn):
        return {"mask": (), "scale": parts["scale"]}  # nothing of its law counts
    parts["all"] = _arrays(bare.fn)
    if message.observed:
        parts["value"] = message.value
        if not is_factor(message.fn):
            try:
                parts["log_prob"] = log_density(bare.fn, message.value)
            except (TypeError, ValueError) as error:
                if isinstance(error, _CONCRETE_ERRORS):
                    raise
                raise Refused(
                    f"site '{message.name}' ({type(bare.fn).__name__}): NumPyro cannot compute its "
                    f"log density: {str(error).splitlines()[0]}"
                ) from error
    elif not is_discrete(bare.fn):
        parts["support"] = jax.tree.leaves(bare.fn.support)
    return parts


_DATA = "the data"


def _over_steps(name: str) -> str:
    return f"{name} at every step"


def _dependencies(
    arguments: Arguments, messages: dict[str, Message], scans: dict[str, Scan], dynamic: tuple
) -> tuple[dict[str, dict[str, frozenset[str]]], dict[str, str], bool]:
    """What each part of each factor depends on; for sites of a scan whose arguments vary with
    the step, whether they do so by "data" or by the step's number alone ("count"); and whether
    any site uses what a scan returns."""
    values = {
        n: np.zeros(jnp.shape(m.value), m.value.dtype)
        for n, m in messages.items()
        if not m.observed
    }
    states = [n for scan in scans.values() for n in scan.latents]
    values |= {
        before(n, lag): values[n]
        for scan in scans.values()
        for n in scan.latents
        for lag in range(1, max(scan.order, scan.settled) + 1)
    }
    values |= {_over_steps(n): values[n] for n in states}
    if scans:
        values |= {STEP: np.zeros((), int), END: np.zeros((), int)}

    def parts(**given: Any) -> dict[str, dict[str, Any]]:
        remaining = iter(scans.values())
        found: dict[str, dict[str, Any]] = {}

        def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
            scan, body = next(remaining), Body(runner, msg)

            def supply(msg: dict[str, Any]) -> Any:
                value = given[msg["name"]]
                return mark(value, given[STEP]) if msg["name"] in scan.continuous else value

            def earlier(lag: int) -> Supply:
                def before_it(msg: dict[str, Any]) -> Any:
                    name = msg["name"]
                    return supply(msg) if name in scan.continuous else given[before(name, lag)]

                return before_it

            def over_steps(msg: dict[str, Any]) -> Any:
                name = msg["name"]
                return supply(msg) if name in scan.continuous else given[_over_steps(name)]

            steps = bind(scan, body, supply, for_provenance=True)
            t = given[STEP]
            for k in range(min(scan.start, scan.length)) if scan.pairs else ():
                _, _, begin = body.step(steps.at(k, earlier), k, supply)
                found.update({at_step(n, k): site_parts(begin[n]) for n in scan.pairs})
            _, _, alone = body.step(steps.carry(t), t, supply)
            carry, _, after = body.step(steps.carry_from(t, earlier), t, supply)
            for site in scan.sites:
                if site not in scan.pairs:
                    found[site] = site_parts(alone[site])
                elif scan.length > scan.start:
                    found[scan.later(site)] = site_parts(after[site])
            leaves = zip(
                scan.moving, jax.tree.leaves(carry), jax.tree.leaves(steps.carry(t)), strict=True
            )
            carry = jax.tree.unflatten(scan.treedef, [c if m else q for m, c, q in leaves])
            y = body.step(steps.carry(t), t, over_steps)[1]
            ys = jax.tree.map(lambda a: jnp.broadcast_to(a, (scan.length, *jnp.shape(a))), y)
            carry, ys = jax.tree.map(lambda a: mark(a, given[END]), (carry, ys))
            return body.result(carry, ys)

        def supply(msg: dict[str, Any]) -> Any:
            return given[msg["name"]]

        outside = run_program(
            lambda p: arguments.call(p, given[_DATA]), arguments.program, supply, on_scan
        )
        return {n: site_parts(m) for n, m in outside.items() if m.kind == "sample"} | found

    flat = provenance(parts, values | {_DATA: dynamic})

    def union(tree: Any) -> frozenset[str]:
        leaves = jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, frozenset))
        return frozenset().union(*leaves)

    whole = {n: {part: union(tree) for part, tree in found.items()} for n, found in flat.items()}
    timed = {}
    for scan in scans.values():
        for site in scan.sites:
            family = family_of(innermost(messages[site].fn))
            known = {f"argument {k}" for k in family.known} if family else set()
            for name in scan.names(site):
                varying = [
                    d
                    for part, d in whole[name].items()
                    if part.startswith("argument") and part not in known and STEP in d
                ]
                unlike = scan.settled > 0 and name == site  # its first steps may be of another form
                if varying or unlike:
                    timed[name] = "data" if any(_DATA in d for d in varying) else "count"
    for name, found in whole.items():
        for state in states:
            if any(_over_steps(state) in d for d in found.values()):
                raise Refused(
                    f"site '{name}' depends on '{state}' at every step, by the output of the scan. "
                    "Put the site inside the body of the scan, where it meets one state."
                )
    tokens = {_DATA, STEP, END}
    used = any(END in d for found in whole.values() for d in found.values())
    clean = {n: {part: d - tokens for part, d in found.items()} for n, found in whole.items()}
    return clean, timed, used


def _deeper(
    scans: dict[str, Scan], dependencies: dict[str, dict[str, frozenset[str]]]
) -> dict[str, Scan]:
    """The scans with the states that sites outside of them meet before the last one."""
    inside = {name for scan in scans.values() for site in scan.sites for name in scan.names(site)}
    met = frozenset().union(
        *(d for n, found in dependencies.items() if n not in inside for d in found.values())
    )
    deeper = {}
    for key, scan in scans.items():
        lags = {
            n: lag + 1
            for n in scan.latents
            for lag in range(1, scan.order)
            if before(n, lag) in met
        }
        carried = {n: max(lags.get(n, 0), scan.carried.get(n, 0)) for n in scan.latents}
        deeper[key] = replace(scan, carried={n: lag for n, lag in carried.items() if lag})
    return deeper


def _refuse_recurrent(scans: dict[str, Scan], parameters: frozenset[str]) -> None:
    """A continuous site of a scan that depends on its own last value is a continuous state."""
    for scan in scans.values():
        for name in sorted(scan.recurrent - parameters):
            raise Refused(
                f"latent '{name}' is continuous and depends on its own value at the step before: a "
                "continuous state, which no structure can integrate out along a chain. Estimate "
                f'its values with Model(..., parameters={{"{name}"}}), as fit_map or fit_nuts on '
                "the joint density would, or make it discrete."
            )


def _parents(parts: dict[str, frozenset[str]], name: str) -> frozenset[str]:
    return frozenset().union(*parts.values(), frozenset()) - {name}


def read_program(
    arguments: Arguments, latents: frozenset[str], parameters: frozenset[str]
) -> tuple[Reading, tuple]:
    """Read the sites, roles and plates of a program; also return the (thinned) data used."""
    found = first_run(arguments)
    arguments, messages, scans = found.arguments, found.messages, found.scans
    dynamic = tuple(jnp.asarray(a) for a in thin(arguments)) if arguments.traced else ()
    try:
        dependencies, timed, used = _dependencies(arguments, messages, scans, arguments.dynamic)
        deeper = _deeper(scans, dependencies)
        if any(deeper[n].start > s.start for n, s in scans.items()):
            dependencies, timed, used = _dependencies(
                arguments, messages, deeper, arguments.dynamic
            )
        scans = deeper
    except _CONCRETE_ERRORS as error:
        raise control_flow_error(_used_in_python(arguments), error) from None
    scans = {n: replace(s, used=used) for n, s in scans.items()}
    scan_of = {site: scan for scan in scans.values() for site in scan.sites}
    parents = {}
    earlier_states = {
        before(n, lag)
        for scan in scans.values()
        for n in scan.latents
        for lag in range(1, max(scan.order, scan.settled) + 1)
    }
    for name in messages:
        factors = scan_of[name].names(name) if name in scan_of else (name,)
        every = frozenset().union(*(_parents(dependencies.get(f, {}), name) for f in factors))
        parents[name] = every - earlier_states
    _refuse_recurrent(scans, parameters)
    placed = {
        n: replace(m, plates=((scan_of[n].time, 0, scan_of[n].length), *m.plates))
        if n in scan_of
        else m
        for n, m in messages.items()
    }
    roles = assign_roles(placed, parents, latents, parameters, found.refusals)
    plates: dict[str, Plate] = {}
    dims: dict[str, dict[str, int]] = {}
    for name, message in messages.items():
        if message.kind != "param":
            role = roles[name][0]
            dims[name] = _dims_of(message, plates, implicit=role in (Role.OBSERVED, Role.LATENT))
    depth = max(
        (
            -d
            for n, placed in dims.items()
            if roles[n][0] in (Role.OBSERVED, Role.LATENT)
            for d in placed.values()
        ),
        default=0,
    )
    depth += bool(scans)
    for scan in scans.values():
        rest = max(scan.length - scan.start, 0)
        for name, size in ((scan.time, scan.length), (scan.rest, rest)):
            if name in plates:
                raise Refused(f"plate '{name}' has the name of the scan's steps; rename it.")
            plates[name] = Plate(name, size)
    sites: dict[str, Site] = {}
    for name, message in messages.items():
        role, reason = roles[name]
        if message.kind == "param":
            sites[name] = Site(
                name,
                role,
                reason,
                "param",
                prior=False,
                support=message.constraint,
                shape=jnp.shape(message.value),
            )
            continue
        bare = unwrap(message.fn)
        site = Site(
            name,
            role,
            reason,
            type(bare.fn).__name__,
            dims=dims[name],
            parents=parents[name],
            columns=bare.columns,
            event_shape=tuple(bare.fn.event_shape),
            size=len(found.enumerated[name]) if role is Role.LATENT else 0,
            support=found.supports[name] if role is Role.PARAMETER else None,
            shape=_shape_of(message, scan_of.get(name)) if role is Role.PARAMETER else (),
            law_of=name if role is Role.LATENT else "",
            hidden=role is Role.LATENT and bare.hidden,
        )
        if name in scan_of:
            sites |= _scan_sites(site, scan_of[name], depth, dependencies, timed)
        else:
            sites[name] = site
    _check_parameters(sites, found, dependencies)
    values = {n: found.enumerated[n] for n, s in sites.items() if s.role is Role.LATENT}
    reading = Reading(
        arguments, sites, plates, depth, dependencies, values, scans, found.sized & set(values)
    )
    reading = _mark_steady(reading, timed)
    _check_sizes(reading)
    return _mark_gathered(reading), dynamic


def _shape_of(message: Message, scan: Scan | None) -> tuple[int, ...]:
    """A parameter's shape; one that is sampled in a scan has a value for every step."""
    own = tuple(jnp.shape(message.value))
    return own if scan is None else (scan.length, *own)


def _scan_sites(
    site: Site,
    scan: Scan,
    depth: int,
    dependencies: dict[str, dict[str, frozenset[str]]],
    timed: dict[str, str],
) -> dict[str, Site]:
    """A site of a scan's body as sites with a dimension of steps, in two parts where it meets the
    carry; a state also one step earlier."""
    found: dict[str, Site] = {}
    over_steps = {scan.time: -depth, **site.dims}
    site = replace(site, scan=scan.time, origin=site.name)
    if site.role is Role.PARAMETER:
        return {site.name: replace(site, timed=True)}
    latent = site.role is Role.LATENT
    paired = site.name in scan.pairs
    after = {scan.rest: -depth, **site.dims}
    if latent and paired:
        found[site.name] = replace(site, dims=over_steps, law_of="")
    for lag in range(1, scan.carried.get(site.name, 0) + 1) if latent else ():
        found[before(site.name, lag)] = replace(
            site,
            name=before(site.name, lag),
            role=Role.BEFORE,
            reason=f"'{site.name}' {lag} step{'s' * (lag > 1)} earlier",
            dims=after,
            law_of="",
            lag=lag,
        )
    for step, name in enumerate(scan.names(site.name)):
        begins = paired and name != scan.later(site.name)
        found[name] = replace(
            site,
            name=name,
            role=Role.LAW if latent and paired else site.role,
            reason=site.reason
            if not paired
            else f"at step {step}"
            if begins
            else "at later steps, given the state before",
            dims=(site.dims if begins else after) if paired else over_steps,
            parents=_parents(dependencies[name], site.name),
            timed=name in timed,
            step=step if begins else None,
        )
    return found


def _mark_steady(reading: Reading, timed: dict[str, str]) -> Reading:
    """Sites whose arguments are computed from the step's number, but are the same at every step
    (as in jnp.where(t == 0, initial, transition[z]), after the first step), do not vary."""
    counted = frozenset(n for n, how in timed.items() if how == "count")
    if not counted:
        return reading
    space = reading.space
    rng = np.random.default_rng(5)

    def extract(message: Message) -> Any:
        return {
            k: message.placed(v, jnp.ndim(v)) for k, v in unwrap(message.fn).fn.get_args().items()
            if v is not None and jnp.issubdtype(jnp.result_type(v), jnp.number)
        }  # fmt: skip

    def spread(vector: Any, dynamic: tuple) -> dict[str, Any]:
        found = reading.run(
            space.constrain(vector), dynamic, extract, reading.zeros(), wanted=counted
        )
        return {
            n: jnp.asarray([jnp.any(a != a[:1]) for a in jax.tree.leaves(tree)]).any()
            for n, tree in found.items()
        }

    dynamic = tuple(jnp.asarray(a) for a in reading.arguments.dynamic)
    function = quick_jit(spread) if reading.arguments.traced else spread
    varies: dict[str, bool] = dict.fromkeys(counted, False)
    for _ in range(2):
        for n, v in function(jnp.asarray(rng.uniform(-1, 1, space.size)), dynamic).items():
            varies[n] = varies[n] or bool(v)
    sites = {
        n: replace(s, timed=False) if n in varies and not varies[n] else s
        for n, s in reading.sites.items()
    }
    return replace(reading, sites=sites)


def _check_parameters(
    sites: dict[str, Site], first: FirstRun, dependencies: dict[str, dict[str, frozenset[str]]]
) -> None:
    for site in sites.values():
        above = dependencies.get(site.name, {}).get("support", frozenset()) - {site.name}
        if site.role is Role.PARAMETER and above:
            told = ", ".join(f"'{n}'" for n in sorted(above))
            raise ValueError(
                f"parameter '{site.name}': its support depends on {told}, so that its "
                "unconstrained coordinates would mean something else at every value. Give it a "
                "support of its own and compute the rest: for Uniform(0, high), "
                f"'{site.name}' = high * u with u ~ Uniform(0, 1)."
            )
        if site.role is Role.PARAMETER and not np.all(first.finite[site.name]):
            raise ValueError(
                f"parameter '{site.name}': its support or initial value is not finite. Check the "
                "arguments of its prior for NaN and infinities."
            )


def _check_sizes(reading: Reading) -> None:
    """Refuse a site whose table over its latents could not be held, before running it."""
    names = {s.name for s in reading.slots}
    for site in (*reading.laws, *reading.observed):
        touched = sorted((site.parents | {site.law_of}) & names)
        entries = float(np.prod([float(reading.sites[v].size) for v in touched] or [1.0]))
        still = set() if site.timed or not site.scan else {p for p, d in site.dims.items()
                                                           if d == -reading.depth}  # fmt: skip
        rows = [float(reading.plates[p].size) for p in site.plates - still]
        entries *= float(np.prod(rows or [1.0]))
        if len(touched) > 1 and entries > TABLE_LIMIT:
            sizes = " x ".join(f"{v}: {reading.sites[v].size}" for v in touched)
            raise ValueError(
                f"site '{site.name}': summing its latents needs a table of {entries:.3g} entries "
                f"({sizes}, times its plates), more than {TABLE_LIMIT:.3g}. Use fewer values, or "
                "fewer latents that meet in one site."
            )


def control_flow_error(names: list[str], error: Exception) -> ValueError:
    """For a program that needs the value of an unobserved site while it runs."""
    told = ", ".join(f"'{n}'" for n in names) or "an unobserved site"
    text = str(error).splitlines()[0]
    if "__array__()" in text:
        return ValueError(
            f"the program hands the value of {told}, or another array of JAX's, to NumPy or in a "
            f"Python list to a distribution{own_line(error)}. Such values are not known while the "
            "program runs: write jnp.exp, jnp.array, ... for np.exp, np.array, ..., and "
            "jnp.array([a, b]) for the list [a, b]."
        )
    if "scalar index" in text or "__index__()" in text:
        return ValueError(
            f"the program uses the value of {told} in Python, as an index or number{own_line(error)}. "
            "Its value is not known while the program runs: index an array by it, as in "
            "jnp.stack(values)[z] for values[z], and replace range(z) by jnp.where over all its "
            "values."
        )
    return ValueError(
        f"the program uses the value of {told} in Python control flow or as a Python number"
        f"{own_line(error)}: {text} Its value is not known while the "
        "program runs: replace `if z:` by jnp.where(z, a, b), int(z) or range(z) by indexing "
        "with z or by jnp.where over all its values, and float(z) or math.exp(z) by z or jnp.exp(z)."
    )


def _mark_gathered(reading: Reading) -> Reading:
    """Latents that reach a site outside their plates (`g[group]`) are enumerated by vmap."""
    sites = dict(reading.sites)
    for latent in reading.latents:
        children = [
            s
            for s in sites.values()
            if latent.name in s.parents
            and s.role in (Role.OBSERVED, Role.LATENT, Role.LAW)
            and not latent.scan
        ]
        if any(not latent.plates <= child.plates for child in children):
            sites[latent.name] = replace(latent, vmapped=True, gathered=True)
    return replace(reading, sites=sites)
