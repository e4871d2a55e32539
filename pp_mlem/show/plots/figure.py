"""Figures, made without pyplot: nothing is kept open and no window appears."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of one row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def new_grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` cells of this size, row by row; cells that are left over are hidden."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in cells[count:]:
        axes.set_visible(False)
    return figure, cells[:count]
