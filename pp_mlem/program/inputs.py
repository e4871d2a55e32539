"""What data may not do to a program: reach a distribution as NaN, index beyond the end, make a scale
or a rate zero. Told by the argument's name and index, before anything is compiled."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.constants import held_by
from pp_mlem.program.dataflow import CASTS, MOVES, UNKNOWN, Lookup, Node, Values, flow, plain
from pp_mlem.program.densities import log_density
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import describe, is_simplex
from pp_mlem.program.trace import Message, is_array, is_factor, unwrap
from pp_mlem.program.zeros import Fixed

# Where an infinity has a meaning: an open bound, a category of probability zero.
INFINITE = frozenset({"low", "high", "logits", "log_factor", "loc_low", "loc_high"})
BY_CHANCE = 8  # numbers, of which fewer may be equal to others by chance
VALUE = ""  # among the parts of a site: what is observed
# Operations whose result may be infinite or NaN although what they are given is finite.
_WILD = frozenset(
    {"log", "log1p", "div", "rsqrt", "sqrt", "pow", "exp", "expm1", "lgamma", "digamma", "erf_inv",
     "tan", "atanh", "acosh", "asin", "acos", "cholesky", "integer_pow", "triangular_solve", "lu",
     "scan", "while", "cond"}
)  # fmt: skip
_PICKS = MOVES | CASTS | {"slice", "gather", "dynamic_slice", "rev"}
_KEEPS_POSITIVE = frozenset(
    {"mul", "div", "add", "sqrt", "rsqrt", "integer_pow", "square", "max", "min", "reduce_sum",
     "concatenate", "stack"}
)  # fmt: skip
_VECTORS = (type(constraints.simplex), type(constraints.positive_definite))


@dataclass(frozen=True)
class _Site:
    arguments: dict[str, Node]
    limits: dict[str, Any]  # the constraint of each argument
    masks: tuple[Node, ...]
    value: Node | None  # of an observed site
    layouts: dict[str, tuple[int, int]]  # own dimensions of each argument; those of the event

    def visible(self, part: str, cells: np.ndarray, found: dict[str, Any]) -> np.ndarray:
        """Which of these cells of an argument, or of the value, the masks do not hide."""
        rank, event = self.layouts[part]
        arrays = [cells]
        for mask in found["masks"]:
            shown = np.asarray(mask).astype(bool)
            arrays.append(shown.reshape(shown.shape + (1,) * event))
        return np.all(np.broadcast_arrays(*_aligned(arrays, cells.ndim - rank)), axis=0)


def _aligned(arrays: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Arrays of one site with as many dimensions each, behind the `steps` leading ones of a scan."""
    most = max(a.ndim for a in arrays)
    return [a.reshape(a.shape[:steps] + (1,) * (most - a.ndim) + a.shape[steps:]) for a in arrays]


def _own_arguments(fn: Any) -> dict[str, tuple[Any, Any]]:
    """(value, constraint) of each argument of a distribution, those of its parts included."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, value in fn.get_args().items():
        if isinstance(value, dist.Distribution):
            parts = _own_arguments(unwrap(value).fn)
            found |= {f"{name}.{k}": v for k, v in parts.items()}
        elif is_array(value):
            limit = fn.arg_constraints.get(name)
            found[name] = (value, limit if _is_settled(limit) else None)
    return found


def _is_settled(limit: Any) -> bool:
    try:
        return isinstance(limit, Constraint) and limit.event_dim >= 0
    except NotImplementedError:  # it depends on other arguments, as that of a Delta's value does
        return False


def _neutral(reading: Reading) -> tuple[dict, dict]:
    """Parameters inside their supports, and latents at their first value; states of a scan run
    through all of theirs where the program broadcasts."""
    params = {n: np.asarray(v) for n, v in neutral_parameters(reading, 0).items()}
    latents = {
        s.name: np.full(reading.plate_shape(s.dims), reading.values[s.name][0])
        for s in reading.latents
        if not s.scan or s.vmapped
    }
    return params, latents


def _is_positive(support: Any) -> bool:
    lower = getattr(_base(support), "lower_bound", None)
    known = lower is not None and not isinstance(lower, jax.core.Tracer)
    simplex = isinstance(_base(support), type(constraints.simplex))
    return simplex or (known and bool(np.all(np.asarray(lower) >= 0)))


def _base(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _remedy(observed: str, reader: str) -> str:
    if observed and observed != reader:
        return (
            f"A missing value of '{observed}' that enters '{reader}' cannot be integrated out: drop "
            "these rows, mask both sites there, or fill it in."
        )
    if observed:
        return (
            "A missing value that enters later steps cannot be integrated out: drop these rows, or "
            "fill in what is carried on."
        )
    return "NaN means missing in an observation only: drop these rows, or fill them in."


class _Held:
    """Arrays that reach a program without being traced: of its arguments, where it needs concrete
    values, and of its closure. Known by their values, which are constants of the trace."""

    def __init__(self, arguments: Arguments) -> None:
        self.traced = len(arguments.dynamic) if arguments.traced else 0
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []
        self.numbers: dict[str, int | float] = {}
        for name, value in arguments.untraced().items():
            self._add(f"argument '{name}'", value)
        for name, value in held_by(arguments.program).items():
            self._add(f"constant {name} of the program", value)
        self.flawed = 2 << (self.traced + len(self.names))

    def _add(self, name: str, value: Any) -> None:
        if np.ndim(value) == 0:
            self.numbers[name] = np.asarray(value).item()
        elif np.size(value) > 1 and np.asarray(value).dtype.kind in "biuf":
            self.names.append(name)
            self.arrays.append(np.asarray(value))

    def of(self, array: np.ndarray) -> tuple[int, np.ndarray]:
        """The bit of the first of them with these values, and the values as they were: JAX adds the
        size to negative indices that are constants."""
        whole = array.dtype.kind in "iu"
        for i, own in enumerate(self.arrays):
            if own.shape != array.shape or (own.dtype.kind in "iu") != whole:
                continue
            own = own.astype(array.dtype)
            negative = own < 0 if whole and own.size >= BY_CHANCE else np.zeros((), bool)
            added = (array - own)[negative][0] if negative.any() else 0
            same = np.where(negative, own + added, own) if added else own
            if np.array_equal(same, array, equal_nan=array.dtype.kind == "f"):
                return 2 << (self.traced + i), own
        return 0, array

    def behind(self, node: Node) -> list[str]:
        return [n for i, n in enumerate(self.names) if node.depends & (2 << (self.traced + i))]

    def number(self, value: Any) -> str:
        """The only one of the numbers that has this value and type, if there is only one."""
        item = np.asarray(value).item()
        same = [n for n, v in self.numbers.items() if type(v) is type(item) and v == item]
        return same[0] if len(same) == 1 else ""


class Inputs:
    """The checks of a program's arguments; made once per structure, run on each set of data."""

    def __init__(self, reading: Reading) -> None:
        limits: dict[str, dict[str, Any]] = {}
        layouts: dict[str, dict[str, tuple[int, int]]] = {}

        def extract(m: Message) -> dict[str, Any]:
            if m.kind != "sample":
                return {}
            bare = unwrap(m.fn)
            own = _own_arguments(bare.fn)
            limits[m.name] = {k: limit for k, (_, limit) in own.items()}
            layouts[m.name] = {
                k: (jnp.ndim(v), getattr(limit, "event_dim", 0)) for k, (v, limit) in own.items()
            }
            value = None
            if m.observed and not is_factor(m.fn):
                value = m.placed(jnp.asarray(m.value), jnp.ndim(m.value))
                layouts[m.name][VALUE] = jnp.ndim(m.value), len(bare.fn.event_shape)
            return {
                "value": value,
                "arguments": {
                    k: m.placed(jnp.asarray(v), jnp.ndim(v)) for k, (v, _) in own.items()
                },
                "masks": tuple(m.placed(mask, jnp.ndim(mask)) for mask in bare.masks),
            }

        def run(params: dict, latents: dict, dynamic: tuple) -> dict[str, Any]:
            return reading.run(params, dynamic, extract, latents, wide=True)

        self.run = run
        self._densities: dict[frozenset[str], Any] = {}
        self.neutral = _neutral(reading)
        dynamic = reading.arguments.device_arrays()
        closed, shapes = jax.make_jaxpr(run, return_shape=True)(*self.neutral, dynamic)
        params, latents = self.neutral
        signs = {s.name: _is_positive(s.support) for s in reading.space.sites}
        positive = [signs[n] for n in sorted(params)] + [False] * len(latents)
        bits = [UNKNOWN] * len(positive) + [2 << i for i in range(len(dynamic))]
        self.held = _Held(reading.arguments)
        nodes, self.lookups = flow(
            closed, bits, positive + [False] * len(dynamic), self.held.of, self.held.flawed
        )
        self.reading = reading
        tree = jax.tree.unflatten(jax.tree.structure(shapes), nodes)
        self.sites = {
            name: _Site(
                site["arguments"], limits[name], tuple(site["masks"]), site["value"], layouts[name]
            )
            for name, site in tree.items()
            if site
        }

    def densities(self, names: frozenset[str], dynamic: tuple) -> dict[str, Any]:
        """Log densities of observed sites, laid out as their arguments are."""

        def extract(m: Message) -> Any:
            log = log_density(unwrap(m.fn).fn, m.value)
            return m.placed(log, jnp.ndim(log))

        def run(params: dict, latents: dict, dynamic: tuple) -> dict[str, Any]:
            return self.reading.run(params, dynamic, extract, latents, wanted=names, wide=True)

        function = self._densities.setdefault(names, quick_jit(run))  # compiled once
        return function(*self.neutral, tuple(jnp.asarray(a) for a in dynamic))

    def check(self, arguments: Arguments) -> Arguments:
        """Raise ValueError where data reach a distribution or an index as they must not.

        Returns the arguments with NaN filled in where only what is masked reads it: a gradient
        through NaN is NaN, whatever a mask hides.
        """
        one = _OneCheck(self, arguments)
        dynamic = one.finite()
        one.lookups()
        one.limits()
        one.possible()
        return arguments if dynamic is None else replace(arguments, dynamic=dynamic)


@dataclass(frozen=True)
class Unchecked:
    """In place of the checks, where the program does not run with its latents enumerated."""

    reason: str

    def check(self, arguments: Arguments) -> Arguments:
        return arguments

    def tell(self) -> None:
        warnings.warn(
            "the data of this program are not checked (NaN that reaches a distribution, indices "
            f"beyond the end, scales of zero): it could not be followed: {self.reason}",
            stacklevel=3,
        )


def read_inputs(reading: Reading) -> Inputs | Unchecked:
    """The checks of a program's arguments. Where it cannot run with its latents enumerated,
    `read_factors` tells of it; if that runs, what is not checked is to be told."""
    for way in (reading, reading.mapped):
        try:
            return Inputs(way)
        except Exception as error:  # a program may raise anything
            reason = str(error).strip().splitlines() or [""]
            told = f"{type(error).__name__}: {reason[0]}"
    return Unchecked(told)


class _OneCheck:
    """The checks on one set of data."""

    def __init__(self, inputs: Inputs, arguments: Arguments) -> None:
        self.inputs, self.labels = inputs, arguments.labels
        self.dynamic = arguments.dynamic if arguments.traced else ()
        self.values = Values(self.dynamic)
        self._bad: dict[int, bool] = {}
        self._sign: dict[int, bool] = {}
        self._product: dict[int, bool] = {}
        self.zeros = Fixed(self.values, 0.0)
        self.minus_infinities = Fixed(self.values, -np.inf)

    # --- words ------------------------------------------------------------------------------

    def _sources(self, node: Node) -> str:
        names = [f"'{n}'" for i, n in enumerate(self.labels) if node.depends & (2 << i)]
        names = names if self.dynamic else []
        told = [f"argument {', '.join(names)}"] if names else []
        told += self.inputs.held.behind(node)
        if told:
            return " and ".join(told)
        value = self.values.of(node) if node.known else np.zeros(0)
        equal = self.inputs.held.number(value) if np.size(value) == 1 else ""
        return "a constant of the program" + (f" (equal to {equal})" if equal else "")

    def _cell(self, node: Node, bad: np.ndarray) -> str:
        """Where a node is bad first: by the argument's own index if it is only laid out anew."""
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        value = np.asarray(self.values.of(node))[where]  # of a vector, all of it
        source = node
        while source.operation in _PICKS:
            source = source.inputs[0]
        held = source.operation in ("input", "constant") and source.shape and not np.ndim(value)
        if source is not node and held:  # by its place in the argument
            array = np.asarray(self.values.of(source))
            places = np.argwhere(np.isnan(array) if value != value else array == value)
            if len(places):
                node, where = source, tuple(int(i) for i in places[0])
        made = "" if node.operation in ("input", "constant") else "an array computed from "
        place = f" at index {where}" if where else ""
        return f"{made}{self._sources(node)}: the value {value}{place}"

    def _hidden(self, sites: list[str], shape: tuple[int, ...]) -> np.ndarray:
        """Cells of an array that every one of these sites masks."""
        hidden = np.ones(shape, bool)
        for name in sites:
            own = np.zeros(shape, bool)
            for mask in self.inputs.sites[name].masks:
                if mask.known:
                    shown = np.squeeze(np.asarray(self.values.of(mask)).astype(bool))
                    if np.squeeze(own).shape == shown.shape:
                        own |= ~shown.reshape(shape)
            hidden &= own
        return hidden

    # --- NaN and infinities -----------------------------------------------------------------

    def finite(self) -> tuple[np.ndarray, ...] | None:
        """No NaN, and no infinity without a meaning, may reach an argument of a distribution.

        Returns the data with NaN filled in where none of it is shown, if there is such NaN."""
        suspects = {
            (name, argument): node
            for name, site in self.inputs.sites.items()
            for argument, node in site.arguments.items()
            if self._may_be_bad(node)
        }
        if not suspects:
            return None
        run = quick_jit(self.inputs.run)
        results = self._run(run, self.dynamic)
        found = {key: self._flaws(results, *key) for key in suspects}
        for (name, argument), bad in found.items():
            if self.inputs.sites[name].visible(argument, bad, results[name]).any():
                self._refuse(run, results, name, argument, suspects[name, argument])
        behind = {key: suspects[key] for key, bad in found.items() if bad.any()}
        return self._filled(run, results, behind) if behind else None

    def _refuse(self, run: Any, results: dict, name: str, argument: str, node: Node) -> None:
        site = self.inputs.sites[name]

        def count(found: dict) -> int:
            bad = self._flaws(found, name, argument)
            return int(site.visible(argument, bad, found[name]).sum())

        every = count(results)
        for i, array in enumerate(self.dynamic):
            flaw = ~np.isfinite(array) if array.dtype.kind in "fc" else np.zeros((), bool)
            if not (node.depends & (2 << i) and flaw.any()):
                continue
            places = np.argwhere(flaw)

            def counts_less(many: int, i: int = i, places: np.ndarray = places) -> bool:
                """Whether less is flawed once the first flaws of this array are mended."""
                mended = [np.array(a) for a in self.dynamic]
                mended[i][tuple(places[:many].T)] = 1.0
                return count(self._run(run, tuple(mended))) < every

            if counts_less(len(places)):
                first = bisect_left(range(1, len(places) + 1), True, key=counts_less)
                where = tuple(int(j) for j in places[first])
                observed = self._observed_from(results, 2 << i)
                told = f" (observed at site '{observed}')" if observed else ""
                raise ValueError(
                    f"argument '{self.labels[i]}'{told}: the value {array[where]} at index {where} "
                    f"reaches {argument} of site '{name}', which has to be finite. "
                    + _remedy(observed, name)
                )
        divisor = self._zero_divisor(node)
        if divisor is not None:
            zeros = np.asarray(self.values.of(divisor)) == 0
            raise ValueError(
                f"site '{name}': {self._cell(divisor, zeros)} divides what reaches its "
                f"{argument}, which has to be finite. Correct the data, or drop these rows."
            )
        observed = self._observed_from(results, 0)
        culprit = self._computed_flaw(node)
        if observed and (culprit is None or culprit.operation == "constant"):
            value = np.squeeze(np.asarray(results[observed]["value"]))
            where = tuple(int(j) for j in np.argwhere(np.isnan(value))[0])
            raise ValueError(
                f"observed site '{observed}': the value nan at index {where} reaches {argument} of "
                f"site '{name}', which has to be finite. " + _remedy(observed, name)
            )
        if culprit is not None:
            flaw = ~np.isfinite(self.values.of(culprit))
            if culprit.operation == "constant":
                raise ValueError(
                    f"{self._cell(culprit, flaw)} reaches {argument} of site '{name}', which has to "
                    f"be finite. {_remedy('', name)}"
                )
            where = tuple(int(j) for j in np.argwhere(flaw)[0])
            raise ValueError(
                f"site '{name}': {self.values.of(culprit)[where]} at index {where} of what is "
                f"computed ({culprit.operation}) from {self._sources(culprit)} reaches its "
                f"{argument}, which has to be finite. Look for log of 0, 0 / 0 and the like in "
                "the data."
            )

    def _filled(
        self, run: Any, results: dict, behind: dict[tuple[str, str], Node]
    ) -> tuple[np.ndarray, ...]:
        """The data with NaN filled in that reaches nothing shown; refused where the masks, or what
        is shown, would be another."""
        filled = list(self.dynamic)
        for i, other in enumerate(without_missing(self.dynamic)):
            if any(node.depends & (2 << i) for node in behind.values()):
                filled[i] = np.asarray(other)
        again = self._run(run, tuple(filled))
        for name, site in self.inputs.sites.items():
            before, after = results[name], again[name]
            same = all(map(np.array_equal, before["masks"], after["masks"]))
            parts = {k: (before["arguments"][k], after["arguments"][k]) for k in site.arguments}
            if site.value is not None:
                parts[VALUE] = before["value"], after["value"]
            for part, (old, new) in parts.items():
                old, new = np.asarray(old), np.asarray(new)
                moved = (old != new) & ~((old != old) & (new != new))
                same = same and not site.visible(part, moved, before).any()
            bad = any(self._flaws(again, n, a).any() for n, a in behind if n == name)
            if not same or bad:
                (reader, argument), node = next(iter(behind.items()))
                source = self._sources(node)
                raise ValueError(
                    f"{source}: NaN reaches {argument} of site '{reader}' under a mask. The mask "
                    "hides the value but not the gradient, which is NaN. Fill it in with any "
                    "number before it is used, as in jnp.where(jnp.isnan(y), 0.0, y), and keep "
                    "the mask."
                )
        return tuple(filled)

    def _observed_from(self, results: dict, bit: int) -> str:
        """The first observed site with NaN whose value is made from this array of data alone (0:
        from constants)."""
        data = sum(2 << i for i in range(len(self.dynamic)))
        for name, site in self.inputs.sites.items():
            if site.value is not None and site.value.depends & data == bit:
                value = np.asarray(results[name]["value"])
                if value.dtype.kind == "f" and np.isnan(value).any():
                    return name
        return ""

    def _run(self, run: Any, dynamic: tuple) -> dict[str, Any]:
        return run(*self.inputs.neutral, tuple(jnp.asarray(a) for a in dynamic))

    def _flaws(self, results: dict, name: str, argument: str) -> np.ndarray:
        value = np.asarray(results[name]["arguments"][argument])
        node = self.inputs.sites[name].arguments[argument]
        infinite = argument.split(".")[-1] in INFINITE and not self._multiplied(node)
        return np.isnan(value) if infinite else ~np.isfinite(value)

    def _multiplied(self, node: Node) -> bool:
        """Whether an infinity of the data is multiplied by a parameter or latent on its way to a
        node: then it is no bound and no probability of zero."""
        if node.known:
            return False
        if id(node) not in self._product:
            products = node.operation in ("mul", "dot_general", "div") and any(
                n.known and self._may_be_bad(n) for n in node.inputs
            )
            self._product[id(node)] = products or any([self._multiplied(n) for n in node.inputs])
        return self._product[id(node)]

    def _zero_divisor(self, node: Node) -> Node | None:
        """What is computed from data alone, is zero somewhere, and divides on the way to a node."""
        if node.operation == "div" and self._divides_by_zero(node):
            return node.inputs[1]
        behind = (self._zero_divisor(n) for n in node.inputs if not n.known and self._may_be_bad(n))
        return next((n for n in behind if n is not None), None)

    def _divides_by_zero(self, node: Node) -> bool:
        divisor = node.inputs[1]
        from_data = divisor.known and divisor.depends
        return bool(from_data and np.any(np.asarray(self.values.of(divisor)) == 0))

    def _may_be_bad(self, node: Node) -> bool:
        """Whether something that depends on data alone and is not finite flows into a node."""
        if not node.depends & ~UNKNOWN and node.operation != "constant":
            return False
        if id(node) not in self._bad:
            self._bad[id(node)] = self._look(node)
        return self._bad[id(node)]

    def _look(self, node: Node) -> bool:
        if node.operation == "constant":
            known = self.dynamic or not node.shape
            flawed = node.depends & self.inputs.held.flawed
            return bool(flawed) if known else self._flawed(node)
        if getattr(node.dtype, "kind", "f") not in "fc":
            return False
        if node.operation == "input":
            return node.known and self._flawed(node)
        if node.known and node.operation in _WILD:
            return self._flawed(node)
        if node.operation == "div" and self._divides_by_zero(node):
            return True
        return any([self._may_be_bad(n) for n in node.inputs])

    def _flawed(self, node: Node) -> bool:
        value = np.asarray(self.values.of(node))
        return value.dtype.kind in "fc" and not np.all(np.isfinite(value))

    def _computed_flaw(self, node: Node) -> Node | None:
        """The first operation on data whose result is not finite, behind a node."""
        for inner in node.inputs:
            if self._may_be_bad(inner):
                return self._computed_flaw(inner) or (inner if inner.known else None)
        return node if node.known and self._flawed(node) else None

    # --- indices ----------------------------------------------------------------------------

    def lookups(self) -> None:
        """No index that depends on data may lie beyond what it indexes, nor count from the end."""
        for lookup in self.inputs.lookups:
            index = np.asarray(self.values.of(lookup.index))
            bad = ~((index >= 0) & ((index < lookup.size) | lookup.ends))  # NaN, too
            if not bad.any():
                continue
            sites = self._readers(lookup)
            bad &= ~self._hidden(sites, bad.shape)
            if not sites or not bad.any():
                continue
            where = self._cell(lookup.index, bad)
            missing = bool(np.isnan(index[bad]).any()) if index.dtype.kind == "f" else False
            remedy = (
                "A missing value is no index: drop these rows, mask them, or fill them in."
                if missing
                else "A missing code (-1 of pandas.factorize) is no group: drop these rows, or mask them."
                if index[bad].min() < 0
                else "Count from 0, and make the array as long as there are groups."
            )
            raise ValueError(
                f"{where} is used as an index into an array of {lookup.size} places (at site "
                f"'{sites[0]}'), expected 0 to {lookup.size - 1}. {remedy}"
            )

    def _readers(self, lookup: Lookup) -> list[str]:
        return [
            name
            for name, site in self.inputs.sites.items()
            if any(node.depends & lookup.bit for node in site.arguments.values())
        ]

    # --- limits of arguments ----------------------------------------------------------------

    def limits(self) -> None:
        """Known arguments keep their constraints; known factors of a positive one are positive."""
        for name, site in self.inputs.sites.items():
            for argument, node in site.arguments.items():
                limit = site.limits[argument]
                if limit is None:
                    continue
                if node.known:
                    self._known(name, argument, node, limit)
                elif _is_positive(limit) and not hasattr(_base(limit), "upper_bound"):
                    self._factor(name, argument, node)

    def _known(self, site: str, argument: str, node: Node, limit: Any) -> None:
        base = _base(limit)
        traced = any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(base))
        single = base.event_dim == 0
        if (
            argument.split(".")[-1] in INFINITE
            or traced
            or not (single or isinstance(base, _VECTORS))
        ):
            return
        node = plain(node) if single else node
        value = np.asarray(self.values.of(node))
        bad = ~np.asarray(base(value))
        bad = bad & ~self._hidden([site], bad.shape)
        if bad.any():
            where = self._cell(node, bad)
            sums = value[bad].sum(-1) if is_simplex(limit) else np.ones(1)
            if not np.allclose(sums, 1.0):
                raise ValueError(
                    f"{where} is {argument} of site '{site}': the probabilities sum to "
                    f"{sums[0]:.6g} instead of one. Divide each row by its sum, or pass logits=."
                )
            raise ValueError(
                f"{where} is {argument} of site '{site}', which has to be {describe(limit)}. Correct "
                "the data, or mask these rows."
            )

    def _factor(self, site: str, argument: str, node: Node) -> None:
        """What multiplies something positive has to be positive itself."""
        if node.known:
            node = plain(node)
            if not node.depends & ~UNKNOWN:
                return
            value = np.asarray(self.values.of(node))
            bad = ~(value > 0) & ~self._hidden([site], value.shape)
            if bad.any():
                raise ValueError(
                    f"{self._cell(node, bad)} is a factor of {argument} of site '{site}', which has "
                    "to be positive. Correct the data, or mask these rows."
                )
        elif node.operation in MOVES or node.operation in CASTS:
            self._factor(site, argument, node.inputs[0])
        elif node.operation in ("mul", "div"):
            left, right = node.inputs
            if self._always_positive(left):
                self._factor(site, argument, right)
            elif self._always_positive(right):
                self._factor(site, argument, left)

    # --- observations of probability zero ---------------------------------------------------

    def possible(self) -> None:
        """No value may be observed whose probability is known to be zero, whatever the parameters
        and latents are."""
        edges: dict[str, dict[str, np.ndarray]] = {}
        for name, site in self.inputs.sites.items():
            if site.value is not None:
                parts = {a: self._edge(a, n, site.limits[a]) for a, n in site.arguments.items()}
                found = {a: cells for a, cells in parts.items() if cells is not None}
                edges |= {name: found} if found else {}
        if not edges:
            return
        results = self.inputs.densities(frozenset(edges), self.dynamic)
        for name, found in edges.items():
            log = np.asarray(results[name])
            for argument, cells in found.items():
                self._refuse_impossible(name, argument, cells, log)

    def _edge(self, argument: str, node: Node, limit: Any) -> np.ndarray | None:
        """Log densities below which a value has probability zero, where an argument is at a value
        that gives something probability zero for certain; NaN elsewhere."""
        # NumPyro has the smallest positive number for 0 in some logarithms, the largest below 1.
        number = np.finfo(node.dtype if node.dtype.kind == "f" else float)
        zero = one = None
        base = _base(limit) if limit is not None else None
        lower, upper = (getattr(base, b, None) for b in ("lower_bound", "upper_bound"))
        discrete = getattr(base, "is_discrete", False)
        if argument.split(".")[-1] == "logits":
            zero = self.minus_infinities.of(node)
        elif isinstance(base, type(constraints.simplex)):
            zero = self.zeros.of(node)
        elif isinstance(lower, (int, float)) and lower == 0 and not discrete:
            zero = self.zeros.of(node)
            if node.known and isinstance(upper, (int, float)) and upper == 1:
                one = np.asarray(self.values.of(node)) == 1
        found = np.full(node.shape, np.nan)
        if one is not None:
            found[one] = 0.5 * np.log(number.eps)
        if zero is not None:
            found[zero] = 0.5 * np.log(number.tiny)
        return None if np.isnan(found).all() else found

    def _refuse_impossible(
        self, name: str, argument: str, cells: np.ndarray, log: np.ndarray
    ) -> None:
        site, depth = self.inputs.sites[name], self.inputs.reading.depth
        if not all(m.known for m in site.masks):  # a latent's mask may hide it
            return
        masks = [np.asarray(self.values.of(m)).astype(bool) for m in site.masks]
        rank, event = site.layouts[argument]
        steps = cells.ndim - rank
        own_axes = tuple(range(cells.ndim - event, cells.ndim))
        cells = np.fmax.reduce(cells, own_axes) if event else cells
        plates = np.ones((1,) * (steps + depth), bool)
        limit, log, *shown = _aligned([cells, log, plates, *masks], steps)
        bad = np.all(np.broadcast_arrays(log < limit, *shown), axis=0)
        bad = bad.all(tuple(range(steps, bad.ndim - depth)))  # over the values of latents
        if not bad.any():
            return
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        where = (where[0], *where[steps + 1 :]) if steps else where
        _, own = site.layouts[VALUE]
        batch = max(np.ndim(self.values.of(site.value)) - max(steps - 1, 0) - own, 0)
        index = where[len(where) - batch :]
        raise ValueError(
            f"observed site '{name}': what is observed at index {index} has probability zero "
            f"whatever the parameters are, by {argument} from {self._sources(site.arguments[argument])}"
            ": the log-likelihood would be minus infinity everywhere. Correct the data, mask these "
            f"rows, or keep {argument} away from what excludes them."
        )

    def _always_positive(self, node: Node) -> bool:
        if id(node) not in self._sign:
            self._sign[id(node)] = self._is_positive(node)
        return self._sign[id(node)]

    def _is_positive(self, node: Node) -> bool:
        if node.known:
            value = np.asarray(self.values.of(node))
            return value.dtype.kind in "iuf" and bool(np.all(value > 0))
        if node.operation == "input":
            return node.params["positive"]
        if node.operation in ("exp", "logistic"):
            return True
        if node.operation in ("gather", "dynamic_slice", *MOVES, *CASTS, "slice"):
            return self._always_positive(node.inputs[0])
        known = node.operation in _KEEPS_POSITIVE and bool(node.inputs)
        return known and all(self._always_positive(n) for n in node.inputs)
