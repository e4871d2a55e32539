"""Checks that enumeration reads a program rightly, against plain runs at random latents."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.precision import quick_jit
from pp_mlem.program.data import gather_maps, neutral_parameters
from pp_mlem.program.factors import Factor, log_table, natural_parameters, plan_factors, table_axes
from pp_mlem.program.reading import Reading, control_flow_error
from pp_mlem.program.scans import at_step
from pp_mlem.program.sites import Plate
from pp_mlem.program.trace import Message


def _thinned(reading: Reading, dynamic: tuple) -> Reading:
    """The reading with the plate sizes of the thinned data."""
    sizes: dict[str, int] = {}
    lengths: dict[str, int] = {}

    def extract(m: Message) -> int:
        site = reading.sites[m.name]
        shape = jnp.broadcast_shapes(
            tuple(m.fn.batch_shape) if m.fn is not None else (),
            jnp.shape(m.value)[: jnp.ndim(m.value) - len(m.fn.event_shape)]
            if m.observed and jnp.size(m.value)
            else (),
        )
        for plate, dim in site.dims.items():
            inside = not (site.scan and dim == -reading.depth)
            if inside and len(shape) >= -dim and shape[dim] > 1:
                sizes[plate] = shape[dim]
        return 0

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    jax.eval_shape(lambda p, d: reading.run(p, d, extract, lengths=lengths), params, dynamic)
    scans = {n: replace(s, length=lengths[n]) for n, s in reading.scans.items()}
    for scan in scans.values():
        sizes |= {scan.time: scan.length, scan.rest: max(scan.length - scan.start, 0)}
    plates = {
        n: Plate(n, min(p.size, sizes.get(n, p.size)), p.implicit)
        for n, p in reading.plates.items()
    }
    return replace(reading, plates=plates, scans=scans)


def _at_site(
    reading: Reading, factor: Factor, name: str, codes: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, int]]:
    """The codes of a latent at the steps where a factor meets it, and their plate dimensions."""
    latent, site = reading.sites[name], reading.sites[factor.site]
    origin = reading.sites[latent.origin or name]
    full = codes[origin.name]
    if not latent.scan:
        return full, latent.dims
    inner = {p: d for p, d in origin.dims.items() if d != -reading.depth}
    scan = reading.scans[latent.scan]
    if site.scan != latent.scan:
        return full[len(full) - 1 - latent.lag], inner
    over = next((p for p in site.dims if p in (scan.time, scan.rest)), None)
    if over is None:
        return full[site.step - latent.lag], inner
    if over == scan.rest:
        full = full[scan.start - latent.lag : len(full) - latent.lag]
    return full, {over: -reading.depth, **inner}


def _lookup(
    reading: Reading,
    factor: Factor,
    table: np.ndarray,
    codes: dict[str, np.ndarray],
    maps: dict[tuple[str, str], Any],
) -> np.ndarray:
    """Entries of an enumerated table at the given latent codes, over the site's plates."""
    axes = table_axes(reading, factor, table.shape)
    site = reading.sites[factor.site]
    depth = max((-d for d in site.dims.values()), default=0)
    shape = reading.plate_shape(site.dims)
    position = {plate: depth + dim for plate, dim in site.dims.items()}
    index: list[Any] = []
    for axis, name in enumerate(axes):
        if name in reading.sites:
            full, own_dims = _at_site(reading, factor, name, codes)
            code = full.reshape(-1)
            moved = [p for p in own_dims if p not in site.dims]
            if moved:
                child = next(c for c, parent in maps if parent == moved[0] and c in site.dims)
                row = np.asarray(maps[child, moved[0]])
                view = [1] * depth
                view[position[child]] = -1
                index.append(code[row].reshape(view))
            else:
                view = [1] * depth
                for p, dim in own_dims.items():
                    view[position[p]] = full.shape[dim]
                order = sorted(own_dims, key=lambda p: own_dims[p])
                squeezed = full.reshape([full.shape[own_dims[p]] for p in order])
                rank = np.argsort([position[p] for p in order])
                index.append(
                    np.transpose(squeezed, rank).reshape(view) if order else int(full.ravel()[0])
                )
        elif table.shape[axis] == 1:
            index.append(0)
        else:
            if name not in position:
                return np.full(shape, np.nan)  # an axis that no plate of the site explains
            view = [1] * depth
            view[position[name]] = -1
            index.append(np.arange(table.shape[axis]).reshape(view))
    return np.broadcast_to(table[tuple(index)], shape)


def agrees(reading: Reading, factors: tuple[Factor, ...], dynamic: tuple) -> str | None:
    """None when the enumerated tables equal plain runs at random latents, else the site."""
    thin = _thinned(reading, dynamic)
    plain = tuple(replace(f, kind="table") for f in factors if f.latents)
    params = neutral_parameters(reading, 3)
    if not plain:
        return None
    maps = gather_maps(thin, factors, dynamic)
    tables = quick_jit(lambda p, d: natural_parameters(thin, plain, p, d, {}))(params, dynamic)
    _check_laws(thin, plain, tables)
    rng = np.random.default_rng(7)
    codes = {s.name: rng.integers(0, s.size, thin.plate_shape(s.dims)) for s in thin.latents}

    names = frozenset(f.site for f in plain)

    def extract(message: Message) -> Any:
        return message.placed(log_table(message, thin.sites[message.name]))

    def run(values: dict[str, Any], data: tuple, chosen: dict[str, Any]) -> dict[str, Any]:
        return thin.run(values, data, extract, chosen, wanted=names, wide=names)

    chosen = {n: thin.values[n][c] for n, c in codes.items()}
    direct = quick_jit(run)(params, dynamic, chosen)
    for factor in plain:
        expected = np.asarray(direct[factor.site])
        found = _lookup(thin, factor, np.asarray(tables[factor.site]), codes, maps)
        expected = np.broadcast_to(expected, np.broadcast_shapes(expected.shape, found.shape))
        if expected.shape != found.shape or not np.allclose(
            found, expected, rtol=1e-6, atol=1e-8, equal_nan=True
        ):
            return factor.site
    return None


def _check_laws(reading: Reading, factors: tuple[Factor, ...], tables: dict[str, Any]) -> None:
    """Every latent's probabilities sum to one, and every state of a chain can be reached."""
    supports: dict[str, np.ndarray] = {}
    for factor in factors:
        if not factor.law_of or any(s.vmapped for s in reading.slots):
            continue
        if reading.sites[factor.site].hidden:
            continue
        table = np.asarray(tables[factor.site])
        axis = table.ndim + reading.latent_dim(factor.law_of)
        if axis < 0:
            continue
        total = np.exp(table).sum(axis)
        tolerance = 1e-4 if table.dtype == np.float32 else 1e-6
        if np.any(np.abs(total - 1) > tolerance):
            worst = total.ravel()[np.abs(total - 1).argmax()]
            raise ValueError(
                f"latent '{factor.law_of}': the probabilities of {factor.site} sum to {worst:.6g} "
                "instead of one. Divide each row by its sum, or pass logits=."
            )
        if reading.sites[factor.site].scan:
            moved = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
            supports[factor.site] = moved > np.log(np.finfo(table.dtype).tiny)
    for scan in reading.scans.values():
        for name in scan.carried:
            begin, moves = supports.get(at_step(name, 0)), supports.get(scan.later(name))
            if scan.start > 1:
                continue
            if begin is None or moves is None or moves.shape[0] != moves.shape[1]:
                continue
            reached = begin.any(0)
            for _ in range(len(reached)):
                reached = reached | moves[reached].any(0)
            if not reached.all():
                states = np.flatnonzero(~reached).tolist()
                warnings.warn(
                    f"state(s) {states} of '{name}' cannot be reached from the first step: what "
                    "depends on them alone does not enter the likelihood. Check the zeros of the "
                    "transition and of the first state's law.",
                    stacklevel=2,
                )


def read_factors(reading: Reading, dynamic: tuple) -> tuple[Reading, tuple[Factor, ...]]:
    """Plan the factors; latents that broadcasting misreads are enumerated by vmap instead."""
    try:
        factors = plan_factors(reading, dynamic)
        wrong = agrees(reading, factors, dynamic)
    except (TypeError, ValueError, IndexError, jax.errors.JAXTypeError) as error:
        if isinstance(error, ValueError) and str(error).startswith(("latent '", "observed site")):
            raise
        factors, wrong = (), str(error).split("\n")[0]
    if wrong is None:
        return reading, factors
    sites = {
        n: replace(s, vmapped=True) if s in reading.slots else s for n, s in reading.sites.items()
    }
    again = replace(reading, sites=sites)
    try:
        factors = plan_factors(again, dynamic)
        wrong = agrees(again, factors, dynamic)
    except jax.errors.ConcretizationTypeError as error:
        raise control_flow_error([s.name for s in reading.latents], error) from None
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the program cannot be run with its latents enumerated: {error}. Index parameters by "
            "the latent (mu[z]) or use jnp.where."
        ) from error
    if wrong is not None:
        raise ValueError(
            f"site '{wrong}': its density at one unit depends on latents of other units, which "
            "no structure can sum. Declare the dependence through plates."
        )
    return again, factors
