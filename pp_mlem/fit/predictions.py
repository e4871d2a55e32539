"""What a fit says of new data, and of its own: labels, predictive distributions, scores, residuals. The functions
stand behind the methods of `Fit`, which they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pp_mlem.base.checks import check_counts, check_seed
from pp_mlem.base.lazy import scipy_stats, xr
from pp_mlem.base.precision import working_precision
from pp_mlem.model.datasets import dataset, dims_of_sites
from pp_mlem.model.model import Model
from pp_mlem.model.predictive import Predicted, predicted
from pp_mlem.program.arguments import Arguments, bind_arguments
from pp_mlem.program.draw import drawing_function
from pp_mlem.program.names import Names
from pp_mlem.program.neutral import neutral_parameters

SCORED = 100  # posterior draws that a score averages over
DRAWS = 1000


class Prediction(Mapping):
    """Of each latent its jointly most probable value, of each observed site its predictive mean, by name; each is
    computed when it is asked for."""

    def __init__(
        self,
        latents: tuple[str, ...],
        observed: tuple[str, ...],
        decoded: Callable[[], Mapping[str, np.ndarray]],
        means: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        self._names = {**dict.fromkeys(latents, decoded), **dict.fromkeys(observed, means)}
        self._known: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._known:
            self._known.update(self._names[name]())
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Prediction of {list(self._names)}"


def predict(fit: Any, args: tuple, kwargs: dict[str, Any]) -> Prediction:
    """See `Fit.predict`."""
    model = fit.model_for("predict")
    arguments = _arguments(model, args, kwargs)
    observed = _observed(model)
    if not observed <= _with_values(model, arguments):  # their values are what is asked for
        latents: tuple[str, ...] = ()
        on = model
    else:
        on = fit.on(args, kwargs) if args or kwargs else model
        latents = on.latent_names
    return Prediction(
        latents,
        tuple(sorted(observed)),
        lambda: on.decode(fit.params),
        lambda: {n: p.mean for n, p in predictive(fit, arguments, DRAWS, fit.seed).items()},
    )


def predictive_of(
    fit: Any, args: tuple, kwargs: dict[str, Any], draws: int, seed: int
) -> dict[str, Predicted]:
    """See `Fit.predictive`."""
    check_counts(draws=draws)
    check_seed(seed)
    model = fit.model_for("predictive")
    return predictive(fit, _arguments(model, args, kwargs), draws, seed)


def predictive(fit: Any, arguments: Arguments, draws: int, seed: int) -> dict[str, Predicted]:
    model = fit.model_for("predictive")
    with working_precision(model.dtype):
        params = fit.several_params(draws, seed)
        return predicted(arguments, params, _observed(model), seed)


def posterior_predictive(
    fit: Any, args: tuple, kwargs: dict[str, Any], draws: int, seed: int
) -> xr.DataTree:
    """See `Fit.posterior_predictive`."""
    check_counts(draws=draws)
    check_seed(seed)
    model = fit.model_for("posterior_predictive")
    arguments = _arguments(model, args, kwargs)
    with working_precision(model.dtype):
        params, chains, note = fit.spread_params(draws, seed)
        found = predicted(arguments, params, _observed(model), seed)
    shapes = {n: p.mean.shape for n, p in found.items()}
    other = arguments if args or kwargs else None
    names = dims_of_sites(model.reading, shapes, other)
    return predictive_tree(found, "posterior_predictive", chains, names, note)


def score(fit: Any, args: tuple, kwargs: dict[str, Any]) -> float:
    """See `Fit.score`."""
    model = fit.on(args, kwargs) if args or kwargs else fit.model_for("score")
    if not fit.has_draws:
        return model.log_likelihood(fit.params) / model.n_observations
    several = fit.several_params(SCORED, fit.seed)
    each = [
        model.pointwise_log_likelihood({k: v[i] for k, v in several.items()}) for i in range(SCORED)
    ]
    terms = np.logaddexp.reduce(np.stack(each), axis=0) - np.log(SCORED)
    return float(np.sum(terms) / model.n_observations)


def residuals(fit: Any, seed: int) -> dict[str, np.ndarray]:
    """See `Fit.residuals`."""
    check_seed(seed)
    model = fit.model_for("residuals")
    sites, values = model.reading.sites, model.observed_values()
    found: dict[str, np.ndarray] = {}
    in_scans = [n for n in _observed(model) if n not in sites or sites[n].scan]
    if in_scans:
        told = model.pseudo_residuals(fit.params)
        found |= {name: told[name]["mid"].to_numpy() for name in told}
    rest = predictive(fit, model.arguments, DRAWS, seed)
    rng = np.random.default_rng(seed)
    for name, own in rest.items():
        if name not in found and name not in in_scans:
            found[name] = _quantile_residuals(np.asarray(values[name], float), own.draws, rng)
    return found


def _quantile_residuals(
    values: np.ndarray, draws: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Normal scores of the ranks of values among draws, ties broken at random; NaN where values are."""
    below, same = (draws < values).sum(0), (draws == values).sum(0)
    rank = (below + rng.uniform(size=values.shape) * (same + 1)) / (len(draws) + 1)
    return np.where(np.isnan(values), np.nan, scipy_stats.norm.ppf(rank))


def predictive_tree(
    found: Mapping[str, Predicted], group: str, chains: int, names: Names, note: str
) -> xr.DataTree:
    """Draws of observed sites as a group of an ArviZ tree; what is left over by the chains is dropped."""
    values = {}
    for name, own in found.items():
        length = len(own.draws) // chains
        values[name] = own.draws[: chains * length].reshape(chains, length, *own.draws.shape[1:])
    data = dataset(values, names, "chain", "draw")
    data.attrs["draws"] = note
    return xr.DataTree.from_dict({group: data})


def _observed(model: Model) -> frozenset[str]:
    """The observed sites by the program's own names, without factors."""
    return frozenset(model.observed_names())


def _arguments(model: Model, args: tuple, kwargs: dict[str, Any]) -> Arguments:
    if not args and not kwargs:
        return model.arguments
    new = bind_arguments(model.program, args, kwargs).in_precision(model.dtype)
    new = replace(new, form=model.arguments.form)
    _with_values(model, new)
    return new


def _with_values(model: Model, arguments: Arguments) -> set[str]:
    """The sites that a program gives values with these arguments."""
    with working_precision(model.dtype):
        params = neutral_parameters(model.reading, 0)
        draw = drawing_function(arguments)
        given = arguments.device_arrays(), params, jax.random.key(0)
        try:
            return set(jax.eval_shape(draw, *given)[1])
        except Exception as error:  # a program may raise anything where its data do not fit
            shapes = {s.name: s.shape for s in model.space.sites}
            raise ValueError(
                f"the program does not run on the new data with the fitted parameters, of shapes {shapes}: "
                f"{str(error).splitlines()[0]} Their sizes must not depend on the data."
            ) from error
