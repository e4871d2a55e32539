"""Libraries that are loaded where they are first used: importing pp_mlem waits for JAX and NumPyro only.

Tables, pictures, files, scores and tests each need a library that takes longer to load than all of
pp_mlem. A file takes it from here, `from pp_mlem.base.lazy import pd`, and uses it as if imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = [
    "Lazy", "arviz_base", "arviz_stats", "arviz_stats_base", "optx", "pa", "pa_compute", "pa_csv",
    "pa_dataset", "pa_fs", "pa_ipc", "pa_parquet", "pd", "rich_console", "rich_progress",
    "scipy_optimize", "scipy_cluster", "scipy_stats", "xr",
]  # fmt: skip


class Lazy(ModuleType):
    """Stands for a module, which is loaded when an attribute is first asked for.

    The module itself is found anew each time, so that threads, pickles and a test that puts
    something in its place see the one that Python has.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_loaded(self.__name__), name)

    def __dir__(self) -> list[str]:
        return dir(_loaded(self.__name__))

    def __reduce__(self) -> tuple:
        return Lazy, (self.__name__,)


def _loaded(name: str) -> ModuleType:
    if name in sys.modules:
        return importlib.import_module(name)  # waits for a thread that is loading it
    jax = sys.modules.get("jax")
    # Under trace a library's constants would become tracers that outlive it.
    with jax.ensure_compile_time_eval() if jax else contextlib.nullcontext():
        return importlib.import_module(name)


if TYPE_CHECKING:
    import arviz_base
    import arviz_stats
    import arviz_stats.base as arviz_stats_base
    import optimistix as optx
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pa_compute
    import pyarrow.csv as pa_csv
    import pyarrow.dataset as pa_dataset
    import pyarrow.fs as pa_fs
    import pyarrow.ipc as pa_ipc
    import pyarrow.parquet as pa_parquet
    import rich.console as rich_console
    import rich.progress as rich_progress
    import scipy.cluster.vq as scipy_cluster
    import scipy.optimize as scipy_optimize
    import scipy.stats as scipy_stats
    import xarray as xr
else:
    arviz_base = Lazy("arviz_base")
    arviz_stats = Lazy("arviz_stats")
    arviz_stats_base = Lazy("arviz_stats.base")
    optx = Lazy("optimistix")
    pa = Lazy("pyarrow")
    pa_compute = Lazy("pyarrow.compute")
    pa_csv = Lazy("pyarrow.csv")
    pa_dataset = Lazy("pyarrow.dataset")
    pa_fs = Lazy("pyarrow.fs")
    pa_ipc = Lazy("pyarrow.ipc")
    pa_parquet = Lazy("pyarrow.parquet")
    pd = Lazy("pandas")
    rich_console = Lazy("rich.console")
    rich_progress = Lazy("rich.progress")
    scipy_optimize = Lazy("scipy.optimize")
    scipy_cluster = Lazy("scipy.cluster.vq")
    scipy_stats = Lazy("scipy.stats")
    xr = Lazy("xarray")
