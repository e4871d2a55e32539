"""What a user may hand over: each kind of argument reaches the program as NumPyro would see it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.sparse
from scipy import stats

from pp_mlem import Model

rng = np.random.default_rng(0)
Y, X = rng.normal(size=12), rng.normal(size=12)
FRAME = pd.DataFrame(
    {"y": Y, "x": X, "count": np.arange(12, dtype="int32"), "name": list("aabbccddeeff")}
)
FRAME["group"] = np.arange(12) % 3
NEAR = {"a": 0.5, "s": 0.5}


def around(loc, y):
    """y_i ~ Normal(a + loc_i, s)."""
    a = numpyro.sample("a", dist.Normal(0, 1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a + loc, s), obs=y)


def log_density(loc, y=Y):
    return stats.norm.logpdf(y, 0.5 + np.asarray(loc), 0.5).sum()


# --- pandas: (program of a DataFrame, its known locations, whether columns stay traced) ------


def by_name(d):
    assert isinstance(d, pd.DataFrame) and len(d) == 12 and d["count"].dtype == "int32"
    around(jnp.asarray(d["x"].to_numpy()), d.y.values)


def two_columns(d):
    around(d[["x", "count"]].to_numpy() @ np.ones(2), jnp.array(d.y))


def standardised(d):
    around(jnp.asarray(((d.x - d.x.mean()) / d.x.std()).values), d["y"].values)


def by_category(d):
    codes = pd.Categorical(d.name).codes
    around(jnp.arange(6.0)[np.asarray(codes, int)], d["y"].values)


def by_numbered_category(d):
    codes = pd.Categorical(d.group).codes
    around(jnp.arange(d.group.nunique() + 0.0)[np.asarray(codes, int)], d["y"].values)


def grouped(d):
    around(0.0, jnp.asarray(d.groupby("name").y.mean().values))


def rows_chosen(d):
    around(0.0, d.loc[d.x > 0, "y"].to_numpy())


def column_added(d):
    d["twice"] = 2 * d.x
    around(jnp.asarray(d.twice.values), d["y"].values)


FRAMES = {
    "by name": (by_name, lambda d: log_density(d.x, d.y), True),
    "two columns": (two_columns, lambda d: log_density(d.x + d["count"], d.y), True),
    "standardised": (standardised, lambda d: log_density((d.x - d.x.mean()) / d.x.std(), d.y), True),
    "category": (by_category, lambda d: log_density(np.repeat(np.arange(6), 2), d.y), True),
    "numbered category": (by_numbered_category, lambda d: log_density(d.group, d.y), False),
    "grouped": (grouped, lambda d: log_density(0, d.groupby("name").y.mean()), False),
    "rows chosen": (rows_chosen, lambda d: log_density(0, d.y[d.x > 0]), False),
    "column added": (column_added, lambda d: log_density(2 * d.x, d.y), False),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FRAMES))
def test_a_dataframe_stays_one(name):
    program, expected, traced = FRAMES[name]
    before = FRAME.copy()
    model = Model(program, FRAME)
    assert model.log_likelihood(NEAR) == pytest.approx(expected(FRAME), abs=1e-8)
    other = FRAME.assign(y=FRAME.y + 1.0)
    again = model.with_data(d=other)
    assert again.log_likelihood(NEAR) == pytest.approx(expected(other), abs=1e-8)
    assert model.arguments.traced is traced
    pd.testing.assert_frame_equal(FRAME, before)


def test_other_names_of_a_dataframe_make_another_model():
    model = Model(by_category, FRAME)
    renamed = FRAME.assign(name=FRAME.name[::-1].to_numpy())
    expected = log_density(np.repeat(np.arange(5, -1, -1), 2))
    assert model.with_data(d=renamed).log_likelihood(NEAR) == pytest.approx(expected, abs=1e-8)


# --- everything else: (program, arguments, expected) -----------------------------------------


@dataclasses.dataclass
class Study:
    y: np.ndarray
    title: str
    groups: int = 2


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: list
    inner: Study


Pair = namedtuple("Pair", "y x")
KEY = jax.random.key(3)
with jax.enable_x64(True):
    NOISE = np.asarray(jax.random.normal(KEY, (12,)))


def plain(y):
    around(0.0, y)


def named_pair(pair):
    around(pair.x, pair.y)


def study(s):
    assert s.title == "trial" and s.groups == 2
    around(0.0, s.y)


def nested(s):
    around(jnp.asarray(s.inner.y), jnp.asarray(s.y))


def first_column_first(columns):
    """The order of a dictionary is the user's."""
    design = jnp.stack(list(columns.values()), 1)
    around(design @ jnp.array([1.0, 0.0]), Y)


def keyed_by_numbers(parts):
    around(parts[1], parts["y"])


def ragged(groups):
    around(0.0, jnp.concatenate([jnp.asarray(v) for v in groups]))


def appends(y, names, offsets):
    assert names == ["u", "v"] and len(offsets) == 3
    names.append("w")
    offsets.append(1.0)
    around(sum(offsets), y)


def noisy(y, key):
    around(jax.random.normal(key, (12,)), y)


def sparse(y, design):
    around(jnp.asarray(design.toarray().sum(1)), y)


def sized(y, shape):
    rows, columns = shape
    around(jnp.zeros((rows, columns)).sum(), y)


def days(y, t):
    around(jnp.asarray((t - t[0]) / np.timedelta64(1, "D")), y)


def modulus(y, w):
    around(jnp.abs(w), y)


def switched(y, options):
    around(options["shift"] if options["kind"] == "shift" else 0.0, y)


HALF = {"y": np.array([1.0, 3.0])}
KINDS = {
    "Series": (plain, (FRAME.y,), log_density(0)),
    "nullable integers": (
        plain, (pd.Series([1, None, 3], dtype="Int64"),), log_density(0, HALF["y"]),
    ),
    "objects that are numbers": (
        plain, (np.array([1, None, 3.0], object),), log_density(0, HALF["y"]),
    ),
    "masked array": (
        plain, (np.ma.masked_array([1.0, 999.0, 3.0], [0, 1, 0]),), log_density(0, HALF["y"]),
    ),
    "masked integers": (
        plain, (np.ma.masked_array([1, 999, 3], [0, 1, 0]),), log_density(0, HALF["y"]),
    ),
    "masked, nowhere": (plain, (np.ma.masked_array(Y),), log_density(0)),
    "list": (plain, (Y.tolist(),), log_density(0)),
    "tuple": (plain, (tuple(Y),), log_density(0)),
    "namedtuple": (named_pair, (Pair(Y, X),), log_density(X)),
    "dataclass": (study, (Study(Y, "trial"),), log_density(0)),
    "nested dataclass": (nested, (Frozen(Y.tolist(), Study(X, "trial")),), log_density(X)),
    "dictionary": (first_column_first, ({"z": X, "a": Y},), log_density(X)),
    "ordered dictionary": (first_column_first, (OrderedDict(z=X, a=Y),), log_density(X)),
    "keys of two types": (keyed_by_numbers, ({1: X, "y": Y},), log_density(X)),
    "ragged lists": (ragged, ([[1.0], [3.0, 2.0]],), log_density(0, np.array([1.0, 3.0, 2.0]))),
    "lists that are changed": (appends, (Y, ["u", "v"], [1.0, 2.0, 3.0]), log_density(7.0)),
    "random key": (noisy, (Y, KEY), log_density(NOISE)),
    "raw random key": (noisy, (Y, jax.random.key_data(KEY)), log_density(NOISE)),
    "sparse matrix": (sparse, (Y, scipy.sparse.csr_matrix(np.diag(X))), log_density(X)),
    "tuple of sizes": (sized, (Y, (2, 3)), log_density(0)),
    "dates": (days, (Y, np.datetime64("2020-01-01") + np.arange(12)), log_density(np.arange(12))),
    "complex": (modulus, (Y, X + 1j), log_density(np.abs(X + 1j))),
    "bool": (modulus, (Y, X > 0), log_density(X > 0)),
    "options": (switched, (Y, {"kind": "shift", "shift": 2.0}), log_density(2.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KINDS))
def test_an_argument_keeps_its_kind(name):
    program, arguments, expected = KINDS[name]
    model = Model(program, *arguments)
    for _ in range(2):
        assert model.log_likelihood(NEAR) == pytest.approx(expected, abs=1e-8)


def test_an_observation_of_shape_one_needs_no_plate():
    def program(y, loc):
        numpyro.sample("y", dist.Normal(numpyro.sample("a", dist.Normal(0, 1)) + loc, 0.5), obs=y)

    for y, loc in ((np.array([1.2]), 0.0), (1.2, np.zeros(1)), (np.full((1, 1), 1.2), 0.0)):
        model = Model(program, y, loc)
        assert model.log_likelihood({"a": 0.5}) == pytest.approx(log_density(0, 1.2), abs=1e-8)
        assert model.n_observations == 1


def test_integers_are_never_wrapped():
    with pytest.raises(ValueError, match=r"'y'.*4294967301.*\(0,\).*int32.*float64"):
        Model(plain, np.array([2**32 + 5, 3]), dtype="float32")
    large = np.array([2.0**32 + 5, 3.0])
    assert Model(plain, large.astype(int)).log_likelihood(NEAR) == pytest.approx(
        log_density(0, large)
    )


# --- long data beside numbers of rows ------------------------------------------------------------

LONG = np.random.default_rng(5).normal(size=6001)


def rows_by_number(x, n):
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def rows_of_its_own(x, n):
    rows_by_number(x, len(LONG))


def one_more(x, n):
    """The row before, from an array that is one longer."""
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("rows", n - 1):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z] + 0.5 * x[:-1], 1.0), obs=x[1:])


def value_for_each_row(x, n):
    """A number that is as large as the data are long, and is none of their rows."""
    mu = numpyro.sample("mu", dist.Normal(0, 10).expand([n]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@pytest.mark.parametrize("program", [rows_by_number, rows_of_its_own, one_more, value_for_each_row])
def test_long_data_beside_a_number_of_rows(program):
    n = len(LONG)
    model = Model(program, LONG, n)
    mu = np.array([-0.5, 1.0]) if program is not value_for_each_row else np.arange(n) / n
    mean = 0.5 * LONG[:-1] if program is one_more else 0.0
    seen = LONG[1:] if program is one_more else LONG
    parts = [
        np.log(w) - 0.5 * (seen - m - mean) ** 2 - 0.5 * np.log(2 * np.pi)
        for w, m in zip([0.7, 0.3], mu[:2], strict=True)
    ]
    expected = np.logaddexp(*parts).sum()
    assert model.log_likelihood({"mu": mu}) == pytest.approx(expected, rel=1e-10)
    assert model.n_observations == len(seen)
