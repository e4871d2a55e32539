"""Programs as people write them: read, and with NumPyro's own density summed over the latents."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from everyday import enumerated, point
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from scipy import stats

from pp_mlem import Model, fit_em, fit_mle

RNG = np.random.default_rng(0)
X = RNG.normal(size=5)
POSITIVE = np.abs(X) + 0.3
COUNTS = np.array([0, 2, 1, 3, 1])
BITS = np.array([0, 1, 1, 0, 1])
TOTALS = np.array([3, 2, 3, 1, 0])


def agrees(program, *args, parameters=(), **kwargs):
    """Read a program, and compare with NumPyro at a point."""
    model = Model(program, *args, parameters=parameters, **kwargs)
    assert str(model)
    params = point(model)
    found = model.log_likelihood(params), model.log_prior(params)
    np.testing.assert_allclose(found, enumerated(model, params, args, kwargs), rtol=1e-9, atol=1e-9)
    return model


# --- numbers of any kind as arguments of a distribution -------------------------------------

# name: (distribution of the observation at a real number, observations)
LITERALS = {
    "normal": (lambda a: dist.Normal(a, 1), X),
    "normal, NumPy scalars": (lambda a: dist.Normal(a, np.int64(2)), X),
    "normal, float32": (lambda a: dist.Normal(np.float32(1), jnp.exp(a)), X),
    "normal, boolean": (lambda a: dist.Normal(a, True), X),
    "normal, integer array": (lambda a: dist.Normal(a, np.array([1, 2, 1, 2, 1])), X),
    "normal, known location": (lambda a: dist.Normal(0, jnp.exp(a)), X),
    "lognormal": (lambda a: dist.LogNormal(a, 1), POSITIVE),
    "gamma": (lambda a: dist.Gamma(2, jnp.exp(a)), POSITIVE),
    "gamma, rate": (lambda a: dist.Gamma(jnp.exp(a), 1), POSITIVE),
    "beta": (lambda a: dist.Beta(jnp.exp(a), 2), POSITIVE / 4),
    "von Mises": (lambda a: dist.VonMises(a, 2), X),
    "student": (lambda a: dist.StudentT(3, a, 1), X),
    "binomial": (lambda a: dist.Binomial(5, logits=a), COUNTS),
    "negative binomial": (lambda a: dist.NegativeBinomial2(jnp.exp(a), 2), COUNTS),
    "truncated": (lambda a: dist.TruncatedNormal(a, 1, low=0), POSITIVE),
    "censored": (
        lambda a: dist.RightCensoredDistribution(dist.Normal(a, 1), np.array([0, 1, 0, 0, 1])),
        X,
    ),
    "zero-inflated": (lambda a: dist.ZeroInflatedPoisson(0.3, jnp.exp(a)), COUNTS),
    "ordered logistic": (lambda a: dist.OrderedLogistic(a, np.array([-1, 0, 1])), COUNTS),
    "bernoulli, boolean data": (lambda a: dist.Bernoulli(logits=a), BITS.astype(bool)),
    "poisson, floating data": (lambda a: dist.Poisson(jnp.exp(a)), COUNTS.astype(float)),
}


@pytest.mark.parametrize("name", sorted(LITERALS))
def test_numbers_of_any_kind_in_an_observation(name):
    make, data = LITERALS[name]

    def program(y):
        with numpyro.plate("components", 2):
            a = numpyro.sample("a", dist.Normal(np.array([0, 1]), 2))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(np.array([0.5, 0.5])))
            numpyro.sample("y", make(a[z]), obs=y)

    agrees(program, data)


PRIORS = {
    "normal": lambda: dist.Normal(0, 10),
    "NumPy scalars": lambda: dist.Normal(np.float32(0), np.int32(3)),
    "boolean": lambda: dist.Normal(False, True),
    "gamma": lambda: dist.Gamma(2, 1),
    "exponential": lambda: dist.Exponential(1),
    "uniform": lambda: dist.Uniform(0, 10),
    "expand": lambda: dist.Normal(0, 1).expand([2]).to_event(1),
    "expand_by": lambda: dist.Normal(0, 1).expand_by([2]),
    "mask": lambda: dist.Normal(0, 1).mask(False),
    "improper": lambda: dist.ImproperUniform(dist.constraints.positive, (), ()),
    "ordered": lambda: dist.TransformedDistribution(
        dist.Normal(0, 1).expand([2]), dist.transforms.OrderedTransform()
    ),
    "integer matrix": lambda: dist.MultivariateNormal(np.zeros(2, int), np.eye(2, dtype=int)),
    "one category": lambda: dist.Dirichlet(np.ones(1)),
    "integer Dirichlet": lambda: dist.Dirichlet(np.array([2, 2])),
}


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_numbers_of_any_kind_in_a_prior(name):
    def program(y):
        a = numpyro.sample("a", PRIORS[name]())
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(a[z] if jnp.size(a) == 2 else a * (1 + z), 1), obs=y)

    agrees(program, X)


@pytest.mark.parametrize(
    "prior, numbers, kind, rest, data",
    [
        (dist.Normal, (0, 3), dist.Normal, (2,), X),
        (dist.Uniform, (0, 1), dist.Bernoulli, (), BITS),
        (dist.Gamma, (2, 1), dist.Poisson, (), COUNTS),
        (dist.Beta, (2, 2), dist.Bernoulli, (), BITS),
    ],
    ids=["Normal", "Uniform", "Gamma", "Beta"],
)
def test_conjugate_priors_of_integers(prior, numbers, kind, rest, data):
    """The closed form of MAP takes powers of the prior's arguments."""

    def program(y):
        a = numpyro.sample("a", prior(*numbers))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", kind(a, *rest), obs=y)

    model = agrees(program, data)
    assert [b.method for b in model.problem({}, True).blocks] == ["closed"]
    assert fit_em(model, objective="map", starts=1).converged


INITIAL = {
    "number": 0.0,
    "integer": 1,
    "boolean": True,
    "NumPy scalar": np.float32(1),
    "list": [0.0, 1.0],
    "tuple": (1, 2),
    "integer array": np.array([0, 1]),
    "function of a key": lambda key: jax.random.uniform(key, (2,)),
}


@pytest.mark.parametrize("name", sorted(INITIAL))
def test_initial_value_of_a_param(name):
    def program(y):
        a = jnp.asarray(numpyro.param("a", INITIAL[name]))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(a[z] if jnp.ndim(a) else a * (1 + z), 1), obs=y)

    agrees(program, X)


# --- latents of every finite distribution ---------------------------------------------------

LATENTS = {
    "Bernoulli": lambda a: dist.Bernoulli(jax.nn.sigmoid(a)),
    "Bernoulli, logits": lambda a: dist.Bernoulli(logits=a),
    "Binomial": lambda a: dist.Binomial(3, jax.nn.sigmoid(a)),
    "Binomial, logits": lambda a: dist.Binomial(np.int64(2), logits=a),
    "Binomial of zero": lambda a: dist.Binomial(0, logits=a),
    "DiscreteUniform": lambda a: dist.DiscreteUniform(2, 4),
    "BetaBinomial": lambda a: dist.BetaBinomial(jnp.exp(a), 2, 2),
    "OrderedLogistic": lambda a: dist.OrderedLogistic(a, np.array([-1, 1])),
    "Categorical, logits": lambda a: dist.Categorical(logits=jnp.stack([a, 0 * a, 2 * a], -1)),
    "zero-inflated Binomial": lambda a: dist.ZeroInflatedDistribution(
        dist.Binomial(2, logits=a), gate=0.3
    ),
}


@pytest.mark.parametrize("name", sorted(LATENTS))
def test_latent_of_a_finite_distribution(name):
    """Below another latent, in a plate."""
    make = LATENTS[name]

    def program(y):
        with numpyro.plate("components", 2):
            a = numpyro.sample("a", dist.Normal(0, 1))
        m = numpyro.sample("m", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            u = numpyro.sample("u", dist.Bernoulli(0.3))
            z = numpyro.sample("z", make(a[u]))
            numpyro.sample("y", dist.Normal(m * (z - 1), 1), obs=y)

    model = agrees(program, X[:3])
    params = point(model)
    for table in model.posterior(params).values():
        np.testing.assert_allclose(table.sum(-1), 1, rtol=1e-9)
    values = model.reading.values
    for name, chosen in {**model.decode(params), **model.simulate(params)}.items():
        assert name not in values or np.isin(chosen, values[name]).all()


def gathered_groups(y, group):
    p = numpyro.sample("p", dist.Beta(1, 1))
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("groups", 2):
        z = numpyro.sample("z", dist.Binomial(3, p))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(m * z[group], 1), obs=y)


def test_latent_count_of_a_group():
    agrees(gathered_groups, X, np.array([0, 0, 1, 1, 0]))


def counts_per_row(y, totals):
    with numpyro.plate("components", 2):
        p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        u = numpyro.sample("u", dist.Bernoulli(0.4))
        k = numpyro.sample("k", dist.Binomial(totals, p[u]))
        numpyro.sample("y", dist.Normal(k, 0.5), obs=y)


def test_latent_count_out_of_a_total_per_row():
    model = agrees(counts_per_row, X + 1, TOTALS)
    params = point(model)
    posterior = model.posterior(params)["k"]
    beyond = np.arange(4) > TOTALS[:, None]
    assert np.all(posterior[beyond] == 0) and np.all(posterior[~beyond] > 0)
    other = model.with_data(totals=TOTALS + 2)
    expected = enumerated(other, params, (X + 1, TOTALS + 2), {})[0]
    np.testing.assert_allclose(other.log_likelihood(params), expected, rtol=1e-9)


def total_of_a_group(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", 5):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        k = numpyro.sample("k", dist.Binomial(jnp.array([2, 4])[z], p))
        numpyro.sample("y", dist.Poisson(0.3 + k), obs=y)


def total_of_all(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("rows", 5):
        k = numpyro.sample("k", dist.Binomial(jnp.array([3, 4])[z], p))
        numpyro.sample("y", dist.Poisson(0.3 + k), obs=y)


def total_is_a_latent(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", 5):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        k = numpyro.sample("k", dist.Binomial(z, p))
        numpyro.sample("y", dist.Poisson(0.3 + k), obs=y)


def up_to_a_latent(y):
    a = numpyro.sample("a", dist.Gamma(2, 1))
    with numpyro.plate("rows", 5):
        z = numpyro.sample("z", dist.DiscreteUniform(0, 3))
        k = numpyro.sample("k", dist.DiscreteUniform(0, z))
        numpyro.sample("y", dist.Poisson(0.3 + a * k), obs=y)


def weighted_value(y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Delta(2 * a, log_density=-(a**2)))
    with numpyro.plate("rows", 5):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        m = numpyro.sample("m", dist.Delta(a + b * z, log_density=-z * a**2))
        numpyro.sample("y", dist.Poisson(jnp.exp(m)), obs=y)


def weighted_vector(y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    b = numpyro.sample("b", dist.Delta(2 * a, log_density=-(a.sum() ** 2), event_dim=1))
    c = numpyro.sample("c", dist.Delta(a, log_density=-(a**2)).to_event(1))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Poisson(jnp.exp(b[0] - c[1])), obs=y)


def weighted_observation(y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", 5):
        numpyro.sample("w", dist.Delta(y, log_density=-a * y), obs=y)
        numpyro.sample("y", dist.Poisson(jnp.exp(a)), obs=y)


@pytest.mark.parametrize(
    "program",
    [
        total_of_a_group, total_of_all, total_is_a_latent, up_to_a_latent, weighted_value,
        weighted_vector, weighted_observation,
    ],
    ids=lambda program: program.__name__,
)  # fmt: skip
def test_totals_that_are_latent_and_values_with_a_weight(program):
    model = agrees(program, COUNTS)
    fit = fit_em(model, starts=1, seed=0, max_iter=50)
    assert fit.log_likelihood == pytest.approx(model.log_likelihood(fit.params), rel=1e-9)


def test_a_latent_total_under_observations_of_the_program():
    """NumPy arrays of the program, not arguments: they meet a bound that is traced."""

    def program(y=None):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("rows", 5):
            n = numpyro.sample("n", dist.Binomial(4, p))
            numpyro.sample("y", dist.Binomial(n, 0.6), obs=COUNTS if y is None else y)

    outside, argument = Model(program), Model(program, COUNTS)
    params = {"p": 0.7}
    expected = argument.log_likelihood(params)
    assert outside.log_likelihood(params) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("totals", [2, TOTALS], ids=["a number", "data"])
def test_m_step_of_a_latent_count_is_closed_and_the_maximum(totals):
    """EM's fixed point is the optimum of the likelihood, and its probability the expected share."""
    data = np.array([0.1, 1.9, 1.2, 0.8, 0.2])
    model = Model(counts_per_row, data, totals)
    assert [b.method for b in model.problem({}, False).blocks] == ["closed"]
    em = fit_em(model, starts=4, seed=0)
    assert em.status in ("converged", "boundary") and np.all(np.diff(em.history) >= -1e-9)
    mle = fit_mle(model, starts=4, seed=0)
    np.testing.assert_allclose(em.log_likelihood, mle.log_likelihood, atol=1e-6)


def test_total_beyond_any_table_is_refused():
    with pytest.raises(ValueError, match="latent 'k'.*whole numbers from 0 to 10000000"):
        Model(counts_per_row, X, np.full(5, 10_000_000))


# --- idioms ----------------------------------------------------------------------------------


def mixture(y, offset=0, *, scale=1, **options):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(mu[z] + offset, scale), obs=y)


class Study:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y):
        mixture(y, scale=self.scale)

    def program(self, y):
        mixture(y, scale=self.scale)


def per_column(y):
    with numpyro.plate("columns", 2, dim=-1):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", 2, dim=-2), numpyro.plate("columns", 2, dim=-1):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def points(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    twice = numpyro.sample("twice", dist.Delta(2 * mu))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        mean = numpyro.sample("mean", dist.Delta(twice * z))
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def stacked(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1), sample_shape=(2,))
    with numpyro.plate_stack("cells", [3, 1]):
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(mu[z], 1), obs=y)


def factored(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("density", -((y - mu * z) ** 2) / 2)


def drawn_by_size(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 1), sample_shape=(2,))
    z = numpyro.sample("z", dist.Categorical(w), sample_shape=(len(y),))
    numpyro.sample("y", dist.Normal(mu[z], 1), obs=y)


def scaled_identity(y):
    s = numpyro.sample("s", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        root = jnp.eye(2) * s[z][..., None, None]
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=root), obs=y)


def loop_of_arrays(y):
    p = numpyro.sample("p", dist.Beta(1, 1).expand([2]).to_event(1))
    z = 0
    for t in range(3):
        z = numpyro.sample(f"z{t}", dist.Categorical(jnp.array([1 - p[z], p[z]])))
        numpyro.sample(f"y{t}", dist.Normal(1.0 * z, 1), obs=y[t])


def argument_names(y):
    """Sites that have the names of NumPyro's own arguments."""
    fn = numpyro.sample("fn", dist.Beta(1, 9))
    with numpyro.plate("kwargs", len(y)):
        args = numpyro.sample("args", dist.Bernoulli(fn))
        numpyro.sample("value", dist.Normal(args, 1), obs=y)


IDIOMS = {
    "draws by their size": (drawn_by_size, {}),
    "scaled identity": (scaled_identity, {}),
    "arrays in a loop": (loop_of_arrays, {}),
    "names of arguments": (argument_names, {}),
    "function": (mixture, {}),
    "keywords": (mixture, {"scale": 2, "other": 3}),
    "partial": (functools.partial(mixture, offset=1), {}),
    "lambda": (lambda y: mixture(y), {}),
    "object": (Study(2), {}),
    "bound method": (Study(2).program, {}),
    "scope": (handlers.scope(mixture, prefix="part"), {}),
    "reparam": (handlers.reparam(mixture, config={"mu": LocScaleReparam(0)}), {}),
    "condition": (handlers.condition(mixture, data={"w": np.array([0.3, 0.7])}), {}),
    "a Delta is deterministic": (points, {}),
    "plate_stack": (stacked, {}),
    "factor of a latent": (factored, {}),
}


@pytest.mark.parametrize("name", sorted(IDIOMS))
def test_idiom(name):
    program, options = IDIOMS[name]
    data = {stacked: X[:3, None], scaled_identity: X[:4].reshape(2, 2)}.get(program, X)
    agrees(program, data, **options)


def test_parameter_of_each_column_is_no_ambiguity():
    model = agrees(per_column, X[:4].reshape(2, 2))
    assert model.roles["mu"] == model.roles["sigma"] == "parameter"


def hierarchical(y, group):
    m = numpyro.sample("m", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("groups", 2):
        mu = numpyro.sample("mu", dist.Normal(m, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu[group], 1), obs=y)


def test_hierarchical_prior_by_naming_it():
    model = Model(hierarchical, X, np.array([0, 0, 1, 1, 0]), parameters={"mu"})
    params = point(model)
    found = model.log_likelihood(params), model.log_prior(params)
    expected = enumerated(model, params, (X, np.array([0, 0, 1, 1, 0])), {})
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# --- refusals that say what is wrong ----------------------------------------------------------


def branch_on_rows(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(mu if z else -mu, 1), obs=y)


def loop_over_latent(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    for _ in range(z):
        mu = mu + 1
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def number_of_rows(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(mu * int(z), 1), obs=y)


def branch_on_parameter(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu + 1 if mu > 0 else mu, sigma), obs=y)


def raises(y):
    raise RuntimeError("the study has no rows")


def missing_package(y):
    import a_package_that_nobody_has  # noqa: F401


def twice_named(y):
    numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=y)


def plate_named_as_site(y):
    rows = numpyro.sample("rows", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(rows, 1), obs=y)


def unconstrained_weights(y):
    w = numpyro.param("w", [0.5, 0.5])
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


def unconstrained_scale(y):
    numpyro.sample("y", dist.Normal(0, numpyro.param("sigma", 1.0)), obs=y)


def total_over_rows(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.factor("density", dist.Normal(mu * z, 1).log_prob(y).sum())


def hidden_draw(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        with handlers.block():
            z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(mu * z, 1), obs=y)


def own_noise(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    noise = jax.random.normal(numpyro.prng_key(), (len(y),))
    numpyro.sample("y", dist.Normal(mu + noise, 1), obs=y)


def network(y):
    net = numpyro.module("net", (lambda key, shape: (shape, {}), lambda w, x: x), (1,))
    numpyro.sample("y", dist.Normal(net(0.0), 1), obs=y)


REFUSED = {
    "total over rows": (total_over_rows, "'z' of plate 'rows' enters 'density'.*leave out the sum"),
    "hidden draw": (hidden_draw, "random numbers that are no site.*handlers.block"),
    "noise of its own": (own_noise, "random numbers that are no site.*numpyro.prng_key"),
    "network": (network, "'net.params' is that of a neural network"),
    "branch on rows of a latent": (branch_on_rows, "value of 'z' in Python.*if z else.*jnp.where"),
    "loop over a latent": (loop_over_latent, r"value of 'z' in Python.*range\(z\).*jnp.where"),
    "rows of a latent as a number": (number_of_rows, "value of 'z' in Python.*jnp.where"),
    "branch on a parameter": (branch_on_parameter, "value of 'mu' in Python.*jnp.where"),
    "the program's own exception": (
        raises, "RuntimeError: the study has no rows, at test_everyday.py, line .*raise Runtime",
    ),
    "missing package": (missing_package, "ModuleNotFoundError.*nobody_has.*full traceback.$"),
    "name used twice": (twice_named, "unique names but got `mu` duplicated.*full traceback.$"),
    "plate named as a site": (plate_named_as_site, "'rows' is the name of a plate and of a site"),
    "unconstrained weights": (unconstrained_weights, "latent 'z': its probs.*'w'.*simplex"),
    "unconstrained scale": (unconstrained_scale, "'y': its scale.*'sigma'.*constraints.positive"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refusal_names_the_cause(name):
    program, told = REFUSED[name]
    with pytest.raises(ValueError, match=told):
        Model(program, X)


def test_a_hierarchical_prior_is_integrated_out():
    group = np.array([0, 0, 1, 1, 0])
    model = Model(hierarchical, X, group)
    assert model.roles["mu"] == "latent"
    cov = 0.8**2 * (group[:, None] == group) + np.eye(5)
    expected = stats.multivariate_normal(np.full(5, 0.3), cov).logpdf(X)
    assert model.log_likelihood({"m": 0.3, "tau": 0.8}) == pytest.approx(expected, rel=1e-10)


def bounds_per_row(y, high):
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.DiscreteUniform(0, high))
        numpyro.sample("y", dist.Normal(m * n, 1), obs=y)


def test_latent_with_bounds_per_row():
    """Beyond a row's own bound there is no probability, whatever NumPyro's density says there."""
    high = np.array([1, 2, 0])
    model = Model(bounds_per_row, X[:3], high)
    with jax.enable_x64(True):
        each = np.array(dist.Normal(0.7 * jnp.arange(3.0)[:, None], 1.0).log_prob(X[:3]))
    allowed = np.arange(3)[:, None] <= high
    expected = np.log(np.where(allowed, np.exp(each), 0).sum(0) / (high + 1))
    np.testing.assert_allclose(model.pointwise_log_likelihood({"m": 0.7}), expected, rtol=1e-9)


def unseen_animals(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.Binomial(4, 0.4))
        numpyro.sample("y", dist.Binomial(n, p), obs=y)


def test_count_out_of_a_latent_total():
    """A thinned Binomial(4, 0.4) is Binomial(4, 0.4 p)."""
    model = Model(unseen_animals, COUNTS)
    with jax.enable_x64(True):
        expected = np.asarray(dist.Binomial(4, jnp.asarray(0.4 * 0.3)).log_prob(COUNTS))
    np.testing.assert_allclose(model.pointwise_log_likelihood({"p": 0.3}), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="'y': the value 6 at index .*outside the support"):
        Model(unseen_animals, COUNTS + 4)


@pytest.mark.parametrize("kind", ["multinomial", "dirichlet multinomial"])
def test_counts_with_a_total_of_each_row_are_drawn(kind):
    """Documents of many lengths: NumPyro's own sampler needs `total_count_max` under a trace."""
    rng = np.random.default_rng(3)
    totals = rng.integers(0, 40, 3000)
    words = np.stack([rng.multinomial(n, [0.2, 0.3, 0.5]) for n in totals])

    def documents(x):
        w = numpyro.sample("w", dist.Beta(1, 1))
        with numpyro.plate("classes", 2):
            a = numpyro.sample("a", dist.HalfNormal(5).expand([3]).to_event(1))
        with numpyro.plate("documents", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(w))
            if kind == "multinomial":
                law = dist.Multinomial(x.sum(-1), a[z] / a[z].sum(-1, keepdims=True))
            else:
                law = dist.DirichletMultinomial(a[z], x.sum(-1))
            numpyro.sample("x", law.mask(jnp.ones(len(x), bool)), obs=x)

    model, a = Model(documents, words), np.array([[5.0, 1.0, 2.0], [1.0, 8.0, 3.0]])
    drawn = model.simulate({"w": 0.7, "a": a}, seed=1)
    np.testing.assert_array_equal(drawn["x"].sum(-1), totals)
    probs = a / a.sum(-1, keepdims=True)
    expected = (totals[:, None] * probs[drawn["z"]]).sum(0) / totals.sum()
    np.testing.assert_allclose(drawn["x"].sum(0) / totals.sum(), expected, atol=0.02)
    assert np.unique(drawn["x"], axis=0).shape[0] > 1000
