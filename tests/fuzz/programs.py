"""Random programs as readable NumPyro source: every choice is one small integer.

`below(n)` gives an integer in range(n): from hypothesis, so that a failure shrinks, or from a
seeded generator. Nothing here knows what pp_mlem can do: the programs are those that a user of
NumPyro writes with finite latents in plates, gathers and scans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Program:
    """The text of one program, its arguments, parameter values and known labels."""

    kind: str
    text: str
    arguments: dict[str, Any]
    params: dict[str, Any]
    observe: dict[str, Any] = field(default_factory=dict)
    refusable: bool = False
    members: tuple[str, str] | None = None  # rows whose weights are those of a gathered unit

    @property
    def source(self) -> str:
        """All of it as Python that a reader can run."""
        parts = [self.text]
        for name, given in (
            ("ARGUMENTS", self.arguments),
            ("PARAMS", self.params),
            ("OBSERVE", self.observe),
        ):
            inside = "".join(f"    {k}={literal(v)},\n" for k, v in given.items())
            parts.append(f"{name} = dict(\n{inside})\n" if given else f"{name} = {{}}\n")
        return "\n".join(parts)


def literal(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    return f"np.array({value.tolist()})".replace("nan", "np.nan")


@dataclass(frozen=True)
class Latent:
    """A latent in scope: its index from zero, number of values, and level of plates."""

    name: str
    size: int
    level: int
    low: int = 0
    gathered: str = ""  # the argument that gathers it, as in z[group]

    @property
    def value(self) -> str:
        return f"{self.name}[{self.gathered}]" if self.gathered else self.name

    @property
    def index(self) -> str:
        return f"{self.value} - {self.low}" if self.low else self.value


class Writer:
    """Writes one program: lines, and the parameters and arguments that they use."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below
        self.rng = np.random.default_rng(below(10_000))
        self.head: list[str] = []
        self.body: list[str] = []
        self.indent = 1
        self.arguments: dict[str, Any] = {}
        self.params: dict[str, Any] = {}
        self.observe: dict[str, Any] = {}
        self.holes = False
        self.count: dict[str, int] = {}

    # --- choices ------------------------------------------------------------------------------

    def one(self, *options: Any) -> Any:
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        return self.below(100) >= 100 - percent

    def some(self, options: list, most: int) -> list:
        """Up to `most` of the options, in their order."""
        count = min(len(options), self.below(most + 1))
        start = self.below(len(options)) if options else 0
        chosen = [(start + i) % len(options) for i in range(count)]
        return [options[i] for i in sorted(chosen)]

    def fresh(self, stem: str) -> str:
        self.count[stem] = self.count.get(stem, 0) + 1
        return f"{stem}{self.count[stem]}"

    def line(self, text: str) -> None:
        self.body.append("    " * self.indent + text)

    # --- arguments and parameters ---------------------------------------------------------------

    def argument(self, stem: str, value: np.ndarray) -> str:
        name = self.fresh(stem)
        self.arguments[name] = value
        return name

    def real(self, *shape: int, spread: float = 1.0) -> str:
        name = self.fresh("m")
        self.params[name] = np.round(self.rng.normal(size=shape) * spread, 3)
        if self.chance(15):
            self.head.append(f'{name} = numpyro.param("{name}", jnp.zeros({shape}))')
        else:
            self._prior(name, "dist.Normal(0, 2)", shape)
        return name

    def positive(self, *shape: int) -> str:
        name = self.fresh("s")
        self.params[name] = np.round(np.exp(self.rng.normal(size=shape) * 0.5), 3)
        if self.chance(15):
            self.head.append(
                f'{name} = numpyro.param("{name}", jnp.ones({shape}), '
                "constraint=dist.constraints.positive)"
            )
        else:
            self._prior(name, self.one("dist.LogNormal(0, 1)", "dist.Gamma(2, 1)"), shape)
        return name

    def unit(self, *shape: int) -> str:
        name = self.fresh("p")
        self.params[name] = np.round(self.rng.uniform(0.15, 0.85, shape), 3)
        self._prior(name, "dist.Beta(1, 2)", shape)
        return name

    def _prior(self, name: str, prior: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 1 and self.chance(30):
            self.head.append(f'with numpyro.plate("of {name}", {shape[0]}):')
            self.head.append(f'    {name} = numpyro.sample("{name}", {prior})')
            return
        if shape:
            prior = f"{prior}.expand({list(shape)}).to_event({len(shape)})"
        self.head.append(f'{name} = numpyro.sample("{name}", {prior})')

    def simplex(self, *shape: int) -> str:
        """A simplex of the last size, one for each of the leading sizes."""
        name = self.fresh("w")
        raw = self.rng.dirichlet(np.full(shape[-1], 3.0), size=shape[:-1]) * 0.7
        self.params[name] = raw + 0.3 / shape[-1]
        prior = f"dist.Dirichlet(jnp.ones({shape if len(shape) > 1 else shape[0]}))"
        if len(shape) > 1:
            prior += f".to_event({len(shape) - 1})"
        self.head.append(f'{name} = numpyro.sample("{name}", {prior})')
        return name

    # --- expressions ----------------------------------------------------------------------------

    def index(self, latents: list[Latent]) -> str:
        return f"[{', '.join(z.index for z in latents)}]" if latents else ""

    def covariate(self, shape: tuple[int, ...]) -> str:
        return self.argument("c", np.round(self.rng.normal(size=shape), 3))

    def a_real(self, latents: list[Latent], shape: tuple[int, ...]) -> str:
        sizes = [z.size for z in latents]
        form = self.below(7)
        if form == 1 and latents:
            terms = [f"{self.real()} * {z.value}" for z in latents]
            return " + ".join([self.real(), *terms])
        if form == 2 and latents:
            z, *rest = latents
            table = self.real(2, *[z.size for z in rest])
            last = z.low + z.size - 1
            index = self.index(rest)[1:-1]
            comma = ", " if rest else ""
            return f"jnp.where({z.value} == {last}, {table}[0{comma}{index}], {table}[1{comma}{index}])"
        if form == 3 and shape:
            return f"{self.real(*sizes)}{self.index(latents)} + {self.real()} * {self.covariate(shape)}"
        if form == 4 and latents:
            constant = literal(np.round(self.rng.normal(size=sizes), 2)).replace("np.", "jnp.")
            return f"{constant}{self.index(latents)} + {self.real()}"
        if form == 5 and len(latents) > 1:
            return " + ".join(f"{self.real(z.size)}[{z.index}]" for z in latents)
        return f"{self.real(*sizes)}{self.index(latents)}"

    def a_scale(self, latents: list[Latent], shape: tuple[int, ...]) -> str:
        form = self.below(7)
        some = self.some(latents, 2)
        if form == 0:
            return "1"
        if form == 1:
            return self.one("0.7", "1.3", "2")
        if form == 2:
            return self.positive()
        if form == 3:
            return self.argument("e", np.round(np.exp(self.rng.normal(size=shape) * 0.4), 3))
        if form == 4 and some:
            return f"jnp.exp(0.3 * {self.a_real(some, ())})"
        return f"{self.positive(*[z.size for z in some])}{self.index(some)}"

    def known_or_positive(self, *known: str, shape: tuple[int, ...] = ()) -> str:
        """A number, or a positive parameter."""
        choice = self.one(*known, "")
        return choice or self.positive(*shape)

    def a_rate(self, latents: list[Latent], shape: tuple[int, ...]) -> str:
        form = self.below(4)
        if form == 0:
            return f"jnp.exp(0.5 * ({self.a_real(latents, shape)}))"
        if form == 1 and shape:
            exposure = self.argument("e", np.round(self.rng.uniform(0.5, 2, shape), 3))
            inside = f"{self.positive(*[z.size for z in latents])}{self.index(latents)}"
            return f"{exposure} * {inside}"
        return f"{self.positive(*[z.size for z in latents])}{self.index(latents)}"

    def a_probability(self, latents: list[Latent], shape: tuple[int, ...]) -> str:
        """`probs=` or `logits=` of a yes-or-no site."""
        form = self.below(5)
        if form == 0:
            return f"logits={self.a_real(latents, shape)}"
        if form == 1 and not latents:
            return self.one("0.3", "0.5", "probs=0.4")
        if form == 2 and len(latents) == 1:
            z = latents[0]
            return f"0.2 + {0.6 / (z.low + z.size):.2f} * {z.value}"
        if form == 3 and shape and not latents:
            return self.argument("q", np.round(self.rng.uniform(0.2, 0.8, shape), 3))
        return f"{self.unit(*[z.size for z in latents])}{self.index(latents)}"

    def categories(self, latents: list[Latent], size: int) -> str:
        """`probs` or `logits=` of a categorical site."""
        sizes = [z.size for z in latents]
        form = self.below(5)
        if form == 0:
            return f"logits={self.real(*sizes, size)}{self.index(latents)}"
        if form == 1:
            table = np.round(self.rng.dirichlet(np.full(size, 3.0), size=sizes or None), 2)
            table[..., -1] = 1 - table[..., :-1].sum(-1)
            return f"jnp.array({np.round(table, 2).tolist()}){self.index(latents)}"
        return f"{self.simplex(*sizes, size)}{self.index(latents)}"

    # --- sites --------------------------------------------------------------------------------------

    def law(
        self, name: str, parents: list[Latent], shape: tuple[int, ...], level: int, small: bool
    ) -> Latent:
        """A latent's own line; `small` keeps to two values."""
        form = self.below(5)
        if form == 3 and not parents:
            low = self.one(0, 1, 2)
            size = 2 if small else self.one(2, 3)
            self.latent_line(name, f"dist.DiscreteUniform({low}, {low + size - 1})")
            return Latent(name, size, level, low)
        if form == 4:
            total = 1 if small else 2
            self.latent_line(name, f"dist.Binomial({total}, {self.a_probability(parents, shape)})")
            return Latent(name, total + 1, level)
        if form in (0, 1) or (small and form == 3):
            self.latent_line(name, f"dist.Bernoulli({self.a_probability(parents, shape)})")
            return Latent(name, 2, level)
        size = 2 if small else self.one(2, 3)
        self.latent_line(name, f"dist.Categorical({self.categories(parents, size)})")
        return Latent(name, size, level)

    def latent_line(self, name: str, law: str) -> None:
        self.line(f'{name} = numpyro.sample("{name}", {law})')

    def observation(
        self, latents: list[Latent], shape: tuple[int, ...], plates: tuple[int, ...], data: str = ""
    ) -> tuple[str, np.ndarray, bool]:
        """(distribution, data, whether cells may be missing): data over the plates; `shape` is
        that of arguments by row, () where there are none (in a scan)."""
        rng, form = self.rng, self.below(17)
        sizes, where = [z.size for z in latents], self.index(latents)
        real = np.clip(np.round(rng.normal(size=plates) * 1.5, 2), -3.1, 3.1)
        counts = rng.poisson(2.0, plates)
        away = np.round(np.exp(rng.normal(size=plates) * 0.6), 2)
        if form <= 3:
            law = self.one("Normal", "Normal", "StudentT", "Laplace") if form == 3 else "Normal"
            df = "4, " if law == "StudentT" else ""
            loc = self.a_real(latents, shape)
            return f"dist.{law}({df}{loc}, {self.a_scale(latents, shape)})", real, True
        if form == 4:
            loc = self.a_real(latents, shape)
            return f"dist.LogNormal({loc}, {self.a_scale(latents, shape)})", away, True
        if form in (5, 6):
            rate = self.a_rate(latents, shape)
            if form == 6 and self.chance(50):
                gate = self.unit(*sizes)
                return f"dist.ZeroInflatedPoisson({gate}{where}, {rate})", counts, True
            return f"dist.Poisson({rate})", counts, True
        if form in (7, 8):
            yes = rng.integers(0, 2, plates)
            return f"dist.Bernoulli({self.a_probability(latents, shape)})", yes, True
        if form == 9:
            size = self.one(2, 3)
            codes = rng.integers(0, size, plates)
            return f"dist.Categorical({self.categories(latents, size)})", codes, True
        if form == 10:
            total = self.one("3", "5")
            if shape and self.chance(50):
                total = self.argument("n", rng.integers(4, 7, shape))
            yes = rng.integers(0, 4, plates)
            return f"dist.Binomial({total}, {self.a_probability(latents, shape)})", yes, True
        if form == 11:
            rate = self.a_rate(latents, shape)
            if self.chance(50):
                return f"dist.Exponential({rate})", away, True
            return f"dist.Gamma({self.known_or_positive('2', '1.5')}, {rate})", away, True
        if form == 12:
            share = np.round(rng.uniform(0.1, 0.9, plates), 2)
            first, second = self.positive(*sizes), self.one("2", "1.5")
            return f"dist.Beta({first}{where}, {second})", share, True
        if form == 13:
            mean = self.a_rate(latents, shape)
            few = np.minimum(counts, 6)  # JAX's betaln, so NumPyro's density, is 1e-6 off beyond
            return f"dist.NegativeBinomial2({mean}, {self.known_or_positive('3')})", few, True
        if form == 14:
            if self.chance(50):
                return f"dist.VonMises({self.a_real(latents, ())}, 2.0)", real, True
            return f"dist.Geometric({self.unit(*sizes)}{where})", counts, True
        wide = np.round(rng.normal(size=(*plates, 2)), 2)
        if form == 15:
            scale = self.known_or_positive("1", "0.8", shape=self.one((), (2,)))
            return f"dist.Normal({self.real(*sizes, 2)}{where}, {scale}).to_event(1)", wide, True
        spread = self.one("jnp.eye(2)", "jnp.array([[1.0, 0.3], [0.3, 2.0]])")
        return f"dist.MultivariateNormal({self.real(*sizes, 2)}{where}, {spread})", wide, False

    def with_holes(self, data: np.ndarray, cells: bool, percent: int = 30) -> np.ndarray:
        """Some missing cells; whole vectors where a distribution joins them."""
        if not self.chance(percent) or not data.ndim:
            return data
        data = data.astype(float)
        missing = self.rng.random(data.shape if cells else data.shape[:-1]) < 0.3
        data[missing] = np.nan
        self.holes = True
        return data

    def observe_line(
        self,
        latents: list[Latent],
        plates: tuple[int, ...],
        masked: int = 10,
        holes: int = 30,
        keep: bool = False,
    ) -> None:
        fn, data, cells = self.observation(latents, plates, plates)
        name = self.argument("x", self.with_holes(data, cells, holes))
        text = f'numpyro.sample("{name}", {fn}, obs={name})'
        if plates and self.chance(masked):
            mask = self.argument("mask", self.rng.random(plates) < 0.7)
            self.line(f"with handlers.mask(mask={mask}):")
            text = "    " + text
        self.line(text)

    def labels(self, name: str, shape: tuple[int, ...], latent: Latent) -> None:
        """Known values of some cells of a latent."""
        given = np.array(latent.low + self.rng.integers(0, latent.size, shape), float)
        given[self.rng.random(shape) < 0.5] = self.one(np.nan, -1.0)
        self.observe[name] = given

    def finish(
        self, kind: str, refusable: bool = False, members: tuple[str, str] | None = None
    ) -> Program:
        head = ["    " + h for h in self.head]
        names = ", ".join(self.arguments)
        text = "\n".join([f"def program({names}):", *head, *self.body]) + "\n"
        return Program(kind, text, self.arguments, self.params, self.observe, refusable, members)


# --- kinds of programs ----------------------------------------------------------------------------

LIMIT = np.log(600.0)


class Budget:
    """How many configurations are left."""

    def __init__(self) -> None:
        self.used = 0.0

    def takes(self, cells: int, size: int = 2) -> bool:
        if self.used + cells * np.log(size) > LIMIT:
            return False
        return True

    def add(self, cells: int, size: int) -> None:
        self.used += cells * np.log(size)


def in_plates(below: Callable[[int], int], holes: int = 30, label: int = 25) -> Program:
    """Nested plates to depth three, up to four latents, masks, weights, NaN, labels."""
    w = Writer(below)
    depth = w.one(1, 1, 1, 2, 2, 3, 0)
    sizes = [w.one(2, 3, 4), 1][:depth] if depth == 1 else [w.one(2, 2, 1)] * depth
    if depth == 2:
        sizes = [w.one(2, 1), w.one(2, 3)]
    budget, latents, shapes = Budget(), [], {}
    wanted = 1 + w.below(4)
    weighted = w.one(*range(1, depth + 1)) if depth and w.chance(20) else 0
    covered = w.one(*range(1, depth + 1)) if depth and w.chance(15) else 0
    observed = 0
    for level in range(depth + 1):
        plates = tuple(sizes[:level])
        cells = int(np.prod(plates))
        if level:
            dim = "" if depth == 1 and w.chance(50) else f", dim={level - 1 - depth}"
            w.line(f'with numpyro.plate("plate{level}", {sizes[level - 1]}{dim}):')
            w.indent += 1
        # Arguments lie over the plates of the whole frame: size one to the right of their own.
        frame = plates + (1,) * (depth - level) if level else ()
        if level and level == weighted:
            weight = w.argument("weight", np.round(w.rng.uniform(0, 3, frame), 1))
            w.line(f"with handlers.scale(scale={weight}):")
            w.indent += 1
        if level and level == covered:
            mask = w.argument("mask", w.rng.random(frame) < 0.7)
            w.line(f"with handlers.mask(mask={mask}):")
            w.indent += 1
        own = 0
        while len(latents) < wanted and own < 3 and (level == depth or w.chance(45)):
            if not budget.takes(cells, 2):
                break
            parents = w.some(latents, 2)
            three = budget.takes(cells, 3)
            z = w.law(f"z{len(latents) + 1}", parents, frame, level, not three)
            budget.add(cells, z.size)
            latents.append(z)
            shapes[z.name] = frame
            own += 1
        last = level == depth
        if last or w.chance(30):
            for _ in range(1 + (w.chance(35) if last else 0)):
                reads = w.some(latents, 3)
                if last and not reads and latents:
                    reads = latents[-1:]
                _observe_in_frame(w, reads, frame, holes)
                observed += 1
        if last and latents and w.chance(6):
            w.line(f'numpyro.factor("tilt", 0.3 * {latents[-1].value} * {w.real()})')
    if depth and not weighted and not covered and w.chance(12):
        w.indent = 1
        w.line('with numpyro.plate("others", 3):')
        w.indent = 2
        _observe_in_frame(w, w.some([z for z in latents if z.level == 0], 2), (3,), holes)
    for z in latents:
        if w.chance(label // max(1, len(latents))):
            w.labels(z.name, shapes[z.name], z)
    return w.finish("plates")


def _observe_in_frame(w: Writer, reads: list[Latent], frame: tuple[int, ...], holes: int) -> None:
    w.observe_line(reads, frame, holes=holes)


def gathered(below: Callable[[int], int], holes: int = 30, label: int = 25) -> Program:
    """A latent of a group gathered into rows, `z[group]`."""
    w = Writer(below)
    n_groups, rows = w.one(2, 3, 3, 1), w.one(3, 4, 2)
    budget, latents, shapes = Budget(), [], {}
    above = []
    if w.chance(30):
        above.append(w.law("a", [], (), 0, True))
        budget.add(1, 2)
    w.line(f'with numpyro.plate("groups", {n_groups}):')
    w.indent = 2
    groups = []
    hides, weighs = w.chance(15), w.chance(12)
    if weighs:
        cover = w.argument("weight", np.round(w.rng.uniform(0, 3, n_groups), 1))
        w.line(f"with handlers.scale(scale={cover}):")
        w.indent = 3
    elif hides:
        cover = w.argument("mask", w.rng.random(n_groups) < 0.7)
        w.line(f"with handlers.mask(mask={cover}):")
        w.indent = 3
    for i in range(w.one(1, 1, 1, 2)):
        small = not budget.takes(n_groups * 2 + rows, 3)
        g = w.law(f"g{i + 1}", w.some(above + groups, 1), (n_groups,), 1, small)
        groups.append(g)
        budget.add(n_groups, g.size)
        latents.append(g)
        shapes[g.name] = (n_groups,)
    if w.chance(25):
        w.observe_line(w.some(groups + above, 2), (n_groups,), holes=holes)
    group = w.argument("group", w.rng.integers(0, n_groups, rows))
    w.indent = 1
    w.line(f'with numpyro.plate("rows", {rows}):')
    w.indent = 2
    if weighs:
        w.line(f"with handlers.scale(scale={cover}[{group}]):")
        w.indent = 3
    elif hides:
        w.line(f"with handlers.mask(mask={cover}[{group}]):")
        w.indent = 3
    elif w.chance(12):
        weight = w.argument("weight", np.round(w.rng.uniform(0, 3, rows), 1))
        w.line(f"with handlers.scale(scale={weight}):")
        w.indent = 3
    elif w.chance(15):
        mask = w.argument("mask", w.rng.random(rows) < 0.7)
        w.line(f"with handlers.mask(mask={mask}):")
        w.indent = 3
    reach = [Latent(g.name, g.size, 1, g.low, group) for g in groups]
    own = []
    if w.chance(60) and budget.takes(rows, 2):
        z = w.law("z", w.some(reach + above, 1), (rows,), 1, not budget.takes(rows, 3))
        own.append(z)
        latents.append(z)
        shapes[z.name] = (rows,)
    for i in range(w.one(1, 1, 2)):
        reads = w.some(reach + own + above, 3)
        if not i and not any(z in reads for z in reach):
            reads = [*reads[:2], reach[0]]
        w.observe_line(reads, (rows,), masked=15, holes=holes)
    for z in latents:
        if w.chance(label // max(1, len(latents))):
            w.labels(z.name, shapes[z.name], z)
    return w.finish("gather", members=("rows", group) if weighs else None)


def chained(below: Callable[[int], int], holes: int = 30, label: int = 25) -> Program:
    """A scan over states, with plates inside, a latent above, covariates, NaN, masks."""
    w = Writer(below)
    sequences = w.one(0, 0, 2)
    steps = w.one(3, 4, 5) if not sequences else 3
    plates = (sequences,) if sequences else ()
    size = w.one(2, 2, 3) if not sequences and steps < 5 else 2
    budget = Budget()
    budget.add(steps * max(sequences, 1), size)
    above = []
    if w.chance(20):
        above.append(w.law("a", [], (), 0, True))
        budget.add(1, 2)
    spare = not sequences and steps == 3 and size == 2 and w.chance(30)
    start = w.below(5)  # 0-1 a fixed carry, 2 a state before, 3 a law by the count, 4 one by None
    begins = w.simplex(size) if start in (2, 3, 4) else ""
    index = w.index(w.some(above, 1))
    lead = [above[0].size] if index else []
    form = w.below(4)
    if form == 0:
        transition = f"logits={w.real(*lead, size, size)}"
    elif form == 1:
        table = w.rng.dirichlet(np.full(size, 3.0), size=(*lead, size)) * 0.8 + 0.2 / size
        transition = w.argument("P", table / table.sum(-1, keepdims=True))
    else:
        transition = w.simplex(*lead, size, size)
    inner = f"{index[1:-1]}, z" if index else "z"
    law = f"dist.Categorical({transition}[{inner}])"
    covariate = ""
    if form == 0 and w.chance(40):
        covariate = w.argument("c", np.round(w.rng.normal(size=steps), 3))
        slope = w.real(size)
        law = f"dist.Categorical({transition}[{inner}] + {slope} * c_t)"
    if start == 2:
        if sequences:
            w.line(f'with numpyro.plate("first", {sequences}):')
            w.line(f'    z0 = numpyro.sample("z0", dist.Categorical({begins}))')
        else:
            w.line(f'z0 = numpyro.sample("z0", dist.Categorical({begins}))')
        if sequences:
            steps = 2
    state = Latent("new", size, 0)
    reads = [state]
    if w.chance(20) and start != 4:
        reads.append(Latent("z", size, 0))
    elif above and w.chance(50):
        reads.append(above[0])
    if covariate and len(covariate):
        w.arguments[covariate] = w.arguments[covariate][:steps]
    shape = (steps, *plates)
    fn, data, cells = w.observation(reads, (), shape)
    x = w.argument("x", w.with_holes(data, cells, holes))
    xs, inputs = [x], ["x_t"]
    second = ""
    if w.chance(15):
        second_fn, data, cells = w.observation([state], (), shape)
        y = w.argument("x", w.with_holes(data, cells, holes))
        second = f'numpyro.sample("{y}", {second_fn}, obs=y_t)'
        xs.append(y)
        inputs.append("y_t")
    if covariate:
        xs.append(covariate)
        inputs.append("c_t")
    masked = w.below(7)
    if masked in (0, 1):
        if masked == 0 and sequences:  # sequences of their own lengths, over state and observation
            ends = w.rng.integers(1, steps + 1, sequences)
            mask = w.argument("mask", np.arange(steps)[:, None] < ends)
        else:
            masked = 1
            mask = w.argument("mask", w.rng.random(shape) < 0.7)
        xs.append(mask)
        inputs.append("m_t")
    w.line("def body(carry, inputs):")
    w.indent += 1
    counted = start == 3
    w.line("z, t = carry" if counted else "z = carry")
    w.line(f"{', '.join(inputs)} = inputs" if len(inputs) > 1 else f"{inputs[0]} = inputs")
    if counted:
        inside = law[len("dist.Categorical(") : -1]
        if inside.startswith("logits="):
            law = f"dist.Categorical(logits=jnp.where(t == 0, jnp.log({begins}), {inside[7:]}))"
        else:
            law = f"dist.Categorical(jnp.where(t == 0, {begins}, {inside}))"
    elif start == 4:
        inside = law[len("dist.Categorical(") : -1]
        key = "logits=" if inside.startswith("logits=") else ""
        first = f"jnp.log({begins})" if key else begins
        law = f"dist.Categorical({key}{first} if carry is None else {inside[len(key) :]})"
    if sequences:
        w.line(f'with numpyro.plate("sequences", {sequences}):')
        w.indent += 1
    if masked == 0:
        w.line("with handlers.mask(mask=m_t):")
        w.indent += 1
    w.line(f'new = numpyro.sample("z", {law})')
    if spare:
        z = w.law("u", [state], (), 0, True)
        fn = f"dist.Normal({w.real(size, 2)}[new, {z.index}], 1)"
        w.arguments[x] = np.round(w.rng.normal(size=shape), 2)
    if masked == 1:
        w.line("with handlers.mask(mask=m_t):")
        w.indent += 1
    w.line(f'numpyro.sample("{x}", {fn}, obs=x_t)')
    if masked == 1:
        w.indent -= 1
    if second:
        w.line(second)
    w.indent = 2
    w.line("return (new, t + 1), None" if counted else "return new, None")
    w.indent = 1
    zero = f"jnp.zeros({sequences}, int)" if sequences else "0"
    begin = "z0" if start == 2 else "None" if start == 4 else zero
    begin = f"({begin}, 0)" if counted else begin
    w.line(f"scan(body, {begin}, {xs[0] if len(xs) == 1 else '(' + ', '.join(xs) + ')'})")
    if w.chance(label):
        w.labels("z", shape, state)
    return w.finish("chain")


def across_units(below: Callable[[int], int]) -> Program:
    """Sites that read latents of other units: exact or refused."""
    w = Writer(below)
    n = w.one(3, 4, 5)
    form = w.below(9)
    if form == 0:
        w.argument("x", w.rng.integers(0, 2, (n, n)))
        p, q = w.unit(2, 2), w.simplex(2)
        w.line(f'with numpyro.plate("nodes", {n}):')
        w.line(f'    z = numpyro.sample("z", dist.Categorical({q}))')
        w.line(f'with numpyro.plate("from", {n}, dim=-2), numpyro.plate("to", {n}, dim=-1):')
        w.line(f'    numpyro.sample("x1", dist.Bernoulli({p}[z[:, None], z[None, :]]), obs=x1)')
        return w.finish("across", True)
    size = w.one(2, 3) if n < 5 else 2
    m = w.real(size)
    if form in (1, 2):
        rows = n - 1
        pairs = w.one(f"{m}[z[1:]] * {m}[z[:-1]]", f"{m}[z[1:]] + {m}[z[:-1]]",
                      f"{m}[z[1:]] - {m}[z[0]]", f"{m}[jnp.maximum(z[1:], z[:-1])]")  # fmt: skip
    else:
        rows = n
        order = w.argument("order", w.rng.permutation(n))
        pairs = w.one(f"{m}[z] * {m}[z[::-1]]", f"{m}[z] + jnp.sum({m}[z])",
                      f"{m}[jnp.roll(z, 1)] + {m}[z]", f"{m}[z] * {m}[z[{order}]]",
                      f"jnp.cumsum({m}[z])", f"{m}[z] - {m}[z].mean()")  # fmt: skip
    fn, data, cells = w.observation([], (rows,), (rows,))
    fn = f"dist.Normal({pairs}, 1)" if w.chance(70) else f"dist.Bernoulli(logits={pairs})"
    data = w.rng.integers(0, 2, rows) if "Bernoulli" in fn else np.round(w.rng.normal(size=rows), 2)
    x = w.argument("x", w.with_holes(data, True))
    q = w.categories([], size)
    w.line(f'with numpyro.plate("units", {n}):')
    w.line(f'    z = numpyro.sample("z", dist.Categorical({q}))')
    w.line(f'with numpyro.plate("rows", {rows}):')
    w.line(f'    numpyro.sample("{x}", {fn}, obs={x})')
    return w.finish("across", True)


def any_program(below: Callable[[int], int]) -> Program:
    kind = below(10)
    if kind < 5:
        return in_plates(below)
    if kind < 7:
        return gathered(below)
    return chained(below)


def holes_and_gathers(below: Callable[[int], int]) -> Program:
    return gathered(below, holes=85, label=60)
