"""Where NaN and infinities of the data flow in a program."""

from __future__ import annotations

import numpy as np

from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.dataflow import UNKNOWN, Node

# Operations whose result may be infinite or NaN although what they are given is finite.
_WILD = frozenset(
    {"log", "log1p", "div", "rsqrt", "sqrt", "pow", "exp", "expm1", "lgamma", "digamma", "erf_inv",
     "tan", "atanh", "acosh", "asin", "acos", "cholesky", "integer_pow", "triangular_solve", "lu",
     "scan", "while", "cond"}
)  # fmt: skip


class Flaws:
    """Whether what is not finite reaches a node, and from where."""

    def __init__(self, case: Case) -> None:
        self.case, self.values = case, case.values
        self._bad: dict[int, bool] = {}
        self._product: dict[int, bool] = {}

    def may_reach(self, node: Node) -> bool:
        """Whether something that depends on data alone and is not finite flows into a node."""
        if not node.depends & ~UNKNOWN and node.operation != "constant":
            return False
        if id(node) not in self._bad:
            self._bad[id(node)] = self._look(node)
        return self._bad[id(node)]

    def _look(self, node: Node) -> bool:
        if node.operation == "constant":
            known = self.case.dynamic or not node.shape
            flawed = node.depends & self.case.followed.held.flawed
            return bool(flawed) if known else self._is_flawed(node)
        if getattr(node.dtype, "kind", "f") not in "fc":
            return False
        if node.operation == "input":
            return node.known and self._is_flawed(node)
        if node.known and node.operation in _WILD:
            return self._is_flawed(node)
        if node.operation == "div" and self._divides_by_zero(node):
            return True
        return any([self.may_reach(n) for n in node.inputs])

    def _is_flawed(self, node: Node) -> bool:
        value = np.asarray(self.values.of(node))
        return value.dtype.kind in "fc" and not np.all(np.isfinite(value))

    def multiplied(self, node: Node) -> bool:
        """Whether an infinity of the data is multiplied by a parameter or latent on its way to a
        node: then it is no bound and no probability of zero."""
        if node.known:
            return False
        if id(node) not in self._product:
            products = node.operation in ("mul", "dot_general", "div") and any(
                n.known and self.may_reach(n) for n in node.inputs
            )
            self._product[id(node)] = products or any([self.multiplied(n) for n in node.inputs])
        return self._product[id(node)]

    def zero_divisor(self, node: Node) -> Node | None:
        """What is computed from data alone, is zero somewhere, and divides on the way to a node."""
        if node.operation == "div" and self._divides_by_zero(node):
            return node.inputs[1]
        behind = (self.zero_divisor(n) for n in node.inputs if not n.known and self.may_reach(n))
        return next((n for n in behind if n is not None), None)

    def _divides_by_zero(self, node: Node) -> bool:
        divisor = node.inputs[1]
        from_data = divisor.known and divisor.depends
        return bool(from_data and np.any(np.asarray(self.values.of(divisor)) == 0))

    def computed(self, node: Node) -> Node | None:
        """The first operation on data whose result is not finite, behind a node."""
        for inner in node.inputs:
            if self.may_reach(inner):
                return self.computed(inner) or (inner if inner.known else None)
        return node if node.known and self._is_flawed(node) else None
