"""No value may be observed whose probability is zero, whatever the parameters and latents are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.dataflow import Node
from pp_mlem.program.checks.followed import VALUE, aligned
from pp_mlem.program.checks.zeros import Fixed
from pp_mlem.program.space import base_support

Densities = Callable[[frozenset[str], tuple], dict[str, Any]]  # of observed sites, on these data


class PossibleCheck:
    """The check on one set of data."""

    def __init__(self, case: Case) -> None:
        self.case, self.values = case, case.values
        self.zeros = Fixed(case.values, 0.0)
        self.minus_infinities = Fixed(case.values, -np.inf)

    def run(self, densities: Densities) -> None:
        edges: dict[str, dict[str, np.ndarray]] = {}
        for name, site in self.case.followed.sites.items():
            if site.value is not None:
                parts = {a: self._edge(a, n, site.limits[a]) for a, n in site.arguments.items()}
                own = {a: cells for a, cells in parts.items() if cells is not None}
                edges |= {name: own} if own else {}
        if not edges:
            return
        results = densities(frozenset(edges), self.case.dynamic)
        for name, arguments in edges.items():
            log = np.asarray(results[name])
            for argument, cells in arguments.items():
                self._refuse_impossible(name, argument, cells, log)

    def _edge(self, argument: str, node: Node, limit: Any) -> np.ndarray | None:
        """Log densities below which a value has probability zero, where an argument is at a value
        that gives something probability zero for certain; NaN elsewhere."""
        # NumPyro has the smallest positive number for 0 in some logarithms, the largest below 1.
        number = np.finfo(node.dtype if node.dtype.kind == "f" else float)
        zero = one = None
        base = base_support(limit) if limit is not None else None
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
        if not any(found is not None and np.any(found) for found in (zero, one)):
            return None
        edge = np.full(node.shape, np.nan)
        if one is not None:
            edge[one] = 0.5 * np.log(number.eps)
        if zero is not None:
            edge[zero] = 0.5 * np.log(number.tiny)
        return edge

    def _refuse_impossible(
        self, name: str, argument: str, cells: np.ndarray, log: np.ndarray
    ) -> None:
        site, depth = self.case.followed.sites[name], self.case.followed.reading.depth
        if not all(m.known for m in site.masks):  # a latent's mask may hide it
            return
        masks = [np.asarray(self.values.of(m)).astype(bool) for m in site.masks]
        rank, event = site.layouts[argument]
        steps = cells.ndim - rank
        own_axes = tuple(range(cells.ndim - event, cells.ndim))
        cells = np.fmax.reduce(cells, own_axes) if event else cells
        plates = np.ones((1,) * (steps + depth), bool)
        limit, log, *shown = aligned([cells, log, plates, *masks], steps)
        bad = np.all(np.broadcast_arrays(log < limit, *shown), axis=0)
        bad = bad.all(tuple(range(steps, bad.ndim - depth)))  # over the values of latents
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            where = (where[0], *where[steps + 1 :]) if steps else where
            index = where[len(where) - self._batch_rank(name, steps) :]
            sources = self.case.sources(site.arguments[argument])
            raise ValueError(
                f"observed site '{name}': what is observed at index {index} has probability zero "
                f"whatever the parameters are, by {argument} from {sources}: the log-likelihood "
                "would be minus infinity everywhere. Correct the data, mask these rows, or keep "
                f"{argument} away from what excludes them."
            )

    def _batch_rank(self, name: str, steps: int) -> int:
        """The number of batch dimensions of an observed value, as the user gave it."""
        site = self.case.followed.sites[name]
        if site.value is None:
            return 0
        _, event = site.layouts[VALUE]
        return max(np.ndim(self.values.of(site.value)) - max(steps - 1, 0) - event, 0)
