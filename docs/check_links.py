"""Checks the built pages: every link inside of them leads somewhere, and nothing is loaded from a network.

python docs/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}
NOT_LOADED = {"canonical", "search", "index", "next", "prev", "author", "copyright", "top", "up"}


class Page(HTMLParser):
    """The anchors of a page, and what it points at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[k] for k in ("id", "name") if values.get(k)}
        for name, value in attrs:
            if not value or value.startswith("data:"):
                continue
            if (tag, name) in LOADED and values.get("rel") not in NOT_LOADED:
                self.loaded.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)


def problems(folder: Path) -> list[str]:
    pages = {
        p.resolve(): Page(p) for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts
    }
    found = []
    for path, page in pages.items():
        here = path.relative_to(folder.resolve())
        found += [f"{here}: loads {link}" for link in page.loaded if urlsplit(link).netloc]
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                found.append(f"{here}: {link} leads nowhere")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    found.append(f"{here}: {link} has no such place in its page")
    return found


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_build/html")
    found = problems(folder)
    print(
        "\n".join(found) or f"{len(list(folder.rglob('*.html')))} pages, every link leads somewhere"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
