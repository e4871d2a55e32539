"""Plates: log Z by variable elimination over finite and real latents in nested plates.

Latents deepest in the plates are summed first; a factor that lives in more plates than the latent
is first multiplied over the surplus plates (a sum of logs). Variable elimination with plates:
Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs,
arXiv:1902.03210.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pp_mlem.base.no import No
from pp_mlem.marginal.steps.base import Graph, Step
from pp_mlem.potentials.quadratic import take_out
from pp_mlem.potentials.table import Table
from pp_mlem.potentials.term import Layout, Pass, Term, weighted, without_value
from pp_mlem.program.reading import TABLE_LIMIT, Reading


@dataclass(frozen=True, eq=False)
class PlateStep(Step):
    """Takes out one latent after the other: `order`, found once from scopes and sizes."""

    order: tuple[str, ...]
    plates: dict[str, frozenset[str]]
    layout: Layout
    reals: frozenset[str] = frozenset()

    @classmethod
    def plan(cls, graph: Graph) -> tuple[Step, Graph] | No:
        first = _first(graph)
        if not first:
            return No("every latent that is left waits for a step of another kind")
        order, left = _order(graph, first)
        if not order:
            return No("real latents are crossed")
        reals = frozenset(s.name for s in graph.reading.reals)
        return cls(order, first, graph.layout, reals), left

    def run(self, terms: list[Term], context: Pass) -> list[Term]:
        for latent in self.order:
            plates = self.plates[latent]
            others = [t for t in terms if latent not in t.latents]
            touching = [_applied(t, latent, context) for t in terms if latent in t.latents]
            if any(t.weight is not None and t.plates <= plates for t in touching):
                # The latent is of the weighted unit, and so is all that hangs on it.
                touching = [_of_unit(t, plates) for t in touching]
            projected = [self.layout.project(t, plates, context) for t in touching]
            known = context.known.get(latent)
            left = take_out([t.table for t in projected], latent, context.mode, known)
            if context.assigned is not None and latent in self.reals and isinstance(left, Table):
                left = without_value(left, context.assigned)
            weight = next((t.weight for t in projected if t.weight is not None), None)
            latents = frozenset().union(*(t.latents for t in projected)) - {latent}
            place = next((t.place for t in projected if t.place is not None), None)
            terms = [*others, Term(left, latents, plates, weight, place)]
        return terms

    def told(self, reading: Reading) -> Iterator[str]:
        for name in self.order:
            site = reading.sites[name]
            plates = reading.told_plates(site)
            how = ", gathered into other plates" if site.gathered else ""
            each = f"for each of {plates}" if plates else "once"
            what = f"real number{'s' * (site.size > 1)}, integrated" if site.real else "values"
            yield f"{name}: {site.size} {what}, {each}{how}"

    @property
    def entries(self) -> int:
        return 0


def _applied(term: Term, latent: str, context: Pass) -> Term:
    """A term whose weight does not cover `latent`, with that weight multiplied in."""
    if term.weight is None or latent in term.weight.latents:
        return term
    return replace(term, table=weighted(term.table, term.weight, context.once), weight=None)


def _of_unit(term: Term, plates: frozenset[str]) -> Term:
    """A term without its weight where its plates are inside of the unit's."""
    return term if term.plates <= plates else replace(term, weight=None)


def _first(graph: Graph) -> dict[str, frozenset[str]]:
    """The latents that can be summed now: while others wait for a step of their own, only those that
    must be out before it."""
    own, before = graph.claims.own, graph.claims.before
    waiting = bool(own & graph.latents.keys())
    return {n: p for n, p in graph.latents.items() if n not in own and (n in before or not waiting)}


def _order(graph: Graph, wanted: dict[str, frozenset[str]]) -> tuple[tuple[str, ...], Graph]:
    """The order of summation, the cheapest first; refuses what is intractable, with the table's size."""
    remaining, order = dict(wanted), []
    while remaining:
        costs = {
            name: _cost(graph, name, own)
            for name, own in remaining.items()
            if not _has_deeper(graph, name, own, remaining)
        }
        if not costs and any(graph.reading.sites[n].real for n in remaining):
            break  # crossed: taken out together
        if not costs:
            names = ", ".join(f"'{n}'" for n in sorted(remaining))
            raise ValueError(
                f"latents {names} are coupled across plates (each meets every unit of the "
                "other's plate), so their sum does not factorise. Put them in nested plates, or "
                "observe one of them with observe={...}."
            )
        sites = graph.reading.sites
        best = min(
            costs, key=lambda n: (not sites[n].real, _is_parent(graph, n, remaining), costs[n], n)
        )
        _refuse_below(graph, best)
        if not sites[best].real and costs[best] > TABLE_LIMIT:
            raise _too_large(graph, best, costs[best])
        graph = graph.without(frozenset({best}), remaining.pop(best))
        order.append(best)
    return tuple(order), graph


def _is_parent(graph: Graph, name: str, remaining: dict[str, frozenset[str]]) -> bool:
    """Whether the law of a real latent that is still there depends on this one. Such a law is taken out with its
    own latent, before its parents: were its variance zero, it would have no precision for them."""
    sites = graph.reading.sites
    return any(sites[n].real and name in sites[n].parents for n in remaining)


def _refuse_below(graph: Graph, name: str) -> None:
    """A finite latent cannot be summed before a real one that depends on it."""
    sites = graph.reading.sites
    reals = sorted(n for n in _others(graph, name) if sites[n].real)
    if not sites[name].real and reals:
        raise ValueError(
            f"latent '{name}' is summed out inside of plates in which the real latent '{reals[0]}' is one: "
            "what is left is a mixture over it, which no structure integrates. Put "
            f"'{reals[0]}' into the plates of '{name}', or observe one of them with observe={{...}}, or "
            f'estimate it with parameters={{"{reals[0]}"}}.'
        )


def _others(graph: Graph, name: str) -> frozenset[str]:
    """The latents that meet this one."""
    touching = (s.latents for s in graph.scopes if name in s.latents)
    return frozenset().union(*touching) - {name}


def _cost(graph: Graph, name: str, own: frozenset[str]) -> float:
    sizes = graph.layout.sizes
    shape = [sizes[name], *(sizes[o] for o in _others(graph, name)), *(sizes[p] for p in own)]
    return float(np.prod(np.array(shape, float)))


def _has_deeper(
    graph: Graph, name: str, own: frozenset[str], remaining: dict[str, frozenset[str]]
) -> bool:
    """Whether a latent in more plates meets this one, and must go first."""
    above = {parent for child, parent in graph.layout.gathers if child in own}
    return any(remaining[o] - own - above for o in _others(graph, name) & remaining.keys())


def _too_large(graph: Graph, name: str, cost: float) -> ValueError:
    sizes = graph.layout.sizes
    told = " x ".join(f"{n}: {sizes[n]}" for n in sorted(_others(graph, name) | {name}))
    return ValueError(
        f"summing latent '{name}' needs a table of {cost:.3g} entries "
        f"({told}, times its plates {sorted(graph.latents[name])}), more than "
        f"{TABLE_LIMIT:.3g}. Use fewer values or fewer latents that depend on one another."
    )
