"""Docstrings are plain text with code in backticks: this makes reStructuredText of them.

Stars, bars and final underscores outside of backticks are what they are; code in backticks links where it is a public
name; a DOI is a link.
"""

from __future__ import annotations

import re
from typing import Any

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


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Blocks of examples are left alone."""
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
