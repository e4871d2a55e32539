"""What a row is drawn from, given its component: a family's parameters with their priors, and its law.

The priors take their scale from the data (`Scaling`), as in Fraley & Raftery (2007),
doi:10.1007/s00357-007-0004-5; only method="map" and starts from the prior read them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Values = dict[str, Any]
DEGREES = 1.0, 200.0  # of freedom: from Cauchy's law to what no data tell from a normal one


class Scaling(NamedTuple):
    """Of the training data: mean and standard deviation of each column (features,), and the number of
    categories, of categorical columns."""

    center: Any
    spread: Any
    categories: int

    @classmethod
    def of(cls, X: np.ndarray, has_categories: bool) -> Scaling:
        seen = np.isfinite(X)
        count = np.maximum(seen.sum(0), 1)
        center = np.where(seen, X, 0.0).sum(0) / count
        spread = np.sqrt((np.where(seen, X - center, 0.0) ** 2).sum(0) / count)
        spread = np.where(spread > 0, spread, 1.0)
        return cls(center, spread, int(np.nanmax(X, initial=0)) + 1 if has_categories else 0)


class Emission(abc.ABC):
    """A family of laws p(row | component).

    `least` is the smallest value that a column may have (None: any), `has_gaps` whether single entries of
    a row may be missing.
    """

    least: float | None = None
    has_gaps: bool = True

    @abc.abstractmethod
    def sites(self, size: int, scaling: Scaling) -> Values:
        """Sample the parameters of `size` components, each with a leading axis of them."""

    @abc.abstractmethod
    def law(self, values: Values, z: Any) -> dist.Distribution:
        """The law of a row (features,) at component z."""

    @abc.abstractmethod
    def attributes(self, values: Values) -> Values:
        """Fitted attributes with scikit-learn's (hmmlearn's) names."""


@dataclass(frozen=True)
class Columns(Emission):
    """Independent columns: `distribution` takes the parameters (components, features) by name, `priors`
    gives their priors for one component, `mean` the expectation of each column."""

    distribution: Callable[..., dist.Distribution]
    priors: Callable[[Scaling], dict[str, dist.Distribution]]
    mean: Callable[[Values], Any]
    name: str = "means_"
    least: float | None = None

    def sites(self, size: int, scaling: Scaling) -> Values:
        features = len(scaling.center)
        with numpyro.plate("components", size, dim=-2), numpyro.plate("features", features, dim=-1):
            return {name: numpyro.sample(name, p) for name, p in self.priors(scaling).items()}

    def law(self, values: Values, z: Any) -> dist.Distribution:
        return self.distribution(**{n: v[z] for n, v in values.items()}).to_event(1)

    def attributes(self, values: Values) -> Values:
        return {self.name: self.mean(values)}


class Form(abc.ABC):
    """The form of components' covariance matrices."""

    is_matrix: bool

    @abc.abstractmethod
    def sites(self, size: int, spread: Any) -> Values:
        """Sample matrices, or standard deviations."""

    @abc.abstractmethod
    def at(self, values: Values, z: Any) -> Any:
        """The matrix (features, features) of component z, or its standard deviations (features,) or (1,)."""

    @abc.abstractmethod
    def covariances(self, values: Values) -> Any:
        """In the shape of scikit-learn's `covariances_`."""


def _matrix_prior(size: int, spread: Any) -> dist.Distribution:
    """The covariance of the data, for each of `size` components its share of the volume, with the fewest
    degrees of freedom at which it has a mean."""
    d = len(spread)
    return dist.InverseWishart(d + 2.0, scale_matrix=jnp.diag(spread**2) / size ** (2 / d))


def _scale_prior(size: int, spread: Any) -> dist.Distribution:
    """The same of a standard deviation: its square is inverse gamma."""
    variance = dist.InverseGamma(1.5, spread**2 / (2 * size**2))
    return dist.TransformedDistribution(variance, dist.transforms.PowerTransform(0.5))


@dataclass(frozen=True)
class Full(Form):
    """Each component has a matrix of its own."""

    is_matrix = True

    def sites(self, size: int, spread: Any) -> Values:
        with numpyro.plate("components", size):
            return {"covariances": numpyro.sample("covariances", _matrix_prior(size, spread))}

    def at(self, values: Values, z: Any) -> Any:
        return values["covariances"][z]

    def covariances(self, values: Values) -> Any:
        return values["covariances"]


@dataclass(frozen=True)
class Tied(Form):
    """All components share one matrix."""

    is_matrix = True

    def sites(self, size: int, spread: Any) -> Values:
        return {"covariance": numpyro.sample("covariance", _matrix_prior(size, spread))}

    def at(self, values: Values, z: Any) -> Any:
        return values["covariance"]

    def covariances(self, values: Values) -> Any:
        return values["covariance"]


@dataclass(frozen=True)
class Diagonal(Form):
    """Columns are independent given the component."""

    is_matrix = False

    def sites(self, size: int, spread: Any) -> Values:
        with numpyro.plate("components", size):
            return {"scales": numpyro.sample("scales", _scale_prior(size, spread).to_event(1))}

    def at(self, values: Values, z: Any) -> Any:
        return values["scales"][z]

    def covariances(self, values: Values) -> Any:
        return values["scales"] ** 2


@dataclass(frozen=True)
class Spherical(Form):
    """The same variance in every direction."""

    is_matrix = False

    def sites(self, size: int, spread: Any) -> Values:
        overall = jnp.sqrt((spread**2).mean())
        with numpyro.plate("components", size):
            return {"scales": numpyro.sample("scales", _scale_prior(size, overall))}

    def at(self, values: Values, z: Any) -> Any:
        return values["scales"][z][..., None]

    def covariances(self, values: Values) -> Any:
        return values["scales"] ** 2


def _means(size: int, scaling: Scaling) -> Any:
    with numpyro.plate("components", size):
        prior = dist.Normal(scaling.center, 10 * scaling.spread).to_event(1)
        return numpyro.sample("means", prior)


@dataclass(frozen=True)
class Normal(Emission):
    """Multivariate normal rows."""

    form: Form

    def sites(self, size: int, scaling: Scaling) -> Values:
        return {"means": _means(size, scaling), **self.form.sites(size, scaling.spread)}

    def law(self, values: Values, z: Any) -> dist.Distribution:
        mean, scale = values["means"][z], self.form.at(values, z)
        if self.form.is_matrix:
            return dist.MultivariateNormal(mean, scale)
        return dist.Normal(mean, scale).to_event(1)

    def attributes(self, values: Values) -> Values:
        return {"means_": values["means"], "covariances_": self.form.covariances(values)}


@dataclass(frozen=True)
class StudentT(Emission):
    """Rows with a Student t law (Peel & McLachlan 2000, doi:10.1023/A:1008981510081), its degrees of freedom
    estimated for each component; with a diagonal or spherical form the columns are independent. `means_` are
    the locations."""

    form: Form

    @property
    def has_gaps(self) -> bool:  # type: ignore[override]
        return not self.form.is_matrix

    def sites(self, size: int, scaling: Scaling) -> Values:
        with numpyro.plate("components", size):
            df = numpyro.sample("df", dist.Uniform(*DEGREES))
        return {
            "df": df, "means": _means(size, scaling), **self.form.sites(size, scaling.spread)
        }  # fmt: skip

    def law(self, values: Values, z: Any) -> dist.Distribution:
        df, mean, scale = values["df"][z], values["means"][z], self.form.at(values, z)
        if self.form.is_matrix:
            return dist.MultivariateStudentT(df, mean, jnp.linalg.cholesky(scale))
        return dist.StudentT(df[..., None], mean, scale).to_event(1)

    def attributes(self, values: Values) -> Values:
        return {"means_": values["means"], "df_": values["df"]}


FORMS: dict[str, Form] = {
    "full": Full(), "tied": Tied(), "diag": Diagonal(), "spherical": Spherical()
}  # fmt: skip


def _rate_prior(scaling: Scaling) -> dist.Distribution:
    return dist.Gamma(2.0, 2.0 / jnp.maximum(scaling.center, 1e-8))


COLUMNS: dict[str, Columns] = {
    "poisson": Columns(
        lambda rates: dist.Poisson(rates),
        lambda s: {"rates": _rate_prior(s)},
        lambda v: v["rates"], least=0.0,
    ),
    "negative_binomial": Columns(
        lambda means, concentrations: dist.NegativeBinomial2(means, concentrations),
        lambda s: {"means": _rate_prior(s), "concentrations": dist.LogNormal(0.0, 2.0)},
        lambda v: v["means"], least=0.0,
    ),
    "bernoulli": Columns(
        lambda probs: dist.Bernoulli(probs),
        lambda s: {"probs": dist.Beta(2.0, 2.0)},
        lambda v: v["probs"], least=0.0,
    ),
    "categorical": Columns(
        lambda probs: dist.Categorical(probs),
        lambda s: {"probs": dist.Dirichlet(2.0 * jnp.ones(s.categories))},
        lambda v: v["probs"], name="emissionprob_", least=0.0,
    ),
    "exponential": Columns(
        lambda rates: dist.Exponential(rates),
        lambda s: {"rates": dist.Gamma(2.0, 2.0 * jnp.maximum(s.center, 1e-300))},
        lambda v: 1 / v["rates"], least=0.0,
    ),
    "gamma": Columns(
        lambda concentrations, rates: dist.Gamma(concentrations, rates),
        lambda s: {
            "concentrations": dist.LogNormal(0.0, 2.0),
            "rates": dist.LogNormal(-jnp.log(jnp.maximum(s.center, 1e-300)), 2.0),
        },
        lambda v: v["concentrations"] / v["rates"], least=0.0,
    ),
    "von_mises": Columns(
        lambda means, concentrations: dist.VonMises(means, concentrations),
        lambda s: {"means": dist.VonMises(0.0, 0.01), "concentrations": dist.LogNormal(0.0, 2.0)},
        lambda v: v["means"],
    ),
}  # fmt: skip
ELLIPTICAL: dict[str, Callable[[Form], Emission]] = {"normal": Normal, "student_t": StudentT}
FAMILIES = (*ELLIPTICAL, *COLUMNS)


def emission(family: str, covariance: str) -> Emission:
    """The family of this name, with this form of covariance where it has one.

    Raises:
        ValueError: for unknown names.
    """
    if covariance not in FORMS:
        raise ValueError(f"covariance: received {covariance!r}, expected one of {list(FORMS)}.")
    if family in ELLIPTICAL:
        return ELLIPTICAL[family](FORMS[covariance])
    if family in COLUMNS:
        return COLUMNS[family]
    raise ValueError(
        f"family: received {family!r}, expected one of {list(FAMILIES)}; other laws are written as a "
        "NumPyro program and passed as program= (from_program)."
    )
