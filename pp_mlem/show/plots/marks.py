"""Rows of data in the colours of their components: points, or hexagons where they are many."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.transforms import AffineDeltaTransform

from pp_mlem.model.model import Model
from pp_mlem.show.axis_labels import value_labels
from pp_mlem.show.grouped import Grouped
from pp_mlem.show.plots.figure import shortened
from pp_mlem.show.plots.look import MANY, SHADE, component_colour

HEXAGONS = 5000  # rows, beyond which they are counted in hexagons
PALEST = 0.25
MARGIN = 0.03  # of the range of a column, for the hexagons at its ends


def row_colours(own: Grouped) -> np.ndarray:
    """(rows, 4): the colour of the most probable component, paler where that is less probable."""
    colours = np.array([to_rgb(component_colour(k)) for k in range(own.states)])
    least = 1 / own.states
    sure = np.clip((own.probability - least) / max(1 - least, 1e-9), 0, 1)
    strength = (PALEST + (1 - PALEST) * sure)[:, None]
    own_colours = np.concatenate([colours[own.likely], strength], 1)
    found: np.ndarray = np.where((own.likely >= 0)[:, None], own_colours, to_rgba(SHADE))
    return found


def draw_marks(axes: Axes, x: np.ndarray, y: np.ndarray, own: Grouped, size: float = 14) -> None:
    """Points in the colours of their components; above 5,000 rows hexagons, darker where there are more."""
    seen = np.isfinite(x) & np.isfinite(y) & (own.weights > 0)
    if seen.sum() > HEXAGONS:
        _draw_hexagons(axes, x[seen], y[seen], own.likely[seen], own.states)
        return
    axes.scatter(
        x[seen], y[seen], s=size, color=row_colours(own)[seen], linewidths=0, zorder=2,
        rasterized=bool(seen.sum() > MANY),
    )  # fmt: skip


def _draw_hexagons(
    axes: Axes, x: np.ndarray, y: np.ndarray, likely: np.ndarray, states: int, across: int = 45
) -> None:
    extent = (x.min(), x.max(), y.min(), y.max())
    counts, cells = [], None
    for k in range(states):
        mine = likely == k
        hexagons = axes.hexbin(x[mine], y[mine], gridsize=across, extent=extent)
        counts.append(np.asarray(hexagons.get_array()))
        cells = (hexagons.get_paths(), hexagons.get_offsets())
        hexagons.remove()
    if cells is None:
        return
    table = np.array(counts)
    total = table.sum(0)
    full = total > 0
    colours = np.array([to_rgb(component_colour(k)) for k in range(states)])
    mixed = (table[:, full] / total[full]).T @ colours
    strength = PALEST + (1 - PALEST) * np.log1p(total[full]) / np.log1p(total.max())
    shown = np.concatenate([mixed, strength[:, None]], 1)
    outline = np.asarray(cells[0][0].vertices)
    axes.add_collection(
        PolyCollection(
            [outline], offsets=np.asarray(cells[1])[full], facecolors=shown, linewidths=0,
            offset_transform=AffineDeltaTransform(axes.transData),  # type: ignore[arg-type]
            antialiased=False, zorder=2, rasterized=True,
        )
    )  # fmt: skip
    (left, right), (low, high) = extent[:2], extent[2:]
    axes.set_xlim(left - MARGIN * (right - left), right + MARGIN * (right - left))
    axes.set_ylim(low - MARGIN * (high - low), high + MARGIN * (high - low))


def component_handles(model: Model, own: Grouped, share: bool = True) -> list[Line2D]:
    """What a legend says of each component: its value, and its share of the data."""
    labels = value_labels(model, own.latent, own.states)
    shares = own.shares
    return [
        Line2D(
            [], [], color=component_colour(k), marker="o", ms=5, lw=1.6,
            label=f"{shortened(label)} ({shares[k]:.2f})" if share else shortened(label),
        )
        for k, label in enumerate(labels)
    ]  # fmt: skip
