"""What importing loads, in a fresh process; and the modules that stand for those not yet loaded."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import pandas
import pytest

import pp_mlem
from pp_mlem.base.lazy import Lazy, pd
from pp_mlem.estimate.estimators import method_names
from pp_mlem.show import cli

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "arviz_base", "arviz_plots", "arviz_stats", "equinox", "matplotlib", "netCDF4", "optax",
    "optimistix", "pandas", "rich", "scipy.optimize", "scipy.stats", "sklearn", "typer", "xarray",
}  # fmt: skip


def fresh(code: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return done.stdout


def test_public_names_wait_for_jax_and_numpyro_only():
    """And a model describes itself all the same: `show` is loaded when a verb is first used."""
    lines = fresh(
        "import sys, pp_mlem; print('jax' in sys.modules)\n"
        "import numpyro; before = set(sys.modules)\n"
        "from pp_mlem import *\n"
        "print(*set(sys.modules) - before)\n"
        "def coin(x):\n"
        "    p = numpyro.sample('p', numpyro.distributions.Beta(1, 1))\n"
        "    numpyro.sample('x', numpyro.distributions.Bernoulli(p), obs=x)\n"
        "print(Model(coin, 1))"
    ).splitlines()
    loaded = lines[1].split()
    assert lines[0] == "False" and lines[2].startswith("Model of coin")
    assert "pp_mlem.model.model" in loaded and "pp_mlem.show.verbs" not in loaded
    assert not HEAVY & set(loaded)


def test_help_loads_no_jax():
    told = fresh(
        "import sys; from pp_mlem.show.cli import app; app(['--help'], standalone_mode=False)\n"
        "print('JAX' if 'jax' in sys.modules else 'none')"
    )
    assert "simulate-study" in told and told.split()[-1] == "none"


def test_help_names_every_method():
    assert f"of {', '.join(method_names())}." in Path(cli.__file__).read_text()


def test_every_public_name_is_there():
    assert set(pp_mlem.__all__) <= set(dir(pp_mlem))
    assert all(callable(getattr(pp_mlem, name)) for name in pp_mlem.__all__)
    with pytest.raises(AttributeError, match="'pp_mlem' has no attribute 'fit_all'"):
        pp_mlem.fit_all  # noqa: B018


# --- modules that are loaded at first use -----------------------------------------------------


@pytest.fixture
def unloaded(tmp_path, monkeypatch):
    """A module that nobody has loaded, with a constant made by JAX."""
    (tmp_path / "pp_mlem_slow.py").write_text(
        "import time, jax.numpy as jnp\nONE = jnp.ones(())\ntime.sleep(0.2)\n\nclass Thing: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield Lazy("pp_mlem_slow")
    sys.modules.pop("pp_mlem_slow", None)


def test_a_lazy_module_is_the_module():
    assert pd.DataFrame is pandas.DataFrame and isinstance(pandas.Series([1]), pd.Series)
    assert pickle.loads(pickle.dumps(pd)).DataFrame is pandas.DataFrame
    assert "read_csv" in dir(pd)
    with pytest.raises(AttributeError, match="pandas.*no attribute 'Frame'"):
        pd.Frame  # noqa: B018


def test_threads_load_it_once(unloaded):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        kinds = list(pool.map(lambda _: unloaded.Thing, range(8)))
    assert len(set(kinds)) == 1


def test_what_is_loaded_under_trace_outlives_it(unloaded):
    assert "pp_mlem_slow" not in sys.modules
    assert jax.jit(lambda x: x + unloaded.ONE)(1.0) == 2.0
    assert not isinstance(unloaded.ONE, jax.core.Tracer) and float(unloaded.ONE) == 1.0
