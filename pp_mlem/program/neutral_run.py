"""One run of a program at neutral values: its sites, and the structure of its scans."""

from __future__ import annotations

from typing import Any

from pp_mlem.program.arguments import Arguments
from pp_mlem.program.errors import Refused
from pp_mlem.program.initial import neutral_supply
from pp_mlem.program.messages import Message, Supply
from pp_mlem.program.parts import site_parts
from pp_mlem.program.scans.body import Body
from pp_mlem.program.scans.discover import discover
from pp_mlem.program.scans.scan import Scan
from pp_mlem.program.trace import Runner, run_program


def neutral_run(
    arguments: Arguments, dynamic: tuple[Any, ...], supply: Supply | None = None
) -> tuple[dict[str, Message], dict[str, Scan]]:
    """The program's sites at neutral values (those of a scan at its first step), and its scans."""
    scans: dict[str, Scan] = {}
    inside: dict[str, Message] = {}

    def on_scan(runner: Runner, msg: dict[str, Any]) -> Any:
        name = "time" if not scans else f"time {len(scans) + 1}"
        scan, messages, value = discover(Body(runner, msg), name, site_parts)
        scans[name] = scan
        inside.update(messages)
        return value

    messages = run_program(
        lambda p: arguments.call(p, dynamic), arguments.program, supply or neutral_supply(), on_scan
    )
    both = sorted(set(messages) & set(inside))
    if both:
        raise Refused(f"site name(s) {both} are used inside and outside of a scan.")
    return messages | inside, scans
