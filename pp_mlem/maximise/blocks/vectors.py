"""Regressions of vectors: coefficients and covariances of a MultivariateNormal whose mean differs by row.

What is missing of a vector is completed by its mean and covariance given what is seen, at the parameters
before the step; normal equations and expected squares are then those of complete vectors (Little & Rubin 2019,
section 11.4, doi:10.1002/9781119482260).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from pp_mlem.base.no import No
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.base import Factor
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.table import TableFactor
from pp_mlem.marginal.marginal import Natural
from pp_mlem.maximise.blocks.base import Block, Context, Group, Params
from pp_mlem.maximise.blocks.gaussian import Gaussian, Moments, plan_of
from pp_mlem.maximise.blocks.means import arranged
from pp_mlem.potentials.sweep import completed


@dataclass(frozen=True, eq=False)
class Vectors(Gaussian):
    """Sites without real latents, which enter log Z as tables."""

    def members(self, context: Context) -> list[AffineFactor]:
        return [affine_of(f) for f in context.members(self) if isinstance(f, TableFactor)]

    def collect(self, context: Context, params: Params, statistics: Natural) -> dict[str, Moments]:
        """By row: the responsibility, times the expected vector, times its expected square."""
        members = self.members(context)
        parts = arranged(context.reading, members, params, context.data)
        return {
            f.site: _moments(f, parts[f.site], context.data.sites[f.site], statistics[f.site])
            for f in members
        }


def _moments(factor: AffineFactor, parts: tuple, laid: Laid, share: jax.Array) -> Moments:
    """`parts` are those of `AffineFactor.arranged`, `share` the responsibilities (*latents, *plates)."""
    at_zero, _, precision, *_ = parts
    value = laid.value if laid.shift_rows is None else laid.value - laid.shift_rows
    value = _by_plates(factor, value.reshape(value.shape[0], -1, value.shape[-1]))
    weight = share[..., None]
    if laid.mask is not None:
        mask = jnp.broadcast_to(laid.mask, laid.value.shape[1:])
        weight = weight * _by_plates(factor, mask.reshape(1, -1, mask.shape[-1]))[..., 0]
    spread: Any = 0.0
    if laid.patterns is not None:
        seen = _by_plates(factor, laid.patterns.shown.astype(value.dtype))
        whole, spread = completed(precision, 1.0 - seen)
        left = jnp.where(seen > 0, value + at_zero, 0.0)
        value = jnp.squeeze(whole @ left[..., None], -1) - at_zero
    shape = jnp.broadcast_shapes(weight.shape, value.shape[:-1], at_zero.shape[:-1])
    weight = jnp.broadcast_to(weight, shape)
    value = jnp.broadcast_to(value, (*shape, value.shape[-1]))
    squares = value[..., :, None] * value[..., None, :] + spread
    # Summed over rows that share a mean.
    batch = (1,) * (len(shape) - at_zero.ndim + 1) + at_zero.shape[:-1]
    shared = tuple(i for i, (n, size) in enumerate(zip(batch, shape, strict=True)) if n < size)

    def over(array: jax.Array) -> jax.Array:
        return array.sum(shared, keepdims=True).reshape(
            *at_zero.shape[:-1], *array.shape[len(shape) :]
        )

    return Moments(
        over(weight[..., None, None]),
        over((weight[..., None] * value)[..., None]),
        over(weight[..., None, None] * squares),
        over(weight),
    )


def _by_plates(factor: AffineFactor, array: jax.Array) -> jax.Array:
    """(entries, columns, rows) as (*plates, columns, entries)."""
    sizes = [size for _, size, column in factor.layout if not column]
    return jnp.moveaxis(array.reshape(*array.shape[:2], *sizes), (0, 1), (-1, -2))


def affine_of(factor: TableFactor) -> AffineFactor:
    """A site without real latents as a Gaussian that is affine in none."""
    return AffineFactor(**{f.name: getattr(factor, f.name) for f in fields(Factor)})


def plan_vectors(group: Group) -> Block | No:
    """Takes MultivariateNormal sites without real latents, for maximum likelihood."""
    for member in group.members:
        reason = _unfit(group, member)
        if reason is not None:
            return No(reason)
    if group.priors is not None or not group.members:
        return No("")
    members = [affine_of(m) for m in group.members if isinstance(m, TableFactor)]
    return plan_of(Vectors, group, members)


def _unfit(group: Group, member: Any) -> str | None:
    """Why a site is no table of vectors ("": it is not worth telling; None: it is one)."""
    site = group.reading.sites[member.site]
    if not isinstance(member, TableFactor) or site.distribution != "MultivariateNormal":
        return ""
    if member.law_of or member.site not in group.data.sites:
        return ""
    if site.scan:
        return f"'{member.site}' is in a scan"
    if group.reading.one_at_a_time(member.latents):
        return f"'{member.site}' depends on a latent that is gathered"
    depends = group.reading.dependencies[member.site]
    if depends.get("value") or depends.get("mask"):
        return f"the value or mask of '{member.site}' is computed"
    return None
