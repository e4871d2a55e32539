"""A program bound to data that come in chunks: the same model, whose rows are never all in memory."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base import processes
from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import Effort
from pp_mlem.base.copies import packed
from pp_mlem.base.fingerprint import PYTHON, digest
from pp_mlem.base.precision import finite_or_minus_inf, in_model_precision, working_precision
from pp_mlem.data.designs import as_in, with_sound_triangles
from pp_mlem.data.observations import inside_supports
from pp_mlem.data.program_data import ProgramData
from pp_mlem.data.redraw import relaid
from pp_mlem.data.stream import Part, Seen, Stream, rows_in_chunk
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.marginal.units import reweighted, unit_layout, unit_weights
from pp_mlem.model.given import devices_of, named, source_of, with_rows
from pp_mlem.model.latents import classification_log_likelihood
from pp_mlem.model.model import STREAMED, Model
from pp_mlem.model.read import other_data
from pp_mlem.model.summary import MOST, Moments, flat_rows, model_of_points, says_the_same
from pp_mlem.model.workers import (
    Checked,
    Workers,
    check_range,
    client_of,
    of_ranges,
    on_host,
    sum_range,
)
from pp_mlem.model.writing import write_rows, write_share
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.sources import Column, Grouped, Source
from pp_mlem.target.parts import of_rows_alone
from pp_mlem.target.streamed import Asked, Chunks, StreamedTarget
from pp_mlem.target.target import Target

PROBED = 64  # rows of the halves by which it is seen that log Z adds up over rows
CLOSE, CLOSE_SINGLE = 1e-9, 1e-4  # relatively, in float64 and in float32


def _lay(marginal: Marginal, data: ProgramData, weights: jax.Array) -> ProgramData:
    """The data of a chunk whose units count so often. Traceable."""
    own = unit_weights(marginal, data)
    return reweighted(marginal, data, own * weights)


def _relay(marginal: Marginal, data: tuple, weights: jax.Array) -> ProgramData:
    """The same from the data of the first chunk and the arrays of this one, where these are laid out alike.
    Traceable."""
    return _lay(marginal, _relaid(marginal, *data), weights)


def _relaid(marginal: Marginal, first: ProgramData, dynamic: tuple) -> ProgramData:
    data = relaid(marginal.reading, marginal.factors, first, dynamic, {})
    return replace(data, designs=as_in(data.designs, first.designs))


def _inside(marginal: Marginal, names: frozenset[str], dynamic: tuple) -> dict[str, jax.Array]:
    return inside_supports(marginal.reading, names, dynamic)


def _units(marginal: Marginal, data: ProgramData) -> jax.Array:
    return unit_weights(marginal, data)


@of_rows_alone
def _log_z(target: Target, params: dict[str, Any]) -> jax.Array:
    return target.marginal.log_z(target.marginal.natural(params, target.data), target.data)


@of_rows_alone
def _classified(target: Target, params: dict[str, Any]) -> jax.Array:
    return classification_log_likelihood(target.marginal, params, target.data)


class Known(NamedTuple):
    """What one process has found of a model's rows and another takes as it is: whether a chunk is laid out from its
    arrays alone, how many units there are, and the model of few points that says what all rows do."""

    quick: bool
    counted: float
    summary: Model | None


class StreamedModel(Model):
    """`Model` of a program some of whose arguments are columns of a source.

    Structure is read from the first chunk. That log Z adds up over rows is seen on the first rows, not assumed:
    a program that standardises its data itself, say, is refused. All data are checked in one pass.

    `devices` of this process take chunks in turn. `workers` are other processes that take ranges of chunks as tasks: a
    client of Dask, or an executor of `concurrent.futures` (of processes that were spawned). Each reads the program once,
    and must be able to read the source from any row on: Parquet and .npy files; a CSV file is read from its beginning by
    every task. What the fit says does not depend on how many there are. In processes of `jax.distributed`, which share
    the chunks by themselves, there are no workers. A copy (pickle) has neither, and its rows are not checked again.
    """

    def __init__(
        self,
        program: Any,
        *args: Any,
        latents: Collection[str] = (),
        parameters: Collection[str] = (),
        observe: Mapping[str, Any] | None = None,
        dtype: Any = None,
        dims: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
        devices: int | Sequence[jax.Device] | None = None,
        workers: Any = None,
        **kwargs: Any,
    ) -> None:
        if observe:
            raise ValueError(
                "observe: labels of data that come in chunks are an argument of the program: pass their column, and "
                "obs= the site."
            )
        self.devices, self.client = devices_of(devices), client_of(workers, devices)
        options = {
            "latents": latents,
            "parameters": parameters,
            "dtype": dtype,
            "dims": dims,
            "coords": coords,
        }
        with processes.telling():
            self._read(program, args, kwargs, options, None)

    def _read(
        self, program: Any, args: tuple, kwargs: dict, options: dict, known: Known | None
    ) -> None:
        """Read structure from the first rows, and check all, where this is not known from another process."""
        source = source_of(args, kwargs)
        self.given = args, kwargs, options
        count = source.count()
        columns = [a for a in (*args, *kwargs.values()) if isinstance(a, Column)]
        if isinstance(source, Grouped):
            rows = source.units
        else:
            numbers = sum(a[0].size for a in source.head(columns, 1))
            rows = rows_in_chunk(count, numbers, source.chunk_rows)
        if known is None:
            self._check_additive(program, source, columns, count)
        chunk = next(iter(source.chunks(columns, rows, 0, 1, 0)))
        first = iter(chunk.arrays)
        own_args, own_kwargs = with_rows(args, kwargs, first, count, rows)
        super().__init__(program, *own_args, **options, **own_kwargs)
        self.source, self.rows_seen = source, Seen()
        self.stream = self._stream(source, rows, count)
        with working_precision(self.dtype):
            shared = replace(self.data.by_rows, designs=with_sound_triangles(self.data.designs))
            self.bound = replace(self.bound, data=shared)
            self.quick = self._is_quick() if known is None else known.quick
            self.workers = self._workers()
            if known is None:
                self.counted, self.summary = self._together(self._summarised())
            else:
                self.counted, self.summary = known.counted, known.summary

    # --- reading ----------------------------------------------------------------------------

    def _check_additive(
        self, program: Any, source: Source | Grouped, columns: Sequence[Column], count: int
    ) -> None:
        """See on the first rows that log Z of two halves adds up to that of both, and the prior is the same."""
        args, kwargs, options = self.given
        rows = min(count, 2 * PROBED) // 2
        if rows < 2:
            return

        def on(first: int, last: int) -> Model:
            cut = iter(source.between(columns, first, last))
            own_args, own_kwargs = with_rows(args, kwargs, cut, count, last - first)
            return Model(program, *own_args, **options, **own_kwargs)

        whole, half = on(0, 2 * rows), on(0, rows)
        other = on(rows, 2 * rows)
        _same_shapes(half, whole)
        close = CLOSE if whole.dtype == np.float64 else CLOSE_SINGLE
        with working_precision(whole.dtype):
            for seed in (0, 1):
                params = {
                    k: np.asarray(v) for k, v in neutral_parameters(whole.reading, seed).items()
                }
                both = half.log_likelihood(params) + other.log_likelihood(params)
                if not np.isclose(both, whole.log_likelihood(params), rtol=close, atol=close):
                    raise ValueError(
                        "the log-likelihood of all rows is not the sum of those of two parts, so the data cannot come "
                        f"in chunks (of the first {2 * rows} rows: {whole.log_likelihood(params):.10g}, and {both:.10g} of their "
                        "halves). The rows of the source must be independent units, and the program must not compute from all rows at "
                        "once (a mean to centre by, a maximum): compute that beforehand and pass it as an argument."
                    )
                priors = [m.log_prior(params) for m in (whole, half, other)]
                if not np.allclose(priors, priors[0], rtol=close, atol=close):
                    raise ValueError(
                        "the log prior depends on the rows, so the data cannot come in chunks. Compute what it reads of them "
                        "beforehand, and pass that as an argument."
                    )

    def _stream(self, source: Source, rows: int, count: int) -> Stream:
        args, kwargs, _ = self.given
        bound = self.arguments
        by_name = dict(named(self.program, args, kwargs))
        columns, whole = [], []
        for name, array in zip(bound.names, bound.dynamic, strict=True):
            column = by_name.get(name)
            columns.append(column if isinstance(column, Column) else None)
            whole.append(None if isinstance(column, Column) else array)
        dtypes = tuple(a.dtype for a in bound.dynamic)
        stream = Stream(source, tuple(columns), tuple(whole), dtypes, rows, count)
        if stream.chunks < processes.count():
            raise ValueError(
                f"{processes.count()} processes share {stream.chunks} chunks of {rows:,} rows: one would have none. Start fewer, "
                "or open the source with smaller chunks (chunk_rows=)."
            )
        begin, end = processes.share(stream.chunks)
        return replace(stream, begin=begin, end=end)

    def _is_quick(self) -> bool:
        """Whether a chunk is laid out from its arrays alone, as the next chunk shows: nothing else that is
        prepared of it (labels, masks, weights, which parameter a row reads) is another."""
        if not self.arguments.traced:
            return False
        layout = unit_layout(self.marginal, self.data)
        if len(layout) != 1 or self.marginal.sequential or layout[0][1] != (self.stream.rows,):
            told = (
                "one sequence"
                if self.marginal.sequential
                else ", ".join(f"{a} {s}" for a, s in layout)
            )
            raise ValueError(
                f"the independent units are {told}, and the data come in chunks of {self.stream.rows} rows: every "
                "row of the source must be a unit. Put all of a group or of a sequence into one row (a list column), or sort the "
                "rows by group and open_source(..., groups='column')."
            )
        reweighted(self.marginal, self.data, jnp.ones(self.stream.rows))
        parts = list(replace(self.stream, begin=0, end=2).parts())
        if len(parts) < 2:
            return True
        return self._laid_by_arrays(self._prepared(parts[1]), parts[1])

    def _laid_by_arrays(self, prepared: ProgramData, part: Part) -> bool:
        """Whether the arrays of a chunk alone lay it out as it was prepared; those with the first missing values, say,
        do not."""
        run = self.bound.compiled(_relaid, effort=Effort.QUICK)
        try:
            return _alike(prepared, run(self.data, tuple(map(jnp.asarray, part.arrays))))
        except (ValueError, TypeError):
            return False

    def _together(self, summarised: bool) -> tuple[float, Model | None]:
        """The units of all processes, and the model of few points that says what all rows do, if there is one; what is
        wrong in the rows of one process ends all."""
        if self.workers is None:
            found = self._checked(summarised, self.stream)
        else:
            found = of_ranges(self.workers.each_range(check_range, summarised))
            self.quick = found.quick
            self.workers = self._workers()  # each of them may have seen some chunks only
        count, moments, _ = found
        step = "checking the rows"
        total, lacking = processes.summed(np.array([count, moments is None]), np.add, step)
        if lacking or moments is None:
            return float(total), None
        told = processes.summed((moments.count, moments.mean, moments.squares), _of_both, step)
        return float(total), self._of_points(Moments(*told))

    def _workers(self) -> Workers | None:
        """Who passes over the rows, if not this process."""
        if self.client is None:
            return None
        recipe = _read_streamed, self._recipe(Known(self.quick, 0.0, None))
        return Workers.of(self.client, recipe, self.stream.chunks)

    def _recipe(self, known: Known) -> tuple:
        """What `_read_streamed` makes this model from, in another process."""
        args, kwargs, options = self.given
        return packed(self.program), args, kwargs, options, known

    def part_of_stream(self, begin: int, end: int) -> Stream:
        """The chunks from one number to another."""
        return replace(self.stream, begin=begin, end=end)

    def _summarised(self) -> bool:
        """Whether the first rows say what few points of their mean and covariance do."""
        columns = self._moving()
        arrays = [a for a, w in zip(self.arguments.dynamic, columns, strict=True) if w]
        numbers = sum(a[0].size for a in arrays)
        if isinstance(self.source, Grouped):
            return False
        rows = min(len(arrays[0]), 4 * numbers + 8)
        gaussian = not self.reading.latents and all(a.dtype.kind == "f" for a in arrays)
        if not gaussian or numbers > MOST or rows <= numbers + 1 or not self.quick:
            return False
        own = tuple(
            a[:rows] if w else a for a, w in zip(self.arguments.dynamic, columns, strict=True)
        )
        flat = flat_rows(Part(0, own, rows, str), columns)
        if not np.all(np.isfinite(flat)):
            return False
        points = self._of_points(Moments.of(flat))
        return points is not None and says_the_same(
            self._on_rows([a[:rows] for a in arrays]), points
        )

    def _moving(self) -> tuple[bool, ...]:
        """Which of the program's arrays are columns."""
        return tuple(c is not None for c in self.stream.columns)

    def _of_points(self, moments: Moments) -> Model | None:
        columns = self._moving()
        shapes = [a.shape[1:] for a, w in zip(self.arguments.dynamic, columns, strict=True) if w]
        return model_of_points(moments, shapes, self._on_rows)

    def _on_rows(self, arrays: Sequence[np.ndarray]) -> Model:
        """The program in memory on these rows of its columns, in the order of its arrays."""
        args, kwargs, options = self.given
        by_column = dict(zip(map(id, self.stream.asked), arrays, strict=True))
        values = [a for a in (*args, *kwargs.values()) if isinstance(a, Column)]
        own_args, own_kwargs = with_rows(
            args,
            kwargs,
            iter([by_column[id(c)] for c in values]),
            self.stream.count,
            len(arrays[0]),
        )
        return Model(self.program, *own_args, **options, **own_kwargs)

    def _checked(self, summarised: bool, stream: Stream) -> Checked:
        """What there is, after every chunk was looked at."""
        total, moments = 0.0, None
        inside = self._in_supports()
        weigh = self.bound.compiled(_units, effort=Effort.LEAN)
        for part in stream.parts():
            if summarised:
                with np.errstate(invalid="ignore"):  # of what is missing, or refused below
                    own = Moments.of(flat_rows(part, self._moving()))
                    moments = own if moments is None else moments.joined(own)
            data = None
            if not (self.rows_seen.knows(part.arrays) and inside(part.arrays)):
                data = self._prepared(part)
                self.rows_seen.note(part.arrays)
                self.quick = self.quick and self._laid_by_arrays(data, part)
            if data is None and self.quick:
                total += part.count
                continue
            data = self._prepared(part) if data is None else data
            total += float(np.sum(np.asarray(weigh(data))[: part.count]))
        missing = moments is not None and not np.all(np.isfinite(moments.mean))
        return Checked(total, None if missing else moments, self.quick)

    def _in_supports(self) -> Callable[[tuple], bool]:
        """Whether all observed values of a chunk's arrays are in their supports; those that move with a parameter are
        not checked in memory either."""
        if not self.arguments.traced:
            return lambda arrays: False
        names = frozenset(s.name for s in self.reading.observed)
        check = self.bound.compiled(_inside, names, effort=Effort.QUICK)
        first = {n for n, own in check(self.data.dynamic).items() if own}

        def inside(arrays: tuple) -> bool:
            found = check(tuple(map(jnp.asarray, arrays)))
            return all(bool(found[n]) for n in first)

        return inside

    def _prepared(self, part: Part) -> ProgramData:
        """The data of a chunk, checked and laid out on the host."""
        arguments = replace(self.arguments, dynamic=part.arrays)
        try:
            data = other_data(self.bound, arguments, {})
        except (ValueError, FloatingPointError) as error:
            where = re.search(r"at index \((\d+)", str(error))
            row = part.place(int(where[1])) if where else f"{part.place(0)} and on"
            raise ValueError(
                f"chunk {part.number + 1} of {self.stream.chunks} ({row}): {error}"
            ) from error
        if data.partly:
            raise ValueError(
                f"observed site '{min(data.partly)}': vectors that are missing in part, in chunk {part.number + 1} of {self.stream.chunks} ({part.place(0)} and "
                "on), are grouped by what is missing, which chunks are not. Write independent columns (to_event), or fit "
                "model.subsample(rows)."
            )
        return _about(self.data, data.by_rows)

    # --- passes -----------------------------------------------------------------------------

    def feed(self, stream: Stream | None = None) -> Iterator[tuple[Any, Any]]:
        """One pass: of each chunk what a part of a target is laid out from, and how often each unit counts."""
        rows = np.arange(self.stream.rows)
        for part in (self.stream if stream is None else stream).parts():
            weights = (rows < part.count).astype(self.dtype)
            if self.quick:
                yield (self.data, tuple(part.arrays)), weights
            else:
                yield self._prepared(part), weights

    @cached_property
    def chunked(self) -> Chunks:
        lay = _relay if self.quick else _lay
        return Chunks(
            self.feed, lay, self.counted, self.stream.rows, self.stream.chunks, self.devices,
            self._spread if self.workers else None,
        )  # fmt: skip

    def _spread(self, fixed: Any, with_prior: bool, asked: Asked, going: Any, arrays: Any) -> Any:
        """The sum over all chunks, by the workers."""
        workers: Any = self.workers
        fixed, arrays = jax.tree.map(on_host, (fixed, arrays))
        found = workers.each_range(sum_range, fixed, with_prior, asked, going, arrays)
        return functools.reduce(asked.join, found)

    def target(
        self, fixed: Mapping[str, Any] | None = None, with_prior: bool = False
    ) -> StreamedTarget:
        own = super().target(fixed, with_prior)
        summary = None if self.summary is None else self.summary.target(fixed, with_prior)
        return StreamedTarget(
            own.problem, own.data, own.fixed, own.kept, streamed=self.chunked, summary=summary
        )

    @in_model_precision
    def log_likelihood(self, params: Mapping[str, Any]) -> float:
        """Marginal log-likelihood of all rows in nats, by one pass."""
        values = self.check_params(params)
        return float(finite_or_minus_inf(self.target().compiled(_log_z)(values)))

    @in_model_precision
    def classification_log_likelihood(self, params: Mapping[str, Any]) -> float:
        values = self.check_params(params)
        return float(self.target().compiled(_classified)(values))

    def subsample(self, rows: int, seed: int = 0) -> Model:
        """The same program in memory, on so many rows drawn at random (whole groups, where the source is grouped)."""
        check_counts(2, rows=rows)
        check_seed(seed)
        args, kwargs, options = self.given
        columns = [a for a in (*args, *kwargs.values()) if isinstance(a, Column)]
        drawn = self.source.sample(columns, rows, seed)
        units = self.source.units_of(columns, drawn)
        own_args, own_kwargs = with_rows(args, kwargs, iter(drawn), self.stream.count, units)
        return Model(self.program, *own_args, **options, **own_kwargs)

    @property
    def _unit_count(self) -> int | float:
        count = self.counted
        return int(round(count)) if abs(count - round(count)) < 1e-9 else count

    # --- questions by row ---------------------------------------------------------------------

    def chunk_models(self) -> Iterator[tuple[Model, int | None]]:
        """Each chunk as a model of its own in memory, and how many of its first rows are data."""
        for part in self.stream.parts():
            with working_precision(self.dtype):
                data = self._prepared(part)
                yield self._on(data, replace(self.arguments, dynamic=part.arrays)), part.count

    def posterior(self, params: Mapping[str, Any], out: str | Path | None = None) -> Any:
        """As `Model.posterior`, written to a Parquet file: a row for each of the source, a column for each value of a
        latent. Returns the path.

        Of several processes each writes its own rows, and `out` is a folder: `rows-00000-of-00002.parquet` and so on, in
        the order of the source; `pandas.read_parquet(out)` and other readers take it for one table. All of them
        must call this, and all must see the folder.
        """
        return self._written("posterior", out, lambda m: m.posterior(params))

    def decode(self, params: Mapping[str, Any], out: str | Path | None = None) -> Any:
        """As `Model.decode`, written to a Parquet file, a column for each latent."""
        return self._written("decode", out, lambda m: m.decode(params))

    def pointwise_log_likelihood(
        self, params: Mapping[str, Any], out: str | Path | None = None
    ) -> Any:
        """As `Model.pointwise_log_likelihood`, written to a Parquet file."""

        def one(model: Model) -> dict[str, np.ndarray]:
            return {"log_likelihood": model.pointwise_log_likelihood(params)}

        return self._written("pointwise_log_likelihood", out, one)

    def _written(
        self, what: str, out: str | Path | None, question: Callable[[Model], Mapping[str, Any]]
    ) -> Path:
        if out is None:
            raise NotImplementedError(
                f"{what}: the data come in chunks, and so does what it says of their {self.stream.count:,} rows. Name a Parquet "
                f"file for it: {what}(..., out='rows.parquet')."
            )
        write = write_rows if processes.count() == 1 else write_share
        return write(out, self.chunk_models(), question)

    def _on(self, data: ProgramData, arguments: Arguments | None = None) -> Model:
        """A chunk as a model in memory."""
        other = super()._on(data, arguments)
        for name in ("stream", "source", "given", "chunked", "rows_seen", "counted", "quick"):
            other.__dict__.pop(name, None)
        return other

    def first_rows(self) -> Model:
        return self._on(self.data, self.arguments)

    def observed_names(self) -> tuple[str, ...]:
        return self.first_rows().observed_names()

    @property
    def fingerprint(self) -> dict[str, str]:
        own = self.arguments
        return {
            "program": self._program_digest,
            "arguments": digest([own.static, own.kinds, own.names]),
            "data": digest(
                [self.source.fingerprint(), [c and c.names for c in self.stream.columns]]
            ),
            "observe": digest({}),
            "roles": digest(self.overrides),
            "dtype": str(self.dtype),
            "python": PYTHON,
        }

    def __reduce__(self) -> tuple:
        return _read_streamed, self._recipe(Known(self.quick, self.counted, self.summary))

    def with_program(self, program: Any, dims: Any, coords: Any) -> Model:
        args, kwargs, options = self.given
        own = {**options, "dims": dims, "coords": coords, "workers": self.client}
        return Model(program, *args, **own, devices=self.devices or None, **kwargs)


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(self: StreamedModel, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"{name}: the data come in chunks and are never all in memory. Ask model.subsample(rows), or a model on the "
            "data in memory."
        )

    refuse.__name__, refuse.__doc__ = name, "Not of data that come in chunks."
    return refuse


# What would need all rows at once, or give an answer as long as they are.
for _name in (
    "unit_weights", "with_data", "with_observations_of", "redraw", "redrawing", "observed_values", "sample_latents",
    "simulate", "prior_predictive", "impute", "impute_at", "filtered", "forecast", "innovations", "pseudo_residuals",
    "transition_counts",
):  # fmt: skip
    setattr(StreamedModel, _name, _refusing(_name))

STREAMED.append(StreamedModel)


def _read_streamed(
    program: Any, args: tuple, kwargs: dict, options: dict, known: Known
) -> StreamedModel:
    """A model whose rows another process has checked."""
    model = object.__new__(StreamedModel)
    model.devices, model.client = (), None
    model._read(program, args, kwargs, options, known)
    return model


def _same_shapes(half: Model, whole: Model) -> None:
    """Parameters have shapes of their own, whatever the rows."""
    shapes = [{s.name: tuple(s.shape) for s in m.space.sites} for m in (half, whole)]
    if shapes[0] != shapes[1]:
        name = next(n for n in shapes[1] if shapes[0].get(n) != shapes[1][n])
        raise ValueError(
            f"the shape of parameter '{name}' depends on the number of rows ({shapes[1][name]} for {2 * PROBED} of them), "
            "so the data cannot come in chunks."
        )


def _about(first: ProgramData, data: ProgramData) -> ProgramData:
    """The data with the reference points of the first chunk: statistics about one point add up."""
    sites = {
        name: replace(own, shift=first.sites[name].shift, shift_rows=first.sites[name].shift_rows)
        for name, own in data.sites.items()
    }
    return replace(data, sites=sites, designs=as_in(data.designs, first.designs))


def _of_both(one: tuple, other: tuple) -> tuple:
    both = Moments(*one).joined(Moments(*other))
    return both.count, both.mean, both.squares


def _alike(one: ProgramData, other: ProgramData) -> bool:
    """Whether two layouts of a chunk are the same."""
    if str(jax.tree.structure(one)) != str(jax.tree.structure(other)):
        return False
    return all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-12, atol=1e-12, equal_nan=True)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
