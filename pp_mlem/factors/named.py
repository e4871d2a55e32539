"""Which columns and categories of the data the entries of parameters belong to.

Two ways to tell, both exact for what they claim, at values drawn at random:

- where a column enters only times a coefficient, sum_n x_n dL/dx_n = b dL/db (Euler's theorem on
  homogeneous functions), whatever else the program does with either;
- where exchanging columns (or the codes of categories, or the values of a latent) together with the entries
  of some axes leaves every density as it was, and exchanging them alone does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.lazy import pd
from pp_mlem.factors.plain_run import plain_densities
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.frames import numeric_columns
from pp_mlem.program.names import Labels, Names
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role

MOST_AXES = 4  # that may be exchanged with one set of columns
CLOSE = 1e-7
MOST_ROWS = 100_000  # whose index is kept
MOST_LABELS = 200  # categories and columns beyond which nothing is looked for


def names_from(reading: Reading, given: Names, dynamic: tuple) -> Names:
    """The names that a user gave, and those that the arguments tell; `dynamic` are the data, cut to their
    first rows where they are long."""
    found = _Finder(reading, given, dynamic)
    try:
        found.look()
    except Exception:  # a program may raise anything where its data are exchanged: no names then
        pass
    return Names({**given.dims, **found.dims}, {**found.coords, **given.coords})


@dataclass(frozen=True)
class _Labelled:
    """A table or series among the arguments, and where its columns of numbers lie in the data."""

    argument: str
    original: Any
    places: tuple[int, ...]
    columns: Labels


def row_labels(table: Any) -> Labels:
    """What names the rows of a table or series; nothing where they are only numbered, or not apart."""
    index = table.index
    numbered = isinstance(index, (pd.RangeIndex, pd.MultiIndex)) or not index.is_unique
    return () if numbered or len(index) > MOST_ROWS else tuple(index.tolist())


def _labelled(arguments: Arguments) -> list[_Labelled]:
    """The pandas objects that are whole arguments."""
    args, kwargs = arguments.values()
    values, found = [*args, *kwargs.values()], []
    for (name, _), whole in zip(arguments.trees, values, strict=True):
        if isinstance(whole, (pd.Series, pd.DataFrame)):
            places = tuple(i for i, n in enumerate(arguments.names) if n == name)
            columns = numeric_columns(whole) if isinstance(whole, pd.DataFrame) else ()
            found.append(_Labelled(name, whole, places, tuple(columns)))
    return found


class _Finder:
    """What the arguments of one program tell of the names of its axes."""

    def __init__(self, reading: Reading, given: Names, dynamic: tuple) -> None:
        self.reading, self.given, self.dynamic = reading, given, without_missing(dynamic)
        self.dims: dict[str, tuple[str, ...]] = {}
        self.coords: dict[str, Labels] = {}
        self.tables = _labelled(reading.arguments)
        rng = np.random.default_rng(5)
        self.params = neutral_parameters(reading, 5)
        self.latents: dict[str, Any] = {}
        for site in reading.latents:
            shape = reading.plate_shape(site.dims)
            codes = rng.integers(0, site.size, shape)
            self.latents[site.name] = np.asarray(reading.values[site.name])[codes]
        self.sums = quick_jit(partial(_site_sums, reading))
        for site in reading.reals:
            self.latents[site.name] = rng.normal(size=reading.real_shape(site))

    def look(self) -> None:
        """Find all that can be found; what the user named is left alone."""
        for table in self.tables:
            self._rows(table)
        frames = [t for t in self.tables if 1 < len(t.columns) <= MOST_LABELS]
        if frames:
            self._coefficients(frames)
        for table in frames:
            places = [self.dynamic[i].dtype.kind for i in table.places]
            if len(set(places)) == 1:
                self._exchanged(table.columns, self._columns_exchanged(table))
        for argument, column, categories in self._categories():
            self._exchanged(categories, self._codes_exchanged(argument, column))
        for name, labels in self.given.coords.items():
            site = self.reading.sites.get(name)
            if site is not None and site.role is Role.LATENT and not site.real:
                self._exchanged(labels, self._values_exchanged(name))

    # --- rows -------------------------------------------------------------------------------

    def _rows(self, table: _Labelled) -> None:
        """The index, along the plates of observed sites that are as long."""
        labels = row_labels(table.original)
        for site in self.reading.observed if labels else ():
            for plate in site.dims:
                if self.reading.plates[plate].size == len(labels):
                    self.coords.setdefault(plate, labels)

    # --- coefficients -----------------------------------------------------------------------

    def _coefficients(self, frames: list[_Labelled]) -> None:
        """Axes whose entries stand beside one column each, by Euler's theorem."""
        places = [i for t in frames for i in t.places if self.dynamic[i].dtype.kind == "f"]
        labels = [
            c for t in frames for i, c in zip(t.places, t.columns, strict=True) if i in places
        ]
        if not places:
            return
        data = {i: jnp.asarray(self.dynamic[i]) for i in places}

        def total(params: Mapping[str, Any], data: Mapping[int, Any]) -> Any:
            dynamic = tuple(data.get(i, a) for i, a in enumerate(self.dynamic))
            return jnp.sum(_site_sums(self.reading, params, dynamic, self.latents))

        slopes, by_column = quick_jit(jax.grad(total, argnums=(0, 1)))(dict(self.params), data)
        columns = np.array([float(jnp.sum(data[i] * by_column[i])) for i in places])
        entries = {
            n: np.asarray(self.params[n] * slopes[n]) for n in self.params if np.ndim(slopes[n])
        }
        axes = [
            (site, axis, np.delete(np.arange(v.ndim), axis))
            for site, v in entries.items()
            for axis in range(v.ndim)
        ]
        sums = {(s, a): entries[s].sum(tuple(others)) for s, a, others in axes}
        for some in _subsets([key for key in sums if self._free(*key)]):
            if len({len(sums[key]) for key in some}) == 1 and all(self._free(*key) for key in some):
                match = _matched(sum(sums[key] for key in some), columns)
                if match is not None:
                    self._name(some, tuple(labels[i] for i in match))

    # --- exchanges --------------------------------------------------------------------------

    def _exchanged(self, labels: Labels, exchange: Callable[[np.ndarray], Any]) -> None:
        """Axes of as many entries as labels that can be exchanged together with them."""
        size = len(labels)
        if not 1 < size <= MOST_LABELS:
            return
        order = np.roll(np.arange(size), 1)
        named = {**self.given.coords, **self.coords}
        plates = [
            p for p, plate in self.reading.plates.items()
            if plate.size == size and not plate.implicit and p not in named
        ]  # fmt: skip
        events = [
            (s.name, axis)
            for s in self.reading.space.sites
            for axis, n in enumerate(s.shape)
            if n == size and self._free(s.name, axis) and self._dim(s.name, axis) not in plates
        ]
        if not plates and not events:
            return
        base, moved = self._densities(self.params, self.dynamic, self.latents), exchange(order)
        if _same(base, moved(self.params, self.latents)):
            return  # nothing depends on their order
        for some in _subsets([*plates, *events]):
            if _same(base, moved(*self._with(some, order))):
                self._name([key for key in some if isinstance(key, tuple)], labels)
                for plate in some:
                    if isinstance(plate, str):
                        self.coords.setdefault(plate, labels)
                return

    def _with(self, some: list, order: np.ndarray) -> tuple[dict, dict]:
        """Parameters and latents with the entries of these plates and axes in another order."""
        params, latents = dict(self.params), dict(self.latents)
        for site in self.reading.space.sites:
            for axis in range(len(site.shape)):
                if (site.name, axis) in some or self._dim(site.name, axis) in some:
                    params[site.name] = jnp.take(params[site.name], order, axis)
        for site in (*self.reading.latents, *self.reading.reals):
            batch = np.ndim(latents[site.name]) - len(site.event_shape) * site.real
            for plate, dim in site.dims.items():
                if plate in some:
                    latents[site.name] = np.take(latents[site.name], order, batch + dim)
        return params, latents

    def _columns_exchanged(self, table: _Labelled) -> Callable[[np.ndarray], Any]:
        def exchanged(order: np.ndarray) -> Callable:
            dynamic = list(self.dynamic)
            for place, source in zip(table.places, order, strict=True):
                dynamic[place] = self.dynamic[table.places[source]]
            return lambda params, latents: self._densities(params, tuple(dynamic), latents)

        return exchanged

    def _codes_exchanged(self, argument: str, column: Any) -> Callable[[np.ndarray], Any]:
        """Entry `order[i]` becomes entry i: a code that was `order[i]` must be i."""

        def exchanged(order: np.ndarray) -> Callable:
            table = next(t for t in self.tables if t.argument == argument)
            own = table.original if column is None else table.original[column]
            codes = np.argsort(order)[own.cat.codes.to_numpy()]
            moved = pd.Series(
                pd.Categorical.from_codes(codes, dtype=own.dtype), own.index, name=own.name
            )
            value = moved if column is None else table.original.assign(**{column: moved})
            arguments = self.reading.arguments.replace({argument: value})
            reading = replace(self.reading, arguments=arguments)
            sums = quick_jit(partial(_site_sums, reading))
            return lambda params, latents: sums(dict(params), self.dynamic, dict(latents))

        return exchanged

    def _values_exchanged(self, name: str) -> Callable[[np.ndarray], Any]:
        def exchanged(order: np.ndarray) -> Callable:
            values = np.asarray(self.reading.values[name])
            code = np.searchsorted(values, self.latents[name])
            moved = values[np.argsort(order)[code]]
            return lambda params, latents: self._densities(
                params, self.dynamic, {**latents, name: moved}
            )

        return exchanged

    def _categories(self) -> Iterator[tuple[str, Any, Labels]]:
        for table in self.tables:
            whole = table.original
            columns = [None] if isinstance(whole, pd.Series) else list(whole.columns)
            for column in columns:
                own = whole if column is None else whole[column]
                if isinstance(own.dtype, pd.CategoricalDtype) and isinstance(
                    column, (str, type(None))
                ):
                    yield table.argument, column, tuple(own.cat.categories.tolist())

    # --- what was found ---------------------------------------------------------------------

    def _dim(self, site: str, axis: int) -> str:
        return self.dims.get(site, self.given.dims[site])[axis]

    def _free(self, site: str, axis: int) -> bool:
        """Whether an axis has no labels yet."""
        dim = self._dim(site, axis)
        return dim not in self.given.coords and dim not in self.coords

    def _name(self, axes: list[tuple[str, int]], labels: Labels) -> None:
        for site, axis in axes:
            self.coords[self._dim(site, axis)] = labels

    def _densities(self, params: Mapping, dynamic: tuple, latents: Mapping) -> Any:
        return self.sums(dict(params), dynamic, dict(latents))


def _site_sums(reading: Reading, params: Mapping, dynamic: tuple, latents: Mapping) -> jax.Array:
    """The log density of each site that is no parameter's prior, summed."""
    densities = plain_densities(reading, dict(params), dynamic, dict(latents))
    priors = {s.name for s in reading.with_role(Role.PARAMETER)}
    return jnp.stack([jnp.sum(v) for n, v in sorted(densities.items()) if n not in priors])


def _same(base: jax.Array, other: jax.Array) -> bool:
    finite = np.isfinite(base)
    return bool(
        np.array_equal(finite, np.isfinite(other))
        and np.allclose(np.where(finite, base, 0), np.where(finite, other, 0), rtol=CLOSE)
    )


def _subsets(keys: list) -> Iterator[list]:
    """Every choice of some, all of them first, then the smaller ones; of many all, and each alone."""
    if keys:
        yield keys
    sizes = range(1, len(keys)) if len(keys) <= MOST_AXES else (1,)
    for size in sizes:
        if size < len(keys):
            yield from map(list, combinations(keys, size))


def _matched(entries: np.ndarray, columns: np.ndarray) -> list[int] | None:
    """The one column of each entry whose number is the same; None where some have none, or several."""
    scale = np.maximum(np.abs(entries), np.max(np.abs(columns)) * 1e-6)
    alike = np.abs(entries[:, None] - columns) <= CLOSE * scale[:, None]
    if not np.all(alike.sum(1) == 1) or not np.all(alike.sum(0) <= 1):
        return None
    return [int(i) for i in alike.argmax(1)]
