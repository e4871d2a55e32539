"""How data flow into a program's distributions: its primitive operations, one node for each.

The nodes come from one trace of the program (`jax.make_jaxpr`); what depends on data alone is
computed on the host, and nothing is compiled for the usual operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

UNKNOWN = 1  # the bit of parameters and latents; bit i + 1 is that of data array i
MOVES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "copy"})
CASTS = frozenset({"convert_element_type", "reduce_precision", "stop_gradient"})
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
          "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
          "custom_vjp_call_jaxpr": "fun_jaxpr", "remat": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip


@dataclass(eq=False)
class Node:
    """One value of the program: the result of `operation` on `inputs`.

    `depends` are the bits of the data arrays, of unobserved sites, of gathers, of the arrays
    that the program holds, and of constants with NaN behind it.
    """

    operation: str
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: Any
    depends: int
    equation: Any = None
    output: int = 0
    constant: Any = None
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether it depends on data and constants alone."""
        return not self.depends & UNKNOWN


@dataclass(frozen=True)
class Lookup:
    """An array operand indexed by data in a dimension of `size`; `ends` where the program says
    itself what is read beyond the end. Its bit marks what is read so."""

    index: Node
    size: int
    ends: bool
    bit: int


Held = Callable[[np.ndarray], tuple[int, np.ndarray]]


def data_bit(i: int) -> int:
    """The bit of data array i."""
    return 2 << i


def flow(
    closed: Any, bits: list[int], positive: list[bool], held: Held, flawed: int
) -> tuple[list[Node], list[Lookup]]:
    """The nodes of a traced program's results, its inputs having `bits` and being `positive`; and
    its lookups by data. `held` gives the bit of a constant array and its values as the program holds
    them, `flawed` marks NaN in it."""
    starts = [
        Node("input", (), tuple(v.aval.shape), v.aval.dtype, bit, params={"positive": sign})
        for v, bit, sign in zip(closed.jaxpr.invars, bits, positive, strict=True)
    ]
    trace = _Trace(held, flawed)
    return trace.closed(closed, starts), trace.lookups


class _Trace:
    """The nodes of one traced program, its inner functions put in place of their calls."""

    def __init__(self, held: Held, flawed: int) -> None:
        self.held, self.flawed = held, flawed
        self.free = 1 + flawed.bit_length()
        self.lookups: list[Lookup] = []

    def closed(self, closed: Any, given: list[Node]) -> list[Node]:
        """The results of a jaxpr that comes with its constants."""
        return self.inline(closed.jaxpr, [self.constant(c) for c in closed.consts], given)

    def constant(self, value: Any) -> Node:
        shape, dtype = np.shape(value), getattr(value, "dtype", None)
        kind, depends = getattr(dtype, "kind", ""), 0
        if shape and kind in "biuf":
            depends, value = self.held(np.asarray(value))
            depends |= self.flawed if kind == "f" and np.isnan(value).any() else 0
        return Node("constant", (), shape, dtype, depends, constant=value)

    def inline(self, jaxpr: Any, consts: list[Node], given: list[Node]) -> list[Node]:
        """The results of a jaxpr at these constants and inputs."""
        nodes: dict[Any, Node] = dict(zip(jaxpr.constvars, consts, strict=True))
        nodes |= dict(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Node:
            return self.constant(atom.val) if isinstance(atom, Literal) else nodes[atom]

        for equation in jaxpr.eqns:
            inputs = tuple(read(a) for a in equation.invars)
            nodes |= dict(zip(equation.outvars, self._results(equation, inputs), strict=True))
        return [read(a) for a in jaxpr.outvars]

    def _results(self, equation: Any, inputs: tuple[Node, ...]) -> list[Node]:
        name = equation.primitive.name
        inner = equation.params.get(_CALLS.get(name, ""))
        if inner is not None:
            given = list(inputs)
            return (
                self.closed(inner, given)
                if hasattr(inner, "consts")
                else self.inline(inner, [], given)
            )
        depends = self._depends(equation, inputs)
        return [
            Node(
                name, inputs, tuple(var.aval.shape), getattr(var.aval, "dtype", None), depends,
                equation, i, params=equation.params,
            )
            for i, var in enumerate(equation.outvars)
        ]  # fmt: skip

    def _depends(self, equation: Any, inputs: tuple[Node, ...]) -> int:
        """The bits of an operation's results; its lookups by data have bits of their own."""
        depends = 0
        for node in inputs:
            depends |= node.depends
            if not hasattr(node.dtype, "kind") or node.dtype.kind not in "biufc":
                depends |= UNKNOWN if node.dtype is not None else 0  # random keys are no data
        for index, size, ends in _indices(equation.primitive.name, equation.params, inputs):
            if index.known and index.depends:
                bit = 1 << (self.free + len(self.lookups))
                self.lookups.append(Lookup(index, size, ends, bit))
                depends |= bit
        return depends


def _indices(
    name: str, params: dict[str, Any], inputs: tuple[Node, ...]
) -> list[tuple[Node, int, bool]]:
    """(index, number of places, whether the program says what is beyond the end) of each dimension
    that is looked up."""
    if name == "dynamic_slice":
        sizes = zip(inputs[1:], inputs[0].shape, params["slice_sizes"], strict=False)
        return [(*_unwrapped(i, n, places=n - s + 1)[:2], False) for i, n, s in sizes]
    if name != "gather":
        return []
    mode, fill = str(params["mode"]), params["fill_value"]
    numbers = params["dimension_numbers"]
    dimensions = numbers.start_index_map
    # `a[i]` in the body of a scan is a dynamic slice, which JAX makes a gather that clips.
    sliced = not numbers.collapsed_slice_dims and len(dimensions) == len(inputs[0].shape)
    clips = "CLIP" in mode and not sliced
    ends = clips or ("FILL" in mode and fill is not None and not _is_nan(fill))
    columns = _columns(inputs[1], len(dimensions))
    looked_up = []
    for d, column in zip(dimensions, columns, strict=True):
        if column is None:
            continue
        places = inputs[0].shape[d] - params["slice_sizes"][d] + 1
        index, size, wraps = _unwrapped(column, inputs[0].shape[d], places)
        if wraps or not clips:  # else a negative one is clipped to the first
            looked_up.append((index, size, ends))
    return looked_up


def _is_nan(value: Any) -> bool:
    return bool(np.isscalar(value) and value != value)


def _columns(node: Node, count: int) -> list[Node | None]:
    """The index of each dimension, out of an array with one column for each."""
    while node.operation in CASTS:
        node = node.inputs[0]
    if count == 1:
        return [node]
    if node.operation == "concatenate" and len(node.inputs) == count:
        return list(node.inputs)
    return [None] * count


def _unwrapped(node: Node, size: int, places: int) -> tuple[Node, int, bool]:
    """The index as the program gave it, before JAX adds the size to negative ones."""
    inner = plain(node)
    if inner.operation == "select_n" and len(inner.inputs) == 3:
        test, index, added = inner.inputs
        adds = added.operation == "add" and any(
            a.operation == "constant" and np.ndim(a.constant) == 0 and a.constant == size
            for a in added.inputs
        )
        asks = test.operation == "lt" and test.inputs[0] is index
        if test.operation == index.operation == "constant":  # asked before the trace
            asks = np.array_equal(test.constant, np.asarray(index.constant) < 0)
        if asks and adds and index in added.inputs:
            return plain(index), places, True
    return inner, places, False


def plain(node: Node) -> Node:
    """The node whose values this one only lays out differently."""
    while node.operation in MOVES or node.operation in CASTS:
        node = node.inputs[0]
    return node


def _select(test: Any, *cases: Any) -> np.ndarray:
    return np.choose(np.broadcast_to(np.asarray(test).astype(int), np.shape(cases[0])), cases)


_HOST: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide, "neg": np.negative,
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sqrt": np.sqrt,
    "square": np.square, "abs": np.abs, "sign": np.sign, "pow": np.power, "max": np.maximum,
    "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ne": np.not_equal,
    "ge": np.greater_equal, "eq": np.equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "not": np.invert, "is_finite": np.isfinite, "tanh": np.tanh, "select_n": _select,
    "rsqrt": lambda a: 1 / np.sqrt(a), "add_any": np.add, "copy": np.asarray,
}  # fmt: skip
_SHAPED: dict[str, Callable[..., Any]] = {
    "reshape": lambda node, a: np.reshape(a, node.shape),
    "squeeze": lambda node, a: np.reshape(a, node.shape),
    "expand_dims": lambda node, a: np.reshape(a, node.shape),
    "transpose": lambda node, a: np.transpose(a, node.params["permutation"]),
    "integer_pow": lambda node, a: np.asarray(a, node.dtype) ** node.params["y"],
    "slice": lambda node, a: a[_slices(node)],
    "rev": lambda node, a: np.flip(a, tuple(node.params["dimensions"])),
    "iota": lambda node: _iota(node),
    "concatenate": lambda node, *a: np.concatenate(a, node.params["dimension"]),
    "stack": lambda node, *a: np.stack(a, node.params["axis"]),
    "broadcast_in_dim": lambda node, a: _broadcast(node, a),
    "reduce_sum": lambda node, a: np.sum(a, tuple(node.params["axes"])),
    "reduce_max": lambda node, a: np.max(a, tuple(node.params["axes"])),
    "reduce_min": lambda node, a: np.min(a, tuple(node.params["axes"])),
}


def rearranged(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """What an operation that only lays out anew makes of other arrays of its inputs' shapes."""
    return inputs[0] if node.operation == "copy" else _SHAPED[node.operation](node, *inputs)


def _slices(node: Node) -> tuple[slice, ...]:
    p = node.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return tuple(map(slice, p["start_indices"], p["limit_indices"], strides))


def _iota(node: Node) -> np.ndarray:
    shape, axis = node.shape, node.params["dimension"]
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).reshape(view), shape)


def _broadcast(node: Node, array: np.ndarray) -> np.ndarray:
    view = [1] * len(node.shape)
    for axis, size in zip(node.params["broadcast_dimensions"], np.shape(array), strict=True):
        view[axis] = size
    return np.broadcast_to(np.reshape(array, view), node.shape)


class Values:
    """Values of known nodes at given data arrays, each computed once."""

    def __init__(self, dynamic: tuple[np.ndarray, ...]) -> None:
        self.dynamic = dynamic
        self._values: dict[int, Any] = {}

    def of(self, node: Node) -> np.ndarray:
        if id(node) not in self._values:
            with np.errstate(all="ignore"):
                self._values[id(node)] = self._compute(node)
        return self._values[id(node)]

    def _compute(self, node: Node) -> np.ndarray:
        if node.operation == "input":
            return np.asarray(self.dynamic[node.depends.bit_length() - 2])
        if node.operation == "constant":
            return np.asarray(node.constant)
        inputs = [self.of(n) for n in node.inputs]
        if node.operation in CASTS:
            return inputs[0].astype(node.dtype)
        if node.operation in _HOST:
            return np.asarray(_HOST[node.operation](*inputs)).astype(node.dtype, copy=False)
        if node.operation in _SHAPED:
            made = np.asarray(_SHAPED[node.operation](node, *inputs))
            return made.astype(node.dtype, copy=False)
        equation = node.equation
        arrays = [jax.numpy.asarray(a, n.dtype) for a, n in zip(inputs, node.inputs, strict=True)]
        made = equation.primitive.bind(*arrays, **equation.params)
        return np.asarray(made[node.output] if equation.primitive.multiple_results else made)
