"""Data in chunks: the same fits as in memory, for programs of every kind; and what is refused."""

from __future__ import annotations

import pickle

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from pp_mlem import (
    Model,
    compare,
    fit_em,
    fit_laplace,
    fit_map,
    fit_mle,
    fit_nuts,
    likelihood_ratio_test,
    load,
    open_source,
    select,
)
from pp_mlem.model.streamed import StreamedModel

RNG = np.random.default_rng(5)
N = 523
Z = RNG.choice(2, N, p=[0.4, 0.6])
X = np.stack([RNG.normal(size=N) + 3 * Z, RNG.normal(size=N) * (1 + Z)], 1)
U = RNG.normal(size=N)
Y = 1 + 2 * U + RNG.normal(size=N)
BINARY = (RNG.uniform(size=N) < 1 / (1 + np.exp(-0.5 - U))).astype(int)
COUNTS = RNG.poisson(np.exp(0.3 + 0.5 * U))
W = RNG.integers(1, 4, N).astype(float)
CODES = RNG.integers(0, 3, N)
HOLES = np.where(RNG.uniform(size=N) < 0.1, np.nan, Y)
T = 12
SEQUENCES = RNG.normal(size=(N, T)) + 2.0 * (np.cumsum(RNG.uniform(size=(N, T)) < 0.2, 1) % 2)
M = 4
EFFECTS = RNG.normal(size=(N, 1)) + RNG.normal(size=(N, M)) * 0.5
SCORES = RNG.normal(size=(N, 1)) * np.array([1.0, 0.8, 0.6, 1.2]) + 0.7 * RNG.normal(size=(N, M))
ITEMS = (RNG.uniform(size=(N, 5)) < np.where(Z[:, None], 0.8, 0.3)).astype(int)


def mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], s[z]).to_event(1), obs=x)


def full_mixture(x, K=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        P = numpyro.sample("P", dist.Wishart(4.0, scale_matrix=jnp.eye(2)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=P[z]), obs=x)


def regression(u, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    b = numpyro.sample("b", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(u)):
        numpyro.sample("y", dist.Normal(a + b * u, s), obs=y)


def logistic(u, y):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", len(u)):
        numpyro.sample("y", dist.Bernoulli(logits=b[0] + b[1] * u), obs=y)


def mixture_of_regressions(u, y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("c", 2):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Poisson(jnp.exp(b[z, 0] + b[z, 1] * u)), obs=y)


def weighted(y, w):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(mu, s), obs=y)


def by_code(y, g):
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu[g], s), obs=y)


def plain(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, s), obs=y)


def heavy(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.StudentT(4.0, mu, s), obs=y)


def chains(x):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))

    def step(z, x_t):
        with numpyro.plate("sequences", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x_t)
        return z, None

    scan(step, jnp.zeros(x.shape[0], int), x.T)


def intercepts(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", y.shape[0]):
        u = numpyro.sample("u", dist.Normal(0, tau))
        numpyro.sample("y", dist.Normal(mu + u[:, None] + jnp.zeros(4), s).to_event(1), obs=y)


def factors(x):
    load = numpyro.sample("load", dist.Normal(0, 1).expand([4]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1).expand([4]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        f = numpyro.sample("f", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(f[:, None] * load, s).to_event(1), obs=x)


def classes(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("c", 2):
        p = numpyro.sample("p", dist.Beta(1, 1).expand([5]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


def start(**values):
    return {k: np.asarray(v, float) for k, v in values.items()}


TWO = start(w=[0.5, 0.5], mu=[[0.0, 0.0], [3.0, 0.0]], s=[[1.0, 1.0], [1.0, 2.0]])
# program, arrays, a start, options of the fits in chunks
PROGRAMS = {
    "mixture": (mixture, (X,), TWO),
    "full mixture": (full_mixture, (X,), start(w=[0.5, 0.5], mu=TWO["mu"], P=[np.eye(2)] * 2)),
    "regression": (regression, (U, Y), start(a=0, b=0, s=1)),
    "logistic": (logistic, (U, BINARY), start(b=[0, 0])),
    "mixture of regressions": (
        mixture_of_regressions, (U, COUNTS), start(w=[0.5, 0.5], b=[[0.2, 0.1], [0.5, 0.8]]),
    ),
    "weights": (weighted, (Y, W), start(mu=0, s=1)),
    "codes": (by_code, (Y, CODES), start(mu=[0, 0, 0], s=1)),
    "missing": (plain, (HOLES,), start(mu=0, s=1)),
    "student": (heavy, (Y,), start(mu=0, s=1)),
    "chains": (chains, (SEQUENCES,), start(P=[[0.7, 0.3], [0.3, 0.7]], mu=[0, 2])),
    "intercepts": (intercepts, (EFFECTS,), start(mu=0, tau=1, s=1)),
    "factors": (factors, (SCORES,), start(load=[1, 1, 1, 1], s=[1, 1, 1, 1])),
    "classes": (classes, (ITEMS,), start(w=[0.5, 0.5], p=[[0.3] * 5, [0.7] * 5])),
}  # fmt: skip


def source_of(arrays, rows=149):
    names = "abc"[: len(arrays)]
    source = open_source(dict(zip(names, arrays, strict=True)), chunk_rows=rows)
    return source, [source[n] for n in names]


@pytest.fixture(scope="module")
def models():
    kept = {}

    def get(name):
        if name not in kept:
            program, arrays, _ = PROGRAMS[name]
            latents = {"f"} if name == "factors" else ()
            kept[name] = tuple(
                Model(program, *own, latents=latents) for own in (source_of(arrays)[1], arrays)
            )
        return kept[name]

    return get


@pytest.mark.parametrize("name", PROGRAMS)
def test_chunks_say_what_all_rows_say(models, name):
    """log Z, EM's path step by step, its fit, the fit by MLE with its standard errors."""
    streamed, whole = models(name)
    begin = PROGRAMS[name][2]
    assert isinstance(streamed, StreamedModel) and streamed.stream.chunks == 4
    assert streamed.n_observations == whole.n_observations
    assert "arrays in memory, 523 rows, in 4 chunks of 149" in repr(streamed)
    assert streamed.log_likelihood(begin) == pytest.approx(whole.log_likelihood(begin), rel=1e-12)
    options = {"init": begin, "starts": 1}
    ours, theirs = fit_mle(streamed, **options), fit_mle(whole, **options)
    assert ours.converged and ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-10)
    np.testing.assert_allclose(ours.standard_errors(), theirs.standard_errors(), rtol=1e-4)
    slow = {"accelerate": False, "polish": False, "max_iter": 5, **options}
    path, other = (fit_em(m, **slow).history for m in (streamed, whole))
    if name not in ("logistic", "mixture of regressions", "student", "intercepts"):
        np.testing.assert_allclose(path, other, rtol=1e-10)
    fitted = fit_em(streamed, **options)
    assert fitted.converged
    assert fitted.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-10)


@pytest.mark.parametrize("name", ["mixture", "regression", "logistic"])
def test_the_prior_counts_once(models, name):
    streamed, whole = models(name)
    ours, theirs = (fit_map(m, init=PROGRAMS[name][2], starts=1) for m in (streamed, whole))
    assert ours.objective_value == pytest.approx(theirs.objective_value, rel=1e-10)
    for name, value in theirs.params.items():
        np.testing.assert_allclose(ours.params[name], value, rtol=1e-4, atol=1e-5)


def test_other_standard_errors(models):
    streamed, whole = models("mixture")
    ours, theirs = (fit_mle(m, init=TWO, starts=1) for m in (streamed, whole))
    for kind in ("opg", "sandwich"):
        np.testing.assert_allclose(
            ours.standard_errors(kind), theirs.standard_errors(kind), rtol=1e-4
        )


LAST = np.arange(N) == 500
GAPS = {
    "missing": (Y, LAST),
    "mixture": (X, LAST[:, None] & [True, False]),
    "intercepts": (EFFECTS, (np.arange(N) == 400)[:, None] & [False, True, False, False]),
}


@pytest.mark.parametrize("name", [*GAPS, "first chunks only"])
def test_missing_in_some_chunks_only(name):
    """Though the first chunks have no such layout, or have one that the last do not need."""
    values, gaps = GAPS.get(name, (Y, (np.arange(N) % 100 == 5) & (np.arange(N) < 298)))
    arrays = (np.where(gaps, np.nan, values),)
    program, _, begin = PROGRAMS.get(name, PROGRAMS["missing"])
    streamed, whole = (Model(program, *own) for own in (source_of(arrays)[1], arrays))
    assert streamed.n_observations == whole.n_observations
    assert streamed.log_likelihood(begin) == pytest.approx(whole.log_likelihood(begin), rel=1e-12)
    ours, theirs = (fit_mle(m, init=begin, starts=1) for m in (streamed, whole))
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-10)


def plain_list(value):
    return [plain_list(v) for v in value] if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", ["mixture", "chains", "intercepts", "missing"])
def test_rows_are_told_in_a_file(models, name, tmp_path):
    """Posterior, most probable latents and log-likelihood of every row, from chunks and from memory."""
    streamed, whole = models(name)
    params = PROGRAMS[name][2]
    for question in ("posterior", "decode", "pointwise_log_likelihood"):
        if name == "missing" and question != "pointwise_log_likelihood":
            continue
        with pytest.raises(NotImplementedError, match="out='rows.parquet'"):
            getattr(streamed, question)(params)
        one, other = (
            pd.read_parquet(getattr(m, question)(params, out=tmp_path / f"{i}.parquet"))
            for i, m in enumerate((streamed, whole))
        )
        assert len(one) == N and list(one.columns) == list(other.columns)
        for column in one:
            a, b = (np.array([plain_list(v) for v in t[column]], float) for t in (one, other))
            np.testing.assert_allclose(a, b, atol=1e-10)
    assert not list(tmp_path.glob("*.part"))


class Cut(Exception):
    """The power went off."""


def test_a_fit_goes_on_from_its_checkpoint_to_the_same_bits(models, tmp_path, monkeypatch):
    streamed, _ = models("mixture")
    far = start(w=[0.5, 0.5], mu=[[-3.0, 1.0], [1.0, 5.0]], s=[[3.0, 3.0], [3.0, 3.0]])
    whole = fit_em(streamed, init=far, starts=1)
    path, feed, passes = tmp_path / "fit.checkpoint", StreamedModel.feed, [0]

    def failing(self):
        passes[0] += 1
        if passes[0] % 4 == 3:
            raise Cut
        yield from feed(self)

    monkeypatch.setattr(StreamedModel, "feed", failing)
    streamed.__dict__.pop("chunked", None)
    cuts, fit = 0, None
    while fit is None:
        try:
            fit = fit_em(streamed, init=far, starts=1, checkpoint=path)
        except Cut:
            cuts += 1
    streamed.__dict__.pop("chunked", None)
    assert cuts > 3
    assert fit.log_likelihood == whole.log_likelihood and fit.iterations == whole.iterations
    assert list(fit.history) == list(whole.history)
    for name, value in whole.params.items():
        assert np.array_equal(fit.params[name], value)
    assert path.stat().st_size < 20_000


def test_a_checkpoint_of_another_fit_is_refused(models, tmp_path):
    streamed, _ = models("mixture")
    path = tmp_path / "fit.checkpoint"
    fit_em(streamed, init=TWO, starts=1, checkpoint=path)
    with pytest.raises(ValueError, match="another fit .it differs in seed"):
        fit_em(streamed, init=TWO, starts=1, seed=3, checkpoint=path)
    other = Model(mixture, source_of((X[:400],))[1][0])
    with pytest.raises(ValueError, match="other data"):
        fit_em(other, init=TWO, starts=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        fit_em(streamed, init=TWO, starts=1, checkpoint=path)


def test_in_memory_too(tmp_path):
    model = Model(mixture, X)
    path = tmp_path / "fit.checkpoint"
    first = fit_em(model, starts=3, checkpoint=path)
    again = fit_em(model, starts=3, checkpoint=path)
    assert again.log_likelihood == first.log_likelihood
    assert [list(h) for h in again.histories] == [list(h) for h in first.histories]


def test_gaussian_rows_take_one_pass(models, monkeypatch):
    """Their mean and covariance say all: fits, standard errors and posteriors pass over no row again."""
    streamed, whole = models("regression")

    def none(self):
        raise AssertionError("a pass over the rows")
        yield

    monkeypatch.setattr(StreamedModel, "feed", none)
    streamed.__dict__.pop("chunked", None)
    begin = PROGRAMS["regression"][2]
    for fit in (fit_em, fit_mle, fit_map):
        ours, theirs = (fit(m, starts=1, init=begin) for m in (streamed, whole))
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-11)
        np.testing.assert_allclose(ours.standard_errors(), theirs.standard_errors(), rtol=1e-6)
    ours, theirs = (fit_laplace(m, draws=400) for m in (streamed, whole))
    assert ours.n_observations == N
    np.testing.assert_allclose(ours.estimates(), theirs.estimates(), rtol=1e-6)
    streamed.__dict__.pop("chunked", None)


def standardised(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=(y - y.mean()) / 2)


def informed(y):
    mu = numpyro.sample("mu", dist.Normal(y.mean(), 10))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def own_means(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([y.shape[0]]).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)


def one_sequence(y):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


def positive(y):
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Exponential(rate), obs=y)


def vectors(x):
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.MultivariateNormal(mu, jnp.eye(2)), obs=x)


def yes(y):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def shares(x):
    c = numpyro.sample("c", dist.LogNormal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Dirichlet(c), obs=x)


PART = RNG.uniform(0.1, 0.9, N)
PARTS = np.stack([PART, np.where(np.arange(N) == 400, PART, 1 - PART)], 1)
LATE = np.abs(Y)
LATE = np.where(np.arange(N) == 500, -3.0, LATE)
REFUSED = {
    "computes from all rows": (standardised, (Y,), "not the sum of those of two parts"),
    "prior from rows": (informed, (Y,), "the log prior depends on the rows"),
    "a parameter for each row": (own_means, (Y,), "'mu' depends on the number of rows"),
    "one sequence": (one_sequence, (Y,), "not the sum of those of two parts"),
    "outside a support": (positive, (LATE,), "chunk 4 of 4 .row 501.: .*-3.0 at index .53,."),
    "no whole number, between those seen": (
        yes, (np.where(np.arange(N) == 500, 0.5, BINARY),), "chunk 4 of 4 .row 501.: .*0.5 at index .53,.",
    ),
    "no simplex, of numbers seen": (shares, (PARTS,), "chunk 3 of 4 .row 401.: .*outside the support of Dirichlet"),
    "infinite": (plain, (np.where(np.arange(N) == 300, np.inf, Y),), "chunk 3 of 4 .row 301.: .*infinite"),
    "missing in part": (
        vectors, (np.where(np.arange(2 * N).reshape(N, 2) == 901, np.nan, X),), "missing in part, in chunk 4 of 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    program, arrays, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Model(program, *source_of(arrays)[1])


def test_questions_that_need_all_rows(models):
    streamed, _ = models("mixture")
    fit = fit_em(streamed, init=TWO, starts=1)
    for ask in (
        lambda: fit_nuts(streamed),
        lambda: fit.bootstrap(2),
        lambda: fit.profile("w[0]"),
        lambda: fit.missing_information(),
        lambda: streamed.simulate(fit.params),
        lambda: streamed.sample_latents(fit.params),
        lambda: fit.residuals(),
        lambda: fit.impute(),
        lambda: fit.posterior(),
    ):
        with pytest.raises(NotImplementedError, match="chunks"):
            ask()
    table = compare({"EM": fit}).scores
    assert np.isfinite(table["ICL"].iloc[0])
    sample = streamed.subsample(100, seed=1)
    assert sample.n_observations == 100 and not isinstance(sample, StreamedModel)


def test_every_method_of_a_model_is_thought_of():
    """What `StreamedModel` does not have of its own reads no rows."""
    rowless = {
        "check_params", "data", "latent_names", "log_prior", "marginal", "n_observations", "problem",
        "reading", "roles", "space", "unheld", "units",
    }  # fmt: skip
    public = {n for n in dir(Model) if not n.startswith("_")}
    same = {n for n in public if getattr(StreamedModel, n) is getattr(Model, n)}
    assert same == rowless


def test_held_entries_and_two_sources(models):
    streamed, whole = models("logistic")
    ours, theirs = (fit_mle(m, fixed={"b[0]": 0.0}, starts=1) for m in (streamed, whole))
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-10)
    with pytest.raises(ValueError, match="several sources"):
        Model(logistic, source_of((U,))[1][0], source_of((BINARY,))[1][0])
    with pytest.raises(ValueError, match="devices: several take chunks"):
        Model(logistic, U, BINARY, devices=2)
    with pytest.raises(ValueError, match="devices: received 64"):
        Model(logistic, *source_of((U, BINARY))[1], devices=64)


def by_two(u, v, y):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=b[0] + b[1] * u + b[2] * v), obs=y)


def test_selection_comparison_files_and_tests(tmp_path):
    source = open_source({"u": U, "v": X[:, 1], "y": BINARY, "x": X[:, 0]}, chunk_rows=149)
    xy = source[["x", "v"]]
    ours = select(mixture, xy, K=range(1, 3), starts=4, out=tmp_path / "select")
    theirs = select(mixture, np.stack([X[:, 0], X[:, 1]], 1), K=range(1, 3), starts=4)
    for column in ("log_likelihood", "BIC", "ICL"):
        np.testing.assert_allclose(ours.table[column], theirs.table[column], rtol=1e-8)
    one = fit_mle(Model(logistic, source["u"], source["y"]))
    two = fit_mle(Model(by_two, source["u"], source["v"], source["y"]))
    test = likelihood_ratio_test(one, two)
    assert test.df == 1 and test.reference == "chi-squared"
    held = load(one.save(tmp_path / "fit.nc"), one.model)
    assert held.log_likelihood == one.log_likelihood
    np.testing.assert_allclose(held.standard_errors("opg"), one.standard_errors("opg"))
    assert "chunks" in one.to_datatree().attrs["log_likelihood"]
    again = pickle.loads(pickle.dumps(one))
    assert again.model.log_likelihood(one.params) == one.model.log_likelihood(one.params)
    assert one.predict(u=U[:3], y=None)["y"].shape == (3,)
    assert one.score() == pytest.approx(one.log_likelihood / N)


def test_single_precision_adds_up_in_double():
    model = Model(mixture, source_of((X,))[1][0], dtype="float32")
    fit = fit_em(model, init=TWO, starts=1)
    exact = fit_em(Model(mixture, X), init=TWO, starts=1)
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, rel=1e-6)


SIZES = RNG.integers(1, 9, 60)
SCHOOL = np.repeat(np.arange(60) * 3 + 5, SIZES)
ABILITY = np.repeat(RNG.normal(size=60), SIZES)
AGE = RNG.normal(size=len(SCHOOL))
GRADE = 1 + 0.5 * AGE + ABILITY + 0.7 * RNG.normal(size=len(SCHOOL))
KIND = np.repeat(RNG.normal(size=60), SIZES)


def schools(y, age, school, count):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("schools", count):
        u = numpyro.sample("u", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(b[0] + b[1] * age + u[school], s), obs=y)


def classes_of_schools(y, school, kind, count):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("schools", count):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("kind", dist.Normal(slope, 1.0), obs=kind)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu[z[school]], 1.0), obs=y)


@pytest.mark.parametrize("rows", [40, 90])
def test_groups_of_rows_are_units(rows):
    """Rows of a group lie in one chunk: random effects, and mixtures of groups with a value for each."""
    source = open_source(
        {"y": GRADE, "age": AGE, "school": SCHOOL, "kind": KIND}, groups="school", chunk_rows=rows
    )
    number = np.unique(SCHOOL, return_inverse=True)[1]
    streamed = Model(schools, source["y"], source["age"], source["school"], source.count())
    whole = Model(schools, GRADE, AGE, number, 60)
    assert streamed.stream.chunks > 2 and streamed.n_observations == whole.n_observations == 60
    begin = start(b=[0, 0], tau=1, s=1)
    assert streamed.log_likelihood(begin) == pytest.approx(whole.log_likelihood(begin), rel=1e-11)
    ours, theirs = (fit_mle(m, init=begin, starts=1) for m in (streamed, whole))
    assert ours.converged and ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(ours.standard_errors(), theirs.standard_errors(), rtol=1e-3)
    assert fit_em(streamed).log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-9)
    arguments = source["y"], source["school"], source.per_group("kind"), source.count()
    streamed = Model(classes_of_schools, *arguments)
    first = np.concatenate([[0], np.cumsum(SIZES)[:-1]])
    whole = Model(classes_of_schools, GRADE, number, KIND[first], 60)
    begin = start(w=[0.4, 0.6], mu=[0, 2], slope=0)
    ours, theirs = (fit_em(m, init=begin, starts=1) for m in (streamed, whole))
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-10)


def test_groups_that_are_not_together_are_refused():
    mixed = np.concatenate([SCHOOL, SCHOOL[:1]])
    values = {"y": np.concatenate([GRADE, [0.0]]), "age": np.concatenate([AGE, [0.0]])}
    source = open_source({**values, "school": mixed}, groups="school")
    with pytest.raises(ValueError, match="group 5 of 'school' do not follow one another. Sort"):
        Model(schools, source["y"], source["age"], source["school"], 61)
    with pytest.raises(ValueError, match="school"):
        open_source(values, groups="school")


def test_a_finish_by_second_derivatives_of_all_chunks(models):
    """A start that was cut short comes to rest by Newton steps, a pass each, with the prior counted once."""
    streamed, whole = models("mixture")
    far = start(w=[0.5, 0.5], mu=[[-1.0, 1.0], [1.0, 2.0]], s=[[2.0, 2.0], [2.0, 2.0]])
    cut = {"init": far, "starts": 1, "max_iter": 12}
    for fit in (fit_mle, fit_map):
        ours, theirs = fit(streamed, **cut), fit(whole, init=far, starts=1)
        assert ours.converged and ours.starts["newton_steps"].iloc[0] > 1
        assert ours.objective_value == pytest.approx(theirs.objective_value, rel=1e-11)
    short = fit_mle(streamed, polish=False, **cut)
    assert short.status == "max_iter"
