"""What data may not do to a program: reach a distribution as NaN, index beyond the end, make a scale
or a rate zero. Told by the argument's name and index, before anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint

from pp_mlem.precision import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.dataflow import CASTS, MOVES, UNKNOWN, Lookup, Node, Values, flow, plain
from pp_mlem.program.gathers import neutral_parameters
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import describe, is_simplex
from pp_mlem.program.trace import Message, unwrap

# Where an infinity has a meaning: an open bound, a category of probability zero.
INFINITE = frozenset({"low", "high", "logits", "log_factor", "loc_low", "loc_high"})
# Operations whose result may be infinite or NaN although what they are given is finite.
_WILD = frozenset(
    {"log", "log1p", "div", "rsqrt", "sqrt", "pow", "exp", "expm1", "lgamma", "digamma", "erf_inv",
     "tan", "atanh", "acosh", "asin", "acos", "cholesky", "integer_pow", "triangular_solve", "lu",
     "scan", "while", "cond"}
)  # fmt: skip
_PICKS = MOVES | CASTS | {"slice", "gather", "dynamic_slice", "rev"}
_KEEPS_POSITIVE = frozenset(
    {"mul", "div", "add", "sqrt", "rsqrt", "integer_pow", "square", "max", "min", "reduce_sum",
     "concatenate"}
)  # fmt: skip
_VECTORS = (type(constraints.simplex), type(constraints.positive_definite))


@dataclass(frozen=True)
class _Site:
    arguments: dict[str, Node]
    limits: dict[str, Any]  # the constraint of each argument
    masks: tuple[Node, ...]


def _own_arguments(fn: Any) -> dict[str, tuple[Any, Any]]:
    """(value, constraint) of each argument of a distribution, those of its parts included."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, value in fn.get_args().items():
        if isinstance(value, dist.Distribution):
            parts = _own_arguments(unwrap(value).fn)
            found |= {f"{name}.{k}": v for k, v in parts.items()}
        elif value is not None and jax.tree.structure(value) == jax.tree.structure(0):
            limit = fn.arg_constraints.get(name)
            found[name] = (value, limit if isinstance(limit, Constraint) else None)
    return found


def _neutral(reading: Reading) -> tuple[dict, dict]:
    """Parameters inside their supports, and every latent outside of a scan at its first value."""
    params = {n: np.asarray(v) for n, v in neutral_parameters(reading, 0).items()}
    latents = {
        s.name: np.full(reading.plate_shape(s.dims), reading.values[s.name][0])
        for s in reading.latents
        if not s.scan
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


class Inputs:
    """The checks of a program's arguments; made once per structure, run on each set of data."""

    def __init__(self, reading: Reading) -> None:
        limits: dict[str, dict[str, Any]] = {}

        def extract(m: Message) -> dict[str, Any]:
            if m.kind != "sample":
                return {}
            bare = unwrap(m.fn)
            own = _own_arguments(bare.fn)
            limits[m.name] = {k: limit for k, (_, limit) in own.items()}
            return {
                "arguments": {k: m.placed(jnp.asarray(v), jnp.ndim(v)) for k, (v, _) in own.items()},
                "masks": tuple(m.placed(mask, jnp.ndim(mask)) for mask in bare.masks),
            }

        def run(params: dict, latents: dict, dynamic: tuple) -> dict[str, Any]:
            return reading.run(params, dynamic, extract, latents, wide=True)

        self.run = run
        self.neutral = _neutral(reading)
        dynamic = reading.arguments.device_arrays()
        closed, shapes = jax.make_jaxpr(run, return_shape=True)(*self.neutral, dynamic)
        params, latents = self.neutral
        signs = {s.name: _is_positive(s.support) for s in reading.space.sites}
        positive = [signs[n] for n in sorted(params)] + [False] * len(latents)
        bits = [UNKNOWN] * len(positive) + [2 << i for i in range(len(dynamic))]
        nodes, self.lookups = flow(closed, bits, positive + [False] * len(dynamic))
        tree = jax.tree.unflatten(jax.tree.structure(shapes), nodes)
        self.sites = {
            name: _Site(site["arguments"], limits[name], tuple(site["masks"]))
            for name, site in tree.items()
            if site
        }

    def check(self, arguments: Arguments) -> None:
        """Raise ValueError where data reach a distribution or an index as they must not."""
        one = _OneCheck(self, arguments)
        one.finite()
        one.lookups()
        one.limits()


def read_inputs(reading: Reading) -> Inputs | None:
    """The checks of a program's arguments; None where it cannot run with its latents enumerated,
    of which `read_factors` then tells."""
    try:
        return Inputs(reading)
    except (TypeError, ValueError, IndexError, jax.errors.JAXTypeError):
        return None


class _OneCheck:
    """The checks on one set of data."""

    def __init__(self, inputs: Inputs, arguments: Arguments) -> None:
        self.inputs, self.labels = inputs, arguments.labels
        self.dynamic = arguments.dynamic if arguments.traced else ()
        self.values = Values(self.dynamic)
        self._bad: dict[int, bool] = {}
        self._sign: dict[int, bool] = {}
        self._product: dict[int, bool] = {}

    # --- words ------------------------------------------------------------------------------

    def _sources(self, node: Node) -> str:
        names = [f"'{n}'" for i, n in enumerate(self.labels) if node.depends & (2 << i)]
        names = names if self.dynamic else []
        return f"argument {', '.join(names)}" if names else "a constant of the program"

    def _cell(self, node: Node, bad: np.ndarray) -> str:
        """Where a node is bad first: by the argument's own index if it is only laid out anew."""
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        value = np.asarray(self.values.of(node))[where]
        source = node
        while source.operation in _PICKS:
            source = source.inputs[0]
        if source is not node and source.operation == "input":  # by its place in the argument
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

    def finite(self) -> None:
        """No NaN, and no infinity without a meaning, may reach an argument of a distribution."""
        suspects = {
            (name, argument): node
            for name, site in self.inputs.sites.items()
            for argument, node in site.arguments.items()
            if self._may_be_bad(node)
        }
        if not suspects:
            return
        run = quick_jit(self.inputs.run)
        found = self._flaws(run, self.dynamic, suspects)
        for (name, argument), bad in found.items():
            if not bad.any():
                continue
            node = suspects[name, argument]
            for i, array in enumerate(self.dynamic):
                flaw = ~np.isfinite(array) if array.dtype.kind in "fc" else np.zeros((), bool)
                if not (node.depends & (2 << i) and flaw.any()):
                    continue
                mended = list(self.dynamic)
                mended[i] = np.where(flaw, 1.0, array)
                key = (name, argument)
                if self._flaws(run, tuple(mended), {key: node})[key].sum() < bad.sum():
                    where = tuple(int(j) for j in np.argwhere(flaw)[0])
                    raise ValueError(
                        f"argument '{self.labels[i]}': the value {array[where]} at index {where} "
                        f"reaches {argument} of site '{name}', which has to be finite. NaN means "
                        "missing in an observation only: drop these rows, or fill them in."
                    )
            divisor = self._zero_divisor(node)
            if divisor is not None:
                zeros = np.asarray(self.values.of(divisor)) == 0
                raise ValueError(
                    f"site '{name}': {self._cell(divisor, zeros)} divides what reaches its "
                    f"{argument}, which has to be finite. Correct the data, or drop these rows."
                )
            culprit = self._computed_flaw(node)
            if culprit is not None:
                flaw = ~np.isfinite(self.values.of(culprit))
                where = tuple(int(j) for j in np.argwhere(flaw)[0])
                raise ValueError(
                    f"site '{name}': {self.values.of(culprit)[where]} at index {where} of what is "
                    f"computed ({culprit.operation}) from {self._sources(culprit)} reaches its "
                    f"{argument}, which has to be finite. Look for log of 0, 0 / 0 and the like in "
                    "the data."
                )

    def _flaws(self, run: Any, dynamic: tuple, suspects: dict) -> dict[tuple[str, str], np.ndarray]:
        arrays = tuple(jnp.asarray(a) for a in dynamic)
        results = run(*self.inputs.neutral, arrays)
        found = {}
        for name, argument in suspects:
            value = np.asarray(results[name]["arguments"][argument])
            infinite = argument.split(".")[-1] in INFINITE and not self._multiplied(
                suspects[name, argument]
            )
            found[name, argument] = np.isnan(value) if infinite else ~np.isfinite(value)
        return found

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
            return self._flawed(node) if not self.dynamic and node.shape else False
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
            bad = (index < 0) | ((index >= lookup.size) & (not lookup.ends))
            if not bad.any():
                continue
            sites = self._readers(lookup)
            bad &= ~self._hidden(sites, bad.shape)
            if not sites or not bad.any():
                continue
            where = self._cell(lookup.index, bad)
            remedy = (
                "A missing code (-1 of pandas.factorize) is no group: drop these rows, or mask them."
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
        if argument.split(".")[-1] in INFINITE or traced or not (single or isinstance(base, _VECTORS)):
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
