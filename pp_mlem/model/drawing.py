"""Data drawn from the program: simulated, or laid out anew in the place of the observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.data.program_data import ProgramData
from pp_mlem.data.redraw import observed_cells, place, relaid
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.model.bound import Bound, Values
from pp_mlem.program.arguments import Arguments
from pp_mlem.program.draw import drawing_function
from pp_mlem.program.neutral import neutral_parameters


def drawing(bound: Bound, arguments: Arguments) -> Callable[..., tuple[dict, dict]]:
    """(arrays, parameters, key) -> (every site drawn, the data in the same shapes)."""
    draw = drawing_function(arguments)
    return bound.kept.once("drawing", lambda: quick_jit(draw)) if arguments.traced else draw


def refuse_undrawn(marginal: Marginal) -> None:
    """A numpyro.factor that weighs latents makes their law another than what is drawn from, and a flat
    one has no draws."""
    flat = [s.name for s in marginal.reading.reals if s.distribution == "ImproperUniform"]
    if flat:
        raise ValueError(
            f"latent '{flat[0]}' has a flat law, from which nothing can be drawn, and so no data can. Give "
            "it a proper law, such as a Normal that is wide next to the data, for simulate(), the parametric "
            "bootstrap and experiments; for regression coefficients estimate them as parameters."
        )
    refuse_weighed(marginal)


def refuse_weighed(marginal: Marginal) -> None:
    """The former of these alone."""
    sites = marginal.reading.sites
    weighed = [
        f.site for f in marginal.factors if f.latents and sites[f.site].distribution == "Unit"
    ]
    if weighed:
        raise ValueError(
            f"simulate: numpyro.factor {weighed} weighs latents, so they cannot be drawn from "
            "the program. Write it as a sampled site; sample_latents() draws given the data."
        )


def _refuse_redraw(bound: Bound, clamped: tuple[str, ...], weights: np.ndarray) -> None:
    reading = bound.reading
    scanned = [n for n in clamped if reading.sites[n].scan]
    if scanned:
        raise ValueError(
            f"states {scanned} of a scan were given by observe=; data with known states cannot "
            "be drawn anew yet. Drop observe=, or draw with simulate()."
        )
    if bound.data.known:
        raise ValueError(
            f"latents {sorted(bound.data.known)} have values in some units; such data cannot be drawn anew yet. "
            "Draw with simulate(), or resample units (a bootstrap of kind 'nonparametric')."
        )
    factored = [s.name for s in reading.observed if s.distribution == "Unit"]
    if factored:
        raise ValueError(
            f"numpyro.factor {factored} has a value but no draws, so data cannot be drawn from "
            "the program. Write it as a sampled site with obs=."
        )
    if bound.data.weights and np.any(~np.isin(weights, (0.0, 1.0))):
        raise ValueError(
            "units carry case weights, and one draw for all the cases of a unit would not be "
            "what the program says. Write one row for each case (a bootstrap of kind "
            "'nonparametric' takes weights as they are)."
        )


def redrawing(
    bound: Bound, arguments: Arguments, clamped: tuple[str, ...], weights: np.ndarray
) -> Callable[[Values, jax.Array, ProgramData], ProgramData]:
    """Traceable (params, key, data) -> the data with every observation drawn anew.

    `clamped` are the latents that are data, `weights` the case weights of the units.
    """
    _refuse_redraw(bound, clamped, weights)
    refuse_undrawn(bound.marginal)
    reading, factors = bound.reading, bound.marginal.factors
    names = tuple(s.name for s in reading.observed if s.distribution != "Unit")
    params = neutral_parameters(reading, 0)
    cells = bound.kept.once(
        "cells", lambda: observed_cells(arguments, drawing(bound, arguments), params, names)
    )
    draw = drawing_function(arguments)

    def redraw(values: Values, key: jax.Array, data: ProgramData) -> ProgramData:
        drawn, _ = draw(data.dynamic, values, key)
        dynamic = place(cells, data.dynamic, drawn)
        labels = {n: drawn[n].reshape(data.clamps[n].shape[:-1]) for n in clamped}
        return relaid(reading, factors, data, dynamic, labels)

    return redraw


def with_arrays(marginal: Marginal, dynamic: tuple, data: ProgramData) -> ProgramData:
    """The data laid out from other argument arrays of the same shapes. Traceable."""
    labels: Mapping[str, Any] = {}
    return relaid(marginal.reading, marginal.factors, data, dynamic, labels)
