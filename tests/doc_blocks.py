"""The Python blocks of a page of Markdown, run in their order in a module of their own."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """(first line, code) of every block that begins with ```python; {code-block} python is not run."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


@contextmanager
def page_run(
    page: Path, given: Mapping[str, Any] | None = None, smaller: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """What the blocks of a page define, run with given names; errors tell the line of the page.

    `smaller` replaces text of the blocks, where as it stands they would take long.
    """
    name = re.sub(r"\W", "_", page.stem)
    module = sys.modules[name] = types.ModuleType(name)  # classes of a page look their module up
    module.__dict__.update(given or {})
    try:
        for line, code in blocks_of(page):
            for long, short in (smaller or {}).items():
                code = code.replace(long, short)
            exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), module.__dict__)
        yield module.__dict__
    finally:
        del sys.modules[name]
