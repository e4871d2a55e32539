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

from pp_mlem.base.no import No
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.axes import of_rank
from pp_mlem.factors.summed import Summed, split
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params, Prior
from pp_mlem.maximise.blocks.means import Means, find_means, residuals, solved
from pp_mlem.maximise.blocks.roles import are_events, argument_rows, is_natural
from pp_mlem.program.bindings import offsets
from pp_mlem.program.reading import Reading
from pp_mlem.program.space import base_support

COEFFICIENTS = 512  # with more in one mean the normal equations cost more than numeric steps
MOST = 4096  # in all of them
KINDS = {"scale": "positive", "scale_tril": "cholesky", "covariance_matrix": "covariance"}


@dataclass(frozen=True)
class _Scale:
    """The scale `argument` of a site, which is entries of one parameter."""

    site: str
    argument: str
    parameter: str


@dataclass(frozen=True, eq=False)
class Gaussian(Block):
    """`means` says how coefficients enter the means; `scales` are the scales that are parameters."""

    means: Means = field(kw_only=True)
    scales: tuple[_Scale, ...] = field(kw_only=True)
    method: ClassVar[str] = "closed, in turn"

    def members(self, context: Context) -> list[AffineFactor]:
        """The block's factors."""
        return [f for f in context.members(self) if isinstance(f, AffineFactor)]

    def collect(self, context: Context, params: Params, statistics: Natural) -> dict[str, Moments]:
        summed = context.data.summed
        return {
            f.site: Moments.of(f, statistics[f.site], summed.get(f.site))
            for f in self.members(context)
        }

    def maximise(
        self, context: Context, params: Params, collected: dict[str, Moments], prior: Prior | None
    ) -> Params:
        members, moments = self.members(context), collected
        new = dict(params)
        if self.means.coefficients:
            new |= self._coefficients(context, params, members, moments)
        if self.scales:
            new |= self._scales(context, new, members, moments)
        return {name: new[name] for name in self.parameters}

    def _coefficients(
        self,
        context: Context,
        params: Params,
        members: list[AffineFactor],
        moments: dict[str, Moments],
    ) -> Params:
        space = context.reading.space.only(frozenset(self.means.coefficients))

        def left(vector: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
            """Of each site what its value leaves, as coefficients of (1, u); and its precision."""
            at = {**params, **space.constrain(vector)}
            return residuals(context.reading, members, at, context.data)

        here, means = space.unconstrain(params), self.means
        now, slope = jax.linearize(left, here)
        seeds = means.seeds(space.size)
        width, count = seeds.shape[0], len(means.groups)
        moved = jax.vmap(slope)(jnp.asarray(seeds, here.dtype))
        pull = jnp.zeros((count, width), here.dtype)
        curvature = jnp.zeros((count, width, width), here.dtype)
        for factor in members:
            moment, (residual, precision) = moments[factor.site], now[factor.site]
            change = moved[factor.site][0]
            weighed = precision @ change @ moment.second
            away = precision @ (residual @ moment.second + moment.crossed)
            away = jnp.broadcast_to(away, change.shape[1:])
            flat, other = (_by_column(a) for a in (change, weighed))
            own = np.asarray(means.owners[factor.site])
            curvature = curvature.at[own].add(jnp.einsum("jrcn,krcn->cjk", flat, other))
            pull = pull.at[own].add(-jnp.einsum("jrcn,rcn->cj", flat, _by_column(away[None])[0]))
        return space.constrain(here + means.spread(solved(curvature, pull), here))

    def _scales(
        self,
        context: Context,
        params: Params,
        members: list[AffineFactor],
        moments: dict[str, Moments],
    ) -> Params:
        reading, new = context.reading, {}
        parts = residuals(reading, members, params, context.data)
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
                outer = moment.outer(parts[scale.site][0])
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


def _by_column(array: jax.Array) -> jax.Array:
    """(several, ..., columns, D, coefficients) as (several, rest, columns, numbers)."""
    columns = array.shape[-3]
    return array.reshape(len(array), -1, columns, array.shape[-2] * array.shape[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Expected sums over the units of each entry (..., columns): `second` of (1, u)(1, u)' and, of an
    observed site, `crossed` x (1, u)' and `entries` x x' (zero for a law); and how many there are. Of a site
    that is summed over its rows its features are in the place of (1, u)."""

    second: jax.Array
    crossed: jax.Array
    entries: jax.Array
    count: jax.Array

    @classmethod
    def of(
        cls, factor: AffineFactor, statistics: jax.Array, summed: Summed | None = None
    ) -> Moments:
        if summed is not None:
            both, count, crossed, entries = split(statistics, summed.size)
            second = -both - jnp.swapaxes(both, -1, -2)
            return cls(second, -crossed, -2 * entries, -count)
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
        rest = rest[..., event * (size + 1) : event * (size + 1) + event**2]
        entries = -2 * rest.reshape(*batch, event, event)
        return cls(second, jnp.concatenate([entry[..., None], crossed], -1), entries, count)

    def outer(self, residual: jax.Array) -> jax.Array:
        """Expected sums of r r', r = x + residual (1, u)."""
        turned = jnp.swapaxes(residual, -1, -2)
        cross = self.crossed @ turned
        whole = self.entries + cross + jnp.swapaxes(cross, -1, -2)
        return whole + residual @ self.second @ turned


def _over_batch(
    rows: Any, factor: AffineFactor, reading: Reading, batch: tuple[int, ...]
) -> jax.Array:
    """Numbers of an argument (*latents, *plates, *columns, right-aligned) over (..., columns)."""
    site = reading.sites[factor.site]
    columns = site.event_shape[: site.columns] if factor.own else factor.column_shape
    wide = (*batch[:-1], *columns)
    outer = sum(s.vmapped and s.name in factor.latents for s in reading.slots)
    rows = jnp.asarray(rows)
    if rows.ndim > len(wide):  # the same in all rows of a summed site
        rows = rows.reshape(rows.shape[rows.ndim - len(wide) :])
    return jnp.broadcast_to(of_rank(rows, len(wide), outer), wide).reshape(batch)


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
    return plan_of(Gaussian, group, members)


def plan_of(kind: type[Gaussian], group: Group, members: list[AffineFactor]) -> Block | No:
    """A block of this kind, or why the parameters are not coefficients and scales of its members."""
    scales = _find_scales(group, members)
    if isinstance(scales, str):
        return No(scales)
    behind = {s.parameter for s in scales}
    coefficients = tuple(n for n in group.names if n not in behind)
    means = _means_of(group, members, coefficients, behind)
    if isinstance(means, str):
        return No(means)
    parts = ["normal equations"] * bool(coefficients) + ["expected squares"] * bool(scales)
    return kind(group.names, group.sites, " and ".join(parts), means=means, scales=scales)


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


def _means_of(
    group: Group, members: list[AffineFactor], names: tuple[str, ...], scales: set[str]
) -> Means | str:
    """How the other parameters enter the means, or why these are no coefficients."""
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
    by_row = any(m.varies_by_row and m.site not in group.data.summed for m in members)
    if space.size > (COEFFICIENTS if by_row else MOST):
        return f"more than {COEFFICIENTS if by_row else MOST} coefficients"
    found = find_means(group, members, space) if names else Means((), (), (), {})
    if found is not None and max((len(g) for g in found.groups), default=0) > COEFFICIENTS:
        return f"more than {COEFFICIENTS} coefficients in one mean"
    return found or f"the means are not affine in {', '.join(names)} together"
