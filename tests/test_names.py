"""Dims and coords: from plates, from pandas arguments, from labels, and as the user names them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from pp_mlem import Model, compare, fit_mle, load
from pp_mlem.program.space import scalar_names

RNG = np.random.default_rng(0)
COLUMNS = ["age", "educ", "inc"]
FRAME = pd.DataFrame(RNG.normal(size=(40, 3)), columns=COLUMNS)
Y = pd.Series(FRAME @ [1.0, 2.0, 3.0] + RNG.normal(size=40), name="y")
SCHOOLS = pd.Categorical(RNG.choice(["north", "south"], 40), ["north", "south"])
WHOLE = FRAME.assign(y=Y, school=SCHOOLS)


def normal(name, size):
    return numpyro.sample(name, dist.Normal(0, 10).expand([size]).to_event(1))


def observed(mean, y, sd=1.0):
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


def regression(X, y):
    observed(jnp.asarray(X) @ normal("b", X.shape[1]), jnp.asarray(y))


def of_a_frame(X, y):
    observed(X.values @ normal("b", 3), y.values)


def of_two_columns(data):
    b, c = normal("b", 2), normal("c", 1)
    mean = data[["inc", "age"]].values @ b + c[0] * data["educ"].values ** 2
    observed(mean, data["y"].values)


def mean_and_scale(X, y):
    """Both run along the same columns: neither alone answers for them."""
    observed(X.values @ normal("b", 3), y.values, jnp.exp(0.1 * (X.values @ normal("g", 3))))


def factors(X):
    """Plates and events over the columns."""
    with numpyro.plate("items", X.shape[1]):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
    scale = numpyro.sample("scale", dist.HalfNormal(jnp.ones(X.shape[1])).to_event(1))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("x", dist.Normal(mu, scale).to_event(1), obs=X.values)


def schools(data):
    a, tau = normal("a", 2), numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("school", 2):
        u = numpyro.sample("u", dist.Normal(0, tau))
    code = data["school"].cat.codes.values
    observed(a[code] + u[code] + data["age"].values, data["y"].values)


def of_codes(group, y):
    observed(normal("a", 2)[group.cat.codes.values], y.values)


def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def unused_columns(X, y):
    """Nothing runs along them: three entries are three entries."""
    observed(X["age"].values * normal("b", 3).sum(), y.values)


WORDS = np.where(np.arange(40) < 8, "low", np.where(np.arange(40) < 20, "up", None))

FOUND = {
    "frame": (of_a_frame, (FRAME, Y), {}, ["b[age]", "b[educ]", "b[inc]"]),
    "columns of a larger frame": (of_two_columns, (WHOLE,), {}, ["b[inc]", "b[age]", "c[0]"]),
    "two axes": (mean_and_scale, (FRAME, Y), {}, [f"{n}[{c}]" for n in "bg" for c in COLUMNS]),
    "plates of columns": (
        factors, (FRAME,), {}, [f"{n}[{c}]" for n in ("mu", "scale") for c in COLUMNS],
    ),
    "categories": (schools, (WHOLE,), {}, ["a[north]", "a[south]", "tau"]),
    "a series of categories": (of_codes, (pd.Series(SCHOOLS), Y), {}, ["a[north]", "a[south]"]),
    "nothing runs along them": (unused_columns, (FRAME, Y), {}, ["b[0]", "b[1]", "b[2]"]),
    "words for labels": (
        mixture, (Y.to_numpy(),), {"observe": {"z": WORDS}},
        ["w[low]", "w[up]", "mu[low]", "mu[up]"],
    ),
    "values of a latent": (
        mixture, (Y.to_numpy(),), {"coords": {"z": ["a", "b"]}}, ["w[a]", "w[b]", "mu[a]", "mu[b]"],
    ),
    "a plate": (
        mixture, (Y.to_numpy(),), {"coords": {"components": ["a", "b,c"]}},
        ["w[0]", "w[1]", "mu[a]", "mu['b,c']"],
    ),
    "dims": (
        regression, (FRAME.to_numpy(), Y.to_numpy()),
        {"dims": {"b": "covariate"}, "coords": {"covariate": COLUMNS}},
        ["b[age]", "b[educ]", "b[inc]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_scalars_are_named(case):
    program, data, options, expected = FOUND[case]
    model = Model(program, *data, **options)
    assert list(scalar_names(model.space)) == expected
    again = Model(program, *data, **options)
    assert again.reading.names == model.reading.names


def test_names_reach_tables_trees_files_and_other_data(tmp_path):
    model = Model(of_a_frame, FRAME, Y, dims={"b": "covariate"})
    fit = fit_mle(model, starts=1)
    assert list(fit.summary().index) == ["b[age]", "b[educ]", "b[inc]"]
    posterior = fit.to_datatree()["posterior"]
    assert posterior["b"].dims == ("chain", "draw", "covariate")
    assert list(posterior["covariate"].values) == COLUMNS
    held = load(fit.save(tmp_path / "fit.nc"))
    assert list(held.covariance().columns) == ["b[age]", "b[educ]", "b[inc]"]
    assert list(held.to_datatree()["posterior"]["covariate"].values) == COLUMNS
    same = model.with_data(X=FRAME * 2)
    assert scalar_names(same.space) == scalar_names(model.space)
    other = model.with_data(X=FRAME.rename(columns={"inc": "wealth"}))
    assert scalar_names(other.space)[-1] == "b[wealth]"


def test_designs_are_lined_up_by_name():
    """The first column of one is the last of the other."""
    first = fit_mle(Model(of_a_frame, FRAME, Y), starts=1)
    second = fit_mle(Model(of_a_frame, FRAME[COLUMNS[::-1]], Y), starts=1)
    table = compare({"first": first, "second": second}).estimates
    np.testing.assert_allclose(table["first", "estimate"], table["second", "estimate"], rtol=1e-6)


def test_sizes_that_differ_without_names_are_told():
    wide, narrow = FRAME.to_numpy(), FRAME.to_numpy()[:, 1:]
    fits = {
        n: fit_mle(Model(regression, x, Y.to_numpy()), starts=1)
        for n, x in [("w", wide), ("n", narrow)]
    }
    told = [w for w in compare(fits).warnings if "by position" in w]
    assert len(told) == 1 and "'b'" in told[0] and "dims=" in told[0]


def test_rows_of_a_frame_name_its_units():
    model = Model(of_a_frame, FRAME.set_axis([f"p{i}" for i in range(40)]), Y)
    assert model.reading.names.coords["rows"][:2] == ("p0", "p1")


WRONG = {
    "no such site": ({"dims": {"c": "d"}}, r"dims: 'c' is no parameter with entries.*'b'"),
    "too many names": (
        {"dims": {"b": ["d", "e"]}},
        r"shape \(3,\) and received 2 names, expected 1",
    ),
    "no such dim": ({"coords": {"d": ["x"]}}, r"no dim 'd'; its dims are \['b_dim_0', 'rows'\]"),
    "too few labels": ({"coords": {"b_dim_0": ["x"]}}, "'b_dim_0' has 3 entries and received 1"),
    "twice": ({"coords": {"b_dim_0": ["x", "x", "y"]}}, "the label 'x' more than once"),
    "of another size": ({"dims": {"b": "rows"}}, "'rows' has 40 entries elsewhere and 3 in 'b'"),
    "no mapping": ({"coords": ["x"]}, "coords: received list, expected a dict"),
    "no labels": ({"coords": {"b_dim_0": "xyz"}}, "'b_dim_0' received 'xyz', expected a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_names_are_refused(case):
    options, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        Model(regression, FRAME.to_numpy(), Y.to_numpy(), **options)
