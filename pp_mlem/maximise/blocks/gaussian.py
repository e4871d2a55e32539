"""Coefficients and scales of Gaussians with real latents: normal equations, then variances.

Given the scales, <eta, S> is quadratic in what enters the means affinely, so its maximum solves normal
equations; given the means, each variance is an expected square. The two in turn are an ECM step (Meng &
Rubin 1993, doi:10.1093/biomet/80.2.267), which raises the likelihood as an EM step does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from pp_mlem.base.compiling import quick_jit
from pp_mlem.base.no import No
from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.affine import AffineFactor, basis
from pp_mlem.factors.axes import of_rank
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior
from pp_mlem.maximise.blocks.roles import are_events, argument_rows, is_natural
from pp_mlem.program.bindings import offsets
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import ParameterSpace, base_support

COEFFICIENTS = 512  # with more the normal equations cost more than numeric steps
FLAT = 1e-12  # of the largest curvature: directions with less stay as they are
KINDS = {"scale": "positive", "scale_tril": "cholesky", "covariance_matrix": "covariance"}


@dataclass(frozen=True)
class _Scale:
    """The scale `argument` of a site, which is entries of one parameter."""

    site: str
    argument: str
    parameter: str


@dataclass(frozen=True, eq=False)
class Gaussian(Block):
    """`coefficients` enter the means affinely; `scales` are the scales that are parameters."""

    coefficients: tuple[str, ...] = field(kw_only=True)
    scales: tuple[_Scale, ...] = field(kw_only=True)
    method: ClassVar[str] = "closed, in turn"

    def collect(self, context: Context, params: Params, statistics: Natural) -> Natural:
        return {site: statistics[site] for site in self.sites}

    def maximise(
        self, context: Context, params: Params, collected: Natural, prior: Prior | None
    ) -> Params:
        members = [f for f in context.members(self) if isinstance(f, AffineFactor)]
        moments = {f.site: _Moments.of(f, collected[f.site]) for f in members}
        new = dict(params)
        if self.coefficients:
            new |= self._coefficients(context, params, members, moments)
        if self.scales:
            new |= self._scales(context, new, members, moments)
        return {name: new[name] for name in self.parameters}

    def _coefficients(
        self,
        context: Context,
        params: Params,
        members: list[AffineFactor],
        moments: dict[str, _Moments],
    ) -> Params:
        space = context.reading.space.only(frozenset(self.coefficients))

        def left(vector: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
            """Of each site what its value leaves, as coefficients of (1, u); and its precision."""
            at = {**params, **space.constrain(vector)}
            parts = _arranged(context.reading, members, at, context.data)
            return {n: (_joined(p[0], p[1]), p[2]) for n, p in parts.items()}

        here = space.unconstrain(params)
        now, slope = jax.linearize(left, here)
        moved = jax.vmap(slope)(jnp.eye(space.size, dtype=here.dtype))
        pull = jnp.zeros(space.size, here.dtype)
        curvature = jnp.zeros((space.size, space.size), here.dtype)
        for factor in members:
            moment, (residual, precision) = moments[factor.site], now[factor.site]
            change = moved[factor.site][0]
            weighed = precision @ change @ moment.second
            lanes = change.reshape(space.size, -1)
            curvature += weighed.reshape(space.size, -1) @ lanes.T
            away = precision @ (residual @ moment.second + moment.crossed)
            pull -= lanes @ jnp.broadcast_to(away, change.shape[1:]).reshape(-1)
        step = _solved(curvature, pull)
        return space.constrain(here + step)

    def _scales(
        self,
        context: Context,
        params: Params,
        members: list[AffineFactor],
        moments: dict[str, _Moments],
    ) -> Params:
        reading, new = context.reading, {}
        parts = _arranged(reading, members, params, context.data)
        by_site = {f.site: f for f in members}
        for name in dict.fromkeys(s.parameter for s in self.scales):
            shape = next(s.shape for s in reading.space.sites if s.name == name)
            own = [s for s in self.scales if s.parameter == name]
            rank = 0 if own[0].argument == "scale" else 2
            event = shape[len(shape) - rank :]
            count = int(np.prod(shape[: len(shape) - rank]))
            squares = jnp.zeros((count, *event), params[name].dtype)
            total = jnp.zeros(count, params[name].dtype)
            for scale in own:
                factor, moment = by_site[scale.site], moments[scale.site]
                at_zero, moves, *_ = parts[scale.site]
                outer = moment.outer(_joined(at_zero, moves))
                index = context.data.index[scale.site][scale.argument]
                rows = (argument_rows(index, rank) - offsets(reading)[name]) // max(
                    int(np.prod(event)), 1
                )
                rows = _over_batch(rows, factor, reading, moment.count.shape)
                outer = outer if rank else outer[..., 0, 0]
                squares = squares.at[rows.reshape(-1)].add(outer.reshape(-1, *event))
                total = total.at[rows.reshape(-1)].add(moment.count.reshape(-1))
            wide = total.reshape(-1, *(1,) * rank)
            variance = squares / jnp.where(wide > 0, wide, 1.0)
            found = _of_variance(variance, own[0].argument)
            old = params[name].reshape(count, *event)
            sound = jnp.isfinite(found).all(tuple(range(1, 1 + rank)), keepdims=True) & (wide > 0)
            new[name] = jnp.where(sound, found, old).reshape(shape)
        return new


@dataclass(frozen=True)
class _Moments:
    """Expected sums over the units of each entry (..., columns): `second` of (1, u)(1, u)' and, of an
    observed site, `crossed` x (1, u)' and `entries` x x' (zero for a law); and how many there are."""

    second: jax.Array
    crossed: jax.Array
    entries: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, factor: AffineFactor, statistics: jax.Array) -> _Moments:
        size = sum(n for _, n in factor.coordinates)
        event = factor.event_size if factor.family and factor.family.event_dim else 1
        batch = statistics.shape[:-1]
        both = -2 * statistics[..., : size**2].reshape(*batch, size, size)
        one = -statistics[..., size**2 : size**2 + size]
        count = -statistics[..., size**2 + size + 1]
        second = jnp.concatenate([
            jnp.concatenate([count[..., None, None], one[..., None, :]], -1),
            jnp.concatenate([one[..., :, None], (both + jnp.swapaxes(both, -1, -2)) / 2], -1),
        ], -2)  # fmt: skip
        if factor.own:
            nothing = jnp.zeros((*batch, event, 1 + size), statistics.dtype)
            return cls(second, nothing, jnp.zeros((*batch, event, event), statistics.dtype), count)
        rest = statistics[..., factor.count :]
        crossed = -rest[..., : event * size].reshape(*batch, event, size)
        entry = -rest[..., event * size : event * (size + 1)]
        entries = -2 * rest[..., event * (size + 1) :].reshape(*batch, event, event)
        return cls(second, jnp.concatenate([entry[..., None], crossed], -1), entries, count)

    def outer(self, residual: jax.Array) -> jax.Array:
        """Expected sums of r r', r = x + residual (1, u)."""
        turned = jnp.swapaxes(residual, -1, -2)
        cross = self.crossed @ turned
        whole = self.entries + cross + jnp.swapaxes(cross, -1, -2)
        return whole + residual @ self.second @ turned


def _joined(at_zero: jax.Array, moves: jax.Array) -> jax.Array:
    """Coefficients of (1, u): (..., D, 1 + L)."""
    return jnp.concatenate([at_zero[..., None], moves], -1)


def _arranged(
    reading: Reading, members: list[AffineFactor], params: Params, data: ProgramData
) -> dict[str, tuple[jax.Array, ...]]:
    """`AffineFactor.arranged` of each member at these parameters."""
    by_site, shifts = {f.site: f for f in members}, data.shifts

    def extract(message: Message) -> Any:
        return by_site[message.name].natural(reading, message, shifts.get(message.name))

    def at(reals: dict[str, Any]) -> dict[str, Any]:
        return reading.run(params, data.dynamic, extract, reals, wanted=frozenset(by_site))

    probed = jax.vmap(at)(basis(reading))
    return {name: f.arranged(reading, probed[name]) for name, f in by_site.items()}


def _solved(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """The shortest solution; nothing along directions without curvature."""
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(matrix), 1e-300))
    values, vectors = jnp.linalg.eigh(matrix / scale[:, None] / scale)
    kept = values > FLAT * jnp.maximum(values.max(initial=0.0), 1e-300)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
    return (vectors * inverse) @ (vectors.T @ (right / scale)) / scale


def _over_batch(
    rows: Any, factor: AffineFactor, reading: Reading, batch: tuple[int, ...]
) -> jax.Array:
    """Numbers of an argument (*latents, *plates, *columns, right-aligned) over (..., columns)."""
    site = reading.sites[factor.site]
    columns = site.event_shape[: site.columns] if factor.own else factor.column_shape
    wide = (*batch[:-1], *columns)
    outer = sum(s.vmapped and s.name in factor.latents for s in reading.slots)
    return jnp.broadcast_to(of_rank(jnp.asarray(rows), len(wide), outer), wide).reshape(batch)


def _of_variance(variance: jax.Array, argument: str) -> jax.Array:
    """The scale argument of (values, ...) variances."""
    if argument == "scale":
        return jnp.sqrt(jnp.maximum(variance, 0.0))
    whole = (variance + jnp.swapaxes(variance, -1, -2)) / 2
    return whole if argument == "covariance_matrix" else jnp.linalg.cholesky(whole)


def plan_gaussian(group: Group) -> Block | No:
    """Takes Gaussians with real latents, for maximum likelihood."""
    members = [m for m in group.members if isinstance(m, AffineFactor)]
    if not members:
        return No("")
    if len(members) < len(group.members):
        return No("a site without real latents shares its parameters")
    if group.priors is not None:
        return No("priors are not part of the normal equations")
    scales = _find_scales(group, members)
    if isinstance(scales, str):
        return No(scales)
    behind = {s.parameter for s in scales}
    coefficients = tuple(n for n in group.names if n not in behind)
    reason = _no_coefficients(group, members, coefficients, behind)
    if reason:
        return No(reason)
    parts = ["normal equations"] * bool(coefficients) + ["expected squares"] * bool(scales)
    return Gaussian(
        group.names, group.sites, " and ".join(parts), coefficients=coefficients, scales=scales
    )


def _find_scales(group: Group, members: list[AffineFactor]) -> tuple[_Scale, ...] | str:
    scales: list[_Scale] = []
    spaces = {s.name: s for s in group.reading.space.sites}
    for member in members:
        for argument, binding in member.bindings.items():
            own = [p for p in binding.parameters if p in group.free]
            if argument == "loc" or not own:
                continue
            if binding.kind != "direct" or len(binding.parameters) > 1 or argument not in KINDS:
                return f"the {argument} of '{member.site}' is computed from {', '.join(own)}"
            site = spaces[own[0]]
            rank = 0 if argument == "scale" else 2
            if not is_natural(site.support, (KINDS[argument],)) or len(site.shape) < rank:
                return f"'{own[0]}' may not be every {argument}"
            begin, index = (
                offsets(group.reading)[site.name],
                group.data.index[member.site][argument],
            )
            if rank and not are_events(np.asarray(index), rank, [(begin, site.shape)]):
                return f"the {argument} of '{member.site}' mixes entries of '{site.name}'"
            scales.append(_Scale(member.site, argument, own[0]))
    if len({(s.parameter, s.argument) for s in scales}) > len({s.parameter for s in scales}):
        return "one parameter is a scale in several forms"
    return tuple(scales)


def _no_coefficients(
    group: Group, members: list[AffineFactor], names: tuple[str, ...], scales: set[str]
) -> str:
    """Why the other parameters are no coefficients ("": they are)."""
    reading = group.reading
    sites = {s.name: s for s in reading.space.sites}
    for member in members:
        parts = reading.dependencies[member.site]
        if parts.get("argument loc", frozenset()) & scales:
            return f"a scale enters the mean of '{member.site}' as well"
    unfit = [n for n in names if base_support(sites[n].support) is not constraints.real]
    unfit = [n for n in unfit if not is_natural(sites[n].support, ("real",))]
    if unfit:
        return f"'{unfit[0]}' is neither a scale nor any real number"
    space = reading.space.only(frozenset(names))
    if space.size > COEFFICIENTS:
        return f"more than {COEFFICIENTS} coefficients"
    if names and not _is_affine(group, members, space):
        return f"the means are not affine in {', '.join(names)} together"
    return ""


def _is_affine(group: Group, members: list[AffineFactor], space: ParameterSpace) -> bool:
    reading, rng = group.reading, np.random.default_rng(2)
    whole = reading.space
    rest = whole.constrain(jnp.asarray(rng.uniform(-1, 1, whole.size)))

    def means(vectors: Any, rest: Params, data: ProgramData) -> Any:
        def one(vector: Any) -> Any:
            parts = _arranged(reading, members, {**rest, **space.constrain(vector)}, data)
            return {n: _joined(p[0], p[1]) for n, p in parts.items()}

        return jax.vmap(one)(vectors)

    a, b = rng.normal(size=(2, space.size))
    points = np.stack([np.zeros(space.size), a, b, a + b, 2 * a - b])
    run = quick_jit(means) if reading.arguments.traced else means
    for values in run(points, rest, group.data).values():
        zero, at_a, at_b, both, other = np.asarray(values)
        size = max(1.0, float(np.abs(values).max(initial=0.0)))
        tolerance = 1e-9 if values.dtype == np.float64 else 1e-3
        told = at_a + at_b - zero, 2 * at_a - at_b
        if not np.allclose(both, told[0], atol=tolerance * size, rtol=0):
            return False
        if not np.allclose(other, told[1], atol=tolerance * size, rtol=0):
            return False
    return True
