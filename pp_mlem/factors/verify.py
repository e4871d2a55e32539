"""Checks that a program is read rightly: every site's log density at many values of the latents and
at every prior, as the enumerated tables have it, against NumPyro's own run of the program."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.precision import finite_or_minus_inf
from pp_mlem.factors.affine import AffineFactor
from pp_mlem.factors.affinity import refuse_nonaffine
from pp_mlem.factors.base import Factor
from pp_mlem.factors.carried import CarriedFactor
from pp_mlem.factors.flat import FlatFactor
from pp_mlem.factors.gathers import Gathers
from pp_mlem.factors.laws import check_laws
from pp_mlem.factors.lookup import Configuration
from pp_mlem.factors.plain_run import plain_densities
from pp_mlem.factors.registry import plan_factors
from pp_mlem.factors.table import as_table
from pp_mlem.factors.tables import log_table, own_density
from pp_mlem.program.errors import Refused, SiteValueError, control_flow_error
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Plate, Role

CONFIGURATIONS = 48  # of the latents, at most; all of them where they are fewer
CELLS = 40_000  # of one site over all configurations


@dataclass(frozen=True)
class Difference:
    """A site whose log density is not that of NumPyro, how it came to light, and whether it `mixes`
    latents that no plate connects with it."""

    site: str
    how: str
    mixes: bool = False

    def error(self) -> ValueError:
        """The refusal of a program whose densities are not found again."""
        remedy = (
            "which no structure can sum. Declare the dependence through plates."
            if self.mixes
            else "so the program cannot be read rightly. Write the site with plain arrays and plates."
        )
        return ValueError(f"site '{self.site}': {self.how}, {remedy}")


@dataclass(frozen=True)
class Verification:
    """The check of one reading, compiled once for data of the same shapes; `left` are the values less
    means that it has found at the basis points of real latents."""

    gathers: Gathers
    thin: dict[tuple, Reading] = field(default_factory=dict, compare=False)
    left: dict[str, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def reading(self) -> Reading:
        return self.gathers.reading

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.gathers.factors

    @cached_property
    def plain(self) -> tuple[Factor, ...]:
        """Every factor as a table, but for those that are affine in real latents."""
        return tuple(
            as_table(f)
            for f in self.factors
            if not isinstance(f, (AffineFactor, FlatFactor, CarriedFactor))
        )

    def difference(self, dynamic: tuple) -> Difference | None:
        """None when the tables equal NumPyro's own densities, else the first site that differs.

        Missing cells are filled: what depends on what must not hang on which are missing.
        """
        shapes = tuple(jnp.shape(a) for a in dynamic)
        if shapes not in self.thin:
            self.thin[shapes] = _thinned(self.reading, dynamic)
        reading = self.thin[shapes]
        params = neutral_parameters(reading, 3)
        filled = without_missing(dynamic)
        maps = self.gathers.maps(reading, filled)
        codes = _configurations(reading)
        values = {n: reading.values[n][c] for n, c in codes.items()}
        self.left.update(refuse_nonaffine(reading, self.factors, filled, maps))
        some = max((len(c) for c in codes.values()), default=1)
        for real in reading.reals:  # what other sites are does not hang on them
            values[real.name] = np.zeros((some, *reading.real_shape(real)))
        run = self.gathers.keep("verification", self._densities(reading))
        read, plain = jax.device_get(run(params, filled, values))
        tables = {name: table for name, (table, _) in read["tables"].items()}
        check_laws(reading, self.plain, tables)
        configurations = [
            Configuration(reading, {n: c[i] for n, c in codes.items()}, maps)
            for i in range(len(next(iter(plain.values()), ())))
        ]
        factors = (
            _differs(f, read["tables"][f.site], plain[f.site], configurations) for f in self.plain
        )
        priors = (_prior_differs(n, own, plain[n]) for n, own in read["priors"].items())
        return next((d for d in itertools.chain(factors, priors) if d is not None), None)

    def _densities(self, reading: Reading) -> Callable:
        """(params, data, latents at many configurations) -> tables and priors as they are read;
        and NumPyro's densities by site, one for each configuration."""
        names = frozenset(f.site for f in self.plain)
        wide = frozenset(n for n in names if reading.sites[n].role is Role.OBSERVED)
        priors = frozenset(s.name for s in reading.with_role(Role.PARAMETER) if s.prior)
        outer = [s.name for s in reading.slots if s.vmapped]

        def extract(message: Message) -> Any:
            if message.name in priors:
                return own_density(message, message.value)
            scale = 1.0 if message.scale is None else message.scale
            table = log_table(message, reading.sites[message.name])
            return message.placed(table), message.placed(jnp.asarray(scale, float))

        def read(params: dict, dynamic: tuple) -> dict[str, Any]:
            values = reading.run(
                params, dynamic, extract, wanted=names | priors, wide=wide | priors
            )
            tables = {}
            for factor in self.plain:  # the axes of gathered latents that a factor does not have
                table, scale = values[factor.site]
                for i in reversed(range(len(outer))):
                    if outer[i] not in factor.latents:
                        table = jax.lax.index_in_dim(table, 0, axis=i, keepdims=False)
                tables[factor.site] = table, scale[(0,) * len(outer)]
            own = {n: values[n][(0,) * len(outer)] for n in priors}
            return {"tables": tables, "priors": own}

        def densities(params: dict, dynamic: tuple, values: dict[str, Any]) -> tuple:
            def one(chosen: dict[str, Any]) -> dict[str, Any]:
                return plain_densities(reading, params, dynamic, chosen)

            plain = jax.vmap(one)(values) if values else jax.tree.map(lambda a: a[None], one({}))
            return read(params, dynamic), plain

        return densities


def _thinned(reading: Reading, dynamic: tuple) -> Reading:
    """The reading with the plate sizes of the thinned data."""
    sizes: dict[str, int] = {}
    lengths: dict[str, int] = {}

    def extract(m: Message) -> int:
        site = reading.sites[m.name]
        shape = jnp.broadcast_shapes(
            tuple(m.fn.batch_shape) if m.fn is not None else (),
            jnp.shape(m.value)[: jnp.ndim(m.value) - len(m.fn.event_shape)]
            if m.observed and jnp.size(m.value)
            else (),
        )
        for plate, dim in site.dims.items():
            inside = not (site.scan and dim == -reading.depth)
            if inside and len(shape) >= -dim and shape[dim] > 1:
                sizes[plate] = shape[dim]
        return 0

    params = {s.name: np.ones(s.shape, jnp.result_type(float)) for s in reading.space.sites}
    jax.eval_shape(lambda p, d: reading.run(p, d, extract, lengths=lengths), params, dynamic)
    scans = {n: replace(s, length=lengths[n]) for n, s in reading.scans.items()}
    for scan in scans.values():
        sizes |= {scan.time: scan.length, scan.rest: max(scan.length - scan.start, 0)}
    plates = {
        n: Plate(n, min(p.size, sizes.get(n, p.size)), p.implicit)
        for n, p in reading.plates.items()
    }
    return replace(reading, plates=plates, scans=scans)


def _configurations(reading: Reading) -> dict[str, np.ndarray]:
    """Codes of every latent (configurations, *plates): all of them where they are few."""
    shapes = {s.name: reading.plate_shape(s.dims) for s in reading.latents}
    sizes = {s.name: s.size for s in reading.latents}
    if not shapes:
        return {}
    log_count = sum(float(np.prod(shapes[n])) * np.log(sizes[n]) for n in shapes)
    if log_count <= np.log(CONFIGURATIONS) + 1e-9:
        spaces = [range(sizes[n]) for n in shapes for _ in range(int(np.prod(shapes[n])))]
        rows = np.array(list(itertools.product(*spaces)))
        cuts = np.cumsum([int(np.prod(shapes[n])) for n in shapes])[:-1]
        parts = np.split(rows, cuts, axis=1)
        return {n: p.reshape(-1, *shapes[n]) for n, p in zip(shapes, parts, strict=True)}
    rng = np.random.default_rng(7)
    most = max(
        np.prod([float(reading.plates[p].size) for p in s.plates] or [1.0])
        for s in (*reading.laws, *reading.observed)
    )
    many = int(np.clip(CELLS // most, 3, CONFIGURATIONS))
    return {n: rng.integers(0, sizes[n], (many, *shapes[n])) for n in shapes}


def _close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    exact = ours.dtype == np.float64
    relative, absolute = (1e-6, 1e-8) if exact else (1e-3, 1e-3)
    return np.allclose(
        finite_or_minus_inf(ours), theirs, rtol=relative, atol=absolute, equal_nan=True
    )


def _differs(
    factor: Factor,
    read: tuple[np.ndarray, np.ndarray],
    plain: np.ndarray,
    configurations: list[Configuration],
) -> Difference | None:
    """How a site's table at the configurations differs from NumPyro's densities, if it does."""
    table, scale = read
    impossible = np.isneginf(plain).all(0)  # wrong data: told with their index later
    for configuration, theirs in zip(configurations, plain, strict=True):
        ours = configuration.entries(factor, table) * scale
        if theirs.size != ours.size:
            how = f"it has {theirs.size} terms and is read with {ours.size}"
            return Difference(factor.site, how)
        if not _close(np.where(impossible, -np.inf, ours.reshape(theirs.shape)), theirs):
            sites = configuration.reading.sites
            if any(sites[v].plates for v in factor.latents):
                how = "its density at one unit depends on latents of other units"
                return Difference(factor.site, how, mixes=True)
            return Difference(factor.site, "its density is read otherwise than NumPyro computes it")
    return None


def _prior_differs(name: str, density: np.ndarray, plain: np.ndarray) -> Difference | None:
    theirs = plain.reshape(len(plain), -1)
    if theirs.shape[1] != density.size:
        how = f"its prior has {theirs.shape[1]} terms and is read with {density.size}"
        return Difference(name, how)
    if not _close(np.broadcast_to(density.ravel(), theirs.shape), theirs):
        return Difference(name, "its prior depends on latents", mixes=True)
    return None


def read_factors(reading: Reading, dynamic: tuple) -> Verification:
    """Plan the factors; latents that broadcasting misreads are enumerated by vmap instead.

    Raises ValueError for a site whose density is not that of NumPyro either way.
    """
    if reading.reals and reading.slim:
        try:
            return _read_factors(reading, dynamic)
        except Exception:  # a program may need every unit's own value; else it is refused again
            reading = replace(reading, slim=False)
    return _read_factors(reading, dynamic)


def _read_factors(reading: Reading, dynamic: tuple) -> Verification:
    refusal: Exception | None = None
    try:
        verification, difference = _verified(reading, dynamic)
        if difference is None:
            return verification
        if not reading.latents:
            raise difference.error()
    except Exception as error:  # a program may raise anything where shapes are not its own
        if not reading.latents:
            raise
        refusal = error if isinstance(error, (Refused, SiteValueError)) else None
    try:
        verification, difference = _verified(reading.mapped, dynamic)
    except jax.errors.ConcretizationTypeError as error:
        raise refusal or control_flow_error([s.name for s in reading.latents], error) from None
    except Exception as error:
        if refusal or isinstance(error, (Refused, SiteValueError)):
            raise refusal or error from None
        raise ValueError(
            f"the program cannot be run with its latents enumerated: {error}. Index parameters by "
            "the latent (mu[z]) or use jnp.where."
        ) from error
    if difference is not None:
        raise refusal or difference.error()
    return verification


def _verified(reading: Reading, dynamic: tuple) -> tuple[Verification, Difference | None]:
    verification = Verification(Gathers(reading, plan_factors(reading, dynamic)))
    return verification, verification.difference(dynamic)
