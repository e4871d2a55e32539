"""The page of the command line, from the help of the commands themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main
from gallery import escaped, write
from sphinx.application import Sphinx

PAGE = Path(__file__).resolve().parents[1] / "reference" / "command_line.md"
HEAD = """# Commands and options

`pp-mlem COMMAND --help` prints what stands here. [Command line](../command_line.md) says how the commands belong together.
"""


def paragraphs(help_text: str) -> list[str]:
    """Help as Markdown; blocks after \\b keep their lines."""
    found = []
    for text in re.split(r"\n\s*\n", help_text.strip()):
        if text.lstrip().startswith("\b"):
            found.append("```text\n" + text.replace("\b", "").strip("\n") + "\n```")
        else:
            found.append(escaped(" ".join(text.split())))
    return found


def item(parameter: Any, context: Any) -> str:
    """An argument or an option: how it is written, and what it does."""
    record = parameter.get_help_record(context)
    if record is None:
        name, told = parameter.make_metavar(context), getattr(parameter, "help", "") or ""
    else:
        name, told = record
    return (
        f"`{' '.join(name.split())}`\n: {escaped(' '.join(told.split())) or '(no more to say)'}\n"
    )


def command_section(name: str, command: Any, parent: Any) -> str:
    context = command.context_class(command, info_name=f"pp-mlem {name}", parent=None)
    usage = " ".join(["pp-mlem", name, *command.collect_usage_pieces(context)])
    blocks = [f"## {name}", *paragraphs(command.help or ""), f"```text\n{usage}\n```"]
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        own = [item(p, context) for p in shown if p.param_type_name == kind and p.name != "help"]
        if own:
            blocks += [f"**{title}**", "\n".join(own)]
    return "\n\n".join(blocks)


def generate(app: Sphinx) -> None:
    from pp_mlem.show.cli import app as commands

    group = typer.main.get_command(commands)
    sections = [command_section(n, c, group) for n, c in group.commands.items() if not c.hidden]
    write(PAGE, "\n\n".join([HEAD, *sections]) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
