"""Mixtures and chains as estimators of scikit-learn, against scikit-learn, hmmlearn and scipy."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st
from hmmlearn.hmm import CategoricalHMM, GaussianHMM
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pp_mlem.sklearn import HMM, Mixture

FORMS = ["full", "tied", "diag", "spherical"]
FEW = {"n_init": 1, "max_iter": 20}
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@quiet
@parametrize_with_checks([Mixture(2, covariance="diag", **FEW)])
def test_is_an_estimator(estimator, check):
    check(estimator)


@quiet
@pytest.mark.slow
@parametrize_with_checks(
    [Mixture(), Mixture(2, **FEW), HMM(**FEW), HMM(2, covariance="diag", **FEW)]
)
def test_every_form_is_an_estimator(estimator, check):
    check(estimator)


# --- against others ---------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", FORMS)
def test_mixture_is_that_of_scikit_learn(covariance):
    X = load_iris().data
    mine = Mixture(3, covariance=covariance, random_state=0).fit(X)
    other = GaussianMixture(3, covariance_type=covariance, n_init=10, random_state=0).fit(X)
    assert mine.converged_ and mine.result_.converged
    assert mine.lower_bound_ >= other.score(X) - 1e-12  # whose reg_covar costs a little
    again = clone(other).set_params(
        reg_covar=0, max_iter=1, n_init=1, weights_init=mine.weights_, means_init=mine.means_,
        precisions_init=np.linalg.inv(mine.covariances_) if covariance in FORMS[:2]
        else 1 / mine.covariances_,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        again.fit(X)  # an EM step from the maximum stays there
    np.testing.assert_allclose(again.means_, mine.means_, rtol=1e-5)
    again.weights_, again.means_ = mine.weights_, mine.means_
    again.covariances_ = mine.covariances_
    again._set_parameters(
        (again.weights_, again.means_, again.covariances_, _cholesky(mine.covariances_, covariance))
    )
    np.testing.assert_allclose(mine.score_samples(X), again.score_samples(X), atol=1e-10)
    np.testing.assert_allclose(
        mine.score_samples(X[7:30]), again.score_samples(X)[7:30], atol=1e-10
    )
    np.testing.assert_allclose(mine.predict_proba(X), again.predict_proba(X), atol=1e-10)
    assert np.array_equal(mine.predict(X), again.predict(X))
    for mine_is, other_is in (
        (mine.score(X), again.score(X)), (mine.bic(X), again.bic(X)), (mine.aic(X), again.aic(X)),
        (mine.bic(X), mine.result_.bic), (mine.lower_bound_, mine.score(X)),
    ):  # fmt: skip
        assert mine_is == pytest.approx(other_is, abs=1e-9)


def _cholesky(covariances, form):
    """Of precisions, as scikit-learn keeps it."""
    if form in FORMS[2:]:
        return 1 / np.sqrt(covariances)
    return np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariances)), -1, -2)


def chain(lengths, seed=1):
    """Sequences of two states, Gaussian and counted, one after the other."""
    rng, states = np.random.default_rng(seed), []
    for length in lengths:
        z = rng.integers(2)
        for _ in range(length):
            z = z if rng.uniform() < 0.85 else 1 - z
            states.append(z)
    z = np.array(states)
    X = np.array([[0, 0], [3, 1.0]])[z] + rng.normal(size=(len(z), 2))
    return X, rng.poisson(np.array([2.0, 9.0])[z])[:, None], z


LENGTHS = [40, 25, 60, 1]


@pytest.mark.parametrize("covariance", FORMS)
def test_chain_is_that_of_hmmlearn(covariance):
    X, _, z = chain(LENGTHS)
    for lengths in (LENGTHS, None):
        mine = HMM(2, covariance=covariance, n_init=3, random_state=0).fit(X, lengths=lengths)
        other = GaussianHMM(2, covariance_type=covariance)
        other.startprob_, other.transmat_ = mine.startprob_, mine.transmat_
        other.means_, other.n_features = mine.means_, 2
        other.covars_ = mine.covariances_
        _agree(mine, other, X, lengths)
        assert adjusted_rand_score(mine.predict(X, lengths), z) > 0.7
        fitted = GaussianHMM(
            2, covariance_type=covariance, n_iter=200, random_state=0, covars_prior=0.0
        ).fit(X, lengths)
        assert mine.log_likelihood_ >= fitted.score(X, lengths) - 1e-9


def _agree(mine, other, X, lengths):
    assert mine.log_likelihood_ == pytest.approx(other.score(X, lengths), abs=1e-9)
    assert mine.score(X, lengths=lengths) == pytest.approx(other.score(X, lengths), abs=1e-9)
    assert mine.score_samples(X, lengths).sum() == pytest.approx(other.score(X, lengths), abs=1e-9)
    proba = other.predict_proba(X, lengths)
    np.testing.assert_allclose(mine.predict_proba(X, lengths), proba, atol=1e-10)
    assert np.array_equal(mine.predict(X, lengths), other.predict(X, lengths))
    told, path = mine.decode(X, lengths)
    expected, own = other.decode(X, lengths)
    assert told == pytest.approx(expected, abs=1e-9) and np.array_equal(path, own)
    assert mine.bic(X, lengths) == pytest.approx(other.bic(X, lengths), abs=1e-9)
    assert mine.aic(X, lengths) == pytest.approx(other.aic(X, lengths), abs=1e-9)


def test_categories_of_a_chain():
    X = np.random.default_rng(0).integers(0, 3, size=(90, 1))
    mine = HMM(2, family="categorical", n_init=3, random_state=0).fit(X, lengths=[50, 40])
    other = CategoricalHMM(2, n_features=3)
    other.startprob_, other.transmat_ = mine.startprob_, mine.transmat_
    other.emissionprob_ = mine.emissionprob_[:, 0]
    # hmmlearn counts the entries of a row among the parameters
    assert mine.score(X, lengths=[50, 40]) == pytest.approx(other.score(X, [50, 40]), abs=1e-9)
    np.testing.assert_allclose(mine.predict_proba(X), other.predict_proba(X), atol=1e-10)


LAWS = {
    "poisson": lambda p: st.poisson(p["rates"]).logpmf,
    "negative_binomial": lambda p: (
        st.nbinom(
            p["concentrations"], p["concentrations"] / (p["concentrations"] + p["means"])
        ).logpmf
    ),
    "bernoulli": lambda p: st.bernoulli(p["probs"]).logpmf,
    "categorical": lambda p: (
        lambda x: np.log(np.take_along_axis(p["probs"], x[0][..., None].astype(int), -1)[..., 0])
    ),
    "exponential": lambda p: st.expon(scale=1 / p["rates"]).logpdf,
    "gamma": lambda p: st.gamma(p["concentrations"], scale=1 / p["rates"]).logpdf,
    "von_mises": lambda p: st.vonmises(p["concentrations"], p["means"]).logpdf,
    "student_t": lambda p: st.t(p["df"][:, None], p["means"], p["scales"]).logpdf,
}


def data_of(family):
    rng = np.random.default_rng(3)
    z = rng.integers(2, size=(60, 1))
    shape = (60, 2)
    return {
        "poisson": lambda: rng.poisson(2 + 7 * z, shape),
        "negative_binomial": lambda: rng.negative_binomial(1 + 2 * z, 0.15, shape),
        "bernoulli": lambda: rng.uniform(size=shape) < 0.2 + 0.6 * z,
        "categorical": lambda: rng.integers(0, 3, shape),
        "exponential": lambda: rng.exponential(1 + 8 * z, shape),
        "gamma": lambda: rng.gamma(3.0, 1 + 8 * z, shape),
        "von_mises": lambda: rng.vonmises(2.0 * z - 1, 4.0, shape),
        "student_t": lambda: rng.standard_t(3, shape) + 6 * z,
    }[family]().astype(float)


@pytest.mark.parametrize("family", LAWS)
def test_families_have_their_laws(family):
    X = data_of(family)
    fit = Mixture(2, family=family, covariance="diag", method="map", n_init=2, random_state=0).fit(
        X
    )
    law = LAWS[family](fit.params_)
    if family == "categorical":
        each = np.stack([law(np.broadcast_to(x, (1, 2, 2))).sum(-1) for x in X])
    else:
        each = law(X[:, None]).sum(-1)
    expected = logsumexp(each + np.log(fit.weights_), axis=1)
    rounding = 1e-5 if family == "negative_binomial" else 1e-9  # JAX's betaln is no better
    np.testing.assert_allclose(fit.score_samples(X), expected, atol=rounding)
    drawn, labels = fit.sample(400)
    assert drawn.shape == (400, 2) and abs(labels.mean() - fit.weights_[1]) < 0.1
    assert np.isfinite(fit.score_samples(drawn)).all()


def test_a_multivariate_t_in_a_chain():
    X, _, _ = chain([30])
    fit = HMM(2, family="student_t", n_init=1, method="map", random_state=0).fit(X)
    p = fit.params_
    law = [st.multivariate_t(p["means"][k], p["covariances"][k], p["df"][k]) for k in range(2)]
    alpha = np.log(p["startprob"])
    for t, x in enumerate(X):
        moved = alpha if t == 0 else logsumexp(alpha[:, None] + np.log(p["transmat"]), axis=0)
        alpha = moved + [own.logpdf(x) for own in law]
    assert fit.score(X) == pytest.approx(logsumexp(alpha), abs=1e-9)


# --- as scikit-learn uses them ----------------------------------------------------------------


def test_another_fit_of_the_shape_compiles_nothing():
    X = load_iris().data
    first = Mixture(3, covariance="diag", random_state=0).fit(X)
    first.predict(X[:20]), first.score(X)
    compiled = []
    listen = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        other = clone(first).fit(3 * X[::-1] + 1)
        other.predict(X[:18]), other.score(X)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled and other.converged_


def test_pipelines_searches_frames_and_pickles():
    frame = pd.DataFrame(load_iris().data[:, :2], columns=["length", "width"]).convert_dtypes()
    frame.iloc[3, 0] = pd.NA
    folds = KFold(3, shuffle=True, random_state=0)
    steps = make_pipeline(StandardScaler(), Mixture(covariance="diag", n_init=2, random_state=0))
    search = GridSearchCV(steps, {"mixture__n_components": [1, 2]}, cv=folds).fit(frame)
    best = search.best_estimator_
    assert search.best_params_["mixture__n_components"] == 2
    assert best.predict(frame).shape == (150,) and best[-1].n_features_in_ == 2
    again = pickle.loads(pickle.dumps(best))
    assert again.score(frame) == best.score(frame)
    alone = Mixture(2, covariance="diag", n_init=2, random_state=0).fit(frame)
    assert list(alone.feature_names_in_) == ["length", "width"]
    assert alone.result_.n_observations == 150


def test_missing_values_are_integrated_out():
    X = load_iris().data
    gaps = X.copy()
    gaps[:30, 0], gaps[40] = np.nan, np.nan
    fit = Mixture(2, n_init=2, random_state=0).fit(gaps)
    each = [
        st.multivariate_normal(m[1:], c[1:, 1:]).logpdf(X[:30, 1:])
        for m, c in zip(fit.means_, fit.covariances_, strict=True)
    ]
    expected = logsumexp(np.transpose(each) + np.log(fit.weights_), axis=1)
    np.testing.assert_allclose(fit.score_samples(gaps)[:30], expected, atol=1e-9)
    assert fit.score_samples(gaps)[40] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fit.predict_proba(gaps)[40], fit.weights_, atol=1e-12)


def galaxy_mixture(x, K=3):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(20, 10))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    with numpyro.plate("galaxies", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], sigma[z]), obs=x)


def test_a_program_of_the_user(galaxies_em):
    x = np.asarray(galaxies_em.model.arguments.dynamic[0], float)
    X = x.reshape(len(x), -1)
    own = Mixture.from_program(galaxy_mixture, K=3).set_params(n_init=20, random_state=0)
    assert clone(own).get_params()["n_components"] == 3
    own.fit(X)
    assert own.log_likelihood_ == pytest.approx(galaxies_em.log_likelihood, abs=1e-6)
    assert own.score(X) * len(X) == pytest.approx(own.log_likelihood_, abs=1e-9)
    family = Mixture(3, covariance="diag", n_init=20, random_state=0).fit(X)
    assert family.log_likelihood_ == pytest.approx(own.log_likelihood_, abs=1e-6)
    assert adjusted_rand_score(own.predict(X), family.predict(X)) == 1
    drawn, labels = own.sample(2000)
    means = [drawn[labels == k].mean() for k in range(3)]
    np.testing.assert_allclose(means, own.params_["mu"], atol=0.5)


def counted(x, mask=None, K=2):
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(2, 0.1).expand([K]).to_event(1))

    def step(z, x_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x_t)
        return z, None

    def beside(z, now):
        with numpyro.plate("sequences", x.shape[1]), numpyro.handlers.mask(mask=now[1]):
            return step(z, now[0])

    if mask is None:
        scan(step, 0, x)
    else:
        scan(beside, jnp.zeros(x.shape[1], int), (x, mask))


def test_a_chain_of_the_user():
    _, X, _ = chain(LENGTHS)
    one = HMM.from_program(counted).set_params(n_components=2, n_init=2, random_state=0).fit(X)
    many = HMM(2, program=counted, mask_argument="mask", n_init=2, random_state=0)
    many.fit(X, lengths=LENGTHS)
    assert one.score_samples(X).sum() == pytest.approx(one.log_likelihood_, abs=1e-9)
    one.params_ = many.params_  # each sequence for itself
    assert one.score(X, lengths=LENGTHS) == pytest.approx(many.log_likelihood_, abs=1e-9)
    proba = many.predict_proba(X, LENGTHS)
    np.testing.assert_allclose(one.predict_proba(X, LENGTHS), proba, atol=1e-10)
    assert np.array_equal(one.predict(X, LENGTHS), many.predict(X, LENGTHS))
    assert many.sample(5)[0].shape == (5, 1)
    with pytest.raises(ValueError, match="this program takes one.*mask_argument"):
        one.fit(X, lengths=LENGTHS)
    with pytest.raises(ValueError, match="tells the log-likelihood of each as a whole"):
        many.score_samples(X)


# --- what is told -----------------------------------------------------------------------------


def test_a_mixture_that_collapses_says_so():
    X = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, 0)
    with pytest.warns(ConvergenceWarning, match="status 'collapsed'.*method='map'"):
        fit = Mixture(2, n_init=2, random_state=0).fit(X)
    assert not fit.converged_ and fit.result_.status == "collapsed"
    held = Mixture(2, method="map", n_init=2, random_state=0).fit(X)
    assert held.converged_ and np.linalg.eigvalsh(held.covariances_).min() > 1e-3


X = np.arange(12.0).reshape(6, 2)
BAD = {
    "family": (lambda: Mixture(family="cauchy").fit(X), "family: received 'cauchy', expected one"),
    "covariance": (lambda: HMM(covariance="round").fit(X), "covariance: received 'round'"),
    "method": (lambda: Mixture(method="nuts").fit(X), "method: received 'nuts'.*fit_nuts"),
    "components": (lambda: Mixture(0).fit(X), "n_components: received 0"),
    "too many": (lambda: Mixture(7).fit(X), "n_components: received 7, expected no more than"),
    "negative": (lambda: Mixture(family="poisson").fit(-X), "Negative values in data"),
    "lengths": (lambda: HMM().fit(X, lengths=[2, 3]), "lengths: received.*add up to the 6 rows"),
    "as y": (lambda: HMM().fit(X, [2, 4]), "y: received 2 values.*by name: lengths="),
    "argument": (
        lambda: Mixture.from_program(galaxy_mixture, "y").fit(X), "no argument 'y'; it has"
    ),
    "size": (
        lambda: Mixture(program=galaxy_mixture, size_argument="N").fit(X), "no argument 'N'"
    ),
    "columns": (
        lambda: Mixture.from_program(galaxy_mixture, ["x"]).fit(X), "expected one for each of the 2"
    ),
    "not a mixture": (
        lambda: Mixture.from_program(counted).fit(X[:, :1]), "latent: received None.*one of .."
    ),
    "gaps": (
        lambda: Mixture(family="student_t").fit(np.where(X == 3, np.nan, X)), "contains NaN"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, match = BAD[case]
    with pytest.raises(ValueError, match=match):
        call()


def test_without_scikit_learn_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "pp_mlem.sklearn")
    with pytest.raises(
        ImportError, match=r"needs scikit-learn: .*pip install 'pp-mlem\[sklearn\]'"
    ):
        importlib.import_module("pp_mlem.sklearn")
