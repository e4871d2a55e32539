"""Every refusal of a program or of data stands on the page of refusals, by its first words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reading_programs.md"
FOLDERS = ("program", "factors", "data", "marginal", "model", "sources")
REFUSALS = {
    "ValueError", "TypeError", "Refused", "SiteValueError", "SiteTypeError", "StatesMeet", "UnitsMeet",
    "UnderMask", "NotImplementedError", "NeedsValues", "NotWhole",
}  # fmt: skip
GAP = "…"  # what a message fills in
INSIDE = {
    "… is not found at points",
    "'…' is no MultivariateNormal.",
}  # said by one part of the code to another
SHORT = 12  # letters of its own, below which a message says nothing that could be looked up


def text_of(node):
    """A message with gaps; None of what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else GAP for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = text_of(node.left), text_of(node.right)
        return None if both == (None, None) else "".join(t or GAP for t in both)
    return None


def one_line(text):
    return re.sub(rf"{GAP}+", GAP, re.sub(r"\s+", " ", text)).replace("\\|", "|")


def messages():
    files = [f for folder in FOLDERS for f in (ROOT / "pp_mlem" / folder).rglob("*.py")]
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            told = text_of(node.args[0]) if name in REFUSALS else None
            if told and len(re.sub(rf"[{GAP}\W]", "", told)) > SHORT:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", one_line(told)


def listed():
    """The first words of messages in the tables of the page."""
    rows = [r.split(" | ")[0] for r in PAGE.read_text().splitlines() if re.match(r"\|\s*`", r)]
    return [one_line(k) for row in rows for k in re.findall(r"`([^`]+)`", row)]


def test_every_refusal_is_on_the_page():
    keys = [k.rstrip(GAP).rstrip() for k in listed()]
    lost = [(w, t) for w, t in messages() if not any(t.startswith(k) for k in keys if k)]
    assert [(w, t) for w, t in lost if t not in INSIDE] == []
