"""Which starts reached the same optimum."""

from __future__ import annotations

import numpy as np

from pp_mlem.status import Status

SAME_OPTIMUM = 1e-6


def label_optima(values: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Number the distinct optima from the best down (1, 2, ...); 0 for starts without a value.

    Two starts share an optimum when their objectives agree to 1e-6 relative and neither or both
    were set aside as collapsed or spurious.
    """
    aside = np.isin(status, (Status.COLLAPSED, Status.SPURIOUS))
    labels = np.zeros(len(values), int)
    count = 0
    for group in (~aside, aside):
        order = [i for i in np.argsort(-values, kind="stable") if group[i]]
        order = [i for i in order if np.isfinite(values[i])]
        previous = None
        for i in order:
            if previous is None or previous - values[i] > SAME_OPTIMUM * (1 + abs(previous)):
                count += 1
                previous = values[i]
            labels[i] = count
    return labels
