"""Tables in a terminal: nothing of them is ever cut; what does not fit stands below itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pp_mlem.base.digits import written
from pp_mlem.base.lazy import pd
from pp_mlem.comparison.compare import Comparison
from pp_mlem.comparison.scores import ONE_STEP

MOST_ROWS = 60
EDGES = 2  # a table's left and right margin
GAP = 1  # between columns


@dataclass(frozen=True)
class Column:
    """A column of cells that are text already."""

    head: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        return max(Text(t).cell_len for t in (self.head, *self.cells))


@dataclass(frozen=True)
class Wide:
    """A table that a narrow terminal shows in several parts, one below the other, each with the rows'
    names: as many columns a part as fit, whole."""

    title: str
    names: Column
    columns: Sequence[Column]
    caption: str = ""

    def parts(self, width: int) -> list[list[Column]]:
        """The columns by part, for a terminal of so many characters."""
        parts: list[list[Column]] = []
        room = 0
        for column in self.columns:
            needed = column.width + GAP
            if not parts or needed > room:
                parts.append([])
                room = width - EDGES - self.names.width
            parts[-1].append(column)
            room -= needed
        return parts or [[]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.title, style="bold")
        for part in self.parts(options.max_width):
            yield _table([self.names, *part])
        if self.caption:
            yield paragraph(Text(self.caption, style="dim italic"), options.max_width, 1)
        yield Text("")


def _table(columns: Sequence[Column]) -> Table:
    """Whole cells, whatever the width of the terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.width = sum(c.width + GAP for c in columns) + EDGES - GAP
    for column in columns:
        table.add_column(
            Text(column.head), justify="left" if column.left else "right", no_wrap=True,
            min_width=column.width, overflow="fold",
        )  # fmt: skip
    for row in zip(*(c.cells for c in columns), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    return table


def show_table(console: Console, table: Wide) -> None:
    """Print a table, whole even where a single column is wider than the terminal."""
    console.print(table, crop=False, no_wrap=False)


def frame_table(
    title: str,
    frame: pd.DataFrame,
    forms: Mapping[str, Callable[[Any], str]] | None = None,
    caption: str = "",
) -> Wide:
    """A DataFrame, its index first; numbers with four decimals where no form is given."""
    forms = forms or {}
    labels = [", ".join(map(str, i)) if isinstance(i, tuple) else str(i) for i in frame.index]
    columns = []
    for place, head in enumerate(frame.columns):
        values = frame.iloc[:, place]
        text = not pd.api.types.is_numeric_dtype(values)
        form = forms.get(str(head), str if text else _plain)
        columns.append(Column(str(head), [form(v) for v in values], left=text))
    return Wide(title, Column("", labels, left=True), columns, caption)


def published_table(published: Mapping[str, tuple[float, float]]) -> Wide:
    """What a source prints, digit by digit as the model's file has it."""
    names = Column("", list(published), left=True)
    cells = [
        Column("value", [repr(value) for value, _ in published.values()]),
        Column("within", [f"{within:g}" for _, within in published.values()]),
    ]
    return Wide(
        "Published", names, cells,
        "Maximum likelihood on the data of the model's file; log-likelihood in nats, components in any order.",
    )  # fmt: skip


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value)):
        return "-"
    return written(float(value)) if isinstance(value, (float, np.floating)) else str(value)


def comparison_tables(comparison: Comparison) -> list[Wide]:
    latents = [_latent_table(comparison)] if len(comparison.latents) else []
    return [
        _estimate_table(comparison),
        *latents,
        _score_table(comparison),
        _time_table(comparison),
    ]


def write_comparison(comparison: Comparison, console: Console) -> None:
    """See `Comparison.print`."""
    for table in comparison_tables(comparison):
        show_table(console, table)
    console.print("[bold]Starts[/bold]")
    for name, fit in comparison.fits.items():
        _print_item(console, Text(f"{name}: {fit.story}"))
    if comparison.warnings:
        console.print("[bold]Warnings[/bold]")
        for text in comparison.warnings:
            _print_item(console, Text.assemble(("! ", "yellow"), text))


def _print_item(console: Console, text: Text) -> None:
    console.print(paragraph(text, console.width, 2), soft_wrap=True)


def paragraph(text: Text, width: int, indent: int) -> Text:
    """Text in lines of the terminal's width, indented as a whole."""
    found = Text()
    for line in text.wrap(Console(width=width), max(width - indent, 20)):
        line.rstrip()
        found.append_text(Text.assemble("\n" if found else "", " " * indent, line))
    return found


def _number(value: float, digits: int = 4) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _decimals(value: float, decimals: int) -> str:
    return written(value, decimals) if np.isfinite(value) else "-"


def _plus_minus(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Estimates and their errors, each flush with the others."""
    first, second = (max((len(p[i]) for p in pairs), default=0) for i in (0, 1))
    return [
        f"{a:>{first}} ± {b:<{second}}" if b else f"{a:>{first}}   {'':<{second}}" for a, b in pairs
    ]


def _estimate_table(comparison: Comparison) -> Wide:
    notes = ["± standard error (observed information)"]
    sampled = [n for n, f in comparison.fits.items() if f.has_draws]
    if sampled:
        notes.append(f"{', '.join(sampled)}: posterior mean ± sd")
    if any(f.objective == "map" and not f.has_draws for f in comparison.fits.values()):
        notes.append("MAP: mode in the constrained space")
    estimates = comparison.estimates
    if len(estimates) > MOST_ROWS:
        notes.append(f"{len(estimates) - MOST_ROWS} more rows in estimates.csv, or .estimates")
    shown = estimates.iloc[:MOST_ROWS]
    columns = []
    for name in comparison.fits:
        pairs = [
            ("-", "") if pd.isna(value) else (_number(value, 4), _number(error, 2))
            for value, error in shown[name][["estimate", "error"]].to_numpy()
        ]
        columns.append(Column(name, _plus_minus(pairs)))
    names = Column("", [str(s) for s in shown.index], left=True)
    return Wide("Estimates", names, columns, "; ".join(notes))


def _latent_table(comparison: Comparison) -> Wide:
    caption = (
        "posterior means against the first fit's: their correlation, and the furthest apart in the larger "
        "posterior sd; sds as a multiple of its"
    )
    table = comparison.latents
    names = Column("", [f"{latent} by {name}" for latent, name, _ in table.index], left=True)
    columns = [
        Column(head, [_number(v, digits) for v in table[column]])
        for head, column, digits in (
            ("correlation", "correlation", 5), ("furthest", "furthest", 2), ("sds", "sd_ratio", 3),
        )
    ]  # fmt: skip
    return Wide("Latents", names, columns, caption)


def _score_table(comparison: Comparison) -> Wide:
    ahead = any(ONE_STEP in w for w in comparison.warnings)
    caption = (
        "log-likelihood in nats (with draws: at the posterior mean); AIC, BIC, ICL-BIC: smaller is "
        "better"
    )
    scores = comparison.scores
    elpd = [
        (_decimals(v, 1), _decimals(se, 1)) if np.isfinite(v) else ("-", "")
        for v, se in scores[["elpd_loo", "se"]].to_numpy(float)
    ]
    columns = [
        Column("log-lik", [_decimals(v, 4) for v in scores["log_likelihood"]]),
        Column("df", [_decimals(v, 0) for v in scores["parameters"]]),
        *(
            Column(head, [_decimals(v, 1) for v in scores[c]])
            for head, c in (("AIC", "AIC"), ("BIC", "BIC"), ("ICL-BIC", "ICL"))
        ),
        Column("elpd_1-step ± se" if ahead else "elpd_loo ± se", _plus_minus(elpd)),
        Column("status", [str(s) for s in scores["status"]], left=True),
    ]
    names = Column("", [str(n) for n in scores.index], left=True)
    return Wide("Scores", names, columns, f"{caption}; {ONE_STEP}" if ahead else caption)


def _time_table(comparison: Comparison) -> Wide:
    scores = comparison.scores
    columns = [
        Column("in all", [f"{s:.1f}" for s in scores["seconds"]]),
        Column("first call (compiling)", [_number(s, 2) for s in scores["compile_seconds"]]),
        Column("iterations", [str(comparison.fits[str(n)].iterations) for n in scores.index]),
        Column("effective draws a second", [_number(s, 3) for s in scores["ess_per_second"]]),
    ]
    names = Column("", [str(n) for n in scores.index], left=True)
    caption = "seconds; compiling is most of what is not running; ESS: the smallest"
    return Wide("Time", names, columns, caption)
