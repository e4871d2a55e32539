"""No NaN, and no infinity without a meaning, may reach an argument of a distribution."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.checks.case import Case
from pp_mlem.program.checks.dataflow import Node, data_bit
from pp_mlem.program.checks.flaws import Flaws
from pp_mlem.program.checks.followed import VALUE, InputSite
from pp_mlem.program.neutral import without_missing

# Where an infinity has a meaning: an open bound, a category of probability zero.
INFINITE = frozenset({"low", "high", "logits", "log_factor", "loc_low", "loc_high"})


@dataclass(frozen=True)
class _Suspect:
    """An argument of a site that something not finite may reach."""

    site: str
    argument: str
    node: Node


def means_infinity(argument: str) -> bool:
    """Whether an argument, of a part of a distribution as well, may be infinite."""
    return argument.split(".")[-1] in INFINITE


class FiniteCheck:
    """The check on one set of data; `results` are the program's sites at neutral values."""

    def __init__(self, case: Case) -> None:
        self.case, self.sites, self.values = case, case.followed.sites, case.values
        self.flaws = Flaws(case)
        self.compiled = quick_jit(case.followed.run)
        self.results: dict[str, Any] = {}

    def filled(self) -> tuple[np.ndarray, ...] | None:
        """The data with NaN filled in where none of it is shown, if there is such NaN; refused
        where it is shown."""
        suspects = [
            _Suspect(name, argument, node)
            for name, site in self.sites.items()
            for argument, node in site.arguments.items()
            if self.flaws.may_reach(node)
        ]
        if not suspects:
            return None
        self.results = self.case.run(self.compiled, self.case.dynamic)
        flawed = [self._flawed(suspect, self.results) for suspect in suspects]
        for suspect, cells in zip(suspects, flawed, strict=True):
            if self._shown(suspect, cells, self.results).any():
                self._refuse(suspect)
        behind = [s for s, cells in zip(suspects, flawed, strict=True) if cells.any()]
        return self._filled(behind) if behind else None

    def _flawed(self, suspect: _Suspect, results: dict[str, Any]) -> np.ndarray:
        """Which cells of an argument are not finite, or NaN where an infinity has a meaning."""
        value = np.asarray(results[suspect.site]["arguments"][suspect.argument])
        infinite = means_infinity(suspect.argument) and not self.flaws.multiplied(suspect.node)
        return np.isnan(value) if infinite else ~np.isfinite(value)

    def _shown(self, suspect: _Suspect, cells: np.ndarray, results: dict[str, Any]) -> np.ndarray:
        """Those of these cells that no mask hides."""
        site = self.sites[suspect.site]
        return site.visible(suspect.argument, cells, results[suspect.site])

    # --- what is told -----------------------------------------------------------------------

    def _refuse(self, suspect: _Suspect) -> None:
        """Raise for the first of: an array of the data, a divisor, an observation, an operation."""
        self._refuse_data(suspect)
        divisor = self.flaws.zero_divisor(suspect.node)
        if divisor is not None:
            zeros = np.asarray(self.values.of(divisor)) == 0
            raise ValueError(
                f"site '{suspect.site}': {self.case.cell(divisor, zeros)} divides what reaches its "
                f"{suspect.argument}, which has to be finite. Correct the data, or drop these rows."
            )
        culprit = self.flaws.computed(suspect.node)
        observed = self._observed_from(0)
        if observed and (culprit is None or culprit.operation == "constant"):
            value = np.squeeze(np.asarray(self.results[observed]["value"]))
            where = tuple(int(j) for j in np.argwhere(np.isnan(value))[0])
            raise ValueError(
                f"observed site '{observed}': the value nan at index {where} reaches "
                f"{suspect.argument} of site '{suspect.site}', which has to be finite. "
                + _remedy(observed, suspect.site)
            )
        if culprit is not None:
            self._refuse_computed(suspect, culprit)

    def _refuse_data(self, suspect: _Suspect) -> None:
        for i, array in enumerate(self.case.dynamic):
            flawed = ~np.isfinite(array) if array.dtype.kind in "fc" else np.zeros((), bool)
            if not (suspect.node.depends & data_bit(i) and flawed.any()):
                continue
            where = self._first_to_matter(suspect, i, np.argwhere(flawed))
            if where is not None:
                observed = self._observed_from(data_bit(i))
                role = f" (observed at site '{observed}')" if observed else ""
                raise ValueError(
                    f"argument '{self.case.labels[i]}'{role}: the value {array[where]} at index "
                    f"{where} reaches {suspect.argument} of site '{suspect.site}', which has to be "
                    f"finite. {_remedy(observed, suspect.site)}"
                )

    def _first_to_matter(
        self, suspect: _Suspect, i: int, places: np.ndarray
    ) -> tuple[int, ...] | None:
        """The first of these places of data array i that makes the argument flawed, if any does."""

        def count(results: dict[str, Any]) -> int:
            return int(self._shown(suspect, self._flawed(suspect, results), results).sum())

        every = count(self.results)

        def counts_less(many: int) -> bool:
            """Whether less is flawed once the first flaws of this array are mended."""
            mended = [np.array(a) for a in self.case.dynamic]
            mended[i][tuple(places[:many].T)] = 1.0
            return count(self.case.run(self.compiled, tuple(mended))) < every

        if not counts_less(len(places)):
            return None
        first = bisect_left(range(1, len(places) + 1), True, key=counts_less)
        return tuple(int(j) for j in places[first])

    def _refuse_computed(self, suspect: _Suspect, culprit: Node) -> None:
        flawed = ~np.isfinite(self.values.of(culprit))
        if culprit.operation == "constant":
            raise ValueError(
                f"{self.case.cell(culprit, flawed)} reaches {suspect.argument} of site "
                f"'{suspect.site}', which has to be finite. {_remedy('', suspect.site)}"
            )
        where = tuple(int(j) for j in np.argwhere(flawed)[0])
        raise ValueError(
            f"site '{suspect.site}': {self.values.of(culprit)[where]} at index {where} of what is "
            f"computed ({culprit.operation}) from {self.case.sources(culprit)} reaches its "
            f"{suspect.argument}, which has to be finite. Look for log of 0, 0 / 0 and the like in "
            "the data."
        )

    def _observed_from(self, bit: int) -> str:
        """The first observed site with NaN whose value is made from this array of data alone (0:
        from constants)."""
        data = sum(data_bit(i) for i in range(len(self.case.dynamic)))
        for name, site in self.sites.items():
            if site.value is not None and site.value.depends & data == bit:
                value = np.asarray(self.results[name]["value"])
                if value.dtype.kind == "f" and np.isnan(value).any():
                    return name
        return ""

    # --- NaN under a mask -------------------------------------------------------------------

    def _filled(self, behind: list[_Suspect]) -> tuple[np.ndarray, ...]:
        """The data with NaN filled in that reaches nothing shown; refused where the masks, or what
        is shown, would be another."""
        filled = list(self.case.dynamic)
        for i, other in enumerate(without_missing(self.case.dynamic)):
            if any(suspect.node.depends & data_bit(i) for suspect in behind):
                filled[i] = np.asarray(other)
        again = self.case.run(self.compiled, tuple(filled))
        for name, site in self.sites.items():
            same = self._shows_the_same(site, self.results[name], again[name])
            if not same or any(self._flawed(s, again).any() for s in behind if s.site == name):
                first = behind[0]
                raise ValueError(
                    f"{self.case.sources(first.node)}: NaN reaches {first.argument} of site "
                    f"'{first.site}' under a mask. The mask hides the value but not the gradient, "
                    "which is NaN. Fill it in with any number before it is used, as in "
                    "jnp.where(jnp.isnan(y), 0.0, y), and keep the mask."
                )
        return tuple(filled)

    def _shows_the_same(self, site: InputSite, before: dict, after: dict) -> bool:
        """Whether a site has the same masks in two runs, and the same values where they show it."""
        if not all(map(np.array_equal, before["masks"], after["masks"])):
            return False
        parts = {k: (before["arguments"][k], after["arguments"][k]) for k in site.arguments}
        if site.value is not None:
            parts[VALUE] = before["value"], after["value"]
        for part, (old, new) in parts.items():
            old, new = np.asarray(old), np.asarray(new)
            changed = (old != new) & ~((old != old) & (new != new))
            if site.visible(part, changed, before).any():
                return False
        return True


def _remedy(observed: str, reader: str) -> str:
    if observed and observed != reader:
        return (
            f"A missing value of '{observed}' that enters '{reader}' is integrated out where '{observed}' is a "
            f'Normal that enters a Normal\'s mean affinely, and is named: Model(..., latents={{"{observed}"}}). '
            "Else drop these rows, mask both sites there, or fill it in."
        )
    if observed:
        return (
            "A missing value that enters later steps cannot be integrated out: drop these rows, or "
            "fill in what is carried on."
        )
    return "NaN means missing in an observation only: drop these rows, or fill them in."
