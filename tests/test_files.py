"""Saved fits: names, checksums, formats, other models, full disks, and what is left out."""

from __future__ import annotations

import dataclasses
import json
import pickle
import resource
from pathlib import Path

import jax.numpy as jnp
import netCDF4
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

from pp_mlem import DrawsFit, Fit, Model, PointFit, compare, fit_mle, fit_nuts, load
from pp_mlem.base.files import FOOTER, write_netcdf, write_whole
from pp_mlem.base.variables import variable_names
from pp_mlem.fit import datatree as datatree_module
from pp_mlem.fit.datatree import FORMAT, kept_draws

X = np.random.default_rng(0).normal(3.0, 1.5, 40)


def normal(x, scale=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, scale), obs=x)


def normal_of(centre):
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(centre, 10))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return program


@pytest.fixture(scope="module")
def fit():
    return fit_mle(Model(normal, X), starts=1, progress=False)


@pytest.fixture(scope="module")
def saved(fit, tmp_path_factory):
    return fit.save(tmp_path_factory.mktemp("saved") / "fit.nc")


def same_fit(a, b) -> bool:
    return (
        a.log_likelihood == b.log_likelihood
        and all(np.array_equal(a.params[k], b.params[k]) for k in a.params)
        and np.array_equal(a.covariance().to_numpy(), b.covariance().to_numpy())
        and a.status == b.status
    )


def test_a_saved_fit_is_the_same_fit_and_any_reader_opens_it(fit, saved):
    assert same_fit(load(saved), fit) and same_fit(load(saved, fit.model), fit)
    with xr.open_datatree(saved, engine="netcdf4") as tree:
        assert "posterior" in tree.children and "log_likelihood" not in tree.children
        assert "not asked for" in tree.attrs["log_likelihood"]
    assert not list(saved.parent.glob("*.part"))


def test_both_kinds_of_fit_are_saved_by_their_fields(fit, saved, tmp_path):
    nuts = fit_nuts(fit.model, chains=2, warmup=20, draws=20, progress=False)
    path = nuts.save(tmp_path / "nuts.nc")
    for own, file, kind in ((fit, saved, PointFit), (nuts, path, DrawsFit)):
        found = load(file)
        assert isinstance(own, Fit) and type(own) is type(found) is kind
        assert own.has_draws is (own.draws is not None) is (kind is DrawsFit)
        assert found.status == own.status and found.outcome is own.outcome
        assert found.summary().equals(own.summary()) and found.story == own.story
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.params = {}
    assert np.array_equal(load(path).draw_vectors, nuts.draw_vectors)
    assert np.isnan(nuts.icl) and load(saved).icl == fit.icl
    with pytest.raises(ValueError, match="posterior draws instead"):
        nuts.optima  # noqa: B018
    with pytest.raises(ValueError, match="point estimate and has no draws"):
        fit.draw_table()


def test_a_record_says_what_every_version_reads(saved):
    with xr.open_datatree(saved, engine="netcdf4") as tree:
        node = tree["pp_mlem_fit"]
        record, arrays = json.loads(node.attrs["record"]), json.loads(node.attrs["arrays"])
    assert set(record) == {
        "classification", "compile_seconds", "diagnostics", "fingerprint", "groups", "iterations",
        "log_likelihood", "log_prior", "method", "n_observations", "n_parameters", "names",
        "objective", "reasons", "scalar_names", "seconds", "seed", "slope", "starts", "status",
        "status_note", "value",
    }  # fmt: skip
    assert set(arrays) == {
        "bounds", "covariance", "covariance_free", "history", "param.mu", "start_scalars", "vector",
    }  # fmt: skip


def test_a_fit_without_free_parameters_is_saved(tmp_path):
    fit = fit_mle(Model(normal, X), fixed={"mu": 3.0})
    found = load(fit.save(tmp_path / "fixed.nc"))
    assert found.params["mu"] == 3.0 and found.summary().empty and found.icl == fit.icl


NAMES = ["a/b", "a.b", "a_b", "a%2Fb", "chain", "draw", " mu", "μ", "u\u0308", "mu_dim_0", "mu",
         "x y", "z[0]", "-q", "__w", "n" * 300]  # fmt: skip


def test_every_name_of_a_site_is_kept(tmp_path):
    def program(x):
        total = 0.0
        for name in NAMES:
            shape = (2,) if name in ("mu", "a/b") else ()
            prior = dist.Normal(0, 1).expand(shape).to_event(len(shape))
            total = total + jnp.sum(numpyro.sample(name, prior))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x/y", dist.Normal(total, 1.0), obs=x)

    model = Model(program, X)
    fit = fit_nuts(model, chains=1, warmup=10, draws=12, progress=False)
    found = load(fit.save(tmp_path / "names.nc"), model)
    assert set(found.params) == set(NAMES)
    for name in NAMES:
        assert np.array_equal(found.params[name], fit.params[name])
        assert np.array_equal(found.draws[name], fit.draws[name])
    with xr.open_datatree(tmp_path / "names.nc", engine="netcdf4") as tree:
        assert tree["posterior"]["a%2Fb"].attrs["site"] == "a/b"


def test_variable_names_differ():
    assert len(set(variable_names(NAMES).values())) == len(NAMES)


# --- damage ---------------------------------------------------------------------------------


def refused(path, model=None) -> str:
    """The message by which a file is refused; a raw error or a silent load fails the test."""
    with pytest.raises(ValueError) as caught:
        load(path, model)
    assert "load:" in str(caught.value)
    return str(caught.value)


def test_no_flipped_bit_loads(saved, tmp_path):
    whole = saved.read_bytes()
    rng = np.random.default_rng(1)
    places = [*rng.integers(0, len(whole), 80), *range(len(whole) - FOOTER, len(whole), 7)]
    for place in places:
        bad = bytearray(whole)
        bad[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "bad.nc"
        path.write_bytes(bad)
        refused(path)


def test_cut_and_foreign_files_are_refused(saved, tmp_path):
    whole, path = saved.read_bytes(), tmp_path / "bad.nc"
    for content in (b"", b"text", whole[:-1], whole[:-FOOTER], whole[: len(whole) // 2],
                    whole[:100], whole + b"x", whole[FOOTER:], bytes(5000), b"CDF\x01" + bytes(40),
                    pickle.dumps([1])):  # fmt: skip
        path.write_bytes(content)
        refused(path)
    refused(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.nc")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(path)
    assert "no pp_mlem fit" in refused(path)


def rewritten(saved: Path, path: Path, change) -> Path:
    """A file with a sound checksum whose contents were changed."""
    with xr.open_datatree(saved, engine="netcdf4") as opened:
        tree = opened.load()
    node = tree["pp_mlem_fit"]
    record = json.loads(node.attrs["record"])
    data = node.to_dataset()
    data = change(record, data) or data
    if "record" in data.attrs:
        data.attrs["record"] = record if isinstance(record, str) else json.dumps(record)
    tree["pp_mlem_fit"] = xr.DataTree(data)
    return write_netcdf(path, tree, "save")


def without(name):
    return lambda record, data: record.pop(name) and None


def setting(name, value):
    return lambda record, data: record.update({name: value})


CHANGES = {
    **{f"no {n}": without(n) for n in ("names", "groups", "starts", "scalar_names", "method")},
    **{f"{n} is text": setting(n, "1") for n in ("log_likelihood", "iterations", "n_parameters")},
    "names is a number": setting("names", 3),
    "another name": setting("names", ["nu"]),
    "groups of numbers": setting("groups", [1]),
    "scalars twice": setting("scalar_names", ["mu", "mu"]),
    "starts ragged": setting("starts", {"a": [1], "b": []}),
    "diagnostics is a list": setting("diagnostics", []),
    "array missing": lambda r, d: d.drop_vars("array_1"),
    "array of text": lambda r, d: d.assign(array_0=("s", np.array(["a", "b"]))),
    "array reshaped": lambda r, d: d.assign(array_0=("s", np.zeros(3))),
    "no record": lambda r, d: d.attrs.pop("record") and None,
    "no format": lambda r, d: d.attrs.pop("format") and None,
    "format of text": lambda r, d: d.attrs.update(format="new"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_of_another_kind_is_refused(name, saved, tmp_path):
    refused(rewritten(saved, tmp_path / "bad.nc", CHANGES[name]))


def test_a_newer_format_is_told(saved, tmp_path):
    newer = rewritten(saved, tmp_path / "a.nc", lambda r, d: d.attrs.update(format=FORMAT + 1))
    assert "newer" in refused(newer)
    other = tmp_path / "b.nc"
    other.write_bytes(saved.read_bytes())
    with netCDF4.Dataset(other, "a") as opened:
        opened["pp_mlem_fit"].setncattr("format", FORMAT + 1)
    assert "newer" in refused(other)


def test_a_file_changed_by_another_program_is_told(saved, tmp_path):
    other = tmp_path / "changed.nc"
    other.write_bytes(saved.read_bytes())
    with netCDF4.Dataset(other, "a") as opened:
        opened["posterior"]["mu"][:] = 0.0
    assert "checksum" in refused(other)


def test_an_older_file_is_told_and_checked_against_the_model(fit, saved, tmp_path):
    def older(record, data):
        record.pop("fingerprint")
        names = json.loads(data.attrs.pop("arrays"))
        data.attrs["format"] = 1
        return data.rename({v: k for k, v in names.items()})

    path = rewritten(saved, tmp_path / "old.nc", older)
    path.write_bytes(path.read_bytes()[:-FOOTER])
    with pytest.warns(UserWarning, match="without a checksum"):
        found = load(path, fit.model)
    assert same_fit(found, fit)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="log-likelihood"):
        load(path, Model(normal, X + 1.0))


def test_nothing_of_a_file_is_evaluated(saved, tmp_path, monkeypatch):
    """Text in every field stays text: no name of it reaches eval, exec or pickle."""
    for target in ("builtins.eval", "builtins.exec", "pickle.loads", "pickle.load"):
        monkeypatch.setattr(target, lambda *a, **k: pytest.fail("evaluated"))
    evil = "__import__('os').system('exit')"
    path = rewritten(saved, tmp_path / "evil.nc", lambda r, d: r.update(
        method=evil, status_note=evil, diagnostics={"story": evil}, reasons={"mu": evil}))  # fmt: skip
    monkeypatch.undo()
    assert load(path).method == evil


# --- the wrong model ------------------------------------------------------------------------


def test_another_model_is_refused_with_what_differs(saved, fit, tmp_path):
    assert "other data" in refused(saved, Model(normal, X + 1))
    assert "other data" in refused(saved, Model(normal, X[:-1]))
    assert "arguments" in refused(saved, Model(normal, X, scale=2))
    assert "another program" in refused(saved, Model(normal_of(0.0), X))
    with pytest.raises(TypeError, match="expected the Model"):
        load(saved, normal)
    model = Model(normal_of(0.0), X)
    own = fit_mle(model, starts=1, progress=False).save(tmp_path / "own.nc")
    load(own, Model(normal_of(0.0), X))
    assert "closure" in refused(own, Model(normal_of(1.0), X))


def test_compare_tells_saved_fits_of_other_data(saved, tmp_path):
    other = fit_mle(Model(normal, X * 2.0), starts=1, progress=False).save(tmp_path / "o.nc")
    found = compare({"a": load(saved), "b": load(other)})
    assert "different data" in found.warnings[0]


# --- disks ----------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_leaves_the_old_file(fit, saved, tmp_path):
    path = tmp_path / "fit.nc"
    path.write_bytes(saved.read_bytes())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"fit\.nc could not be written.*intact") as caught:
            fit.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "MB are free" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]
    assert same_fit(load(path), fit)


def test_a_folder_that_is_a_file_is_told(fit, tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        fit.save(tmp_path / "folder" / "fit.nc")
    with pytest.raises(OSError, match="folder"):
        fit.save(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "a.json.999999999-1.part").write_text("half")
    write_whole(tmp_path / "a.json", lambda part: part.write_text("{}"), "save")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# --- size -----------------------------------------------------------------------------------


def test_pointwise_values_are_bounded_and_their_absence_is_told(monkeypatch, tmp_path):
    model = Model(normal, X)
    monkeypatch.setattr(datatree_module, "POINTWISE_CELLS", 50 * len(X))
    fit = fit_mle(model, starts=1, progress=False)
    tree = fit.to_datatree()
    assert "log_likelihood_asymptotic" not in tree.children
    assert "left out" in tree.attrs["log_likelihood"]
    found = load(fit.save(tmp_path / "big.nc"))
    told = compare({"MLE": found})
    assert any("left out" in w for w in told.warnings)
    monkeypatch.setattr(datatree_module, "POINTWISE_CELLS", 250 * len(X))
    nuts = fit_nuts(model, chains=2, warmup=100, draws=300, progress=False)
    tree = nuts.to_datatree()
    assert tree["posterior"].sizes["draw"] == 300 and tree["log_likelihood"].sizes["draw"] == 100
    assert "every 3th" in tree.attrs["log_likelihood"]
    assert np.isfinite(compare({"NUTS": nuts}).scores["elpd_loo"]).all()


def test_kept_draws():
    assert len(kept_draws(4, 1000, 100)) == 1000
    assert kept_draws(1, 100, 2_000_000) is None
    assert len(kept_draws(4, 1000, 20_000)) * 4 * 20_000 <= datatree_module.POINTWISE_CELLS
