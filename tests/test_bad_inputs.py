"""Bad data and bad options: an error that names the argument or site, says what it received and
what to do, before any compilation."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from pp_mlem import (
    Model,
    calibrate,
    compare,
    experiment,
    fit_em,
    fit_laplace,
    fit_map,
    fit_mle,
    fit_nuts,
    likelihood_ratio_test,
    load,
    select,
)

ROWS = 12
Y = np.linspace(-1.5, 2, ROWS)
X = np.stack([np.linspace(0, 1, ROWS), np.cos(np.arange(ROWS))], 1)
G = np.arange(ROWS) % 3
COUNTS = np.arange(ROWS) % 4
TWO = np.full(ROWS, 2.0)
BETA = np.linspace(0.1, 0.9, ROWS)


def put(array, index, value):
    changed = np.array(array, float if isinstance(value, float) else None)
    changed[index] = value
    return changed


def each(name, law, obs):
    with numpyro.plate(f"{name}_rows", ROWS):
        numpyro.sample(name, law, obs=obs)


def normal(name="a"):
    return numpyro.sample(name, dist.Normal(0, 1))


def regression(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    each("y", dist.Normal(X @ b, numpyro.sample("s", dist.HalfNormal(1))), y)


def logarithm(x, y):
    each("y", dist.Normal(normal() * jnp.log(x), 1), y)


def ratio(x, y):
    each("y", dist.Normal(normal() * x / x.sum(), 1), y)


def logistic(x, y):
    each("y", dist.Bernoulli(logits=normal() * x), y)


def weighed_mean(x, y):
    logits = jnp.stack([normal("c") * x, 0 * x], -1)
    with numpyro.plate("rows", ROWS):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("y", dist.Normal(jnp.array([0.0, 1.0])[z], 1.0), obs=y)


def groups(g, y):
    with numpyro.plate("G", 3):
        a = normal()
    each("y", dist.Normal(a[g], 1.0), y)


def groups_from_one(g, y):
    with numpyro.plate("G", 3):
        a = normal()
    each("y", dist.Normal(a[g - 1], 1.0), y)


def taken(g, y):
    with numpyro.plate("G", 3):
        a = normal()
    each("y", dist.Normal(jnp.take(a, g), 1.0), y)


def table(g, h, y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([3, 4]).to_event(2))
    each("y", dist.Normal(a[g, h], 1.0), y)


def latent_groups(g, y):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("G", 3):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
    each("y", dist.Normal(mu[z[g]], 1.0), y)


def covariate_of_group(g, x, y):
    each("y", dist.Normal(normal() * x[g], 1.0), y)


def chain(g, y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))

    def step(z, data):
        group, value = data
        z = numpyro.sample("z", dist.Categorical(jnp.array([[0.9, 0.1], [0.2, 0.8]])[z]))
        numpyro.sample("y", dist.Normal(a[group] + z, 1.0), obs=value)
        return z, None

    scan(step, 0, (g, y))


def known_scale(s, y):
    each("y", dist.Normal(normal(), s), y)


def known_concentration(v, y):
    each("y", dist.Gamma(v, numpyro.sample("r", dist.Gamma(1, 1))), y)


def exposure(e, c):
    each("c", dist.Poisson(e * numpyro.sample("r", dist.Gamma(1, 1))), c)


def log_exposure(e, x, c):
    each("c", dist.Poisson(e * jnp.exp(normal() * x)), c)


def binomial(n, c):
    each("c", dist.Binomial(n, numpyro.sample("p", dist.Beta(1, 1))), c)


def known_probability(p, c):
    r = numpyro.sample("r", dist.Gamma(1, 1))
    with numpyro.plate("rows", ROWS):
        z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("c", dist.Poisson(1.0 + r * z), obs=c)


def lagged(y):
    a = normal()
    with numpyro.plate("t", ROWS - 1):
        numpyro.sample("y", dist.Normal(a * y[:-1], 1.0), obs=y[1:])


def proportions(v):
    each("v", dist.Beta(numpyro.sample("a", dist.Gamma(2, 1)), 2.0), v)


def both_shapes(v):
    a = numpyro.sample("a", dist.Gamma(2, 1))
    each("v", dist.Beta(a, numpyro.sample("b", dist.Gamma(2, 1))), v)


def waiting(v):
    each("v", dist.LogNormal(normal(), 1.0), v)


def bernoulli(y):
    each("y", dist.Bernoulli(numpyro.sample("p", dist.Beta(1, 1))), y)


def categories(y):
    each("y", dist.Categorical(numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))), y)


def multinomial(y):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Multinomial(4, p), obs=y)


def weighted(w, y):
    mu = normal()
    with numpyro.plate("rows", ROWS), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def masked(m, y):
    mu = normal()
    with numpyro.plate("rows", ROWS), handlers.mask(mask=m):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def masked_groups(g, y):
    with numpyro.plate("G", 3):
        a = normal()
    with handlers.mask(mask=g >= 0):
        each("y", dist.Normal(a[g], 1.0), y)


def half_masked(m, y):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", ROWS):
        with handlers.mask(mask=m):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def simple(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, s), obs=y)


def on_the_host(g, y):
    with numpyro.plate("G", 3):
        a = normal()
    assert float(np.asarray(g).sum()) < 1000  # needs numbers, no tracers
    each("y", dist.Normal(a[np.asarray(g)], 1.0), np.asarray(y))


def known_bernoulli(p, y):
    each("y", dist.Bernoulli(p), y)
    each("x", dist.Normal(normal(), 1.0), Y)


def known_trials(p, y):
    each("y", dist.Binomial(3, p), y)
    each("x", dist.Normal(normal(), 1.0), Y)


def detected(effort, y):
    each("y", dist.Bernoulli(effort * numpyro.sample("p", dist.Beta(1, 1))), y)


def known_categories(p, y):
    each("y", dist.Categorical(p), y)
    each("x", dist.Normal(normal(), 1.0), Y)


def two_of_four(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    each("y", dist.Categorical(jnp.stack([p, 1 - p, 0 * p, 0 * p])), y)


def excluded_logits(y):
    each("y", dist.Categorical(logits=normal() + jnp.array([0.0, 1.0, -jnp.inf, 0.0])), y)


def emitted(emission):
    def program(y):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("rows", ROWS):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Categorical(emission[z]), obs=y)

    return program


def emitted_in_a_scan(emission):
    def program(y):
        T = numpyro.sample("T", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))

        def body(z, now):
            z = numpyro.sample("z", dist.Categorical(T[z]))
            numpyro.sample("y", dist.Categorical(emission[z]), obs=now)
            return z, None

        scan(body, 0, y)

    return program


def masked_impossible(m, y):
    with handlers.mask(mask=m):
        each("y", dist.Bernoulli(NEVER_FOURTH), y)
    each("x", dist.Normal(normal(), 1.0), Y)


def neighbours(y):
    ring = np.roll(np.eye(ROWS), 1, 0) + np.roll(np.eye(ROWS), -1, 0)
    a = numpyro.sample("a", dist.CAR(jnp.zeros(ROWS), 0.5, 1.0, ring, is_sparse=True))
    numpyro.sample("b", dist.CAR(a, 0.5, 1.0, ring, is_sparse=True), obs=y)


def from_globals():
    with numpyro.plate("G", 3):
        a = normal()
    each("y", dist.Normal(a[FOURTH_GROUP], 1.0), TABLE["y"])


def from_a_table():
    each("y", dist.Normal(normal() * TABLE["x"], 1.0), TABLE["y"])


class Study:
    def __init__(self):
        self.scale = put(TWO, 4, 0.0)

    def program(self, y):
        each("y", dist.Normal(normal(), self.scale), y)


NEVER_FOURTH = put(np.full(ROWS, 0.5), 3, 0.0)
FOURTH_GROUP = put(G, 5, 3)
TABLE = {"x": put(TWO, 4, np.nan), "y": Y}
ONE_EXPLAINS = jnp.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6]])
NONE_EXPLAINS = jnp.array([[0.5, 0.5, 0.0, 0.0], [0.4, 0.6, 0.0, 0.0]])
NAN, INF = np.nan, np.inf
ONES = np.ones(ROWS)
# name: (program, arguments, what the message says)
DATA = {
    "covariate NaN": (regression, (put(X, (3, 1), NAN), Y), r"'X'.*nan.*\(3, 1\).*drop"),
    "covariate inf": (regression, (put(X, (3, 1), INF), Y), r"'X'.*inf.*\(3, 1\).*'y'"),
    "covariate -inf": (regression, (put(X, (0, 0), -INF), Y), r"'X'.*-inf.*\(0, 0\)"),
    "every covariate NaN": (regression, (X * NAN, Y), "'X'.*nan"),
    "observation inf": (regression, (X, put(Y, 2, INF)), "'y'.*infinite.*2"),
    "log of zero": (logarithm, (put(TWO, 4, 0.0), Y), r"-inf.*\(4,\).*log.*'x'"),
    "log of a negative": (logarithm, (put(TWO, 4, -1.0), Y), r"nan.*\(4,\).*log.*'x'"),
    "0 / 0": (ratio, (0 * TWO, Y), "'y'.*'x'.*finite"),
    "NaN in logits": (logistic, (put(TWO, 1, NAN), COUNTS % 2), r"'x'.*nan.*\(1,\)"),
    "inf in logits": (logistic, (put(TWO, 1, INF), COUNTS % 2), r"'x'.*inf.*\(1,\)"),
    "NaN in a latent's logits": (weighed_mean, (put(TWO, 1, NAN), Y), r"'x'.*nan.*\(1,\).*'z'"),
    "NaN in a known scale": (known_scale, (put(TWO, 2, NAN), Y), r"'s'.*nan.*\(2,\)"),
    "NaN in an exposure": (exposure, (put(TWO, 2, NAN), COUNTS), r"'e'.*nan.*\(2,\)"),
    "NaN in a lag": (lagged, (put(Y, 2, NAN),), r"'y'.*nan.*\(2,\).*drop"),
    "group beyond the end": (groups, (put(G, 5, 3), Y), r"'g'.*3 at index \(5,\).*0 to 2"),
    "group -1": (groups, (put(G, 5, -1), Y), r"'g'.*-1 at index \(5,\).*factorize.*drop"),
    "group -2": (groups, (put(G, 5, -2), Y), r"'g'.*-2 at index \(5,\)"),
    "groups from one": (groups, (G + 1, Y), r"'g'.*3 at index \(2,\).*Count from 0"),
    "group 0 of 1, 2, 3": (groups_from_one, (put(G + 1, 4, 0), Y), r"'g'.*-1 at index \(4,\)"),
    "take beyond the end": (taken, (put(G, 5, 3), Y), r"'g'.*3 at index \(5,\)"),
    "take -1": (taken, (put(G, 5, -1), Y), r"'g'.*-1 at index \(5,\)"),
    "row of a table": (table, (put(G, 5, 3), G, Y), r"'g'.*3 at index \(5,\).*0 to 2"),
    "column of a table": (table, (G, put(G, 5, 4), Y), r"'h'.*4 at index \(5,\).*0 to 3"),
    "latent's group beyond the end": (latent_groups, (put(G, 5, 3), Y), r"'g'.*3 at index \(5,\)"),
    "latent's group -1": (latent_groups, (put(G, 5, -1), Y), r"'g'.*-1 at index \(5,\)"),
    "data looked up beyond the end": (
        covariate_of_group, (put(G, 5, 3), TWO[:3], Y), r"'g'.*3 at index \(5,\)",
    ),
    "group in a scan beyond the end": (chain, (put(G, 3, 3), Y), r"'g'.*3 at index \(3,\).*0 to 2"),
    "group in a scan -1": (chain, (put(G, 3, -1), Y), r"'g'.*-1 at index \(3,\).*0 to 2"),
    "zero scale": (known_scale, (put(TWO, 2, 0.0), Y), r"'s'.*0.0 at index \(2,\) is scale"),
    "negative scale": (known_scale, (put(TWO, 2, -1.0), Y), r"'s'.*-1.0 at index \(2,\) is scale"),
    "zero scale of all": (known_scale, (0.0, Y), r"constant of the program.*0.0 is scale of site 'y'"),
    "concrete group beyond the end": (on_the_host, (put(G, 5, 3), Y), r"'g'.*3 at index \(5,\)"),
    "concrete group -1": (on_the_host, (put(G, 5, -1), Y), r"'g'.*-1 at index \(5,\).*factorize"),
    "global group beyond the end": (from_globals, (), r"FOURTH_GROUP.*3 at index \(5,\).*0 to 2"),
    "global NaN": (from_a_table, (), r"TABLE\['x'\].*nan at index \(4,\).*loc of site 'y'"),
    "attribute zero": (Study().program, (Y,), r"self\.scale.*0.0 at index \(4,\) is scale"),
    "scale of a partial": (
        functools.partial(known_scale, put(TWO, 4, 0.0)), (Y,), r"constant s .*0.0 at index \(4,\)",
    ),
    "number by its name": (known_scale, (-1.0, Y), r"equal to argument 's'.*-1.0 is scale"),
    "never, but seen": (
        known_bernoulli, (NEVER_FOURTH, COUNTS % 2), r"'y'.*\(3,\).*probability zero.*probs.*'p'.*mask",
    ),
    "always, but not seen": (known_bernoulli, (ONES, put(0 * G + 1, 4, 0)), r"'y'.*\(4,\).*'p'"),
    "never in three trials": (known_trials, (NEVER_FOURTH, COUNTS), r"'y'.*\(3,\).*'p'"),
    "no effort, but detected": (
        detected, (put(TWO / 2, 3, 0.0), COUNTS % 2), r"'y'.*\(3,\).*probability zero.*'effort'",
    ),
    "category of probability zero": (
        known_categories, (NONE_EXPLAINS[0], COUNTS), r"'y'.*\(2,\).*probability zero.*'p'",
    ),
    "computed probability zero": (two_of_four, (COUNTS,), r"'y'.*\(2,\).*probability zero"),
    "logit of minus infinity": (excluded_logits, (COUNTS,), r"'y'.*\(2,\).*logits"),
    "no state explains it": (emitted(NONE_EXPLAINS), (COUNTS,), r"'y'.*\(2,\).*emission"),
    "no state of a chain explains it": (
        emitted_in_a_scan(NONE_EXPLAINS), (COUNTS,), r"'y'.*\(2,\).*emission",
    ),
    "shown under a mask": (masked_impossible, (G < 2, put(0 * G, 3, 1)), r"'y'.*\(3,\).*NEVER_FOURTH"),
    "zero concentration": (known_concentration, (put(TWO, 2, 0.0), TWO), r"'v'.*0.0.*concentration"),
    "zero exposure": (exposure, (put(TWO, 2, 0.0), COUNTS), r"'e'.*0.0 at index \(2,\).*rate"),
    "negative exposure": (exposure, (put(TWO, 2, -1.0), COUNTS), r"'e'.*-1.0.*rate of site 'c'"),
    "zero exposure of a regression": (
        log_exposure, (put(TWO, 2, 0.0), Y, COUNTS), r"'e'.*0.0 at index \(2,\).*rate",
    ),
    "negative trials": (binomial, (put(COUNTS + 1, 2, -1), COUNTS * 0), r"'n'.*-1 at index \(2,\)"),
    "more successes than trials": (binomial, (put(COUNTS + 1, 3, 0), COUNTS), r"'c'.*3.*support"),
    "probability of 1.5": (known_probability, (put(BETA, 2, 1.5), COUNTS), r"'p'.*1.5.*\(2,\).*'z'"),
    "probability of -0.1": (known_probability, (put(BETA, 2, -0.1), COUNTS), r"'p'.*-0.1"),
    "Beta at 0": (proportions, (put(BETA, 1, 0.0),), r"'v'.*0.0 at index \(1,\).*Beta.*0"),
    "Beta at 1": (proportions, (put(BETA, 1, 1.0),), r"'v'.*1.0 at index \(1,\).*Beta"),
    "Beta of two shapes at 0": (both_shapes, (put(BETA, 1, 0.0),), r"'v'.*0.0 at index \(1,\)"),
    "LogNormal at 0": (waiting, (put(TWO, 1, 0.0),), r"'v'.*0.0 at index \(1,\)"),
    "LogNormal at -1": (waiting, (put(TWO, 1, -1.0),), r"'v'.*-1.0 at index \(1,\).*support"),
    "Bernoulli of 2": (bernoulli, (put(COUNTS % 2, 3, 2),), r"'y'.*2 at index \(3,\).*Bernoulli"),
    "Bernoulli of 0.5": (bernoulli, (put(Y * 0, 3, 0.5),), r"'y'.*0.5 at index \(3,\).*Bernoulli"),
    "category of none": (categories, (put(G, 3, 3),), r"'y'.*3 at index \(3,\).*Categorical"),
    "category -1": (categories, (put(G, 3, -1),), r"'y'.*-1 at index \(3,\).*Categorical"),
    "Multinomial of other total": (
        multinomial, (np.array([[1, 2, 1], [1, 1, 1]]),), "'y'.*index.*Multinomial",
    ),
    "negative weight": (weighted, (put(ONES, 2, -1.0), Y), "scale at site 'y'.*not negative"),
    "NaN weight": (weighted, (put(ONES, 2, NAN), Y), "'y'.*weights must be finite"),
    "weights of other length": (weighted, (ONES[:5], Y), r"'y'.*\(5,\)|'w'"),
    "mask of other length": (masked, (ONES[:5] > 0, Y), r"'y'|'m'"),
    "mask of integers": (masked, (put(COUNTS, 0, 7), Y), "mask.*should be a bool array.*mask=m"),
    "mask of a latent alone": (half_masked, (G > 0, Y), "mask hides latent 'z'.*same mask"),
    "all weights zero": (weighted, (0 * ONES, Y), "no data: every observation of 'y'.*weight"),
    "all masked": (masked, (ONES < 0, Y), "no data: every observation of 'y' is missing or masked"),
    "all missing": (simple, (Y * NAN,), "no data: every observation of 'y' is missing or masked"),
    "all of a mixture missing": (mixture, (Y * NAN,), "no data: every observation of 'x'"),
    "covariates of other length": (regression, (X[:5], Y), r"'y'|'X'"),
    "strings": (regression, (X, list("abcdefghijkl")), "'y'.*expected numbers"),
    "strings in a covariate": (logarithm, (np.array(list("abcdefghijkl")), Y), "'x'.*no numbers"),
    "ragged": (simple, ([[1.0, 2.0], [3.0]],), "'y'.*expected numbers"),
    "dictionary as observation": (simple, ({"a": 1.0},), "'y'.*expected numbers"),
    "complex": (simple, (Y + 1j,), "'y'.*complex"),
    "an iterator": (simple, (iter(Y.tolist()),), "'y'.*iterator.*list"),
    "empty": (simple, (np.zeros(0),), "'y'.*empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data(name):
    program, arguments, message = DATA[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}") as caught:
        Model(program, *arguments)
    assert "jax" not in type(caught.value).__module__


# name: (program, good arguments, what is put in by name, what the message says)
OTHER_DATA = {
    "covariate NaN": (regression, (X, Y), {"X": put(X, (3, 1), NAN)}, r"'X'.*nan.*\(3, 1\)"),
    "log of zero": (logarithm, (TWO, Y), {"x": put(TWO, 4, 0.0)}, r"-inf.*\(4,\).*log.*'x'"),
    "group beyond the end": (groups, (G, Y), {"g": put(G, 5, 3)}, r"'g'.*3 at index \(5,\)"),
    "group -1": (groups, (G, Y), {"g": put(G, 5, -1)}, r"'g'.*-1 at index \(5,\)"),
    "zero exposure": (exposure, (TWO, COUNTS), {"e": put(TWO, 2, 0.0)}, r"'e'.*0.0.*\(2,\)"),
    "more successes than trials": (
        binomial,
        (COUNTS + 1, COUNTS),
        {"c": COUNTS + 2},
        r"'c'.*index.*support",
    ),
    "Beta at 0": (proportions, (BETA,), {"v": put(BETA, 1, 0.0)}, r"'v'.*0.0 at index \(1,\)"),
    "all missing": (simple, (Y,), {"y": Y * NAN}, "no data.*'y'"),
    "unknown name": (simple, (Y,), {"z": Y}, "unknown data.*'z'.*'y'"),
    "other shape": (regression, (X, Y), {"X": X[:, :1]}, "'X'|'b'|'y'"),
    "other length": (regression, (X, Y), {"y": Y[:7]}, "'y'"),
    "strings": (simple, (Y,), {"y": np.array(list("abcdefghijkl"))}, "'y'.*expected numbers"),
    "infinite": (simple, (Y,), {"y": put(Y, 1, INF)}, "'y'.*infinite.*1"),
}


@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data(name):
    program, arguments, values, message = OTHER_DATA[name]
    model = Model(program, *arguments)
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}") as caught:
        model.with_data(**values)
    assert "jax" not in type(caught.value).__module__


OPTIONS = {
    "labels of other length": ({"observe": {"z": [0, 1]}}, r"'z'.*\(2,\).*\(12,\)"),
    "labels of no value": ({"observe": {"z": put(G % 2, 2, 5)}}, "'z'.*5.*expected values"),
    "too many words": ({"observe": {"z": list("abcabcabcabc")}}, "observe: 'z'.*3 different words"),
    "labels of no latent": ({"observe": {"y": G}}, "observe: 'y' is no latent.*'z'"),
    "labels of a parameter": ({"observe": {"mu": [0.0, 1.0]}}, "observe: 'mu'.*fixed="),
    "labels not by name": ({"observe": G % 2}, "observe: received ndarray.*dict"),
    "unknown latent": ({"latents": {"k"}}, "latents: unknown.*'k'"),
    "observed latent": ({"latents": {"x"}}, "latents.*'x'"),
    "continuous latent": ({"latents": {"mu"}}, "latent 'mu'"),
    "latents as a number": ({"latents": 3}, "latents: received int.*names"),
    "unknown parameter": ({"parameters": {"k"}}, "parameters: unknown.*'k'"),
    "discrete parameter": ({"parameters": {"z"}}, "'z' is discrete"),
    "integer dtype": ({"dtype": "int32"}, "dtype.*float32 or float64"),
    "no dtype": ({"dtype": "double precision"}, "dtype.*float32 or float64"),
    "unknown option": ({"labels": G}, "arguments do not fit.*'labels'"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_model(name):
    options, message = OPTIONS[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        Model(mixture, Y, **options)


GOOD = {"w": [0.5, 0.5], "mu": [-1.0, 1.0]}
CALLS = {
    "no params": (lambda m: m.log_likelihood({}), "missing.*'mu'"),
    "params missing one": (lambda m: m.log_likelihood({"mu": [0.0, 1.0]}), "missing.*'w'"),
    "params unknown": (lambda m: m.log_prior({**GOOD, "nu": 1}), "unknown.*'nu'"),
    "params of other shape": (
        lambda m: m.posterior({**GOOD, "mu": [1.0, 2.0, 3.0]}),
        r"'mu'.*\(2,\)",
    ),
    "params NaN": (lambda m: m.decode({**GOOD, "mu": [NAN, 1.0]}), "'mu'.*NaN"),
    "params infinite": (lambda m: m.log_likelihood({**GOOD, "mu": [INF, 1.0]}), "'mu'.*inf"),
    "params no simplex": (lambda m: m.log_likelihood({**GOOD, "w": [0.7, 0.7]}), "'w'.*support"),
    "params negative": (lambda m: m.log_likelihood({**GOOD, "w": [1.5, -0.5]}), "'w'.*support"),
    "params as text": (lambda m: m.log_likelihood({**GOOD, "mu": "large"}), "'mu'.*number"),
    "params no dict": (lambda m: m.log_likelihood(0.5), "params.*dict"),
    "draws of latents": (lambda m: m.sample_latents(GOOD, draws=0), "draws.*positive integer"),
    "seed of draws": (lambda m: m.sample_latents(GOOD, seed="a"), "seed.*integer"),
    "starts of zero": (lambda m: fit_em(m, starts=0), "starts.*positive integer"),
    "starts of 2.5": (lambda m: fit_mle(m, starts=2.5), "starts.*positive integer"),
    "seed as text": (lambda m: fit_em(m, seed="one"), "seed.*integer"),
    "seed of 1.5": (lambda m: fit_mle(m, seed=1.5), "seed.*integer"),
    "init unknown word": (lambda m: fit_em(m, init="best"), "init.*'best'.*one of"),
    "init unknown name": (lambda m: fit_em(m, init={"nu": 1}), "init: unknown.*'nu'"),
    "init of other shape": (lambda m: fit_em(m, init={"mu": [1.0, 2.0, 3.0]}), "init.*'mu'.*shape"),
    "init outside": (lambda m: fit_em(m, init={"w": [2.0, -1.0]}), "init.*'w'.*support"),
    "init NaN": (lambda m: fit_mle(m, init={"mu": [NAN, 0.0]}), "init.*'mu'.*NaN"),
    "fixed unknown": (lambda m: fit_em(m, fixed={"nu": 1}), "fixed: unknown.*'nu'"),
    "fixed of other shape": (
        lambda m: fit_map(m, fixed={"mu": [1.0, 2.0, 3.0]}),
        "fixed.*'mu'.*shape",
    ),
    "fixed outside": (lambda m: fit_em(m, fixed={"w": [2.0, -1.0]}), "fixed.*'w'.*support"),
    "fixed latent": (lambda m: fit_em(m, fixed={"z": 1}), "fixed.*'z'"),
    "fixed no dict": (lambda m: fit_em(m, fixed="mu"), "fixed.*dict"),
    "everything fixed": (lambda m: fit_nuts(m, fixed=GOOD), "every parameter is fixed"),
    "tol of zero": (lambda m: fit_mle(m, tol=0), "tol.*positive"),
    "tol NaN": (lambda m: fit_em(m, tol=NAN), "tol.*positive"),
    "tol as text": (lambda m: fit_em(m, tol="small"), "tol.*positive"),
    "max_iter of -1": (lambda m: fit_em(m, max_iter=-1), "max_iter.*positive"),
    "max_iter of 2.5": (lambda m: fit_em(m, max_iter=2.5), "max_iter.*positive"),
    "objective unknown": (lambda m: fit_em(m, objective="mode"), "objective.*'mle' or 'map'"),
    "dtype of a fit": (lambda m: fit_em(m, dtype="float32"), "dtype.*Model"),
    "no model": (lambda m: fit_mle(mixture), "model.*expected a pp_mlem.Model"),
    "chains": (lambda m: fit_nuts(m, chains=0), "chains.*positive integer"),
    "draws": (lambda m: fit_nuts(m, draws=-5), "draws.*positive"),
    "warmup": (lambda m: fit_nuts(m, warmup="long"), "warmup.*integer"),
    "target_accept": (lambda m: fit_nuts(m, target_accept=1.5), "target_accept.*between"),
    "max_tree_depth": (lambda m: fit_nuts(m, max_tree_depth=0), "max_tree_depth.*positive"),
    "chain_method": (lambda m: fit_nuts(m, chain_method="fast"), "chain_method.*'fast'"),
    "order_by": (lambda m: fit_nuts(m, order_by="nu"), "order_by.*'nu'"),
    "draws of Laplace": (lambda m: fit_laplace(m, draws=0), "draws.*positive"),
    "compare nothing": (lambda m: compare({}), "non-empty dict"),
    "compare a list": (lambda m: compare([1, 2]), "dict of fits"),
    "compare numbers": (lambda m: compare({"EM": 3}), "'EM' is int"),
    "select no method": (lambda m: select(mixture, Y, K=[1, 2], methods=()), "methods"),
    "select unknown method": (lambda m: select(mixture, Y, K=[1, 2], methods="sgd"), "'sgd'"),
    "select nothing": (lambda m: select(mixture, Y, K=[]), "K"),
    "select without a list": (lambda m: select(mixture, Y, K=2), "select.*list|range|several"),
    "select bad bootstrap": (lambda m: select(mixture, Y, K=[1, 2], bootstrap=-1), "bootstrap"),
    "experiment params": (lambda m: experiment(m, {"w": [0.5, 0.5]}), "params.*missing.*'mu'"),
    "experiment replicates": (lambda m: experiment(m, GOOD, replicates=0), "replicates.*positive"),
    "experiment method": (lambda m: experiment(m, GOOD, methods="sgd"), "methods.*'sgd'"),
    "experiment level": (lambda m: experiment(m, GOOD, level=95), "level.*between 0 and 1"),
    "experiment model": (lambda m: experiment(mixture, GOOD), "model.*pp_mlem.Model"),
    "calibrate replicates": (lambda m: calibrate(m, replicates=0), "replicates.*positive"),
    "likelihood ratio of models": (lambda m: likelihood_ratio_test(m, m), "expected.*[Ff]it"),
}


@pytest.fixture(scope="module")
def model():
    return Model(mixture, Y)


@pytest.mark.parametrize("name", CALLS)
def test_calls(name, model):
    call, message = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}") as caught:
        call(model)
    assert "jax" not in type(caught.value).__module__


ON_A_FIT = {
    "bootstrap kind": (lambda f: f.bootstrap(kind="wild"), "kind.*'wild'.*parametric"),
    "bootstrap replicates": (lambda f: f.bootstrap(replicates=0), "replicates.*at least 2"),
    "bootstrap seed": (lambda f: f.bootstrap(seed=None), "seed.*integer"),
    "profile unknown": (lambda f: f.profile("nu"), "'nu'.*mu"),
    "profile level": (lambda f: f.profile("mu", level=1.5), "level.*between 0 and 1"),
    "intervals kind": (lambda f: f.intervals("exact"), "kind.*'exact'"),
    "intervals level": (lambda f: f.intervals(level=95), "level.*between 0 and 1"),
    "intervals level as text": (lambda f: f.intervals(level="95%"), "level.*between 0 and 1"),
    "intervals names": (lambda f: f.intervals(names=["nu"]), "names.*'nu'"),
    "covariance kind": (lambda f: f.covariance("exact"), "'exact'"),
    "load a directory": (lambda f: load("."), "is a folder, expected a file"),
    "load a number": (lambda f: load(3), "int as path.*file name"),
}


@pytest.fixture(scope="module")
def fit():
    return fit_mle(Model(simple, Y), starts=1)


@pytest.mark.parametrize("name", ON_A_FIT)
def test_calls_on_a_fit(name, fit):
    call, message = ON_A_FIT[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        call(fit)


def test_files_that_are_no_fit(tmp_path, fit):
    with pytest.raises(FileNotFoundError, match="absent.nc"):
        load(tmp_path / "absent.nc")
    (tmp_path / "text.nc").write_text("no fit")
    with pytest.raises(ValueError, match=r"text\.nc"):
        load(tmp_path / "text.nc")
    path = fit.save(tmp_path / "fit.nc")
    with pytest.raises(ValueError, match=r"fit\.nc.*data"):
        load(path, Model(simple, Y + 1))
    with pytest.raises((TypeError, ValueError), match="model"):
        load(path, simple)


# What looks bad and is not: each is accepted.
ACCEPTED = {
    "missing observations": (regression, (X, put(Y, 2, NAN))),
    "masked -1": (masked_groups, (put(G, 5, -1), Y)),
    "identity link": (
        lambda x, c: each("c", dist.Poisson(normal() + normal("b") * x), c), (Y, COUNTS),
    ),
    "x[-1]": (lambda x, y: each("y", dist.Normal(normal() * x[-1], 1), y), (Y, Y)),
    "a zero covariate": (lambda x, y: each("y", dist.Normal(normal() * x, 1), y), (0 * Y, Y)),
    "some weights zero": (weighted, (put(ONES, 2, 0.0), Y)),
    "half-normal at 0": (
        lambda v: each("v", dist.HalfNormal(numpyro.sample("s", dist.HalfNormal(1))), v),
        (put(TWO, 1, 1e-300),),
    ),
    "uniform beyond a parameter": (
        lambda v: each("v", dist.Uniform(0, numpyro.sample("top", dist.HalfNormal(9))), v),
        (TWO,),
    ),
    "group in a scan": (chain, (G, Y)),
    "zero trials": (binomial, (0 * COUNTS, 0 * COUNTS)),
    "never, and not seen": (known_bernoulli, (NEVER_FOURTH, put(COUNTS % 2, 3, 0))),
    "no effort, not detected": (detected, (put(TWO / 2, 3, 0.0), put(COUNTS % 2, 3, 0))),
    "a state explains it": (emitted(ONE_EXPLAINS), (COUNTS,)),
    "a state of a chain explains it": (emitted_in_a_scan(ONE_EXPLAINS), (COUNTS,)),
    "impossible under a mask": (masked_impossible, (G > 0, put(0 * G, 3, 1))),
    "a category never seen": (known_categories, (NONE_EXPLAINS[0], COUNTS % 2)),
    "sparse neighbours": (neighbours, (Y,)),
    "value of a known weight": (
        lambda y: each("y", dist.Delta(y, log_density=normal()), y) or each("x", dist.Normal(0, 1), y), (Y,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_no_false_refusal(name):
    program, arguments = ACCEPTED[name]
    Model(program, *arguments)


def test_other_data_of_probability_zero():
    model = Model(known_bernoulli, NEVER_FOURTH, put(COUNTS % 2, 3, 0))
    model.with_data(y=put(COUNTS % 2, 3, 0))
    before = len(model.bound.kept.once("inputs", dict)._densities)
    with pytest.raises(ValueError, match=r"'y'.*\(3,\).*probability zero"):
        model.with_data(y=COUNTS % 2)
    assert len(model.bound.kept.once("inputs", dict)._densities) == before == 1


def test_data_that_cannot_be_checked_are_told(monkeypatch):
    def fails(self, reading):
        raise KeyError("site that the program looks for")

    monkeypatch.setattr("pp_mlem.program.checks.inputs.Inputs.__init__", fails)
    with pytest.warns(UserWarning, match="not checked.*KeyError.*site that the program looks for"):
        Model(mixture, Y)


def test_a_model_inside_of_a_program(model):
    chosen = select(lambda K: Model(model.program, *model.arguments.values()[0]), K=range(1, 3))
    assert chosen.table["note"].str.contains("inside of a program").all() and not chosen.fits
