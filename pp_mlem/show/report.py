"""One self-contained HTML page of a comparison: reading, tables, pictures, warnings, versions."""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pp_mlem.base.digits import with_error
from pp_mlem.base.files import write_text
from pp_mlem.base.lazy import pd
from pp_mlem.comparison.compare import Comparison
from pp_mlem.comparison.scores import ONE_STEP
from pp_mlem.fit.point import PointFit
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.show.plots.comparison import render_pictures
from pp_mlem.show.plots.look import GRID, INK, PAPER, SHADE, SOFT, Rendered

PACKAGES = ("pp-mlem", "jax", "numpyro", "optimistix", "jaxtyping", "numpy", "scipy", "xarray",
            "arviz-base", "arviz-stats", "matplotlib")  # fmt: skip
ROWS, FOLDED = 30, 40  # rows of a long table that are not folded; rows that make it long
OF_OPTIMA = {
    "objective": "objective (nats)",
    "below_best": "below the best (nats)",
    "starts": "starts",
    "share": "share",
    "kind": "kind",
    "smallest_eigenvalue": "smallest eigenvalue",
    "note": "note",
}
OF_SCORES = {
    "log_likelihood": "log-likelihood",
    "parameters": "parameters",
    "AIC": "AIC",
    "BIC": "BIC",
    "ICL": "ICL-BIC",
    "elpd": "elpd",
    "status": "status",
}
OF_TIME = {
    "seconds": "seconds in all",
    "compile_seconds": "of them compiling",
    "ess_per_second": "effective draws a second",
}
OF_LATENTS = {
    "correlation": "correlation",
    "furthest": "furthest apart",
    "sd_ratio": "ratio of sds",
    "sd_difference": "difference of sds",
}
TEMPLATES = files("pp_mlem.show") / "templates"
# what the colours of a picture become on a dark page
DARK = {INK: "#e4e8eb", SOFT: "#a3b0ba", GRID: "#37424b", SHADE: "#55626d", PAPER: "#12181d"}


@dataclass(frozen=True)
class Frame:
    """A table as text: the heads of its columns; of each row its name and (head, cell)."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @classmethod
    def of(cls, table: pd.DataFrame, heads: Mapping[str, str] | None = None) -> Frame:
        """The columns named in `heads`, or all, under their names for a reader."""
        names = {str(c): str(c) for c in table.columns} if heads is None else dict(heads)
        columns = [c for c in names if c in table.columns]
        shown = tuple(names[c] for c in columns)
        rows = []
        for name, values in zip(table.index, table[columns].to_numpy(object), strict=True):
            told = ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
            rows.append((told, tuple(zip(shown, map(_cell, values), strict=True))))
        return cls(shown, tuple(rows))

    @property
    def first(self) -> Frame:
        return Frame(self.heads, self.rows[: ROWS if len(self.rows) > FOLDED else None])

    @property
    def rest(self) -> Frame | None:
        return Frame(self.heads, self.rows[ROWS:]) if len(self.rows) > FOLDED else None


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value)):
        return "–"
    return f"{value:.7g}" if isinstance(value, (float, np.floating)) else str(value)


def _estimates(comparison: Comparison) -> Frame:
    table = comparison.estimates
    cells = {
        name: [with_error(*pair) for pair in table[name][["estimate", "error"]].to_numpy(float)]
        for name in comparison.fits
    }
    return Frame.of(pd.DataFrame(cells, index=table.index))


def _coverage(comparison: Comparison) -> Frame | None:
    coverage = comparison.coverage
    if not len(coverage.columns):
        return None
    coverage.columns = [f"{point} in {sampled}" for sampled, point in coverage.columns]
    return Frame.of(coverage.round(3))


def _scores(comparison: Comparison) -> tuple[Frame, Frame]:
    """The scores, and the times."""
    table = comparison.scores.copy()
    pairs = table[["elpd_loo", "se"]].to_numpy(float)
    table["elpd"] = [f"{e:.1f} ± {se:.1f}" if np.isfinite(e) else "–" for e, se in pairs]
    for name, decimals in (
        ("log_likelihood", 4),
        ("AIC", 1),
        ("BIC", 1),
        ("ICL", 1),
        ("seconds", 1),
    ):
        table[name] = [f"{v:.{decimals}f}" if np.isfinite(v) else "–" for v in table[name]]
    for name in ("compile_seconds", "ess_per_second"):
        table[name] = table[name].map(lambda v: f"{v:.2g}" if np.isfinite(v) else "–")
    drawn = any(f.has_draws for f in comparison.fits.values())
    times = {k: v for k, v in OF_TIME.items() if drawn or k != "ess_per_second"}
    return Frame.of(table, OF_SCORES), Frame.of(table, times)


def _about_scores(comparison: Comparison) -> str:
    text = (
        "Log-likelihood in nats (with draws: at the posterior mean). AIC, BIC and ICL-BIC: smaller is better. "
        "elpd, the expected log predictive density of a new unit by leave-one-out: larger is better."
    )
    if any(ONE_STEP in w for w in comparison.warnings):
        return text.partition(" elpd")[0] + f" elpd: {ONE_STEP}."
    return text


def merged_warnings(warnings: Sequence[str], names: Iterable[str]) -> list[tuple[str, str]]:
    """(names of fits, text), one row for what is said of several fits."""
    known = set(names)
    found: dict[str, list[str]] = {}
    for warning in warnings:
        warning = warning.replace("elpd_loo", "elpd")
        head, mark, text = warning.partition(": ")
        own = head.split(", ") if mark else []
        if not own or not set(own) <= known:
            own, text = [], warning
        found.setdefault(text, []).extend(n for n in own if n not in found.get(text, []))
    return [(", ".join(own), text) for text, own in found.items()]


def _optima(comparison: Comparison) -> list[tuple[str, str, Frame]]:
    parts = []
    for name, fit in comparison.fits.items():
        if not isinstance(fit, PointFit) or fit.model is None:
            continue
        if fit.start_params and len(fit.starts):
            table = fit.optima.head(12).copy()
            table.index = [f"optimum {i}" for i in table.index]
            told = {
                k: v for k, v in OF_OPTIMA.items() if k != "note" or table[k].astype(bool).any()
            }
            parts.append((name, fit.story, Frame.of(table, told)))
    return parts


def _missing(comparison: Comparison) -> dict[str, Any] | None:
    """The missing information of the first point fit with latents."""
    points = (f for f in comparison.fits.values() if isinstance(f, PointFit))
    fit = next((f for f in points if f.model and f.model.latent_names), None)
    if fit is None:
        return None
    if isinstance(fit.model, StreamedModel):
        return {
            "text": "Not told: it needs all rows at once, and the data come in chunks.",
            "frame": None,
        }
    info = fit.missing_information()
    if info.reason:
        return {"text": info.reason, "frame": None}
    text = (
        f"EM's rate of convergence is {info.rate:.4g} (observed beside the estimate: {info.observed_rate:.4g}). "
        "The share of each scalar's variance that comes from not seeing the latents:"
    )
    return {"text": text, "frame": Frame.of(info.fractions.map("{:.4f}".format).to_frame("share"))}


def _versions() -> Frame:
    rows = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed as a package"
    return Frame.of(pd.DataFrame({"version": rows}))


def for_dark_pages(svg: bytes) -> bytes:
    """A picture that follows the reader's colour scheme: its ink, greys and paper are exchanged where that is
    dark."""
    rules = "".join(
        f'[style*="{part}: {colour}"]{{{part}:{dark}!important}}'
        for colour, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>"
    head, mark, body = svg.partition(b"<defs>")
    return head + style.encode() + mark + body


def _picture(own: Rendered) -> dict[str, str]:
    data = base64.b64encode(for_dark_pages(own.svg)).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return {"caption": own.caption, "source": source, "inches": f"{own.inches:g}"}


def write_report(
    comparison: Comparison,
    path: str | Path,
    title: str = "Comparison",
    command: str = "",
    settings: Mapping[str, Any] | None = None,
    pictures: Sequence[Rendered] | None = None,
) -> Path:
    """Write the comparison as one HTML file that needs no network.

    Args:
        comparison: what is reported.
        path: of the file.
        title: its heading.
        command: how to repeat it.
        settings: anything else to record, such as seeds and options.
        pictures: those of `render_pictures`; they are drawn by default.
    """
    first = next(iter(comparison.fits.values()))
    drawn = render_pictures(comparison) if pictures is None else pictures
    latents = comparison.latents
    scores, times = _scores(comparison)
    parts = {
        "warnings": merged_warnings(comparison.warnings, comparison.fits),
        "estimates": _estimates(comparison),
        "latents": Frame.of(latents, OF_LATENTS) if len(latents) else None,
        "scores": scores,
        "pictures": [_picture(own) for own in drawn],
        "optima": _optima(comparison),
        "missing": _missing(comparison),
        "reading": "" if first.model is None else repr(first.model),
        "repeat": True,
    }
    names = {
        "missing": "Missing information",
        "reading": "How the program was read",
        "repeat": "To repeat it",
    }
    several = len(comparison.fits) > 1
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((TEMPLATES / "report.html").read_text(encoding="utf-8"))
    page = template.render(
        **parts,
        title=title.rstrip("."),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        lead=f"{', '.join(comparison.fits)}; {first.n_observations} observations; written "
        f"{datetime.now():%Y-%m-%d %H:%M}",
        contents=[(k, names.get(k, k.capitalize())) for k, part in parts.items() if part],
        reference=next(iter(comparison.fits)),
        differences=Frame.of(comparison.differences.round(3)) if several else None,
        coverage=_coverage(comparison),
        times=times,
        about_scores=_about_scores(comparison),
        command=command,
        settings=Frame.of(pd.DataFrame({"setting": {"seed": first.seed, **(settings or {})}})),
        versions=_versions(),
    )
    return write_text(path, page, "report")
