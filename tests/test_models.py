"""Every shipped model runs, and reaches its published value by EM and by MLE alike."""

from __future__ import annotations

import numpy as np
import pytest

from pp_mlem import Model, fit_em, fit_map, fit_mle
from pp_mlem.show.catalogue import find_model, first_line, model_names, shelf_folder

PUBLISHED = {  # log-likelihood at the maximum, and its tolerance
    "linear_regression": (-109.6174, 6e-5),
    "logistic_regression": (-12.8896334653335, 2e-6),
    "poisson_mixture": (-1989.946, 5e-4),
    "latent_class": (-504.4677, 1e-4),
    "gaussian_mixture": (-214.355, 6e-4),
    "linkage": (-205.7158870, 1e-6),
    "earthquakes": (-341.8787, 2e-4),
    "random_effects": (-163.66352994, 1e-7),
    "probabilistic_pca": (-404.96278016, 1e-7),
    "meta_analysis": (-13.0731, 1e-3),
}


def build(name, **options):
    shelf = find_model(name)
    return Model(shelf.program, **shelf.data(), **shelf.options, **options)


def test_every_model_is_documented():
    for name in model_names():
        assert first_line(shelf_folder() / f"{name}.py").endswith((".", ":", ")", "?")), name


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize("fit", [fit_em, fit_mle])
def test_published_value(name, fit):
    value, tolerance = PUBLISHED[name]
    found = fit(build(name), seed=0)
    assert found.log_likelihood == pytest.approx(value, abs=tolerance)
    assert found.converged or found.status == "boundary"


def test_normal_is_the_sample():
    model = build("normal")
    x = model.arguments.dynamic[0]
    fit = fit_em(model)
    np.testing.assert_allclose([fit.params["mu"], fit.params["sigma"]], [x.mean(), x.std()])
    errors = fit.standard_errors()
    assert errors["mu"] == pytest.approx(x.std() / np.sqrt(len(x)), rel=1e-8)
    assert errors["sigma"] == pytest.approx(x.std() / np.sqrt(2 * len(x)), rel=1e-8)


def test_longley_against_nist():
    fit = fit_em(build("linear_regression"))
    certified = [
        15.0618722713733, -0.0358191792925910, -2.02022980381683, -1.03322686717359,
        -0.0511041056535807, 1829.15146461355, -3482258.63459582,
    ]  # fmt: skip
    np.testing.assert_allclose(fit.params["beta"], certified, rtol=1e-6)
    assert fit.params["sigma"] ** 2 == pytest.approx(836424.055505915 / 16, rel=1e-9)


def test_poisson_mixture_standard_errors():
    errors = fit_em(build("poisson_mixture")).standard_errors()
    np.testing.assert_allclose(
        errors[["w[0]", "rate[0]", "rate[1]"]], [0.1946797, 0.3500305, 0.2504706], atol=6e-5
    )


def test_naive_bayes_labels_known_hidden_and_partly_known():
    shelf = find_model("naive_bayes")
    truth = np.random.default_rng(0).integers(3, size=120)
    data = shelf.data()
    known = fit_em(Model(shelf.program, **data, observe={"z": truth}), objective="map")
    counts = data["x"][truth == 1].sum(0) + 0.5
    np.testing.assert_allclose(known.params["phi"][1], counts / counts.sum(), rtol=1e-7)
    hidden = fit_em(Model(shelf.program, **data), starts=10, objective="map")
    agreement = max(
        np.mean(np.array(order)[hidden.decode()["z"]] == truth)
        for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    )
    assert agreement > 0.97
    some = np.where(np.arange(120) < 12, truth, -1)
    partly = fit_em(Model(shelf.program, **data, observe={"z": some}), starts=3, objective="map")
    assert np.mean(partly.decode()["z"] == truth) > 0.97


def test_mixture_of_regressions_recovers_the_curves():
    fit = fit_em(build("mixture_of_regressions"), starts=10)
    order = np.argsort(fit.params["beta"][:, 0])
    np.testing.assert_allclose(fit.params["beta"][order[0]], [0, 5, 0], atol=2.5)
    np.testing.assert_allclose(fit.params["beta"][order[1]], [15, 10, -1], atol=3)
    assert fit.converged


def test_topics_recovers_the_themes():
    shelf = find_model("topics")
    fit = fit_map(Model(shelf.program, **shelf.data()), starts=2, max_iter=200)
    theirs = np.kron(np.eye(3), np.ones(12))  # words of each theme
    share = fit.params["phi"][:, :36] @ theirs.T
    assert sorted(share.argmax(1).tolist()) == [0, 1, 2] and share.max(1).min() > 0.7


def test_segmentation_of_the_synthetic_image():
    import importlib.util

    path = shelf_folder() / "image_segmentation.py"
    spec = importlib.util.spec_from_file_location("segmentation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments, truth = module.synthetic(noise=0.08)
    fit = fit_em(Model(module.model, **arguments), starts=2)
    found = fit.decode()["z"]
    assert np.mean(found == truth) > 0.98 and fit.converged


@pytest.mark.parametrize(
    "name",
    [
        "gaussian_hmm",
        pytest.param("categorical_hmm", marks=pytest.mark.slow),
        pytest.param("markov_switching", marks=pytest.mark.slow),
        pytest.param("factorial_hmm", marks=pytest.mark.slow),
        pytest.param("mixture_of_chains", marks=pytest.mark.slow),
    ],
)
def test_em_and_mle_agree_on_chains(name):
    model = build(name)
    em, mle = fit_em(model, starts=10), fit_mle(model, starts=10)
    if em.log_likelihood < mle.log_likelihood:  # each has its luck with the starts
        em = fit_em(model, init=mle.params)
    else:
        mle = fit_mle(model, init=em.params)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-5)
    assert em.slope <= 1e-6 or em.status == "boundary"
