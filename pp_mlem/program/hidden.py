"""Observed sites whose missing cells are latents: read without their values, which clamp the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpyro.primitives import Messenger

from pp_mlem.program.distributions import is_discrete


class Hidden(Messenger):
    """A program in which the named continuous sites have no values of their own; `found` are those that the
    program does give values."""

    def __init__(self, fn: Callable[..., Any], names: frozenset[str]) -> None:
        super().__init__(fn)
        self.names = names
        self.found: set[str] = set()

    def process_message(self, msg: dict[str, Any]) -> None:
        named = msg["type"] == "sample" and msg["name"] in self.names and msg["is_observed"]
        if named and not is_discrete(msg["fn"]):
            self.found.add(msg["name"])
            msg["value"], msg["is_observed"] = None, False
