"""Draws of parameters from their priors, and of the observed sites at each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pp_mlem.base.lazy import xr
from pp_mlem.model.datasets import dataset, dims_of_sites
from pp_mlem.model.predictive import predicted
from pp_mlem.program.arguments import bind_arguments
from pp_mlem.program.sites import Role


def prior_predictive(
    model: Any, args: tuple, kwargs: dict[str, Any], draws: int, seed: int
) -> xr.DataTree:
    """See `Model.prior_predictive`; `model` is one."""
    reading = model.reading
    params = reading.with_role(Role.PARAMETER)
    flat = [s.name for s in params if not s.prior or s.distribution == "ImproperUniform"]
    if flat:
        raise ValueError(
            f"prior_predictive: parameters {flat} have no proper prior, so nothing can be drawn from it."
        )
    arguments = model.arguments
    if args or kwargs:
        new = bind_arguments(model.program, args, kwargs).in_precision(model.dtype)
        arguments = replace(new, form=arguments.form)
    observed, own = frozenset(model.observed_values()), frozenset(s.name for s in params)
    found = predicted(arguments, {}, observed | own, seed, draws)
    values = {n: p.draws[None] for n, p in found.items()}
    shapes = {n: p.mean.shape for n, p in found.items() if n in observed}
    groups = {
        "prior": dataset(
            {n: v for n, v in values.items() if n in own}, reading.names, "chain", "draw"
        ),
        "prior_predictive": dataset(
            {n: v for n, v in values.items() if n in observed},
            dims_of_sites(reading, shapes, arguments if args or kwargs else None),
            "chain",
            "draw",
        ),
    }
    return xr.DataTree.from_dict(groups)
