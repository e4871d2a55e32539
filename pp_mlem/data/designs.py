"""Linear predictors: sites with an argument h(u), u affine in parameters, and the design of u.

Whether an argument is one is found by running the program at random parameter values; the design, the
derivatives of u with respect to the coefficients, is computed once and kept with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.factor import Factor, table_axes
from pp_mlem.program.bindings import offsets
from pp_mlem.program.densities import log_density
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading, thin
from pp_mlem.program.sites import Role
from pp_mlem.program.trace import Message, unwrap

PROBED = 2**25  # numbers in the derivatives that are looked at to find a design
KEPT = 2**26  # numbers in a design
# h of u by name, and its inverse; tried in this order.
LINKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "identity": (lambda u: u, lambda v: v),
    "exp": (jnp.exp, jnp.log),
    "expit": (jax.scipy.special.expit, jax.scipy.special.logit),
}

Keep = Callable[[Any, Callable], Callable]  # (key, function) -> the function, compiled once


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Design:
    """The linear predictor u = offset + X theta of one site, whose `argument` is h(u) by its `link`.

    Cells of the site are lanes (values of latents, columns, groups with coefficients of their own)
    times rows. X = Q R, `columns` Q' (q, rows) or (lanes, q, rows), orthonormal over rows, so that
    neither units nor offsets of covariates lose digits in sums of squares; `triangle` R (q, C) or
    (lanes, q, C). The same Q is stored once where all lanes have it. `owner` (lanes, C) is the global
    index of each lane's coefficients, the number of all parameter entries where a lane has none.
    `offset` (1 or lanes, rows) is None where u is linear. `direct[argument]` (lanes,) is the global
    index of the parameter entry that another argument is, where it is one and the same for all
    rows of a lane. `axes` are the axes of the cells that are lanes, counted from the last.
    """

    columns: Any
    triangle: Any
    offset: Any
    owner: Any
    direct: dict[str, Any]
    argument: str = field(metadata={"static": True})
    link: str = field(metadata={"static": True})
    axes: tuple[int, ...] = field(metadata={"static": True})
    parameters: tuple[str, ...] = field(metadata={"static": True})

    @property
    def lanes(self) -> int:
        return self.owner.shape[0]

    @property
    def is_shared(self) -> bool:
        """Whether all lanes have the same design."""
        return self.columns.ndim == 2

    def coordinates(self, entries: jax.Array) -> jax.Array:
        """R theta (lanes, q) at the entries (total,) of all parameters."""
        own = jnp.concatenate([entries, jnp.zeros(1, entries.dtype)])[self.owner]
        return jnp.einsum("qc,lc->lq" if self.is_shared else "lqc,lc->lq", self.triangle, own)

    def along(self, coordinates: jax.Array) -> jax.Array:
        """Q times (lanes, q): what it adds to u, (lanes, rows)."""
        form = "lq,qr->lr" if self.is_shared else "lq,lqr->lr"
        return jnp.einsum(form, coordinates, self.columns)

    def predictor(self, entries: jax.Array) -> jax.Array:
        """u (lanes, rows) at the entries (total,) of all parameters."""
        u = self.along(self.coordinates(entries))
        return u if self.offset is None else u + self.offset

    def laid(self, cells: jax.Array) -> jax.Array:
        """An array over the cells as (lanes, rows)."""
        return laid(cells, self.axes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoDesign:
    """Why a site has no linear predictor."""

    reason: str = field(metadata={"static": True})


Designs = dict[str, Design | NoDesign]


def laid(cells: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """(lanes, rows) of an array over the cells of which these axes are lanes."""
    lanes = [cells.ndim + a for a in axes]
    rows = [i for i in range(cells.ndim) if i not in lanes]
    count = int(np.prod([cells.shape[i] for i in lanes]))
    return jnp.transpose(cells, [*lanes, *rows]).reshape(count, -1)


def flat_entries(reading: Reading, params: dict[str, Any]) -> jax.Array:
    """All entries of all parameters (total,), in program order."""
    parts = [jnp.ravel(jnp.asarray(params[s.name])) for s in reading.space.sites]
    return jnp.concatenate([jnp.asarray(p, jnp.result_type(float)) for p in parts])


def _neutral_entries(reading: Reading) -> np.ndarray:
    """`flat_entries` at values inside all supports, on the host."""
    params = jax.device_get(neutral_parameters(reading, 21))
    return np.concatenate([np.ravel(params[s.name]) for s in reading.space.sites])


def total_entries(reading: Reading) -> int:
    return sum(int(np.prod(s.shape)) for s in reading.space.sites)


def drop_outer(reading: Reading, factor: Factor, array: jax.Array) -> jax.Array:
    """Without the leading axes of latents that are enumerated by vmap and are not the factor's."""
    outer = [s.name for s in reading.slots if s.vmapped]
    for i in reversed(range(len(outer))):
        if outer[i] not in factor.latents:
            array = jax.lax.index_in_dim(array, 0, axis=i, keepdims=False)
    return array


def aligned(message: Message, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays over the cells of a site, all with as many dimensions, ready for a dimension of steps."""
    rank = max(jnp.ndim(a) for a in arrays.values())
    columns = unwrap(message.fn).columns
    return {
        k: message.placed(jnp.reshape(a, (1,) * (rank - jnp.ndim(a)) + jnp.shape(a)), columns)
        for k, a in arrays.items()
    }


# --- which sites have one -------------------------------------------------------------------


def _candidate(reading: Reading, factor: Factor) -> str | None:
    """Why a site that varies by row has no linear predictor before it is probed; None: it is not
    concerned; "": it may have one."""
    site, depends = reading.sites[factor.site], reading.dependencies[factor.site]
    by_row = factor.kind == "table" and factor.varies_by_row and not factor.law_of
    if not by_row or site.role is not Role.OBSERVED or not factor.parameters:
        return None
    bound = factor.family is not None and factor.bindings
    if bound and all(b.kind != "computed" for b in factor.bindings.values()):
        return None
    if site.distribution == "Unit":
        return f"'{factor.site}' is a numpyro.factor, no distribution"
    if site.event_shape:
        return f"the values of '{factor.site}' are vectors"
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


def _inverses(reading: Reading, wanted: dict[str, tuple[Factor, tuple[str, ...]]]) -> Callable:
    """(entries of all parameters, data) -> by site and argument the inverse of every link, over the
    cells of the site; and how far its density is from that of a distribution made of its arguments."""
    shapes = [(s.name, s.shape) for s in reading.space.sites]
    sizes = np.cumsum([0, *(int(np.prod(shape)) for _, shape in shapes)])

    def extract(message: Message) -> Any:
        bare = unwrap(message.fn)
        given = {k: v for k, v in bare.fn.get_args().items() if v is not None}
        value = jnp.asarray(message.value)
        batch = jnp.broadcast_shapes(tuple(bare.fn.batch_shape), value.shape)
        arrays = {}
        for argument in wanted[message.name][1]:
            own = jnp.asarray(given[argument], jnp.result_type(float))
            for link, (_, inverse) in LINKS.items():
                arrays[f"{argument} {link}"] = jnp.broadcast_to(inverse(own), batch)
        try:
            again = type(bare.fn)(**given, validate_args=False)
            apart = jnp.abs(log_density(again, value) - log_density(bare.fn, value))
            arrays["apart"] = jnp.nan_to_num(apart, posinf=0.0)
        except (TypeError, ValueError, AttributeError):
            arrays["apart"] = jnp.full((), jnp.inf)
        return aligned(message, arrays)

    def run(entries: jax.Array, dynamic: tuple) -> dict[str, Any]:
        params = {
            name: entries[a:b].reshape(shape)
            for (name, shape), a, b in zip(shapes, sizes[:-1], sizes[1:], strict=True)
        }
        names = frozenset(wanted)
        found = reading.run(params, dynamic, extract, wanted=names, wide=names)
        return {
            name: {k: drop_outer(reading, wanted[name][0], a) for k, a in arrays.items()}
            for name, arrays in found.items()
        }

    return run


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
    few = tuple(jnp.asarray(a) for a in thin(reading.arguments)) if traced else ()
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
        return jnp.asarray(np.where(host == 0, more, host * factor).astype(host.dtype))

    return tuple(move(a) for a in without_missing(dynamic))


def _planned(
    reading: Reading, sites: list[Factor], dynamic: tuple, keep: Keep
) -> tuple[Designs, np.ndarray]:
    """For each site its design without numbers: argument, link, lanes and owners; and random entries
    of all parameters at which no predictor is large."""
    arguments = {f.site: _arguments(reading, f) for f in sites}
    run = _inverses(reading, {f.site: (f, tuple(arguments[f.site])) for f in sites})
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
        slope = jax.vmap(lambda t: jax.jvp(lambda e: run(e, given), (entries,), (t,))[1])
        return run(entries, given), slope(basis)

    probe = keep(("designs", tuple(jnp.shape(a) for a in dynamic)), probe)
    zero = neutral.copy()
    zero[involved] = 0.0
    rest = jax.device_get(probe(zero, dynamic))
    rng = np.random.default_rng(22)
    points = [zero.copy(), zero.copy()]
    for p in points:
        size = _moderate(rest[1], neutral[involved])
        p[involved] = size * rng.uniform(0.5, 1.5, len(involved))
    looks = [jax.device_get(probe(p, dynamic)) for p in points]
    change = (points[0] - points[1])[involved]
    found: dict[str, Any] = {}
    for f in sites:
        seen = _Seen(rest[0][f.site], *((u[f.site], d[f.site]) for u, d in looks), change)
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
    """Of one site: the arrays of `_inverses` with all coefficients at zero, and at two points, with
    their derivatives (coefficients, ...); and the change of the coefficients between the two."""

    rest: dict[str, np.ndarray]
    first: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    second: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    change: np.ndarray

    def is_affine(self, key: str) -> bool:
        (u, d), (v, e) = (
            (values[key], slopes[key]) for values, slopes in (self.first, self.second)
        )
        if not all(np.all(np.isfinite(a)) for a in (u, v, d, e, self.rest[key])):
            return False
        moved, size = np.tensordot(self.change, d, 1), np.abs(d).max(initial=0.0)
        large = np.abs(u).max() + np.abs(v).max() + np.abs(moved).max()
        straight = np.abs(u - v - moved).max() <= _tolerance() * large
        return bool(straight and np.abs(d - e).max(initial=0.0) <= _tolerance() * size)


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
        rows = np.stack([np.asarray(laid(d, axes)) for d in slopes])
        if len(arguments) == 1 or np.any(rows != rows[..., :1]):
            rest = np.asarray(laid(seen.rest[key], axes))
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
    rows = np.stack([np.asarray(laid(d, axes)) for d in slopes])
    if np.any(rows.sum(0) != 1) or np.any(rows != rows[..., :1]) or np.any(seen.rest[key] != 0):
        return None
    return rows[..., 0].argmax(0)


def _lane_axes(reading: Reading, factor: Factor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a site's cells along which coefficients may differ: latents, columns, and plates
    that a parameter has."""
    columns = reading.sites[factor.site].columns
    depth = len(shape) - columns
    names = table_axes(reading, factor, shape[:depth])
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
            used, open_to = np.concatenate([used, np.zeros((1, len(stacked)), bool)]), [len(used)]
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


# --- their numbers --------------------------------------------------------------------------


def _computed(
    reading: Reading,
    factors: tuple[Factor, ...],
    designs: dict[str, Design],
    point: np.ndarray,
    dynamic: tuple,
    keep: Keep,
) -> tuple[dict[str, Design], dict[str, float]]:
    """Designs with their numbers on all rows, and how far u at the point (entries of all parameters)
    is from what they say, relative to its size."""
    owners = tuple((n, d.owner.tobytes(), d.link, d.is_shared) for n, d in designs.items())
    predict = _predictors(reading, factors, designs)

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


def _predictors(
    reading: Reading, factors: tuple[Factor, ...], designs: dict[str, Design]
) -> Callable[[jax.Array, tuple], dict[str, jax.Array]]:
    """(entries of all parameters, data) -> u (lanes, rows) of every site, by the program itself."""
    by_site = {f.site: f for f in factors}
    run = _inverses(reading, {n: (by_site[n], (d.argument,)) for n, d in designs.items()})

    def predict(entries: jax.Array, dynamic: tuple) -> dict[str, jax.Array]:
        found = run(entries, dynamic)
        return {n: d.laid(found[n][f"{d.argument} {d.link}"]) for n, d in designs.items()}

    return predict


def laid_designs(
    reading: Reading, factors: tuple[Factor, ...], designs: dict[str, Design], dynamic: tuple
) -> dict[str, Design]:
    """The designs computed anew from the program's arguments. Traceable.

    Rows without a finite design (of hidden cells) are zero.
    """
    total = total_entries(reading)
    zero = flat_entries(reading, reading.space.constrain(jnp.zeros(reading.space.size)))
    start, names = offsets(reading), {p for d in designs.values() for p in d.parameters}
    for s in reading.space.sites:
        if s.name in names:
            zero = zero.at[start[s.name] : start[s.name] + int(np.prod(s.shape))].set(0.0)
    predict = _predictors(reading, factors, designs)
    width = next(iter(designs.values())).owner.shape[1]
    directions = jnp.zeros((width, total + 1))
    for d in designs.values():
        directions = directions.at[jnp.arange(width), d.owner].set(1.0)
    first = {n: jnp.argmax(d.owner < total, 0) for n, d in designs.items()}

    def column(given: tuple[jax.Array, Any]) -> dict[str, jax.Array]:
        direction, lane = given
        slope = jax.jvp(lambda e: predict(e, dynamic), (zero,), (direction[:total],))[1]
        return {n: slope[n][lane[n]] if d.is_shared else slope[n] for n, d in designs.items()}

    slopes = jax.lax.map(column, (directions, first))
    at_zero = predict(zero, dynamic)
    found = {}
    for n, d in designs.items():
        x = jnp.where(jnp.isfinite(slopes[n]), slopes[n], 0.0)
        if not d.is_shared:
            x = jnp.where((d.owner.T < total)[..., None], x, 0.0).swapaxes(0, 1)
        q, r = jnp.linalg.qr(x.swapaxes(-1, -2))
        offset = None
        if d.offset is not None:
            u = jnp.where(jnp.isfinite(at_zero[n]), at_zero[n], 0.0)
            offset = u[:1] if d.offset.shape[0] == 1 else u
        columns = q.swapaxes(-1, -2)
        found[n] = replace(d, columns=columns, triangle=r, offset=offset, owner=d.owner)
    return jax.tree.map(jnp.asarray, found)


def alike(one: Designs, other: Designs) -> bool:
    """Whether two sets of designs have the same structure."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    if any(a.shape != b.shape for a, b in pairs):
        return False
    return all(
        np.array_equal(np.asarray(d.owner), np.asarray(e.owner))
        and all(np.array_equal(np.asarray(d.direct[k]), np.asarray(e.direct[k])) for k in d.direct)
        for d, e in zip(one.values(), other.values(), strict=True)
        if isinstance(d, Design) and isinstance(e, Design)
    )
