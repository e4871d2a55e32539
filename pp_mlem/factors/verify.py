"""Checks that a program is read rightly: every site's log density at many values of the latents and
at every prior, as the enumerated tables have it, against NumPyro's own run of the program."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import validation_enabled

from pp_mlem.base.precision import finite_or_minus_inf
from pp_mlem.factors.factor import Factor, log_table, own_density, plan_factors, table_axes
from pp_mlem.factors.gathers import Gathers
from pp_mlem.program.densities import log_density
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.errors import Refused, control_flow_error
from pp_mlem.program.messages import Message
from pp_mlem.program.neutral import neutral_parameters, without_missing
from pp_mlem.program.reading import Reading
from pp_mlem.program.scans.scan import at_step
from pp_mlem.program.sites import Plate, Role
from pp_mlem.program.trace import plain_messages

CONFIGURATIONS = 48  # of the latents, at most; all of them where they are fewer
CELLS = 40_000  # of one site over all configurations


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


def _at_site(
    reading: Reading, factor: Factor, name: str, codes: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, int]]:
    """The codes of a latent at the steps where a factor meets it, and their plate dimensions."""
    latent, site = reading.sites[name], reading.sites[factor.site]
    origin = reading.sites[latent.origin or name]
    full = codes[origin.name]
    if not latent.scan:
        return full, latent.dims
    inner = {p: d for p, d in origin.dims.items() if d != -reading.depth}
    scan = reading.scans[latent.scan]
    if site.scan != latent.scan:
        return full[len(full) - 1 - latent.lag], inner
    over = next((p for p in site.dims if p in (scan.time, scan.rest)), None)
    if over is None:
        return full[site.step - latent.lag], inner
    if over == scan.rest:
        full = full[scan.start - latent.lag : len(full) - latent.lag]
    return full, {over: -reading.depth, **inner}


def _lookup(
    reading: Reading,
    factor: Factor,
    table: np.ndarray,
    codes: dict[str, np.ndarray],
    maps: dict[tuple[str, str], Any],
) -> np.ndarray:
    """Entries of an enumerated table at the given latent codes, over the site's plates."""
    axes = table_axes(reading, factor, table.shape)
    site = reading.sites[factor.site]
    depth = max((-d for d in site.dims.values()), default=0)
    shape = reading.plate_shape(site.dims)
    position = {plate: depth + dim for plate, dim in site.dims.items()}
    index: list[Any] = []
    for axis, name in enumerate(axes):
        if name in reading.sites:
            full, own_dims = _at_site(reading, factor, name, codes)
            code = full.reshape(-1)
            moved = [p for p in own_dims if p not in site.dims]
            if moved:
                child = next(c for c, parent in maps if parent == moved[0] and c in site.dims)
                row = np.asarray(maps[child, moved[0]])
                view = [1] * depth
                view[position[child]] = -1
                index.append(code[row].reshape(view))
            else:
                view = [1] * depth
                for p, dim in own_dims.items():
                    view[position[p]] = full.shape[dim]
                order = sorted(own_dims, key=lambda p: own_dims[p])
                squeezed = full.reshape([full.shape[own_dims[p]] for p in order])
                rank = np.argsort([position[p] for p in order])
                index.append(
                    np.transpose(squeezed, rank).reshape(view) if order else int(full.ravel()[0])
                )
        elif table.shape[axis] == 1:
            index.append(0)
        else:
            if name not in position:
                return np.full(shape, np.nan)  # an axis that no plate of the site explains
            view = [1] * depth
            view[position[name]] = -1
            index.append(np.arange(table.shape[axis]).reshape(view))
    return np.broadcast_to(table[tuple(index)], shape)


@dataclass(frozen=True)
class Difference:
    """A site whose log density is not that of NumPyro, and how it came to light."""

    site: str
    told: str


@dataclass(frozen=True)
class Verification:
    """The check of one reading, compiled once for data of the same shapes."""

    gathers: Gathers
    thin: dict[tuple, Reading] = field(default_factory=dict, compare=False)

    @property
    def reading(self) -> Reading:
        return self.gathers.reading

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.gathers.factors

    @cached_property
    def plain(self) -> tuple[Factor, ...]:
        """Every factor as a table."""
        return tuple(replace(f, kind="table") for f in self.factors)

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
        run = self.gathers.keep("verification", self._densities(reading))
        found, plain = jax.device_get(run(params, filled, values))
        tables = {name: table for name, (table, _) in found["tables"].items()}
        _check_laws(reading, self.plain, tables)
        for factor in self.plain:
            told = _differs(reading, factor, found["tables"][factor.site], plain, codes, maps)
            if told:
                return Difference(factor.site, told)
        for name, density in found["priors"].items():
            theirs = plain[name].reshape(len(plain[name]), -1)
            if theirs.shape[1] != density.size:
                told = f"its prior has {theirs.shape[1]} terms and is read with {density.size}"
                return Difference(name, told)
            if not _close(np.broadcast_to(density.ravel(), theirs.shape), theirs):
                return Difference(name, "its prior depends on latents")
        return None

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
                return _plain_densities(reading, params, dynamic, chosen)

            plain = jax.vmap(one)(values) if values else jax.tree.map(lambda a: a[None], one({}))
            return read(params, dynamic), plain

        return densities


def _plain_densities(
    reading: Reading, params: dict[str, Any], dynamic: tuple, latents: dict[str, Any]
) -> dict[str, Any]:
    """Weighted log densities by site as NumPyro runs the program at these values."""
    given = {**params, **{n: _as_sampled(reading, n, v) for n, v in latents.items()}}
    try:
        messages = plain_messages(reading.arguments, dynamic, given)
    except (AttributeError, NotImplementedError, TypeError, ValueError):  # NumPyro does not run it
        return _own_densities(reading, params, dynamic, latents)
    found: dict[str, Any] = {}
    for name, message in messages.items():
        if message.kind != "sample":
            continue
        scan = next((s for s in reading.scans.values() if name in s.sites), None)
        site = reading.sites.get(scan.names(name)[0] if scan else name, reading.sites.get(name))
        if site is None or site.role is Role.IGNORED:
            continue
        # A masked latent sums to one; NumPyro would add the logarithm of its number of values.
        law = site.role in (Role.LATENT, Role.LAW) and not site.hidden
        fn = unwrap(message.fn).fn if law else message.fn
        with warnings.catch_warnings(), validation_enabled(True):  # else no density is ever zero
            warnings.filterwarnings("ignore", message="Out-of-support")
            density = log_density(fn, message.value)
        if message.scale is not None:
            density = density * message.scale
        if scan is None or site.role is Role.PARAMETER:
            found[name] = density
            continue
        density = density[::-1] if scan.reverse else density
        batch = density.ndim - 1
        ones = (1,) * (reading.depth - 1 - batch)
        density = density.reshape(density.shape[:1] + ones + density.shape[1:])
        if name not in scan.pairs:
            found[name] = density
            continue
        found |= {at_step(name, t): density[t] for t in range(min(scan.start, scan.length))}
        if scan.length > scan.start:
            found[scan.later(name)] = density[scan.start :]
    return found


def _as_sampled(reading: Reading, name: str, value: Any) -> Any:
    """A latent's value as NumPyro holds it: of a state (steps, *plates), nothing between."""
    site = reading.sites[name]
    if not site.scan:
        return value
    inner = max((-d for d in site.dims.values() if d != -reading.depth), default=0)
    return value.reshape(value.shape[:1] + value.shape[value.ndim - inner :])


def _own_densities(
    reading: Reading, params: dict[str, Any], dynamic: tuple, latents: dict[str, Any]
) -> dict[str, Any]:
    """The same by our own run, for programs that NumPyro runs in its enumeration only."""

    def extract(message: Message) -> Any:
        if message.kind != "sample":
            return jnp.zeros(())
        site = reading.sites[message.name]
        scale = 1.0 if message.scale is None else message.scale
        if site.role is Role.PARAMETER:
            return own_density(message, message.value)
        return message.placed(log_table(message, site) * scale)

    found = reading.run(params, dynamic, extract, latents, wide=True)
    return {n: v for n, v in found.items() if n in reading.sites}


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
    reading: Reading,
    factor: Factor,
    read: tuple[np.ndarray, np.ndarray],
    plain: dict[str, np.ndarray],
    codes: dict[str, np.ndarray],
    maps: dict[tuple[str, str], Any],
) -> str:
    """How a site's table at the configurations differs from NumPyro's densities, or nothing."""
    table, scale = read
    impossible = np.isneginf(plain[factor.site]).all(0)  # wrong data: told with their index later
    for i, theirs in enumerate(plain[factor.site]):
        ours = _lookup(reading, factor, table, {n: c[i] for n, c in codes.items()}, maps) * scale
        if theirs.size != ours.size:
            return f"it has {theirs.size} terms and is read with {ours.size}"
        if not _close(np.where(impossible, -np.inf, ours.reshape(theirs.shape)), theirs):
            if any(reading.sites[v].plates for v in factor.latents):
                return "its density at one unit depends on latents of other units"
            return "its density is read otherwise than NumPyro computes it"
    return ""


def _check_laws(reading: Reading, factors: tuple[Factor, ...], tables: dict[str, Any]) -> None:
    """Every latent's probabilities sum to one, and every state of a chain can be reached."""
    supports: dict[str, np.ndarray] = {}
    for factor in factors:
        if not factor.law_of or reading.sites[factor.site].hidden:
            continue
        table = np.asarray(tables[factor.site])
        outer = [s.name for s in reading.slots if s.vmapped and s.name in factor.latents]
        if factor.law_of in outer:
            axis = outer.index(factor.law_of)
        else:
            axis = table.ndim + reading.latent_dim(factor.law_of)
        if axis < 0:
            continue
        total = np.exp(table).sum(axis)
        tolerance = 1e-4 if table.dtype == np.float32 else 1e-6
        if np.any(np.abs(total - 1) > tolerance):
            worst = total.ravel()[np.abs(total - 1).argmax()]
            raise ValueError(
                f"latent '{factor.law_of}': the probabilities of {factor.site} sum to {worst:.6g} "
                "instead of one. Divide each row by its sum, or pass logits=."
            )
        if reading.sites[factor.site].scan:
            moved = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])
            supports[factor.site] = moved > np.log(np.finfo(table.dtype).tiny)
    for scan in reading.scans.values():
        for name in scan.carried:
            begin, moves = supports.get(at_step(name, 0)), supports.get(scan.later(name))
            if scan.start > 1:
                continue
            if begin is None or moves is None or moves.shape[0] != moves.shape[1]:
                continue
            reached = begin.any(0)
            for _ in range(len(reached)):
                reached = reached | moves[reached].any(0)
            if not reached.all():
                states = np.flatnonzero(~reached).tolist()
                warnings.warn(
                    f"state(s) {states} of '{name}' cannot be reached from the first step: what "
                    "depends on them alone does not enter the likelihood. Check the zeros of the "
                    "transition and of the first state's law.",
                    stacklevel=2,
                )


def read_factors(reading: Reading, dynamic: tuple) -> Verification:
    """Plan the factors; latents that broadcasting misreads are enumerated by vmap instead.

    Raises ValueError for a site whose density is not that of NumPyro either way.
    """
    told: Exception | None = None
    try:
        found = Verification(Gathers(reading, plan_factors(reading, dynamic)))
        wrong = found.difference(dynamic)
        if wrong is None:
            return found
        if not reading.latents:
            raise _misread(wrong)
    except Exception as error:  # a program may raise anything where shapes are not its own
        if not reading.latents:
            raise
        told = error if _is_refusal(error) else None
    again = reading.mapped
    try:
        found = Verification(Gathers(again, plan_factors(again, dynamic)))
        wrong = found.difference(dynamic)
    except jax.errors.ConcretizationTypeError as error:
        raise told or control_flow_error([s.name for s in reading.latents], error) from None
    except Exception as error:
        if told or _is_refusal(error):
            raise told or error from None
        raise ValueError(
            f"the program cannot be run with its latents enumerated: {error}. Index parameters by "
            "the latent (mu[z]) or use jnp.where."
        ) from error
    if wrong is not None:
        raise told or _misread(wrong)
    return found


def _is_refusal(error: Exception) -> bool:
    """Whether an error is already told in the program's own words."""
    ours = str(error).startswith(("latent '", "observed site"))
    return isinstance(error, Refused) or (isinstance(error, ValueError) and ours)


def _misread(difference: Difference) -> ValueError:
    """The refusal of a program whose densities are not found again."""
    across = "latents" in difference.told
    remedy = (
        "which no structure can sum. Declare the dependence through plates."
        if across
        else "so the program cannot be read rightly. Write the site with plain arrays and plates."
    )
    return ValueError(f"site '{difference.site}': {difference.told}, {remedy}")
