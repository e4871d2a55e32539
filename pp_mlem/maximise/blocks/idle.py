"""Parameters that no factor depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pp_mlem.base.no import No
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior


@dataclass(frozen=True, eq=False)
class Idle(Block):
    """Stay as they are: without a prior nothing moves them."""

    method: ClassVar[str] = "none"

    def collect(self, context: Context, params: Params, statistics: Natural) -> None:
        return None

    def maximise(
        self, context: Context, params: Params, collected: None, prior: Prior | None
    ) -> Params:
        return {}


def plan_idle(group: Group) -> Block | No:
    if group.members or group.priors is not None:
        return No("")
    return Idle(group.names, (), "no factor depends on it: kept as it is")
