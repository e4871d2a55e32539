"""Linear predictors: sites with an argument h(u), u affine in parameters, and the design of u.

Whether an argument is one is found by running the program at random parameter values; the design, the
derivatives of u with respect to the coefficients, is computed once and kept with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.factors.axes import drop_outer
from pp_mlem.factors.base import Factor
from pp_mlem.program.bindings import offsets
from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import is_array, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading

# h of u by name, and its inverse; tried in this order.
LINKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "identity": (lambda u: u, lambda v: v),
    "exp": (jnp.exp, jnp.log),
    "expit": (jax.scipy.special.expit, jax.scipy.special.logit),
}


WELL = 1e8  # condition of R up to which it is inverted


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

    def with_triangle(self, triangle: Any) -> Design:
        """The same with another R, which is invertible: Q is then no longer orthonormal over the rows."""
        x = jnp.swapaxes(self.triangle, -1, -2) @ self.columns
        columns = jnp.linalg.solve(jnp.swapaxes(triangle, -1, -2), x)
        return replace(self, columns=columns, triangle=triangle)

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


def laid(cells: Any, axes: tuple[int, ...]) -> Any:
    """(lanes, rows) of an array over the cells of which these axes are lanes."""
    lanes = [cells.ndim + a for a in axes]
    rows = [i for i in range(cells.ndim) if i not in lanes]
    count = int(np.prod([cells.shape[i] for i in lanes]))
    return cells.transpose([*lanes, *rows]).reshape(count, -1)


def flat_entries(reading: Reading, params: dict[str, Any]) -> jax.Array:
    """All entries of all parameters (total,), in program order."""
    parts = [jnp.ravel(jnp.asarray(params[s.name])) for s in reading.space.sites]
    return jnp.concatenate([jnp.asarray(p, jnp.result_type(float)) for p in parts])


def total_entries(reading: Reading) -> int:
    return sum(int(np.prod(s.shape)) for s in reading.space.sites)


def aligned(message: Message, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays over the cells of a site, all with as many dimensions, ready for a dimension of steps."""
    rank = max(jnp.ndim(a) for a in arrays.values())
    columns = unwrap(message.fn).columns
    return {
        k: message.placed(jnp.reshape(a, (1,) * (rank - jnp.ndim(a)) + jnp.shape(a)), columns)
        for k, a in arrays.items()
    }


def _scalars(fn: Any, argument: str, batch: tuple[int, ...]) -> jax.Array:
    """An argument with one number for each cell; NaN where it is a vector, or no array."""
    constraint: Any = fn.arg_constraints.get(argument)
    given = fn.get_args()[argument]
    if not is_array(given) or (constraint is not None and constraint.event_dim):
        return jnp.full((), jnp.nan)
    own = jnp.asarray(given, jnp.result_type(float))
    try:
        fits = jnp.broadcast_shapes(own.shape, batch) == batch
    except ValueError:
        fits = False
    return own if fits else jnp.full((), jnp.nan)


def inverses(reading: Reading, wanted: dict[str, tuple[Factor, tuple[str, ...]]]) -> Callable:
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
            own = _scalars(bare.fn, argument, batch)
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
            name: {k: drop_outer(reading, wanted[name][0].latents, a) for k, a in arrays.items()}
            for name, arrays in found.items()
        }

    return run


# --- their numbers --------------------------------------------------------------------------


def predictors(
    reading: Reading, factors: tuple[Factor, ...], designs: dict[str, Design]
) -> Callable[[jax.Array, tuple], dict[str, jax.Array]]:
    """(entries of all parameters, data) -> u (lanes, rows) of every site, by the program itself."""
    by_site = {f.site: f for f in factors}
    run = inverses(reading, {n: (by_site[n], (d.argument,)) for n, d in designs.items()})

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
    predict = predictors(reading, factors, designs)
    width = next(iter(designs.values())).owner.shape[1]
    directions = jnp.zeros((width, total + 1))
    for d in designs.values():
        directions = directions.at[jnp.arange(width), d.owner].set(1.0)
    first = {n: jnp.argmax(d.owner < total, 0) for n, d in designs.items()}

    at_zero, slope = jax.linearize(lambda e: predict(e, dynamic), zero)

    def column(given: tuple[jax.Array, Any]) -> dict[str, jax.Array]:
        direction, lane = given
        slopes = slope(direction[:total])
        return {n: slopes[n][lane[n]] if d.is_shared else slopes[n] for n, d in designs.items()}

    slopes = jax.lax.map(column, (directions, first))
    found: dict[str, Design] = {}
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


def with_sound_triangles(designs: Designs) -> Designs:
    """The designs of the first of several chunks, whose R all chunks share so that their sums add up: invertible,
    where some columns are collinear there by the lengths of all alone."""
    found = dict(designs)
    for name, own in designs.items():
        if isinstance(own, Design):
            r = np.asarray(own.triangle)
            size = np.sqrt((r**2).sum(-2))
            lengths = np.where(size > 0, size, 1.0)[..., None] * np.eye(r.shape[-1])
            sound = r.shape[-1] == r.shape[-2] and np.all(np.linalg.cond(r) < WELL)
            found[name] = own.with_triangle(jnp.asarray(r if sound else lengths))
    return found


def as_in(designs: Designs, first: Designs) -> Designs:
    """The designs of a chunk with the R of the first one. Traceable."""
    return {
        name: own.with_triangle(other.triangle)
        if isinstance(own, Design) and isinstance(other := first[name], Design)
        else own
        for name, own in designs.items()
    }


def alike(one: Designs, other: Designs) -> bool:
    """Whether two sets of designs have the same structure."""
    structures: list[Any] = [jax.tree.structure(d) for d in (one, other)]
    if structures[0] != structures[1]:
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
