"""Where an array of a program is zero, or minus infinity, whatever its parameters and latents are."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from pp_mlem.program.checks.dataflow import CASTS, MOVES, Node, Values, rearranged

_ARRANGES = MOVES | {"slice", "rev", "concatenate", "stack"}


class Fixed:
    """Cells of nodes that hold `value` (0 or -inf) for certain: known to, or made from such cells
    by products (sums, for -inf) and by laying out anew."""

    def __init__(self, values: Values, value: float) -> None:
        self.values, self.value = values, value
        self.keeps = ("mul", "div") if value == 0 else ("add", "sub", "add_any")
        self._cells: dict[int, np.ndarray | None] = {}

    def of(self, node: Node) -> np.ndarray | None:
        """A boolean array of the node's shape, or None where it is nowhere so."""
        if id(node) not in self._cells:
            cells = self._look(node)
            self._cells[id(node)] = None if cells is None or not cells.any() else cells
        return self._cells[id(node)]

    def _look(self, node: Node) -> np.ndarray | None:
        operation, inputs = node.operation, node.inputs
        if node.known:
            return np.asarray(self.values.of(node)) == self.value
        if operation in CASTS:
            return self.of(inputs[0])
        if operation in _ARRANGES:
            return rearranged(node, [self._whole(n) for n in inputs])
        if operation in self.keeps:
            first, second = (self._whole(n) for n in inputs)
            one_sided = operation in ("div", "sub")
            return np.broadcast_to(first if one_sided else first | second, node.shape)
        if operation in ("add", "add_any", "max", "min") and self.value == 0:
            first, second = (self._whole(n) for n in inputs)
            return np.broadcast_to(first & second, node.shape)
        if operation == "reduce_sum":
            combine = np.all if self.value == 0 else np.any
            return combine(self._whole(inputs[0]), tuple(node.params["axes"]))
        if operation == "select_n" and inputs[0].known:
            test = np.broadcast_to(np.asarray(self.values.of(inputs[0])).astype(int), node.shape)
            return np.choose(test, [self._whole(n) for n in inputs[1:]])
        if operation == "gather":
            return self._gathered(node)
        return None

    def _whole(self, node: Node) -> np.ndarray:
        cells = self.of(node)
        return np.zeros(node.shape, bool) if cells is None else cells

    def _gathered(self, node: Node) -> np.ndarray | None:
        """Of what is read by a known index; by an unknown one, what is so at every place."""
        operand, index = node.inputs
        held = self.of(operand)
        if held is None:
            return None
        if index.known:
            places = jnp.asarray(self.values.of(index), index.dtype)
        else:
            axes = tuple(node.params["dimension_numbers"].start_index_map)
            held = np.broadcast_to(held.all(axes, keepdims=True), held.shape)
            places = jnp.zeros(index.shape, index.dtype)
        params = {**node.equation.params, "fill_value": None}
        read = node.equation.primitive.bind(jnp.asarray(held, jnp.float32), places, **params)
        return np.asarray(read) == 1.0
