"""Draws from a program: new values for its sites, observed ones included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow.scan import PytreeTrace, _subs_wrapper, scan_wrapper

from pp_mlem.base.precision import alone
from pp_mlem.potentials.sweep import completed
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.counts import with_own_totals
from pp_mlem.program.distributions import innermost, is_factor, is_flat, unwrap
from pp_mlem.program.literals import Literals
from pp_mlem.program.scans.body import same_form
from pp_mlem.program.trace import no_outer_handlers


class _Unobserve(Literals):
    """Turns observed sites back into draws, keeping the shapes of their data; `seen` gets those. A flat law has
    no draws: zero stands for them, where only the data are looked at."""

    def __init__(self, drawn: dict[str, Any], seen: dict[str, Any]) -> None:
        super().__init__()
        self.drawn, self.seen = drawn, seen

    @property
    def inside(self) -> type[_Unobserve]:
        """What does the same inside of a scan."""
        return type(self)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            msg["value"], values, seen = _drawn_scan(msg, numpyro.prng_key(), self.inside)
            self.drawn.update(values)
            self.seen.update(seen)
            return
        super().process_message(msg)
        if msg["type"] == "sample" and msg["value"] is None and is_flat(msg["fn"]):
            msg["value"] = jnp.zeros(msg["fn"].shape())
        if msg["type"] != "sample" or not msg["is_observed"] or is_factor(msg["fn"]):
            return
        data = jnp.shape(msg["value"])
        fn = msg["fn"]
        batch = data[: len(data) - len(fn.event_shape)]
        shape = jnp.broadcast_shapes(tuple(fn.batch_shape), tuple(batch))
        msg["fn"] = with_own_totals(fn if shape == tuple(fn.batch_shape) else fn.expand(shape))
        self.seen[msg["name"]] = jnp.broadcast_to(msg["value"], (*shape, *fn.event_shape))
        msg["value"], msg["is_observed"] = None, False


class _Complete(_Unobserve):
    """Draws the missing cells of observed sites, given those that are seen, and hands on both."""

    def process_message(self, msg: dict[str, Any]) -> None:
        observed = msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg["fn"])
        data = jnp.asarray(msg["value"]) if observed else None
        super().process_message(msg)
        if data is None:
            return
        key = numpyro.prng_key()
        if jnp.issubdtype(data.dtype, jnp.floating):
            msg["value"] = _completed(msg["fn"], self.seen[msg["name"]], key)
        else:
            msg["value"] = self.seen[msg["name"]]


class _Predict(_Unobserve):
    """Draws the observed sites, whether or not they have values here, and notes the means and variances of
    their laws in `moments`; those of a scan's body have draws alone."""

    def __init__(self, drawn: dict[str, Any], seen: dict[str, Any]) -> None:
        super().__init__(drawn, seen)
        self.moments: dict[str, tuple[Any, Any]] = {}

    @property
    def inside(self) -> type[_Unobserve]:
        return _Unobserve

    def process_message(self, msg: dict[str, Any]) -> None:
        super().process_message(msg)
        if msg["type"] == "sample" and not is_factor(msg["fn"]):
            try:
                shape = msg["fn"].shape()
                mean, variance = msg["fn"].mean, msg["fn"].variance
                self.moments[msg["name"]] = (
                    jnp.broadcast_to(mean, shape), jnp.broadcast_to(variance, shape)
                )  # fmt: skip
            except (AttributeError, NotImplementedError, ValueError):  # none in closed form
                pass


def _completed(fn: Any, value: jax.Array, key: jax.Array) -> jax.Array:
    """A value with its missing cells drawn; the entries of a vector given the others (a whole draw, moved by
    the regression on what is seen: Matheron's rule); NaN where a mask hides them."""
    drawn, missing, bare = fn.sample(key), jnp.isnan(value), innermost(fn)
    if isinstance(bare, dist.MultivariateNormal):
        whole, _ = completed(bare.precision_matrix, missing.astype(value.dtype))
        away = jnp.where(missing, 0.0, value - drawn)
        drawn = drawn + jnp.squeeze(whole @ away[..., None], -1)
    drawn = drawn.astype(value.dtype)
    for mask in unwrap(fn).masks:
        shown = mask.reshape(mask.shape + (1,) * len(bare.event_shape))
        drawn = jnp.where(shown, drawn, jnp.nan)
    return jnp.where(missing, drawn, value)


def _drawn_sites(sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not is_factor(site["fn"])
    }


def _drawn_scan(
    msg: dict[str, Any], key: jax.Array, unobserve: type[_Unobserve]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
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
            unobserve({}, seen),
        ):
            new, y = body(carry, x)
        return new, (_drawn_sites(sites), seen, y)

    xs = jax.tree.map(lambda a: jnp.asarray(a)[::-1] if reverse else jnp.asarray(a), xs)
    every = (jax.random.split(key, steps), jnp.arange(steps), xs)
    carry, pieces, begin = jax.tree.map(jnp.asarray, init), [], 0
    while begin < steps:
        start = jax.tree.map(lambda a, t=begin: a[t], every)
        after, _ = jax.eval_shape(step, carry, start)
        if same_form(after, carry):
            carry = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, after)
            rest = jax.tree.map(lambda a, t=begin: a[t:], every)
            carry, drawn = jax.lax.scan(step, carry, rest)
            pieces.append(drawn)
            break
        carry, drawn = step(carry, start)
        pieces.append(jax.tree.map(lambda a: jnp.asarray(a)[None], drawn))
        begin += 1
    values, seen, ys = jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)
    if reverse:
        values, seen, ys = jax.tree.map(lambda a: a[::-1], (values, seen, ys))
    return ((steps, None, carry), (PytreeTrace({}), ys)), values, seen


def drawing_function(arguments: Arguments) -> Callable[..., tuple[dict, dict]]:
    """(arrays, given values, key) -> every site that is not given, drawn, observed ones included;
    and the data of the observed ones, in the same shapes. Traceable."""
    return _drawing(arguments, _Unobserve)


def completing_function(arguments: Arguments) -> Callable[..., dict]:
    """(arrays, given values, key) -> the observed sites, what is missing drawn given what is seen and the given
    values, among which are all parameters and latents. Traceable."""
    draw = _drawing(arguments, _Complete)

    def complete(dynamic: tuple, given: dict[str, Any], key: jax.Array) -> dict:
        drawn, seen = draw(dynamic, given, key)
        return {name: drawn[name] for name in seen}

    return complete


def predicting_function(
    arguments: Arguments, names: frozenset[str]
) -> Callable[[tuple, dict[str, Any], jax.Array], tuple[dict, dict]]:
    """(arrays, given values, key) -> draws of these sites; and (mean, variance) of the laws that they were drawn
    from, of those that have them in closed form. Traceable."""
    every: dict[str, tuple[Any, Any]] = {}

    def kind(drawn: dict[str, Any], seen: dict[str, Any]) -> _Predict:
        handler = _Predict(drawn, seen)
        handler.moments = every
        return handler

    draw = _drawing(arguments, kind)

    def predict(dynamic: tuple, given: dict[str, Any], key: jax.Array) -> tuple[dict, dict]:
        every.clear()
        drawn, _ = draw(dynamic, given, key)
        moments = {n: m for n, m in every.items() if n in names and n in drawn}
        every.clear()
        return {n: v for n, v in drawn.items() if n in names}, moments

    return predict


def _drawing(
    arguments: Arguments, kind: Callable[[dict, dict], _Unobserve]
) -> Callable[..., tuple[dict, dict]]:
    @alone
    def draw(dynamic: tuple, given: dict[str, Any], key: jax.Array) -> tuple[dict, dict]:
        inside: dict[str, Any] = {}
        seen: dict[str, Any] = {}
        with (
            no_outer_handlers(),
            handlers.trace() as sites,
            handlers.seed(rng_seed=key),
            kind(inside, seen),
        ):
            arguments.call(handlers.substitute(arguments.program, data=given), dynamic)
        drawn = _drawn_sites(sites) | inside
        return {n: v for n, v in drawn.items() if n not in given}, seen

    return draw
