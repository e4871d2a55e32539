"""Fits as ArviZ DataTrees, and on disk as netCDF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import arviz_base
import numpy as np
import xarray as xr

ASYMPTOTIC = (
    "draws from the asymptotic normal distribution of the estimate, in unconstrained coordinates; "
    "not a posterior sample"
)
FIT_GROUP = "pp_mlem_fit"
FORMAT = 1


def build_tree(
    draws: dict[str, np.ndarray],
    pointwise: np.ndarray,
    observed: dict[str, np.ndarray],
    stats: dict[str, np.ndarray] | None,
    latents: dict[str, np.ndarray] | None,
    attributes: dict[str, Any],
    terms: str = "units",
) -> xr.DataTree:
    """A tree with posterior, log_likelihood, observed_data and sample_stats.

    `draws` are (chain, draw, ...); `pointwise` (chain, draw, units), whose variable is named
    `terms`: "units", or "one_step_ahead" for the predictive terms of a single sequence.
    """
    groups: dict[str, Any] = {"posterior": dict(draws)}
    if latents:
        groups["posterior_latents"] = latents
    groups["log_likelihood"] = {terms: pointwise}
    if stats:
        groups["sample_stats"] = stats
    if observed:
        groups["observed_data"] = observed
    tree = arviz_base.from_dict(groups)
    tree.attrs.update(attributes)
    tree["posterior"].attrs.update(attributes)
    return tree


def write_fit(path: str | Path, tree: xr.DataTree, record: dict[str, Any]) -> Path:
    """Write a tree with a `pp_mlem_fit` group: arrays as variables, the rest as JSON."""
    arrays = {k: v for k, v in record.items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in record.items() if not isinstance(v, np.ndarray)}
    variables = {}
    for name, value in arrays.items():
        dims = [f"{name}_dim_{i}" for i in range(value.ndim)]
        variables[name] = (dims, value)
    dataset = xr.Dataset(variables, attrs={"record": json.dumps(rest), "format": FORMAT})
    whole = tree.copy()
    whole[FIT_GROUP] = xr.DataTree(dataset)
    path = Path(path)
    part = path.with_name(path.name + ".part")
    whole.to_netcdf(part, engine="netcdf4")
    part.replace(path)
    return path


def read_fit(path: str | Path) -> tuple[xr.DataTree, dict[str, Any]]:
    """Read what `write_fit` wrote; a damaged file is refused with its name."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load: there is no file {path}.")
    try:
        with xr.open_datatree(path, engine="netcdf4") as opened:
            tree = opened.load()
    except Exception as error:
        raise ValueError(
            f"load: {path} cannot be read as a saved fit ({type(error).__name__}: {error}). It may "
            "be truncated; save the fit again."
        ) from error
    if FIT_GROUP not in tree.children:
        raise ValueError(
            f"load: {path} holds no pp_mlem fit (group '{FIT_GROUP}' is missing). Expected a file "
            "written by Fit.save."
        )
    node = tree[FIT_GROUP]
    record = json.loads(node.attrs["record"])
    record.update({k: np.asarray(v.values) for k, v in node.data_vars.items()})
    del tree[FIT_GROUP]
    return tree, record
