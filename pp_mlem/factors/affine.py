"""Affine factors: a Normal or MultivariateNormal whose mean is affine in real latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.no import No
from pp_mlem.factors.axes import drop_outer, of_rank, table_axes
from pp_mlem.factors.base import Factor, Plates, Probe, common
from pp_mlem.factors.laid import Laid
from pp_mlem.factors.partly import quadratic_of_partly
from pp_mlem.factors.pieces import EVENT, Form, Pieces
from pp_mlem.factors.summed import Summed, natural
from pp_mlem.potentials.quadratic import Coordinates
from pp_mlem.potentials.rows import COLUMNS
from pp_mlem.potentials.table import Table
from pp_mlem.program.bindings import own_arguments
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.errors import SiteValueError, UnderMask
from pp_mlem.program.interleaved import is_unobserved
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.roles import not_exact


@dataclass(frozen=True, eq=False)
class AffineFactor(Factor):
    """A Normal or MultivariateNormal whose mean is affine in the real latents `coordinates`: with the value
    x and the coordinates u the statistics are 1, x, x x', u, u u', u x'.

    A latent's own law is one too, its value among the coordinates instead of the data. Natural parameters
    are (*latents, *plates, columns, F), in the order of `Pieces`.
    """

    coordinates: Coordinates = ()
    own: str = ""  # the real latent whose law it is; `law_of` is for finite ones
    as_rows: bool = False  # it is seen along a scan that carries its latents: see `potentials.rows`
    kind = "affine"
    of_family = False
    by_step = False
    by_points = True

    @classmethod
    def read(cls, probe: Probe) -> Factor | No:
        reading, site = probe.reading, probe.site
        reals = {s.name: s for s in reading.coordinates}
        touched = [n for n in probe.latents if n in reals]
        if not touched:
            return No("")  # no real latent enters it
        _refuse_switching(probe, touched)
        wrong = _wrong(probe, frozenset(touched))
        if wrong:
            how = f"where it enters '{site.origin or site.name}', {wrong}"
            raise SiteValueError(refusal(reading, touched, how))
        coordinates = tuple((n, reals[n].size) for n in touched)
        return cls(
            **common(probe, frozenset())
            | {"family": probe.family, "law_of": "", "own": site.law_of},
            varies_by_row=bool(probe.varying),
            reason=f"affine in {', '.join(touched)}",
            coordinates=coordinates,
            as_rows=_along(probe, touched),
        )

    def natural(self, reading: Reading, message: Message, shift: Any) -> Any:
        """The reference point less the mean, the precision and the normaliser at one value of the real
        latents: (*latents, *plates, *columns, *event) and so on."""
        # A latent under a mask keeps its law: with its observations hidden as well it integrates to one.
        law = unwrap(message.fn)
        if self.own and (law.hidden or (law.wrapped and is_unobserved(self.own))):
            raise UnderMask(
                f"latent '{self.own}' is under a mask that hides its law, so that nothing integrates it. Take the "
                "mask off it and leave it over its observations.",
                self.own,
            )
        arguments, columns = own_arguments(message), reading.sites[self.site].columns
        if self.own:
            left = jnp.asarray(message.value) - arguments["loc"]
        else:
            left = -arguments["loc"] if shift is None else shift - arguments["loc"]
        if "scale" in arguments:
            scale = arguments["scale"]
            normaliser = jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi)
            return tuple(message.placed(a, columns) for a in (left, scale**-2, normaliser, scale))
        precision, half_log_det, root = _precision(arguments)
        size = left.shape[-1]
        normaliser = half_log_det + 0.5 * size * jnp.log(2 * jnp.pi)
        found = (left, 1), (precision, 2), (normaliser, 0), (root, 2)
        return tuple(message.placed(a, columns + event) for a, event in found)

    def canonical(
        self, reading: Reading, probed: tuple[Any, Any, Any, Any], summed: Summed | None = None
    ) -> jax.Array:
        """Natural parameters from what is left at the basis points, those of a site that is `summed` over
        its rows without them."""
        if summed is not None:
            features, precision, normaliser = self.features(reading, probed, summed)
            return natural(features, precision, normaliser)
        at_zero, moves, precision, normaliser, root = self.arranged(reading, probed)
        weighed = precision @ moves
        origin = jnp.squeeze(precision @ at_zero[..., None], -1)
        parts = [
            jnp.swapaxes(moves, -1, -2) @ weighed,
            jnp.squeeze(jnp.swapaxes(moves, -1, -2) @ origin[..., None], -1),
            (at_zero * origin).sum(-1),
            normaliser,
        ]
        parts += [-at_zero, moves, root] if self.own else [weighed, origin, precision]
        parts += [at_zero, moves, root] if self.as_rows else []
        batch = normaliser.shape
        return jnp.concatenate([p.reshape(*batch, -1) for p in parts], -1)

    def arranged(
        self, reading: Reading, probed: tuple[Any, Any, Any, Any]
    ) -> tuple[jax.Array, ...]:
        """What is left of the value at latents of zero (*latents, *plates, columns, D), how the latents
        move it (..., D, L), its precision (..., D, D), the normaliser and a root of the covariance."""
        vector = self.family.event_dim if self.family is not None else 0
        residual, precision, normaliser, root = self._of_rank(reading, probed, vector)
        batch = jnp.broadcast_shapes(
            residual.shape[1 : residual.ndim - vector],
            precision.shape[1 : precision.ndim - 2 * vector],
            normaliser.shape[1:],
        )
        site = reading.sites[self.site]
        columns = site.event_shape[: site.columns] if self.own else self.column_shape
        lead, count = batch[: max(len(batch) - len(columns), 0)], int(np.prod(columns))
        batch = (*lead, *jnp.broadcast_shapes(batch[len(lead) :], columns))
        event = residual.shape[residual.ndim - vector :]
        ones = (1,) * (len(batch) - (residual.ndim - 1 - vector))
        residual = residual.reshape(len(residual), *ones, *residual.shape[1:])
        residual = jnp.broadcast_to(residual, (len(residual), *batch, *event))
        precision = jnp.broadcast_to(precision[0], (*batch, *event, *event))
        normaliser = jnp.broadcast_to(normaliser[0], batch)
        root = jnp.broadcast_to(root[0], (*batch, *event, *event))
        if not vector:
            residual, precision = residual[..., None], precision[..., None, None]
            root = root[..., None, None]
        at_zero = residual[0]
        moves = jnp.moveaxis(residual[self.places(reading)] - at_zero, 0, -1)
        found = at_zero, moves, precision, normaliser, root
        return tuple(a.reshape(*lead, count, *a.shape[len(batch) :]) for a in found)

    def features(
        self, reading: Reading, probed: tuple[Any, Any, Any, Any], summed: Summed
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Coefficients of the features of a summed site (columns, D, features), its precision and its
        normaliser."""
        at_zero, moves, precision, normaliser, _ = self.arranged(reading, probed)
        first = (0,) * (at_zero.ndim - 2)
        found = summed.compact(self.over_rows(at_zero, 2), self.over_rows(moves, 3))
        return found, precision[first], normaliser[first]

    def over_rows(self, array: jax.Array, trailing: int) -> jax.Array:
        """(*plates, ...) with so many dimensions after the plates as (rows, ...)."""
        lead = array.ndim - trailing
        plates = [size for _, size, column in self.layout if not column]
        wide = array.reshape((1,) * (len(plates) - lead) + array.shape)
        rest = array.shape[lead:]
        return jnp.broadcast_to(wide, (*plates, *rest)).reshape(-1, *rest)

    def _of_rank(
        self, reading: Reading, probed: tuple[Any, Any, Any, Any], vector: int
    ) -> list[jax.Array]:
        """What was probed, (points, *gathered latents of its own, *batch, *event), all with as many
        dimensions of the batch."""
        outer = 1 + sum(s.vmapped and s.name in self.latents for s in reading.slots)
        drop = jax.vmap(lambda a: drop_outer(reading, self.latents, a))
        own = [drop(a) for a in probed]
        events = vector, 2 * vector, 0, 2 * vector
        columns = reading.sites[self.site].columns
        rank = max(columns, *(a.ndim - outer - event for a, event in zip(own, events, strict=True)))
        ranks = [outer + rank + event for event in events]
        return [of_rank(a, n, outer) for a, n in zip(own, ranks, strict=True)]

    def for_value(self, eta: jax.Array) -> jax.Array:
        """Without the canonical part where the rest says the same: a law's mean, slope and root, or rows."""
        count = self.repeated
        if not count:
            return eta
        return jnp.concatenate([jnp.zeros_like(eta[..., :count]), eta[..., count:]], -1)

    def for_statistics(self, eta: jax.Array) -> jax.Array:
        """The same as it is, and a canonical part of no value whose derivatives are the statistics."""
        count = self.repeated
        if not count:
            return eta
        canonical, rest = eta[..., :count], jax.lax.stop_gradient(eta[..., count:])
        return jnp.concatenate([canonical - jax.lax.stop_gradient(canonical), rest], -1)

    @property
    def repeated(self) -> int:
        """How many natural parameters are a canonical part that the rest repeats."""
        if self.own:
            return self.count
        return self.count + sum(n for _, n in self.coordinates) + 2 if self.as_rows else 0

    @property
    def count(self) -> int:
        """How many natural parameters are of its latents alone, a law's canonical ones."""
        size = sum(n for _, n in self.coordinates)
        return size * (size + 1) + 2

    def places(self, reading: Reading) -> np.ndarray:
        """The numbers of its coordinates among the basis points."""
        return coordinate_places(reading, self.coordinates)

    def term(
        self, reading: Reading, eta: jax.Array, laid: Laid | None, reduce: bool
    ) -> tuple[Any, Plates]:
        finite = tuple(n for n in self.latents if not reading.sites[n].real)
        axes = table_axes(reading, self.site, finite, eta.shape[:-2])
        size = sum(n for _, n in self.coordinates)
        event = self.event_size if self.family and self.family.event_dim else 1
        pieces = Pieces.of(eta, axes, Form(size, event, bool(self.own), self.as_rows))
        if self.own or laid is None:
            return pieces.of_law(self.own, self.coordinates), self.term_plates
        sizes = [size for name, size, column in self.layout if not column and size > 1]
        rows = laid.value.shape[-1:] if len(sizes) == 1 else tuple(sizes)
        count = eta.shape[-2]
        if laid.patterns is not None:
            seen = jnp.broadcast_to(laid.mask, laid.value.shape[1:]).reshape(count, -1)
            plates, named = dict(zip(self.rows, rows, strict=True)), (*axes, COLUMNS, EVENT)
            return quadratic_of_partly(
                Table.of(eta, named), self.event_size, self.coordinates, laid.patterns, seen, plates
            ), self.term_plates
        mask = None if laid.mask is None else jnp.broadcast_to(
            laid.mask, (*self.column_shape, laid.mask.shape[-1])
        ).reshape(count, *rows)  # fmt: skip
        value = laid.value if laid.shift_rows is None else laid.value - laid.shift_rows
        value = Table(value.reshape(-1, count, *rows), (EVENT, COLUMNS, *self.rows))
        shown = None if mask is None else Table(mask.astype(eta.dtype), (COLUMNS, *self.rows))
        found = pieces.of_data(self.coordinates, value, shown)
        return pieces.of_rows(found, value, shown) if self.as_rows else found, self.term_plates

    def told(self) -> str:
        return f"quadratic: {self.reason}"


def coordinate_places(reading: Reading, coordinates: Coordinates) -> np.ndarray:
    """The numbers of these coordinates among the points of `basis`."""
    if not coordinates:
        return np.zeros(0, int)
    ends = np.cumsum([s.size for s in reading.coordinates])
    begin = {s.name: end - s.size for s, end in zip(reading.coordinates, ends, strict=True)}
    return np.concatenate([begin[n] + 1 + np.arange(size) for n, size in coordinates])


def basis(
    reading: Reading, origins: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, jax.Array]:
    """Values of all real latents at zero and with one coordinate at one, in every unit: (points,
    *`Reading.probe_shape`) each; from their `origins`, where they have any."""
    total = sum(s.size for s in reading.coordinates)
    points, begin = {}, 0
    for site in reading.coordinates:
        values = np.zeros((1 + total, site.size))
        values[1 + begin : 1 + begin + site.size] = np.eye(site.size)
        begin += site.size
        whole = reading.probe_shape(site)
        ones = (1,) * (len(whole) - len(site.event_shape))
        shape = (1 + total, *ones, *site.event_shape)
        wide = np.broadcast_to(values.reshape(shape), (1 + total, *whole))
        points[site.name] = jnp.asarray(wide, jnp.result_type(float)) + origins.get(site.name, 0.0)
    return points


def at_basis(
    function: Callable[[dict[str, Any]], Any], reading: Reading, origins: Mapping[str, Any]
) -> Any:
    """A function of the real latents at their basis points, which lead; of a program without them at one."""
    if not reading.coordinates:
        return jax.tree.map(lambda a: a[None], function({}))
    return jax.vmap(function)(basis(reading, origins))


def _wrong(probe: Probe, reals: frozenset[str]) -> str:
    """Why a site is no affine Gaussian in these latents ("": it is one)."""
    site, depends = probe.site, probe.depends
    if probe.family is None or site.distribution not in ("Normal", "MultivariateNormal"):
        article = "an" if site.distribution[0] in "AEIOU" else "a"
        return "a numpyro.factor" if site.is_factor else f"{article} {site.distribution}"
    outside = [n for n in reals if probe.reading.sites[n].scan not in ("", site.scan)]
    if outside:
        return "outside of the scan in whose body it is sampled: put that site into the body"
    if depends.get("value"):
        return (
            "whose observed value is computed (to fill in missing cells, pass the data with NaN to the "
            f'site itself, obs=..., and name it: Model(..., latents={{"{site.name}"}}))'
        )
    if depends.get("mask"):
        return f"whose mask depends on {', '.join(sorted(depends['mask']))}"
    for part, above in depends.items():
        if part not in ("argument loc", "all", "log_prob") and reals & above:
            return f"by its {part.removeprefix('argument ')}"
    return ""


def _along(probe: Probe, touched: list[str]) -> bool:
    """Whether a scalar Normal is seen along a scan that carries what it reads."""
    site, sites = probe.site, probe.reading.sites
    scan = probe.reading.scans.get(site.scan)
    if scan is None or site.law_of or site.distribution != "Normal":
        return False
    own = {*scan.movers, scan.carry}
    return bool(own & set(touched)) and all(n in own or not sites[n].scan for n in touched)


def refusal(reading: Reading, names: Iterable[str], how: str) -> str:
    """Why real latents, or what a scan carries of them, are not integrated out, and what to do."""
    movers = {s.carry: sorted(s.movers) for s in reading.scans.values()}
    told = list(dict.fromkeys(m for n in names for m in movers.get(n, [n])))
    first = reading.sites[told[0]]
    return not_exact(first.name, first.reason, told, how)


def _refuse_switching(probe: Probe, touched: list[str]) -> None:
    """A finite latent of a step cannot choose among laws of what is carried on."""
    sites, scans = probe.reading.sites, probe.reading.scans.values()
    finite = [sites[n].origin or n for n in probe.latents if not sites[n].real and sites[n].scan]
    movers = frozenset().union(*(s.movers for s in scans))
    carried = [n for n in touched if n in movers]
    carried += [n for s in scans if s.carry in touched for n in sorted(s.movers)]
    if finite and carried:
        raise SiteValueError(
            f"site '{probe.site.origin or probe.site.name}': the finite latent '{finite[0]}' of a step chooses among "
            f"Gaussians of the real state '{carried[0]}', which is carried on. What is known of the state is then "
            f"a mixture of more Gaussians at every step, which no structure sums. Pass the values of '{finite[0]}' "
            "to the program as data, sample it outside of the scan, once for the whole sequence, or estimate the values "
            f'of the state with Model(..., parameters={{"{carried[0]}"}}).'
        )


def _precision(arguments: dict[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(precision, half the log determinant, a root) of the covariance of a MultivariateNormal."""
    if "precision_matrix" in arguments:
        precision = arguments["precision_matrix"]
        lower = jnp.linalg.cholesky(precision)
        eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
        inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
        diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
        return precision, -jnp.log(diagonal).sum(-1), jnp.swapaxes(inverse, -1, -2)
    lower = arguments.get("scale_tril")
    if lower is None:
        lower = jnp.linalg.cholesky(arguments["covariance_matrix"])
    eye = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    half_log_det = jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(-1)
    return jnp.swapaxes(inverse, -1, -2) @ inverse, half_log_det, lower
