"""A program bound to its data: roles, plan, and every question that needs no fitting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base import verbs
from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.compiling import Effort, quick_jit
from pp_mlem.base.copies import packed
from pp_mlem.base.fingerprint import PYTHON, digest
from pp_mlem.base.lazy import xr
from pp_mlem.base.precision import (
    check_dtype,
    finite_or_minus_inf,
    in_model_precision,
    working_precision,
)
from pp_mlem.data.designs import alike
from pp_mlem.data.labels import coded
from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.marginal.units import pointwise_values
from pp_mlem.model import latents as latent_questions
from pp_mlem.model.along import AlongScans
from pp_mlem.model.bound import Values
from pp_mlem.model.by_rows import answered
from pp_mlem.model.drawing import drawing, redrawing, refuse_undrawn, with_arrays
from pp_mlem.model.imputes import Imputes
from pp_mlem.model.prior_draws import prior_predictive
from pp_mlem.model.read import names_of, other_data, read_bound, reads_alike
from pp_mlem.model.writing import write_rows
from pp_mlem.program.arguments import Arguments, bind_arguments
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import ParameterSpace
from pp_mlem.program.trace import inside_program
from pp_mlem.sources import Column
from pp_mlem.target.priors import log_prior
from pp_mlem.target.problem import Problem, problem_of
from pp_mlem.target.target import Target

Params = Mapping[str, Any]


STREAMED: list[type] = []  # the model of data in chunks


class Model(Imputes, AlongScans):
    """A NumPyro program with its arguments, read into roles, plates, factors and a plan.

    Args:
        program: a function with NumPyro statements.
        *args, **kwargs: its arguments. Arrays are data (traced); the rest is static.
        latents, parameters: names of sites whose role the rules would get wrong or refuse.
        observe: values of latents, `{"z": labels}`; NaN or -1 means unknown. Words and categories stand for
            0, 1, ... in their order, and name the latent's values.
        dtype: float64 (default) or float32.
        dims, coords: names for those who read the results: `dims={"b": ["covariate"]}` names the axes of a
            parameter (those of its plates may be left out), `coords={"covariate": ["age", "income"]}` the
            entries along a dim, a plate, or the values of a finite latent. Columns, categories and
            indices of pandas arguments are found by themselves.
        devices: of columns of a source, the devices of this process that take chunks in turn, or how many.
        workers: of columns of a source, other processes that take ranges of chunks: a client of Dask, or an executor
            of processes that were spawned.

    Raises:
        TypeError, ValueError: for a program or data that cannot be read, naming the site or
            argument, before anything is compiled.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def coin(x):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("tosses", len(x)):
    ...         numpyro.sample("x", dist.Bernoulli(p), obs=x)
    >>> model = Model(coin, jnp.array([1, 0, 1, 1]))
    >>> round(model.log_likelihood({"p": 0.75}), 4)
    -2.2493
    """

    def __new__(cls, program: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Of columns of a source a model of data in chunks."""
        given = any(isinstance(a, Column) for a in (*args, *kwargs.values()))
        return object.__new__(STREAMED[0] if given and cls is Model else cls)

    unheld: tuple[Model, Mapping[str, Any]] | None = (
        None  # of a model with single entries held fixed
    )

    def __init__(
        self,
        program: Callable[..., Any],
        *args: Any,
        latents: Collection[str] = (),
        parameters: Collection[str] = (),
        observe: Mapping[str, Any] | None = None,
        dtype: Any = None,
        dims: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
        devices: Any = None,
        workers: Any = None,
        **kwargs: Any,
    ) -> None:
        if workers is not None:
            raise ValueError(
                "workers: they take ranges of chunks, so the data must come in chunks: Model(program, source['x'], workers=client) "
                "of source = open_source('folder/*.parquet')."
            )
        if devices is not None:
            raise ValueError(
                "devices: several take chunks in turn, so the data must come in chunks: Model(program, source['x'], devices=2) of "
                "source = open_source({'x': x}), which also takes files."
            )
        if inside_program():
            raise TypeError(
                "Model: received a call inside of a program, or of another function that JAX traces. Pass the program "
                "itself, as in Model(program, data) or select(program, data, K=range(1, 6))."
            )
        self.dtype = check_dtype(dtype)
        self.program = program
        self.overrides = {
            "latents": names_of("latents", latents),
            "parameters": names_of("parameters", parameters),
        }
        if observe is not None and not isinstance(observe, Mapping):
            raise TypeError(
                f"observe: received {type(observe).__name__}, expected a dict from names of latents "
                "to their values."
            )
        labels = {name: coded(given) for name, given in (observe or {}).items()}
        self.observe = {name: codes for name, (codes, _) in labels.items()}
        words = {name: known for name, (_, known) in labels.items() if known}
        if coords is None or isinstance(coords, Mapping):  # else it is refused where names are read
            coords = {**words, **(coords or {})}
        self.naming = {"dims": dims, "coords": coords}
        self._program_digest = digest(program)
        with working_precision(self.dtype):
            arguments = bind_arguments(program, args, kwargs).in_precision(self.dtype)
            self.arguments, self.bound = read_bound(
                arguments, self.overrides, self.observe, {**self.naming, "words": words}
            )

    # --- what was read ----------------------------------------------------------------------

    @property
    def marginal(self) -> Marginal:
        """log Z: factors, and the steps that take the latents out."""
        return self.bound.marginal

    @property
    def data(self) -> ProgramData:
        """The data as they are laid out."""
        return self.bound.data

    @property
    def reading(self) -> Reading:
        return self.marginal.reading

    @property
    def space(self) -> ParameterSpace:
        """The parameters, their shapes and supports."""
        return self.reading.space

    @property
    def roles(self) -> dict[str, str]:
        """Role of every site by name."""
        return {s.name: s.role.value for s in self.reading.sites.values()}

    @property
    def latent_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in (*self.reading.latents, *self.reading.reals))

    @property
    def fingerprint(self) -> dict[str, str]:
        """Digests of what makes this model (program, arguments, data, observe, roles, dtype)."""
        own = self.arguments
        return {
            "program": self._program_digest,
            "arguments": digest([own.static, own.kinds, own.names]),
            "data": digest(list(own.dynamic)),
            "observe": digest({k: np.asarray(v) for k, v in self.observe.items()}),
            "roles": digest(self.overrides),
            "dtype": str(self.dtype),
            "python": PYTHON,
        }

    def __repr__(self) -> str:
        return verbs.describe(self)

    def with_data(self, **values: Any) -> Model:
        """The same model on other data of the same shapes; compiled functions are shared.

        Args:
            **values: new arrays by the name of the program's argument.
        """
        arguments = self.arguments.replace(values).in_precision(self.dtype)
        same = arguments.shares_structure(self.arguments) and not self.reading.sized
        if not same or not self._reads_alike(arguments):
            return self._anew(arguments)
        with working_precision(self.dtype):
            data = other_data(self.bound, arguments, self.observe)
        if not alike(data.designs, self.data.designs) or data.partly != self.data.partly:
            return self._anew(arguments)
        return self._on(data, arguments)

    def _anew(self, arguments: Arguments) -> Model:
        """The program read again, with other arguments."""
        args, kwargs = arguments.values()
        options: dict[str, Any] = {**self.overrides, **self.naming, "observe": self.observe}
        return Model(self.program, *args, **options, dtype=self.dtype, **kwargs)

    def with_program(self, program: Callable[..., Any], dims: Any, coords: Any) -> Model:
        """Another program on the same data, with other names."""
        args, kwargs = self.arguments.values()
        options: dict[str, Any] = {**self.overrides, "observe": self.observe, "dtype": self.dtype}
        return Model(program, *args, **options, dims=dims, coords=coords, **kwargs)

    def _reads_alike(self, arguments: Arguments) -> bool:
        """Whether this reading is right for other data of the same shapes."""
        with working_precision(self.dtype):
            return reads_alike(self.bound, arguments)

    def __reduce__(self) -> tuple:
        """For pickle and copy: the program, its arguments and its data; what is compiled stays."""
        host = jax.tree.map(np.asarray, self.data)
        args, kwargs = self.arguments.values()
        options = {**self.overrides, **self.naming, "observe": self.observe, "dtype": self.dtype}
        own = self.arguments
        key = digest([
            self._program_digest, own.static, own.kinds, options,
            [(a.shape, str(a.dtype)) for a in own.dynamic],
        ])  # fmt: skip
        return _read_again, (packed(self.program), args, kwargs, options, host, key)

    # --- problems and compiled functions ----------------------------------------------------

    def problem(self, fixed: Mapping[str, Any], with_prior: bool) -> Problem:
        """The estimation problem for these fixed parameters; planned once and kept."""
        return problem_of(self.bound.kept, self.marginal, self.data, dict(fixed), with_prior)

    def target(self, fixed: Mapping[str, Any] | None = None, with_prior: bool = False) -> Target:
        """The log-likelihood, or with the log prior, as a function of a vector of the parameters
        that are not `fixed`."""
        values = self.space.check(fixed or {}, "fixed", partial=True)
        held: dict[str, jax.Array] = jax.device_put(values)
        return Target(self.problem(held, with_prior), self.data, held, self.bound.kept)

    def check_params(self, params: Params, argument: str = "params") -> dict[str, jax.Array]:
        checked: dict[str, jax.Array] = jax.device_put(self.space.check(params, argument))
        return checked

    # --- densities --------------------------------------------------------------------------

    @in_model_precision
    def log_likelihood(self, params: Params) -> float:
        """Marginal log-likelihood of the data in nats, latents summed out; weights applied.

        Args:
            params: constrained values of every parameter.
        """
        values = self.check_params(params)
        function = self.bound.compiled(_log_z)
        return float(finite_or_minus_inf(np.asarray(function(values, self.data))))

    @in_model_precision
    def log_prior(self, params: Params) -> float:
        """Log prior density of the parameters in nats, in the constrained space (no Jacobian)."""
        values = self.check_params(params)
        function = self.bound.compiled(_log_prior, effort=Effort.QUICK)
        return float(function(values, self.data))

    @in_model_precision
    def pointwise_log_likelihood(self, params: Params, out: str | Path | None = None) -> Any:
        """log Z of each independent unit (row, sequence, group), shape (units,); they add up to
        `log_likelihood`.

        A single sequence is one unit; its terms are the one-step-ahead predictive log-densities
        log p(x_t | x_1, ..., x_{t-1}), shape (steps,): see `units`. With `out` they are a column of that Parquet file,
        whose path is returned.
        """
        if out is not None:
            return write_rows(
                out,
                self.chunk_models(),
                lambda m: {"log_likelihood": m.pointwise_log_likelihood(params)},
            )
        values = self.check_params(params)
        return finite_or_minus_inf(answered(self.bound, pointwise_values, values))

    @property
    def units(self) -> str:
        """What the terms of `pointwise_log_likelihood` are, "independent units" or "one-step-ahead
        predictions" of a single sequence."""
        return "one-step-ahead predictions" if self.marginal.sequential else "independent units"

    # --- latents ----------------------------------------------------------------------------

    @in_model_precision
    def posterior(self, params: Params, out: str | Path | None = None) -> Any:
        """p(latent | data, params): for each latent an array (*plates, values); of a real latent its `mean`,
        `sd` (*plates, *event) and `covariance` (*plates, size, size).

        For a state of a scan (steps, *plates, values), the smoothed probabilities in the order of
        the data; NaN after the end of a masked sequence. With `out` a row for each independent unit in that
        Parquet file, whose path is returned.
        """
        if out is not None:
            return write_rows(out, self.chunk_models(), lambda m: m.posterior(params))
        return latent_questions.posterior(self.bound, self.check_params(params))

    @in_model_precision
    def decode(self, params: Params, out: str | Path | None = None) -> Any:
        """The jointly most probable latents given the data: for each an array (*plates); real latents are at
        their means, given the finite ones.

        For a state of a scan (steps, *plates), the path of Viterbi; after the end of a masked
        sequence -1. With `out` a row for each independent unit in that Parquet file, whose path is returned.
        """
        if out is not None:
            return write_rows(out, self.chunk_models(), lambda m: m.decode(params))
        return latent_questions.decode(self.bound, self.check_params(params))

    @in_model_precision
    def sample_latents(
        self, params: Params, draws: int = 1, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Joint draws of the latents from p(latents | data, params): for each (draws, *plates).

        Paths of a scan's states are drawn by forward filtering and backward sampling.
        """
        values = self.check_params(params)
        check_counts(draws=draws)
        check_seed(seed)

        return latent_questions.sample(self.bound, values, draws, seed)

    @in_model_precision
    def classification_log_likelihood(self, params: Params) -> float:
        """max over finite latents of log p(data, latents): the complete-data likelihood of `decode`; real
        latents are integrated out."""
        values = self.check_params(params)
        return float(np.sum(answered(self.bound, latent_questions.most_of_units, values)))

    @in_model_precision
    def simulate(self, params: Params, seed: int = 0) -> dict[str, np.ndarray]:
        """Draw latents and observations from the program at `params`.

        Returns:
            every sampled site by name, with the shapes of the data.

        Raises ValueError where a numpyro.factor weighs the latents: their law is then not the one
        that the program draws from.
        """
        values = self.check_params(params)
        check_seed(seed)
        refuse_undrawn(self.marginal)
        draw = drawing(self.bound, self.arguments)
        drawn, _ = draw(self.arguments.device_arrays(), values, jax.random.key(seed))
        return {k: np.asarray(v) for k, v in drawn.items()}

    @in_model_precision
    def prior_predictive(
        self, *args: Any, draws: int = 500, seed: int = 0, **kwargs: Any
    ) -> xr.DataTree:
        """Draws of the parameters from their priors, and of the observed sites at each, as the groups prior and
        prior_predictive of an ArviZ tree; on the model's own arguments unless others are given.

        Raises ValueError where a parameter has no proper prior.
        """
        check_counts(draws=draws)
        check_seed(seed)
        return prior_predictive(self, args, kwargs, draws, seed)

    @in_model_precision
    def observed_values(self) -> dict[str, np.ndarray]:
        """The data of every observed site, in the shapes of `simulate`."""
        params = neutral_parameters(self.reading, 0)
        dynamic = self.arguments.device_arrays()
        seen = drawing(self.bound, self.arguments)(dynamic, params, jax.random.key(0))[1]
        return {k: np.asarray(v) for k, v in seen.items()}

    def chunk_models(self) -> Iterator[tuple[Model, int | None]]:
        """The data in memory, chunk by chunk, and how many of each one's first units are data (None: all)."""
        yield self, None

    def first_rows(self) -> Model:
        """The model in memory: itself; of data that come in chunks that of the first chunk."""
        return self

    def observed_names(self) -> tuple[str, ...]:
        """The observed sites by the program's own names, without factors."""
        return tuple(self.observed_values())

    @in_model_precision
    def redraw(self, params: Params, seed: int = 0) -> Model:
        """The same model on data drawn from the program at `params`; missing values stay missing,
        and labels given by `observe` are drawn anew.

        Raises ValueError when drawn values have no place in the program's arguments.
        """
        values = self.check_params(params)
        check_seed(seed)
        redraw = self.bound.kept.once("redraw", lambda: quick_jit(self.redrawing()))
        data = redraw(values, jax.random.key(seed), self.data)
        return self._on(data)

    @in_model_precision
    def with_observations_of(self, other: Model) -> Model:
        """This model on the argument arrays of another, of the same shapes (a redrawn model with
        another number of components, say); compiled functions are shared."""
        mine, theirs = self.arguments.dynamic, other.arguments.dynamic
        if [a.shape for a in mine] != [a.shape for a in theirs] or not self.arguments.traced:
            raise ValueError(
                "with_observations_of: the two models' data arguments differ in number or shape: "
                f"{[a.shape for a in mine]} and {[a.shape for a in theirs]}."
            )

        function = self.bound.compiled(with_arrays, effort=Effort.QUICK)
        return self._on(function(other.data.dynamic, self.data))

    def _on(self, data: ProgramData, arguments: Arguments | None = None) -> Model:
        """The same structure and compiled functions on other data of the same shapes."""
        if arguments is None:
            arrays = tuple(np.asarray(a) for a in data.dynamic)
            arguments = replace(self.arguments, dynamic=arrays)
        other = object.__new__(Model)
        other.__dict__.update(self.__dict__)
        other.arguments, other.bound = arguments, replace(self.bound, data=data)
        other.unheld = None
        return other

    def redrawing(self) -> Callable:
        """Traceable (params, key, data) -> the data with every observation drawn anew."""
        with working_precision(self.dtype):
            return redrawing(self.bound, self.arguments, tuple(self.observe), self.unit_weights())

    @property
    def n_observations(self) -> int | float:
        """Independent units, each counted with its case weight; units without data are not."""
        return self._unit_count

    @property
    def _unit_count(self) -> int | float:
        with working_precision(self.dtype):
            count = float(np.sum(self.unit_weights()))
        return int(round(count)) if abs(count - round(count)) < 1e-9 else count

    def unit_weights(self) -> np.ndarray:
        """Case weight of each unit of `pointwise_log_likelihood`; 0 where all data are missing."""
        with working_precision(self.dtype):
            return np.array(self.bound.unit_weights)


def _log_z(marginal: Marginal, params: Values, data: ProgramData) -> jax.Array:
    return marginal.log_z(marginal.natural(params, data), data)


def _log_prior(marginal: Marginal, params: Values, data: ProgramData) -> jax.Array:
    return log_prior(marginal.reading, params, data, frozenset(params))


READ: OrderedDict[str, Model] = OrderedDict()
MOST_READ = 8


def _read_again(
    program: Any, args: tuple, kwargs: dict, options: dict, data: ProgramData, key: str
) -> Model:
    """A model that was sent from another process. Those of one structure (the same program on data
    of the same shapes) share what this process has read and compiled of it."""
    model = READ.pop(key, None)
    if model is None or not model.arguments.traced:
        model = Model(program, *args, **options, **kwargs)
    READ[key] = model
    while len(READ) > MOST_READ:
        READ.popitem(last=False)
    with working_precision(model.dtype):
        return model._on(jax.tree.map(jnp.asarray, data)) if model.arguments.traced else model
