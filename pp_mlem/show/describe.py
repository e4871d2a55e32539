"""Tells what was read and what will be done: sites, sums and M-steps, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pp_mlem.base.precision import working_precision
from pp_mlem.data.unseen import blanks_of, unseen_of
from pp_mlem.model.model import Model
from pp_mlem.model.streamed import StreamedModel
from pp_mlem.program.sites import Role
from pp_mlem.program.space import describe, renamed_rows
from pp_mlem.show.data_files import told_of_chunks


def site_rows(model: Model) -> list[tuple[str, str, str, str, str]]:
    """(site, role, distribution, plates or shape, reason) of every site."""
    rows = []
    for site in model.reading.sites.values():
        if site.role in (Role.LAW, Role.BEFORE, Role.CARRIED):
            continue  # parts of a state's own line
        where = model.reading.told_plates(site)
        if site.role is Role.PARAMETER:
            where = f"{tuple(site.shape)} {describe(site.support)}"
        role = site.role.value
        if site.name in model.data.clamps:
            known = np.asarray(model.data.clamps[site.name])
            told = int((known < 0).any(-1).sum())
            role = (
                "latent, observed"
                if told == known[..., 0].size
                else (f"latent, {told} of {known[..., 0].size} known")
            )
        if site.name in model.data.known:
            _, shown = model.data.known[site.name]
            role = f"latent, {int(np.asarray(shown).sum())} of {shown.size} known"
        rows.append((site.name, role, site.distribution, where, site.reason))
    return rows


def factor_rows(model: Model) -> list[tuple[str, str]]:
    """(site, how it enters log Z and why)."""
    return [(f.site, f.told() + _rows_told(model, f.site)) for f in model.marginal.factors]


def _rows_told(model: Model, site: str) -> str:
    """What stands for the rows of a site in a fit, where these are not seen again."""
    summed, points = model.data.summed.get(site), model.data.points.get(site)
    if summed is not None:
        return f"; {int(summed.count)} rows summed once, over {summed.size} features"
    if points is not None:
        return f"; {points.value.shape[-1]} points with the moments of all rows stand for these"
    return ""


def sum_rows(model: Model) -> list[str]:
    """One sentence for each latent that is summed out, in order."""
    lines = [line for step in model.marginal.steps for line in step.told(model.reading)]
    pattern = model.data.pattern
    if pattern is not None:
        lines[-1] += f", by the {len(pattern.unit)} pairs that meet"
    return lines


def step_rows(model: Model, with_prior: bool = False, fixed: dict | None = None) -> list:
    """(parameters, method, reason) of every M-step block."""
    with working_precision(model.dtype):
        problem = model.problem(fixed or {}, with_prior)
    return [(", ".join(b.parameters), b.method, b.reason) for b in problem.blocks]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [header, *rows]
    widths = [max(len(str(r[i])) for r in cells) for i in range(len(header))]
    return [
        "  " + "  ".join(str(c).ljust(w) for c, w in zip(r, widths, strict=True)).rstrip()
        for r in cells
    ]


def describe_model(model: Model) -> str:
    """The whole reading as text."""
    name = getattr(model.program, "__name__", "program")
    words = "steps of one sequence" if model.marginal.sequential else "independent units"
    lines = [f"Model of {name}: {model.n_observations} {words}, {model.space.size} free parameters"]
    if isinstance(model, StreamedModel):
        lines.append(told_of_chunks(model.source, model.stream.chunks, model.stream.rows))
        if model.summary is not None:
            lines[-1] += "; their mean and covariance say all"
    lines += ["", "Sites"]
    lines += _table(
        ("site", "role", "distribution", "plates / support", "because"), site_rows(model)
    )
    lines += ["", "Factors of log Z"]
    lines += _table(("site", "enters as"), factor_rows(model))
    told = [line for unseen in unseen_of(model.data) for line in unseen.told()]
    told += [line for blank in blanks_of(model.data) for line in blank.told()]
    lines += ["", "Missing", *(f"  {line}" for line in told)] if told else []
    sums = sum_rows(model)
    lines += ["", "Summed out exactly" if sums else "No latents: log Z is the likelihood itself"]
    lines += [f"  {s}" for s in sums]
    lines += ["", "M-step (maximum likelihood)"]
    lines += _table(("parameters", "method", "because"), step_rows(model))
    renamed = renamed_rows(model.space)
    if renamed:
        shown = ", ".join(f"site {n!r} as {row}" for n, row in renamed.items())
        lines += ["", f"Tables show {shown}: its own name is that of another site's scalar."]
    if not model.arguments.traced:
        lines += [
            "",
            "The program needs concrete values of its arguments: they are constants of every "
            "compiled function, so new data compile anew.",
        ]
    flat = [s.name for s in model.reading.with_role(Role.PARAMETER) if not s.prior]
    if flat:
        lines += [
            "",
            f"No prior (numpyro.param): {', '.join(flat)}; MAP and NUTS take them as "
            "flat on their support.",
        ]
    return "\n".join(lines)
