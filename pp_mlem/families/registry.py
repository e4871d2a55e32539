"""The known families: a new one is a file of its own and a line here, or a call of `register`."""

from __future__ import annotations

from typing import Any

from pp_mlem.families.base import Family
from pp_mlem.families.bernoulli import Bernoulli, Binomial, Geometric
from pp_mlem.families.categorical import Categorical, Multinomial
from pp_mlem.families.gamma import Beta, Dirichlet, Gamma
from pp_mlem.families.multivariate_normal import MultivariateNormal
from pp_mlem.families.normal import LogNormal, Normal
from pp_mlem.families.poisson import Exponential, Poisson
from pp_mlem.families.von_mises import VonMises

FAMILIES: list[Family] = [
    Normal(),
    LogNormal(),
    MultivariateNormal(),
    Bernoulli(),
    Binomial(),
    Geometric(),
    Categorical(),
    Multinomial(),
    Poisson(),
    Exponential(),
    Gamma(),
    Beta(),
    Dirichlet(),
    VonMises(),
]


def family_of(fn: Any) -> Family | None:
    """The family of an unwrapped distribution, by its exact class; None for all others."""
    for family in FAMILIES:
        if type(fn) in family.distributions:
            return family
    return None


def register(family: Family) -> None:
    """Add a family, before those that are there: it may replace one of them."""
    FAMILIES.insert(0, family)
