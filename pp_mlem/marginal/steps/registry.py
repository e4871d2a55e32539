"""The kinds of steps, asked in order: a new one is a file of its own and a line here, or a call of
`register`."""

from __future__ import annotations

from pp_mlem.base.no import No
from pp_mlem.factors.base import Factor
from pp_mlem.marginal.steps.base import Claim, Graph, Scope, Step, layout_of
from pp_mlem.marginal.steps.chain import Chain
from pp_mlem.marginal.steps.joint import JointStep
from pp_mlem.marginal.steps.kalman import Kalman
from pp_mlem.marginal.steps.plates import PlateStep
from pp_mlem.program.reading import Reading

STEPS: list[type[Step]] = [PlateStep, Kalman, JointStep, Chain]


def register(kind: type[Step]) -> None:
    """Add a kind of step, asked before those that are there."""
    STEPS.insert(0, kind)


def plan_steps(reading: Reading, factors: tuple[Factor, ...]) -> tuple[Step, ...]:
    """How the latents of these factors are taken out, in order.

    Raises ValueError with the reasons where no kind of step applies.
    """
    claims = Claim()
    for kind in STEPS:
        claims |= kind.claim(reading, factors)
    graph = Graph(
        reading=reading,
        factors=factors,
        layout=layout_of(reading, factors),
        scopes=tuple(Scope(f.site, frozenset(f.latents), f.plates) for f in factors if f.latents),
        latents={s.name: s.plates for s in (*reading.latents, *reading.reals)},
        claims=claims,
    )
    steps = []
    while graph.latents:
        step, graph = _next(graph)
        steps.append(step)
    return tuple(steps)


def _next(graph: Graph) -> tuple[Step, Graph]:
    reasons = []
    for kind in STEPS:
        planned = kind.plan(graph)
        if not isinstance(planned, No):
            return planned
        reasons.append(f"{kind.__name__}: {planned.reason}")
    names = ", ".join(f"'{n}'" for n in sorted(graph.latents))
    raise ValueError(
        f"latents {names} cannot be taken out exactly ({'; '.join(reasons)}). Observe one of them with "
        "observe={...}, or change what meets them."
    )
