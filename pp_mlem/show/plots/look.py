"""The look that all pictures share: fonts, colours by method and by component, and their files."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from pp_mlem.fit.base import Fit

P = ParamSpec("P")
T = TypeVar("T")

INK, SOFT, GRID, SHADE, PAPER = "#1f2933", "#5b6770", "#d9dee3", "#c3ccd4", "#ffffff"
ON_PALE, ON_DARK = (
    "#202a34",
    "#fefefe",
)  # of writing on a coloured ground, which no dark page exchanges
# Okabe & Ito (2008), Color Universal Design
METHODS = {
    "EM": "#0072b2",
    "MLE": "#e69f00",
    "MAP": "#009e73",
    "NUTS": "#d55e00",
    "LAPLACE": "#cc79a7",
}
OTHER_METHODS = ("#56b4e9", "#8c6d31", "#8a8a8a", "#aa3377")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
# the bright scheme of Tol (2021), Colour schemes, SRON technical note 09-002; then some of its muted one
COMPONENTS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#44aa99", "#999933", "#882255",
    "#88ccee",
)  # fmt: skip
DIVERGING = LinearSegmentedColormap.from_list("loadings", ["#2166ac", "#f7f7f7", "#b2182b"])
LOOK = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "axes.prop_cycle": cycler(color=COMPONENTS),
    "text.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.titlesize": 10.0,
    "figure.labelsize": 8.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "pp_mlem",
}
DPI = 200
MANY = 2000  # marks, beyond which a vector picture holds them as an image


def in_one_look(draw: Callable[P, T]) -> Callable[P, T]:
    """The function with the settings of matplotlib that all pictures share; the user's own stay."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> T:
        with matplotlib.rc_context(LOOK):
            return draw(*args, **options)

    return drawn


def method_colours(fits: Mapping[str, Fit]) -> dict[str, str]:
    """A colour for each fit: that of its method, for a further fit of a method one of its own."""
    colours: dict[str, str] = {}
    for name, fit in fits.items():
        own = METHODS.get(fit.method)
        if own is None or own in colours.values():
            others = [c for c in OTHER_METHODS if c not in colours.values()]
            own = others[0] if others else OTHER_METHODS[len(colours) % len(OTHER_METHODS)]
        colours[name] = own
    return colours


def component_colour(component: int) -> str:
    return COMPONENTS[component % len(COMPONENTS)]


def faded(colour: str, share: float) -> tuple[float, float, float, float]:
    """A colour that lets the paper through, whichever that is; `share` of it is left."""
    red, green, blue = to_rgb(colour)
    return red, green, blue, share


@dataclass(frozen=True)
class Rendered:
    """A picture as files: its name, what it shows, the bytes of its PNG and SVG, and its width in inches."""

    name: str
    caption: str
    png: bytes
    svg: bytes
    inches: float

    def save(self, folder: Path) -> list[Path]:
        paths = []
        for ending, content in (("png", self.png), ("svg", self.svg)):
            paths.append(folder / f"{self.name}.{ending}")
            paths[-1].write_bytes(content)
        return paths


@in_one_look
def rendered(figure: Figure, name: str, caption: str) -> Rendered:
    """A figure as PNG of 200 dpi and as SVG; it is laid out once, and emptied."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    files = []
    for options in ({"format": "png"}, {"format": "svg", "metadata": {"Date": None}}):
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=DPI, **options)
        files.append(buffer.getvalue())
    width = float(figure.get_figwidth())
    figure.clear()
    return Rendered(name, caption, files[0], files[1], width)
