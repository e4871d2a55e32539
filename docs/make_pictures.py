"""Fits models by EM and saves the gallery's pictures: docs/gallery/pictures/NAME.png, under 60 kB each.

python docs/make_pictures.py             # of models that have none yet
python docs/make_pictures.py galaxies    # of these, anew
python docs/make_pictures.py --all       # of all, anew
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from PIL import Image

from pp_mlem import Model, fit_em
from pp_mlem.fit.point import PointFit
from pp_mlem.show.catalogue import Shelf, find_model, model_names
from pp_mlem.show.plots.look import in_one_look

FOLDER = Path(__file__).resolve().parent / "gallery" / "pictures"
MOST_BYTES = 60_000
DPI = 120
STARTS = 10


def figure_of(shelf: Shelf, fit: PointFit):
    """As the model draws itself, or its components, its loadings of several factors, its real latents, or a
    predictive check."""
    if shelf.picture is not None:
        figure = in_one_look(shelf.picture)(fit)
        if figure is not None:
            return figure
    figure = fit.plot_components()
    if figure is None and any(t.size > 1 and t.entry is None for t in fit.turns):
        figure = fit.plot_loadings()
    if figure is None and fit.model.reading.reals:
        figure = fit.plot_latents()
    return figure if figure is not None else fit.plot_predictive_check()


def small_png(figure) -> bytes:
    """A picture with a palette, of fewer colours and then of fewer pixels until it is small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, facecolor="white")
    whole = Image.open(buffer).convert("RGB")
    for scale in (1.0, 0.85, 0.7, 0.6, 0.5):
        size = (int(whole.width * scale), int(whole.height * scale))
        image = whole if scale == 1 else whole.resize(size, Image.Resampling.LANCZOS)
        for colours in (256, 128, 64, 32):
            out = io.BytesIO()
            image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
            if len(out.getvalue()) <= MOST_BYTES:
                return out.getvalue()
    raise ValueError(
        "the picture is too rich for a small file; draw fewer points in `picture(fit)`."
    )


def make(name: str) -> None:
    clock = time.perf_counter()
    shelf = find_model(name)
    model = Model(shelf.program, **shelf.data(), **shelf.options)
    fit = fit_em(model, starts=STARTS if model.latent_names else 1, seed=0, progress=False)
    figure = figure_of(shelf, fit)
    if figure is None:
        print(f"{name}: has no picture")
        return
    content = small_png(figure)
    plt.close(figure)
    (FOLDER / f"{name}.png").write_bytes(content)
    print(f"{name}: {len(content) / 1000:.0f} kB, {time.perf_counter() - clock:.0f} s", flush=True)


def main(asked: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    there = {p.stem for p in FOLDER.iterdir()}
    named = [a for a in asked if not a.startswith("-")]
    every = model_names() if "--all" in asked else [n for n in model_names() if n not in there]
    for name in named or every:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
