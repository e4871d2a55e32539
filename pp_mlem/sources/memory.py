"""Tables in memory of any kind: arrays by name, a data frame, Arrow's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pp_mlem.base.lazy import pa, pd
from pp_mlem.sources.arrays import Arrays
from pp_mlem.sources.tables import Table


def is_frame(what: Any) -> bool:
    return "pandas" in sys.modules and isinstance(what, pd.DataFrame)


def is_table(what: Any) -> bool:
    return "pyarrow" in sys.modules and isinstance(what, (pa.Table, pa.RecordBatch))


def memory_part(what: Any, name: str = "") -> Arrays | Table | None:
    """The table as a part of a source; None for what is no table."""
    if is_table(what):
        return Table.of(what, name)
    if is_frame(what):
        return Arrays.of_frame(what, name)
    return Arrays.of(what, name) if isinstance(what, Mapping) else None
