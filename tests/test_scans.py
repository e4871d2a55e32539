"""Every scan that NumPyro's users write: equal to enumeration of all paths of the unrolled program,
or refused with its reason."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scan_programs as programs
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import stats

from pp_mlem import Model, fit_em, fit_map
from pp_mlem.base.compiling import quick_jit

QUICK = {
    programs.none_in_carry, programs.second_order_sequences, programs.waiting,
    programs.class_and_states, programs.law_by_factor, programs.previous_state,
}  # fmt: skip
CASES = [
    pytest.param(
        program, data, id=program.__name__, marks=() if program in QUICK else pytest.mark.slow
    )
    for program, data in programs.PROGRAMS
]
# With fewer steps a carry may not have taken its form, a mask covers all, ...
SHORT = [
    programs.none_in_carry, programs.second_order, programs.second_order_from_nothing,
    programs.third_order, programs.previous_state, programs.class_and_states,
    programs.second_order_sequences, programs.coupled, programs.law_by_factor, programs.hamilton,
    programs.state_before_with_covariates, programs.last_two_states,
]  # fmt: skip
DATA = dict(programs.PROGRAMS)


def draw(model: Model, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        vector = jnp.asarray(rng.uniform(-1, 1, model.space.size))
        return {k: np.asarray(v) for k, v in model.space.constrain(vector).items()}


def check_against_enumeration(program, data):
    model = Model(program, data, **programs.OPTIONS.get(program, {}))
    params = draw(model, 3)
    with jax.enable_x64(True):
        total, marginals, best = programs.enumerated(program, (data,), params)
    assert model.log_likelihood(params) == pytest.approx(total, rel=1e-10)
    assert model.pointwise_log_likelihood(params).sum() == pytest.approx(total, rel=1e-10)
    posterior, decoded = model.posterior(params), model.decode(params)
    assert set(posterior) == set(marginals)
    for name, expected in marginals.items():
        shown = ~np.isnan(posterior[name])
        np.testing.assert_allclose(posterior[name][shown], expected[shown], atol=1e-9)
        np.testing.assert_allclose(posterior[name][shown.all(-1)].sum(-1), 1.0)
        kept = shown.all(-1)
        np.testing.assert_array_equal(decoded[name][kept], best[name][kept])
    target = model.target()
    with jax.enable_x64(True):
        v = target.space.unconstrain({k: jnp.asarray(a) for k, a in params.items()})
        slope = quick_jit(jax.grad(lambda u: target.log_likelihood(u)))(v)
        _, _, by_statistics = quick_jit(lambda u: target.em_step(u))(v)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, by_statistics, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("program, data", CASES)
def test_equals_enumeration_of_the_unrolled_program(program, data):
    check_against_enumeration(program, data)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("program", SHORT, ids=lambda f: f.__name__)
def test_few_steps(program, steps):
    begun = program in (programs.hamilton, programs.state_before_with_covariates)
    begun = begun or program is programs.previous_state  # its first value is missing
    check_against_enumeration(program, DATA[program][: steps + begun])


LABELLED = {programs.gap, programs.waiting, programs.second_order_padded}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(p, id=p.__name__, marks=() if p in LABELLED else pytest.mark.slow)
        for i, (p, _) in enumerate(programs.PROGRAMS)
        if p in LABELLED or i % 2 == 0
        if p not in (programs.garch, programs.means_outside, programs.increments)  # no latents
    ],
)
def test_labels_count_where_states_are_not_masked(program):
    data, options = DATA[program], programs.OPTIONS.get(program, {})
    hidden = Model(program, data, **options)
    params = draw(hidden, 3)
    rng = np.random.default_rng(1)
    labels, counted = {}, {}
    for name, probability in hidden.posterior(params).items():
        given = rng.choice(hidden.reading.values[name], probability.shape[:-1]).astype(float)
        given[rng.random(given.shape) < 0.4] = np.nan
        labels[name] = given
        counted[name] = np.where(np.isnan(probability).any(-1), np.nan, given)
    model = Model(program, data, observe=labels, **options)
    with jax.enable_x64(True):
        total, marginals, _ = programs.enumerated(program, (data,), params, counted)
    found = model.log_likelihood(params)
    if not np.isfinite(total):  # labels that contradict each other
        assert found < -600
        return
    assert found == pytest.approx(total, rel=1e-10)
    for name, expected in marginals.items():
        posterior = model.posterior(params)[name]
        shown = ~np.isnan(posterior)
        np.testing.assert_allclose(posterior[shown], expected[shown], atol=1e-9)


def animals_by_hand(captures, phi, rho):
    """log-likelihood of each animal given its first capture, by the probabilities of Lebreton et
    al. (1992, doi:10.2307/2937171): seen at the occasions up to the last, then never again."""
    values = []
    for history in captures.T:
        seen = np.flatnonzero(history)
        total = 0.0
        if seen.size:
            for t in range(seen[0] + 1, seen[-1] + 1):
                total += np.log(phi[t - 1]) + np.log(rho if history[t] else 1 - rho)
            never = 1.0
            for t in reversed(range(seen[-1] + 1, len(history))):
                never = 1 - phi[t - 1] + phi[t - 1] * (1 - rho) * never
            total += np.log(never)
        values.append(total)
    return np.array(values)


def test_animals_before_their_first_capture():
    captures = np.array(
        [[0, 1, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 0]]
    )  # (occasions, animals): the third animal is never seen
    model = Model(programs.waiting, captures)
    params = {"phi": 0.7, "rho": 0.4}
    expected = animals_by_hand(captures, [0.7] * 4, 0.4)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), expected, atol=1e-12)
    hidden = np.cumsum(captures, 0)[:-1] == 0
    assert np.array_equal(np.isnan(model.posterior(params)["z"]).any(-1), hidden)
    assert np.array_equal(model.decode(params)["z"] == -1, hidden)


def test_a_parameter_of_every_step():
    model = Model(programs.survival_of_each_step, programs.CAPTURES, parameters={"phi"})
    phi = np.array([0.6, 0.8, 0.7])
    params = {"phi": phi, "rho": 0.4}
    expected = animals_by_hand(programs.CAPTURES, phi, 0.4)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), expected, atol=1e-12)
    fit = fit_em(model, starts=2, seed=0)
    assert fit.params["phi"].shape == (3,)
    best = fit.log_likelihood
    assert best >= model.log_likelihood(params)
    drawn = model.simulate(params, seed=1)
    assert drawn["y"].shape == (3, 3)


def test_a_random_walk_named_as_parameter():
    """Its prior is that of the path, as in NumPyro's joint density."""

    def program(x):
        def body(level, xt):
            level = numpyro.sample("level", dist.Normal(0.9 * level, 0.5))
            numpyro.sample("x", dist.Normal(level, 1.0), obs=xt)
            return level, None

        scan(body, 0.0, x)

    model = Model(program, programs.X, parameters={"level"})
    level = np.array([0.1, -0.4, 0.8, 0.5])
    before = np.concatenate([[0.0], level[:-1]])
    prior = -0.5 * np.log(2 * np.pi * 0.25) - (level - 0.9 * before) ** 2 / 0.5
    data = -0.5 * np.log(2 * np.pi) - (programs.X - level) ** 2 / 2
    assert model.log_prior({"level": level}) == pytest.approx(prior.sum())
    assert model.log_likelihood({"level": level}) == pytest.approx(data.sum())
    fit = fit_map(model, starts=2, seed=0)
    precision = np.eye(4) * (1 + 4) + np.eye(4) * 4 * 0.81 * (np.arange(4) < 3)
    precision -= 4 * 0.9 * (np.eye(4, k=1) + np.eye(4, k=-1))
    np.testing.assert_allclose(
        fit.params["level"], np.linalg.solve(precision, programs.X), atol=1e-5
    )


@pytest.mark.parametrize("program", [programs.none_in_carry, programs.second_order_from_nothing])
def test_simulation_from_a_carry_that_begins_as_none(program):
    model = Model(program, programs.X)
    drawn = model.simulate(draw(model, 0), seed=0)
    assert drawn["x"].shape == drawn["z"].shape == (4,)


def test_draws_of_a_chain_of_second_order():
    model = Model(programs.second_order, programs.X)
    params = draw(model, 0)
    assert "of 2 steps together: 4 joint states" in repr(model)
    drawn = model.sample_latents(params, draws=2000, seed=0)["z"]
    posterior = model.posterior(params)["z"]
    np.testing.assert_allclose(drawn.mean(0), posterior[:, 1], atol=0.05)


HIGHER = [
    pytest.param(p, id=p.__name__, marks=() if p is programs.second_order_from_nothing else pytest.mark.slow)
    for p in (
        programs.second_order_from_nothing, programs.second_order, programs.second_order_emission,
        programs.third_order, programs.second_order_beside_first,
    )
]  # fmt: skip


def by_enumeration(program, data, params, labels=None):
    with jax.enable_x64(True):
        return programs.enumerated(program, (data,), params, labels)


@pytest.mark.parametrize("program", HIGHER)
def test_filtered_of_higher_order(program):
    data = DATA[program]
    model = Model(program, data)
    params = draw(model, 3)
    found = model.filtered(params)
    for t in range(len(data)):
        _, marginals, _ = by_enumeration(program, data[: t + 1], params)
        for name, probabilities in found.items():
            np.testing.assert_allclose(probabilities[t], marginals[name][t], atol=1e-9)


@pytest.mark.parametrize("program", HIGHER)
def test_transition_counts_of_higher_order(program):
    data = DATA[program]
    model = Model(program, data)
    params = draw(model, 4)
    total, posterior, _ = by_enumeration(program, data, params)
    shape = posterior["z"].shape[:-1]
    expected = np.zeros((2, 2))
    for place in np.ndindex(len(data) - 1, *shape[1:]):
        for before, after in np.ndindex(2, 2):
            labels = np.full(shape, np.nan)
            labels[place] = before
            labels[(place[0] + 1, *place[1:])] = after
            both, _, _ = by_enumeration(program, data, params, {"z": labels})
            expected[before, after] += np.exp(both - total)
    np.testing.assert_allclose(model.transition_counts(params)["z"], expected, atol=1e-9)


@pytest.mark.parametrize("program", [programs.second_order_from_nothing, programs.third_order])
def test_forecast_of_higher_order(program):
    model = Model(program, programs.X)
    params = draw(model, 5)
    longer = Model(program, np.append(programs.X, [np.nan, np.nan]))
    states = longer.posterior(params)["z"][-2:]
    ahead = model.forecast(params, steps=2)
    np.testing.assert_allclose(ahead["z"], states, atol=1e-9)
    mean = states @ params["mu"]
    np.testing.assert_allclose(ahead["x"]["mean"], mean, atol=1e-9)
    spread = 1 + states @ params["mu"] ** 2 - mean**2
    np.testing.assert_allclose(ahead["x"]["sd"], np.sqrt(spread), atol=1e-9)


def test_pseudo_residuals_of_second_order():
    model = Model(programs.second_order, programs.X)
    params = draw(model, 6)
    found = model.pseudo_residuals(params)["x"]
    for t, x in enumerate(programs.X):
        without = programs.X.copy()
        without[t] = np.nan
        states = model.with_data(x=without).posterior(params)["z"][t]
        below = states @ stats.norm.cdf(x, params["mu"], 1.0)
        assert found["mid"].iloc[t] == pytest.approx(stats.norm.ppf(below), abs=1e-8)


def test_a_first_state_above_two_steps_is_told():
    model = Model(programs.second_order_sequences, programs.COUNTS)
    with pytest.raises(ValueError, match="depends on z0 above it"):
        model.filtered(draw(model, 0))


def test_filtered_where_sequences_end_before_the_order_begins():
    data = DATA[programs.second_order_padded]
    model = Model(programs.second_order_padded, data)
    params = draw(model, 3)
    found = model.filtered(params)["z"]
    posterior = model.posterior(params)["z"]
    assert np.array_equal(np.isnan(found), np.isnan(posterior))
    np.testing.assert_allclose(found[0, 0], posterior[0, 0])  # this one has a single step
    np.testing.assert_allclose(found[2, 1], posterior[2, 1])
    counts = model.transition_counts(params)["z"]
    assert counts.sum() == pytest.approx(2)  # of the other one, which has three


# --- what is refused -------------------------------------------------------------------------


def _program(body, init=0, **options):
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        scan(lambda c, xt: body(c, xt, mu), init, x)

    return Model(program, programs.X, **options)


def test_a_site_named_by_its_step_is_told():
    def body(t, x, mu):
        numpyro.sample(f"x_{t}", dist.Normal(mu[0], 1.0), obs=x)
        return t + 1, None

    with pytest.raises(ValueError, match="name made from the step"):
        _program(body)


def test_a_value_that_is_held_on_is_told():
    def body(carry, x, mu):
        z, t = carry
        new = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2 + 0 * z))
        numpyro.sample("x", dist.Normal(mu[new], 1.0), obs=x)
        return (jnp.where(t < 2, new, z), t + 1), None

    with pytest.raises(ValueError, match=r"computed from itself and from states \('z'\)"):
        _program(body, (0, 0))


def test_a_carry_that_loses_its_form_is_told():
    def body(carry, x, mu):
        numpyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)
        return None, None

    with pytest.raises(ValueError, match="changes its structure"):
        _program(body, (0, 0))


def test_a_mask_of_a_scan_covers_its_sites():
    def masked(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with handlers.mask(mask=False):
            scan(lambda c, xt: (c, numpyro.sample("x", dist.Normal(mu, 1.0), obs=xt)), 0.0, x)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=x[0])

    model = Model(masked, programs.X)
    expected = dist.Normal(0.2, 1.0).log_prob(programs.X[0])
    assert model.log_likelihood({"mu": 0.2}) == pytest.approx(float(expected), rel=1e-6)


def test_a_factor_over_states_cannot_be_simulated():
    model = Model(programs.law_by_factor, programs.X)
    params = draw(model, 0)
    with pytest.raises(ValueError, match="weighs latents"):
        model.simulate(params)
    with pytest.raises(ValueError, match="forecast"):
        model.forecast(params)


@pytest.mark.parametrize(
    "program, reason",
    [
        (programs.previous_state, "state before"),
        (programs.regime_garch, "earlier observations"),
        (programs.two_depths, "depends on k besides"),
    ],
)
def test_pseudo_residuals_are_refused_with_the_reason(program, reason):
    model = Model(program, DATA[program])
    with pytest.raises(ValueError, match=reason):
        model.pseudo_residuals(draw(model, 0))
