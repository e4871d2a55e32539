"""What is asked of every row of long data, some rows at a time: the answer is in memory once, and little beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values

ROWS = 2**17

Question = Callable[
    [Marginal, Values, ProgramData], Any
]  # -> arrays with the rows first. Traceable


def answered(bound: Bound, question: Question, params: Values) -> Any:
    """The answer for all rows, on the host; in one piece where the rows hang together, or are few."""
    marginal, data = bound.marginal, bound.data.by_rows
    rows = marginal.rows
    if rows.size <= 2 * ROWS or rows.blocks(data) == 1:
        return jax.tree.map(np.array, bound.compiled(question)(params, data))
    run, found = bound.compiled(_of_some, question), None
    for start in range(0, rows.size, ROWS):
        first = min(start, rows.size - ROWS)
        part = jax.tree.map(np.asarray, run(params, data, first))
        if found is None:
            found = jax.tree.map(lambda a: np.empty((rows.size, *a.shape[1:]), a.dtype), part)
        for whole, own in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
            whole[first : first + ROWS] = own
    return found


def _of_some(
    marginal: Marginal, question: Question, params: Values, data: ProgramData, first: jax.Array
) -> Any:
    """The answer for ROWS rows from `first` on. Traceable."""

    def cut(array: Any, axis: int) -> Any:
        return jax.lax.dynamic_slice_in_dim(array, first, ROWS, axis)

    some = replace(data, **marginal.rows.parts_of(data, cut, jnp.ones(ROWS)))
    sizes = {**marginal.layout.sizes, marginal.rows.plate: ROWS}
    return question(replace(marginal, layout=replace(marginal.layout, sizes=sizes)), params, some)
