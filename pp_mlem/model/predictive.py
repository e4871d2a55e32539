"""What a program predicts of its observed sites: draws, and the moments of their laws averaged over the
latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pp_mlem.base.compiling import quick_jit
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.draw import predicting_function

BLOCK = 2e6  # numbers drawn together


@dataclass(frozen=True)
class Predicted:
    """The predictive distribution of one observed site, marginal over the latents.

    Attributes:
        mean, sd: (*shape). Averages of the moments of the site's law over draws of the latents, exact where it
            has no latents; of a law without moments in closed form those of the draws.
        draws: (draws, *shape).
    """

    mean: np.ndarray
    sd: np.ndarray
    draws: np.ndarray

    def quantile(self, q: ArrayLike) -> np.ndarray:
        """Quantiles of the draws, (*np.shape(q), *shape)."""
        levels = np.asarray(q, float)
        if np.any(~(levels >= 0) | (levels > 1)):
            raise ValueError(f"q: received {levels}, expected levels between 0 and 1.")
        found: np.ndarray = np.quantile(self.draws, levels, axis=0)
        return found


def predicted(
    arguments: Arguments,
    params: Mapping[str, np.ndarray],
    names: frozenset[str],
    seed: int,
    draws: int | None = None,
) -> dict[str, Predicted]:
    """One draw of these sites at each of several parameters (draws, ...), each with latents of its own; of so many
    `draws` where no parameters are given, and these are drawn as well."""
    parts: dict[str, tuple[list, list, list]] = {}
    count = len(next(iter(params.values()))) if draws is None else draws
    for drawn, moments in _blocks(arguments, params, names, seed, count):
        for name, value in drawn.items():
            values, means, variances = parts.setdefault(name, ([], [], []))
            values.append(value)
            own = moments.get(name, ())
            if own and all(np.all(np.isfinite(moment)) for moment in own):
                means.append(own[0])
                variances.append(own[1])
    return {name: _of_parts(*lists) for name, lists in parts.items()}


def _of_parts(draws: list, means: list, variances: list) -> Predicted:
    every = np.concatenate(draws)
    if len(means) < len(draws):
        return Predicted(every.mean(0), every.std(0), every)
    centres = np.concatenate(means)
    variance = np.concatenate(variances).mean(0) + centres.var(0)
    return Predicted(centres.mean(0), np.sqrt(variance), every)


def _blocks(
    arguments: Arguments,
    params: Mapping[str, np.ndarray],
    names: frozenset[str],
    seed: int,
    draws: int,
) -> Iterator[tuple[dict, dict]]:
    """Draws and moments of one block after the other, on the host."""
    dynamic, predict = arguments.device_arrays(), predicting_function(arguments, names)
    key = jax.random.key(seed)

    def one(given: dict[str, Any], number: Any) -> tuple[dict, dict]:
        return predict(dynamic, given, jax.random.fold_in(key, number))

    if not arguments.traced:
        for i in range(draws):
            yield jax.tree.map(
                lambda a: np.asarray(a)[None], one({k: v[i] for k, v in params.items()}, i)
            )
        return
    shapes = jax.eval_shape(one, {k: v[0] for k, v in params.items()}, 0)
    cells = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes[0]))
    size = int(np.clip(BLOCK // max(cells, 1), 1, draws))
    run = quick_jit(jax.vmap(one))
    for first in range(0, draws, size):
        numbers = np.minimum(np.arange(first, first + size), draws - 1)  # of one shape
        found = run({k: jnp.asarray(v[numbers]) for k, v in params.items()}, jnp.asarray(numbers))
        kept = min(size, draws - first)
        yield jax.tree.map(lambda a, n=kept: np.asarray(a[:n]), found)
