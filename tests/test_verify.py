"""A reading is right or refused: programs whose structure is easily misread, against NumPyro's own
log density summed over every configuration of the latents."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from everyday import enumerated, point
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density

from pp_mlem import Model, fit_em

RNG = np.random.default_rng(0)
PROBS = np.array([0.3, 0.7])


def by_numpyro(program, args, params, latents):
    """(log likelihood, log prior): log_density of NumPyro at every value of the latents, which are
    {name: (shape, values)}; the prior is what remains without the sites of data and latents."""
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(a) for a in args)
        given = {k: jnp.asarray(v, float) for k, v in params.items()}
        choices = [itertools.product(v, repeat=int(np.prod(s))) for s, v in latents.values()]
        codes = list(itertools.product(*choices))
        values = {
            name: jnp.asarray([c[i] for c in codes]).reshape(-1, *shape)
            for i, (name, (shape, _)) in enumerate(latents.items())
        }

        def joint(chosen):
            total, trace = log_density(program, args, {}, given | chosen)
            prior = 0.0
            for name, site in trace.items():
                if site["type"] == "sample" and name in params:
                    density = site["fn"].log_prob(site["value"])
                    prior += jnp.sum(density * (1.0 if site["scale"] is None else site["scale"]))
            return total - prior, prior

        terms, priors = jax.vmap(joint)(values) if latents else joint({})
        return float(jax.nn.logsumexp(terms)), float(np.max(priors))


def check(program, args, params, latents, **options):
    model = Model(program, *args, **options)
    log_z, prior = by_numpyro(program, args, params, latents)
    np.testing.assert_allclose(model.log_likelihood(params), log_z, rtol=1e-9, atol=1e-9)
    own = model.pointwise_log_likelihood(params)
    assert own.shape == model.unit_weights().shape
    np.testing.assert_allclose(own.sum(), log_z, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.log_prior(params), prior, rtol=1e-9, atol=1e-9)
    return model


# --- handlers around a scan -------------------------------------------------------------------


def autoregression(steps, mask=True):
    a = numpyro.sample("a", dist.Normal(0, 1))

    def step(previous, _):
        y = numpyro.sample("y", dist.Normal(a * previous, 1.2))
        return y, None

    with handlers.mask(mask=mask):
        scan(step, 0.3, None, length=steps)


def smoothing(steps):
    """The carry holds what was computed from the observation, not the observation."""
    a = numpyro.sample("a", dist.Beta(1, 1))

    def step(level, _):
        y = numpyro.sample("y", dist.Normal(level, 1.2))
        return a * y + (1 - a) * level, None

    scan(step, 0.3, None, length=steps)


def hidden_path(steps, reverse=False):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def step(z, _):
        with numpyro.plate("sequences", 2):
            z = numpyro.sample("z", dist.Categorical(jnp.array([[0.7, 0.3], [0.4, 0.6]])[z]))
            numpyro.sample("y", dist.Normal(mu[z], 1.0))
        return z, None

    scan(step, jnp.zeros(2, int), None, length=steps, reverse=reverse)


def conditioned(y):
    handlers.condition(autoregression, data={"y": y})(len(y))


def substituted(y):
    handlers.substitute(autoregression, data={"y": y})(len(y))


def conditioned_smoothing(y):
    handlers.condition(smoothing, data={"y": y})(len(y))


def conditioned_paths(y):
    handlers.condition(hidden_path, data={"y": y})(len(y))


def conditioned_backwards(y):
    handlers.condition(hidden_path, data={"y": y})(len(y), reverse=True)


def masked_steps(y, mask):
    handlers.condition(autoregression, data={"y": y})(len(y), mask)


def weighted_steps(y):
    with handlers.scale(scale=2.5):
        handlers.condition(autoregression, data={"y": y})(len(y))


LINE = RNG.normal(size=5)
PAIRS = RNG.normal(size=(3, 2))
PATHS = {"z": ((3, 2), (0, 1))}
ALONG_STEPS = {
    "condition": (conditioned, (LINE,), {"a": 0.5}, {}),
    "substitute": (substituted, (LINE,), {"a": 0.5}, {}),
    "smoothing": (conditioned_smoothing, (LINE,), {"a": 0.5}, {}),
    "paths": (conditioned_paths, (PAIRS,), {"mu": [-1.0, 1.5]}, PATHS),
    "backwards": (conditioned_backwards, (PAIRS,), {"mu": [-1.0, 1.5]}, PATHS),
    "mask along the steps": (
        masked_steps, (LINE, np.array([True, True, False, True, True])), {"a": 0.5}, {},
    ),
    "scale": (weighted_steps, (LINE,), {"a": 0.5}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALONG_STEPS))
def test_handlers_around_a_scan_act_at_each_step(name):
    program, args, params, latents = ALONG_STEPS[name]
    with np.testing.suppress_warnings() as suppressed:
        suppressed.filter(UserWarning)
        check(program, args, params, latents)


def test_data_of_fewer_steps_are_refused():
    def program(y):
        handlers.condition(autoregression, data={"y": y})(len(y) + 2)

    with pytest.raises(ValueError, match="site 'y'.*condition.*5 values.*7 steps"):
        Model(program, LINE)


# --- priors -----------------------------------------------------------------------------------


def decentred(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(PROBS))
        with handlers.reparam(config={"b": LocScaleReparam(0)}):
            b = numpyro.sample("b", dist.Normal(mu[z], s))
        numpyro.sample("x", dist.Normal(b, 1.0), obs=x)


def test_a_prior_that_a_latent_broadcasts_counts_once():
    params = {"mu": [-1.0, 1.0], "s": 0.8, "b_decentered": [0.1, -0.2, 0.3]}
    x = np.array([0.3, -1.0, 2.0])
    check(decentred, (x,), params, {"z": ((3,), (0, 1))}, parameters={"b_decentered"})


# --- gathers, dependence across units, supports -----------------------------------------------


def two_gathers(x, y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("groups", 3):
        z = numpyro.sample("z", dist.Categorical(PROBS))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu[z[group]], 1.0), obs=x)
        numpyro.sample("y", dist.Normal(2 * mu[z[group]], 1.0), obs=y)


def test_which_unit_a_row_reads_does_not_hang_on_missing_cells():
    x, y, group = np.arange(5) / 2, np.arange(5) / 3 - 1, np.array([0, 1, 2, 2, 1])
    params, latents = {"mu": [-1.0, 1.5]}, {"z": ((3,), (0, 1))}
    hole = x.copy()
    hole[[1, 4]] = np.nan
    model = Model(two_gathers, hole, y, group)

    def shown(a, b, g):
        mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
        with numpyro.plate("groups", 3):
            z = numpyro.sample("z", dist.Categorical(PROBS))
        numpyro.sample("x", dist.Normal(mu[z[g[jnp.array([0, 2, 3])]]], 1.0), obs=a)
        numpyro.sample("y", dist.Normal(2 * mu[z[g]], 1.0), obs=b)

    expected, _ = by_numpyro(shown, (x[[0, 2, 3]], y, group), params, latents)
    np.testing.assert_allclose(model.log_likelihood(params), expected, rtol=1e-9)
    other = np.array([2, 0, 1, 0, 2])
    expected, _ = by_numpyro(shown, (x[[0, 2, 3]], y, other), params, latents)
    found = model.with_data(group=other).log_likelihood(params)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def network(a):
    p = numpyro.sample("p", dist.Beta(1, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("nodes", 5):
        z = numpyro.sample("z", dist.Categorical(PROBS))
    i, j = np.triu_indices(5, 1)
    with numpyro.plate("pairs", len(i)):
        numpyro.sample("a", dist.Bernoulli(p[z[i], z[j]]), obs=a)


def neighbours(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("units", 4):
        z = numpyro.sample("z", dist.Categorical(PROBS))
    with numpyro.plate("rows", 3):
        numpyro.sample("x", dist.Normal(mu[z[1:]] * mu[z[:-1]], 1.0), obs=x)


def neighbours_in_one_plate(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("units", 3):
        z = numpyro.sample("z", dist.Categorical(PROBS))
        numpyro.sample("x", dist.Normal(mu[z] * mu[jnp.roll(z, 1)], 1.0), obs=x)


TWICE = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 0])  # units that rows read


def two_sites(x, second="rows"):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("units", 3):
        z = numpyro.sample("z", dist.Categorical(PROBS))
    with numpyro.plate("rows", 4):
        numpyro.sample("x", dist.Normal(mu[z[TWICE[0]]], 1.0), obs=x)
    with numpyro.plate(second, 4):
        numpyro.sample("y", dist.Normal(mu[z[TWICE[1]]], 2.0), obs=x)


def two_latents(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("units", 3):
        z = numpyro.sample("z", dist.Categorical(PROBS))
        u = numpyro.sample("u", dist.Bernoulli(0.4))
    with numpyro.plate("rows", 4):
        numpyro.sample("x", dist.Normal(mu[z[TWICE[0]]] + u[TWICE[1]], 1.0), obs=x)


def test_two_sites_that_read_different_units_from_plates_of_their_own():
    model = Model(two_sites, LINE[:4], second="others")
    params = point(model)
    expected = enumerated(model, params, (LINE[:4],), {"second": "others"})[0]
    assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-10)


ACROSS = {
    "two sites": (
        two_sites,
        LINE[:4],
        r"^the sites 'x' and 'y' in plate 'rows' read different.*plate of its own",
    ),
    "two latents": (
        two_latents,
        LINE[:4],
        "^the latents 'u' and 'z' reach 'x' from different units",
    ),
    "network": (network, np.arange(10) % 2, "several units of plate 'nodes'"),
    "neighbours": (neighbours, LINE[:3], "several units of plate 'units'"),
    "one plate": (neighbours_in_one_plate, LINE[:3], "latents of other units"),
}


@pytest.mark.parametrize("name", sorted(ACROSS))
def test_dependence_across_units_is_refused(name):
    program, data, told = ACROSS[name]
    with pytest.raises(ValueError, match=told):
        Model(program, data)


def animals(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("sites", len(y)):
        n = numpyro.sample("n", dist.DiscreteUniform(0, 5))
        numpyro.sample("y", dist.Binomial(n, p), obs=y)


def bound(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.Bernoulli(p))
        numpyro.sample("y", dist.Uniform(0.0, 1.0 + n), obs=y)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_a_support_that_a_latent_moves_is_summed():
    check(animals, (np.array([2, 0, 3]),), {"p": 0.4}, {"n": ((3,), range(6))})
    check(bound, (np.array([0.5, 1.2]),), {"p": 0.4}, {"n": ((2,), (0, 1))})
    with pytest.raises(ValueError, match=r"'y'.*value 7.*index \(1,\).*Correct the data"):
        Model(animals, np.array([2, 7, 3]))


# --- labels on masked units -----------------------------------------------------------------


def labelled(x, seen, weights):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    with numpyro.plate("n", 4), handlers.scale(scale=weights), handlers.mask(mask=seen):
        z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def labelled_states(x, seen):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))

    def body(z, inputs):
        with numpyro.plate("sequences", 2), handlers.mask(mask=inputs[1]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=inputs[0])
        return z, None

    scan(body, jnp.zeros(2, int), (x, seen))


LABELS = np.array([1, 0, -1, np.nan])
STATES = np.array([[1, np.nan], [np.nan, 0], [0, 1]])
LABELLED = {
    "units": (
        labelled,
        (
            np.array([0.3, 1.2, np.nan, -0.7]),
            np.array([1, 0, 1, 1], bool),
            np.array([1, 2, 0.5, 3]),
        ),
        LABELS,
        {"mu": np.array([-0.5, 0.9]), "p": 0.3},
    ),
    "states": (
        labelled_states,
        (
            np.array([[0.3, 1.0], [np.nan, -1.0], [0.4, 0.2]]),
            np.array([[1, 1], [1, 0], [1, 0]], bool),
        ),
        STATES,
        {"mu": np.array([-0.5, 0.9]), "P": np.array([[0.8, 0.2], [0.4, 0.6]])},
    ),
}


def by_hand(x, seen, weights, labels, moves, mu):
    """The log-likelihood of each column of data over the paths that its labels allow; `moves` is
    the law of a value after another."""
    found = []
    for i in range(x.shape[1]):
        steps = int(seen[:, i].sum())
        terms = []
        for path in itertools.product(range(2), repeat=steps):
            if all(labels[t, i] not in (0, 1) or labels[t, i] == v for t, v in enumerate(path)):
                law = np.prod([moves[a, b] for a, b in zip((0, *path), path, strict=False)])
                cells = [-((x[t, i] - mu[v]) ** 2) / 2 for t, v in enumerate(path)]
                shown = np.nan_to_num(np.array(cells) - np.log(2 * np.pi) / 2)
                terms.append(np.log(law) + shown.sum())
        found.append(weights[i] * np.logaddexp.reduce(terms))
    return np.array(found)


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_on_a_masked_unit_does_not_count(name):
    program, args, labels, params = LABELLED[name]
    model = Model(program, *args, observe={"z": labels})
    if name == "units":
        x, seen, weights = args
        moves = np.array([[0.7, 0.3]])
        sums = np.concatenate([
            by_hand(x[i:i + 1, None], seen[i:i + 1, None], weights[i:], labels[i:i + 1, None], moves,
                    params["mu"])
            for i in range(4)
        ])  # fmt: skip
        hidden = ~seen
    else:
        sums = by_hand(*args, np.ones(2), labels, params["P"], params["mu"])
        hidden = ~args[1]
    own = np.asarray(model.pointwise_log_likelihood(params)).ravel()
    np.testing.assert_allclose(own, sums, atol=1e-10)
    without = Model(program, *args, observe={"z": np.where(hidden, np.nan, labels)})
    np.testing.assert_array_equal(model.posterior(params)["z"], without.posterior(params)["z"])
    values = [fit_em(m, starts=1, seed=0).log_likelihood for m in (model, without)]
    assert values[0] == values[1]


# --- lists as arguments of distributions ----------------------------------------------------


def of_lists(x, made=list):
    m = numpyro.sample("m", dist.Normal(made([0, 1]), made([1, 2])).to_event(1))
    s = numpyro.sample("s", dist.LogNormal(made([0, 1]), made([1, 2])).to_event(1))
    with numpyro.plate("k", 2):
        g = numpyro.sample("g", dist.Gamma(made([2, 3]), made([1, 2])))
    with numpyro.plate("n", 2):
        z = numpyro.sample("z", dist.Categorical(made([0.25, 0.75])))
        numpyro.sample("x", dist.Normal(m[z] + g[0], made([1, 2])), obs=x)
        numpyro.sample("y", dist.Normal(s[0], made([1, 2])), obs=x)


def test_lists_as_arguments_of_distributions_are_arrays():
    x, params = np.array([0.3, -1.0]), {"m": [0.1, 0.5], "s": [0.4, 0.8], "g": [1.2, 0.7]}
    model = Model(of_lists, x)
    arrays = Model(partial(of_lists, made=lambda v: jnp.array(v, float)), x)
    log_z = arrays.log_likelihood(params)
    np.testing.assert_allclose(model.log_likelihood(params), log_z, rtol=1e-12)
    np.testing.assert_allclose(model.log_prior(params), arrays.log_prior(params), rtol=1e-12)
    drawn, theirs = model.simulate(params, seed=1), arrays.simulate(params, seed=1)
    np.testing.assert_array_equal(drawn["x"], theirs["x"])


# --- a missing observation that enters another site -----------------------------------------

SHOWN = np.array([1, 0, 1, 1, 1], bool)
PARTLY = np.array([0.1, np.nan, 0.3, 0.4, -0.2])
SECOND = np.array([1.0, 0.5, -1.0, 2.0, 0.3])


def enters(y, x, shown=True):
    mu, b = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("n", 5), handlers.mask(mask=shown):
        y = numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        numpyro.sample("x", dist.Normal(b * y, 1.0), obs=x)


def enters_directly(y, x):
    mu, b = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("n", 5):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        numpyro.sample("x", dist.Normal(b * y, 1.0), obs=x)


def enters_by_condition(x):
    handlers.condition(enters, {"y": PARTLY})(None, x)


def enters_as_index(y, x):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("n", 5):
        y = numpyro.sample("y", dist.Categorical(jnp.array([0.5, 0.5])), obs=y)
        numpyro.sample("x", dist.Normal(mu[y.astype(int)], 1.0), obs=x)


def enters_the_next_step(y):
    mu, b = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))

    def body(before, now):
        return numpyro.sample("y", dist.Normal(mu + b * before, 1.0), obs=now), None

    scan(body, 0.0, y)


def enters_where_mask_is_of_nan(y, x):
    enters(y, x, ~jnp.isnan(y))


ENTERING = {
    "value": (enters, (PARTLY, SECOND), r"'y'.*index \(1,\) reaches loc of site 'x'.*drop these"),
    "argument": (enters_directly, (PARTLY, SECOND), r"site 'y'.*\(1,\) reaches loc of site 'x'"),
    "condition": (enters_by_condition, (SECOND,), r"site 'y'.*\(1,\) reaches loc of site 'x'"),
    "index": (enters_as_index, (np.where(SHOWN, 1.0, np.nan), SECOND), r"'y'.*\(1,\).*no index"),
    "next step": (enters_the_next_step, (PARTLY,), r"'y'.*\(1,\) reaches loc of site 'y'.*carried"),
    "mask of NaN": (enters_where_mask_is_of_nan, (PARTLY, SECOND), "'y'.*under a mask.*jnp.where"),
    "other row masked": (
        enters,
        (np.where(np.arange(5) == 3, np.nan, PARTLY), SECOND, SHOWN),
        r"'y'.*index \(3,\) reaches loc of site 'x'",
    ),
}


@pytest.mark.parametrize("name", ENTERING)
def test_a_missing_value_that_enters_another_site_is_refused(name):
    program, args, told = ENTERING[name]
    with pytest.raises(ValueError, match=told):
        Model(program, *args)


def test_a_missing_value_under_the_mask_of_its_reader_counts_as_nothing():
    filled = np.where(SHOWN, PARTLY, 9.0)
    whole = check(enters, (filled, SECOND, SHOWN), {"mu": 0.3, "b": 0.4}, {})
    for model in (Model(enters, PARTLY, SECOND, SHOWN), whole.with_data(y=PARTLY)):
        np.testing.assert_array_equal(
            model.pointwise_log_likelihood({"mu": 0.3, "b": 0.4}),
            whole.pointwise_log_likelihood({"mu": 0.3, "b": 0.4}),
        )
        assert fit_em(model, seed=0).log_likelihood == fit_em(whole, seed=0).log_likelihood
    with pytest.raises(ValueError, match="enters 'x'"):
        whole.with_data(y=PARTLY, shown=np.ones(5, bool))


def test_a_missing_value_that_is_not_carried_on_is_integrated_out():
    def carried(y):
        mu, b = numpyro.sample("mu", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))

        def body(before, now):
            numpyro.sample("y", dist.Normal(mu + b * before, 1.0), obs=now)
            return jnp.where(jnp.isnan(now), before, now), None

        scan(body, 0.0, y)

    means = 0.3 + 0.4 * np.array([0, 0.1, 0.1, 0.3, 0.4])
    cells = -((PARTLY - means) ** 2) / 2 - np.log(2 * np.pi) / 2
    value = Model(carried, PARTLY).log_likelihood({"mu": 0.3, "b": 0.4})
    np.testing.assert_allclose(value, np.nansum(cells), rtol=1e-12)
