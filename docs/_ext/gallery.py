"""The gallery: a page for each file of models/, and an index by topic, written before each build."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import formulas

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
MODELS = DOCS.parent / "models"
GALLERY = DOCS / "gallery"
MOST_LINES = 8  # of a table of data that a page shows whole
UNITS = re.compile(r"[A-Za-z]\w*: \S.*")


@dataclass(frozen=True)
class Entry:
    """A model file as the gallery shows it."""

    name: str
    source: str
    title: str
    story: str
    body: str
    topic: str | None
    published: dict[str, tuple[float, float]]
    options: dict[str, Any]
    picture: str | None


def read(path: Path) -> Entry:
    source = path.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or path.stem
    head, _, body = doc.partition("\n\n")
    head = " ".join(head.split()).rstrip(".")
    title, _, story = head.partition(": " if ": " in head else ", ")
    spec = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures = sorted((GALLERY / "pictures").glob(f"{path.stem}.*"))
    return Entry(
        path.stem,
        source,
        title,
        story[:1].upper() + story[1:],
        body,
        getattr(module, "topic", None),
        dict(getattr(module, "published", {})),
        dict(getattr(module, "options", {})),
        pictures[0].name if pictures else None,
    )


# --- a docstring as Markdown --------------------------------------------------------------------


def escaped(text: str) -> str:
    """Plain text that Markdown leaves as it is, but for code in backticks and DOIs, which are links."""
    parts = re.split(r"(`[^`]+`)", text)
    for i in range(0, len(parts), 2):
        words = re.sub(r"([\\*_\[\]<>$#|~^{}])", r"\\\1", parts[i])
        parts[i] = re.sub(
            r"doi:(10\.\S+?)(?=[,.;)]*(?:\s|$))",
            lambda m: f"[doi:{m[1]}](https://doi.org/{m[1].replace(chr(92), '')})",
            words,
        )
    return "".join(parts)


def paragraph(text: str) -> str:
    if formulas.is_formula(text):
        return f"```{{math}}\n{formulas.latex(text)}\n```"
    lines = text.split("\n")
    if all(UNITS.fullmatch(line) for line in lines):
        rows = (line.partition(": ") for line in lines)
        return "\n".join(f"- `{name}`: {escaped(what)}" for name, _, what in rows)
    if all(line.startswith("    ") for line in lines):
        return "```text\n" + "\n".join(line[4:] for line in lines) + "\n```"
    return escaped(text)


# --- a source without what would fill the screen --------------------------------------------------


def shortened(source: str) -> str:
    """A source whose tables of numbers and words show their first and last lines only."""
    lines = source.split("\n")
    for node in sorted(tables(ast.parse(source)), key=lambda n: -n.lineno):
        first, last = node.lineno - 1, node.end_lineno - 1
        left_out = last - first - 3
        indent = re.match(r"\s*", lines[first + 1])[0]
        mark = "..." if isinstance(node, ast.Constant) else f"# ... {left_out} more lines"
        lines[first + 3 : last] = [indent + mark]
    return "\n".join(lines)


def tables(node: ast.AST) -> list[ast.AST]:
    """The largest literals of many lines, which hold no more than constants."""
    literal = isinstance(node, ast.List | ast.Tuple | ast.Dict | ast.Set) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    if literal and node.end_lineno - node.lineno > MOST_LINES and is_constant(node):
        return [node]
    return [t for child in ast.iter_child_nodes(node) for t in tables(child)]


def is_constant(node: ast.AST) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def parts(source: str) -> tuple[str, str, str]:
    """The program with its imports, the data, and how the model is drawn; without the docstring."""
    tree = ast.parse(source)
    lines = source.split("\n")
    found: dict[str, list[str]] = {"program": [], "data": [], "picture": []}
    nodes = [n for n in tree.body if not is_docstring(n, tree)]
    imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    head = "\n".join(text(n, lines) for n in imports)
    used = names_of(next(n for n in nodes if getattr(n, "name", "") == "model"))
    for node in nodes:
        name = getattr(node, "name", None) or assigned(node)
        if node in imports or assigned(node) in ("topic", "published"):
            continue
        if name == "picture" or (name in names_of_function(nodes, "picture") and name not in used):
            kind = "picture"
        else:
            kind = "program" if name == "model" or name in used else "data"
        found[kind].append(text(node, lines))
    program, data, picture = (
        shortened_all("\n\n\n".join(found[kind])) for kind in ("program", "data", "picture")
    )
    return f"{head}\n\n\n{program}", data, picture


def shortened_all(source: str) -> str:
    """Without marks for linters."""
    source = re.sub(r" *# (?:fmt|noqa|ruff|type)\b:?.*", "", source)
    return shortened(source) if source else ""


def is_docstring(node: ast.AST, tree: ast.Module) -> bool:
    return node is tree.body[0] and isinstance(node, ast.Expr)


def text(node: ast.stmt, lines: list[str]) -> str:
    """A statement with its decorators and the comments above it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first : node.end_lineno])


def assigned(node: ast.AST) -> str | None:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return targets[0].id if targets and isinstance(targets[0], ast.Name) else None


def names_of(node: ast.AST | None) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else set()


def names_of_function(nodes: list[ast.stmt], name: str) -> set[str]:
    """Names that only this function uses, of all functions of a file."""
    of = next((n for n in nodes if getattr(n, "name", "") == name), None)
    others = set().union(*(names_of(n) for n in nodes if n is not of))
    return names_of(of) - others


# --- pages ----------------------------------------------------------------------------------------


def page(entry: Entry) -> str:
    program, data, picture = parts(entry.source)
    blocks = [f"# {escaped(entry.title)}"]
    if entry.story:
        blocks.append(escaped(entry.story) + ("" if entry.story.endswith("?") else "."))
    if entry.picture:
        alt = f"{entry.title} as fitted by EM".replace('"', "")
        blocks.append(
            f"```{{image}} pictures/{entry.picture}\n:alt: {alt}\n:class: model-picture\n```"
        )
    blocks += [paragraph(p) for p in entry.body.split("\n\n") if p.strip()]
    if entry.published:
        blocks += ["## Published values", published(entry.published)]
    blocks += ["## The program", f"```{{code-block}} python\n{program}\n```"]
    if data:
        blocks += ["## Data and options", f"```{{code-block}} python\n{data}\n```"]
    if picture:
        drawn = f"````{{dropdown}} How the picture is drawn\n```{{code-block}} python\n{picture}\n```\n````"
        blocks.append(drawn)
    options = ", **options" if entry.options else ""
    blocks += [
        "## Fit it",
        "On the command line, where `show` tells how the program is read and `compare` fits it by "
        "several methods:",
        f"```sh\npp-mlem show {entry.name}\npp-mlem compare {entry.name}\n```",
        "In Python, with what stands above:",
        "```{code-block} python\nfrom pp_mlem import Model, fit_em\n\n"
        f"fit = fit_em(Model(model, **data(){options}), seed=0)\nprint(fit.summary())\n```",
        f"The whole file is {{download}}`{entry.name}.py <../../models/{entry.name}.py>`.",
    ]
    return "\n\n".join(blocks) + "\n"


def published(values: dict[str, tuple[float, float]]) -> str:
    """A table; the tolerance is that of the test which compares them with the fit."""
    bar = r"\|"  # a bar in a name is no end of a cell
    rows = [
        f"| `{name.replace('|', bar)}` | {value} | {tolerance:g} |"
        for name, (value, tolerance) in values.items()
    ]
    told = (
        "As the source prints them. The tests of the package fit the model by EM and by maximum "
        "likelihood, and compare:"
    )
    return "\n".join([told, "", "| | value | within |", "|---|---|---|", *rows])


def sorted_by_topic(entries: list[Entry]) -> dict[str, list[Entry]]:
    topics = tomllib.loads((GALLERY / "topics.toml").read_text(encoding="utf-8"))["topics"]
    found: dict[str, list[Entry]] = {t["title"]: [] for t in topics}
    for entry in entries:
        found.setdefault(topic_of(entry, topics), []).append(entry)
    for topic in topics:  # those that are listed come first, in that order
        order = {name: i for i, name in enumerate(topic["models"])}
        found[topic["title"]].sort(key=lambda e, o=order: (o.get(e.name, len(o)), e.title))
    return {title: own for title, own in found.items() if own}


def topic_of(entry: Entry, topics: list[dict[str, Any]]) -> str:
    if entry.topic:
        known = {t["title"].lower(): t["title"] for t in topics}
        return known.get(entry.topic.lower(), entry.topic[:1].upper() + entry.topic[1:])
    listed = [t["title"] for t in topics if entry.name in t["models"]]
    said = f"{entry.title} {entry.story} {entry.name.replace('_', ' ')}".lower()
    return (listed or [t["title"] for t in topics if any(w in said for w in t["words"])])[0]


def index(entries: list[Entry]) -> str:
    topics = tomllib.loads((GALLERY / "topics.toml").read_text(encoding="utf-8"))["topics"]
    about = {t["title"]: t["about"] for t in topics}
    blocks = [
        "# Models",
        f"{len(entries)} models that come with the package, each a file with its program, its data and its source. "
        "Each page has the formula, what is published, the program, and the command that fits it. "
        "`pp-mlem models` lists them in a terminal.",
    ]
    for title, own in sorted_by_topic(entries).items():
        cards = "\n\n".join(card(entry) for entry in own)
        blocks += [f"## {title}", about.get(title, "")]
        blocks.append(
            f":::::{{grid}} 2 2 3 4\n:gutter: 2\n:class-container: models\n\n{cards}\n:::::"
        )
        listed = "\n".join(e.name for e in own)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```")
    return "\n\n".join(b for b in blocks if b) + "\n"


def card(entry: Entry) -> str:
    image = (
        f":img-top: pictures/{entry.picture}\n:img-alt: {entry.title}\n" if entry.picture else ""
    )
    return (
        f"::::{{grid-item-card}} {escaped(entry.title)}\n:link: {entry.name}\n:link-type: doc\n"
        f"{image}\n{escaped(entry.story)}\n::::"
    )


def write(path: Path, content: str) -> None:
    """Only where it changes, so that Sphinx reads again what is new."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")


def generate(app: Sphinx) -> None:
    entries = [read(p) for p in sorted(MODELS.glob("*.py")) if not p.stem.startswith("_")]
    wanted = {f"{e.name}.md": page(e) for e in entries} | {"index.md": index(entries)}
    for old in GALLERY.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, content in wanted.items():
        write(GALLERY / name, content)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
