"""Bad input: an error that names the site or argument, before any compilation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pp_mlem import Model, compare, fit_em, fit_mle, fit_nuts, load

X = np.linspace(-1, 1, 12)


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@pytest.fixture(scope="module")
def model():
    return Model(mixture, X)


def counts(x):
    rate = numpyro.sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Poisson(rate), obs=x)


def no_observed():
    numpyro.sample("mu", dist.Normal(0, 1))


def python_if(x):
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    loc = mu if z == 1 else -mu
    numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def infinite_latent(x):
    rate = numpyro.sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("rows", len(x)):
        k = numpyro.sample("k", dist.Poisson(rate))
        numpyro.sample("x", dist.Normal(k, 1.0), obs=x)


def coupled(x):
    p = numpyro.sample("p", dist.Beta(1, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("rows", 6, dim=-2):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
    with numpyro.plate("columns", 5, dim=-1):
        b = numpyro.sample("b", dist.Bernoulli(0.3))
    with numpyro.plate("rows", 6, dim=-2), numpyro.plate("columns", 5, dim=-1):
        numpyro.sample("x", dist.Bernoulli(p[a, b]), obs=x)


def too_large(x):
    total = 0.0
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("rows", len(x)):
        for i in range(6):
            total = total + numpyro.sample(f"z{i}", dist.Categorical(jnp.ones(30) / 30))
        numpyro.sample("x", dist.Normal(b * total, 1.0), obs=x)


def weighed(weights, locations=lambda z: 1.0 * z):
    """A mixture whose weights, and what its latent is used for, are given."""

    def program(x):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights(p)))
            numpyro.sample("x", dist.Normal(locations(z), 1.0), obs=x)

    return program


def pair(p):
    return jnp.array([p, 1 - p])


IN_PYTHON = {
    "list of weights": (weighed(lambda p: [p, 1 - p]), r"'p'.*test_errors.*jnp\.array\(\[a, b\]\)"),
    "np.array of weights": (weighed(lambda p: np.array([p, 1 - p])), r"'p' to NumPy.*jnp\.array"),
    "np.exp": (weighed(lambda p: np.exp(pair(p))), r"'p' to NumPy.*jnp\.exp"),
    "list into jax.numpy": (
        weighed(lambda p: pair(p) / jnp.sum([p, 1 - p])), r"test_errors.*jnp\.array\(\[a, b\]\)",
    ),
    "list indexed by a latent": (
        weighed(pair, lambda z: [0.0, 1.0][z]), r"'z' in Python, as an index.*jnp\.stack\(values\)\[z\]",
    ),
    "float of a latent": (weighed(pair, lambda z: float(z)), r"'z' .*Python number.*float\(z\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PYTHON)
def test_values_that_are_not_known_yet(name):
    program, message = IN_PYTHON[name]
    with pytest.raises(ValueError, match=message):
        Model(program, X)


def on_a_sphere(x):
    a = numpyro.sample("a", dist.ProjectedNormal(jnp.ones(3)))
    numpyro.sample("x", dist.Normal(a.sum(), 1.0), obs=x)


BUILD = {
    "support without a map": (lambda: Model(on_a_sphere, X), "'a' .ProjectedNormal.*no map"),
    "not a function": (lambda: Model("galaxies", X), "program.*expected a function"),
    "missing argument": (lambda: Model(mixture), "arguments do not fit.*'x'"),
    "unknown argument": (lambda: Model(mixture, X, J=3), "arguments do not fit.*'J'"),
    "no observed site": (lambda: Model(no_observed), "no observed site"),
    "empty data": (lambda: Model(mixture, np.zeros(0)), "'x'.*empty"),
    "text data": (lambda: Model(mixture, np.array(["a", "b"])), "'x'.*expected numbers"),
    "wrong shape": (lambda: Model(mixture, np.zeros((5, 3))), "x"),
    "outside support": (
        lambda: Model(counts, np.array([1, -2, 3])),
        r"'x'.*-2.*support of Poisson",
    ),
    "fraction as count": (lambda: Model(counts, np.array([1.5])), "'x'.*1.5.*support"),
    "infinite value": (lambda: Model(mixture, np.array([0.0, np.inf])), "'x'.*infinite"),
    "python if on a latent": (lambda: Model(python_if, X), "Python control flow.*jnp.where"),
    "infinite support": (lambda: Model(infinite_latent, X), "latent 'k'.*Poisson.*finite support"),
    "coupled plates": (lambda: Model(coupled, np.ones((6, 5), int)), "'a'.*'b'.*coupled"),
    "too large": (lambda: Model(too_large, X), "table of .* entries"),
    "unknown latent": (lambda: Model(mixture, X, latents={"y"}), "latents: unknown.*'y'"),
    "discrete parameter": (lambda: Model(mixture, X, parameters={"z"}), "'z' is discrete"),
    "unknown observe": (lambda: Model(mixture, X, observe={"y": X}), "observe: 'y'.*latents are"),
    "observe a parameter": (lambda: Model(mixture, X, observe={"mu": 1}), "'mu'.*fixed="),
    "labels of wrong length": (lambda: Model(mixture, X, observe={"z": [0, 1]}), "observe.*shape"),
    "label outside": (lambda: Model(mixture, X, observe={"z": np.full(12, 7)}), "'z'.*7"),
    "dtype": (lambda: Model(mixture, X, dtype="int32"), "dtype.*float32 or float64"),
}


@pytest.mark.parametrize("name", sorted(BUILD))
def test_building(name):
    make, message = BUILD[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "jax" not in type(caught.value).__module__


GOOD = {"w": [0.5, 0.5], "mu": [-1.0, 1.0]}
CALLS = {
    "missing parameter": (lambda m: m.log_likelihood({"w": [0.5, 0.5]}), "missing.*'mu'"),
    "unknown parameter": (lambda m: m.log_likelihood({**GOOD, "nu": 1}), "unknown.*'nu'"),
    "wrong parameter shape": (
        lambda m: m.log_likelihood({**GOOD, "mu": [1.0, 2.0, 3.0]}), r"'mu'.*\(3,\).*\(2,\)",
    ),
    "NaN parameter": (lambda m: m.log_likelihood({**GOOD, "mu": [np.nan, 1]}), "'mu'.*NaN"),
    "not a simplex": (lambda m: m.log_likelihood({**GOOD, "w": [0.5, 0.9]}), "'w'.*support"),
    "params not a dict": (lambda m: m.posterior([1, 2]), "expected a dict"),
    "unknown fixed": (lambda m: fit_em(m, fixed={"nu": 1}), "fixed: unknown.*'nu'"),
    "unknown init": (lambda m: fit_em(m, init={"nu": 1}), "init: unknown.*'nu'"),
    "init kind": (lambda m: fit_em(m, init="best"), "init.*'best'.*expected one of"),
    "objective": (lambda m: fit_em(m, objective="mode"), "objective.*'mle' or 'map'"),
    "starts": (lambda m: fit_em(m, starts=0), "starts.*positive integer"),
    "max_iter": (lambda m: fit_mle(m, max_iter=-1), "max_iter.*positive"),
    "tol": (lambda m: fit_mle(m, tol=0), "tol.*positive"),
    "chains": (lambda m: fit_nuts(m, chains=0), "chains.*positive integer"),
    "model": (lambda m: fit_em(mixture), "model.*expected a pp_mlem.Model"),
    "other dtype": (lambda m: fit_em(m, dtype="float32"), "dtype.*Model"),
    "unknown data": (lambda m: m.with_data(y=X), "unknown data.*'y'"),
    "nothing to compare": (lambda m: compare({}), "non-empty dict"),
    "comparing others": (lambda m: compare({"EM": 3}), "'EM' is int"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CALLS))
def test_calling(name, model):
    call, message = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call(model)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.nc"):
        load(tmp_path / "nothing.nc")
    fit = fit_em(Model(counts, np.array([1, 2, 3])))
    path = fit.save(tmp_path / "fit.nc")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"fit\.nc.*truncated"):
        load(path)


def test_subsampling_is_refused_by_the_plates_name():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 12, subsample_size=4) as rows:
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x[rows])

    with pytest.raises(ValueError, match="^plate 'rows' subsamples 4 of 12"):
        Model(program, X)
