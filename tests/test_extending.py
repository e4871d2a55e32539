"""The skeletons of docs/extending.md, added from outside the package through the registries alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from doc_blocks import ROOT, page_run

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.estimate import estimators
from pp_mlem.factors import registry as factor_registry
from pp_mlem.families import registry as family_registry
from pp_mlem.marginal.steps import registry as step_registry
from pp_mlem.maximise import registry as block_registry

PAGE = ROOT / "docs" / "extending.md"
RNG = np.random.default_rng(0)
LABELS = RNG.uniform(size=400) < 0.4
POSITIVE = np.abs(RNG.normal(size=400)) * np.where(LABELS, 1.0, 6.0)
ANSWERS = (RNG.uniform(size=(400, 3)) < np.where(LABELS[:, None], 0.2, 0.8)).astype(int)


@pytest.fixture(scope="module")
def skeletons():
    """What the page defines, its registrations taken back at the end."""
    families, estimators_before = list(family_registry.FAMILIES), dict(estimators.ESTIMATORS)
    with page_run(PAGE) as defined:
        yield defined
    family_registry.FAMILIES[:] = families
    estimators.ESTIMATORS.clear()
    estimators.ESTIMATORS.update(estimators_before)


@pytest.fixture
def registered():
    """Registers for one test, and takes it back."""

    def register(kinds: list, kind):
        kinds.insert(0, kind)
        added.append((kinds, kind))

    added: list = []
    yield register
    for kinds, kind in added:
        kinds.remove(kind)


def widths(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("parts", 2):
        scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.HalfNormal(scale[z]), obs=x)


def classes(y):
    w = numpyro.sample("w", dist.Beta(1, 1))
    with numpyro.plate("parts", 2):
        p = numpyro.sample("p", dist.Beta(1, 1))
        q = numpyro.sample("q", dist.Beta(1, 1))
        r = numpyro.sample("r", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("first", dist.Bernoulli(p[z]), obs=y[:, 0])
        numpyro.sample("second", dist.Bernoulli(q[z]), obs=y[:, 1])
        numpyro.sample("third", dist.Bernoulli(r[z]), obs=y[:, 2])


def test_a_family(skeletons):
    model = Model(widths, POSITIVE)
    assert "HalfNormal family" in str(model) and "closed form of HalfNormal" in str(model)
    fit = fit_em(model, starts=3, progress=False)
    family_registry.FAMILIES.remove(
        next(f for f in family_registry.FAMILIES if f.name == "HalfNormal")
    )
    without = Model(widths, POSITIVE)
    assert "HalfNormal is no known exponential family" in str(without)
    other = fit_em(without, starts=3, progress=False)
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-9)


def test_a_kind_of_factor(skeletons, registered):
    plain = Model(classes, ANSWERS)
    registered(factor_registry.KINDS, skeletons["CodedFactor"])
    model = Model(classes, ANSWERS)
    assert "two log-probabilities" in str(model) and "two log-probabilities" not in str(plain)
    fit = fit_em(model, starts=2, progress=False)
    assert fit.converged
    assert plain.log_likelihood(fit.params) == pytest.approx(fit.log_likelihood, rel=1e-12)
    mine, theirs = model.posterior(fit.params)["z"], plain.posterior(fit.params)["z"]
    np.testing.assert_allclose(mine, theirs, atol=1e-12)
    best = fit_em(plain, init=fit.params, progress=False)
    assert best.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-8)


def test_a_step(skeletons, registered):
    plain = Model(classes, ANSWERS)
    registered(step_registry.STEPS, skeletons["PairStep"])
    model = Model(classes, ANSWERS)
    assert "summed as a pair" in str(model)
    fit = fit_mle(model, starts=2, progress=False)
    assert plain.log_likelihood(fit.params) == pytest.approx(fit.log_likelihood, rel=1e-12)
    np.testing.assert_array_equal(model.decode(fit.params)["z"], plain.decode(fit.params)["z"])
    mine, theirs = fit.standard_errors(), fit_mle(plain, init=fit.params).standard_errors()
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_a_block(skeletons, registered):
    plain = fit_em(Model(classes, ANSWERS), starts=2, progress=False)
    registered(block_registry.BLOCKS, skeletons["golden_section"])
    model = Model(classes, ANSWERS)
    assert "golden sections of one scalar" in str(model)
    fit = fit_em(model, starts=2, progress=False, accelerate=False, polish=False)
    assert np.all(np.diff(fit.history) > -1e-9)
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-7)


def test_an_algorithm(skeletons):
    model = Model(classes, ANSWERS)
    fit = estimators.fit_by("ascent", model, starts=2, progress=False)
    assert fit.method == "ASCENT" and fit.converged
    best = fit_mle(model, init=fit.params, progress=False)
    assert best.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-8)
    assert "ascent" in estimators.method_names()
