"""Point estimators: EM, maximum likelihood and maximum a posteriori."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pp_mlem.estimate.em import EM
from pp_mlem.estimate.lbfgs import LBFGS
from pp_mlem.estimate.point import PointOptions, Settings, fit_point
from pp_mlem.estimate.squarem import Squarem
from pp_mlem.fit.point import PointFit
from pp_mlem.model.model import Model


def _em(settings: Settings) -> EM:
    gain, looks = settings.linear
    return EM(settings.units, settings.tolerance, gain, looks, settings.starts_too)


def _squarem(settings: Settings) -> Squarem:
    gain, looks = settings.linear
    return Squarem(
        settings.units, settings.tolerance, gain, looks, settings.finish_steps, settings.starts_too
    )


def _lbfgs(settings: Settings) -> LBFGS:
    return LBFGS(settings.units, settings.tolerance, *settings.superlinear)


def fit_em(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    objective: str = "mle",
    *,
    accelerate: bool = True,
    polish: bool = True,
    max_iter: int = 5000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
    checkpoint: str | Path | None = None,
    online: bool = True,
) -> PointFit:
    """Fit by expectation-maximisation.

    The E-step is the gradient of the marginal log-likelihood with respect to the natural
    parameters; the M-step maximises <eta(theta), S>, in closed form where the families allow.

    With `accelerate=False, polish=False` and a given `init` this is textbook EM: `fit.history`
    holds the objective before each M-step.

    Args:
        model: the program bound to its data.
        starts: number of starting points (10 with latents, 1 without).
        seed: of the starting points; the same seed gives the same result.
        init: "mixed" (k-means++ and random responsibilities in turn), "random", "kmeans++",
            "prior", or a dict of constrained values (the rest is started at random).
        fixed: parameters held at given values, and single entries of them by the names that tables show, as
            in {"b[age]": 0.0}; the parameter is then the vector of its free entries. An entry may also equal
            another, {"b[age]": "b[educ]"}, or be a function of the free ones,
            {"b[age]": lambda b: 1 - b["b[educ]"]}; it then has no prior of its own.
        objective: "mle" or "map" (mode in the constrained space: no Jacobian).
        accelerate: SQUAREM extrapolation, falling back to the plain step when it would lower the
            objective, then quasi-Newton steps on EM's fixed point.
        polish: finish by quasi-Newton steps, and by safeguarded Newton steps on the exact objective
            where these do not come to rest.
        max_iter: EM iterations per start.
        tol: largest gradient entry, in unconstrained coordinates and per observation, at which a
            start has converged.
        progress: show a bar; by default only in a terminal.
        trace: keep the parameters of every iteration of the best start in `fit.trace`.
        dtype: float64 unless told otherwise (must be the model's).
        checkpoint: a file, written after every pass over data in chunks and every half second in memory, by which
            the same call goes on where one that was cut had come, to the same bits.
        online: of data in many chunks, begin by a pass with an M-step after every chunk (Cappe & Moulines 2009).

    Returns:
        a `PointFit`; its `status` says how the chosen start ended.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """
    options = PointOptions(
        "EM", objective, starts, seed, init, fixed or {}, polish, max_iter, tol, progress, trace,
        dtype, checkpoint, online,
    )  # fmt: skip
    return fit_point(model, options, _squarem if accelerate else _em)


def fit_mle(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    *,
    polish: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
    checkpoint: str | Path | None = None,
) -> PointFit:
    """Maximum likelihood: L-BFGS on the exact marginal log-likelihood, then Newton steps.

    Priors on parameters are dropped; their supports are kept. Arguments, result and errors as in
    `fit_em`; L-BFGS of Liu & Nocedal (1989), doi:10.1007/BF01589116.
    """
    options = PointOptions(
        "MLE",
        "mle",
        starts,
        seed,
        init,
        fixed or {},
        polish,
        max_iter,
        tol,
        progress,
        trace,
        dtype,
        checkpoint,
    )
    return fit_point(model, options, _lbfgs)


def fit_map(
    model: Model,
    starts: int | None = None,
    seed: int = 0,
    init: Any = "mixed",
    fixed: Mapping[str, Any] | None = None,
    *,
    polish: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-8,
    progress: bool | None = None,
    trace: bool = False,
    dtype: Any = None,
    checkpoint: str | Path | None = None,
) -> PointFit:
    """Maximum a posteriori: the mode of log Z + log prior in the constrained space.

    No Jacobian is added, so the mode is that of the density as the program writes it; it changes
    when the program is rewritten in other coordinates. Arguments as in `fit_mle`.
    """
    options = PointOptions(
        "MAP",
        "map",
        starts,
        seed,
        init,
        fixed or {},
        polish,
        max_iter,
        tol,
        progress,
        trace,
        dtype,
        checkpoint,
    )
    return fit_point(model, options, _lbfgs)
