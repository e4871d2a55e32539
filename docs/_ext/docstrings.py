"""Docstrings are plain text with code in backticks: this makes reStructuredText of them.

Stars, bars and final underscores outside of backticks are what they are; code in backticks links where it is a public
name; a DOI is a link.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|`[^`]+`)", re.S)
DOI = re.compile(r"doi:(10\.\S+?)(?=[,.;)]*(?:\s|$))")


def plain(text: str) -> str:
    parts = CODE.split(text)
    for i in range(0, len(parts), 2):
        words = re.sub(r"([*|])", r"\\\1", parts[i])
        words = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", words)
        parts[i] = DOI.sub(r"`doi:\1 <https://doi.org/\1>`__", words)
    return "".join(parts)


def each_alone(lines: list[str]) -> list[str]:
    """Attributes that are described together, each by itself, as napoleon does with arguments."""
    found, i = [], 0
    while i < len(lines):
        entry = re.fullmatch(r"(\s+)((?:\w+, )+\w+): (.*)", lines[i])
        indent = len(lines[i]) - len(lines[i].lstrip())
        end = i + 1
        while end < len(lines) and len(lines[end]) - len(lines[end].lstrip()) > indent:
            end += 1
        if entry is None:
            end = i + 1
            found.append(lines[i])
        else:
            for name in entry[2].split(", "):
                found += [f"{entry[1]}{name}: {entry[3]}", *lines[i + 1 : end]]
        i = end
    return found


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Blocks of examples are left alone."""
    if "Attributes:" in lines:
        start = lines.index("Attributes:") + 1
        end = next(
            (i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith(" ")),
            len(lines),
        )
        lines[start:end] = each_alone(lines[start:end])
    blocks, inside = [[]], False
    for line in lines:
        example = line.lstrip().startswith(">>>") or (inside and bool(line.strip()))
        if example != inside:
            blocks.append([])
            inside = example
        blocks[-1].append(line)
    lines[:] = [
        line
        for block in blocks
        for line in (
            block
            if block and block[0].lstrip().startswith(">>>")
            else plain("\n".join(block)).split("\n")
        )
        if block
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
