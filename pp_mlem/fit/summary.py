"""The table of estimates, with what stands above it when it is printed. Loaded with the first summary, since a
class needs pandas when it is made."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pp_mlem.base.digits import written

LEAST_WIDTH = 60


class Summary(pd.DataFrame):
    """A DataFrame with a row for each scalar, which prints under a head with the method, the log-likelihood and the
    criteria. `to_csv`, `to_latex`, `to_html` and `to_markdown` export it; a part of it is a plain DataFrame."""

    _metadata = ["heading"]

    @classmethod
    def of(cls, fit: Any, table: pd.DataFrame) -> Summary:
        new = cls(table)
        new.heading = heading_of(fit)
        return new

    def __repr__(self) -> str:
        body = self.to_string(
            float_format=written, formatters={"P>|z|": _probability}, na_rep="", max_rows=60
        )
        width = max(LEAST_WIDTH, *(len(line) for line in body.splitlines()[:1]))
        rule = "=" * width
        return "\n".join([*_columns(self.heading, width), rule, body, rule])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{k}</td><td>{v}</td></tr>" for k, v in self.heading)
        body = self.to_html(float_format=written, formatters={"P>|z|": _probability}, na_rep="")
        return f"<table>{rows}</table>{body}"


def _probability(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def heading_of(fit: Any) -> list[tuple[str, str]]:
    """What stands above the table of a fit."""
    program = getattr(fit.model.program, "__name__", "program") if fit.model is not None else ""
    rows = [("Method", fit.method), ("Status", fit.status)]
    if program:
        rows.insert(0, ("Model", program))
    rows += [("Log-likelihood", written(fit.log_likelihood)), ("Parameters", str(fit.n_parameters)),
             ("Observations", _count(fit.n_observations))]  # fmt: skip
    if not fit.has_draws:
        rows += [("AIC", written(fit.aic)), ("BIC", written(fit.bic))]
    return rows


def _count(units: float) -> str:
    return f"{units:d}" if isinstance(units, int) else f"{units:.10g}"


def _columns(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Two columns of names and values."""
    longest = max(len(name) + len(value) for name, value in rows) + 4
    half = max(width // 2, longest)
    cells = [f"{name}:{value:>{max(half - len(name) - 3, len(value) + 1)}}" for name, value in rows]
    left, right = cells[: -(-len(cells) // 2)], cells[-(-len(cells) // 2) :]
    right += [""] * (len(left) - len(right))
    return [f"{a:<{half}}{b}".rstrip() for a, b in zip(left, right, strict=True)]
