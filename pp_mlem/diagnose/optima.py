"""Which starts reached the same optimum, and what each optimum is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.status import Status
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import align
from pp_mlem.diagnose.rotations import turned_to, turns_of
from pp_mlem.diagnose.uncertainty import SADDLE, information
from pp_mlem.model.model import Model
from pp_mlem.target.target import Target

Params = dict[str, np.ndarray]

SAME_OPTIMUM = 1e-6
SAME_POINT = 1e-3
RIDGE = 1e-9
EXAMINED = 12  # optima whose information is computed, the best first


def label_optima(values: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Number the distinct optima from the best down (1, 2, ...); 0 for starts without a value.

    Two starts share an optimum when their objectives agree to 1e-6 relative and neither or both
    were set aside as collapsed or spurious.
    """
    aside = np.isin(status, (Status.COLLAPSED, Status.SPURIOUS))
    labels = np.zeros(len(values), int)
    count = 0
    for group in (~aside, aside):
        order = [i for i in np.argsort(-values, kind="stable") if group[i]]
        order = [i for i in order if np.isfinite(values[i])]
        previous = None
        for i in order:
            if previous is None or previous - values[i] > SAME_OPTIMUM * (1 + abs(previous)):
                count += 1
                previous = values[i]
            labels[i] = count
    return labels


def describe_optima(
    target: Target,
    starts: pd.DataFrame,
    params: Sequence[Params],
    groups: tuple[Group, ...],
    model: Model,
) -> pd.DataFrame:
    """One row per distinct optimum, the best first; see `PointFit.optima`. `params` are those of
    every start; labels are aligned by the model."""
    rows: list[dict[str, Any]] = []
    reached = starts[starts["optimum"] > 0]
    # the first is the best that was not set aside; a collapse may lie above it
    best = float(reached.loc[reached["optimum"] == 1, "objective"].max())
    for label, members in reached.groupby("optimum"):
        chosen = members.sort_values(["objective", "gradient"], ascending=[False, True])
        # the representative: of those at the top, the one whose gradient is smallest
        top = chosen[chosen["objective"] >= chosen["objective"].iloc[0] - 1e-7]
        i = int(top["gradient"].idxmin())
        objective, gradient = (float(members.loc[i, c]) for c in ("objective", "gradient"))
        status = str(members.loc[i, "status"])
        smallest = float("nan")
        if len(rows) < EXAMINED:
            vector = target.space.to_vector({n: params[i][n] for n in target.space.names})
            smallest = _smallest_eigenvalue(information(target, vector)[1])
        own = [params[j] for j in members.index]
        rows.append(
            {
                "objective": objective,
                "below_best": _below(best, objective),
                "starts": len(members),
                "share": len(members) / len(starts),
                "kind": _kind(status, smallest, gradient),
                "status": status,
                "gradient": gradient,
                "smallest_eigenvalue": smallest,
                "points": _points(own, target, groups, model),
                "start": i,
                "note": str(members.loc[i, "note"]),
                "label": int(label),
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        table = table.sort_values("label").set_index("label")
        table.index.name = "optimum"
    return table


def _below(best: float, value: float) -> float:
    """Nats below the best, zero within rounding; negative above it."""
    gap = best - value
    return 0.0 if abs(gap) <= 1e-9 * (1 + abs(best)) else gap


def _smallest_eigenvalue(information: np.ndarray) -> float:
    """Of the information scaled to a unit diagonal: 1 for independent scalars, 0 for a ridge."""
    diagonal = np.abs(np.diag(information))
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = information * scale[:, None] * scale[None, :]
    known = scaled.size > 0 and np.all(np.isfinite(scaled))
    return float(np.linalg.eigvalsh(scaled)[0]) if known else float("nan")


def _kind(status: str, smallest: float, gradient: float) -> str:
    if status in (Status.COLLAPSED.label, Status.SPURIOUS.label, Status.BOUNDARY.label,
                  Status.SEPARATION.label):  # fmt: skip
        return status
    if not np.isfinite(smallest):
        return "not examined"
    if smallest < -SADDLE:
        return "saddle" if gradient < 1e-5 else "not a maximum yet"
    return "ridge" if smallest < RIDGE else "maximum"


def _points(
    params: Sequence[Params], target: Target, groups: tuple[Group, ...], model: Model
) -> int:
    """Distinct points among starts with the same objective, labels aligned; copies that a rotation, or a
    change of a factor's sign, turns into one another are one."""
    own = [align(dict(p), params[0], groups, model) for p in params]
    names = target.space.names
    count = _distinct(own, names)
    if count == 1:
        return count
    turns = turns_of(target, smallest=1)
    return _distinct([turned_to(turns, p, params[0]) for p in own], names) if turns else count


def _distinct(params: Sequence[Params], names: tuple[str, ...]) -> int:
    points: list[np.ndarray] = []
    for own in params:
        flat = np.concatenate([np.ravel(own[n]) for n in names] or [np.zeros(1)])
        if not any(np.allclose(flat, p, rtol=SAME_POINT, atol=SAME_POINT) for p in points):
            points.append(flat)
    return len(points)
