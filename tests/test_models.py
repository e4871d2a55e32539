"""What single models of the shelf promise beyond the table of tests/test_shelf.py."""

from __future__ import annotations

import numpy as np
import pytest

from pp_mlem import Model, fit_em, fit_map
from pp_mlem.show.catalogue import find_model, shelf_folder


def build(name, **options):
    shelf = find_model(name)
    return Model(shelf.program, **shelf.data(), **shelf.options, **options)


def test_normal_is_the_sample():
    model = build("normal")
    x = model.arguments.dynamic[0]
    fit = fit_em(model)
    np.testing.assert_allclose([fit.params["mu"], fit.params["sigma"]], [x.mean(), x.std()])
    errors = fit.standard_errors()
    assert errors["mu"] == pytest.approx(x.std() / np.sqrt(len(x)), rel=1e-8)
    assert errors["sigma"] == pytest.approx(x.std() / np.sqrt(2 * len(x)), rel=1e-8)


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
