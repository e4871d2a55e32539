"""Whether the chains of a sample name the same components differently, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pp_mlem.base.lazy import scipy_optimize
from pp_mlem.diagnose.groups import Group
from pp_mlem.model.model import Model

AGREE = 0.75  # of a latent's posterior, by which two stretches see the same components
GAIN = 0.2  # by which other names must agree better than the same names
REMEDY = (
    "give every component the same prior, so that labels can be aligned; or keep them apart by an "
    "ordered parameter (ImproperUniform(constraints.ordered_vector, (), (K,)) or "
    "TransformedDistribution(..., OrderedTransform())) or by informative priors"
)


def switched_latents(
    model: Model,
    draws: Mapping[str, np.ndarray],
    density: np.ndarray,
    aligned: tuple[Group, ...],
) -> list[str]:
    """Latents whose posterior at the best draw of each half of each chain is that of the first
    half, but with its values under other names. Latents whose labels were aligned are left out.

    Args:
        draws: {parameter: (chain, draw, ...)}; density: of each draw (chain, draw).
        aligned: the groups of components that were aligned already.
    """
    done = {g.latent for g in aligned} | {s for g in aligned for s in g.slots}
    known = {p for g in aligned for p in g.parameters}
    factors = model.marginal.factors
    done |= {
        s.name
        for s in model.reading.latents
        if any(s.name in f.latents and known & set(f.parameters) for f in factors)
    }
    names = [s.name for s in model.reading.latents if s.size > 1 and s.name not in done]
    if not names:
        return []
    chains, length = density.shape
    half = max(1, length // 2)
    stretches = [(c, slice(0, half)) for c in range(chains)]
    stretches += [(c, slice(half, length)) for c in range(chains) if length > half]
    seen = []
    for chain, part in stretches:
        best = part.start + int(np.argmax(density[chain, part]))
        seen.append(model.posterior({k: v[chain, best] for k, v in draws.items()}))
    first = {n: np.nan_to_num(seen[0][n]) for n in names}
    return [
        n for n in names if any(_renamed(first[n], np.nan_to_num(other[n])) for other in seen[1:])
    ]


def _renamed(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two posteriors of a latent (..., values) agree much better under other names."""
    a, b = (p.reshape(-1, p.shape[-1]) for p in (a, b))
    whole = 0.5 * ((a * a).sum() + (b * b).sum())
    overlap = a.T @ b / max(whole, 1e-300)
    rows, columns = scipy_optimize.linear_sum_assignment(-overlap)
    return bool(
        overlap[rows, columns].sum() > AGREE
        and overlap[rows, columns].sum() > np.trace(overlap) + GAIN
    )


def tell_switched(names: list[str], groups: tuple[Group, ...]) -> str:
    """The sentence about latents whose labels have switched."""
    parts = []
    for name in names:
        known = [g for g in groups if name == g.latent or name in g.slots]
        why = (
            "the prior tells its values apart, so that they cannot be aligned"
            if known
            else "no relabelling of the parameters is known that leaves the likelihood unchanged"
        )
        parts.append(f"labels of '{name}' have switched: {why}")
    return f"{'; '.join(parts)} ({REMEDY})" if parts else ""
