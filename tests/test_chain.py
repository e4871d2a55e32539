"""Chains against brute-force enumeration of all paths by NumPyro's own densities."""

import itertools

import chain_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy import stats

from pp_mlem import Model, compare, fit_em
from pp_mlem.base.compiling import quick_jit
from pp_mlem.marginal import recursions


def enumerate_paths(model: Model, params: dict) -> tuple[float, dict, dict]:
    """log Z, posterior marginals and the best path of a program, by NumPyro's density of every
    joint value of its latents."""
    program, arguments = model.program, model.arguments
    params = {k: jnp.asarray(v) for k, v in params.items()}
    args, kwargs = arguments.values()
    trace = handlers.trace(handlers.seed(handlers.substitute(program, params), 0)).get_trace(
        *args, **kwargs
    )
    shapes = {n: np.shape(trace[n]["value"]) for n in model.latent_names}
    sizes = {n: model.reading.sites[n].size for n in shapes}
    spaces = [range(sizes[n]) for n in shapes for _ in range(int(np.prod(shapes[n])))]

    def unpack(flat):
        found, at = {}, 0
        for n, shape in shapes.items():
            count = int(np.prod(shape))
            found[n] = flat[at : at + count].reshape(shape)
            at += count
        return found

    def density(flat):
        return log_density(program, args, kwargs, {**params, **unpack(flat)})[0]

    every = np.array(list(itertools.product(*spaces)), int).reshape(
        -1 if spaces else 1, len(spaces)
    )
    prior = model.log_prior(params)
    logs = np.asarray(jax.jit(jax.vmap(density))(jnp.asarray(every))) - prior
    total = np.logaddexp.reduce(logs)
    weights = np.exp(logs - total)
    marginals = {}
    for n in shapes:
        values = np.stack([np.asarray(unpack(row)[n]) for row in every])
        marginals[n] = np.stack([(weights[:, None] * (values.reshape(len(values), -1) == k)).sum(0)
                                 for k in range(sizes[n])], -1).reshape(*shapes[n], sizes[n])  # fmt: skip
    return total, marginals, unpack(every[logs.argmax()])


def draw(model: Model, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        return {
            k: np.asarray(v)
            for k, v in model.space.constrain(
                jnp.asarray(rng.uniform(-1, 1, model.space.size))
            ).items()
        }


@pytest.mark.parametrize("program", programs.SINGLE + programs.SEVERAL, ids=lambda f: f.__name__)
def test_equals_enumeration_of_all_paths(program):
    data = programs.COUNTS if program in programs.SEVERAL else programs.X
    if program in (programs.classes, programs.sequences):
        data = data[:, :2]
    model = Model(program, data)
    params = draw(model, 3)
    with jax.enable_x64(True):
        total, marginals, best = enumerate_paths(model, params)
    assert model.log_likelihood(params) == pytest.approx(total, rel=1e-10)
    assert model.pointwise_log_likelihood(params).sum() == pytest.approx(total, rel=1e-10)
    posterior = model.posterior(params)
    for name, expected in marginals.items():  # NumPyro replays a reversed scan in its own order
        expected = expected[::-1] if program is programs.backwards else expected
        np.testing.assert_allclose(posterior[name], expected, atol=1e-9)
    decoded = model.decode(params)
    for name, expected in best.items():
        expected = expected[::-1] if program is programs.backwards else expected
        np.testing.assert_array_equal(decoded[name], expected)


def test_gradient_and_hessian_agree_with_differences():
    model = Model(programs.state_before, programs.X)
    target = model.target()
    with jax.enable_x64(True):
        v = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, target.space.size))

        def value(u):
            return target.log_likelihood(u)

        slope = jax.grad(value)
        gradient = quick_jit(slope)
        at = quick_jit(value)
        step = 1e-5 * jnp.eye(len(v))
        differences = jnp.stack([(at(v + h) - at(v - h)) / 2e-5 for h in step])
        np.testing.assert_allclose(gradient(v), differences, atol=1e-8)
        second = jnp.stack([(gradient(v + h) - gradient(v - h)) / 2e-5 for h in step])
        np.testing.assert_allclose(quick_jit(jax.jacfwd(slope))(v), second, atol=1e-8)


def test_structural_zeros_have_finite_gradients():
    model = Model(programs.left_to_right, programs.X)
    target = model.target()
    with jax.enable_x64(True):
        v = target.space.unconstrain({"stay": jnp.asarray(0.7), "mu": jnp.array([0.0, 1.0])})
        gradient = quick_jit(jax.grad(lambda u: target.log_likelihood(u)))(v)
        assert np.isfinite(gradient).all()


def forward_by_hand(pi, P, densities):
    """log Z of one chain in plain NumPy, densities (steps, states)."""
    alpha, total = pi * densities[0], 0.0
    for row in densities[1:]:
        alpha = alpha @ P * row
    return total + np.log(alpha.sum())


def test_sequences_of_different_lengths():
    lengths = np.array([4, 1, 2])
    model = Model(programs.padded, programs.COUNTS, lengths)
    params = draw(model, 1)
    expected = []
    for i, n in enumerate(lengths):
        densities = stats.poisson.pmf(programs.COUNTS[:n, i, None], params["rate"])
        expected.append(forward_by_hand(params["P"][0], params["P"], densities))
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), expected, rtol=1e-10)
    posterior = model.posterior(params)["z"]
    assert posterior.shape == (4, 3, 2)
    ended = np.arange(4)[:, None] >= lengths
    assert np.isnan(posterior[ended]).all()
    np.testing.assert_allclose(posterior[~ended].sum(-1), 1.0)
    assert np.array_equal(model.decode(params)["z"] == -1, ended)
    counts = model.transition_counts(params)["z"]
    assert counts.sum() == pytest.approx((lengths - 1).sum())
    fit = fit_em(model, init=params, max_iter=3, accelerate=False, polish=False)
    assert np.all(np.diff(fit.history) > 0)


def test_missing_observations_are_summed_out():
    x = programs.X.copy()
    x[[1, 3]] = np.nan
    model = Model(programs.fixed_start, x)
    params = draw(model, 2)
    densities = stats.norm.pdf(x[:, None], params["mu"], 1.0)
    densities[np.isnan(x)] = 1.0
    expected = forward_by_hand(params["P"][0], params["P"], densities)
    assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-12)
    assert model.n_observations == 2


def test_single_sequence_is_told_step_by_step():
    model = Model(programs.state_before, programs.X)
    params = draw(model, 4)
    densities = stats.norm.pdf(programs.X[:, None], params["mu"], 1.0)
    totals = [forward_by_hand(params["pi"], params["P"], densities[:n]) for n in (2, 3, 4)]
    expected = np.diff(totals, prepend=0.0)
    np.testing.assert_allclose(model.pointwise_log_likelihood(params), expected, rtol=1e-10)
    assert model.units == "one-step-ahead predictions"
    assert model.n_observations == 4


def test_filtered_forecast_and_draws():
    model = Model(programs.state_before, programs.X)
    params = draw(model, 5)
    P = params["P"]
    densities = stats.norm.pdf(programs.X[:, None], params["mu"], 1.0)
    alpha = params["pi"] * densities[0]
    for t in (1, 2, 3):
        alpha = alpha @ P * densities[t]
        np.testing.assert_allclose(model.filtered(params)["z"][t - 1], alpha / alpha.sum())
    ahead = model.forecast(params, steps=3)
    state = alpha / alpha.sum()
    for h in range(3):
        state = state @ P
        np.testing.assert_allclose(ahead["z"][h], state)
        assert ahead["x"]["mean"][h] == pytest.approx(state @ params["mu"])
        spread = 1 + state @ params["mu"] ** 2 - (state @ params["mu"]) ** 2
        assert ahead["x"]["sd"][h] == pytest.approx(np.sqrt(spread))
    drawn = model.sample_latents(params, draws=4000, seed=1)
    posterior = model.posterior(params)
    for name in ("z", "z0"):
        shares = np.stack([(drawn[name] == k).mean(0) for k in range(3)], -1)
        np.testing.assert_allclose(shares, posterior[name], atol=0.035)
    pairs = np.zeros((3, 3))
    for t in (1, 2):
        np.add.at(pairs, (drawn["z"][:, t - 1], drawn["z"][:, t]), 1 / 4000)
    np.testing.assert_allclose(pairs, model.transition_counts(params)["z"], atol=0.05)


def test_forecast_refuses_transitions_that_vary():
    model = Model(programs.covariates, programs.X)
    with pytest.raises(ValueError, match="vary with the step"):
        model.forecast(draw(model, 0))


def test_pseudo_residuals_of_a_poisson_chain():
    x = programs.COUNTS[:, :1]
    model = Model(programs.sequences, x)
    params = draw(model, 6)
    rate, P, pi = params["rate"], params["P"], params["pi"] @ params["P"]
    for t in range(4):
        lower, upper, total = 0.0, 0.0, 0.0
        for value in range(60):
            densities = stats.poisson.pmf(x, rate)
            densities[t] = stats.poisson.pmf(value, rate)
            mass = np.exp(forward_by_hand(pi, P, densities))
            total += mass
            lower += mass * (value < x[t, 0])
            upper += mass * (value <= x[t, 0])
        found = model.pseudo_residuals(params)["x"].iloc[t]
        assert found["lower"] == pytest.approx(stats.norm.ppf(lower / total), abs=1e-6)
        assert found["upper"] == pytest.approx(stats.norm.ppf(upper / total), abs=1e-6)


def test_pseudo_residuals_of_large_counts():
    x = np.array([[5100.0], [4900.0], [6000.0], [4000.0]])
    model = Model(programs.sequences, x)
    params = draw(model, 6) | {"rate": np.full(2, 5000.0)}  # the states do not matter
    found = model.pseudo_residuals(params)["x"]
    expected = stats.norm.ppf(stats.poisson.cdf(x[:, 0], 5000.0))
    np.testing.assert_allclose(found["upper"], expected, rtol=1e-6)


@pytest.mark.parametrize("labels", ["known", "partly"])
def test_observed_states(labels):
    states = np.array([0, 1, 1, 0])
    given = states if labels == "known" else np.array([0, -1, 1, -1])
    model = Model(programs.fixed_start, programs.X, observe={"z": given})
    params = draw(model, 7)
    densities = stats.norm.pdf(programs.X[:, None], params["mu"], 1.0)
    densities[(given[:, None] != np.arange(2)) & (given[:, None] >= 0)] = 0.0
    expected = forward_by_hand(params["P"][0], params["P"], densities)
    assert model.log_likelihood(params) == pytest.approx(expected, rel=1e-10)


def test_em_follows_hmmlearn():
    from hmmlearn.hmm import GaussianHMM

    rng = np.random.default_rng(8)
    x = np.repeat(rng.integers(0, 2, 12), 10) * 2.0 + rng.normal(size=120)
    start = {"P": np.array([[0.8, 0.2], [0.3, 0.7]]), "mu": np.array([0.0, 1.5])}

    model = Model(programs.state_before_of_two, x)
    fit = fit_em(
        model, init={**start, "pi": np.array([0.5, 0.5]), "sigma": np.array([1.0, 2.0])},
        accelerate=False, polish=False, max_iter=8, trace=True,
    )  # fmt: skip
    other = GaussianHMM(
        2, "diag", n_iter=7, tol=-np.inf, init_params="", covars_prior=0, covars_weight=0,
        min_covar=0,
    )  # fmt: skip
    other.startprob_, other.transmat_ = np.array([0.5, 0.5]), start["P"]
    other.means_, other.covars_ = start["mu"][:, None], np.array([[1.0], [4.0]])
    other.fit(x[:, None])
    np.testing.assert_allclose(fit.history[:7], other.monitor_.history, rtol=1e-9)
    seventh = fit.trace[7]
    np.testing.assert_allclose(seventh["P"], other.transmat_, rtol=1e-7)
    np.testing.assert_allclose(seventh["mu"], other.means_[:, 0], rtol=1e-7)
    np.testing.assert_allclose(seventh["sigma"] ** 2, other.covars_.ravel(), rtol=1e-7)


def test_case_weights_multiply_whole_sequences():
    weights = np.array([1.0, 3.0, 0.5])

    def program(x):
        with numpyro.plate("from", 2):
            P = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))
            rate = numpyro.sample("rate", dist.Gamma(2, 1))

        def body(z, xt):
            with numpyro.plate("sequences", 3), handlers.scale(scale=weights):
                z = numpyro.sample("z", dist.Categorical(P[z]))
                numpyro.sample("x", dist.Poisson(rate[z]), obs=xt)
            return z, None

        scan(body, jnp.zeros(3, int), x)

    model = Model(program, programs.COUNTS)
    params = draw(model, 0)
    single = [
        forward_by_hand(
            params["P"][0], params["P"],
            stats.poisson.pmf(programs.COUNTS[:, i, None], params["rate"]),
        )
        for i in range(3)
    ]  # fmt: skip
    assert model.log_likelihood(params) == pytest.approx(weights @ single, rel=1e-10)
    target = model.target()
    with jax.enable_x64(True):
        v = target.space.unconstrain({k: jnp.asarray(a) for k, a in params.items()})
        _, _, slope = quick_jit(lambda u: target.em_step(u))(v)

        def log_likelihood(u):
            return target.log_likelihood(u)

        value, plain = quick_jit(log_likelihood), quick_jit(jax.grad(log_likelihood))(v)
        h = 1e-6 * jnp.eye(len(v))
        numeric = [(value(v + d) - value(v - d)) / 2e-6 for d in h]
    np.testing.assert_allclose(slope, plain, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(slope, numeric, atol=1e-6)


# --- the recursions themselves, on random chains --------------------------------------------


@st.composite
def chains(draw_from):
    steps, states, lanes = draw_from(st.sampled_from([(1, 2, 2), (4, 3, 1), (3, 2, 3), (5, 2, 2)]))
    rng = np.random.default_rng(draw_from(st.integers(0, 10_000)))
    fixed, shared = draw_from(st.booleans()), draw_from(st.booleans())
    transition = rng.normal(
        size=(1 if fixed else steps - 1, states, states, 1 if shared else lanes)
    )
    if draw_from(st.booleans()) and states > 1 and transition.size:
        transition[0, 0, 1] = -np.inf
    running = None
    if draw_from(st.booleans()):
        lengths = rng.integers(1, steps + 1, lanes)
        running = np.arange(1, steps)[:, None] < lengths
    return (
        rng.normal(size=(states, lanes)),
        transition,
        3 * rng.normal(size=(steps, states, lanes)),
        running,
    )


def by_enumeration(initial, transition, emission, running):
    steps, states, lanes = emission.shape
    moves = np.broadcast_to(transition, (max(steps - 1, 0), states, states, lanes))
    totals, marginals, best = [], np.zeros(emission.shape), []
    for b in range(lanes):
        length = steps if running is None else 1 + int(running[:, b].sum())
        paths = list(itertools.product(range(states), repeat=length))
        logs = [
            initial[p[0], b]
            + sum(emission[t, p[t], b] for t in range(length))
            + sum(moves[t - 1, p[t - 1], p[t], b] for t in range(1, length))
            for p in paths
        ]
        totals.append(np.logaddexp.reduce(logs))
        best.append(max(logs))
        for path, log in zip(paths, logs, strict=True):
            for t, k in enumerate(path):
                marginals[t, k, b] += np.exp(log - totals[-1])
    return np.array(totals), marginals, np.array(best)


@quick_jit
def _answers(initial, transition, emission, running):
    def total(e):
        return recursions.sum_product(initial, transition, e, running)

    slope = jax.grad(lambda e: total(e).sum())
    return (
        total(emission),
        slope(emission),
        recursions.sum_product_parallel(initial, transition, emission, running),
        recursions.max_product(initial, transition, emission, running),
        jax.vmap(slope)(jnp.stack([emission, emission + 1]))[1],
        jax.grad(lambda e: recursions.sum_product_parallel(initial, transition, e, running).sum())(
            emission
        ),
    )


@settings(max_examples=12, deadline=None)
@given(chains(), st.sampled_from(["float64", "float32"]))
def test_recursions_equal_enumeration(chain, dtype):
    *logs, running = chain
    totals, marginals, best = by_enumeration(*chain)
    tolerance = 1e-9 if dtype == "float64" else 2e-5
    with jax.enable_x64(dtype == "float64"):
        on = None if running is None else jnp.asarray(running)
        found = _answers(*(jnp.asarray(a, dtype) for a in logs), on)
    value, gradient, parallel, most, batched, aside = found
    for ours, theirs in ((value, totals), (parallel, totals), (most, best)):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    for ours in (gradient, batched, aside):
        np.testing.assert_allclose(ours, marginals, atol=tolerance)


def test_long_chains_do_not_drift_in_float32():
    rng = np.random.default_rng(0)
    emission = rng.normal(size=(100_000, 4, 1))
    initial, transition = np.log(np.full((4, 1), 0.25)), np.log(rng.dirichlet(np.ones(4), 4))
    values = []
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            arrays = (initial, transition[None, :, :, None], emission)
            values.append(
                float(recursions.sum_product(*(jnp.asarray(a, dtype) for a in arrays), None)[0])
            )
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_states_out_of_reach_do_not_hide_the_others():
    """A left-to-right chain whose unreachable state would explain the data e^900 times better."""
    initial, transition = np.array([0, -np.inf]), np.log([[1, 1e-300], [0.5, 0.5]])
    transition[0, 1] = -np.inf
    emission = np.array([[0.0, -5.0], [-900.0, 0.0], [0.0, -1.0]])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a)[..., None] for a in (initial, transition[None], emission)]
        for form in (recursions.sum_product, recursions.sum_product_parallel):
            value, gradient = quick_jit(
                jax.value_and_grad(lambda e, f=form: f(arrays[0], arrays[1], e, None)[0])
            )(arrays[2])
            assert value == -900.0
            np.testing.assert_array_equal(gradient[..., 0], [[1, 0]] * 3)


# --- what is refused ------------------------------------------------------------------------


def _chain(body, init=0, data=programs.X, **options):
    def program(x):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
        scan(lambda c, x_t: body(c, x_t, P, mu), init, x)

    return Model(program, data, **options)


def test_a_carry_of_all_earlier_states_is_refused():
    def body(carry, x, P, mu):
        a, b = carry
        z = numpyro.sample("z", dist.Categorical(P[(a + b) % 2]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        return (z, a + b), None

    with pytest.raises(ValueError, match="depends on the states of all earlier steps"):
        _chain(body, (0, 0))


def test_scan_in_a_plate_is_refused():
    def program(x):
        with numpyro.plate("rows", 4):
            scan(lambda c, x_t: (c, numpyro.sample("x", dist.Normal(0, 1), obs=x_t)), 0, x)

    with pytest.raises(ValueError, match="inside a plate"):
        Model(program, programs.X)


def test_changing_carry_is_refused():
    def body(z, x, P, mu):
        numpyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)
        return jnp.zeros(3), None

    with pytest.raises(ValueError, match="carry has shape"):
        _chain(body, 0.0)


def test_continuous_state_is_refused():
    def body(z, x, P, mu):
        z = numpyro.sample("level", dist.StudentT(4.0, z, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
        return z, None

    with pytest.raises(ValueError, match="'level' is continuous, depends on its own value"):
        _chain(body, 0.0)


def test_a_mask_over_the_state_alone_is_refused():
    def body(carry, x, P, mu):
        z, t = carry
        with handlers.mask(mask=t != 1):
            z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        return (z, t + 1), None

    with pytest.raises(ValueError, match="Put both under the same mask"):
        _chain(body, (0, 0))


def test_too_many_joint_states_are_refused():
    def body(carry, x, P, mu):
        new = tuple(
            numpyro.sample(f"z{i}", dist.Categorical(jnp.ones(20) / 20 + 0 * c))
            for i, c in enumerate(carry)
        )
        numpyro.sample("x", dist.Normal(sum(new), mu[0] ** 2), obs=x)
        return new, None

    with pytest.raises(ValueError, match="joint states"):
        _chain(body, (0, 0, 0))


def test_states_in_the_output_are_refused():
    def program(x):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))

        def body(z, _):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            return z, z

        _, path = scan(body, 0, None, length=4)
        numpyro.sample("x", dist.Normal(path * 1.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="inside the body"):
        Model(program, programs.X)


def test_nested_scans_are_refused():
    def body(z, x, P, mu):
        scan(lambda c, y: (c, numpyro.sample("y", dist.Normal(0, 1), obs=y)), 0, jnp.zeros(2))
        numpyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)
        return z, None

    with pytest.raises(ValueError, match="inside the body of a scan"):
        _chain(body)


def test_bad_arguments():
    model = Model(programs.fixed_start, programs.X)
    params = draw(model, 0)
    with pytest.raises(ValueError, match="steps: received 0"):
        model.forecast(params, steps=0)
    with pytest.raises(ValueError, match="draws: received"):
        model.sample_latents(params, draws=0)
    with pytest.raises(ValueError, match="no chain"):
        Model(programs.no_state, programs.X).filtered({"phi": 0.1})


def test_comparison_says_that_it_is_not_leave_one_out():
    model = Model(programs.fixed_start, np.concatenate([programs.X] * 5))
    fit = fit_em(model, starts=2)
    (terms,) = fit.to_datatree()["log_likelihood_asymptotic"].data_vars.values()
    assert terms.attrs["terms"] == "one-step-ahead predictions" and terms.dims[-1] == "step"
    text = str(compare({"EM": fit}))
    assert "not leave-one-out" in text
    assert "20 steps" in repr(model) and "forward-backward over 20 steps" in repr(model)


def test_rows_that_do_not_sum_to_one_are_refused():
    P = np.array([[0.9, 0.2], [0.1, 0.9]])

    def body(z, x, _, mu):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.asarray(P)[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        return z, None

    with pytest.raises(ValueError, match=r"'z\[0\]': the probabilities sum to 1.1"):
        _chain(body)


def test_states_that_cannot_be_reached_are_told():
    P = np.array([[1.0, 0.0], [0.5, 0.5]])

    def body(z, x, _, mu):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.asarray(P)[z]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        return z, None

    with pytest.warns(UserWarning, match=r"state\(s\) \[1\] of 'z' cannot be reached"):
        _chain(body)


@pytest.mark.parametrize("program", [programs.music, programs.music_with_memory])
def test_the_models_of_numpyros_own_example(program):
    rng = np.random.default_rng(0)
    notes = rng.integers(0, 2, (2, 3, 2))
    model = Model(program, notes, np.array([3, 3]))
    params = draw(model, 0)
    with jax.enable_x64(True):
        total, marginals, _ = enumerate_paths(model, params)
    assert model.log_likelihood(params) == pytest.approx(total, rel=1e-10)
    np.testing.assert_allclose(model.posterior(params)["x"], marginals["x"], atol=1e-9)
    padded = Model(program, notes, np.array([3, 2]))
    second = Model(program, notes[1:, :2], np.array([2]))
    assert padded.pointwise_log_likelihood(params)[1] == pytest.approx(
        second.log_likelihood(params), rel=1e-10
    )


def test_simulated_chains_follow_their_program():
    model = Model(programs.state_before, np.zeros(5000))
    params = draw(model, 9)
    drawn = model.simulate(params, seed=2)
    z = drawn["z"]
    assert z.shape == drawn["x"].shape == (4999,)
    for k in range(3):
        after = z[1:][z[:-1] == k]
        shares = np.bincount(after, minlength=3) / len(after)
        np.testing.assert_allclose(shares, params["P"][k], atol=0.06)
        assert drawn["x"][z == k].mean() == pytest.approx(params["mu"][k], abs=0.12)
    again = model.with_data(x=np.concatenate([[drawn["x0"]], drawn["x"]]))
    assert np.isfinite(again.log_likelihood(params))
