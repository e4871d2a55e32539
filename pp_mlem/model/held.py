"""Models in which single entries of parameters have values, `fixed={"b[age]": 0.0}`, or those that other entries
give: `fixed={"b[age]": "b[educ]"}`, `fixed={"b[age]": lambda b: 1 - b["b[educ]"]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpyro.distributions import biject_to

from pp_mlem.base.precision import working_precision
from pp_mlem.model.model import Model
from pp_mlem.program.names import Place
from pp_mlem.program.pinned import Pinned, Pins, Same
from pp_mlem.program.sites import Site
from pp_mlem.program.space import base_support, describe, scalar_names


def with_held_entries(
    model: Model, fixed: Any, init: Any = None
) -> tuple[Model, dict[str, Any], Any]:
    """The model in which single entries among `fixed` have those values and their parameters are vectors of the
    free entries; what else is fixed, and `init` for it. The model itself where whole parameters alone
    are fixed.

    Raises:
        ValueError: where a parameter has entries that cannot be held alone.
    """
    if not isinstance(fixed, Mapping):
        return model, fixed or {}, init
    with working_precision(model.dtype):
        return _with_held_entries(model, fixed, init)


def _with_held_entries(
    model: Model, fixed: Mapping, init: Any
) -> tuple[Model, dict[str, Any], Any]:
    places = _places(model)
    single = {k: v for k, v in fixed.items() if k not in model.space.names and k in places}
    if not single:
        return model, dict(fixed), init
    pins = {site.name: _pins(site, places, single, fixed) for site in _sites(model, places, single)}
    whole = {n: p.values for n, p in pins.items() if p.held.all()}
    rest = {k: v for k, v in fixed.items() if k not in single} | whole
    pins = {n: p for n, p in pins.items() if n not in whole}
    if not pins:
        return model, rest, init
    key = (
        "held",
        tuple((n, p.held.tobytes(), p.values.tobytes(), p.names, p.tied) for n, p in pins.items()),
    )
    held = model.bound.kept.once(key, lambda: _held(model, pins))
    if (
        held.unheld is None or held.unheld[0].arguments is not model.arguments
    ):  # kept for other data of the same shapes
        held = _held(model, pins)
    if isinstance(init, Mapping):
        init = {k: _free(pins.get(k), v) for k, v in init.items()}
    return held, rest, init


def _places(model: Model) -> dict[str, tuple[Site, int]]:
    """Site and place in it of every scalar of parameters that have several, by name."""
    names, found = iter(scalar_names(model.space)), {}
    for site in model.space.sites:
        for place in range(int(np.prod(site.shape))):
            found[next(names)] = site, place
    return {name: own for name, own in found.items() if own[0].shape}


def _sites(model: Model, places: Mapping, single: Mapping[str, Any]) -> list[Site]:
    own = {places[name][0].name for name in single}
    return [s for s in model.space.sites if s.name in own]


def _pins(
    site: Site, places: Mapping[str, tuple[Site, int]], single: Mapping[str, Any], fixed: Mapping
) -> Pins:
    if site.name in fixed:
        raise ValueError(f"fixed: {site.name!r} and single entries of it; give one of the two.")
    if not site.prior:
        raise ValueError(
            f"fixed: {site.name!r} is a numpyro.param, whose entries cannot be held alone. Sample it from an "
            "ImproperUniform, or write the value into the program."
        )
    if base_support(site.support).event_dim:
        raise ValueError(
            f"fixed: single entries of {site.name!r} cannot be held: its support ({describe(site.support)}) ties "
            "them together. Fix the whole, or write the restriction into the program."
        )
    own = {name: place for name, (other, place) in places.items() if other.name == site.name}
    held, values, tied = np.zeros(site.shape, bool), np.zeros(site.shape), []
    for name, value in single.items():
        if name in own:
            if isinstance(value, str) or callable(value):
                tied.append((own[name], Same(value) if isinstance(value, str) else value))
            else:
                values.flat[own[name]] = _number(name, value)
            held.flat[own[name]] = True
    free = tuple(name for name, place in own.items() if not held.flat[place])
    pins = Pins(held, values, free, tuple(tied))
    whole = _tried(site, pins, {place: name for name, place in own.items()})
    if not np.all(np.isfinite(whole)) or not np.all(site.support.check(whole)):
        raise ValueError(f"fixed: entries of {site.name!r} received values outside of its support.")
    return pins


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"fixed: {name!r} received {value!r}, expected a number, the name of another entry, or a function of "
            "the entries by name."
        ) from None


def _tried(site: Site, pins: Pins, names: Mapping[int, str]) -> np.ndarray:
    """The parameter with its free entries somewhere in its support."""
    inside = _inside(site)
    entries = dict(zip(pins.names, inside[~pins.held], strict=True))
    for place, function in pins.tied:
        told = f"fixed: {names[place]!r}"
        try:
            value = np.asarray(function(entries), float)
        except KeyError as error:
            raise ValueError(
                f"{told} is given by {error}, which is no free entry of {site.name!r}; these are {list(pins.names)}. "
                "A restriction across parameters belongs into the program."
            ) from None
        except (TypeError, ValueError) as error:
            raise type(error)(f"{told} received a function that fails: {error}") from error
        if value.shape:
            raise ValueError(
                f"{told} received a function with values of shape {value.shape}, expected numbers."
            )
    return np.asarray(pins.whole(inside[~pins.held]))


def _inside(site: Site) -> np.ndarray:
    """Some value of a parameter in its support."""
    transform = biject_to(site.support)
    return np.asarray(transform(np.zeros(transform.inverse_shape(site.shape))))


def _held(model: Model, pins: Mapping[str, Pins]) -> Model:
    """The model with such entries."""
    names, labels = model.reading.names, _places(model)
    dims = {n: d for n, d in names.dims.items() if d and n not in pins}
    reading = model.reading
    kept = {d for own in dims.values() for d in own}
    kept |= {n for n, p in reading.plates.items() if not p.implicit}
    kept |= {s.name for s in reading.latents}
    coords = {d: v for d, v in names.coords.items() if d in kept}
    for name, own in pins.items():
        inner = [k[len(name) + 1 : -1] for k, (site, _) in labels.items() if site.name == name]
        free = np.flatnonzero(~own.held.ravel())
        dims[name] = (f"{name}_free",)
        coords[f"{name}_free"] = tuple(Place(inner[i]) for i in free)
    held = model.with_program(Pinned(model.program, pins), dims, coords)
    held.unheld = model, dict(pins)
    return held


def _free(pins: Pins | None, value: Any) -> Any:
    """The free entries of a whole parameter; a value that is not one as it is."""
    if pins is None or np.shape(value) != pins.held.shape:
        return value
    return np.asarray(value)[~pins.held]
