"""One self-contained HTML page of a comparison: reading, tables, pictures, warnings, versions."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pp_mlem.base.files import write_text
from pp_mlem.base.lazy import pd
from pp_mlem.comparison.compare import Comparison
from pp_mlem.fit.base import Fit
from pp_mlem.fit.point import PointFit
from pp_mlem.show.plots.comparison import comparison_figures

PACKAGES = ("pp-mlem", "jax", "numpyro", "optimistix", "jaxtyping", "numpy", "scipy", "xarray",
            "arviz-base", "arviz-stats", "arviz-plots")  # fmt: skip
CAPTIONS = {
    "comparison": "Estimates by method with 95% intervals; the objective's way to its end; the "
    "optima and how many starts found each.",
    "posterior_and_normal": "Posterior draws against the asymptotic normal of the point estimate.",
    "components": "The fitted components over the data.",
    "latents": "Posterior means of the real latents with 95% bands, in the order of the first fit's means.",
    "loadings": "Loadings of the factors, with their standard errors where they have any.",
    "predictive_check": "Data drawn from the fit against the data.",
}
OF_OPTIMA = ("objective", "below_best", "starts", "share", "kind", "smallest_eigenvalue", "note")
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; max-width: 72rem; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dce2; }
p.lead { color: #52616d; margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #8b99a5; font-weight: 600; }
tbody th { border: 0; text-align: left; font-weight: 500; }
tbody tr:nth-child(even) { background: #f4f7f9; }
pre { background: #f4f7f9; padding: .9rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
div.wide { overflow-x: auto; }
ul.warnings li { margin: .3rem 0; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; }
figcaption { color: #52616d; font-size: .85rem; }
"""


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value  # the table escapes every cell
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _table(frame: pd.DataFrame) -> str:
    shown = frame.to_html(
        border=0, escape=True, na_rep="–", formatters=[_number] * frame.shape[1], justify="right"
    )
    return f'<div class="wide">{shown}</div>'


def _estimates(comparison: Comparison) -> list[str]:
    def cell(estimate: float, error: float) -> str:
        if pd.isna(estimate):
            return "–"
        return f"{estimate:.5g} ± {error:.2g}" if np.isfinite(error) else f"{estimate:.5g} ± –"

    table = comparison.estimates
    cells = {
        name: [cell(*pair) for pair in table[name][["estimate", "error"]].to_numpy()]
        for name in comparison.fits
    }
    parts = [
        "<h2>Estimates</h2>",
        "<p>± standard error from the observed information, or posterior standard deviation where "
        "there are draws.</p>",
        _table(pd.DataFrame(cells, index=table.index)),
    ]
    if len(comparison.fits) > 1:
        reference = html.escape(next(iter(comparison.fits)))
        parts += [
            f"<p>Differences from {reference}, in its standard errors:</p>",
            _table(comparison.differences.round(3)),
        ]
    coverage = comparison.coverage
    if len(coverage.columns):
        coverage.columns = [f"{point} in {sampled}" for sampled, point in coverage.columns]
        parts += [
            "<p>Share of the posterior's draws below each point estimate (outside 0.025 to 0.975 "
            "the two disagree):</p>",
            _table(coverage.round(3)),
        ]
    return parts


def _latents(comparison: Comparison) -> list[str]:
    """How far the fits agree on the real latents."""
    if not len(comparison.latents):
        return []
    return [
        "<h2>Latents</h2>",
        "<p>Posterior means against those of the first fit: their correlation, and the furthest apart in the "
        "larger posterior standard deviation; posterior standard deviations as a multiple of its.</p>",
        _table(comparison.latents.reset_index()),
    ]


def _warnings(comparison: Comparison) -> list[str]:
    if not comparison.warnings:
        return []
    items = "".join(f"<li>{html.escape(w)}</li>" for w in comparison.warnings)
    return [
        "<h2>Warnings, the most important first</h2>",
        f'<ul class="warnings">{items}</ul>',
    ]


def _picture(name: str, source: bytes, caption: str) -> str:
    data = base64.b64encode(source).decode()
    return (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _pictures(comparison: Comparison, more: Iterable[tuple[str, Path]]) -> list[str]:
    parts = []
    for name, figure in comparison_figures(comparison).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110, format="png")
        parts.append(_picture(name, buffer.getvalue(), CAPTIONS[name]))
    return parts + [_picture(path.stem, path.read_bytes(), caption) for caption, path in more]


def _optima(comparison: Comparison) -> list[str]:
    parts = []
    for name, fit in comparison.fits.items():
        if not isinstance(fit, PointFit) or fit.model is None:
            continue
        if not fit.start_params or not len(fit.starts):
            continue
        parts += [
            f"<h3>{html.escape(name)}</h3>",
            f"<p>{html.escape(fit.story)}</p>",
            _table(fit.optima[list(OF_OPTIMA)].head(12)),
        ]
    return ["<h2>Optima</h2>", *(parts or ["<p>Only draws here.</p>"])]


def _missing(comparison: Comparison) -> list[str]:
    """The missing information of the first point fit with latents."""
    points = (f for f in comparison.fits.values() if isinstance(f, PointFit))
    fit = next((f for f in points if f.model and f.model.latent_names), None)
    if fit is None:
        return []
    info = fit.missing_information()
    if info.reason:
        return ["<h2>Missing information</h2>", f"<p>{html.escape(info.reason)}</p>"]
    return [
        "<h2>Missing information</h2>",
        f"<p>EM's rate of convergence is {info.rate:.4g} (observed beside the estimate: "
        f"{info.observed_rate:.4g}). The share of each scalar's variance that comes from not seeing "
        "the latents:</p>",
        _table(info.fractions.to_frame("fraction").T),
    ]


def _versions() -> pd.DataFrame:
    rows = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed as a package"
    return pd.DataFrame({"version": rows})


def _repeat(fit: Fit, command: str, settings: Mapping[str, Any] | None) -> list[str]:
    """How the program was read, and what it takes to do it again."""
    parts = []
    if fit.model is not None:
        parts += [
            "<h2>How the program was read</h2>",
            f"<pre>{html.escape(repr(fit.model))}</pre>",
        ]
    parts.append("<h2>To repeat it</h2>")
    if command:
        parts.append(f"<pre>{html.escape(command)}</pre>")
    shown = {"seed": fit.seed, **(settings or {})}
    return [*parts, _table(pd.DataFrame({"setting": shown})), _table(_versions())]


def write_report(
    comparison: Comparison,
    path: str | Path,
    title: str = "Comparison",
    command: str = "",
    settings: Mapping[str, Any] | None = None,
    pictures: Iterable[tuple[str, Path]] = (),
) -> Path:
    """Write the comparison as one HTML file that needs no network.

    Args:
        comparison: what is reported.
        path: of the file.
        title: its heading.
        command: how to repeat it.
        settings: anything else to record, such as seeds and options.
        pictures: more PNG files with their captions, to be embedded.
    """
    first = next(iter(comparison.fits.values()))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(", ".join(comparison.fits))}; {first.n_observations} '
        f"observations; written {datetime.now():%Y-%m-%d %H:%M}</p>",
        *_warnings(comparison),
        *_estimates(comparison),
        *_latents(comparison),
        "<h2>Scores</h2>",
        _table(comparison.scores),
        *_pictures(comparison, pictures),
        *_optima(comparison),
        *_missing(comparison),
        *_repeat(first, command, settings),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>"
    )
    return write_text(path, page, "report")
