"""Which sites have a linear predictor, found by running the program at random parameter values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.designs import (
    LINKS,
    Design,
    Designs,
    NoDesign,
    inverses,
    laid,
    laid_designs,
    predictors,
    total_entries,
)
from pp_mlem.factors.axes import table_axes
from pp_mlem.factors.base import Factor
from pp_mlem.factors.table import TableFactor
from pp_mlem.program.bindings import offsets
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading
from pp_mlem.program.rows import thin
from pp_mlem.program.sites import Role

PROBED = 2**25  # numbers in the derivatives that are looked at to find a design
KEPT = 2**26  # numbers in a design
FARTHER = (6.0, -15.0, 45.0, -150.0)  # times a moderate predictor
LARGEST_LOGIT = 27.0  # whose probability is told from one

Keep = Callable[[Any, Callable], Callable]  # (key, function) -> the function, compiled once


def _candidate(reading: Reading, factor: Factor) -> str | None:
    """Why a site that varies by row has no linear predictor before it is probed; None: it is not
    concerned; "": it may have one."""
    site, depends = reading.sites[factor.site], reading.dependencies[factor.site]
    by_row = isinstance(factor, TableFactor) and factor.varies_by_row and not factor.law_of
    if not by_row or site.role is not Role.OBSERVED or not factor.parameters:
        return None
    bound = factor.family is not None and factor.bindings
    if bound and all(b.kind != "computed" for b in factor.bindings.values()):
        return None
    if site.distribution == "Unit":
        return f"'{factor.site}' is a numpyro.factor, no distribution"
    if site.event_shape:
        return f"the values of '{factor.site}' are vectors"
    if not _arguments(reading, factor):
        return f"no argument of '{factor.site}' depends on a parameter"
    for part in ("value", "mask"):
        if depends.get(part):
            return f"the {part} of '{factor.site}' depends on {', '.join(sorted(depends[part]))}"
    return ""


def _arguments(reading: Reading, factor: Factor) -> dict[str, tuple[str, ...]]:
    """The arguments of a site that depend on parameters, and on which."""
    found = {}
    for part, names in reading.dependencies[factor.site].items():
        own = tuple(n for n in reading.space.names if n in names)
        if part.startswith("argument ") and own:
            found[part.removeprefix("argument ")] = own
    return found


def _neutral_entries(reading: Reading) -> np.ndarray:
    """`flat_entries` at values inside all supports, on the host."""
    params = jax.device_get(neutral_parameters(reading, 21))
    return np.concatenate([np.ravel(params[s.name]) for s in reading.space.sites])


def find_designs(
    reading: Reading, factors: tuple[Factor, ...], dynamic: tuple, keep: Keep
) -> Designs:
    """The designs of all observed sites with a linear predictor, and why the others have none; sites
    that do not vary by row are left out. `keep` compiles what serves other data of the same shapes."""
    told = {f.site: _candidate(reading, f) for f in factors}
    found: Designs = {n: NoDesign(reason) for n, reason in told.items() if reason}
    sites = [f for f in factors if told[f.site] == ""]
    if not sites:
        return found
    traced = reading.arguments.traced
    keep = keep if traced else lambda _, function: quick_jit(function)
    few = tuple(jax.device_put(a) for a in thin(reading.arguments)) if traced else ()
    for given in (few, dynamic):  # all rows where the first say less than all
        planned, point = _planned(reading, sites, _disturbed(given), keep)
        plans = {n: d for n, d in planned.items() if isinstance(d, Design)}
        if not plans:
            return {**found, **planned}
        designs, apart = _computed(reading, factors, plans, point, dynamic, keep)
        wrong = {n for n, size in apart.items() if not size < _tolerance()}
        if not wrong or given is dynamic:
            break
    told_apart = "is affine in the parameters for some rows only"
    refused = {n: NoDesign(f"{plans[n].argument} of '{n}' {told_apart}") for n in wrong}
    return {**found, **planned, **designs, **refused}


def _tolerance() -> float:
    return 1e-8 if jnp.result_type(float) == jnp.float64 else 1e-3


def _disturbed(dynamic: tuple) -> tuple:
    """Data of other values than those at hand, which may be zero or equal by chance: what depends on
    what must not hang on them. Signs and whole numbers stay."""
    rng = np.random.default_rng(11)

    def move(array: Any) -> Any:
        host = np.asarray(array)
        if host.dtype.kind != "f":
            return array
        factor, more = rng.uniform(0.7, 1.3, host.shape), rng.uniform(0.1, 0.2, host.shape)
        return jax.device_put(np.where(host == 0, more, host * factor).astype(host.dtype))

    return tuple(move(a) for a in without_missing(dynamic))


def _planned(
    reading: Reading, sites: list[Factor], dynamic: tuple, keep: Keep
) -> tuple[Designs, np.ndarray]:
    """For each site its design without numbers: argument, link, lanes and owners; and random entries
    of all parameters at which no predictor is large."""
    arguments = {f.site: _arguments(reading, f) for f in sites}
    run = inverses(reading, {f.site: (f, tuple(arguments[f.site])) for f in sites})
    names = {n for found in arguments.values() for own in found.values() for n in own}
    start = offsets(reading)
    spans = [(start[s.name], int(np.prod(s.shape))) for s in reading.space.sites if s.name in names]
    involved = np.concatenate([np.arange(first, first + size) for first, size in spans])
    neutral = _neutral_entries(reading)
    cells = jax.eval_shape(run, neutral, dynamic)
    if sum(int(np.prod(a.shape)) for a in jax.tree.leaves(cells)) * len(involved) > PROBED:
        told = {f.site: NoDesign(f"'{f.site}' has too many coefficients to probe") for f in sites}
        return {**told}, neutral

    def probe(entries: jax.Array, given: tuple) -> tuple[Any, Any]:
        basis = (
            jnp.zeros((len(involved), len(entries))).at[np.arange(len(involved)), involved].set(1.0)
        )
        values, slope = jax.linearize(lambda e: run(e, given), entries)
        return values, jax.vmap(slope)(basis)

    probe = keep(("designs", tuple(jnp.shape(a) for a in dynamic)), probe)
    zero = neutral.copy()
    zero[involved] = 0.0
    try:
        rest = jax.device_get(probe(zero, dynamic))
    except (NotImplementedError, TypeError, ValueError) as error:  # a function of the user's own
        why = str(error).splitlines()[0]
        told = {f.site: NoDesign(f"'{f.site}' has no forward derivative ({why})") for f in sites}
        return {**told}, neutral
    rng = np.random.default_rng(22)
    size = _moderate(rest[1], neutral[involved]) * rng.choice([-1.0, 1.0], len(involved))
    points = []
    for sign in (1.0, -1.0):  # of opposite signs: |b| is linear on either side of zero
        points.append(zero.copy())
        points[-1][involved] = sign * size * rng.uniform(0.5, 1.5, len(involved))
    looks = [jax.device_get(probe(p, dynamic)) for p in points]
    change = (points[0] - points[1])[involved]
    far = {k: jax.device_get(probe(zero + k * (points[0] - zero), dynamic))[0] for k in FARTHER}
    found: dict[str, Any] = {}
    for f in sites:
        first, second = ((u[f.site], d[f.site]) for u, d in looks)
        beyond = {k: u[f.site] for k, u in far.items()}
        seen = _Seen(rest[0][f.site], first, second, change, beyond)
        found[f.site] = _affine(reading, f, arguments[f.site], seen)
    plans = {n: p for n, p in found.items() if isinstance(p, _Plan)}
    return {**found, **_coloured(reading, plans, involved)}, points[0]


def _moderate(slopes: Any, neutral: np.ndarray) -> np.ndarray:
    """Sizes of the entries at which no predictor is large, whatever the units of its covariates."""
    sizes = np.zeros(len(neutral))
    for arrays in slopes.values():
        for key, d in arrays.items():
            if key != "apart" and np.all(np.isfinite(d)):
                flat = np.abs(d).reshape(len(d), -1)
                many = max((flat > 0).sum(0).max(initial=0), 1)
                sizes = np.maximum(sizes, many * flat.max(1, initial=0.0))
    return np.where(sizes > 0, 3.0 / np.where(sizes > 0, sizes, 1.0), neutral)


class _Seen(NamedTuple):
    """Of one site: the arrays of `inverses` with all coefficients at zero, and at two points, with
    their derivatives (coefficients, ...); the change of the coefficients between the two; and the
    arrays at multiples of the first."""

    rest: dict[str, np.ndarray]
    first: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    second: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    change: np.ndarray
    far: dict[float, dict[str, np.ndarray]]

    def is_affine(self, key: str) -> bool:
        (u, d), (v, e) = (
            (values[key], slopes[key]) for values, slopes in (self.first, self.second)
        )
        if not all(np.all(np.isfinite(a)) for a in (u, v, d, e, self.rest[key])):
            return False
        moved, size = np.tensordot(self.change, d, 1), np.abs(d).max(initial=0.0)
        large = np.abs(u).max() + np.abs(v).max() + np.abs(moved).max()
        straight = np.abs(u - v - moved).max() <= _tolerance() * large
        same = np.abs(d - e).max(initial=0.0) <= _tolerance() * size
        return bool(straight and same and self._goes_on(key))

    def _goes_on(self, key: str) -> bool:
        """Whether the predictor is the same function far out, too, where a program may have cut it
        (jnp.clip) or bounded it away from zero. What has overflowed tells nothing."""
        rest, link = self.rest[key], key.split(" ")[-1]
        for k, arrays in self.far.items():
            expected = rest + k * (self.first[0][key] - rest)
            apart = np.abs(arrays[key] - expected) > 1e-3 * (1.0 + np.abs(expected))
            known = np.isfinite(arrays[key])
            if link == "expit":
                known = known & (expected < LARGEST_LOGIT)
            if np.any(apart & known):
                return False
        return True


@dataclass(frozen=True)
class _Plan:
    """An affine argument: the derivatives (coefficients, lanes, rows) on the disturbed data, the offset
    (lanes, rows), and of other arguments the coefficient (lanes,) that they are."""

    factor: Factor
    argument: str
    link: str
    axes: tuple[int, ...]
    parameters: tuple[str, ...]
    slopes: np.ndarray
    offset: np.ndarray
    direct: dict[str, np.ndarray]


def _affine(
    reading: Reading, factor: Factor, arguments: dict[str, tuple[str, ...]], seen: _Seen
) -> _Plan | NoDesign:
    """The first argument of a site that varies by row and is h(u) with u affine."""
    name = factor.site
    if not np.all(seen.first[0]["apart"] < _tolerance()):
        kind = reading.sites[name].distribution
        return NoDesign(f"'{name}': {kind} cannot be made again from its arguments")
    bound = {a for a, b in factor.bindings.items() if b.kind != "computed"}
    curved = []
    for argument, own in arguments.items():
        link = next((k for k in LINKS if seen.is_affine(f"{argument} {k}")), None)
        if argument in bound or link is None:
            curved += [argument] if link is None else []
            continue
        key = f"{argument} {link}"
        slopes = seen.first[1][key]
        slopes = np.where(np.abs(slopes) > 1e-14 * np.abs(slopes).max(), slopes, 0.0)
        axes = _lane_axes(reading, factor, slopes.shape[1:])
        rows = np.stack([laid(d, axes) for d in slopes])
        alone = len(arguments) == 1 and np.any(rows != 0)
        if alone or np.any(rows != rows[..., :1]):
            rest = laid(seen.rest[key], axes)
            direct = {k: _entry(seen, k, axes) for k in arguments if k != argument}
            known = {k: v for k, v in direct.items() if v is not None}
            return _Plan(factor, argument, link, axes, own, rows, rest, known)
    if not curved:
        return NoDesign(f"no argument of '{name}' that is computed varies by row")
    told = " and ".join(curved)
    return NoDesign(
        f"{told} of '{name}' is no affine function of the parameters, nor linked to one"
    )


def _entry(seen: _Seen, argument: str, axes: tuple[int, ...]) -> np.ndarray | None:
    """The coefficient (lanes,) that an argument is; None where it is no single one in all rows."""
    key = f"{argument} identity"
    slopes = seen.first[1][key]
    if not seen.is_affine(key) or not np.all((slopes == 0) | (slopes == 1)):
        return None
    rows = np.stack([laid(d, axes) for d in slopes])
    if np.any(rows.sum(0) != 1) or np.any(rows != rows[..., :1]) or np.any(seen.rest[key] != 0):
        return None
    return rows[..., 0].argmax(0)


def _lane_axes(reading: Reading, factor: Factor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a site's cells along which coefficients may differ: latents, columns, and plates
    that a parameter has."""
    columns = reading.sites[factor.site].columns
    depth = len(shape) - columns
    names = table_axes(reading, factor.site, factor.latents, shape[:depth])
    own = frozenset().union(*(reading.sites[p].plates for p in factor.parameters))
    lanes = [i for i, n in enumerate(names) if n in factor.latents or n in own]
    lanes += [i for i in range(depth, len(shape)) if shape[i] > 1]
    return tuple(i - len(shape) for i in lanes)


def _coloured(reading: Reading, plans: dict[str, _Plan], involved: np.ndarray) -> Designs:
    """Coefficients that never meet in a lane share a column of the designs (Curtis, Powell & Reid
    1974, doi:10.1093/imamat/13.1.117)."""
    if not plans:
        return {}
    patterns = {n: (p.slopes != 0).any(2).T for n, p in plans.items()}  # (lanes, coefficients)
    stacked = np.concatenate(list(patterns.values()))
    colour, used = np.full(len(involved), -1), np.zeros((0, len(stacked)), bool)
    for p in np.flatnonzero(stacked.any(0)):
        open_to = np.flatnonzero(~(used & stacked[:, p]).any(1))
        if not open_to.size:
            used, open_to = (
                np.concatenate([used, np.zeros((1, len(stacked)), bool)]),
                np.array([len(used)]),
            )
        colour[p] = open_to[0]
        used[colour[p]] |= stacked[:, p]
    found: Designs = {}
    every = np.append(involved, total_entries(reading))
    for n, plan in plans.items():
        owner = np.full((len(patterns[n]), len(used)), len(involved))
        for lane, p in np.argwhere(patterns[n]):
            owner[lane, colour[p]] = p
        found[n] = _skeleton(reading, plan, owner, every)
    return found


def _skeleton(
    reading: Reading, plan: _Plan, owner: np.ndarray, every: np.ndarray
) -> Design | NoDesign:
    """The design without its numbers, as shapes of size zero; `owner` counts the coefficients, whose
    global indices are `every`."""
    lanes, width = owner.shape
    shared = True
    for c in range(width):
        own = np.flatnonzero(owner[:, c] < len(plan.slopes))
        rows = plan.slopes[owner[own, c], own]
        shared = shared and np.allclose(rows, rows[:1], rtol=1e-9, atol=0.0)
    factor = plan.factor
    cells = np.prod([float(reading.sites[v].size) for v in factor.latents] or [1.0])
    cells *= np.prod([float(size) for _, size, _ in factor.layout] or [1.0])
    if cells / lanes * width * (1 if shared else lanes) > KEPT:
        return NoDesign(f"the design of '{factor.site}' is too large to be kept")
    rows = (0,) if shared else (lanes, 0)
    offset = None
    if np.any(plan.offset != 0):
        size = np.abs(plan.offset).max()
        same = np.allclose(plan.offset, plan.offset[:1], rtol=1e-9, atol=1e-12 * size)
        offset = np.zeros((1 if same else lanes, 0))
    return Design(
        np.zeros((*rows, 0)), np.zeros((*rows, width)), offset, every[owner].astype(np.int32),
        {k: every[v].astype(np.int32) for k, v in plan.direct.items()},
        plan.argument, plan.link, plan.axes, plan.parameters,
    )  # fmt: skip


def _computed(
    reading: Reading,
    factors: tuple[Factor, ...],
    designs: dict[str, Design],
    point: Any,
    dynamic: tuple,
    keep: Keep,
) -> tuple[dict[str, Design], dict[str, float]]:
    """Designs with their numbers on all rows, and how far u at the point (entries of all parameters)
    is from what they say, relative to its size."""
    owners = tuple((n, d.owner.tobytes(), d.link, d.is_shared) for n, d in designs.items())
    predict = predictors(reading, factors, designs)

    def compute(given: tuple) -> tuple[dict[str, Design], dict[str, jax.Array]]:
        full = laid_designs(reading, factors, designs, given)
        apart = {}
        for n, u in predict(point, given).items():
            known = jnp.isfinite(u)
            miss = jnp.where(known, u - full[n].predictor(point), 0.0)
            apart[n] = jnp.abs(miss).max() / (1.0 + jnp.where(known, jnp.abs(u), 0.0).max())
        return full, apart

    found, apart = keep(("designs of", owners), compute)(dynamic)
    return found, {n: float(a) for n, a in apart.items()}
