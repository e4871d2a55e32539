"""Labels of exchangeable components, and draws of a posterior that are never lost."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import potential_energy

from pp_mlem import Model, compare, fit_em, fit_laplace, fit_map, fit_nuts, load
from pp_mlem.base.precision import working_precision
from pp_mlem.diagnose.entries import Entries
from pp_mlem.diagnose.exchange import exchangeable_groups
from pp_mlem.diagnose.groups import possible_orders
from pp_mlem.diagnose.labels import align, align_draws, order_draws, permute, sort_labels
from pp_mlem.diagnose.summary import attempt, mean_inside
from pp_mlem.diagnose.switching import switched_latents, tell_switched
from pp_mlem.diagnose.symmetry import Symmetries, pieces_of
from pp_mlem.estimate import nuts as nuts_module
from pp_mlem.estimate import sampler as sampler_module
from pp_mlem.program.neutral import neutral_parameters
from pp_mlem.program.sites import Role, Site
from pp_mlem.program.space import ParameterSpace, scalar_names

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-2, 0.7, 30), RNG.normal(1.5, 1.0, 50)])


def place(name, support, shape=()):
    return Site(name, Role.PARAMETER, "", "", support=support, shape=shape)


# --- the mean of draws lies inside the support -----------------------------------------------

SUPPORTS = {
    "correlation root": (constraints.corr_cholesky, (3, 3)),
    "correlation matrix": (constraints.corr_matrix, (3, 3)),
    "positive definite": (constraints.positive_definite, (2, 2)),
    "lower triangular": (constraints.lower_cholesky, (2, 2)),
    "simplex": (constraints.simplex, (4,)),
    "rows of simplices": (constraints.independent(constraints.simplex, 1), (2, 3)),
    "ordered": (constraints.ordered_vector, (3,)),
    "increasing and positive": (constraints.positive_ordered_vector, (3,)),
    "angle": (constraints.circular, ()),
    "sum zero": (constraints.zero_sum(1), (3,)),
    "l1 ball": (constraints.l1_ball, (2,)),
    "interval": (constraints.interval(1.0, 2.0), (2,)),
    "positive": (constraints.positive, ()),
    "real": (constraints.real, (2,)),
}


@pytest.mark.parametrize("name", list(SUPPORTS))
def test_mean_lies_inside_the_support(name):
    support, shape = SUPPORTS[name]
    space = ParameterSpace((place("p", support, shape),))
    vectors = np.random.default_rng(1).normal(scale=1.5, size=(50, space.size))
    draws = {"p": np.stack([np.asarray(space.constrain(jnp.asarray(v))["p"]) for v in vectors])}
    mean, reasons = mean_inside(space, draws)
    assert not reasons
    assert mean["p"].shape == shape
    assert np.all(np.asarray(support.check(mean["p"])))


def test_mean_of_angles_and_directions_does_not_cancel():
    space = ParameterSpace((place("a", constraints.circular), place("u", constraints.sphere, (2,))))
    angles = np.array([np.pi - 0.1, -np.pi + 0.1, np.pi - 0.2])
    found, _ = mean_inside(space, {"a": angles, "u": np.stack([np.cos(angles), np.sin(angles)], 1)})
    assert abs(abs(found["a"]) - np.pi) < 0.1
    np.testing.assert_allclose(np.linalg.norm(found["u"]), 1)
    assert found["u"][0] < -0.9


def test_mean_of_correlation_roots_is_that_of_the_correlations():
    space = ParameterSpace((place("L", constraints.corr_cholesky, (2, 2)),))
    r = np.array([0.9, -0.5, 0.2])
    roots = np.stack([np.linalg.cholesky([[1, a], [a, 1]]) for a in r])
    found, _ = mean_inside(space, {"L": roots})
    np.testing.assert_allclose((found["L"] @ found["L"].T)[0, 1], r.mean(), rtol=1e-12)


def test_a_summary_that_fails_says_why():
    reasons = {}
    assert np.isnan(attempt(lambda: np.linalg.cholesky(-np.eye(2)), np.nan, reasons, "root"))
    assert "LinAlgError" in reasons["root"]


def correlated(y):
    root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=scale[:, None] * root)
        numpyro.sample("y", law, obs=y)


@pytest.fixture(scope="module")
def pairs():
    noise = np.random.default_rng(2).normal(size=(60, 2))
    return Model(correlated, noise @ np.array([[1.0, 0.8], [0.0, 0.6]]))


@pytest.mark.parametrize("estimator", ["nuts", "laplace"])
def test_correlations_keep_their_draws(pairs, estimator):
    if estimator == "nuts":
        fit = fit_nuts(pairs, chains=2, warmup=100, draws=100, seed=0)
    else:
        fit = fit_laplace(pairs, draws=200, seed=0)
    root = fit.params["root"]
    np.testing.assert_allclose((root**2).sum(1), 1.0, rtol=1e-9)
    roots = fit.draws["root"].reshape(-1, 2, 2)
    expected = np.einsum("nij,nkj->nik", roots, roots).mean(0)[0, 1]
    np.testing.assert_allclose((root @ root.T)[0, 1], expected, rtol=1e-9)
    np.testing.assert_allclose(fit.log_likelihood, pairs.log_likelihood(fit.params), rtol=1e-12)
    assert np.isfinite(fit.summary()["mean"]).all()


# --- an interrupted run keeps what is finished -----------------------------------------------


def one_normal(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.fixture(scope="module")
def normal():
    return Model(one_normal, X)


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C during the block after so many; blocks of a given length."""

    def arrange(blocks, steps=50):
        monkeypatch.setattr(sampler_module, "ROOM", steps)
        monkeypatch.setattr(sampler_module, "FIRST_STEPS", steps)
        advance = sampler_module._Chain.advance
        left = [blocks]

        def limited(*args):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return advance(*args)

        monkeypatch.setattr(sampler_module._Chain, "advance", limited)

    return arrange


def test_draws_survive_a_summary_that_fails(normal, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such diagnosis")

    monkeypatch.setattr("arviz_stats.ess", broken)
    monkeypatch.setattr(nuts_module, "align_draws", broken)
    fit = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    assert fit.draws["mu"].shape == (2, 100)
    assert np.isnan(fit.diagnostics["min_ess"])
    assert "no such diagnosis" in fit.story


OPTIONS = {"chains": 2, "warmup": 100, "draws": 100, "seed": 3}


def test_blocks_of_any_length_give_the_same_draws(normal, monkeypatch):
    whole = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    monkeypatch.setattr(sampler_module, "ROOM", 7)
    cut = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    np.testing.assert_array_equal(whole.draw_vectors, cut.draw_vectors)


def test_interrupted_chains_side_by_side_keep_their_draws(normal, stop_after):
    whole = fit_nuts(normal, chain_method="vectorized", **OPTIONS)
    stop_after(blocks=3)  # two of warm-up, one of draws
    fit = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    assert fit.status == "interrupted" and not fit.converged
    assert fit.draws["mu"].shape == (2, 50)
    np.testing.assert_array_equal(fit.draws["mu"], whole.draws["mu"][:, :50])
    assert "stopped by the user" in fit.story and "stopped by the user" in fit.status_note
    assert np.isfinite(fit.summary()["mean"]).all()


def test_chains_on_threads_are_those_of_a_sequence(normal):
    options = OPTIONS | {"chains": 3}
    one_by_one = fit_nuts(normal, chain_method="sequential", **options)
    at_once = fit_nuts(normal, chain_method="parallel", **options)
    np.testing.assert_array_equal(one_by_one.draw_vectors, at_once.draw_vectors)
    assert len(np.unique(at_once.draws["mu"][:, -1])) == 3


@pytest.mark.parametrize(("blocks", "kept"), [(1, 25), (3, 50), (4, 100), (7, 100)])
def test_interrupted_chains_on_threads_keep_their_draws(
    normal, stop_after, monkeypatch, blocks, kept
):
    """The first block is made before there are threads; on one of them, chains end in their order."""
    monkeypatch.setattr(sampler_module, "cores", lambda: 1)
    stop_after(blocks=blocks)
    fit = fit_nuts(Model(one_normal, X), chain_method="parallel", **OPTIONS)
    assert fit.status == "interrupted"
    assert fit.draws["mu"].shape == (1, kept)


@pytest.mark.parametrize(
    ("done", "shape"),
    [([200, 190, 110], (2, 90)), ([200, 120, 105], (1, 100)), ([180, 180, 179], (3, 79)), ([80, 60, 0], (2, 30))],
)  # fmt: skip
def test_what_is_kept_of_interrupted_chains_is_the_most_draws_of_one_length(done, shape):
    def chain(steps):
        made = sampler_module._Chain(None, warmup=100, draws=100)
        kept = steps - 100 if steps > 100 else steps
        piece = {k: np.zeros(kept) for k in (*sampler_module.FIELDS, "step_size")}
        piece["vector"] = np.zeros((kept, 2))
        made.at = sampler_module._Progress(None, steps, (piece,) if steps else ())
        return made

    settings = sampler_module.Settings(100, 0.9, 10, 1, True, on_threads=True)
    sample = sampler_module._collected([chain(d) for d in done], settings, 3, 100, 0.0, True)
    assert sample.vectors.shape == (*shape, 2)
    assert sample.warm == (max(done) <= 100)


def test_an_error_on_a_thread_is_raised_and_the_others_stop(normal, monkeypatch):
    advance, blocks = sampler_module._Chain.advance, []

    def failing(*args):
        blocks.append(args)
        if len(blocks) == 3:
            raise MemoryError("no room")
        return advance(*args)

    monkeypatch.setattr(sampler_module, "ROOM", 1)
    monkeypatch.setattr(sampler_module._Chain, "advance", failing)
    with pytest.raises(MemoryError, match="no room"):
        fit_nuts(Model(one_normal, X), chain_method="parallel", **OPTIONS)
    assert len(blocks) < 200  # of 400


def test_interrupted_sequence_of_chains_keeps_the_finished_ones(normal, stop_after):
    stop_after(blocks=7)  # one whole chain and most of the second
    fit = fit_nuts(Model(one_normal, X), chain_method="sequential", **OPTIONS)
    assert fit.status == "interrupted"
    assert fit.draws["mu"].shape == (1, 100)
    assert "1 of 2 chains" in fit.story


def test_interrupted_in_the_first_of_the_chains(normal, stop_after):
    stop_after(blocks=3)
    fit = fit_nuts(Model(one_normal, X), chain_method="sequential", **OPTIONS)
    assert fit.draws["mu"].shape == (1, 50)
    assert fit.status == "interrupted"


def test_interrupted_warm_up_is_told(normal, stop_after):
    stop_after(blocks=1)
    fit = fit_nuts(Model(one_normal, X), chain_method="vectorized", **OPTIONS)
    assert fit.status == "interrupted" and fit.diagnostics["warmup_only"]
    assert "not draws of the posterior" in fit.story
    assert fit.draws["mu"].shape == (2, 25)


# --- names of rows ---------------------------------------------------------------------------


def test_rows_of_tables_have_names_of_their_own():
    real = constraints.real
    space = ParameterSpace((place("mu", real, (2,)), place("mu[0]", real), place("nu", real)))
    assert scalar_names(space) == ("mu[0]", "mu[1]", "'mu[0]'", "nu")
    more = (place("'mu[0]'", real), *space.sites)
    assert len(set(scalar_names(ParameterSpace(more)))) == 5


def test_a_site_named_like_a_scalar_is_told():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        other = numpyro.sample("mu[0]", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu[0] + mu[1] + other, 1.0), obs=x)

    model = Model(program, X)
    assert "site 'mu[0]' as 'mu[0]'" in repr(model)
    fit = fit_map(model)
    assert list(fit.summary().index) == ["mu[0]", "mu[1]", "'mu[0]'"]


# --- relabellings that are no permutation of axes --------------------------------------------


def sample(name, law, *batch):
    return numpyro.sample(name, law.expand(batch).to_event(len(batch)) if batch else law)


def normals(x, weights, loc, scale, latent=dist.Categorical):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", latent(weights))
        numpyro.sample("x", dist.Normal(loc[z], jnp.broadcast_to(scale, loc.shape)[z]), obs=x)


def one_minus(x):
    theta = sample("theta", dist.Beta(2, 2))
    mu, sigma = sample("mu", dist.Normal(0, 5), 2), sample("sigma", dist.LogNormal(0, 1), 2)
    normals(x, jnp.stack([theta, 1 - theta]), mu, sigma)


def bernoulli(x):
    mu, sigma = sample("mu", dist.Normal(0, 5), 2), sample("sigma", dist.LogNormal(0, 1))
    normals(x, sample("theta", dist.Beta(3, 3)), mu, sigma, dist.Bernoulli)


def separately_named(x):
    mu = jnp.stack([sample(f"mu_{i}", dist.Normal(0, 5)) for i in range(3)])
    weights = sample("w", dist.Dirichlet(jnp.ones(3)))
    normals(x, weights, mu, sample("sigma", dist.LogNormal(0, 1)))


def broken_stick(x):
    v = numpyro.sample("v", dist.Beta(jnp.ones(2), jnp.array([2.0, 1.0])).to_event(1))
    rest = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - v)])
    weights = jnp.concatenate([v, jnp.ones(1)]) * rest
    normals(x, weights, sample("mu", dist.Normal(0, 5), 3), sample("sigma", dist.LogNormal(0, 1)))


def pinned_softmax(x):
    logits = jnp.concatenate([jnp.zeros(1), sample("logits", dist.Normal(0, 2), 2)])
    weights = jax.nn.softmax(logits)
    normals(x, weights, sample("mu", dist.Normal(0, 5), 3), sample("sigma", dist.LogNormal(0, 1)))


def increments(x):
    start, steps = sample("start", dist.Normal(0, 5)), sample("steps", dist.Normal(0, 5), 2)
    mu = jnp.concatenate([start[None], start + jnp.cumsum(steps)])
    weights = sample("w", dist.Dirichlet(jnp.ones(3)))
    normals(x, weights, mu, sample("sigma", dist.LogNormal(0, 1)))


def linear_in_the_label(x):
    a, b = sample("a", dist.Normal(0, 5)), sample("b", dist.Normal(0, 5))
    weights = sample("w", dist.Dirichlet(jnp.ones(3)))
    normals(x, weights, a + b * jnp.arange(3), sample("sigma", dist.LogNormal(0, 1)))


def one_component_known(x):
    mu = jnp.concatenate([jnp.zeros(1), sample("others", dist.Normal(0, 5), 2)])
    weights = sample("w", dist.Dirichlet(jnp.ones(3)))
    normals(x, weights, mu, sample("sigma", dist.LogNormal(0, 1)))


def telegraph(x):
    a, b = sample("a", dist.Beta(2, 8)), sample("b", dist.Beta(2, 8))
    moves = jnp.array([[1 - a, a], [b, 1 - b]])
    mu, sigma = sample("mu", dist.Normal(0, 5), 2), sample("sigma", dist.LogNormal(0, 1))
    first = numpyro.sample("first", dist.Categorical(jnp.ones(2) / 2))
    numpyro.sample("x_first", dist.Normal(mu[first], sigma), obs=x[0])

    def step(state, value):
        state = numpyro.sample("state", dist.Categorical(moves[state]))
        numpyro.sample("x", dist.Normal(mu[state], sigma), obs=value)
        return state, None

    scan(step, first, x[1:])


def two_lines(x):
    theta = sample("theta", dist.Beta(2, 2))
    low, high = sample("low", dist.Normal(0, 2), 2), sample("high", dist.Normal(0, 2), 2)
    design = jnp.stack([jnp.ones(len(x)), jnp.linspace(-1, 1, len(x))], 1)
    scale = sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(theta))
        mean = jnp.where(z == 1, design @ high, design @ low)
        numpyro.sample("x", dist.Normal(mean, scale), obs=x)


def heavy_tails(x):  # no known family: a table over rows
    theta = sample("theta", dist.Beta(2, 2))
    mu = sample("mu", dist.Normal(0, 5), 2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.stack([theta, 1 - theta])))
        numpyro.sample("x", dist.StudentT(4.0, mu[z], 1.0), obs=x)


def unequal_prior(x):
    theta = sample("theta", dist.Beta(2, 2))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-0.1, 0.1]), 3.0).to_event(1))
    normals(x, jnp.stack([theta, 1 - theta]), mu, sample("sigma", dist.LogNormal(0, 1)))


def ordered(x):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    weights = sample("w", dist.Dirichlet(jnp.ones(2)))
    normals(x, weights, mu, sample("sigma", dist.LogNormal(0, 1)))


def inflated(x):
    theta, rate = sample("theta", dist.Beta(1, 1)), sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(theta))
        numpyro.sample("x", dist.Normal(jnp.where(z == 1, rate, 0.0), 1.0), obs=x)


# program: number of orders in all, whether the posterior and its mode are unchanged
EXCHANGEABLE = {
    "1 - theta": (one_minus, 2, True, True),
    "Bernoulli(theta)": (bernoulli, 2, True, True),
    "mu_0, mu_1, mu_2": (separately_named, 6, True, True),
    "broken stick, uniform weights": (broken_stick, 6, True, False),
    "softmax with a pinned reference": (pinned_softmax, 6, False, False),
    "increments": (increments, 6, False, False),
    "linear in the label": (linear_in_the_label, 2, False, False),
    "one component known": (one_component_known, 2, True, True),
    "two-state chain": (telegraph, 2, True, True),
    "two lines": (two_lines, 2, True, True),
    "table over rows": (heavy_tails, 2, True, True),
    "unequal prior": (unequal_prior, 2, False, False),
}


@pytest.fixture(scope="module")
def read():
    """Models of these programs with their groups, each read once."""
    kept = {}

    def of(program):
        if program not in kept:
            model = Model(program, X)
            with working_precision(model.dtype):
                kept[program] = model, exchangeable_groups(model, frozenset())
        return kept[program]

    return of


def some_params(model, seed):
    with working_precision(model.dtype):
        return {k: np.asarray(v) for k, v in neutral_parameters(model.reading, seed).items()}


@pytest.mark.parametrize("name", list(EXCHANGEABLE))
def test_relabelling_leaves_the_likelihood_unchanged(read, name):
    program, count, posterior, mode = EXCHANGEABLE[name]
    model, (group,) = read(program)
    assert len(possible_orders(group)) == count
    assert (group.prior_symmetric, group.keeps_mode) == (posterior, mode)
    params = some_params(model, 5)
    for order in possible_orders(group):
        moved = permute(params, group, order, model)
        np.testing.assert_allclose(
            model.pointwise_log_likelihood(moved), model.pointwise_log_likelihood(params), rtol=1e-7
        )
        if mode:
            np.testing.assert_allclose(model.log_prior(moved), model.log_prior(params), rtol=1e-7)
        if order != tuple(range(group.size)):
            assert any(not np.allclose(moved[k], params[k]) for k in params)
            latent = group.latent
            here, there = model.posterior(params)[latent], model.posterior(moved)[latent]
            np.testing.assert_allclose(there, here[..., list(order)], atol=1e-7)
        back = align(moved, params, (group,), model)
        for k in params:
            np.testing.assert_allclose(back[k], params[k], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("program", [ordered, inflated])
def test_values_that_differ_are_not_exchangeable(read, program):
    assert read(program)[1] == ()


def test_one_order_of_the_components_whatever_the_start(read):
    model, groups = read(separately_named)
    params = some_params(model, 7)
    first = sort_labels(params, groups, model)
    for order in possible_orders(groups[0]):
        again = sort_labels(permute(params, groups[0], order, model), groups, model)
        for k in first:
            np.testing.assert_allclose(again[k], first[k], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("program", [one_minus, separately_named, telegraph])
def test_switched_draws_are_aligned(read, program):
    """Draws around a point, some under other names: all come back to one labelling."""
    model, groups = read(program)
    group = groups[0]
    rng = np.random.default_rng(4)
    with working_precision(model.dtype):
        centre = some_params(model, 5) | {"mu_0": -3.0, "mu_1": 0.0, "mu_2": 4.0}
        centre = {k: np.asarray(centre[k]) for k in model.space.names}
        if "mu" in centre:
            centre["mu"] = np.array([-3.0, 2.0])
        vector = np.asarray(model.space.to_vector(centre))
        noisy = vector + 0.1 * rng.normal(size=(40, len(vector)))
        rows = [jax.device_get(model.space.to_params(jnp.asarray(v))) for v in noisy]
    orders = possible_orders(group)
    mixed = [permute(r, group, orders[i % len(orders)], model) for i, r in enumerate(rows)]
    draws = {k: np.stack([m[k] for m in mixed]) for k in centre}
    aligned, switched = align_draws(draws, centre, groups, model)
    for k in centre:
        np.testing.assert_allclose(aligned[k], np.stack([r[k] for r in rows]), rtol=1e-5, atol=1e-6)
    # every other draw was under another name, or more
    assert switched > 0.2


def test_nuts_aligns_weights_that_are_computed(read):
    model, groups = read(one_minus)
    fit = fit_nuts(model, chains=4, warmup=150, draws=150, seed=1)
    assert fit.groups == groups
    assert fit.diagnostics["max_r_hat"] < 1.05
    assert fit.params["mu"][0] < -1.5 and fit.params["mu"][1] > 1.0
    other = {
        "theta": np.asarray(1 - fit.params["theta"]),
        "mu": fit.params["mu"][::-1],
        "sigma": fit.params["sigma"][::-1],
    }
    turned = fit.relabelled(other)
    np.testing.assert_allclose(turned.draws["theta"], 1 - fit.draws["theta"], rtol=1e-9)
    np.testing.assert_array_equal(turned.draws["mu"], fit.draws["mu"][..., ::-1])
    model_of = fit.model.log_likelihood
    np.testing.assert_allclose(model_of(turned.params), model_of(fit.params), rtol=1e-10)


def test_point_fits_by_computed_weights(read, tmp_path):
    model, groups = read(one_minus)
    em = fit_em(model, starts=8, seed=0)
    assert em.groups == groups
    best = em.optima.iloc[0]
    assert best["points"] == 1
    np.testing.assert_allclose(model.log_likelihood(em.params), em.log_likelihood, rtol=1e-10)
    refits = em.bootstrap(20, seed=0).estimates
    assert refits["mu[0]"].max() < refits["mu[1]"].min()
    turned = em.relabelled(permute(em.params, groups[0], (1, 0), model))
    elsewhere = pickle.loads(pickle.dumps(em)).relabelled(turned.params)  # nothing compiled there
    np.testing.assert_allclose(elsewhere.params["theta"], turned.params["theta"], rtol=1e-9)
    again = load(em.save(tmp_path / "fit.nc"), model=model)
    assert again.groups == groups
    found = compare({"turned": turned, "loaded": again})
    np.testing.assert_allclose(
        found.estimates["turned", "estimate"], found.estimates["loaded", "estimate"], rtol=1e-6
    )


def test_map_keeps_the_labels_that_its_prior_prefers():
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(jnp.array([4.0, -4.0]), 1.0).to_event(1))
        normals(x, sample("w", dist.Dirichlet(jnp.ones(2))), mu, jnp.ones(()))

    fit = fit_map(Model(program, X), starts=4, seed=0)
    assert fit.params["mu"][0] > fit.params["mu"][1]
    value = fit.model.log_likelihood(fit.params) + fit.model.log_prior(fit.params)
    np.testing.assert_allclose(value, fit.objective_value, rtol=1e-10)


def test_many_axes_of_components():
    """Twelve parameters of two components each are one group."""

    def program(x):
        w = sample("w", dist.Dirichlet(jnp.ones(2)))
        slopes = [sample(f"b{i}", dist.Normal(0, 1), 2) for i in range(11)]
        design = np.random.default_rng(0).normal(size=(len(x), 11))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            mean = sum(b[z] * design[:, i] for i, b in enumerate(slopes))
            numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    model = Model(program, X)
    with working_precision(model.dtype):
        (group,) = exchangeable_groups(model, frozenset())
    assert set(group.axes) == {("w", 0), *((f"b{i}", 0) for i in range(11))}
    assert group.prior_symmetric and not group.solved


def other_axes(x, y, counts, design, group):
    """Six vectors of components, and four others of the same length: effects of three covariates,
    intercepts of three groups."""
    w = sample("w", dist.Dirichlet(jnp.ones(3)))
    mu, nu = sample("mu", dist.Normal(0, 5), 3), sample("nu", dist.Normal(0, 5), 3)
    sigma, tau = sample("sigma", dist.LogNormal(0, 1), 3), sample("tau", dist.LogNormal(0, 1), 3)
    rate = sample("rate", dist.Gamma(2, 1), 3)
    b, c = sample("b", dist.Normal(0, 1), 3), sample("c", dist.Normal(0, 1), 3)
    intercept, shift = sample("a", dist.Normal(0, 1), 3), sample("s", dist.Normal(0, 1), 3)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z] + design @ b + intercept[group], sigma[z]), obs=x)
        numpyro.sample("y", dist.Normal(nu[z] + design @ c + shift[group], tau[z]), obs=y)
        numpyro.sample("counts", dist.Poisson(rate[z]), obs=counts)


def test_axes_of_other_things_of_the_same_length():
    rng, n = np.random.default_rng(0), 60
    data = rng.normal(size=n), rng.normal(size=n), rng.poisson(2, n), rng.normal(size=(n, 3))
    model = Model(other_axes, *data, rng.integers(0, 3, n))
    (group,) = exchangeable_groups(model, frozenset())
    assert group.axes == tuple((n, 0) for n in ("w", "mu", "nu", "sigma", "tau", "rate"))
    assert group.prior_symmetric and not group.solved


def coupled_chains(x, y):
    """Each of two chains goes by its own state and by the other's one step earlier."""
    A = numpyro.sample("A", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    B = numpyro.sample("B", dist.Dirichlet(jnp.ones((2, 2, 2))).to_event(2))
    mu, nu = sample("mu", dist.Normal(0, 5), 2), sample("nu", dist.Normal(0, 5), 2)

    def step(carry, seen):
        to_a, to_b = A[carry], B[carry[::-1]]
        a = numpyro.sample("a", dist.Categorical(to_a))
        b = numpyro.sample("b", dist.Categorical(to_b))
        numpyro.sample("x", dist.Normal(mu[a], 1.0), obs=seen[0])
        numpyro.sample("y", dist.Normal(nu[b], 1.0), obs=seen[1])
        return (a, b), None

    uniform = dist.Categorical(jnp.ones(2) / 2)
    scan(step, (numpyro.sample("a0", uniform), numpyro.sample("b0", uniform)), (x, y))


def test_chains_that_influence_each_other_have_labels_of_their_own():
    groups = exchangeable_groups(Model(coupled_chains, X[:12], X[-12:]), frozenset())
    assert {frozenset(g.axes) for g in groups} == {
        frozenset([("A", 0), ("A", 2), ("B", 1), ("mu", 0)]),
        frozenset([("B", 0), ("B", 2), ("A", 1), ("nu", 0)]),
    }
    assert all(g.prior_symmetric and not g.solved for g in groups)


def planted(rng, count):
    """A density of `count` vectors of three: some move together, some have places of their own, and
    all of them meet in one nonlinear function."""
    owner = rng.integers(0, 4, count)  # 0: has places of its own
    places = rng.normal(size=(count, 3))

    def at(params):
        inner = 0.0
        for i in range(count):
            if owner[i] == 0:
                inner += np.sin(places[i] @ params[f"p{i}"])
        for k in (1, 2, 3):
            columns = [(1.3 + i) * params[f"p{i}"] for i in range(count) if owner[i] == k]
            if columns:
                inner += np.log(np.exp(np.sin(np.sum(columns, 0)) + columns[0]).sum() + inner**2)
        return np.array([inner, 0.0])

    sets = [tuple((f"p{i}", 0) for i in range(count) if owner[i] == k) for k in (1, 2, 3)]
    return at, {s for s in sets if s}


def signs(params):
    """Unchanged if any two of three are turned, an even number of them: sets that overlap."""
    a, b, c, d = (params[f"p{i}"][0] - params[f"p{i}"][1] for i in range(4))
    return np.array([a * b * c + (a * b * c) ** 3 + np.exp(d), 0.0])


def sets_of(at, count, size):
    sites = [place(f"p{i}", constraints.real, (size,)) for i in range(count)]
    params = {s.name: np.random.default_rng(5).normal(size=size) for s in sites}
    return Symmetries(pieces_of(sites, size), params, at).minimal_sets()


@pytest.mark.parametrize("seed", range(20))
def test_sets_that_move_together_are_found(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 31))
    at, expected = planted(rng, count)
    found = sets_of(at, count, 3)
    assert len(found) == len(expected) and set(found) == expected


def test_sets_that_overlap_are_found():
    names = [tuple((f"p{i}", 0) for i in pair) for pair in ((0, 1), (0, 2), (1, 2))]
    assert set(sets_of(signs, 4, 2)) == set(names)


def test_order_by_a_parameter(read):
    model, groups = read(one_minus)
    params = [some_params(model, seed) for seed in range(6)]
    draws = {k: np.stack([p[k] for p in params]) for k in params[0]}
    found, _ = order_draws(draws, groups, "mu", model)
    assert np.all(np.diff(found["mu"], axis=1) > 0)
    turned = draws["mu"][:, 0] > draws["mu"][:, 1]
    expected = np.where(turned, 1 - draws["theta"], draws["theta"])
    np.testing.assert_allclose(found["theta"], expected, rtol=1e-9)


def test_switched_labels_that_cannot_be_aligned_are_told(read):
    model, groups = read(unequal_prior)
    at = {"theta": 0.4, "mu": np.array([-2.0, 1.5]), "sigma": 0.9}
    at = {k: np.asarray(v) for k, v in at.items()}
    turned = permute(at, groups[0], (1, 0), model)
    draws = {k: np.stack([np.stack([p[k]] * 4) for p in (at, turned)]) for k in at}
    density = np.zeros((2, 4))
    assert switched_latents(model, draws, density, ()) == ["z"]
    assert switched_latents(model, draws, density, groups) == []
    same = {k: np.stack([np.stack([at[k]] * 4)] * 2) for k in at}
    assert switched_latents(model, same, density, ()) == []
    story = tell_switched(["z"], groups)
    assert "prior tells its values apart" in story and "ordered" in story
    assert "no relabelling" in tell_switched(["z"], ())


@pytest.mark.slow
def test_switched_chains_are_told_by_the_fit(read, monkeypatch):
    """The chains start under different names, and the prior is not the same for both."""
    model, groups = read(unequal_prior)

    def apart(model, target, vectors):
        space = target.space
        params = [jax.device_get(space.to_params(jnp.asarray(v))) for v in vectors]
        moved = align(params[0], params[0], groups, model)
        other = permute(moved, groups[0], (1, 0), model)
        return np.stack([np.asarray(space.to_vector(p)) for p in (moved, other)])

    monkeypatch.setattr(nuts_module, "_in_one_labelling", apart)
    fit = fit_nuts(model, chains=2, warmup=100, draws=100, seed=0)
    assert fit.diagnostics["max_r_hat"] > 1.5
    assert "labels of 'z' have switched" in fit.story
    assert "ordered" in fit.status_note
    assert any("labels of 'z' have switched" in w for w in compare({"NUTS": fit}).warnings)


def test_chains_start_in_one_labelling(read):
    model, groups = read(unequal_prior)
    with working_precision(model.dtype):
        target = model.target(with_prior=True)
        settings = nuts_module.Settings(10, 0.9, 10, 6, True)
        starts, _ = nuts_module._chain_starts(model, target, settings, 6, 3, "mixed")
        mu = np.stack([np.asarray(target.space.to_params(v)["mu"]) for v in starts])
    assert len({bool(a > b) for a, b in mu}) == 1
    assert np.ptp(mu, 0).min() > 0


def test_chains_start_in_modes_of_some_mass(galaxies):
    """A second mode of the galaxies, of sd (1.4, 8.1, 0.7), has about a hundredth of the posterior: a
    chain that begins there stays for thousands of draws (R-hat 1.5 in one fit of seven)."""
    settings = nuts_module.Settings(10, 0.9, 10, 4, True)
    with working_precision(galaxies.dtype):
        target = galaxies.target(with_prior=True)
        for seed in range(8):
            starts, _ = nuts_module._chain_starts(galaxies, target, settings, 4, seed, "mixed")
            mu = np.stack([np.sort(target.space.to_params(v)["mu"]) for v in starts])
            np.testing.assert_allclose(mu, np.broadcast_to([9.7, 21.4, 33.0], mu.shape), atol=2.5)


# --- priors that depend on other parameters --------------------------------------------------

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0])


def schools(y):
    mu, tau = sample("mu", dist.Normal(0, 5)), sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(effect, 10.0), obs=y)


def shared_concentration(y):
    alpha = sample("alpha", dist.Gamma(2, 1))
    rates = numpyro.sample("rates", dist.Gamma(alpha, jnp.ones(2)).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Exponential(rates.sum()), obs=jnp.abs(y))


@pytest.mark.parametrize(
    ("program", "named"), [(schools, {"effect"}), (shared_concentration, {"rates"})]
)
def test_density_of_nuts_is_numpyros(program, named):
    """Where priors hang on other parameters: at random points, the Jacobian included."""
    model = Model(program, Y, parameters=named)
    with working_precision(model.dtype):
        target = model.target(with_prior=True)
        where, shapes = target.space.slices(), target.space.free_shapes()
        for seed in range(3):
            vector = np.random.default_rng(seed).normal(size=target.space.size)
            free = {n: jnp.asarray(vector[w]).reshape(shapes[n]) for n, w in where.items()}
            ours = target.density(jnp.asarray(vector))
            np.testing.assert_allclose(ours, -potential_energy(program, (Y,), {}, free), rtol=1e-10)


def test_a_support_that_depends_on_a_parameter_is_refused():
    def program(y):
        high = sample("high", dist.LogNormal(0, 1))
        a = numpyro.sample("a", dist.Uniform(0, high))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    with pytest.raises(ValueError, match="'a': its support depends on 'high'.*Uniform"):
        Model(program, Y, parameters={"a"})


@pytest.mark.parametrize("draws", [1, 2, 24, 200])
def test_few_draws_of_laplace_are_kept_and_told(draws):
    x = np.array([-3.0, -2.5, -2.2, 2.0, 2.4, 3.1, 2.8])

    def mixture_of_two(x):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)

    fit = fit_laplace(Model(mixture_of_two, x), starts=1, draws=draws, seed=0)
    assert fit.draws["mu"].shape == (1, draws, 2)
    assert ("cannot tell" in fit.status_note) == (draws < 200)
    assert str(compare({"Laplace": fit}))


def test_a_latent_of_many_values_is_not_searched_pair_by_pair(monkeypatch):
    def change_point(y):
        early = numpyro.sample("early", dist.Gamma(2, 1))
        late = numpyro.sample("late", dist.Gamma(2, 1))
        tau = numpyro.sample("tau", dist.DiscreteUniform(1, len(y) - 1))
        with numpyro.plate("years", len(y)):
            numpyro.sample(
                "y", dist.Poisson(jnp.where(jnp.arange(len(y)) < tau, early, late)), obs=y
            )

    looked = []
    at = Entries.at
    monkeypatch.setattr(
        Entries,
        "at",
        lambda self, target, v, index: looked.append(len(v)) or at(self, target, v, index),
    )
    model = Model(change_point, np.repeat([3, 1], 40))
    assert exchangeable_groups(model, frozenset()) == ()
    assert sum(looked) < 20_000  # all pairs of values, from four points each, took 150,000


def columns(x, K):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("columns", x.shape[1]), numpyro.plate("cluster", K):
        mu = numpyro.sample("mu", dist.Normal(0, 100))
        sd = numpyro.sample("sd", dist.LogNormal(0, 2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sd[z]).to_event(1), obs=x)


@pytest.mark.parametrize("K", [2, 3])
def test_refits_keep_their_labels_where_components_are_alike_in_all_but_their_means(K):
    """Weights and scales that are the same in all components are noise, and do not decide what is which."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(240, 2)) + 6 * rng.integers(K, size=240)[:, None]
    fit = fit_em(Model(columns, x, K=K), starts=5, seed=0)
    boot = fit.bootstrap(60, seed=0)
    order = np.argsort(fit.params["mu"][:, 0])
    first = boot.estimates[[f"mu[{k},0]" for k in order]].to_numpy()
    assert len(first) == 60 and np.all(np.diff(first) > 3)
    assert np.allclose(boot.standard_errors / fit.standard_errors(), 1, atol=0.4)


def test_what_is_alike_in_all_components_has_one_vote():
    fit = fit_em(
        Model(
            columns, np.concatenate([RNG.normal(-3, 1, (60, 2)), RNG.normal(3, 1, (60, 2))]), K=2
        ),
        seed=0,
    )
    near = {
        "w": np.array([0.52, 0.48]),
        "mu": np.array([[-3.1, -2.9], [3.1, 2.9]]),
        "sd": np.ones((2, 2)),
    }
    near["sd"] = near["sd"] + np.array([[0.001, 0.002], [0.0, 0.0]])
    other = near | {"sd": np.array([[0.9, 0.9], [1.1, 1.1]])}
    for params in (other, {k: v[::-1] for k, v in other.items()}):
        assert np.array_equal(align(params, near, fit.groups)["mu"], other["mu"])


@pytest.mark.parametrize("seed", [0, 1])
def test_wide_priors_do_not_hide_the_mode(seed):
    """An empty component, drawn from its prior, is another mode of the posterior, 275 nats lower."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) * [0.4, 6] + np.where(
        rng.random((200, 1)) < 0.65, [4.3, 80], [2, 55]
    )
    model = Model(columns, x, K=2)
    highest = fit_map(model, seed=0)
    nuts = fit_nuts(model, chains=2, warmup=100, draws=50, seed=seed)
    laplace = fit_laplace(model, seed=seed)
    for fit in (nuts, laplace):
        assert abs(fit.log_likelihood - highest.log_likelihood) < 5
