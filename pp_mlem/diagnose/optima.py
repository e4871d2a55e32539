"""Which starts reached the same optimum, and what each optimum is."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.base.precision import working_precision
from pp_mlem.base.status import Status
from pp_mlem.diagnose.groups import Group
from pp_mlem.diagnose.labels import align
from pp_mlem.diagnose.uncertainty import SADDLE, information_function
from pp_mlem.model.model import Model
from pp_mlem.target.problem import Problem

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
    model: Model,
    problem: Problem,
    fixed: dict[str, Any],
    starts: pd.DataFrame,
    params: list[dict[str, np.ndarray]],
    groups: tuple[Group, ...],
) -> pd.DataFrame:
    """One row per distinct optimum, the best first; see `Fit.optima`."""
    rows = []
    names = [n for n in problem.space.names]
    with working_precision(model.dtype):
        held = {k: jnp.asarray(v) for k, v in fixed.items()}
        key = ("information", (frozenset(fixed), problem.with_prior))
        information = model.compiled(key, lambda: information_function(model, problem))
        best = starts.loc[starts["optimum"] > 0, "objective"].max()
        for label, members in starts[starts["optimum"] > 0].groupby("optimum"):
            chosen = members.sort_values(["objective", "gradient"], ascending=[False, True])
            # the representative: of those at the top, the one whose gradient is smallest
            top = chosen[chosen["objective"] >= chosen["objective"].iloc[0] - 1e-7]
            i = int(top["gradient"].idxmin())
            smallest = float("nan")
            if len(rows) < EXAMINED:
                vector = problem.space.to_vector({n: params[i][n] for n in names})
                _, matrix = information(vector, model.data, held)
                smallest = _smallest_eigenvalue(np.asarray(matrix, float))
            status = str(members.loc[i, "status"])
            note = str(members.loc[i, "note"])
            rows.append(
                {
                    "objective": float(members.loc[i, "objective"]),
                    "below_best": _below(float(best), float(members.loc[i, "objective"])),
                    "starts": len(members),
                    "share": len(members) / len(starts),
                    "kind": _kind(status, smallest, float(members.loc[i, "gradient"])),
                    "status": status,
                    "gradient": float(members.loc[i, "gradient"]),
                    "smallest_eigenvalue": smallest,
                    "points": _points([params[j] for j in members.index], names, groups, model),
                    "start": i,
                    "note": note,
                    "label": int(label),
                }
            )
    table = pd.DataFrame(rows).sort_values("label") if rows else pd.DataFrame(rows)
    if len(table):
        table = table.set_index("label")
        table.index.name = "optimum"
    return table


def _below(best: float, value: float) -> float:
    """Nats below the best, zero within rounding."""
    gap = best - value
    return 0.0 if abs(gap) <= 1e-9 * (1 + abs(best)) else gap


def _smallest_eigenvalue(information: np.ndarray) -> float:
    """Of the information scaled to a unit diagonal: 1 for independent scalars, 0 for a ridge."""
    diagonal = np.abs(np.diag(information))
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = information * scale[:, None] * scale[None, :]
    return float(np.linalg.eigvalsh(scaled)[0]) if np.all(np.isfinite(scaled)) else float("nan")


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
    params: list[dict[str, np.ndarray]], names: list[str], groups: tuple, model: Model
) -> int:
    """Distinct points among starts with the same objective, labels aligned."""
    found: list[np.ndarray] = []
    first = params[0]
    for own in params:
        moved = align(dict(own), first, groups, model)
        flat = np.concatenate([np.ravel(moved[n]) for n in names] or [np.zeros(1)])
        near = (np.allclose(flat, f, rtol=SAME_POINT, atol=SAME_POINT) for f in found)
        if not any(near):
            found.append(flat)
    return len(found)
