"""Latents that are observed: labels as log-indicators of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.base.lazy import pd
from pp_mlem.data.masks import shown_units
from pp_mlem.data.raw import Raw
from pp_mlem.program.reading import Reading


def coded(given: Any) -> tuple[Any, tuple[Any, ...]]:
    """Labels that are words or categories as numbers, -1 where unknown, and what the numbers stand for; other
    labels as they are, and nothing."""
    dtype = getattr(given, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        own = given if isinstance(given, pd.Categorical) else given.array
        return np.asarray(own.codes), tuple(own.categories.tolist())
    words = np.asarray(given, object)
    if not any(isinstance(v, str) for v in words.ravel()):
        return given, ()
    codes, known = pd.factorize(words.ravel(), sort=True)
    return codes.reshape(words.shape), tuple(known.tolist())


def clamps_of(reading: Reading, observe: Mapping[str, Any], raw: Raw) -> dict[str, jax.Array]:
    """(*plates, values) for each finite latent that is observed: 0 where a value is possible, -1 where not."""
    return {
        name: jax.device_put(_clamp(reading, name, given, raw))
        for name, given in observe.items()
        if not reading.sites[name].real
    }


def _clamp(reading: Reading, name: str, given: Any, raw: Raw) -> np.ndarray:
    """NaN and -1 are unknown, and so is the label of a masked unit, which does not count."""
    support = np.asarray(reading.values[name], float)
    site = reading.sites[name]
    expected = f"values in {support.tolist()}, or NaN or -1 where unknown"
    labels = in_shape(name, given, reading.plate_shape(site.dims), "labels", expected)
    unknown = np.isnan(labels) | ((labels == -1) & ~np.isin(-1, support))
    match = labels[..., None] == support
    bad = ~unknown & ~match.any(-1)
    if bad.any():
        raise ValueError(
            f"observe: '{name}' received {np.unique(labels[bad])[:5]}, expected values in "
            f"{support.tolist()}, or NaN or -1 where unknown."
        )
    logs = np.where(unknown[..., None] | match, 0.0, -1.0)
    scan = reading.scans.get(site.scan)
    logs = logs[::-1] if scan is not None and scan.reverse else logs
    shown = shown_units(reading, site, raw)
    return logs if shown is None else np.where(shown[..., None], logs, 0.0)


def in_shape(name: str, given: Any, shape: tuple[int, ...], what: str, expected: str) -> np.ndarray:
    """What observe= gives for a latent, as numbers in its shape; `what` they are, and what was `expected`."""
    try:
        numbers = np.asarray(given, float)
    except (TypeError, ValueError):
        raise TypeError(
            f"observe: '{name}' received {what} that are no numbers, expected {expected}."
        ) from None
    if numbers.shape == tuple(n for n in shape if n > 1):
        return numbers.reshape(shape)
    try:
        return np.broadcast_to(numbers, shape)
    except ValueError:
        raise ValueError(
            f"observe: {what} of '{name}' have shape {np.shape(given)}, expected {shape}."
        ) from None
