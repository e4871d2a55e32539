"""Programs as NumPyro's examples, tutorials and tests write them, in our own words and small.

Each entry of `PROGRAMS` is a case: the program, its arguments, what is named in `latents=` or
`parameters=`, and, where the likelihood has no closed form after summing finite latents, the words
that the refusal must contain. The names of NumPyro's files stand beside the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit, logit, logsumexp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from numpyro.ops.indexing import Vindex

RNG = np.random.default_rng(20)
X = RNG.normal(size=8)
Y = 1.0 + 2.0 * X + RNG.normal(size=8)
DESIGN = np.column_stack([np.ones(8), X, RNG.normal(size=8)])
BINARY = np.array([0, 1, 1, 0, 1, 0, 0, 1])
COUNTS = np.array([0, 3, 1, 0, 5, 2, 0, 4])
TWO_GROUPS = np.array([-2.1, -1.7, -2.4, 1.8, 2.2, 2.6, 2.1, -1.9])
GROUP = np.array([0, 0, 1, 1, 2, 2, 0, 1])
SERIES = np.array([0.3, 0.9, 0.4, -0.6, -1.1, 0.2, 0.8])


@dataclass(frozen=True)
class Case:
    """One program with its arguments; `refused` holds words of the reason where it must be."""

    program: Callable[..., Any]
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    nuts: bool = True
    reference: Callable[..., Any] | None = None  # the same in words that NumPyro sums itself


PROGRAMS: dict[str, Case] = {}


def case(
    title: str,
    /,
    *args: Any,
    options: dict | None = None,
    refused: str = "",
    nuts: bool = True,
    reference: Any = None,
    **kwargs: Any,
):
    """Register the decorated program."""

    def register(program: Callable[..., Any]) -> Callable[..., Any]:
        assert title not in PROGRAMS, title
        PROGRAMS[title] = Case(program, args, kwargs, options or {}, refused, nuts, reference)
        return program

    return register


# --- annotation.py ----------------------------------------------------------------------------

LABELS = np.array([[0, 0, 1], [1, 1, 1], [2, 2, 0], [0, 0, 0]])
POSITIONS = np.array([0, 1, 2])
CLASSES = 3


@case("annotators agree", LABELS)
def one_confusion(labels):
    k = int(np.max(labels)) + 1
    items, positions = labels.shape
    with numpyro.plate("class", k):
        zeta = numpyro.sample("zeta", dist.Dirichlet(jnp.ones(k)))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
        with numpyro.plate("position", positions):
            numpyro.sample("y", dist.Categorical(zeta[c]), obs=labels)


@case("dawid skene", POSITIONS, LABELS)
def dawid_skene(positions, labels):
    annotators, k = int(np.max(positions)) + 1, int(np.max(labels)) + 1
    items, width = labels.shape
    with numpyro.plate("annotator", annotators, dim=-2), numpyro.plate("class", k):
        beta = numpyro.sample("beta", dist.Dirichlet(jnp.ones(k)))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
        with numpyro.plate("position", width):
            numpyro.sample("y", dist.Categorical(Vindex(beta)[positions, c, :]), obs=labels)


@case("mace", POSITIONS, LABELS[:2])
def mace(positions, labels):
    annotators, k = int(np.max(positions)) + 1, 3
    items, width = labels.shape
    with numpyro.plate("annotator", annotators):
        epsilon = numpyro.sample("epsilon", dist.Dirichlet(jnp.full(k, 10)))
        theta = numpyro.sample("theta", dist.Beta(0.5, 0.5))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.DiscreteUniform(0, k - 1), infer={"enumerate": "parallel"})
        with numpyro.plate("position", width):
            s = numpyro.sample("s", dist.Bernoulli(1 - theta[positions]))
            probs = jnp.where(s[..., None] == 0, jax.nn.one_hot(c, k), epsilon[positions])
            numpyro.sample("y", dist.Categorical(probs), obs=labels)


@case("hierarchical dawid skene", POSITIONS, LABELS)
def hierarchical_dawid_skene(positions, labels):
    annotators, k = int(np.max(positions)) + 1, int(np.max(labels)) + 1
    items, width = labels.shape
    with numpyro.plate("class", k):
        zeta = numpyro.sample("zeta", dist.Normal(0, 1).expand([k - 1]).to_event(1))
        omega = numpyro.sample("omega", dist.HalfNormal(1).expand([k - 1]).to_event(1))
    with numpyro.plate("annotator", annotators, dim=-2), numpyro.plate("class", k):
        with handlers.reparam(config={"beta": LocScaleReparam(0)}):
            beta = numpyro.sample("beta", dist.Normal(zeta, omega).to_event(1))
        beta = jnp.pad(beta, [(0, 0)] * (jnp.ndim(beta) - 1) + [(0, 1)])
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
        with numpyro.plate("position", width):
            numpyro.sample("y", dist.Categorical(logits=Vindex(beta)[positions, c, :]), obs=labels)


def item_difficulty(labels):
    k, items = 3, len(labels)
    with numpyro.plate("class", k):
        eta = numpyro.sample("eta", dist.Normal(0, 1).expand([k - 1]).to_event(1))
        chi = numpyro.sample("chi", dist.HalfNormal(1).expand([k - 1]).to_event(1))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
        with handlers.reparam(config={"theta": LocScaleReparam(0)}):
            theta = numpyro.sample("theta", dist.Normal(eta[c], chi[c]).to_event(1))
            theta = jnp.pad(theta, [(0, 0)] * (jnp.ndim(theta) - 1) + [(0, 1)])
        with numpyro.plate("position", labels.shape[-1]):
            numpyro.sample("y", dist.Categorical(logits=theta), obs=labels)


case("item difficulty", LABELS, refused="parameters=")(item_difficulty)
case("item difficulty, estimated", LABELS, options={"parameters": {"theta_decentered"}})(
    item_difficulty
)


# --- ar2.py, var2.py, holt_winters.py -----------------------------------------------------------


@case("ar2, conditioned scan", SERIES)
def ar2_scan(y):
    a1 = numpyro.sample("alpha_1", dist.Normal(0, 1))
    a2 = numpyro.sample("alpha_2", dist.Normal(0, 1))
    const = numpyro.sample("const", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))

    def transition(carry, _):
        before, earlier = carry
        mean = const + a1 * before + a2 * earlier
        now = numpyro.sample("y", dist.Normal(mean, sigma))
        return (now, before), mean

    with handlers.condition(data={"y": y[2:]}):
        _, mu = scan(transition, (y[1], y[0]), jnp.arange(y.shape[0] - 2))
    numpyro.deterministic("mu", mu)


@case("ar1, substituted scan", SERIES)
def ar1_substitute(y):
    a = numpyro.sample("a", dist.Normal(0, 1))

    def transition(before, _):
        now = numpyro.sample("y", dist.Normal(a * before, 1.0))
        return now, None

    with handlers.condition(data={"y": y[1:]}):
        scan(transition, y[0], None, length=len(y) - 1)


@case("ar2, python loop", SERIES)
def ar2_loop(y):
    a1 = numpyro.sample("alpha_1", dist.Normal(0, 1))
    a2 = numpyro.sample("alpha_2", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    before, earlier, means = y[1], y[0], []
    for i in range(2, len(y)):
        mean = a1 * before + a2 * earlier
        means.append(mean)
        now = numpyro.sample(f"y_{i}", dist.Normal(mean, sigma), obs=y[i])
        before, earlier = now, before
    numpyro.deterministic("mu", jnp.asarray(means))


PAIRS = np.column_stack([SERIES, SERIES[::-1] * 0.5 + 0.1])


def var2(y, name=lambda t: "y"):
    steps, k = y.shape
    c = numpyro.sample("c", dist.Normal(0, 1).expand([k]))
    phi1 = numpyro.sample("phi1", dist.Normal(0, 1).expand([k, k]).to_event(2))
    phi2 = numpyro.sample("phi2", dist.Normal(0, 1).expand([k, k]).to_event(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0).expand([k]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(dimension=k, concentration=1.0))

    def transition(carry, t):
        before, earlier, seen = carry
        mean = c + phi1 @ before + phi2 @ earlier
        now = numpyro.sample(
            name(t),
            dist.MultivariateNormal(loc=mean, scale_tril=sigma[..., None] * corr),
            obs=seen[t],
        )
        return (now, before, seen), mean

    _, mu = scan(transition, (y[1], y[0], y[2:]), jnp.arange(steps - 2))
    numpyro.deterministic("mu", mu)


case("var2", PAIRS)(var2)
case("var2, a name made of the step", PAIRS, name=lambda t: f"y_{t}", refused="name")(var2)


def holt_winters(y, seasons, future=0):
    steps = y.shape[0]
    level_s = numpyro.sample("level_smoothing", dist.Beta(1, 1))
    trend_s = numpyro.sample("trend_smoothing", dist.Beta(1, 1))
    season_s = numpyro.sample("season_smoothing", dist.Beta(1, 1)) * (1 - level_s)
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    level0 = numpyro.sample("level_init", dist.Normal(0, 1))
    trend0 = numpyro.sample("trend_init", dist.Normal(0, 1))
    with numpyro.plate("seasons", seasons):
        season0 = numpyro.sample("season_init", dist.Normal(0, 1))

    def transition(carry, t):
        level, trend, season = carry
        known = t < steps
        new_level = jnp.where(
            known, level_s * (y[t] - season[0]) + (1 - level_s) * (level + trend), level
        )
        new_trend = jnp.where(known, trend_s * (new_level - level) + (1 - trend_s) * trend, trend)
        new_season = jnp.where(
            known, season_s * (y[t] - (level + trend)) + (1 - season_s) * season[0], season[0]
        )
        step = jnp.where(known, 1, t - steps + 1)
        pred = numpyro.sample("pred", dist.Normal(level + step * trend + season[0], noise))
        return (new_level, new_trend, jnp.concatenate([season[1:], new_season[None]])), pred

    with handlers.condition(data={"pred": y}):
        scan(transition, (level0, trend0, season0), jnp.arange(steps + future))


case("holt winters", SERIES, 2)(holt_winters)


# --- baseball.py --------------------------------------------------------------------------------

AT_BATS, HITS = np.array([45, 45, 44, 46]), np.array([18, 17, 10, 7])


@case("pooled", AT_BATS, HITS)
def fully_pooled(at_bats, hits=None):
    phi = numpyro.sample("phi", dist.Uniform(0, 1))
    with numpyro.plate("players", at_bats.shape[0]):
        return numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


def not_pooled(at_bats, hits=None):
    with numpyro.plate("players", at_bats.shape[0]):
        phi = numpyro.sample("phi", dist.Uniform(0, 1))
        return numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


case("not pooled", AT_BATS, HITS, refused="parameters=")(not_pooled)
case("not pooled, estimated", AT_BATS, HITS, options={"parameters": {"phi"}})(not_pooled)


def partially_pooled(at_bats, hits=None):
    m = numpyro.sample("m", dist.Uniform(0, 1))
    kappa = numpyro.sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("players", at_bats.shape[0]):
        phi = numpyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        return numpyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


case("partially pooled", AT_BATS, HITS, refused="parameters=")(partially_pooled)
case("partially pooled, estimated", AT_BATS, HITS, options={"parameters": {"phi"}})(
    partially_pooled
)


# --- capture_recapture.py -----------------------------------------------------------------------

CAPTURES = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
SEX = np.array([0.0, 1.0, 1.0])


def capture_recapture(captures, survival, states_masked=True):
    animals = captures.shape[0]
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

    def transition(carry, y):
        seen, z = carry
        phi = survival()
        with numpyro.plate("animals", animals, dim=-1):
            alive = seen * phi * z + (1 - seen)
            with handlers.mask(mask=seen if states_masked else True):
                law = dist.Bernoulli(dist.util.clamp_probs(alive))
                z = numpyro.sample("z", law, infer={"enumerate": "parallel"})
            with handlers.mask(mask=seen):
                numpyro.sample("y", dist.Bernoulli(dist.util.clamp_probs(rho * z)), obs=y)
        return (seen | y.astype(bool), z), None

    first = (captures[:, 0].astype(bool), jnp.ones(animals, dtype=jnp.int32))
    scan(transition, first, jnp.swapaxes(captures[:, 1:], 0, 1))


def recapture_constant(captures, states_masked=True):
    phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
    capture_recapture(captures, lambda: phi, states_masked)


def recapture_by_time(captures, states_masked=True):
    capture_recapture(
        captures, lambda: numpyro.sample("phi", dist.Uniform(0.0, 1.0)), states_masked
    )


def recapture_by_sex(captures, sex, states_masked=True):
    male = numpyro.sample("phi_male", dist.Uniform(0.0, 1.0))
    female = numpyro.sample("phi_female", dist.Uniform(0.0, 1.0))
    phi = sex * male + (1.0 - sex) * female
    capture_recapture(captures, lambda: phi, states_masked)


def recapture_sex_time(captures, sex, states_masked=True):
    beta = numpyro.sample("phi_beta", dist.Normal(0.0, 10.0)) * sex

    def survival():
        return expit(beta + numpyro.sample("phi_gamma", dist.Normal(0.0, 10.0)))

    capture_recapture(captures, survival, states_masked)


# An animal is alive when it is first caught: a state that is masked before keeps its law (that of
# Cormack, Jolly and Seber). Summed with no mask on the states, NumPyro says the same; with the
# mask it counts both values of the state before as equally heavy.
for name, program, args in (
    ("constant", recapture_constant, (CAPTURES,)),
    ("by time", recapture_by_time, (CAPTURES,)),
    ("by sex", recapture_by_sex, (CAPTURES, SEX)),
    ("sex and time", recapture_sex_time, (CAPTURES, SEX)),
):
    reference = partial(program, states_masked=False)
    case(f"capture recapture, {name}", *args, reference=reference)(program)


def recapture_random(captures, centred):
    mean = logit(numpyro.sample("phi_mean", dist.Uniform(0.0, 1.0)))
    sigma = numpyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))

    def survival():
        with handlers.reparam(config={} if centred else {"phi_logit": LocScaleReparam(0)}):
            return expit(numpyro.sample("phi_logit", dist.Normal(mean, sigma)))

    capture_recapture(captures, survival)


case("capture recapture, random by time", CAPTURES, True, refused="phi_logit")(recapture_random)


# --- hmm.py, hmm_enum.py ------------------------------------------------------------------------

WORDS, TAGS = np.array([0, 2, 1, 1, 0]), np.array([0, 1, 1, 0, 1])


@case("semi-supervised hmm", np.ones(2), np.ones(3), TAGS, WORDS, WORDS[:4])
def semi_supervised(transition_prior, emission_prior, tags, words, unlabelled):
    k, v = transition_prior.shape[0], emission_prior.shape[0]
    P = numpyro.sample("P", dist.Dirichlet(jnp.broadcast_to(transition_prior, (k, k))))
    E = numpyro.sample("E", dist.Dirichlet(jnp.broadcast_to(emission_prior, (k, v))))
    numpyro.sample("tags", dist.Categorical(P[tags[:-1]]), obs=tags[1:])
    numpyro.sample("words", dist.Categorical(E[tags]), obs=words)

    def forward(log_prob, word):
        return logsumexp(log_prob[:, None] + jnp.log(P) + jnp.log(E)[:, word], axis=0), None

    log_prob, _ = jax.lax.scan(forward, jnp.log(E)[:, unlabelled[0]], unlabelled[1:])
    numpyro.factor("unlabelled", logsumexp(log_prob, axis=0, keepdims=True))


TUNES = np.array([[[1, 0], [0, 1], [1, 1]], [[0, 0], [1, 0], [0, 0]]])
LENGTHS = np.array([3, 2])


def tune_priors(hidden, tones, include, shape=()):
    with handlers.mask(mask=include):
        x = numpyro.sample("probs_x", dist.Dirichlet(0.9 * jnp.eye(hidden) + 0.1).to_event(1))
        y = numpyro.sample(
            "probs_y", dist.Beta(0.1, 0.9).expand([hidden, *shape, tones]).to_event(2 + len(shape))
        )
    return x, y


@case("tunes", TUNES, LENGTHS, 2)
def tunes(sequences, lengths, hidden, include=True):
    n, _, tones = sequences.shape
    probs_x, probs_y = tune_priors(hidden, tones, include)

    def transition(carry, y):
        before, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            x = numpyro.sample(
                "x", dist.Categorical(probs_x[before]), infer={"enumerate": "parallel"}
            )
            with numpyro.plate("tones", tones, dim=-1):
                numpyro.sample("y", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=y)
        return (x, t + 1), None

    scan(transition, (jnp.zeros((n, 1), dtype=jnp.int32), 0), jnp.swapaxes(sequences, 0, 1))


@case("tunes with memory", TUNES, LENGTHS, 2)
def tunes_memory(sequences, lengths, hidden):
    n, _, tones = sequences.shape
    probs_x, probs_y = tune_priors(hidden, tones, True, (2,))

    def transition(carry, y):
        before, heard, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            x = numpyro.sample(
                "x", dist.Categorical(probs_x[before]), infer={"enumerate": "parallel"}
            )
            with numpyro.plate("tones", tones, dim=-1) as tone:
                y = numpyro.sample("y", dist.Bernoulli(probs_y[x, heard, tone]), obs=y)
        return (x, y, t + 1), None

    zeros = jnp.zeros((n, 1), dtype=jnp.int32), jnp.zeros((n, tones), dtype=jnp.int32), 0
    scan(transition, zeros, jnp.swapaxes(sequences, 0, 1))


def tunes_two(sequences, lengths, coupled):
    n, _, tones = sequences.shape
    probs_w = numpyro.sample("probs_w", dist.Dirichlet(0.9 * jnp.eye(2) + 0.1).to_event(1))
    law = dist.Dirichlet(0.9 * jnp.eye(2) + 0.1)
    probs_x = numpyro.sample(
        "probs_x", law.expand_by([2]).to_event(2) if coupled else law.to_event(1)
    )
    probs_y = numpyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([2, 2, tones]).to_event(3))

    def transition(carry, y):
        w, x, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            w = numpyro.sample("w", dist.Categorical(probs_w[w]), infer={"enumerate": "parallel"})
            moves = Vindex(probs_x)[w, x] if coupled else probs_x[x]
            x = numpyro.sample("x", dist.Categorical(moves), infer={"enumerate": "parallel"})
            with numpyro.plate("tones", tones, dim=-1) as tone:
                numpyro.sample("y", dist.Bernoulli(probs_y[w, x, tone]), obs=y)
        return (w, x, t + 1), None

    zero = jnp.zeros((n, 1), dtype=jnp.int32)
    scan(transition, (zero, zero, 0), jnp.swapaxes(sequences, 0, 1))


case("tunes, factorial", TUNES[:, :2], LENGTHS - 1, coupled=False)(tunes_two)
case("tunes, coupled", TUNES[:, :2], LENGTHS - 1, coupled=True)(tunes_two)


@case("tunes, second order", TUNES, LENGTHS, 2)
def tunes_second(sequences, lengths, hidden):
    n, _, tones = sequences.shape
    probs_x = numpyro.sample(
        "probs_x", dist.Dirichlet(0.9 * jnp.eye(hidden) + 0.1).expand([hidden, hidden]).to_event(2)
    )
    probs_y = numpyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([hidden, tones]).to_event(2))

    def transition(carry, y):
        earlier, before, t = carry
        with numpyro.plate("sequences", n, dim=-2), handlers.mask(mask=(t < lengths)[..., None]):
            moves = Vindex(probs_x)[earlier, before]
            x = numpyro.sample("x", dist.Categorical(moves), infer={"enumerate": "parallel"})
            with numpyro.plate("tones", tones, dim=-1):
                numpyro.sample("y", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=y)
        return (before, x, t + 1), None

    zero = jnp.zeros((n, 1), dtype=jnp.int32)
    scan(transition, (zero, zero, 0), jnp.swapaxes(sequences, 0, 1), history=2)


# --- regressions: bnn, covtype, gp, horseshoe, proportion, sparse, ucbadmit, zero-inflated ------


@case("neural network", DESIGN, Y[:, None], 2)
def network(inputs, outputs, hidden):
    n, d = inputs.shape
    w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((d, hidden)), jnp.ones((d, hidden))))
    w2 = numpyro.sample("w2", dist.Normal(jnp.zeros((hidden, 1)), jnp.ones((hidden, 1))))
    precision = numpyro.sample("precision", dist.Gamma(3.0, 1.0))
    with numpyro.plate("data", n):
        mean = jnp.tanh(inputs @ w1) @ w2
        numpyro.sample("Y", dist.Normal(mean, 1.0 / jnp.sqrt(precision)).to_event(1), obs=outputs)


@case("covtype", DESIGN, BINARY)
def covtype(data, labels, subsample_size=None):
    d = data.shape[1]
    coefs = numpyro.sample("coefs", dist.Normal(jnp.zeros(d), jnp.ones(d)))
    with numpyro.plate("N", data.shape[0], subsample_size=subsample_size) as rows:
        return numpyro.sample("obs", dist.Bernoulli(logits=data[rows] @ coefs), obs=labels[rows])


@case("subsampling statement without subsampling", DESIGN, BINARY)
def whole_subsample(data, obs):
    n, m = data.shape
    theta = numpyro.sample("theta", dist.Normal(jnp.zeros(m), 0.5 * jnp.ones(m)))
    with numpyro.plate("N", n):
        feats = numpyro.subsample(data, event_dim=1)
        seen = numpyro.subsample(obs, event_dim=0)
        numpyro.sample("obs", dist.Bernoulli(logits=theta @ feats.T), obs=seen)


case("subsampled plate", DESIGN, BINARY, subsample_size=4, refused="subsample")(covtype)


def kernel(x, var, length, noise):
    return var * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + (noise + 1e-6) * jnp.eye(len(x))


@case("gaussian process", X, Y)
def gaussian_process(x, y):
    var = numpyro.sample("kernel_var", dist.LogNormal(0.0, 10.0))
    noise = numpyro.sample("kernel_noise", dist.LogNormal(0.0, 10.0))
    length = numpyro.sample("kernel_length", dist.LogNormal(0.0, 10.0))
    numpyro.sample(
        "Y",
        dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=kernel(x, var, length, noise)),
        obs=y,
    )


@case("gaussian process, no location", X, Y)
def gaussian_process_default(x, y):
    length = numpyro.sample("length", dist.Exponential(1))
    numpyro.sample(
        "y", dist.MultivariateNormal(loc=0, covariance_matrix=kernel(x, 1.0, length, 0.5)), obs=y
    )


@case("horseshoe", DESIGN, Y)
def horseshoe(x, y):
    lambdas = numpyro.sample("lambdas", dist.HalfCauchy(jnp.ones(x.shape[1])))
    tau = numpyro.sample("tau", dist.HalfCauchy(jnp.ones(1)))
    raw = numpyro.sample("unscaled_betas", dist.Normal(0.0, jnp.ones(x.shape[1])))
    betas = numpyro.deterministic("betas", tau * lambdas * raw)
    precision = numpyro.sample("prec_obs", dist.Gamma(3.0, 1.0))
    numpyro.sample("Y", dist.Normal(x @ betas, 1.0 / jnp.sqrt(precision)), obs=y)


@case("horseshoe, reparametrised by a handler", DESIGN, Y)
def horseshoe_handler(x, y):
    lambdas = numpyro.sample("lambdas", dist.HalfCauchy(jnp.ones(x.shape[1])))
    tau = numpyro.sample("tau", dist.HalfCauchy(jnp.ones(1)))
    with handlers.reparam(config={"betas": TransformReparam()}):
        betas = numpyro.sample(
            "betas",
            dist.TransformedDistribution(
                dist.Normal(0.0, jnp.ones(x.shape[1])),
                transforms.AffineTransform(0.0, tau * lambdas),
            ),
        )
    numpyro.sample("Y", dist.Normal(x @ betas, 0.05), obs=y)


def horseshoe_centred(x, y):
    tau = numpyro.sample("tau", dist.HalfCauchy(jnp.ones(1)))
    betas = numpyro.sample("betas", dist.Normal(scale=tau * jnp.ones(x.shape[1])))
    numpyro.sample("Y", dist.Normal(x @ betas, 0.5), obs=y)


case("horseshoe, centred, estimated", DESIGN, Y, options={"parameters": {"betas"}})(
    horseshoe_centred
)


@case("proportions", DESIGN, BINARY)
def proportions(design, outcome=None):
    beta = numpyro.sample(
        "coefficients", dist.MultivariateNormal(loc=0.0, covariance_matrix=jnp.eye(design.shape[1]))
    )
    with numpyro.plate("data", design.shape[0]):
        numpyro.sample("obs", dist.Bernoulli(logits=design.dot(beta)), obs=outcome)


@case("options in a dictionary", DESIGN, Y, {"alpha": 1.0, "sparsity": 2, "name": "kernel"})
def sparse(x, y, options):
    sigma = numpyro.sample("sigma", dist.HalfNormal(options["alpha"]))
    scale = options["sparsity"] / jnp.sqrt(x.shape[0])
    lam = numpyro.sample("lambda", dist.HalfCauchy(jnp.ones(x.shape[1])))
    k = (scale * lam * x) @ (lam * x).T + sigma**2 * jnp.eye(len(x))
    numpyro.sample("Y", dist.MultivariateNormal(loc=jnp.zeros(len(x)), covariance_matrix=k), obs=y)


@case("admissions", GROUP, BINARY, AT_BATS.repeat(2), HITS.repeat(2), nuts=False)
def admissions(dept, male, applications, admit=None):
    v_mu = numpyro.sample("v_mu", dist.Normal(0, jnp.array([4.0, 1.0])))
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(2)))
    corr = numpyro.sample("L_Rho", dist.LKJCholesky(2, concentration=2))
    z = numpyro.sample("z", dist.Normal(jnp.zeros((len(np.unique(dept)), 2)), 1))
    v = (sigma[..., None] * corr @ z.T).T
    logits = v_mu[0] + v[dept, 0] + (v_mu[1] + v[dept, 1]) * male
    numpyro.sample("admit", dist.Binomial(applications, logits=logits), obs=admit)


@case("zero-inflated poisson", DESIGN, COUNTS)
def zero_inflated(x, y):
    d = x.shape[1]
    b1 = numpyro.sample("b1", dist.Normal(0.0, 1.0).expand([d]).to_event(1))
    b2 = numpyro.sample("b2", dist.Normal(0.0, 1.0).expand([d]).to_event(1))
    gate = expit(jnp.dot(x, b1[:, None])).reshape(-1)
    rate = jnp.exp(jnp.dot(x, b2[:, None]).reshape(-1))
    with numpyro.plate("obs", x.shape[0]):
        numpyro.sample("Y", dist.ZeroInflatedPoisson(gate=gate, rate=rate), obs=y)


# --- mixtures: gaussian_shells, ssbvm_mixture, toy mixture, gmm -----------------------------------


@case("gmm", TWO_GROUPS, 2)
def gmm(data, K):
    weights = numpyro.sample("weights", dist.Dirichlet(0.5 * jnp.ones(K)))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with numpyro.plate("components", K):
        locs = numpyro.sample("locs", dist.Normal(0.0, 10.0))
    with numpyro.plate("data", len(data)):
        assignment = numpyro.sample("assignment", dist.Categorical(weights))
        numpyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


@case("gmm without a plate of components", TWO_GROUPS, 2)
def gmm_bare(data, K):
    weights = numpyro.sample("phi", dist.Dirichlet(jnp.ones(K)))
    means = numpyro.sample("cluster_means", dist.Normal(jnp.arange(K), 1.0))
    with numpyro.plate("data", data.shape[0], dim=-1):
        z = numpyro.sample("assignments", dist.Categorical(weights))
        numpyro.sample("obs", dist.Normal(means[z], 1.0), obs=data)


@case("bernoulli chain of latents", TWO_GROUPS[:5])
def bernoulli_chain(data):
    p = numpyro.sample("y_prob", dist.Beta(1.0, 1.0))
    with numpyro.plate("data", data.shape[0]):
        y = numpyro.sample("y", dist.Bernoulli(p))
        z = numpyro.sample("z", dist.Bernoulli(0.65 * y + 0.1))
        numpyro.sample("obs", dist.Normal(2.0 * z, 1.0), obs=data)


@case("bayesian network", {"A": BINARY[:5], "C": BINARY[3:]}, 5)
def bayesian_network(obs, n):
    p_a = numpyro.sample("p_A", dist.Beta(1, 1))
    p_b = numpyro.sample("p_B", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
    p_c = numpyro.sample("p_C", dist.Beta(jnp.ones(2), jnp.ones(2)).to_event(1))
    with numpyro.plate("data_plate", n):
        a = numpyro.sample("A", dist.Bernoulli(p_a), obs=obs["A"])
        b = numpyro.sample("B", dist.Bernoulli(Vindex(p_b)[a]), infer={"enumerate": "parallel"})
        numpyro.sample("C", dist.Bernoulli(Vindex(p_c)[b]), obs=obs["C"])


ANGLES = RNG.uniform(-3, 3, (6, 2))


@case("sine-skewed angles", ANGLES, len(ANGLES), nuts=False)
def angles(data, n, K=2):
    weights = numpyro.sample("mix_weights", dist.Dirichlet(jnp.ones((K,))))
    with numpyro.plate("mixture", K):
        phi_loc = numpyro.sample("phi_loc", dist.VonMises(np.pi, 2.0))
        psi_loc = numpyro.sample("psi_loc", dist.VonMises(0.0, 0.1))
        phi_conc = numpyro.sample("phi_conc", dist.Beta(2.0, 5.0))
        psi_conc = numpyro.sample("psi_conc", dist.Beta(2.0, 5.0))
        corr = numpyro.sample("corr_scale", dist.Beta(2.0, 10.0))
        skewness = numpyro.sample("skewness", dist.Normal(0, 0.5).expand((2,)).to_event(1))
        skewness = transforms.L1BallTransform()(skewness)
    with numpyro.plate("obs_plate", n, dim=-1):
        z = numpyro.sample("mix_comp", dist.Categorical(weights), infer={"enumerate": "parallel"})
        sine = dist.SineBivariateVonMises(
            phi_loc=phi_loc[z], psi_loc=psi_loc[z], phi_concentration=20 * phi_conc[z],
            psi_concentration=20 * psi_conc[z], weighted_correlation=corr[z],
        )  # fmt: skip
        return numpyro.sample("phi_psi", dist.SineSkewed(sine, skewness[z]), obs=data)


# --- tutorials: regression, imputation, cuped, consensus, ordinal, truncation ---------------------


@case("divorce", age=X, divorce=Y)
def divorce_rate(marriage=None, age=None, divorce=None):
    a = numpyro.sample("a", dist.Normal(0.0, 0.2))
    mean = a
    if marriage is not None:
        mean = mean + numpyro.sample("bM", dist.Normal(0.0, 0.5)) * marriage
    if age is not None:
        mean = mean + numpyro.sample("bA", dist.Normal(0.0, 0.5)) * age
    sigma = numpyro.sample("sigma", dist.Exponential(1.0))
    numpyro.sample("obs", dist.Normal(mean, sigma), obs=divorce)


@case("cuped", Y, BINARY.astype(float), X)
def cuped(y_post, treatment, y_pre):
    n = len(treatment)
    theta = numpyro.sample("theta", dist.Normal(loc=0, scale=3))
    sigma_theta = numpyro.sample("sigma_theta", dist.HalfCauchy(scale=2))
    beta = numpyro.sample("beta", dist.Normal(loc=0, scale=3))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(scale=2))
    with numpyro.plate("target", n):
        numpyro.sample("y_post", dist.Normal(theta * y_pre, sigma_theta), obs=y_post)
    adjusted = numpyro.deterministic("y_cuped", y_post - theta * (y_pre - jnp.mean(y_pre)))
    with numpyro.plate("cuped", n):
        numpyro.sample("y_cuped_pred", dist.Normal(beta * treatment, sigma), obs=adjusted)


@case("a prior under a scale", np.abs(X), Y)
def consensus(x, y=None, prior_scale=0.5):
    with handlers.scale(scale=prior_scale):
        amplitude = numpyro.sample("amplitude", dist.Normal(5.0, 3.0))
        rate = numpyro.sample("rate", dist.HalfNormal(3.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    numpyro.sample("obs", dist.Normal(amplitude * jnp.exp(-rate * x), sigma), obs=y)


A_SEEN = np.array([0, 1, -1, -1, 1, 0, -1, 1])


def discrete_imputation(A, B, outcome, missingness):
    n = A.shape[0]
    seen = A >= 0
    mu_A = numpyro.sample("mu_A", dist.Normal(0, 2.5))
    b_B_A = numpyro.sample("b_B_A", dist.Normal(0, 2.5))
    b_A = numpyro.sample("b_A", dist.Normal(0, 2.5))
    b_B = numpyro.sample("b_B", dist.Normal(0, 2.5))
    s_Y = numpyro.sample("s_Y", dist.HalfCauchy(2.5))
    if missingness:
        with numpyro.plate("obsmodel", 2):
            p_seen = numpyro.sample("p_Aobs", dist.Beta(1, 1))
    with numpyro.plate("obs", n):
        logits = mu_A + B * b_B_A
        imputed = numpyro.sample(
            "A", dist.Bernoulli(logits=logits).mask(False), infer={"enumerate": "parallel"}
        )
        log_prob = dist.Bernoulli(logits=logits).log_prob(imputed)
        log_prob = jnp.where(seen & (imputed != A), -jnp.inf, log_prob)
        numpyro.factor("A_obs", log_prob)
        numpyro.sample("obs_Y", dist.Normal(b_A * imputed + b_B * B, s_Y), obs=outcome)
        if missingness:
            probs = jnp.where(imputed, p_seen[0], p_seen[1])
            numpyro.sample("obs_Aobs", dist.Bernoulli(probs=probs), obs=seen)


case("discrete imputation", A_SEEN, X, Y, False)(discrete_imputation)
case("discrete imputation, not at random", A_SEEN, X, Y, True)(discrete_imputation)

AGE = np.array([0.2, np.nan, -0.4, 1.0, np.nan, 0.1, 0.3, -1.2])


def titanic(age, title, survived):
    missing = np.nonzero(np.isnan(age))[0]
    age_mu = numpyro.sample("age_mu", dist.Normal(0, 1).expand([3]))[title]
    age_sigma = numpyro.sample("age_sigma", dist.HalfNormal(1).expand([3]))[title]
    imputed = numpyro.sample(
        "age_impute", dist.Normal(age_mu[missing], age_sigma[missing]).mask(False)
    )
    age = jnp.asarray(age).at[missing].set(imputed)
    numpyro.sample("age", dist.Normal(age_mu, age_sigma), obs=age)
    logits = (
        numpyro.sample("a", dist.Normal(0, 1)) + numpyro.sample("b_Age", dist.Normal(0, 1)) * age
    )
    numpyro.sample("survived", dist.Bernoulli(logits=logits), obs=survived)


case("imputation of a covariate", AGE, GROUP, BINARY, refused="age_impute")(titanic)
case(
    "imputation of a covariate, estimated",
    AGE,
    GROUP,
    BINARY,
    options={"parameters": {"age_impute"}},
)(titanic)

GRADES = np.array([0, 1, 2, 1, 0, 2, 2, 1])


def ordinal(x, y, cutpoints):
    b = numpyro.sample("b_X_eta", dist.Normal(0, 5))
    c = cutpoints()
    with numpyro.plate("obs", x.shape[0]):
        numpyro.sample("Y", dist.OrderedLogistic(x * b, c), obs=y)


def flat_cutpoints(prior=False):
    c = numpyro.sample(
        "c_y",
        dist.ImproperUniform(support=constraints.ordered_vector, batch_shape=(), event_shape=(2,)),
    )
    if prior:
        numpyro.sample("c_y_smp", dist.Normal(0, 1), obs=c)
    return c


def ordered_cutpoints():
    law = dist.Normal(0, 1).expand([2])
    return numpyro.sample("c_y", dist.TransformedDistribution(law, transforms.OrderedTransform()))


def simplex_cutpoints():
    with handlers.reparam(config={"c_y": TransformReparam()}):
        return numpyro.sample(
            "c_y",
            dist.TransformedDistribution(
                dist.Dirichlet(jnp.ones(3)), transforms.SimplexToOrderedTransform(0.0)
            ),
        )


case("ordinal, flat cutpoints", X, GRADES, flat_cutpoints, nuts=False)(ordinal)
case("ordinal, an observed prior", X, GRADES, partial(flat_cutpoints, True), nuts=False)(ordinal)
case("ordinal, ordered transform", X, GRADES, ordered_cutpoints)(ordinal)
case("ordinal, induced dirichlet", X, GRADES, simplex_cutpoints)(ordinal)


@case("truncated normal", 8, 2.5, np.minimum(X, 2.0))
def truncated(n, high, x=None):
    loc = numpyro.sample("loc", dist.Normal())
    scale = numpyro.sample("scale", dist.LogNormal())
    with numpyro.plate("observations", n):
        numpyro.sample("x", dist.TruncatedNormal(loc, scale, high=high), obs=x)


@case("folded student", 8, np.abs(X))
def folded(n, x=None):
    df = numpyro.sample("df", dist.Gamma(6, 2))
    loc = numpyro.sample("loc", dist.Normal())
    scale = numpyro.sample("scale", dist.LogNormal())
    with numpyro.plate("obs", n):
        numpyro.sample("x", dist.FoldedDistribution(dist.StudentT(df, loc, scale)), obs=x)


class LeftTruncatedPoisson(dist.Distribution):
    """A Poisson of at least `low`, as a tutorial defines it."""

    arg_constraints = {"low": constraints.nonnegative_integer, "rate": constraints.positive}

    def __init__(self, rate=1.0, low=0, validate_args=None):
        shape = jax.lax.broadcast_shapes(jnp.shape(low), jnp.shape(rate))
        self.low, self.rate = dist.util.promote_shapes(low, rate)
        super().__init__(shape, validate_args=validate_args)

    def log_prob(self, value):
        mass = 1 - jax.scipy.stats.poisson.cdf(self.low - 1, self.rate)
        log_p = jax.scipy.stats.poisson.logpmf(value, self.rate)
        return jnp.where(value >= self.low, log_p - jnp.log(mass), -jnp.inf)

    def sample(self, key, sample_shape=()):
        raise NotImplementedError

    @constraints.dependent_property(is_discrete=True)
    def support(self):
        return constraints.integer_greater_than(self.low)


@case("truncation at a latent", 8, COUNTS + 2)
def truncated_at_latent(n, x=None, k=5):
    low = numpyro.sample("low", dist.Categorical(logits=jnp.zeros((k,))))
    rate = numpyro.sample("rate", dist.LogNormal(1, 1))
    with numpyro.plate("observations", n):
        numpyro.sample("x", LeftTruncatedPoisson(rate, low), obs=x)


@case("censoring by a mask and a factor", np.abs(X) + 0.1, BINARY)
def censored(t, dead):
    rate = numpyro.sample("rate", dist.Gamma(2, 2))
    shape = numpyro.sample("shape", dist.Gamma(2, 1))
    law = dist.Weibull(1 / rate, shape)
    with numpyro.plate("obs", len(t)):
        with handlers.mask(mask=dead.astype(bool)):
            numpyro.sample("t", law, obs=t)
        survival = -((t * rate) ** shape)
        numpyro.factor("alive", jnp.where(dead == 1, 0.0, survival))


@case("two missing marks", np.where(BINARY[:, None], np.column_stack([Y, X]) ** 2 + 0.1, np.nan))
def masked_by_the_data(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1).expand([2]))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]))
    mask = jnp.isfinite(jnp.log(y))
    numpyro.sample("y", dist.LogNormal(loc, sigma).mask(mask), obs=y)


# --- hierarchical models and continuous latents: refused with the reason --------------------------


def random_intercepts(group, x, y=None):
    mu = numpyro.sample("μ_α", dist.Normal(0.0, 500.0))
    tau = numpyro.sample("σ_α", dist.HalfNormal(100.0))
    with numpyro.plate("plate_i", len(np.unique(group))):
        alpha = numpyro.sample("α", dist.Normal(mu, tau))
    sigma = numpyro.sample("σ", dist.HalfNormal(100.0))
    with numpyro.plate("data", len(group)):
        numpyro.sample("obs", dist.Normal(alpha[group] + x, sigma), obs=y)


case("random intercepts, estimated", GROUP, X, Y, options={"parameters": {"α"}})(random_intercepts)


@case("stochastic volatility", SERIES, refused="'s'")
def volatility(returns):
    step = numpyro.sample("sigma", dist.Exponential(50.0))
    s = numpyro.sample("s", dist.GaussianRandomWalk(scale=step, num_steps=jnp.shape(returns)[0]))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    return numpyro.sample("r", dist.StudentT(df=nu, loc=0.0, scale=jnp.exp(s)), obs=returns)


@case("a continuous state", SERIES, refused="'x'")
def continuous_state(y):
    def transition(x, y_t):
        x = numpyro.sample("x", dist.StudentT(4.0, 0.9 * x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    scan(transition, sigma, y)


@case("no observation", 10, refused="no observed site")
def funnel(d=10):
    y = numpyro.sample("y", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(jnp.zeros(d - 1), jnp.exp(y / 2)))


@case("a branch of numpyro", 1.0, refused="cond")
def branching(y):
    from numpyro.contrib.control_flow import cond

    cluster = numpyro.sample("cluster", dist.Normal())
    cond(cluster > 0, lambda _: numpyro.sample("x", dist.Normal(4.0), obs=y), lambda _: None, None)


# --- test_funsor.py, test_infer_discrete.py, test_control_flow.py, test_enum_elbo.py ---------------

LOCS = np.array([-1.0, 1.0])
INIT, MOVES = np.array([0.4, 0.6]), np.array([[0.8, 0.2], [0.3, 0.7]])


@case("change point", COUNTS)
def change_point(counts):
    n = counts.shape[0]
    alpha = 1 / jnp.mean(counts.astype(np.float32))
    early = numpyro.sample("lambda_1", dist.Exponential(alpha))
    late = numpyro.sample("lambda_2", dist.Exponential(alpha))
    tau = numpyro.sample("tau", dist.Categorical(logits=jnp.zeros(n)))
    rate = jnp.where(tau > jnp.arange(n), early, late)
    with numpyro.plate("data", n):
        numpyro.sample("obs", dist.Poisson(rate), obs=counts)


@case("chain in a python loop", SERIES[:5])
def loop_chain(data):
    with numpyro.plate("states", 2):
        moves = numpyro.sample("transition", dist.Dirichlet(jnp.ones(2)))
        loc = numpyro.sample("emission_loc", dist.Normal(0, 1))
        scale = numpyro.sample("emission_scale", dist.LogNormal(0, 1))
    probs = numpyro.sample("initialize", dist.Dirichlet(jnp.ones(2)))
    for t, y in enumerate(data):
        x = numpyro.sample(f"x_{t}", dist.Categorical(probs))
        numpyro.sample(f"y_{t}", dist.Normal(loc[x], scale[x]), obs=y)
        probs = moves[x]


@case("chain in a python loop, data in a list", [0.3, -0.5, 1.2])
def loop_list(data):
    moves = 0.3 / 2 + 0.7 * jnp.eye(2)
    means = numpyro.sample("means", dist.Normal(0, 1).expand([2]))
    states = [0]
    for t in range(len(data)):
        states.append(numpyro.sample(f"states_{t}", dist.Categorical(moves[states[-1]])))
        data[t] = numpyro.sample(f"obs_{t}", dist.Normal(means[states[-1]], 1.0), obs=data[t])
    return states, data


def scale_of(name="s"):
    return numpyro.sample(name, dist.LogNormal(0, 1))


def counted(data, plates=()):
    """What a None carry means: the first step's own law, told by a counter."""
    s = scale_of()

    def transition(carry, ys):
        x, t = carry
        probs = jnp.where(t == 0, jnp.asarray(INIT), jnp.asarray(MOVES)[x])
        if plates is None:
            with numpyro.plate("D", 2, dim=-1):
                x = numpyro.sample("x", dist.Categorical(probs))
                numpyro.sample("y", dist.Normal(jnp.asarray(LOCS)[x], s), obs=ys)
            return (x, t + 1), None
        x = numpyro.sample("x", dist.Categorical(probs))
        if not plates:
            numpyro.sample("y", dist.Normal(jnp.asarray(LOCS)[x], s), obs=ys)
        for i, scale in enumerate(plates):
            with numpyro.plate(f"D{i}", 2, dim=-1):
                law = dist.Normal(jnp.asarray(LOCS)[x], s if scale is None else scale)
                numpyro.sample(f"y{i}", law, obs=ys[i])
        return (x, t + 1), None

    zero = jnp.zeros(() if plates is not None else (2,), jnp.int32)
    scan(transition, (zero, 0), data)


@case("first state by a None carry", SERIES[:4], reference=counted)
def none_carry(data):
    s = scale_of()

    def transition(x, y):
        probs = jnp.asarray(INIT) if x is None else jnp.asarray(MOVES)[x]
        x = numpyro.sample("x", dist.Categorical(probs))
        numpyro.sample("y", dist.Normal(jnp.asarray(LOCS)[x], s), obs=y)
        return x, 1

    scan(transition, None, data)


@case("first state by a None carry, in a plate", PAIRS[:3], reference=partial(counted, plates=None))
def none_carry_plate(data):
    s = scale_of()

    def transition(x, y):
        probs = jnp.asarray(INIT) if x is None else jnp.asarray(MOVES)[x]
        with numpyro.plate("D", 2, dim=-1):
            x = numpyro.sample("x", dist.Categorical(probs))
            numpyro.sample("y", dist.Normal(jnp.asarray(LOCS)[x], s), obs=y)
        return x, None

    scan(transition, None, data)


@case(
    "two plates below a state", PAIRS[:3], PAIRS[3:6],
    reference=lambda a, b: counted((a, b), (None, 1)),
)  # fmt: skip
def two_plates(one, two):
    s = scale_of()

    def transition(x, ys):
        y1, y2 = ys
        probs = jnp.asarray(INIT) if x is None else jnp.asarray(MOVES)[x]
        x = numpyro.sample("x", dist.Categorical(probs))
        with numpyro.plate("D1", 2, dim=-1):
            numpyro.sample("y1", dist.Normal(jnp.asarray(LOCS)[x], s), obs=y1)
        with numpyro.plate("D2", 2, dim=-1):
            numpyro.sample("y2", dist.Normal(jnp.asarray(LOCS)[x], 1), obs=y2)
        return x, None

    scan(transition, None, (one, two))


@case("a latent below a state", PAIRS[:3])
def latent_below(data):
    locs = jnp.arange(4.0).reshape(2, 2)
    s = scale_of()

    def transition(x, y):
        x = numpyro.sample("x", dist.Categorical(jnp.asarray(MOVES)[x]))
        with numpyro.plate("D", 2, dim=-1):
            w = numpyro.sample("w", dist.Bernoulli(0.6))
            numpyro.sample("y", dist.Normal(Vindex(locs)[x, w], s), obs=y)
        return x, None

    scan(transition, 0, data)


@case("two states, output recorded", SERIES[:4])
def two_states(data):
    locs = jnp.arange(4.0).reshape(2, 2)
    s = scale_of()

    def transition(carry, y):
        x, w = carry
        x = numpyro.sample("x", dist.Categorical(jnp.asarray(MOVES)[x]))
        w = numpyro.sample("w", dist.Categorical(jnp.asarray(MOVES)[1 - w]))
        numpyro.sample("y", dist.Normal(locs[w, x], s), obs=y)
        return (x, w), x

    scan(transition, (0, 0), data)


@case("two scans by partial", SERIES[:4], SERIES[3:])
def two_scans(data_x, data_w):
    s = scale_of()

    def transition(name, locs, x, y):
        x = numpyro.sample(name, dist.Categorical(jnp.asarray(MOVES)[x]))
        numpyro.sample("y_" + name, dist.Normal(locs[x], s), obs=y)
        return x, None

    scan(partial(transition, "x", jnp.asarray(LOCS)), 0, data_x)
    scan(partial(transition, "w", 2 * jnp.asarray(LOCS)), 0, data_w)


@case("second order under a latent", np.array([0, 1, 0, 0]))
def second_order(ys):
    p = numpyro.param("p", 0.25 * jnp.ones((2, 2, 2)), constraint=constraints.unit_interval)
    q = numpyro.param("q", 0.25 * jnp.ones(2), constraint=constraints.unit_interval)
    z = numpyro.sample("z", dist.Bernoulli(0.5))

    def transition(carry, y):
        before, now = carry
        probs = p[before, now, z]
        before, now = now, numpyro.sample("x", dist.Bernoulli(probs))
        numpyro.sample("y", dist.Bernoulli(q[now]), obs=y)
        return (before, now), None

    scan(transition, (0, 0), ys, history=2)


@case("a latent above a scan without states", SERIES)
def above_a_scan(ys):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]))
    z = numpyro.sample("z", dist.Bernoulli(0.2), infer={"enumerate": "parallel"})

    def transition(c, y):
        numpyro.sample("y", dist.Normal(mu[z], 1), obs=y)
        return None, None

    scan(transition, None, ys)


@case("a scan without inputs", 1.0)
def scan_of_constants(value):
    mu = numpyro.sample("mu", dist.Normal(0, 1))

    def transition(c, _):
        with numpyro.plate("N", 3, dim=-1):
            numpyro.sample("x", dist.Normal(mu, 1), obs=value)
        return None, None

    scan(transition, None, None, length=4)


@case("a latent without a plate", np.array([-0.5, 0.4, 1.1]))
def one_latent(data, z=None):
    p = numpyro.param("p", np.array([0.75, 0.25]), constraint=constraints.simplex)
    z = numpyro.sample("z", dist.Categorical(p), obs=z)
    z = jnp.array([0.0, 1.0])[z]
    with numpyro.plate("data", 3):
        numpyro.sample("x", dist.Normal(z, 1.0), obs=data)


@case("a latent in a plate of its own", np.array([-1.0, -1.0, 0.0]), np.array([-1.0, 1.0]))
def zzxx(first, second):
    p = numpyro.param("p", np.array([0.25, 0.75]), constraint=constraints.simplex)
    loc = numpyro.sample("loc", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = jnp.exp(numpyro.sample("scale", dist.Normal(0, 1)))
    z1 = numpyro.sample("z1", dist.Categorical(p))
    with numpyro.plate("data[0]", 3):
        numpyro.sample("x1", dist.Normal(loc[z1], scale), obs=first)
    with numpyro.plate("data[1]", 2):
        z2 = numpyro.sample("z2", dist.Categorical(p))
        numpyro.sample("x2", dist.Normal(loc[z2], scale), obs=second)


def enumerated(data, outer_scale, inner_mask):
    p_x = numpyro.param("probs_x", jnp.array([0.1, 0.9]), constraint=constraints.simplex)
    p_y = numpyro.param(
        "probs_y", jnp.array([[0.2, 0.8], [0.7, 0.3]]), constraint=constraints.simplex
    )
    p_z = numpyro.param(
        "probs_z", jnp.array([[0.6, 0.4], [0.5, 0.5]]), constraint=constraints.simplex
    )
    with handlers.scale(scale=outer_scale), numpyro.plate("data", len(data)):
        with handlers.mask(mask=jnp.arange(len(data)) < inner_mask):
            x = numpyro.sample("x", dist.Categorical(p_x))
            y = numpyro.sample("y", dist.Categorical(p_y[x]), infer={"enumerate": "parallel"})
            numpyro.sample("z", dist.Categorical(p_z[y]), obs=data)


case("two latents under a mask", BINARY[:4], 1, 3)(enumerated)


@case("outer and inner latents", np.array([1.0, -1.0]), 0.3)
def outer_inner(inner, outer):
    probs_a = numpyro.param("probs_a", jnp.array([0.4, 0.6]), constraint=constraints.simplex)
    probs_b = numpyro.param("probs_b", jnp.array([0.6, 0.4]), constraint=constraints.simplex)
    locs = numpyro.param("locs", jnp.array([-1.0, 1.0]))
    scales = numpyro.param("scales", jnp.array([1.0, 2.0]), constraint=constraints.positive)
    a = numpyro.sample("a", dist.Categorical(probs_a), infer={"enumerate": "parallel"})
    numpyro.sample("outer_obs", dist.Normal(0.0, scales[a]), obs=outer)
    with numpyro.plate("inner", 2):
        b = numpyro.sample("b", dist.Categorical(probs_b), infer={"enumerate": "parallel"})
        numpyro.sample("inner_obs", dist.Normal(locs[b], scales[a]), obs=inner)


@case("a param given as a number", X)
def number_param(x):
    mu = numpyro.param("mu", 0.0)
    s = numpyro.param("s", 1, constraint=constraints.positive)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, s), obs=x)


@case("unconstrained param as probabilities", np.array([0, 1, 1]), refused="param")
def loose_param(data):
    p = numpyro.param("p", jnp.array([0.25, 0.75]))
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]))
    with numpyro.plate("data", 3):
        z = numpyro.sample("z", dist.Categorical(p))
        numpyro.sample("x", dist.Normal(mu[z], 1), obs=data)


# --- idioms of users ------------------------------------------------------------------------------


@case("integer literals", X)
def integers(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1), obs=x)


@case("one observation", np.array([1.5]))
def single(x):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(mu, 1), obs=x)


@case("n-mixture", np.array([[2, 3], [0, 1], [4, 2]]), 6)
def n_mixture(counts, most):
    p = numpyro.sample("p", dist.Beta(1, 1))
    lam = numpyro.sample("lam", dist.Gamma(2, 1))
    support = jnp.arange(most + 1)
    log_weights = dist.Poisson(lam).log_prob(support)
    with numpyro.plate("sites", len(counts), dim=-2):
        n = numpyro.sample("N", dist.Categorical(logits=log_weights))
        with numpyro.plate("visits", counts.shape[1], dim=-1):
            numpyro.sample("y", dist.Binomial(n, p), obs=counts)


@case("a mean per column", np.column_stack([X, Y]))
def columns(x):
    with numpyro.plate("columns", 2, dim=-1):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("rows", len(x), dim=-2):
            numpyro.sample("x", dist.Normal(mu, 1), obs=x)


@case("scoped halves", X, Y)
def scoped(x, y):
    def half(name, data):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("rows", len(data)):
            numpyro.sample("obs", dist.Normal(mu, 1), obs=data)

    handlers.scope(half, "left")("left", x)
    handlers.scope(half, "right")("right", y)


@case("theta and one minus theta", TWO_GROUPS)
def two_weights(x):
    theta = numpyro.sample("theta", dist.Uniform(0, 1))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.stack([theta, 1 - theta])))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)


@case("mixture distribution", TWO_GROUPS)
def marginal_mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample(
            "x", dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(mu, 1.0)), obs=x
        )


@case("latent dirichlet by words", np.array([[0, 1, 1], [2, 0, 2]]), 2, 3)
def topic_words(words, topics, vocabulary):
    phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones((topics, vocabulary))).to_event(1))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(topics)))
    with (
        numpyro.plate("documents", words.shape[0], dim=-2),
        numpyro.plate("words", words.shape[1], dim=-1),
    ):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("w", dist.Categorical(phi[z]), obs=words)


@case("zero-inflated by a latent", COUNTS)
def inflated_by_latent(y):
    gate = numpyro.sample("gate", dist.Beta(1, 1))
    rate = numpyro.sample("rate", dist.Gamma(1, 1))
    with numpyro.plate("rows", len(y)):
        zero = numpyro.sample("zero", dist.Bernoulli(gate))
        numpyro.sample("y", dist.Poisson(jnp.where(zero == 1, 1e-9, rate)), obs=y)


@case("noisy or", BINARY[:6].reshape(3, 2))
def noisy_or(symptoms):
    prior = numpyro.sample("prior", dist.Beta(1, 1).expand([2]).to_event(1))
    leak = numpyro.sample("leak", dist.Beta(1, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("patients", len(symptoms), dim=-2):
        a = numpyro.sample("a", dist.Bernoulli(prior[0]))
        b = numpyro.sample("b", dist.Bernoulli(prior[1]))
        with numpyro.plate("symptoms", 2, dim=-1) as s:
            off = 0.9 * jnp.where(a == 1, leak[0, s], 1.0) * jnp.where(b == 1, leak[1, s], 1.0)
            numpyro.sample("y", dist.Bernoulli(1 - off), obs=symptoms)


@case("outliers", Y, X)
def robust(y, x):
    b = numpyro.sample("b", dist.Normal(0, 5))
    p = numpyro.sample("p", dist.Beta(1, 9))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        out = numpyro.sample("out", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(b * x, jnp.where(out, 10.0 * s, s)), obs=y)


# --- test_mcmc.py, test_svi.py, test_handlers.py, test_hmc_gibbs.py --------------------------------


@case("priors without density", Y)
def masked_priors(data):
    mean = numpyro.sample("mean", dist.Normal(0, 1).mask(False))
    std = numpyro.sample("std", dist.LogNormal(0, 1).mask(False))
    return numpyro.sample("obs", dist.Normal(mean, std), obs=data)


@case("improper prior", Y, nuts=False)
def improper(data):
    mean = numpyro.sample("mean", dist.Normal(0, 1).mask(False))
    std = numpyro.sample("std", dist.ImproperUniform(constraints.positive, (), ()))
    return numpyro.sample("obs", dist.Normal(mean, std), obs=data)


@case("beta bernoulli by columns", np.column_stack([BINARY, BINARY[::-1]]))
def beta_bernoulli(data):
    p = numpyro.sample("p_latent", dist.Beta(jnp.array([1.1, 1.1]), jnp.array([1.1, 1.1])))
    numpyro.sample("obs", dist.Bernoulli(p), obs=data)
    return p


@case("counts in a dictionary", {"n": AT_BATS, "x": HITS})
def binomial_dictionary(data):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    numpyro.sample("obs", dist.Binomial(data["n"], logits=logit(p)), obs=data["x"])


@case("a scaled uniform by a handler", np.array([0.3, 0.4]))
def scaled_uniform(data):
    alpha = numpyro.sample("alpha", dist.Uniform(0, 1))
    with handlers.reparam(config={"loc": TransformReparam()}):
        loc = numpyro.sample(
            "loc",
            dist.TransformedDistribution(dist.Uniform(0, 1), transforms.AffineTransform(0, alpha)),
        )
    numpyro.sample("obs", dist.Normal(loc, 0.1), obs=data)


SCHOOLS = {
    "J": 4,
    "sigma": np.array([15.0, 10.0, 16.0, 11.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0]),
}


def schools(data):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau), sample_shape=(data["J"],))
    numpyro.sample("obs", dist.Normal(theta, data["sigma"]), obs=data["y"])


case("eight schools, estimated", SCHOOLS, options={"parameters": {"theta"}})(schools)


@case("one category")
def one_category():
    x = numpyro.sample("x", dist.Dirichlet(jnp.ones(1)).expand((2,)))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    return numpyro.sample("y", dist.Normal(x[..., 0] + mu, 1), obs=2)


@case("observed literals")
def literals():
    x = numpyro.sample("x", dist.Normal(0.0, 2.0))
    y = numpyro.sample("y", dist.Normal(0.0, 2.0))
    numpyro.sample("obs", dist.Normal(x + y, 1.0), obs=jnp.array([1.0]))
    numpyro.sample("z", dist.Normal(x, 2), obs=5)


@case("lifted param", np.exp(X))
def lifted(data):
    def program(data):
        c = numpyro.param("c", jnp.array(1.0), constraint=constraints.positive)
        return numpyro.sample("x", dist.LogNormal(c, 1.0), obs=data)

    return handlers.lift(program, prior={"c": dist.Gamma(0.01, 0.01)})(data)


@case("conditioned from outside", X)
def conditioned(x):
    def program(n):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        with numpyro.plate("rows", n):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(mu * z, 1.0))

    handlers.condition(program, data={"x": x})(len(x))


@case("a parameter held by a handler", X)
def held(x):
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        s = numpyro.sample("s", dist.HalfNormal(1))
        numpyro.sample("x", dist.Normal(mu, s), obs=x)

    handlers.do(program, data={"s": 2.0})(x)


@case("an observation under a scale", Y)
def scaled_observation(data):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with handlers.scale(scale=10):
        numpyro.sample("obs", dist.Normal(x, 1), obs=data)


@case("latents without observations below", X)
def idle_latents(x):
    numpyro.sample("idle", dist.Bernoulli(0.7).expand([3]))
    numpyro.sample("more", dist.Binomial(10, 0.3))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@case("a sum of coefficients", DESIGN, BINARY)
def summed_coefficients(data, labels):
    coefs = numpyro.sample("coefs", dist.Normal(jnp.zeros(3), jnp.ones(3)))
    logits = numpyro.deterministic("logits", jnp.sum(coefs * data, axis=-1))
    return numpyro.sample("obs", dist.Bernoulli(logits=logits), obs=labels)


@case("a switch at a continuous time", COUNTS)
def continuous_switch(data):
    alpha = 1 / jnp.mean(data.astype(np.float32))
    lambda1 = numpyro.sample("lambda1", dist.Exponential(alpha))
    lambda2 = numpyro.sample("lambda2", dist.Exponential(alpha))
    tau = numpyro.sample("tau", dist.Uniform(0, 1))
    rate = jnp.where(jnp.arange(len(data)) < tau * len(data), lambda1, lambda2)
    numpyro.sample("obs", dist.Poisson(rate), obs=data)


@case("to_event of everything", PAIRS)
def every_event(data):
    mean = numpyro.sample("mean", dist.Normal().expand((2,)).to_event(1))
    with numpyro.plate("batch", data.shape[0], dim=-1):
        numpyro.sample("obs", dist.Normal(mean, 1).to_event(), obs=data)


class Regression:
    """A program that is a method, with settings of its own."""

    def __init__(self, scale):
        self.scale = scale

    def model(self, x, y=None):
        b = numpyro.sample("b", dist.Normal(0, self.scale))
        numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)

    def __call__(self, x, y=None):
        return self.model(x, y)


case("a method", X, Y)(Regression(2).model)
case("a callable object", X, y=Y)(Regression(2))
case("a partial", X)(partial(Regression(2).model, y=Y))
case("a lambda", X, Y)(lambda x, y: Regression(3).model(x, y))


@case("mixture of experts", X, Y)
def experts(x, y):
    gate = numpyro.sample("gate", dist.Normal(0, 1).expand([2]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("rows", len(x)):
        logits = jnp.stack([jnp.zeros(len(x)), gate[0] + gate[1] * x], -1)
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * x, s), obs=y)


@case("stick breaking", TWO_GROUPS[:6], 3)
def sticks(x, K):
    beta = numpyro.sample("beta", dist.Beta(1, 2.0).expand([K - 1]))
    rest = jnp.cumprod(1 - beta)
    weights = jnp.concatenate([beta, jnp.ones(1)]) * jnp.concatenate([jnp.ones(1), rest])
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([K]))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(probs=weights))
        numpyro.sample("x", dist.Normal(mu[z], 1), obs=x)


@case("a shared latent seen twice", X[:3], Y[:3])
def seen_twice(first, second):
    p = numpyro.sample("p", dist.Beta(2, 2))
    loc = numpyro.sample("loc", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("rows", 3):
        z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("first", dist.Normal(loc[z], 1), obs=first)
        numpyro.sample("second", dist.Normal(-loc[z], 2), obs=second)


@case("groups and rows", TWO_GROUPS, GROUP)
def groups_and_rows(x, g):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]))
    with numpyro.plate("groups", 3):
        z = numpyro.sample("z", dist.Categorical(p))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu[z[g]], 1.0), obs=x)


@case("a while loop of jax", X, refused="while_loop")
def while_loop(x):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    grown = jax.lax.while_loop(lambda v: v < 10, lambda v: v + 1, mu)
    numpyro.sample("x", dist.Normal(grown, 1), obs=x)
