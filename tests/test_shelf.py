"""Every model of the shelf keeps every promise: a table of model files crossed with what a fit is good for.

A model file that is added is tested without a line here. Where a promise cannot hold for a model, `EXCEPTIONS` says
why, and its test then asks that it is refused, or falls short, for that very reason.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pp_mlem import Model, fit_em, fit_mle, fit_nuts, load
from pp_mlem.diagnose.groups import possible_orders
from pp_mlem.diagnose.labels import permute
from pp_mlem.show.catalogue import find_model, first_line, model_names, shelf_folder

QUICK = ("latent_class", "normal", "random_effects")  # of a plain run; the rest with --slow

# The same program on fewer rows, where the file's own take long.
FEWER_ROWS = {"image_segmentation": lambda data: {"x": data["x"][::400]}}

# (promise, model): why it cannot hold, in words of the refusal where there is one.
EXCEPTIONS = {
    # the program reads causes from its arguments; its own data are held to their truth below
    ("simulation", "bayesian_network"): "depends on observed values",
    # what is seen of a bird before its release is no argument as it stands
    ("simulation", "capture_recapture"): "no place to go",
    ("simulation", "local_level"): "flat law",
    # the length of a document is read from its counts; its own data are held to their truth below
    ("simulation", "naive_bayes"): "depends on observed values",
    ("simulation", "structural_time_series"): "flat law",
    ("simulation", "speech_or_text_tagging"): "data with known states cannot be drawn anew",
}

# Whose draws are no data of the kind that the program is for; the file's own data are held to their truth below.
UNLIKE = {
    "cure_model": "the marks of censoring stay, and the cured are drawn to relapse after all ages"
}
DRAWS = 5  # of data, until one has a maximum: one outlier among 20 points is "spurious", no zero in a group "separation"

ENDS = ("converged", "boundary")  # a boundary names its entries in the note
ROUNDING = 1e-12  # of a log-likelihood, relative
AGREE = 1e-6  # of two maxima, relative
NATS = 1e-8  # what a step of Newton may promise along any direction at a maximum
LEVEL = 1 - 1e-4  # of the likelihood-ratio bound on the truth


class Case:
    """A model of the shelf with what its promises share; each part is made when first asked for."""

    def __init__(self, name):
        self.name = name
        self.shelf = find_model(name)
        self.data = FEWER_ROWS.get(name, lambda data: data)(self.shelf.data())

    def exception(self, promise):
        return EXCEPTIONS.get((promise, self.name))

    def read(self):
        return Model(self.shelf.program, **self.data, **self.shelf.options)

    @functools.cached_property
    def model(self):
        return self.read()

    @functools.cached_property
    def first(self):
        """EM from its own starts."""
        return fit_em(self.model, seed=0)

    @functools.cached_property
    def maxima(self):
        """EM and MLE at the same maximum: the one with less luck with its starts begins at the other's."""
        em, mle = self.first, fit_mle(self.model, starts=3, seed=0)
        if em.log_likelihood < mle.log_likelihood - AGREE * abs(mle.log_likelihood):
            em = fit_em(self.model, init=mle.params, starts=1)
        elif mle.log_likelihood < em.log_likelihood - AGREE * abs(em.log_likelihood):
            mle = fit_mle(self.model, init=em.params, starts=1)
        return em, mle

    @property
    def em(self):
        return self.maxima[0]

    @property
    def truth(self):
        """What data are simulated at: the values that the file's own come from, else the estimates."""
        return self.shelf.truth or self.em.params


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in model_names()],
)
def case(request):
    return Case(request.param)


def test_every_model_is_documented():
    for name in model_names():
        path = shelf_folder() / f"{name}.py"
        assert first_line(path).endswith((".", ":", ")", "?")), name


FILE = '"""Own."""\ndef model(x): ...\n'


@pytest.mark.parametrize(
    "line, told",
    [
        ("published = [1, 2]", "published is list, expected a dict"),
        ("published = {1: (2.0, 0.1)}", "published has the key 1, expected names"),
        ("published = {'mu': 2.0}", r"published\['mu'\] is 2.0, expected a value and its"),
        ("published = {'mu': (2.0, 0.0)}", "of which the second is positive"),
        ("published = {'mu': (float('nan'), 0.1)}", "two finite numbers"),
        ("truth = {'mu': 'large'}", r"truth\['mu'\] is 'large', expected finite numbers"),
        ("truth = {'mu': [1.0, [2.0]]}", "expected finite numbers"),
        ("truth = 3.0", "truth is float, expected a dict"),
    ],
)
def test_what_a_file_says_of_its_values_is_checked(tmp_path, line, told):
    path = tmp_path / "own.py"
    path.write_text(FILE + line)
    with pytest.raises(ValueError, match=told):
        find_model(str(path))


def test_values_of_a_file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    assert find_model(str(path)).published == find_model(str(path)).truth == {}
    path.write_text(FILE + "published = {'mu': (2, 0.5)}\ntruth = {'w': [0.25, 0.75], 'mu': 2}")
    shelf = find_model(str(path))
    assert shelf.published == {"mu": (2.0, 0.5)}
    assert shelf.truth["w"].tolist() == [0.25, 0.75] and shelf.truth["mu"] == 2.0


def test_every_site_has_its_role(case):
    model, text = case.model, repr(case.model)
    roles = set(model.roles.values())
    assert {"parameter", "observed"} <= roles and all(model.roles.values())
    for role in ("latents", "parameters"):
        for site in case.shelf.options.get(role, ()):
            assert model.roles[site] == role[:-1]
    assert all(site in text for site in model.space.names)
    assert repr(case.read()) == text


def test_em_never_descends(case):
    for history in case.first.histories:
        history = np.asarray(history)[np.isfinite(history)]
        assert np.all(np.diff(history) >= -ROUNDING * np.abs(history[1:]) - ROUNDING)


def test_em_and_mle_agree(case):
    em, mle = case.maxima
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, rel=AGREE)


def test_gradient_is_zero_or_the_status_says_why_not(case):
    em = case.em
    assert em.status in ENDS, (em.status, em.status_note)
    if em.converged:
        with em.computing("gradient") as target:
            assert gain(case.model, target, em.vector) < NATS
    else:
        assert any(name in em.status_note for name in case.model.space.names)


def gain(model, target, vector):
    """The most that Newton's step promises along some random directions, nats: g²/2c by differences of
    log-likelihoods at the two sides, 1/200 of a standard deviation away. Free of the scales of parameters."""

    def at(point):
        params = target.constrained(point[None])
        return model.log_likelihood({k: np.asarray(v)[0] for k, v in params.items()})

    here, most, rng = at(vector), 0.0, np.random.default_rng(0)
    for _ in range(3):
        way = rng.choice([-1.0, 1.0], len(vector)) * rng.uniform(0.5, 1, len(vector)) * 1e-4
        for _ in range(4):  # to where the log-likelihood is some 1e-5 lower
            up, down = at(vector + way), at(vector - way)
            drop = here - (up + down) / 2
            if 1e-6 < drop < 1e-4:
                break
            way = way * np.clip(np.sqrt(1e-5 / max(drop, 1e-9)), 1e-3, 1e2)
        assert drop > 0
        most = max(most, (up - down) ** 2 / (16 * drop))
    return most


def test_published_values(case):
    published = case.shelf.published
    if not published:
        pytest.skip("no source prints a maximum-likelihood value of these data")
    em = case.em
    known = {"log_likelihood", *em.scalar_names}
    assert not set(published) - known, f"not among {sorted(known)}"
    table = pd.DataFrame(published, index=["value", "tolerance"]).T
    errors = [error(table, em, params) for params in labellings(em)]
    best = min(errors, key=lambda e: e.max())
    assert best.max() <= 1, best


def error(table, em, params):
    """How far parameters are from what is published, in tolerances."""
    scalars = np.concatenate([np.ravel(params[name]) for name in em.params])
    found = pd.Series(scalars, em.scalar_names, dtype=float)
    found["log_likelihood"] = em.log_likelihood
    return (found[table.index] - table["value"]).abs() / table["tolerance"]


def labellings(em):
    """The estimates with their exchangeable components in every order, and real latents with either sign."""
    found = [dict(em.params)]
    for group in em.groups:
        orders = possible_orders(group) or list(itertools.permutations(range(group.size)))
        found += [permute(p, group, o, em.model, p) for p, o in itertools.product(found, orders)]
    for turn in em.turns:
        if turn.size == 1:
            found += [turn(params, -np.eye(1)) for params in found]
    return found


def test_recovers_its_parameters(case):
    """Of data drawn from the program the maximum that is reached from the truth lies above it, by no more than a
    likelihood ratio does once in ten thousand times."""
    reason = case.exception("simulation")
    if reason:
        with pytest.raises(ValueError, match=reason):
            drawn_anew(case, case.truth)
        return
    if case.name in UNLIKE:
        pytest.skip(UNLIKE[case.name])
    for seed in range(1, DRAWS + 1):
        model = drawn_anew(case, case.truth, seed)
        fit = fit_em(model, init=case.truth, starts=1)
        if fit.status in ENDS:
            break
    within_bound(case, model, fit)


def test_truth_is_where_the_data_come_from(case):
    """The same of the file's own data, where they were simulated."""
    if not case.shelf.truth:
        pytest.skip("real data")
    assert set(case.shelf.truth) == set(case.model.space.names)
    within_bound(case, case.model, fit_em(case.model, init=case.truth, starts=1))


def within_bound(case, model, fit):
    at_truth = model.log_likelihood(case.truth)
    assert fit.status in ENDS, (fit.status, fit.status_note)
    assert fit.log_likelihood > at_truth
    bound = scipy.stats.chi2.ppf(LEVEL, case.em.n_parameters)
    assert 2 * (fit.log_likelihood - at_truth) < bound


def drawn_anew(case, truth, seed=1):
    """The model on data drawn from the program, in the same shape: nothing is compiled anew. One draw would not do for
    all the cases that a weight counts."""
    try:
        return case.model.redraw(truth, seed)
    except ValueError as refusal:
        if "case weights" not in str(refusal):
            raise
    return one_row_for_each_case(case).redraw(truth, seed)


def one_row_for_each_case(case):
    """The model on a row for each case that a weight counts."""
    weights = case.model.unit_weights()
    place = np.repeat(np.arange(len(weights)), weights.astype(int))

    def of_cases(value):
        if np.array_equal(value, weights):
            return np.ones(len(place))
        if len(weights) not in np.shape(value):
            return value
        axis = np.shape(value).index(len(weights))  # of the rows; of a panel the second one
        table = axis == 0 and hasattr(value, "iloc")
        return value.iloc[place] if table else np.take(value, place, axis)

    options = dict(case.shelf.options)
    if "observe" in options:
        options["observe"] = {k: of_cases(v) for k, v in options["observe"].items()}
    return Model(case.shelf.program, **{k: of_cases(v) for k, v in case.data.items()}, **options)


@pytest.mark.filterwarnings("ignore:parameters .* have no prior:UserWarning")
def test_nuts_runs(case):
    chains, draws = 2, 4
    nuts = fit_nuts(
        case.model, chains=chains, warmup=4, draws=draws, max_tree_depth=2, init=case.em.params,
    )  # fmt: skip
    for name, value in case.em.params.items():
        assert nuts.draws[name].shape == (chains, draws, *np.shape(value))
        assert np.all(np.isfinite(nuts.draws[name]))
        assert len(np.unique(nuts.draws[name].reshape(chains * draws, -1), axis=0)) > 1
    assert np.isfinite(nuts.log_likelihood)


def test_saved_and_loaded(case, tmp_path):
    em = case.em
    em.save(tmp_path / "fit.nc")
    back = load(tmp_path / "fit.nc", case.model)
    assert back.log_likelihood == em.log_likelihood and back.status == em.status
    for name, value in em.params.items():
        np.testing.assert_array_equal(back.params[name], value)
    pd.testing.assert_frame_equal(pd.DataFrame(back.summary()), pd.DataFrame(em.summary()))
