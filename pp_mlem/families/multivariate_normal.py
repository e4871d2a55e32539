"""MultivariateNormal by covariance, Cholesky factor or precision: statistics 1, x, x x'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from pp_mlem.families.base import Entries, Family, ratio

DIRECT_DIMENSION = 16


class MultivariateNormal(Family):
    """x ~ MultivariateNormal(loc, covariance). Each argument may be shared by entries."""

    distributions = (dist.MultivariateNormal,)
    arguments = {"loc": 1, "covariance_matrix": 2, "scale_tril": 2, "precision_matrix": 2}
    natural_support = {
        "loc": ("real",),
        "covariance_matrix": ("covariance",),
        "scale_tril": ("cholesky",),
        "precision_matrix": ("covariance",),
    }
    scale_arguments = ("covariance_matrix", "scale_tril", "precision_matrix")

    @property
    def event_dim(self) -> int:
        return 1

    def given(self, args):
        derived = "covariance_matrix" in args or "precision_matrix" in args
        return {k: v for k, v in args.items() if not (derived and k == "scale_tril")}

    def shift(self, value: jax.Array, mask: jax.Array) -> jax.Array:
        count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        return jnp.where(mask, value, 0.0).sum(-1, keepdims=True) / count

    def statistics(self, value, known, shift):
        centred = value - shift
        d = value.shape[0]
        quadratic = jnp.concatenate([centred[i] * centred[i:] for i in range(d)])
        return jnp.concatenate([jnp.ones_like(centred[:1]), centred, quadratic])

    def direct_scores(self, natural, value, shift):
        """x'Ax + b'x + c by matrix products: faster than T(x) from some dimension on."""
        d = value.shape[0]
        if d < DIRECT_DIMENSION:
            return None
        centred = value - shift
        rows, columns = np.triu_indices(d)
        half = natural[:, d + 1 :] * np.where(rows == columns, 1.0, 0.5)
        form = jnp.zeros((len(natural), d, d), natural.dtype).at[:, rows, columns].set(half)
        form = form.at[:, columns, rows].set(half)
        products = (form.reshape(-1, d) @ centred).reshape(len(natural), d, -1)
        quadratic = (products * centred).sum(1)
        return quadratic + natural[:, 1 : d + 1] @ centred + natural[:, :1]

    def natural(self, args, shift):
        loc = args["loc"] - shift
        if "scale_tril" in args:
            factor = args["scale_tril"]
        elif "covariance_matrix" in args:
            factor = jnp.linalg.cholesky(args["covariance_matrix"])
        else:
            factor = None
        d = loc.shape[-1]
        if factor is None:
            precision = args["precision_matrix"]
            diagonal = jnp.diagonal(jnp.linalg.cholesky(precision), axis1=-2, axis2=-1)
            half_log_det = -jnp.log(diagonal).sum(-1)
        else:
            eye = jnp.broadcast_to(jnp.eye(d, dtype=factor.dtype), factor.shape)
            inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
            precision = jnp.swapaxes(inverse, -1, -2) @ inverse
            half_log_det = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
        batch = jnp.broadcast_shapes(loc.shape[:-1], precision.shape[:-2])
        linear = jnp.broadcast_to(jnp.squeeze(precision @ loc[..., None], -1), batch + (d,))
        normaliser = -0.5 * (linear * loc).sum(-1) - half_log_det - 0.5 * d * jnp.log(2 * jnp.pi)
        rows, columns = np.triu_indices(d)
        twice = np.where(rows == columns, 0.5, 1.0)
        quadratic = jnp.broadcast_to(-precision[..., rows, columns] * twice, batch + (len(rows),))
        return jnp.concatenate([normaliser[..., None], linear, quadratic], -1)

    def form(self, natural: jax.Array) -> jax.Array:
        """The matrix M (..., D + 1, D + 1) with <natural, T(x)> = -(x, 1)' M (x, 1) / 2."""
        d = event_size(natural.shape[-1])
        rows, columns = np.triu_indices(d)
        entries = -natural[..., d + 1 :] * np.where(rows == columns, 2.0, 1.0)
        form = jnp.zeros((*natural.shape[:-1], d + 1, d + 1), natural.dtype)
        form = form.at[..., rows, columns].set(entries).at[..., columns, rows].set(entries)
        form = form.at[..., :d, d].set(-natural[..., 1 : d + 1])
        form = form.at[..., d, :d].set(-natural[..., 1 : d + 1])
        return form.at[..., d, d].set(-2 * natural[..., 0])

    def closed_form(self, free: frozenset[str]) -> bool:
        return bool(free)

    def maximum(self, entries: Entries) -> dict[str, jax.Array]:
        found = {}
        d = entries.shift.shape[-1]
        s0, s1 = entries.statistics[:, 0], entries.statistics[:, 1 : d + 1]
        rows, columns = np.triu_indices(d)
        upper = entries.statistics[:, d + 1 :]
        s2 = jnp.zeros((len(s0), d, d), upper.dtype).at[:, rows, columns].set(upper)
        s2 = s2.at[:, columns, rows].set(upper)
        shift = entries.shift[0]  # one site, one reference
        matrix = next(
            a for a in self.scale_arguments if a in entries.index or a in entries.constant
        )
        if "loc" in entries.index:
            total = entries.total("loc", s0)[:, None]
            centred = ratio(entries.total("loc", s1), total, entries.current["loc"] - shift)
            found["loc"] = centred + shift
            centre = entries.at_each("loc", centred)
        else:
            centre = entries.value("loc") - shift
        if matrix in entries.index:
            cross = centre[:, :, None] * s1[:, None, :]
            outer = centre[:, :, None] * centre[:, None, :] * s0[:, None, None]
            squares = entries.total(matrix, s2 - cross - jnp.swapaxes(cross, 1, 2) + outer)
            total = entries.total(matrix, s0)[:, None, None]
            covariance = squares / jnp.where(total > 0, total, 1.0)
            spread = jnp.trace(s2.sum(0)) / jnp.maximum(s0.sum(), 1e-30) / d
            eps = jnp.finfo(covariance.dtype).eps
            ridge = 100 * eps * spread * jnp.eye(d, dtype=covariance.dtype)
            factor = jnp.linalg.cholesky(covariance)
            sound = jnp.all(jnp.isfinite(factor), (1, 2), keepdims=True) & (
                jnp.diagonal(factor, axis1=1, axis2=2).min(1)[:, None, None] ** 2 > eps * spread
            )
            covariance = jnp.where(sound, covariance, covariance + ridge)
            if matrix == "covariance_matrix":
                new = covariance
            elif matrix == "scale_tril":
                new = jnp.linalg.cholesky(covariance)
            else:
                factor = jnp.linalg.cholesky(covariance)
                eye = jnp.broadcast_to(jnp.eye(d, dtype=factor.dtype), factor.shape)
                inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
                new = jnp.swapaxes(inverse, 1, 2) @ inverse
            found[matrix] = jnp.where(total > 0, new, entries.current[matrix])
        return found

    def rows_needed(self, event_size: int) -> int:
        return event_size + 1


def event_size(width: int) -> int:
    """The number of entries of a vector that has `width` statistics."""
    return int(np.sqrt(2 * width + 0.25) - 1.5 + 1e-9)
