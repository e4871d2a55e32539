"""Fits as ArviZ DataTrees, and on disk as netCDF."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pp_mlem.base.files import verified, write_netcdf
from pp_mlem.base.lazy import arviz_base, xr
from pp_mlem.base.variables import variable_names
from pp_mlem.fit.pointwise import along
from pp_mlem.program.names import Names
from pp_mlem.target.target import Target

ASYMPTOTIC = (
    "draws from the asymptotic normal distribution of the estimate, in unconstrained coordinates; "
    "not a posterior sample"
)
FIT_GROUP = "pp_mlem_fit"
FORMAT = 2  # 1 had no checksum and no fingerprint
POINTWISE_CELLS = 5e7  # draws times units: 400 MB of pointwise log-likelihood
FEWEST_DRAWS = 100
OBSERVED_CELLS = 5e5  # numbers of observed data that a file holds: 4 MB
OF_A_POINT = "log_likelihood_asymptotic"  # no name that az.compare or az.loo would take
NOT_ASKED = "left out: not asked for (save(path, log_likelihood=True) writes it)"


def kept_draws(chains: int, draws: int, units: int) -> np.ndarray | None:
    """Which draws of a chain keep their pointwise log-likelihood within `POINTWISE_CELLS` cells;
    None where fewer than `FEWEST_DRAWS` in all could."""
    most = int(POINTWISE_CELLS // max(chains * units, 1))
    if most >= draws:
        return np.arange(draws)
    if most * chains < FEWEST_DRAWS:
        return None
    return np.arange(0, draws, -(-draws // most))


def pointwise_note(kept: np.ndarray | None, draws: int, units: int) -> str:
    """What the attributes say about a pointwise log-likelihood that is not whole ("" if it is)."""
    limit = f"the limit of {POINTWISE_CELLS:.0e} cells (draws x units)"
    if kept is None:
        return (
            f"left out: {FEWEST_DRAWS} draws of {units} units are beyond {limit}; LOO is not "
            "available"
        )
    if len(kept) < draws:
        return f"every {int(kept[1] - kept[0])}th draw of {draws}, within {limit}"
    return ""


class Tree(NamedTuple):
    """A tree with the draws; the pointwise log-likelihood (chain, draw, units) at the draws that are kept, None
    where it was not asked for or is too large, as the note says."""

    tree: xr.DataTree
    pointwise: np.ndarray | None
    kept: np.ndarray | None
    note: str


class Drawn(NamedTuple):
    """What a tree is made of: draws of the vector (chain, draw, size); the parameters along them, if they
    are known; statistics of the sampler; what the draws are. `log_q`: of draws of another law than the one
    that is told, its log density (chain, draw), up to a constant."""

    vectors: np.ndarray
    params: dict[str, np.ndarray] | None
    stats: dict[str, np.ndarray] | None
    kind: str
    log_q: np.ndarray | None = None


def tree_of(target: Target, drawn: Drawn, names: Names, log_likelihood: bool) -> Tree:
    """The tree of draws, with statistics, and their pointwise log-likelihood where it is asked for."""
    vectors, draws, stats = drawn.vectors, drawn.params, dict(drawn.stats or {})
    chains, length, size = vectors.shape
    units = len(target.unit_weights) if log_likelihood else 0
    kept = kept_draws(chains, length, units) if log_likelihood else None
    pointwise = None
    if kept is not None:
        found = along(target, vectors[:, kept].reshape(-1, size))
        pointwise = found.units.reshape(chains, len(kept), units)
        if len(kept) == length:
            draws = _by_chain(found.params, vectors) if draws is None else draws
            if drawn.log_q is not None:
                stats |= {"log_p": found.density.reshape(chains, length), "log_q": drawn.log_q}
    if draws is None:
        draws = _by_chain(target.constrained(vectors.reshape(chains * length, -1)), vectors)
    note = pointwise_note(kept, length, units) if log_likelihood else NOT_ASKED
    free = {k: v for k, v in draws.items() if k not in target.fixed}
    return Tree(_with_groups(free, stats, names), pointwise, kept, note)


def lean(tree: xr.DataTree, log_likelihood: bool) -> xr.DataTree:
    """What of a tree is written to a file: without the pointwise log-likelihood unless it is asked for, and
    without observed data that the user's own file holds, where they are large; its attributes tell both."""
    tree = tree.copy()
    for name in ("log_likelihood", OF_A_POINT):
        if name in tree.children and not log_likelihood:
            del tree[name]
            tree.attrs["log_likelihood"] = NOT_ASKED
            tree["posterior"].attrs["log_likelihood"] = NOT_ASKED
    for name in ("observed_data", "constant_data"):
        held = tree.children.get(name)
        if held is not None and sum(v.size for v in held.data_vars.values()) > OBSERVED_CELLS:
            del tree[name]
            tree.attrs[name] = f"left out: beyond {OBSERVED_CELLS:.0e} numbers"
    return tree


def _with_groups(
    draws: dict[str, np.ndarray],
    stats: dict[str, np.ndarray] | None,
    labels: Names,
) -> xr.DataTree:
    """A tree with posterior and sample_stats, each variable under a name that netCDF can have."""
    names = variable_names(draws)
    groups: dict[str, Any] = {"posterior": {names[k]: v for k, v in draws.items()}}
    if stats:
        groups["sample_stats"] = stats
    dims, coords = _dims_of(draws, names, labels)
    tree: xr.DataTree = arviz_base.from_dict(groups, dims=dims, coords=coords)
    for site, name in names.items():
        if name != site:
            tree["posterior"][name].attrs["site"] = site
    return tree


def _dims_of(
    draws: Mapping[str, np.ndarray], names: Mapping[str, str], labels: Names
) -> tuple[dict[str, list[str]], dict[str, list]]:
    """Dims of each variable, and the labels along them, under names that netCDF can have."""
    every = {site: labels.dims.get(site, ()) for site in draws}
    numbered = {f"{site}_dim_{i}": f"{names[site]}_dim_{i}" for site in draws for i in range(9)}
    own = [d for dims in every.values() for d in dims if d not in numbered]
    shown = {**numbered, **variable_names(dict.fromkeys(own), names.values())}
    dims = {names[site]: [shown[d] for d in own] for site, own in every.items() if own}
    coords = {shown[d]: list(v) for d, v in labels.coords.items() if d in shown}
    return dims, coords


def _by_chain(params: Mapping[str, Any], vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters (chain, draw, ...), as the vectors are."""
    chains, length = vectors.shape[:2]
    return {k: np.asarray(v).reshape(chains, length, *np.shape(v)[1:]) for k, v in params.items()}


def write_fit(path: str | Path, tree: xr.DataTree, record: dict[str, Any]) -> Path:
    """Write a tree with a `pp_mlem_fit` group: arrays as variables, the rest as JSON; a checksum
    of the whole file at its end."""
    arrays = {k: v for k, v in record.items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in record.items() if not isinstance(v, np.ndarray)}
    names = {k: f"array_{i}" for i, k in enumerate(arrays)}
    variables = {
        names[k]: ([f"{names[k]}_dim_{i}" for i in range(v.ndim)], v) for k, v in arrays.items()
    }
    attributes = {"record": json.dumps(rest), "arrays": json.dumps(names), "format": FORMAT}
    whole = tree.copy()
    whole[FIT_GROUP] = xr.DataTree(xr.Dataset(variables, attrs=attributes))
    return write_netcdf(path, whole, "save")


def read_fit(path: str | Path) -> tuple[xr.DataTree, dict[str, Any]]:
    """Read what `write_fit` wrote; a damaged file is refused with its name."""
    if not isinstance(path, (str, Path)):
        raise TypeError(f"load: received {type(path).__name__} as path, expected a file name.")
    path = Path(path)
    sealed = verified(path, "load")
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
    _check_format(path, node.attrs.get("format"), sealed)
    try:
        record = json.loads(node.attrs["record"])
        names = json.loads(node.attrs["arrays"]) if "arrays" in node.attrs else None
        names = {k: k for k in node.data_vars} if names is None else names
        record |= {k: np.asarray(node[v].values) for k, v in names.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path, error) from None
    del tree[FIT_GROUP]
    return tree, record


def _check_format(path: Path, form: Any, sealed: bool) -> None:
    if not isinstance(form, (int, np.integer)) or form < 1:
        raise ValueError(f"load: {path} is damaged: its format is {form!r}, expected a number.")
    if form > FORMAT:
        raise ValueError(
            f"load: {path} has format {form}, which a newer pp_mlem wrote; this one reads up to "
            f"{FORMAT}. Update pp_mlem."
        )
    if form >= 2 and not sealed:
        raise ValueError(
            f"load: {path} lacks the checksum that Fit.save writes at its end: it was cut short, "
            "or changed by another program since. Take another copy, or save the fit again."
        )
    if not sealed:
        warnings.warn(
            f"{path} was written by an older pp_mlem without a checksum, so damage to it cannot "
            "be seen; save the fit again.",
            stacklevel=4,
        )


def damaged(path: str | Path, error: BaseException | str) -> ValueError:
    """The error for a file whose record does not say what it must."""
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return ValueError(f"load: {path} is damaged or not a saved fit ({reason}).")
