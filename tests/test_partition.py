"""Every structure against brute force: all latent configurations summed one by one."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro import handlers

from pp_mlem import Model, fit_mle


def log_joint(program, args, params, latents):
    """log p(data, latents | parameters) of one configuration, by numpyro itself."""
    with jax.enable_x64(True):
        given = {k: jnp.asarray(v) for k, v in {**params, **latents}.items()}
        substituted = handlers.substitute(handlers.seed(program, 0), data=given)
        trace = handlers.trace(substituted).get_trace(*args)
        total = 0.0
        for name, site in trace.items():
            if site["type"] == "sample" and (site["is_observed"] or name in latents):
                density = site["fn"].log_prob(site["value"])
                scale = 1.0 if site["scale"] is None else site["scale"]
                total += float(jnp.sum(scale * density))
    return total


def brute_force(program, args, params, latents):
    """(log Z, posterior of each latent, best configuration); latents: {name: (shape, values)}."""
    names = list(latents)
    spaces = [
        list(itertools.product(range(len(v)), repeat=int(np.prod(s)))) for s, v in latents.values()
    ]
    weights, configurations = [], []
    for codes in itertools.product(*spaces):
        values = {
            n: np.asarray(latents[n][1])[list(c)].reshape(latents[n][0])
            for n, c in zip(names, codes, strict=True)
        }
        weights.append(log_joint(program, args, params, values))
        configurations.append(codes)
    weights = np.array(weights)
    top = weights.max()
    log_z = top + np.log(np.exp(weights - top).sum())
    share = np.exp(weights - log_z)
    posterior = {}
    for i, name in enumerate(names):
        shape, values = latents[name]
        table = np.zeros((int(np.prod(shape)), len(values)))
        for codes, weight in zip(configurations, share, strict=True):
            table[np.arange(len(table)), list(codes[i])] += weight
        posterior[name] = table.reshape(*shape, len(values))
    return log_z, posterior, dict(zip(names, configurations[int(weights.argmax())], strict=True))


def check(program, args, params, latents, **options):
    model = Model(program, *args, **options)
    log_z, posterior, best = brute_force(program, args, params, latents)
    np.testing.assert_allclose(model.log_likelihood(params), log_z, rtol=1e-9, atol=1e-9)
    own = model.pointwise_log_likelihood(params)
    assert own.shape == model.unit_weights().shape
    np.testing.assert_allclose(own.sum(), log_z, rtol=1e-9)
    found = model.posterior(params)
    for name, table in posterior.items():
        np.testing.assert_allclose(found[name], table.reshape(found[name].shape), atol=1e-9)
        np.testing.assert_allclose(found[name].sum(-1), 1.0, atol=1e-12)
    decoded = model.decode(params)
    for name, codes in best.items():
        expected = np.asarray(latents[name][1])[list(codes)]
        np.testing.assert_array_equal(decoded[name].ravel(), expected)
    return model


def two_latents(x, w, transition):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2, 3]).to_event(2))
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Categorical(w))
        b = numpyro.sample("b", dist.Categorical(transition[a]))
        numpyro.sample("x", dist.Normal(mu[a, b], 1.0), obs=x)


def nested(x):
    p = numpyro.sample("p", dist.Beta(1, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("groups", x.shape[0], dim=-2):
        g = numpyro.sample("g", dist.Bernoulli(0.4))
        with numpyro.plate("members", x.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Bernoulli(0.3 + 0.4 * g))
            numpyro.sample("x", dist.Bernoulli(p[g, z]), obs=x)


def gathered(x, group):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2, 2]).to_event(2))
    with numpyro.plate("groups", 3):
        g = numpyro.sample("g", dist.Categorical(jnp.array([0.3, 0.7])))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.6, 0.4])))
        numpyro.sample("x", dist.Normal(mu[g[group], z], 1.0), obs=x)


def shared_switch(x, y):
    """One latent for the whole program, two plates of data, a factor, support 2..4."""
    a = numpyro.sample("a", dist.Normal(0, 1))
    s = numpyro.sample("s", dist.DiscreteUniform(2, 4))
    numpyro.factor("tilt", 0.3 * s * a)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(a * s, 1.0), obs=x)
    with numpyro.plate("others", len(y)):
        numpyro.sample("y", dist.Poisson(s * jnp.exp(0.1 * a)), obs=y)


def misaligned(x):
    """p[:, z] puts the latent's axis where broadcasting would misread it."""
    p = numpyro.sample("p", dist.Beta(1, 1).expand([3, 2]).to_event(2))
    with numpyro.plate("rows", x.shape[1], dim=-1):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with numpyro.plate("items", 3, dim=-2):
            numpyro.sample("x", dist.Bernoulli(p[:, z]), obs=x)


seeds = st.integers(0, 10_000)


@settings(max_examples=5, deadline=None)
@given(seeds)
def test_two_latents_that_depend(seed):
    rng = np.random.default_rng(seed)
    args = (rng.normal(size=3), rng.dirichlet([1, 1]), rng.dirichlet([1, 1, 1], size=2))
    latents = {"a": ((3,), [0, 1]), "b": ((3,), [0, 1, 2])}
    check(two_latents, args, {"mu": rng.normal(size=(2, 3))}, latents)


@settings(max_examples=4, deadline=None)
@given(seeds)
def test_nested_plates(seed):
    rng = np.random.default_rng(seed)
    args = (rng.integers(0, 2, (2, 2)),)
    latents = {"g": ((2, 1), [0, 1]), "z": ((2, 2), [0, 1])}
    check(nested, args, {"p": rng.uniform(0.1, 0.9, (2, 2))}, latents)


@settings(max_examples=3, deadline=None)
@given(seeds)
def test_group_gathered_into_rows(seed):
    rng = np.random.default_rng(seed)
    args = (rng.normal(size=4), rng.permutation([0, 0, 1, 2]))
    latents = {"g": ((3,), [0, 1]), "z": ((4,), [0, 1])}
    check(gathered, args, {"mu": rng.normal(size=(2, 2))}, latents)


def test_latent_outside_plates_and_other_support():
    rng = np.random.default_rng(1)
    args = (rng.normal(size=3) + 2, rng.poisson(3, 2))
    check(shared_switch, args, {"a": 0.7}, {"s": ((), [2, 3, 4])})


def test_axis_order_that_broadcasting_misreads():
    rng = np.random.default_rng(2)
    model = check(
        misaligned, (rng.integers(0, 2, (3, 4)),), {"p": rng.uniform(0.1, 0.9, (3, 2))},
        {"z": ((4,), [0, 1])},
    )  # fmt: skip
    assert model.reading.sites["z"].vmapped


def test_gradient_equals_finite_differences():
    rng = np.random.default_rng(3)
    args = (rng.normal(size=6), rng.integers(0, 3, 6))
    model = Model(gathered, *args)
    mu = rng.normal(size=(2, 2))

    def value(m):
        return model.log_likelihood({"mu": m})

    from pp_mlem.base.precision import working_precision

    with working_precision(model.dtype):
        target = model.target()
        vector = jnp.asarray(mu.ravel())
        _, _, gradient = jax.jit(target.em_step)(vector)
        direct = jax.jit(jax.grad(target.log_likelihood))(vector)
        gradient, direct = np.asarray(gradient), np.asarray(direct)
    np.testing.assert_allclose(gradient, direct, rtol=1e-9)  # Fisher's identity
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-5
        slope = (value(mu + step.reshape(2, 2)) - value(mu - step.reshape(2, 2))) / 2e-5
        np.testing.assert_allclose(slope, gradient[i], rtol=1e-6, atol=1e-8)


def mixture(x, weight=None, mask=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)), handlers.scale(scale=1.0 if weight is None else weight):
        with handlers.mask(mask=True if mask is None else mask):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    x, mu = rng.normal(size=9), np.array([-1.0, 1.5])
    each = np.log(
        0.3 * np.exp(-0.5 * (x - mu[0]) ** 2) + 0.7 * np.exp(-0.5 * (x - mu[1]) ** 2)
    ) - 0.5 * np.log(2 * np.pi)
    return x, {"mu": mu}, each


def test_weights_multiply_each_units_log_z(rows):
    x, params, each = rows
    weight = np.random.default_rng(5).integers(0, 4, len(x)).astype(float)
    model = Model(mixture, x, weight)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), weight * each, rtol=1e-10)
    assert model.n_observations == weight.sum()
    plain = Model(mixture, x).posterior(params)["z"]
    np.testing.assert_allclose(model.posterior(params)["z"], plain, atol=1e-12)


def test_mask_removes_units(rows):
    x, params, each = rows
    mask = np.arange(len(x)) % 3 > 0
    model = Model(mixture, x, None, mask)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), mask * each, atol=1e-12)
    assert model.n_observations == mask.sum()


def test_rows_with_a_law_for_every_column_are_units_of_their_own():
    def columns(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1).expand([2]))
        seen = jnp.isfinite(jnp.log(y))
        numpyro.sample("y", dist.LogNormal(loc, 1.0).mask(seen), obs=y)

    y = np.exp(np.random.default_rng(8).normal(size=(6, 2)))
    y[2], y[4, 1] = np.nan, np.nan
    model = Model(columns, y)
    loc = np.array([0.3, -0.2])
    expected = np.nansum(scipy.stats.lognorm(1.0, scale=np.exp(loc)).logpdf(y), 1)
    own = model.pointwise_log_likelihood({"loc": loc})
    np.testing.assert_allclose(own, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(model.unit_weights(), [1, 1, 0, 1, 1, 1])
    assert model.n_observations == 5
    fit = fit_mle(model, starts=1, progress=False)
    assert fit.to_datatree()["log_likelihood_asymptotic"]["y"].shape[2:] == (6,)


def test_missing_values_are_integrated_out(rows):
    x, params, each = rows
    hole = x.copy()
    hole[[2, 5]] = np.nan
    model = Model(mixture, hole)
    seen = ~np.isnan(hole)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), seen * each, atol=1e-12)
    assert model.n_observations == seen.sum()
    np.testing.assert_allclose(model.posterior(params)["z"][2], [0.3, 0.7])


def test_blocks_of_rows_add_up(rows):
    _, params, _ = rows
    x = np.random.default_rng(6).normal(size=20_011)
    model = Model(mixture, x)
    assert model.marginal.rows.blocks(model.data) > 1
    np.testing.assert_allclose(
        model.log_likelihood(params), model.pointwise_log_likelihood(params).sum(), rtol=1e-12
    )


def test_scale_on_one_side_only_is_refused():
    def program(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            with handlers.scale(scale=w):
                numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    with pytest.raises(ValueError, match="scale"):
        Model(program, np.zeros(3), np.array([1.0, 2.0, 3.0]))


def test_a_mask_over_joined_columns_hides_them_together(rows):
    """Two rows of two columns, where a misplaced mask would fit the other way round."""
    x, mask = np.array([[0.3, -1.0], [2.0, 0.7]]), np.array([True, False])
    mu = np.array([[-1.0, 0.5], [1.5, 0.0]])

    def program(x, mask):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2, 2]).to_event(2))
        with numpyro.plate("rows", 2):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
            with handlers.mask(mask=mask):
                numpyro.sample("x", dist.Normal(mu[z], 1.0).to_event(1), obs=x)

    check(program, (x, mask), {"mu": mu}, {"z": ((2,), [0, 1])})


def test_missing_categories_are_integrated_out():
    def program(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones((2, 3))).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Categorical(w[z]), obs=x)

    w = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    found = Model(program, np.array([0, np.nan, 2])).pointwise_log_likelihood({"w": w})
    expected = np.log(0.7 * w[0] + 0.3 * w[1])
    np.testing.assert_allclose(found, [expected[0], 0.0, expected[2]], atol=1e-12)


def test_weights_inside_a_unit_leave_posteriors_that_sum_to_one():
    """A weight says how much a row tells about its group, not how often its own latent exists."""

    def program(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2, 2]).to_event(2))
        with numpyro.plate("groups", 2, dim=-2):
            g = numpyro.sample("g", dist.Bernoulli(0.4))
            with numpyro.plate("rows", 3, dim=-1), handlers.scale(scale=w):
                z = numpyro.sample("z", dist.Bernoulli(0.3 + 0.4 * g))
                numpyro.sample("x", dist.Normal(mu[g, z], 1.0), obs=x)

    rng = np.random.default_rng(8)
    x, w, mu = rng.normal(size=(2, 3)), np.array([[2.0, 0.5, 1.0], [1.0, 3.0, 0.2]]), np.eye(2)
    density = np.exp(-0.5 * (x - mu[..., None, None]) ** 2) / np.sqrt(2 * np.pi)
    law = np.array([[0.7, 0.3], [0.3, 0.7]])  # of z given g
    joint = law[..., None, None] * density
    units = np.array([0.6, 0.4])[:, None] * (joint.sum(1) ** w).prod(-1)
    above = units / units.sum(0)
    expected = np.einsum("gn,gznm->nmz", above, joint / joint.sum(1, keepdims=True))
    found = Model(program, x, w).posterior({"mu": mu})
    np.testing.assert_allclose(found["z"], expected, atol=1e-10)
    np.testing.assert_allclose(found["g"][:, 0], above.T, atol=1e-10)


def test_weights_of_gathered_units_count_once():
    """Group weights, told again at the rows that gather the group."""

    def program(x, group, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        with numpyro.plate("groups", 2), handlers.scale(scale=w):
            g = numpyro.sample("g", dist.Bernoulli(0.4))
        with numpyro.plate("rows", 4), handlers.scale(scale=w[group]):
            numpyro.sample("x", dist.Normal(mu[g[group]], 1.0), obs=x)

    x, group = np.array([0.3, -1.2, 0.5, 2.0]), np.array([1, 0, 1, 1])
    w, mu = np.array([2.0, 0.5]), np.array([-1.0, 1.5])
    density = np.exp(-0.5 * (x - mu[:, None]) ** 2) / np.sqrt(2 * np.pi)
    each = [np.log(0.6 * density[0, group == g].prod() + 0.4 * density[1, group == g].prod())
            for g in range(2)]  # fmt: skip
    found = Model(program, x, group, w).log_likelihood({"mu": mu})
    np.testing.assert_allclose(found, (w * each).sum(), rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_ends_where_the_latent_above_is_not_under_it(groups):
    """Whatever the sizes of the plates, one included."""

    def program(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2, 2]).to_event(2))
        a = numpyro.sample("a", dist.Bernoulli(0.4))
        with numpyro.plate("groups", groups, dim=-2), handlers.scale(scale=w):
            g = numpyro.sample("g", dist.Bernoulli(0.3 + 0.4 * a))
            with numpyro.plate("rows", 3, dim=-1):
                numpyro.sample("x", dist.Normal(mu[a, g], 1.0), obs=x)

    rng = np.random.default_rng(9)
    x, w, mu = rng.normal(size=(groups, 3)), np.array([[2.5], [0.5]])[:groups], np.eye(2) * 2
    logs = -0.5 * (x - mu[..., None, None]) ** 2 - 0.5 * np.log(2 * np.pi)
    joint = np.array([[0.7, 0.3], [0.3, 0.7]])[..., None] * np.exp(logs.sum(-1))  # a, g, group
    units = np.array([0.6, 0.4]) * (joint.sum(1) ** w[:, 0]).prod(-1)
    model = Model(program, x, w)
    np.testing.assert_allclose(model.log_likelihood({"mu": mu}), np.log(units.sum()), rtol=1e-10)
    found = model.posterior({"mu": mu})
    share = joint / joint.sum(1, keepdims=True)
    above = units / units.sum()
    np.testing.assert_allclose(found["a"], above, atol=1e-10)
    expected = np.einsum("a,agn->ng", above, share)
    np.testing.assert_allclose(found["g"].reshape(groups, 2), expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (2, 1), (2, 3)])
@pytest.mark.parametrize("inside", [False, True], ids=["program", "groups"])
def test_a_weight_on_observations_alone_is_theirs(shape, inside):
    """Rows under a scale; a latent of their group, or of the whole program, that is not."""

    def program(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        if not inside:
            z = numpyro.sample("z", dist.Bernoulli(0.4))
        with numpyro.plate("groups", 2, dim=-2):
            if inside:
                z = numpyro.sample("z", dist.Bernoulli(0.4))
            with numpyro.plate("rows", 3, dim=-1), handlers.scale(scale=w):
                numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    rng = np.random.default_rng(10)
    args = rng.normal(size=(2, 3)), rng.uniform(0.5, 2.0, shape)
    check(program, args, {"mu": np.array([-1.0, 1.5])}, {"z": ((2, 1) if inside else (), [0, 1])})


def test_a_weight_that_differs_from_that_of_a_latent_of_the_whole_program_is_refused():
    def program(x, w):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        with handlers.scale(scale=2.0):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
        with numpyro.plate("rows", len(x)), handlers.scale(scale=w):
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    with pytest.raises(ValueError, match="scale"):
        Model(program, np.zeros(3), np.array([1.0, 2.0, 3.0]))


def test_ties_are_decoded_to_one_joint_configuration():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("rows", len(x)):
            a = numpyro.sample("a", dist.Bernoulli(0.5))
            b = numpyro.sample("b", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(mu * (a + b == 1), 1.0), obs=x)

    found = Model(program, np.array([2.0, 2.0])).decode({"mu": 2.0})
    np.testing.assert_array_equal(found["a"] + found["b"], 1)
