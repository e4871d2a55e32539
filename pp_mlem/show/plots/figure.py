"""Figures, made without pyplot: nothing is kept open and no window appears."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from pp_mlem.show.plots.look import INK, PAPER, SOFT

DOLLAR = re.compile(r"(?<!\\)\$")
PER_INCH = 12.5  # characters of a legend


def empty_figure(width: float, height: float) -> Figure:
    """A figure without axes."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of one row."""
    figure = empty_figure(width, height)
    return figure, [plain(a) for a in figure.subplots(1, columns, squeeze=False)[0]]


def new_grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` cells of this size, row by row; cells that are left over are hidden."""
    rows = -(-count // columns)
    figure = empty_figure(width * columns, height * rows)
    cells = [plain(a) for a in figure.subplots(rows, columns, squeeze=False).ravel()]
    for axes in cells[count:]:
        axes.set_visible(False)
    return figure, cells[:count]


def plain(axes: Axes) -> Axes:
    """Axes whose ticks look the same wherever the figure is drawn."""
    axes.tick_params(labelsize=8, color=SOFT, labelcolor=INK, width=0.8, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def head(figure: Figure, title: str, shown: int = 0, of: int = 0, what: str = "") -> None:
    """The title of a figure, which says where only the first of something are drawn."""
    told = f": the first {shown} of {of} {what}" if shown < of else ""
    figure.suptitle(title + told, x=0.01, ha="left")


def legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str] | None = None
) -> None:
    """One legend for all axes, below them, in as many columns as the width holds."""
    labels = [str(h.get_label()) for h in handles] if labels is None else list(labels)
    if not labels:
        return
    longest = max(map(len, labels)) + 5
    columns = max(1, min(len(labels), int(figure.get_figwidth() * PER_INCH / longest)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def legend_under(axes: Axes, inches: float = 0.45) -> None:
    """The legend of one axes, below it and the label of its x axis."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    below = axes.transAxes + ScaledTranslation(0, -inches, axes.figure.dpi_scale_trans)
    longest = max(map(len, labels)) + 5
    pixels = axes.get_window_extent().width
    wide = pixels / axes.figure.dpi
    columns = max(1, min(len(labels), int(wide * PER_INCH / longest)))
    axes.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below,
        borderaxespad=0.0, ncols=columns, fontsize=8,
    )  # fmt: skip


def shortened(text: str, most: int = 28) -> str:
    """A label that fits, as it is written; what is left out is told by dots."""
    return literal(text if len(text) <= most else text[: most - 1] + "…")


def literal(text: str) -> str:
    """A name whose dollar signs are no mathematics."""
    return DOLLAR.sub(r"\\$", text)


def folded(label: str, most: int = 16) -> str:
    """A label on two or three lines where it is long."""
    words, lines = literal(label).split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= most and len(lines) < 3:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
