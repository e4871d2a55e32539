"""Known arguments keep their constraints; known factors of a positive one are positive."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.dataflow import CASTS, MOVES, UNKNOWN, Node, plain
from pp_mlem.program.checks.finite import means_infinity
from pp_mlem.program.checks.followed import is_positive
from pp_mlem.program.space import base_support, describe, is_simplex

_KEEPS_POSITIVE = frozenset(
    {"mul", "div", "add", "sqrt", "rsqrt", "integer_pow", "square", "max", "min", "reduce_sum",
     "concatenate", "stack"}
)  # fmt: skip
_VECTORS = (type(constraints.simplex), type(constraints.positive_definite))


class LimitsCheck:
    """The check on one set of data."""

    def __init__(self, case: Case) -> None:
        self.case, self.values = case, case.values
        self._sign: dict[int, bool] = {}

    def run(self) -> None:
        for name, site in self.case.followed.sites.items():
            for argument, node in site.arguments.items():
                limit = site.limits[argument]
                if limit is None:
                    continue
                if node.known:
                    self._known(name, argument, node, limit)
                elif is_positive(limit) and not hasattr(base_support(limit), "upper_bound"):
                    self._factor(name, argument, node)

    def _known(self, site: str, argument: str, node: Node, limit: Any) -> None:
        base = base_support(limit)
        traced = any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(base))
        single = base.event_dim == 0
        if means_infinity(argument) or traced or not (single or isinstance(base, _VECTORS)):
            return
        node = plain(node) if single else node
        value = np.asarray(self.values.of(node))
        bad = ~np.asarray(base(value))
        bad = bad & ~self.case.hidden([site], bad.shape)
        if bad.any():
            where = self.case.cell(node, bad)
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
            bad = ~(value > 0) & ~self.case.hidden([site], value.shape)
            if bad.any():
                raise ValueError(
                    f"{self.case.cell(node, bad)} is a factor of {argument} of site '{site}', which has "
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
