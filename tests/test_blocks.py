"""Every kind of M-step block: its step is the maximum of the expected log joint density, and ascends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import statsmodels.api as sm
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.optimize import minimize

from pp_mlem import Model, fit_em, fit_mle
from pp_mlem.base.no import No
from pp_mlem.base.precision import working_precision
from pp_mlem.maximise import registry
from pp_mlem.maximise.blocks.base import Block

RNG = np.random.default_rng(0)
N = 48
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
Y = X @ [1.0, 2.0, -1.0] + RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(0.5 * X[:, 1] + 0.3)).astype(float)
COINS = (RNG.random(N) < 0.5).astype(float)
GROUP = RNG.integers(0, 4, N)
HOLES = np.where(np.arange(N) % 7 == 3, np.nan, 1.0)


def weights():
    return numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))


def real(name, *shape):
    return numpyro.sample(name, dist.Normal(0.3, 2.0).expand(shape).to_event(len(shape)))


def positive(name, *shape):
    return numpyro.sample(name, dist.LogNormal(0.0, 0.7).expand(shape).to_event(len(shape)))


def rows_of(y, law, scale=None, probabilities=None):
    """Rows of a mixture of two."""
    w = weights() if probabilities is None else probabilities
    with handlers.scale(scale=jnp.ones(()) if scale is None else scale):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", law(z), obs=y)


def normal(x, y):
    b, s = real("b", 2, 3), positive("s", 2)
    rows_of(y, lambda z: dist.Normal((x * b[z]).sum(-1), s[z]))


def one_scale_and_offset(x, y):
    a, b, s = real("a", 2), real("b", 2), positive("s")
    rows_of(y, lambda z: dist.Normal(a[z] + b[z] * x[:, 1] + 0.3 * x[:, 2], s))


def shared_slope(x, y, counts):
    a, b, s = real("a", 2), real("b"), positive("s", 2)
    rows_of(y, lambda z: dist.Normal(a[z] + b * x[:, 1], s[z]), 1.0 + counts)


def lognormal(x, y):
    b, s = real("b", 2, 3), positive("s", 2)
    rows_of(jnp.exp(y), lambda z: dist.LogNormal((x * b[z]).sum(-1), s[z]))


def known_errors(x, y, se):
    b = real("b", 2, 3)
    rows_of(y, lambda z: dist.Normal((x * b[z]).sum(-1), se))


def columns(x, y):
    b, s = real("b", 2, 3, 2), positive("s", 2)
    both = jnp.stack([y, y**2], -1)

    def law(z):
        return dist.Normal(jnp.einsum("nd,...nde->...ne", x, b[z]), s).to_event(1)

    rows_of(both, law)


def logistic(x, y):
    b = real("b", 2, 3)
    rows_of(y, lambda z: dist.Bernoulli(logits=(x * b[z]).sum(-1)))


def binomial(x, y):
    a, b = real("a", 2), real("b")
    rows_of(y, lambda z: dist.Binomial(9, probs=jax.nn.sigmoid(a[z] + b * x[:, 1])))


def poisson(x, y, exposure):
    a, b = real("a"), real("b", 2)
    rows_of(y, lambda z: dist.Poisson(exposure * jnp.exp(a + b[z] * x[:, 1])))


def negative_binomial(x, y):
    b = real("b", 2, 3)
    rows_of(y, lambda z: dist.NegativeBinomial2(jnp.exp((x * b[z]).sum(-1)), 3.0))


def student(x, y):
    b = real("b", 2, 3)
    rows_of(y, lambda z: dist.StudentT(4.0, (x * b[z]).sum(-1), 0.8))


def groups(x, y, group):
    a, b = real("a", 4), real("b", 2)
    rows_of(y, lambda z: dist.Poisson(jnp.exp(a[group] + b[z] * x[:, 1])))


def group_plates(x, y):
    x, y = x[:, 1].reshape(12, 4), y.reshape(12, 4)
    w, b, s = weights(), real("b", 2), positive("s")
    with numpyro.plate("groups", 4, dim=-1):
        a = numpyro.sample("a", dist.Normal(0.0, 2.0))
        with numpyro.plate("rows", 12, dim=-2):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("y", dist.Normal(a + b[z] * x, s), obs=y)


def gathered(x, y, group):
    w, b, s = weights(), real("b", 2), positive("s", 2)
    with numpyro.plate("groups", 4):
        g = numpyro.sample("g", dist.Categorical(w))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[g[group]] * x[:, 1], s[g[group]]), obs=y)


def two_sites(x, y, counts):
    a, b = real("a"), real("b", 2)
    w = weights()
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(a + b[z] * x[:, 1], 1.5), obs=y)
        numpyro.sample("n", dist.Poisson(jnp.exp(0.2 * b[z] * x[:, 1])), obs=counts)


def switching(x, y):
    a, b, s = real("a", 2), real("b"), positive("s", 2)
    with numpyro.plate("from", 2):
        moves = numpyro.sample("P", dist.Dirichlet(jnp.ones(2)))

    def step(z, at):
        z = numpyro.sample("z", dist.Categorical(moves[z]))
        numpyro.sample("y", dist.Normal(a[z] + b * at[0], s[z]), obs=at[1])
        return z, None

    scan(step, 0, (x[:, 1], y))


def linear(x, y):
    b, s = real("b", 3), positive("s")
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ b, s), obs=y)


@dataclass(frozen=True)
class Case:
    program: object
    args: tuple
    with_prior: bool = False
    told: str = "least squares"


NORMAL, ECM = "normal equations: ", "(ECM)"
CASES = {
    "normal, missing responses": Case(normal, (X, Y * HOLES), told=NORMAL),
    "normal, MAP": Case(normal, (X, Y), True, ECM),
    "one scale, an offset": Case(one_scale_and_offset, (X, Y), told=NORMAL),
    "one slope, two scales, weights": Case(shared_slope, (X, Y, COUNTS), told=ECM),
    "lognormal": Case(lognormal, (X, Y), told=NORMAL),
    "known errors": Case(known_errors, (X, Y, np.exp(0.3 * X[:, 2]))),
    "columns": Case(columns, (X, Y), told=NORMAL),
    "logistic, missing responses": Case(logistic, (X, COINS * HOLES)),
    "binomial, MAP": Case(binomial, (X, COUNTS), True),
    "poisson, exposure": Case(poisson, (X, COUNTS, np.exp(X[:, 2]))),
    "negative binomial": Case(negative_binomial, (X, COUNTS)),
    "student": Case(student, (X, Y)),
    "groups by number": Case(groups, (X, COUNTS, GROUP)),
    "groups in plates": Case(group_plates, (X, Y), told=NORMAL),
    "gathered latent": Case(gathered, (X, Y, GROUP), told=NORMAL),
    "two sites, MAP": Case(two_sites, (X, Y, COUNTS), True),
    "markov switching": Case(switching, (X, Y), told=ECM),
    "no latent": Case(linear, (X, Y), told=NORMAL),
}


def regression(model, with_prior=False):
    """The block of coefficients."""
    with working_precision(model.dtype):
        blocks = model.problem({}, with_prior).blocks
    return next(b for b in blocks if b.method == "regression")


def numeric_reason(model, with_prior=False):
    """Why the block that is not closed is numeric."""
    with working_precision(model.dtype):
        blocks = model.problem({}, with_prior).blocks
    assert not [b for b in blocks if b.method == "regression"]
    return next(b for b in blocks if b.method == "numeric").reason


def m_step(model, vector, with_prior=False, steps=30, fixed=None):
    """(start, after the M-step, Q and its gradient as a function of a vector), Q by the program's own
    densities."""
    with working_precision(model.dtype):
        target = replace(model.target(fixed, with_prior), kept=None)

        @jax.jit
        def after(v, target, steps):
            statistics = target.expectation(v)[1]
            return target.maximise(v, statistics, steps), statistics

        @jax.jit
        def q(v, statistics, target):
            return jax.value_and_grad(lambda u: target.expected(u, statistics))(v)

        new, statistics = after(jnp.asarray(vector), target, jnp.asarray(steps))

        def climb(v):
            with working_precision(model.dtype):
                value, slope = q(jnp.asarray(v), statistics, target)
            return float(value), np.asarray(slope)

        return np.asarray(new), climb


@pytest.mark.parametrize("name", CASES)
def test_m_step_is_the_maximum(name):
    case = CASES[name]
    model = Model(case.program, *case.args)
    assert case.told in regression(model, case.with_prior).reason
    start = np.random.default_rng(1).normal(size=model.space.size) * 0.4
    new, climb = m_step(model, start, case.with_prior)
    best = minimize(lambda v: tuple(-a for a in climb(v)), start, jac=True, tol=1e-9)
    value, slope = climb(new)
    assert value >= -best.fun - 1e-7
    assert np.abs(slope).max() < 1e-4
    np.testing.assert_allclose(new, best.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["normal", "logistic", "poisson"])
def test_equals_statsmodels_with_case_weights(kind):
    """One M-step of a program without latents is the whole fit."""
    counts = 1.0 + RNG.integers(0, 4, N)
    y = {"normal": Y, "logistic": COINS, "poisson": COUNTS}[kind]

    def program(x, y, counts):
        b = real("b", 3)
        s = positive("s") if kind == "normal" else 1.0
        u = x @ b
        with numpyro.plate("rows", len(y)), handlers.scale(scale=counts):
            law = {
                "normal": lambda: dist.Normal(u, s),
                "logistic": lambda: dist.Bernoulli(logits=u),
                "poisson": lambda: dist.Poisson(jnp.exp(u)),
            }[kind]()
            numpyro.sample("y", law, obs=y)

    model = Model(program, X, y, counts)
    new, _ = m_step(model, np.full(model.space.size, 0.1))
    if kind == "normal":
        theirs = sm.WLS(y, X, weights=counts).fit()
        scale = np.sqrt((counts * theirs.resid**2).sum() / counts.sum())
        np.testing.assert_allclose(np.exp(new[3]), scale, rtol=1e-10)
    else:
        family = sm.families.Binomial() if kind == "logistic" else sm.families.Poisson()
        theirs = sm.GLM(y, X, family=family, freq_weights=counts).fit(tol=1e-14)
    np.testing.assert_allclose(new[:3], theirs.params, rtol=1e-7)


@pytest.mark.parametrize("name", ["logistic, missing responses", "poisson, exposure", "student"])
def test_em_ascends_at_every_iteration(name):
    case = CASES[name]
    model = Model(case.program, *case.args)
    options = {"starts": 2, "seed": 3, "accelerate": False, "polish": False, "progress": False}
    fit = fit_em(model, max_iter=60, tol=1e-12, **options)
    assert len(fit.history) > 20
    assert np.diff(fit.history).min() > -1e-10 * abs(fit.log_likelihood)


def test_collinear_columns_stay_where_they_are():
    """A direction without information is not moved along; the rest is the least squares fit."""
    model = Model(linear, np.column_stack([X[:, 0], X[:, 1], 2 * X[:, 1]]), Y)
    start = np.array([0.5, 0.3, -0.2, 0.0])
    new, climb = m_step(model, start)
    along = np.array([1.0, -2.0])  # by the units of the columns, across which nothing is known
    np.testing.assert_allclose(along @ new[1:3], along @ start[1:3], rtol=1e-8)
    fitted = np.linalg.lstsq(X[:, :2], Y, rcond=None)[0]
    np.testing.assert_allclose([new[0], new[1] + 2 * new[2]], fitted, rtol=1e-10)
    assert np.abs(climb(new)[1]).max() < 1e-8


def test_covariates_far_from_zero_lose_no_digits():
    x = np.column_stack([np.ones(N), 1e7 + X[:, 1], 1e-6 * X[:, 2]])
    model = Model(linear, x, 1e6 + Y)
    new, _ = m_step(model, np.zeros(4))
    for _ in range(2):
        new, climb = m_step(model, new)
    centred = x - [0.0, 1e7, 0.0]
    fitted = np.linalg.lstsq(centred, 1e6 + Y, rcond=None)[0]
    np.testing.assert_allclose(new[1:3], fitted[1:], rtol=1e-7)
    rest = 1e6 + Y - centred @ fitted
    np.testing.assert_allclose(np.exp(new[3]), np.sqrt((rest**2).mean()), rtol=1e-7)


def test_separated_outcomes_and_empty_counts_stay_finite():
    """Separated coins have no maximum, nor have rows without any count; steps stay finite, and gain."""
    for law, y in (
        (lambda u: dist.Bernoulli(logits=u), (X[:, 1] > 0).astype(float)),
        (lambda u: dist.Bernoulli(probs=jax.nn.sigmoid(u)), (X[:, 1] > 0).astype(float)),
        (lambda u: dist.Poisson(jnp.exp(u)), np.zeros(N)),
    ):

        def program(x, y, law=law):
            b = real("b", 3)
            with numpyro.plate("rows", len(y)):
                numpyro.sample("y", law(x @ b), obs=y)

        model = Model(program, X, y)
        for start in (np.zeros(3), np.array([0.0, -60.0, 30.0])):
            new, climb = m_step(model, start)
            assert np.all(np.isfinite(new))
            assert climb(new)[0] > climb(start)[0]


def test_fixed_coefficients_are_an_offset():
    model = Model(normal, X, Y)
    fixed = {"s": np.array([0.5, 2.0])}
    start = np.random.default_rng(2).normal(size=7)
    new, climb = m_step(model, start, fixed=fixed)
    assert np.abs(climb(new)[1]).max() < 1e-8
    model = Model(one_scale_and_offset, X, Y)
    new, climb = m_step(model, start[:4], fixed={"b": np.array([0.4, -1.0])})
    assert np.abs(climb(new)[1]).max() < 1e-8


def test_number_of_steps_is_the_most_that_are_taken():
    model = Model(logistic, X, COINS)
    start = np.random.default_rng(1).normal(size=model.space.size)
    none, climb = m_step(model, start, steps=0)
    values = [climb(m_step(model, start, steps=k)[0])[0] for k in (0, 1, 2, 30)]
    np.testing.assert_allclose(none[:6], start[:6], rtol=1e-12)
    assert values[0] < values[1] < values[2] <= values[3]


def curved(x, y):
    b = real("b", 2, 3)
    rows_of(y, lambda z: dist.Normal(jnp.sin((x * b[z]).sum(-1)), 1.0))


def clipped(x, y):
    b = real("b", 3)
    rows_of(jnp.abs(jnp.round(y)), lambda z: dist.Poisson(jnp.exp(jnp.clip(z + x @ b, -20, 20))))


def positive_part(x, y):
    b = real("b", 2)
    rows_of(y, lambda z: dist.Normal(jnp.abs(b[z]) * x[:, 1], 1.0))


def bounded(x, y):
    b = real("b", 2)
    p = lambda z: jnp.clip(jax.nn.sigmoid(b[z] * x[:, 1]), 1e-6, 1 - 1e-6)
    rows_of((y > 0) * 1.0, lambda z: dist.Bernoulli(probs=p(z)))


def scale_by_row(x, y):
    b, c = real("b", 3), real("c", 3)
    rows_of(y, lambda z: dist.Normal(z + x @ b, jnp.exp(x @ c)))


def narrow(x, y):
    b = positive("b", 2)
    rows_of(y, lambda z: dist.Normal(b[z] * x[:, 1], 1.0))


def heavy(x, y):
    b = numpyro.sample("b", dist.Laplace(0.0, 1.0).expand([3]).to_event(1))
    rows_of(y, lambda z: dist.Normal(z + x @ b, 1.0))


@pytest.mark.parametrize(
    "program, with_prior, told",
    [
        (curved, False, "loc of 'y' is no affine function"),
        (clipped, False, "rate of 'y' is no affine function"),
        (positive_part, False, "loc of 'y' is no affine function"),
        (bounded, False, "probs of 'y' is no affine function"),
        (scale_by_row, False, "the scale of 'y' is computed, or varies by row"),
        (narrow, False, "the support of 'b' is narrower than real numbers"),
        (heavy, True, "the prior of 'b' is no Normal"),
    ],
)
def test_declined_with_the_reason(program, with_prior, told):
    assert told in numeric_reason(Model(program, X, Y), with_prior)


def lagged(x, y):
    a, b, s = real("a", 2), real("b"), positive("s")
    first = jnp.concatenate([jnp.zeros(1), y[:-1]])
    rows_of(y, lambda z: dist.Normal(a[z] + b * first, s))


def test_designs_follow_the_data():
    """Other data, and data drawn anew where observations are covariates too."""
    model = Model(normal, X, Y)
    other = model.with_data(x=2 * X)
    np.testing.assert_allclose(
        other.data.designs["y"].triangle, 2 * np.asarray(model.data.designs["y"].triangle)
    )
    assert other.bound.kept is model.bound.kept
    model = Model(lagged, X, Y)
    vector = np.random.default_rng(0).normal(size=model.space.size)
    with working_precision(model.dtype):
        params = model.space.constrain(jnp.asarray(vector))
    drawn = Model(switching, X, Y).redraw(
        {"P": np.full((2, 2), 0.5), "a": [0.0, 1.0], "b": 1.0, "s": [1.0, 1.0]}
    )
    assert drawn.data.designs["y"].columns.shape == (2, N)
    anew = model.with_data(y=Y[::-1].copy())
    assert np.isfinite(anew.log_likelihood(params))
    assert not np.allclose(anew.data.designs["y"].columns, model.data.designs["y"].columns)


class Zero(Block):
    """Sets its parameters to zero."""

    method = "zero"

    def collect(self, context, params, statistics):
        return None

    def maximise(self, context, params, collected, prior):
        return {name: jnp.zeros_like(params[name]) for name in self.parameters}


def test_a_kind_of_block_from_outside(monkeypatch):
    monkeypatch.setattr(registry, "BLOCKS", list(registry.BLOCKS))

    def plan(group):
        return Zero(group.names, group.sites, "for a test") if "b" in group.names else No("no b")

    registry.register(plan)
    model = Model(student, X, Y)
    new, _ = m_step(model, np.full(model.space.size, 0.5))
    np.testing.assert_array_equal(new[:6], 0.0)
    assert "zero" in repr(model) and "for a test" in repr(model)


def test_totals_that_are_latent_have_no_closed_form():
    """The statistics of a Binomial with a latent total count differ by its value."""

    def program(y):
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        with numpyro.plate("sites", 6, dim=-2):
            total = numpyro.sample("total", dist.Binomial(6, 0.5))
            with numpyro.plate("visits", 2, dim=-1):
                numpyro.sample("y", dist.Binomial(total, p), obs=y)

    model = Model(program, np.array([[1, 2], [0, 1], [3, 2], [1, 0], [2, 2], [0, 0]]))
    new, climb = m_step(model, np.array([-1.0]))
    assert "total_count of 'y' depends on unobserved sites" in numeric_reason(model)
    assert np.abs(climb(new)[1]).max() < 1e-6 and climb(new)[0] > climb(np.array([-1.0]))[0]


def test_a_predictor_of_two_latents_of_another_plate():
    """No argument of the site but its predictor has the latents' dimensions."""

    def program(group, y):
        p = numpyro.sample("p", dist.Beta(1, 2))
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        a = numpyro.sample("a", dist.Normal(0, 2).expand([2]).to_event(1))
        b = numpyro.sample("b", dist.Normal(0, 2).expand([3]).to_event(1))
        c = numpyro.sample("c", dist.Normal(0, 2).expand([2]).to_event(1))
        with numpyro.plate("groups", 3):
            first = numpyro.sample("first", dist.Bernoulli(p))
            second = numpyro.sample("second", dist.Categorical(w))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.DiscreteUniform(1, 2))
            logits = a[first[group]] + b[second[group]] + c[z - 1]
            numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)

    rng = np.random.default_rng(0)
    model = Model(program, np.repeat(np.arange(3), 8), rng.integers(0, 2, 24))
    assert "regression" in str(model)
    em, mle = fit_em(model, starts=3), fit_mle(model, starts=3)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-5)


def test_a_law_of_a_single_value_leaves_nothing_to_climb():
    def one_state(x, K=1):
        P = numpyro.sample("P", dist.Dirichlet(jnp.ones(K)).expand([K]).to_event(1))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1).expand([K]).to_event(1))
        stationary = jnp.linalg.solve((jnp.eye(K) - P + 1.0).T, jnp.ones(K))
        before = numpyro.sample("before", dist.Categorical(stationary))

        def body(z, x_t):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
            return z, None

        scan(body, before, x)

    fit = fit_em(Model(one_state, COUNTS))
    assert fit.converged
    expected = stats.poisson.logpmf(COUNTS, COUNTS.mean()).sum()
    np.testing.assert_allclose(fit.log_likelihood, expected, rtol=1e-12)
