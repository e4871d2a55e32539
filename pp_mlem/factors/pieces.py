"""The natural parameters of affine factors by the statistics that they multiply, and as potentials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.potentials.quadratic import COLUMN, ROW, Coordinates, Law, Quadratic
from pp_mlem.potentials.rows import COLUMNS, Rows
from pp_mlem.potentials.table import Table, add

# Axes of vectors: no plate's names.
EVENT, EVENT_TOO = "\0entry", "\0entry too"


class Form(NamedTuple):
    """How many numbers the coordinates and one value are, whether they are those of a latent's law, and whether
    rows follow."""

    size: int
    event: int
    law: bool
    rows: bool


@dataclass(frozen=True)
class Pieces:
    """Natural parameters by the statistics that they multiply: of two coordinates, one, none, and the
    normaliser. `first`, `second` and `third` are of an observed site those of an entry and a coordinate, an
    entry, two entries; of a law its mean at zero, how the coordinates move what is left, and a root of its
    covariance. `left`, `moves` and `scale` are of rows."""

    both: Table
    one: Table
    none: Table
    normaliser: Table
    first: Table
    second: Table
    third: Table
    left: Table | None = None
    moves: Table | None = None
    scale: Table | None = None

    @classmethod
    def of(cls, eta: jax.Array, axes: tuple[str, ...], form: Form) -> Pieces:
        size, event = form.size, form.event
        shapes = [(size, size), (size,), (), ()]
        names: list[tuple[str, ...]] = [(ROW, COLUMN), (ROW,), (), ()]
        if form.law:
            shapes += [(event,), (event, size), (event, event)]
            names += [(EVENT,), (EVENT, COLUMN), (EVENT, EVENT_TOO)]
        else:
            shapes += [(event, size), (event,), (event, event)]
            names += [(EVENT, ROW), (EVENT,), (EVENT, EVENT_TOO)]
        if form.rows:
            shapes += [(), (size,), ()]
            names += [(), (COLUMN,), ()]
        ends = np.cumsum([int(np.prod(s)) for s in shapes])
        found: list[Table] = []
        for shape, own, part in zip(shapes, names, jnp.split(eta, ends[:-1], -1), strict=True):
            array = part.reshape(*eta.shape[:-1], *shape)
            found.append(Table.of(array, (*axes, COLUMNS, *own)))
        return cls(*found)

    def of_law(self, latent: str, coordinates: Coordinates) -> Law:
        """The law of a latent, its columns and entries as one vector."""
        constant = add([scaled(self.none, -0.5), scaled(self.normaliser, -1.0)])
        further = Quadratic(
            constant.over([COLUMNS]),
            scaled(self.one.over([COLUMNS]), -1.0),
            self.both.over([COLUMNS]),
            coordinates,
        )
        size = dict(coordinates)[latent]
        begin = 0
        for name, width in coordinates:
            if name == latent:
                break
            begin += width
        slope = -_joined(self.second, (COLUMN,)).array
        slope = slope.at[..., np.arange(size), begin + np.arange(size)].add(1.0)
        axes = tuple(a for a in self.second.axes if a not in (COLUMNS, EVENT, COLUMN))
        root = _joined(self.third, (EVENT_TOO,)).array  # (..., size, entries of a vector)
        event, wide = root.shape[-1], root
        if event < size:  # a block of the diagonal for each column
            rows = np.arange(size)[:, None]
            columns = rows // event * event + np.arange(event)
            wide = jnp.zeros((*root.shape[:-1], size), root.dtype).at[..., rows, columns].set(root)
        root_axes = tuple(a for a in self.third.axes if a not in (COLUMNS, EVENT, EVENT_TOO))
        return Law(
            latent,
            _joined(self.first, ()),
            Table(slope, (*axes, ROW, COLUMN)),
            Table(wide, (*root_axes, ROW, COLUMN)),
            further,
        )

    def of_data(self, coordinates: Coordinates, value: Table, shown: Table | None) -> Quadratic:
        seen = [] if shown is None else [shown]
        crossed, entry, entries = self.first, self.second, self.third
        again = Table(value.array, tuple(EVENT_TOO if a == EVENT else a for a in value.axes))
        constant = add([
            scaled(contract([self.none, *seen]), -0.5),
            scaled(contract([entry, value, *seen]), -1.0),
            scaled(contract([entries, value, again, *seen]), -0.5),
            scaled(contract([self.normaliser, *seen]), -1.0),
        ])  # fmt: skip
        linear = add([
            scaled(contract([self.one, *seen]), -1.0),
            scaled(contract([crossed, value, *seen]), -1.0),
        ])  # fmt: skip
        return Quadratic(constant, linear, contract([self.both, *seen]), coordinates)

    def of_rows(self, further: Quadratic, value: Table, shown: Table | None) -> Rows:
        """Normals as rows (value - mean) / scale of the coordinates; `further` has no value of its own."""
        left, moves, scale = self.left, self.moves, self.scale
        if left is None or moves is None or scale is None:
            raise RuntimeError("a site without rows")
        value = Table(value.array[0], value.axes[1:])
        weighed = scale.axes if shown is None else (*scale.axes, *shown.axes)
        fixed = tuple(dict.fromkeys((*weighed, *(a for a in moves.axes if a != COLUMN))))
        every = tuple(dict.fromkeys((*fixed, *left.axes, *value.axes)))

        def weigh(order: tuple[str, ...]) -> jax.Array:
            seen = 1.0 if shown is None else shown.aligned(order)
            return seen / scale.aligned(order)

        normaliser = Table(-jnp.log(scale.array) - 0.5 * jnp.log(2 * jnp.pi), scale.axes)
        return Rows(
            Table((value.aligned(every) + left.aligned(every)) * weigh(every), every),
            Table(-moves.aligned((*fixed, COLUMN)) * weigh(fixed)[..., None], (*fixed, COLUMN)),
            contract([normaliser, *([] if shown is None else [shown])]),
            further,
        )


def _joined(table: Table, after: tuple[str, ...]) -> Table:
    """Columns and entries as one axis `ROW` of the latent's coordinates, then the axes `after`."""
    axes = tuple(a for a in table.axes if a not in (COLUMNS, EVENT, *after))
    array = table.aligned((*axes, COLUMNS, EVENT, *after))
    lead, tail = array.shape[: len(axes)], array.shape[len(axes) + 2 :]
    return Table(array.reshape(*lead, -1, *tail), (*axes, ROW, *after))


def scaled(table: Table, by: float) -> Table:
    return Table(table.array * by, table.axes)


def contract(tables: list[Table]) -> Table:
    """The product of tables of numbers, summed over entries and columns."""
    numbers: dict[str, int] = {}
    arguments: list[Any] = []
    for table in tables:
        own = [numbers.setdefault(a, len(numbers)) for a in table.axes]
        arguments += [table.array, own]
    kept = tuple(a for a in numbers if a not in (EVENT, EVENT_TOO, COLUMNS))
    out = [numbers[a] for a in kept]
    return Table(jnp.einsum(*arguments, out, optimize="optimal"), kept)
