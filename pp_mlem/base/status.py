"""The outcomes that a run can have; a failure is a value, never an exception inside a loop."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """How a start ended, or a sample of a posterior. For a start, only `CONVERGED` means that the
    gradient is zero to tolerance."""

    RUNNING = 0
    CONVERGED = 1
    FLAT = 2
    MAX_ITER = 3
    COLLAPSED = 4
    BOUNDARY = 5
    DECREASED = 6
    NOT_FINITE = 7
    INTERRUPTED = 8
    SPURIOUS = 9
    SEPARATION = 10
    NOT_MIXED = 11
    POOR_APPROXIMATION = 12

    @property
    def label(self) -> str:
        return _LABEL.get(self, self.name.lower())

    @classmethod
    def of_label(cls, label: str) -> Status:
        """The status that `label` names."""
        for status in cls:
            if status.label == label:
                return status
        raise ValueError(f"status {label!r} is none of {[s.label for s in cls]}")

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_LABEL = {Status.NOT_MIXED: "not mixed", Status.POOR_APPROXIMATION: "poor approximation"}

_MEANING = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the gradient per observation is below its tolerance",
    Status.FLAT: "the objective stopped rising while the gradient was still above its tolerance",
    Status.MAX_ITER: "ran out of iterations",
    Status.COLLAPSED: "a component shrank onto a point, or the fit goes through all of them: the "
    "likelihood has no bound there",
    Status.BOUNDARY: "a parameter is at the boundary of its support",
    Status.DECREASED: "the objective fell by more than rounding",
    Status.NOT_FINITE: "the objective is not finite at this start",
    Status.INTERRUPTED: "stopped by the user; the best point so far",
    Status.SPURIOUS: "a component rests on too few rows for its own parameters, or its scale is "
    "far below the others' (Hathaway's ratio)",
    Status.SEPARATION: "the data are separated: the likelihood rises as parameters grow without "
    "bound",
    Status.NOT_MIXED: "the chains disagree (R-hat), or some transitions diverged",
    Status.POOR_APPROXIMATION: "the posterior is not Gaussian around its mode",
}
