"""Random programs with real latents in plates, as readable NumPyro source.

As in `programs`, every choice is one small integer and nothing here knows what pp_mlem can do: random
intercepts and slopes, vectors with any covariance, chains of latents, loadings, known covariates,
gathers, nested and crossed plates, finite latents above and beside, flat coefficients, missing cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from programs import Latent, Program, Writer


@dataclass(frozen=True)
class GaussianProgram(Program):
    """A program, and the real latents that are named to the model."""

    latents: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return super().source + f"\nLATENTS = {set(self.latents) or '{}'}\n"


@dataclass
class Place:
    """Where sites stand: the plates that are opened, the frame of arguments, and what is read there: real
    latents as (expression, size; 0 for a number), finite ones."""

    opened: list[str]
    frame: tuple[int, ...]
    reals: list[tuple[str, int]] = field(default_factory=list)
    finite: list[Latent] = field(default_factory=list)

    @property
    def cells(self) -> int:
        return int(np.prod(self.frame))


class GaussianWriter(Writer):
    """Writes laws of real latents and observations that are affine in them."""

    def __init__(self, below: Callable[[int], int]) -> None:
        super().__init__(below)
        self.named: list[str] = []
        self.configurations = 1.0
        self.mixed = False  # a finite latent stands below a real one: a mixture over it

    # --- expressions ----------------------------------------------------------------------------

    def entry(self, place: Place, real: tuple[str, int]) -> str:
        """A number that is linear in a latent."""
        name, size = real
        form = self.below(8)
        covariate = f"{self.covariate(place.frame)}" if place.frame else "0.7"
        if size:
            if form == 0:
                return f"{name} @ {self.real(size)}"
            if form == 1:
                return f"({name} * {self.covariate((*place.frame, size))}).sum(-1)"
            if form == 2:
                return f"{name}[..., 0] + {covariate} * {name}[..., 1]"
            if form == 3:
                return f"{name}[..., {self.below(size)}]"
            if form == 4 and place.finite:
                z = place.finite[-1]
                return f"({name} * {self.real(z.size, size)}[{z.index}]).sum(-1)"
            return f"{self.real()} * {name}[..., 0] - {name}[..., 1]"
        if form == 0:
            return f"{self.real()} * {name}"
        if form == 1:
            return f"{covariate} * {name}"
        if form == 2 and place.finite:
            z = place.finite[-1]
            return f"{self.real(z.size)}[{z.index}] * {name}"
        if form == 3:
            return f"jnp.exp(-{self.positive()} * {covariate}) * {name}"
        if form == 4:
            return f"{self.one('0.5', '-1.2', '2')} * {name}"
        if form == 5:
            return f"{name} / {self.positive()}"
        return name

    def predictor(self, place: Place, most: int, needed: bool = False) -> str:
        """A mean: fixed effects, then latents."""
        terms = []
        if self.chance(70):
            terms.append(self.a_real(place.finite[-1:] if self.chance(50) else [], place.frame))
        reads = self.some(place.reals, most)
        if needed and not reads and place.reals:
            reads = place.reals[-1:]
        terms += [self.entry(place, r) for r in reads]
        return " + ".join(terms) or "0.0"

    def columns(self, place: Place, size: int) -> str:
        """A mean of several columns: intercepts, and latents by their loadings."""
        z = place.finite[-1] if place.finite and self.chance(60) else None
        sizes, where = ((z.size,), f"[{z.index}]") if z else ((), "")
        level = f"{self.real(*sizes, size)}{where}" if self.chance(80) else f"jnp.zeros({size})"
        terms = [level]
        for name, own in self.some(place.reals, 2) or place.reals[-1:]:
            form = self.below(3)
            if own:
                loading = self.real(*sizes, size, own) + where
                if z:
                    terms.append(f"({loading} @ {name}[..., None])[..., 0]")
                elif form == 0:
                    terms.append(f"{name} @ {loading}.T")
                else:
                    terms.append(f"({name}[..., None, :] * {loading}).sum(-1)")
            elif form == 0 and place.frame:
                known = self.covariate((*place.frame, size))
                terms.append(f"{name}[..., None] * {known}")
            elif form == 1:
                terms.append(f"{name}[..., None]")
            else:
                terms.append(f"{name}[..., None] * {self.real(*sizes, size)}{where}")
        return " + ".join(terms)

    def spread(self, place: Place) -> str:
        """A positive number: known, estimated, of a finite latent, of a covariate."""
        form = self.below(6)
        if form == 0:
            return self.one("1.0", "0.6", "1.4")
        if form == 1 and place.frame:
            return self.argument("e", np.round(np.exp(self.rng.normal(size=place.frame) * 0.4), 3))
        if form == 2 and place.finite:
            z = place.finite[-1]
            return f"{self.positive(z.size)}[{z.index}]"
        if form == 3 and place.frame:
            return f"{self.positive()} * jnp.exp({self.real(spread=0.3)} * {self.covariate(place.frame)})"
        return self.positive()

    def matrix(self, place: Place, size: int) -> str:
        """An argument of a covariance that is positive definite at all parameters."""
        form = self.below(7)
        if form == 0:
            return f"covariance_matrix={self.positive()} * jnp.eye({size}) + {self.positive()}"
        if form == 1:
            lags = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
            known = f"jnp.array({lags.tolist()})"
            return f"covariance_matrix={self.positive()} * {self.unit()} ** {known}"
        if form == 2:
            root = np.round(np.tril(self.rng.normal(size=(size, size))), 2)
            root[np.diag_indices(size)] = np.abs(root.diagonal()) + 0.5
            return f"scale_tril=jnp.array({root.tolist()})"
        if form == 3:
            root = self.real(size, size, spread=0.4)
            return f"precision_matrix=jnp.eye({size}) + {root} @ {root}.T"
        if form == 4 and place.finite:
            z = place.finite[-1]
            wide = f"{self.positive(z.size)}[{z.index}]"
            return f"covariance_matrix={wide}[..., None, None] * jnp.eye({size}) + 0.3"
        if form == 5:
            root = self.fresh("r")
            raw = np.tril(self.rng.normal(size=(size, size)))
            raw[np.diag_indices(size)] = np.abs(raw.diagonal()) + 0.7
            self.params[root] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
            self.head.append(f'{root} = numpyro.sample("{root}", dist.LKJCholesky({size}, 1.5))')
            return f"scale_tril={self.positive(size)}[:, None] * {root}"
        loading = self.real(size)
        return f"covariance_matrix=jnp.eye({size}) + jnp.outer({loading}, {loading})"

    # --- sites --------------------------------------------------------------------------------------

    def opened(self, place: Place) -> None:
        for i, line in enumerate(place.opened):
            self.indent = 1 + i
            self.line(line)
        self.indent = 1 + len(place.opened)

    def real_latent(self, place: Place) -> tuple[str, int]:
        """A latent's own line, and how it is read: (expression, size)."""
        name = self.fresh("u")
        size = self.one(0, 0, 0, 2, 2, 3)
        form = self.below(6)
        if form == 0:  # not centred
            self.named.append(name)
            law = f"dist.Normal(0, 1){f'.expand([{size}]).to_event(1)' if size else ''}"
            self.line(f'{name} = numpyro.sample("{name}", {law})')
            if size and self.chance(50):
                root = self.real(size, size, spread=0.7)
                text = f"{name} @ {root}.T"
            elif size:
                text = f"{self.positive(size)} * {name}"
            else:
                text = f"{self.predictor(place, 1)} + {self.positive()} * {name}"
            made = self.fresh("v")
            self.line(f"{made} = {text}")
            return made, size
        if not size:
            law = f"dist.Normal({self.predictor(place, 2)}, {self.spread(place)})"
        elif form in (1, 2):
            scale = self.one("1.0", f"{self.positive()}", f"{self.positive(size)}")
            law = f"dist.Normal({self.columns(place, size)}, {scale}).to_event(1)"
            if law.startswith("dist.Normal(jnp.zeros") and self.chance(50):
                law = f"dist.Normal(0.0, {self.positive()}).expand([{size}]).to_event(1)"
        else:
            law = (
                f"dist.MultivariateNormal({self.columns(place, size)}, {self.matrix(place, size)})"
            )
        self.named.append(name)
        self.line(f'{name} = numpyro.sample("{name}", {law})')
        return name, size

    def data(self, shape: tuple[int, ...], joint: bool) -> str:
        values = np.round(self.rng.normal(size=shape) * 1.5, 2)
        if not joint and shape and self.chance(25):
            values[self.rng.random(shape) < 0.3] = np.nan
        return self.argument("y", values)

    def seen(self, place: Place, needed: bool = False) -> None:
        """One observed site."""
        form = self.below(10)
        joint = form in (7, 8)
        size = self.one(2, 3)
        if form < 6:
            law = f"dist.Normal({self.predictor(place, 3, needed)}, {self.spread(place)})"
            shape = place.frame
        elif form == 6 or form == 9:
            scale = self.one("0.8", self.positive(size))
            law = f"dist.Normal({self.columns(place, size)}, {scale}).to_event(1)"
            shape = (*place.frame, size)
        else:
            law = (
                f"dist.MultivariateNormal({self.columns(place, size)}, {self.matrix(place, size)})"
            )
            shape = (*place.frame, size)
        name = self.data(shape, joint)
        text = f'numpyro.sample("{name}", {law}, obs={name})'
        if place.frame and self.chance(10):
            mask = self.argument("mask", self.rng.random(place.frame) < 0.7)
            self.line(f"with handlers.mask(mask={mask}):")
            text = "    " + text
        self.line(text)

    def finite_latent(self, place: Place) -> None:
        """A class of every unit of the place."""
        size = 2 if self.chance(70) else 3
        if self.configurations * float(size) ** place.cells > 90:
            return
        self.configurations *= float(size) ** place.cells
        name = self.fresh("z")
        self.latent_line(name, f"dist.Categorical({self.categories([], size)})")
        place.finite.append(Latent(name, size, 0))
        self.mixed = self.mixed or bool(place.reals)

    def one_finite(self, place: Place) -> None:
        if place.frame and self.chance(25):
            self.finite_latent(place)

    def done(self, kind: str, refusable: bool = False) -> GaussianProgram:
        base = self.finish(kind, refusable)
        return GaussianProgram(
            kind, base.text, base.arguments, base.params, {}, refusable, None, tuple(self.named)
        )


def by_group(below: Callable[[int], int]) -> GaussianProgram:
    """Groups gathered into rows, one or two groupings (crossed), groups of groups, unsorted or empty."""
    w = GaussianWriter(below)
    sizes = [w.one(3, 2, 4, 1), w.one(2, 3)]
    rows = w.one(6, 5, 8)
    top = Place([], ())
    if w.chance(25):  # coefficients of a restricted likelihood
        w.line(
            'flat1 = numpyro.sample("flat1", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))'
        )
        w.named.append("flat1")
        flat = True
    else:
        flat = False
        if w.chance(25):
            top.reals.append(w.real_latent(top))
    groups = Place([f'with numpyro.plate("groups", {sizes[0]}):'], (sizes[0],), list(top.reals))
    above = None
    if w.chance(25):
        above = Place(['with numpyro.plate("above", 2):'], (2,), list(top.reals))
        w.opened(above)
        w.one_finite(above)
        above.reals.append(w.real_latent(above))
        index = w.argument("of", w.rng.integers(0, 2, sizes[0]))
        groups.reals = list(top.reals) + [
            (f"{n}[{index}]", s) for n, s in above.reals[len(top.reals) :]
        ]
    w.opened(groups)
    if not groups.reals and not flat or w.chance(15):
        w.one_finite(groups)
        w.mixed = w.mixed or flat and bool(groups.finite)
    own = len(groups.reals)
    for _ in range(1 + w.chance(35)):
        groups.reals.append(w.real_latent(groups))
    if w.chance(25):
        w.seen(groups)
    inside = Place([f'with numpyro.plate("rows", {rows}):'], (rows,), list(top.reals))
    crossed = w.chance(30)
    index = w.argument("g", w.rng.integers(0, sizes[0], rows))
    inside.reals += [(f"{n}[{index}]", s) for n, s in groups.reals[own:]]
    if groups.finite and w.chance(50):
        z = groups.finite[-1]
        inside.finite.append(Latent(z.name, z.size, 0, 0, index))
    if crossed:
        other = Place([f'with numpyro.plate("others", {sizes[1]}):'], (sizes[1],), list(top.reals))
        w.opened(other)
        second = w.real_latent(other)
        index = w.argument("h", w.rng.integers(0, sizes[1], rows))
        inside.reals.append((f"{second[0]}[{index}]", second[1]))
    w.opened(inside)
    if w.chance(25):
        inside.reals.append(w.real_latent(inside))
    elif w.chance(5):
        w.one_finite(inside)
    _observe(w, inside, flat)
    finite = groups.finite + (above.finite if above else [])
    return w.done("by_group", w.mixed or bool(finite) and (crossed or flat))


def _observe(w: GaussianWriter, place: Place, flat: bool) -> None:
    for i in range(1 + w.chance(30)):
        if flat and not i:
            known = w.covariate(place.frame)
            mean = f"flat1[0] + flat1[1] * {known} + {w.predictor(place, 3, True)}"
            name = w.argument("y", np.round(w.rng.normal(size=place.frame) * 1.5, 2))
            w.line(f'numpyro.sample("{name}", dist.Normal({mean}, {w.spread(place)}), obs={name})')
        else:
            w.seen(place, needed=True)


def in_frames(below: Callable[[int], int]) -> GaussianProgram:
    """Plates inside of plates, latents and observations at every level, finite ones too."""
    w = GaussianWriter(below)
    depth = w.one(1, 2, 2, 1, 3)
    sizes = [w.one(3, 4, 1)] if depth == 1 else [w.one(2, 3, 1), w.one(2, 3)] + [2] * (depth - 2)
    place = Place([], ())
    if w.chance(30):
        place.reals.append(w.real_latent(place))
    for level in range(1, depth + 1):
        dim = f", dim={level - 1 - depth}"
        w.indent = level
        w.line(f'with numpyro.plate("plate{level}", {sizes[level - 1]}{dim}):')
        w.indent = level + 1
        frame = tuple(sizes[:level]) + (1,) * (depth - level)
        place = Place([], frame, list(place.reals), list(place.finite))
        if not place.finite and (not place.reals or w.chance(10)):
            w.one_finite(place)
        if level == depth or w.chance(60):
            for _ in range(1 + w.chance(40)):
                place.reals.append(w.real_latent(place))
        if level < depth and w.chance(25):
            w.seen(place)
    for _ in range(1 + w.chance(40)):
        w.seen(place, needed=True)
    return w.done("in_frames", w.mixed)


def crossed_frames(below: Callable[[int], int]) -> GaussianProgram:
    """Latents of the rows and of the columns of a table, and of its cells."""
    w = GaussianWriter(below)
    n, m = w.one(2, 3), w.one(3, 2, 1)
    left = Place([f'with numpyro.plate("left", {n}, dim=-2):'], (n, 1))
    right = Place([f'with numpyro.plate("right", {m}, dim=-1):'], (m,))
    top = []
    if w.chance(30):
        top = [w.real_latent(Place([], ()))]
        left.reals += top
        right.reals += top
    for place in (left, right):
        w.opened(place)
        for _ in range(1 + w.chance(20)):
            place.reals.append(w.real_latent(place))
        if w.chance(20):
            w.seen(place)
    both = Place(left.opened + right.opened, (n, m), left.reals + right.reals[len(top) :])
    w.opened(both)
    if w.chance(30):
        both.reals.append(w.real_latent(both))
    for _ in range(1 + w.chance(30)):
        w.seen(both, needed=True)
    return w.done("crossed_frames")


def any_gaussian(below: Callable[[int], int]) -> GaussianProgram:
    return (by_group, in_frames, by_group, in_frames, crossed_frames)[below(5)](below)
