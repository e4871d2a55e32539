"""Real latents side by side: how far the fits agree on what the data tell of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.fit.base import Fit
from pp_mlem.model.latents import Moments
from pp_mlem.model.streamed import StreamedModel


def real_posteriors(fits: Mapping[str, Fit]) -> dict[str, dict[str, Moments]]:
    """Moments of each real latent by the fits that have their model, with its data in memory, {latent: {fit: moments}};
    of as many units in all."""
    found: dict[str, dict[str, Moments]] = {}
    for name, fit in fits.items():
        model = fit.model
        if model is None or isinstance(model, StreamedModel) or not model.reading.reals:
            continue
        told = fit.posterior()
        for site in model.reading.reals:
            found.setdefault(site.name, {})[name] = told[site.name]
    for latent, by_fit in found.items():
        first = next(iter(by_fit.values()))
        found[latent] = {n: m for n, m in by_fit.items() if m.mean.shape == first.mean.shape}
    return found


def agreement(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """One row per real latent and fit but the first that has it, with the columns of
    `Comparison.latents`."""
    rows, index = [], []
    for latent, by_fit in real_posteriors(fits).items():
        (reference, first), *others = by_fit.items()
        for name, moments in others:
            index.append((latent, name, reference))
            rows.append(compared(moments, first))
    names = ["latent", "fit", "against"]
    columns = ["correlation", "furthest", "sd_ratio", "sd_difference"]
    where = pd.MultiIndex.from_tuples(index, names=names)
    return pd.DataFrame(rows, index=where, columns=columns)


def compared(moments: Moments, first: Moments) -> list[float]:
    """Correlation of the means, their largest difference in the larger sd, the ratio of the sds (root mean
    squares), their largest difference."""
    means, theirs = moments.mean.ravel(), first.mean.ravel()
    sds, scale = moments.sd.ravel(), first.sd.ravel()
    spread = np.ptp(means) > 0 and np.ptp(theirs) > 0
    correlation = np.corrcoef(means, theirs)[0, 1] if spread else np.nan
    unit = np.maximum(np.maximum(sds, scale), 1e-300)
    ratio = np.sqrt((sds**2).mean() / (scale**2).mean()) if scale.any() else np.nan
    return [correlation, np.abs((means - theirs) / unit).max(), ratio, np.abs(sds - scale).max()]
