"""Runs a program under NumPyro's handlers and records its sites. The only user of handlers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow.scan import PytreeTrace, _subs_wrapper, scan_wrapper
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    Unit,
    validation_enabled,
)
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import _PYRO_STACK, Messenger

from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.precision import alone
from pp_mlem.program.arguments import Arguments, observed_array
from pp_mlem.program.literals import Literals, settle_distribution, with_arrays

INTEGER_INTERVAL = type(dist.constraints.integer_interval(0, 1))

Supply = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Message:
    """One sample or param statement as the program executed it."""

    name: str
    kind: str  # "sample" or "param"
    fn: Any
    value: Any
    observed: bool
    plates: tuple[tuple[str, int, int], ...]  # (name, dim, size), outermost first
    scale: Any
    constraint: Any
    in_scan: bool = False

    def placed(self, array: Any, trailing: int = 0) -> Any:
        """An array of this site with batch dimensions and `trailing` others. Inside a scan it is
        marked, so that the dimension of the steps can be put left of the plates."""
        return Timed(jnp.asarray(array), trailing) if self.in_scan else array


class Refused(ValueError):
    """A program that runs but is not read, with the remedy."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Timed:
    """An array that belongs to one step of a scan, with `trailing` dimensions after its batch."""

    array: Any
    trailing: int = field(metadata={"static": True})


class Runner(Messenger):
    """Gives every unobserved sample site and every param its value, and runs bodies of scans."""

    def __init__(self, fn: Callable[..., Any], supply: Supply, on_scan: Any) -> None:
        super().__init__(fn)
        self.supply = supply
        self.on_scan = on_scan
        self.inside = False
        self.initial = False  # while a param computes its initial value, for which it has a key
        self.kinds: dict[str, str] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            if msg["fn"] is not scan_wrapper:
                raise Refused(
                    "the program uses numpyro's cond or while_loop, which cannot be read. Use "
                    "jnp.where, or jax.lax.cond around code without sample statements."
                )
            if self.inside:
                raise Refused(
                    "a scan inside the body of a scan is not supported. Write the inner loop as "
                    "a plate, or as one scan over the product of the two."
                )
            msg["value"] = self.on_scan(self, msg)
            return
        if msg["type"] == "prng_key" and msg["value"] is None and not self.initial:
            raise Refused(
                "the program draws random numbers that are no site: by numpyro.prng_key(), or at a "
                "sample statement that handlers.block hides. What is drawn would stand in the "
                "likelihood as if it were known. Let the site be seen, give it a value "
                "(handlers.substitute or condition), or draw with a key of your own (jax.random.key(0))."
            )
        name = str(msg.get("name") or "")
        if msg["type"] in ("sample", "param") and ("Tracer(" in name or "Traced<" in name):
            raise Refused(
                f"site name '{name}' is made from a value that varies with the step of a scan or "
                "with an argument. A site of a scan has one name for all its steps; a name made "
                "from the step's number (f'y_{t}') belongs to a Python loop."
            )
        _check_name(self.kinds, msg)
        if msg["type"] == "sample":
            settle_distribution(msg)
        if msg["type"] == "param" and self.inside:
            raise Refused(
                f"numpyro.param '{msg['name']}' stands inside the body of a scan; declare it "
                "before the scan."
            )
        if msg["type"] == "sample" and msg["value"] is None and _is_point(msg["fn"]):
            _determine(msg)  # one value: deterministic, whatever it depends on
        elif msg["type"] in ("sample", "param") and msg["value"] is None:
            self.initial = msg["type"] == "param"
            try:
                msg["value"] = self.supply(msg)
            finally:
                self.initial = False
        elif msg["type"] == "param":  # handlers.substitute inside the program made it a constant
            msg["stop"] = True
        elif msg["type"] == "sample":  # obs=, or a value given by a handler inside the program
            msg["is_observed"] = True
            if not is_factor(msg["fn"]):
                msg["value"] = observed_array(msg["name"], msg["value"])
        if self.inside:  # what lies below is ours, and must not see single steps
            msg["stop"] = True

    def step(
        self,
        body: Callable[..., Any],
        carry: Any,
        x: Any,
        supply: Supply,
        number: Any = None,
        length: int = 0,
    ) -> tuple[Any, Any, dict[str, Message]]:
        """One step of a scan's body: its carry, its output and its sites. `number` is that of the
        step, for handlers that act along the steps."""
        outer, self.supply, self.inside = self.supply, supply, True
        stack = list(_PYRO_STACK)
        own = stack.index(self) + 1
        _PYRO_STACK[own:] = [
            _AtStep(handler, number, length) if isinstance(handler, _ALONG_STEPS) else handler
            for handler in stack[own:]
        ]
        try:
            with handlers.trace() as sites:
                carry, y = body(carry, x)
        finally:
            self.supply, self.inside = outer, False
            _PYRO_STACK[:] = stack
        return carry, y, _messages(sites, in_scan=True)


_ALONG_STEPS = (
    handlers.condition,
    handlers.substitute,
    handlers.do,
    handlers.mask,
    handlers.scale,
)


class _AtStep(Messenger):
    """A handler around a scan as its body meets it at one step: NumPyro runs the body out of its
    reach and shows it the sites with a leading dimension of steps, so what it holds is sliced."""

    def __init__(self, handler: Messenger, number: Any, length: int) -> None:
        super().__init__()
        self.handler, self.number, self.length = handler, number, length

    def process_message(self, msg: dict[str, Any]) -> None:
        handler = self.handler
        if msg["type"] != "sample":
            return
        if isinstance(handler, (handlers.condition, handlers.substitute)):
            if msg["value"] is None:
                self.give(msg)
        elif isinstance(handler, handlers.mask):
            handlers.mask(mask=self.of_step(handler.mask, msg)).process_message(msg)
        elif isinstance(handler, handlers.scale):
            handlers.scale(scale=self.of_step(handler.scale, msg)).process_message(msg)

    def give(self, msg: dict[str, Any]) -> None:
        handler = self.handler
        condition = isinstance(handler, handlers.condition)
        compute = handler.condition_fn if condition else handler.substitute_fn
        value = compute(msg) if compute is not None else (handler.data or {}).get(msg["name"])
        if value is None:
            return
        fn, shape = msg["fn"], jnp.shape(value)
        plates = max((-f.dim for f in msg["cond_indep_stack"]), default=0)
        if len(shape) - len(fn.event_shape) > plates:  # latents may have widened the batch shape
            if shape[0] != self.length:
                kind = type(handler).__name__
                raise Refused(
                    f"site '{msg['name']}': handlers.{kind} gives it {shape[0]} values (shape "
                    f"{shape}) for the {self.length} steps of the scan. Give one value for every "
                    "step, NaN where it is missing."
                )
            value = jnp.asarray(value)[self.number]
        msg["value"], msg["is_observed"] = value, True

    def of_step(self, array: Any, msg: dict[str, Any]) -> Any:
        """The entries of this step where the array has a dimension of steps."""
        rank = max((-f.dim for f in msg["cond_indep_stack"]), default=0)
        if msg["value"] is not None:
            rank = max(rank, jnp.ndim(msg["value"]) - len(msg["fn"].event_shape))
        if jnp.ndim(array) != rank + 1:
            return array
        array = jnp.asarray(array)
        return array[0] if array.shape[0] == 1 else array[self.number]


def _check_name(kinds: dict[str, str], msg: dict[str, Any]) -> None:
    """NumPyro's trace lets a plate replace the site that has its name, without a word."""
    if msg["type"] not in ("sample", "param", "plate"):
        return
    kind = "plate" if msg["type"] == "plate" else "site"
    if kinds.setdefault(msg["name"], kind) != kind:
        raise Refused(
            f"'{msg['name']}' is the name of a plate and of a site; names are unique in NumPyro. "
            "Rename one of them."
        )


@contextmanager
def _no_outer_handlers() -> Iterator[None]:
    """Run a program out of reach of handlers that are active around us (NUTS runs our density)."""
    outer = list(_PYRO_STACK)
    _PYRO_STACK.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:] = outer


def _no_scan(runner: Runner, msg: dict[str, Any]) -> Any:
    raise Refused("the program has a scan where none was expected.")


@alone
def run_program(
    call: Callable[[Callable[..., Any]], Any],
    program: Callable[..., Any],
    supply: Supply,
    on_scan: Callable[[Runner, dict[str, Any]], Any] = _no_scan,
) -> dict[str, Message]:
    """Run `program` once; `supply` returns the value of each unobserved site, `on_scan` the value
    of a scan's message."""
    try:
        with _no_outer_handlers(), handlers.trace() as sites, handlers.seed(rng_seed=0):
            call(Runner(program, supply, on_scan))
    except NotImplementedError as error:
        if "under a `plate`" not in str(error):
            raise
        raise Refused(
            "a scan stands inside a plate. Put the plate inside the body of the scan "
            "(with numpyro.plate(...): in the function that is scanned); a latent of each "
            "sequence can be sampled in the same plate before the scan."
        ) from None
    return _messages(sites)


@alone
def plain_messages(
    arguments: Arguments, dynamic: tuple, given: dict[str, Any]
) -> dict[str, Message]:
    """The sites of the program as NumPyro itself runs it at given values, scans included: those
    of a scan are stacked over its steps."""
    with (
        warnings.catch_warnings(),
        _no_outer_handlers(),
        handlers.trace() as sites,
        handlers.seed(rng_seed=0),
        Literals(),
        validation_enabled(True),  # only then is a density outside of its support zero
    ):
        warnings.filterwarnings("ignore", message="Out-of-support")
        arguments.call(handlers.substitute(arguments.program, data=given), dynamic)
    messages = _messages(sites)
    if any(with_arrays(m.fn) is not m.fn for m in messages.values()):
        raise NotImplementedError("lists in the body of a scan")
    return messages


def _messages(sites: dict[str, dict[str, Any]], in_scan: bool = False) -> dict[str, Message]:
    messages = {}
    for name, site in sites.items():
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise Refused(
                f"plate '{name}' subsamples {site['args'][1]} of {site['args'][0]} rows; pass the "
                "whole data and drop subsample_size."
            )
        if site["type"] not in ("sample", "param"):
            continue
        value = site["value"]
        if site["type"] == "sample" and is_factor(site["fn"]) and jnp.shape(value)[-1:] != (0,):
            # A weighted Delta: the program goes on with its value, a factor has none. Over the steps
            # of a scan the batch shape is still that of one step.
            value = jnp.zeros((*jnp.shape(innermost(site["fn"]).log_factor), 0))
        frames = tuple((f.name, f.dim, f.size) for f in site["cond_indep_stack"])
        messages[name] = Message(
            name=name,
            kind=site["type"],
            fn=site["fn"] if site["type"] == "sample" else None,
            value=value,
            observed=bool(site.get("is_observed", False)),
            plates=frames,
            scale=site.get("scale"),
            constraint=site["kwargs"].get("constraint", dist.constraints.real),
            in_scan=in_scan,
        )
    return messages


def provenance(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Of every leaf of function(**values), the names of the values that it depends on."""
    found = eval_provenance(
        lambda **given: function(**{k[1:]: v for k, v in given.items()}),
        **{
            f"={k}": v for k, v in values.items()
        },  # a site may be called "fn", as NumPyro's argument
    )

    def names(leaf: frozenset[str]) -> frozenset[str]:
        return frozenset(n[1:] for n in leaf)

    return jax.tree.map(names, found, is_leaf=lambda leaf: isinstance(leaf, frozenset))


@dataclass(frozen=True)
class Bare:
    """A distribution with Expanded, Independent and Masked taken off.

    `fn` has batch dimensions (plates..., columns...), right-aligned; `columns` of them come from
    `to_event`. `masks` are right-aligned with the same dimensions; a mask that was put over
    columns already joined hides all of them. `wrapped` holds each mask with the number of columns
    that were joined outside of it.
    """

    fn: Any
    columns: int
    wrapped: tuple[tuple[Any, int], ...]

    @property
    def hidden(self) -> bool:
        """Whether the program masks the site by the constant False: a latent's law that another
        site, a numpyro.factor, stands for."""
        return any(mask is False for mask, _ in self.wrapped)

    @property
    def masks(self) -> tuple[Any, ...]:
        found = []
        for mask, outside in self.wrapped:
            mask = jnp.asarray(mask)
            found.append(mask.reshape(mask.shape + (1,) * (self.columns - outside)))
        return tuple(found)


def unwrap(fn: Any) -> Bare:
    """The distribution as it was before plates, `to_event` and `mask` wrapped it."""
    columns = 0
    masks: list[tuple[Any, int]] = []
    while True:
        if isinstance(fn, ExpandedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, Independent):
            columns += fn.reinterpreted_batch_ndims
            fn = fn.base_dist
        elif isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, columns))
            fn = fn.base_dist
        else:
            return Bare(fn, columns, tuple(masks))


def is_array(value: Any) -> bool:
    """Whether a part of a distribution is numbers that can be traced; a sparse matrix is not."""
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float)
    return isinstance(value, kinds) or hasattr(value, "__jax_array__")


def innermost(fn: Any) -> Any:
    """The distribution that `unwrap` finds, without touching its masks."""
    while isinstance(fn, (ExpandedDistribution, Independent, MaskedDistribution)):
        fn = fn.base_dist
    return fn


def _is_point(fn: Any) -> bool:
    return isinstance(innermost(fn), dist.Delta)


def _determine(msg: dict[str, Any]) -> None:
    """Give an unobserved Delta its one value, as numpyro.deterministic would; its weight counts as
    that of a numpyro.factor."""
    point, shape = innermost(msg["fn"]), msg["fn"].batch_shape + msg["fn"].event_shape
    msg["value"] = jnp.broadcast_to(point.v, shape)
    density = point.log_density
    if isinstance(density, jax.core.Tracer) or np.any(np.asarray(density) != 0):
        msg["fn"] = Unit(msg["fn"].log_prob(msg["value"]))  # what numpyro.factor would add
        msg["is_observed"] = True
    else:
        msg["type"] = "deterministic"


def is_factor(fn: Any) -> bool:
    """True for the distribution behind `numpyro.factor`."""
    return isinstance(fn, Unit)


def is_discrete(fn: Any) -> bool:
    """True when the support of the distribution is discrete."""
    return bool(getattr(fn.support, "is_discrete", False))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interval:
    """The whole numbers from `low` to `high`, each the outermost over the batch; they may be
    traced: total counts and bounds may be data."""

    low: Any
    high: Any

    @property
    def is_traced(self) -> bool:
        return isinstance(self.low, jax.core.Tracer) or isinstance(self.high, jax.core.Tracer)


SUPPORT_LIMIT = 100_000


def _outermost(which: Callable, bound: Any) -> Any:
    traced = isinstance(bound, jax.core.Tracer)
    reduce = {
        (min, True): jnp.min,
        (max, True): jnp.max,
        (min, False): np.min,
        (max, False): np.max,
    }
    return reduce[which, traced](bound)


def finite_support(name: str, fn: Any) -> jax.Array | Interval:
    """The values of a latent's distribution, as a vector or an interval; or a clear refusal.

    Rows may have supports of their own, Binomial(n, p) with n an array: the interval covers all,
    and a value outside of a row's own has probability zero there.
    """
    bare = unwrap(fn)
    if bare.columns or bare.fn.event_shape:
        raise ValueError(
            f"latent '{name}': a discrete latent with an event shape cannot be enumerated. "
            "Declare its coordinates in a plate instead of to_event."
        )
    support = bare.fn.support
    if isinstance(support, INTEGER_INTERVAL):
        return Interval(_outermost(min, support.lower_bound), _outermost(max, support.upper_bound))
    try:
        values = bare.fn.enumerate_support(expand=False)
    except (NotImplementedError, TypeError, ValueError, jax.errors.ConcretizationTypeError) as e:
        reason = f" ({e})" if str(e) else ""
        raise ValueError(
            f"latent '{name}': {type(bare.fn).__name__} has no finite support that can be "
            f"enumerated{reason}. Use a distribution with a finite support (Categorical, "
            "Bernoulli, Binomial, DiscreteUniform), or truncate it by a Categorical over its "
            "values."
        ) from None
    return jnp.reshape(values, (-1,))


def listed(name: str, support: Any) -> np.ndarray:
    """A finite support, on the host, as a vector."""
    if not isinstance(support, Interval):
        return np.asarray(support)
    low, high = int(support.low), int(support.high)
    if not 0 <= high - low < SUPPORT_LIMIT:
        raise ValueError(
            f"latent '{name}': its values are the whole numbers from {low} to {high}, expected "
            f"at least one and at most {SUPPORT_LIMIT}. Check the total count or the bounds of "
            "its distribution."
        )
    return np.arange(low, high + 1)


def as_floating(value: Any) -> jax.Array:
    """A number, list or array (of integers or booleans, too) as an array of the working precision:
    parameters and the arguments that depend on them are real."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype == jnp.result_type(float):
        return array
    return array.astype(jnp.result_type(float))


def initial_value(msg: dict[str, Any]) -> jax.Array:
    """The initial value of a `numpyro.param`: a number, an array-like, or a function of a key."""
    value = msg["fn"](*msg["args"], **msg["kwargs"])
    if msg["name"].endswith("$params"):
        raise Refused(
            f"numpyro.param '{msg['name']}' is that of a neural network (numpyro.module, flax_module, "
            "haiku_module, ...), whose parameters are no single array. Write the network with arrays "
            "that are sites of the program: w = numpyro.param('w', ...), jnp.tanh(x @ w) @ v."
        )
    try:
        return as_floating(value)
    except (TypeError, ValueError):
        raise Refused(
            f"numpyro.param '{msg['name']}': received an initial value of type "
            f"{type(value).__name__}, expected a number, an array, or a function of a random key "
            "that returns one."
        ) from None


def neutral_value(msg: dict[str, Any], seed: int) -> Any:
    """A value inside the support, for reading shapes: not a draw from the prior."""
    if msg["type"] == "param":
        return initial_value(msg)
    fn = msg["fn"]
    shape = fn.batch_shape
    if is_discrete(fn):
        bare = unwrap(fn)
        if not bare.columns and not bare.fn.event_shape:
            try:
                support = finite_support(msg["name"], fn)
                # The largest: a total count further down is then at its largest, too.
                top = support.high if isinstance(support, Interval) else support[-1]
                return jnp.full(shape, top)
            except ValueError:
                pass
        return fn.sample(jax.random.key(seed))
    try:
        transform = dist.biject_to(fn.support)
    except NotImplementedError:
        raise Refused(
            f"site '{msg['name']}' ({type(innermost(fn)).__name__}): its support has no map from "
            "unconstrained numbers in NumPyro, so that no method can move along it. Write it by "
            "such a map, as a vector divided by its length for a direction."
        ) from None
    free = transform.inverse_shape(shape + fn.event_shape)
    noise = np.random.default_rng(seed).uniform(-1.0, 1.0, free)
    return transform(jnp.asarray(noise))


class _Unobserve(Literals):
    """Turns observed sites back into draws, keeping the shapes of their data; `seen` gets those."""

    def __init__(self, drawn: dict[str, Any], seen: dict[str, Any]) -> None:
        super().__init__()
        self.drawn, self.seen = drawn, seen

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            msg["value"], values, seen = _drawn_scan(msg, numpyro.prng_key())
            self.drawn.update(values)
            self.seen.update(seen)
            return
        super().process_message(msg)
        if msg["type"] != "sample" or not msg["is_observed"] or is_factor(msg["fn"]):
            return
        data = jnp.shape(msg["value"])
        fn = msg["fn"]
        batch = data[: len(data) - len(fn.event_shape)]
        shape = jnp.broadcast_shapes(tuple(fn.batch_shape), tuple(batch))
        if shape != tuple(fn.batch_shape):
            msg["fn"] = fn.expand(shape)
        self.seen[msg["name"]] = jnp.broadcast_to(msg["value"], (*shape, *fn.event_shape))
        msg["value"], msg["is_observed"] = None, False


def _drawn_sites(sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not is_factor(site["fn"])
    }


def _drawn_scan(msg: dict[str, Any], key: jax.Array) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Run a scan with every site of its body drawn; also the draws, and the data in their place,
    stacked over the steps. The first steps, until the carry has its form, are run one by one."""
    f, init, xs, length, reverse = msg["args"]
    sizes = [a.shape[0] for a in jax.tree.leaves(xs)]
    steps = sizes[0] if sizes else int(length)
    given = msg["kwargs"].get("substitute_stack", [])

    def step(carry: Any, inputs: Any) -> Any:
        own, t, x = inputs
        seen: dict[str, Any] = {}
        body = f
        for kind, values in given:
            handler = handlers.condition if kind == "condition" else handlers.substitute
            body = handler(body, **{f"{kind}_fn": partial(_subs_wrapper, values, t, steps)})
        with (
            handlers.block(),
            handlers.trace() as sites,
            handlers.seed(rng_seed=own),
            _Unobserve({}, seen),
        ):
            new, y = body(carry, x)
        return new, (_drawn_sites(sites), seen, y)

    every = (jax.random.split(key, steps), jnp.arange(steps), xs)
    if reverse:
        every = (*every[:2], jax.tree.map(lambda a: jnp.asarray(a)[::-1], xs))
    carry, pieces, begin = jax.tree.map(jnp.asarray, init), [], 0
    while begin < steps:
        start = jax.tree.map(lambda a, t=begin: a[t], every)
        after, _ = jax.eval_shape(step, carry, start)
        if jax.tree.structure(after) == jax.tree.structure(carry):
            carry = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, after)
            rest = jax.tree.map(lambda a, t=begin: a[t:], every)
            carry, found = jax.lax.scan(step, carry, rest)
            pieces.append(found)
            break
        carry, found = step(carry, start)
        pieces.append(jax.tree.map(lambda a: jnp.asarray(a)[None], found))
        begin += 1
    values, seen, ys = jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)
    if reverse:
        values, seen, ys = jax.tree.map(lambda a: a[::-1], (values, seen, ys))
    return ((steps, None, carry), (PytreeTrace({}), ys)), values, seen


def drawing_function(arguments: Arguments) -> Callable[..., tuple[dict, dict]]:
    """(arrays, given values, key) -> every site that is not given, drawn, observed ones included;
    and the data of the observed ones, in the same shapes. Traceable."""

    @alone
    def draw(dynamic: tuple, given: dict[str, Any], key: jax.Array) -> tuple[dict, dict]:
        inside: dict[str, Any] = {}
        seen: dict[str, Any] = {}
        with (
            _no_outer_handlers(),
            handlers.trace() as sites,
            handlers.seed(rng_seed=key),
            _Unobserve(inside, seen),
        ):
            arguments.call(handlers.substitute(arguments.program, data=given), dynamic)
        drawn = _drawn_sites(sites) | inside
        return {n: v for n, v in drawn.items() if n not in given}, seen

    return draw


def draw_from_program(
    arguments: Arguments, values: dict[str, Any], key: jax.Array
) -> dict[str, Any]:
    """Sample every site that `values` does not give, observed sites included."""
    draw = drawing_function(arguments)
    run = quick_jit(draw) if arguments.traced else draw
    return run(arguments.device_arrays(), values, key)[0]


__all__ = [
    "INTEGER_INTERVAL",
    "Bare",
    "Interval",
    "Message",
    "PytreeTrace",
    "Runner",
    "Timed",
    "as_floating",
    "draw_from_program",
    "drawing_function",
    "finite_support",
    "is_array",
    "is_discrete",
    "is_factor",
    "listed",
    "neutral_value",
    "numpyro",
    "run_program",
    "unwrap",
]
