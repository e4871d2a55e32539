"""What only a chain can tell: filtered probabilities, transitions, forecasts, pseudo-residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.marginal.marginal import Marginal
from pp_mlem.marginal.recursions import filtered as filter_chain
from pp_mlem.marginal.recursions import smooth
from pp_mlem.marginal.steps.chain import Chain
from pp_mlem.model.bound import Bound, Values
from pp_mlem.potentials.term import Term
from pp_mlem.program.distributions import unwrap
from pp_mlem.program.messages import Message


def chains_of(bound: Bound) -> tuple[Chain, ...]:
    chains = bound.marginal.chains
    if not chains:
        if bound.marginal.kalmans:
            raise ValueError(
                "the program has no chain of finite states: no finite latent of a scan depends on the step before. "
                "Of real states filtered(), innovations() and forecast() tell."
            )
        raise ValueError(
            "the program has no chain: no latent that is sampled in the body of a scan depends on the step before. "
            "A latent outside of the scan is told by posterior(); what moves is to be sampled in the body."
        )
    for chain in chains:
        if chain.above:
            raise ValueError(
                f"the chain over {', '.join(chain.states)} depends on {', '.join(chain.above)} "
                "above it; filtered probabilities and forecasts of such a mixture of chains are "
                "not offered. Use posterior() and sample_latents()."
            )
    return chains


def _terms(marginal: Marginal, params: Values, data: ProgramData) -> list[Term]:
    """All terms, those inside the steps summed: what a recursion collects."""
    terms = marginal.terms(marginal.natural(params, data), data)
    return marginal.before_chains(terms, marginal.context(data))


def _recursion(
    marginal: Marginal, chain: Chain, recursion: Callable, params: Values, data: ProgramData
) -> Any:
    terms = _terms(marginal, params, data)
    found, _ = chain.along(terms, marginal.context(data), recursion)
    return found


def along(
    bound: Bound, chain: Chain, values: Values, recursion: Callable
) -> tuple[Any, tuple[int, ...]]:
    """What a recursion gives along a chain, on the host, and the sizes of its lanes."""
    shape: tuple[int, ...] = ()

    def sizes(params: Values, data: ProgramData) -> int:
        nonlocal shape
        terms = _terms(bound.marginal, params, data)
        shape = chain.collect(terms, bound.marginal.context(data)).shape
        return 0

    jax.eval_shape(sizes, values, bound.data)
    run = bound.compiled(_recursion, chain, recursion)
    return jax.device_get(run(values, bound.data)), shape


def own_states(chain: Chain) -> int:
    """Number of joint states of one step."""
    return int(np.prod(chain.sizes))


def _law(bound: Bound, state: str) -> str:
    """The site of a state's law on the steps after those with which the recursion begins."""
    return bound.reading.scans[bound.reading.sites[state].scan].later(state)


def _nearest(chain: Chain, table: np.ndarray) -> np.ndarray:
    """(steps, states of one or more steps, lanes) to those of the nearest step alone."""
    return table.reshape(table.shape[0], own_states(chain), -1, table.shape[-1]).sum(2)


def of_all_steps(chain: Chain, table: np.ndarray) -> np.ndarray:
    """Smoothed states of the recursion (steps, joint states, lanes) to those of every step: what
    it begins with spans the first ones."""
    own, lanes = own_states(chain), table.shape[-1]
    first = [
        table[:1].reshape(own**lag, own, -1, lanes).sum((0, 2))[None]
        for lag in range(chain.order - 1, 0, -1)
    ]
    return np.concatenate([*first, _nearest(chain, table)])


def _firsts(marginal: Marginal, chain: Chain, params: Values, data: ProgramData) -> list[jax.Array]:
    terms = _terms(marginal, params, data)
    return chain.firsts(chain.collect(terms, marginal.context(data)))


def _first_filtered(bound: Bound, chain: Chain, values: Values) -> list[np.ndarray]:
    """Filtered states (1, states, lanes) of the steps before the recursion begins."""
    if chain.order == 1:
        return []
    function = bound.compiled(_firsts, chain)
    found = []
    for logs in jax.device_get(function(values, bound.data)):
        weights = np.exp(logs - logs.max(0, keepdims=True))
        found.append(_nearest(chain, (weights / weights.sum(0, keepdims=True))[None]))
    return found


def _marginals(chain: Chain, table: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """(steps, joint states of one step, lanes) to each state's (steps, lanes..., values)."""
    full = table.reshape(table.shape[0], *chain.sizes, *shape)
    n = len(chain.states)
    found = {}
    for i, name in enumerate(chain.states):
        others = tuple(1 + j for j in range(n) if j != i)
        found[name] = np.moveaxis(full.sum(others), 1, -1)
    return found


def _in_order(chain: Chain, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v[::-1] if chain.reverse else v for k, v in found.items()}


def filtered(bound: Bound, values: Values) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {}
    for chain in chains_of(bound):
        (_, alpha), shape = along(bound, chain, values, filter_chain)
        alpha = _nearest(chain, np.asarray(alpha))
        first = [np.broadcast_to(a, alpha[:1].shape) for a in _first_filtered(bound, chain, values)]
        found = _marginals(chain, np.concatenate([*first, alpha]), shape)
        for name in found:
            if name in bound.data.valid:
                ended = ~np.asarray(bound.data.valid[name]).reshape(found[name].shape[:-1])
                found[name][ended] = np.nan
        result |= _in_order(chain, found)
    return result


def transition_counts(bound: Bound, values: Values) -> dict[str, np.ndarray]:
    result = {}
    for chain in chains_of(bound):
        smoothed, shape = along(bound, chain, values, smooth)
        own, moves = own_states(chain), np.asarray(smoothed.transitions).sum((0, -1))
        pairs = moves.reshape(own, -1, own, chain.size // own).sum((1, 3))
        pairs = pairs + _first_transitions(bound, chain, np.asarray(smoothed.states)[0], shape)
        pairs = pairs.reshape(*chain.sizes, *chain.sizes)
        n = len(chain.states)
        for i, name in enumerate(chain.states):
            others = tuple(j for j in range(2 * n) if j % n != i)
            result[name] = pairs.sum(others)
    return result


def _first_transitions(
    bound: Bound, chain: Chain, begin: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Expected transitions (states before, states) among the steps with which the recursion
    begins, from their joint probabilities (states, lanes)."""
    own, lanes = own_states(chain), begin.shape[-1]
    pairs = np.zeros((own, own))
    ahead = chain.running(bound.data.valid, tuple(sorted(chain.plates)), shape, first=1)
    for lag in range(chain.order - 1):
        both = begin.reshape(own**lag, own, own, -1, lanes).sum((0, 3))
        counted = np.ones(lanes) if ahead is None else np.asarray(ahead)[chain.order - 2 - lag]
        pairs += np.einsum("kjl,l->jk", both, np.broadcast_to(counted, lanes).astype(float))
    return pairs


def forecast(bound: Bound, values: Values, steps: int) -> dict[str, Any]:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps: received {steps!r}, expected a positive integer.")
    result: dict[str, Any] = {}
    for chain in chains_of(bound):
        for state in chain.states:
            law = bound.reading.sites.get(_law(bound, state))
            if law is not None and law.hidden:
                raise ValueError(
                    f"forecast: the law of '{state}' is masked and a numpyro.factor stands for it, "
                    "which cannot be carried on. Give the state its transition as its distribution."
                )
            if law is None and chain.length <= chain.order:
                raise ValueError(
                    f"forecast: the sequence has {chain.length} step(s), none of which shows the "
                    f"transition of '{state}'. Give it at least {chain.order + 1} steps, missing "
                    "(NaN) where nothing was observed."
                )
            if law is None or law.timed:
                raise ValueError(
                    f"forecast: the transitions of '{state}' vary with the step, so they are not "
                    "known after the last one. Extend the data with missing observations (NaN) and "
                    "use posterior()."
                )
        (_, alpha), shape = along(bound, chain, values, filter_chain)
        moves = _transition(bound, chain, values)
        current = np.asarray(alpha)[-1]
        ahead = []
        for _ in range(int(steps)):
            current = np.einsum("jl,jkl->kl", current, np.broadcast_to(
                moves, (*moves.shape[:2], current.shape[-1])))  # fmt: skip
            ahead.append(current)
        joint = _nearest(chain, np.stack(ahead))
        result |= _marginals(chain, joint, shape)
        result |= _predicted(bound, chain, values, joint, shape)
    return result


def _transition(bound: Bound, chain: Chain, values: Values) -> np.ndarray:
    """(states, states, lanes or 1) probabilities of one step, from the states' own laws."""
    marginal = bound.marginal
    laws = frozenset(_law(bound, s) for s in chain.states)
    eta = marginal.natural(values, bound.data, laws)
    kept = [f for f in marginal.factors if f.site in laws]
    terms = {t.latents: t for t in marginal.terms_of(kept, eta, bound.data)}
    tables = [t.of_finite for t in terms.values()]
    sizes = {a: n for t in tables for a, n in zip(t.axes, t.array.shape, strict=True)}
    lanes = tuple(a for a in sizes if a not in chain.own and a != chain.rest)
    logs = chain.moves(tables, lanes, tuple(sizes[a] for a in lanes))
    return np.exp(np.asarray(logs))[0]


def _predicted(
    bound: Bound, chain: Chain, values: Values, joint: np.ndarray, shape: tuple[int, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """Mean and standard deviation of each observed site ahead, mixed over the states."""
    reading = bound.reading
    sites = [
        f
        for f in bound.marginal.factors
        if not f.law_of
        and reading.sites[f.site].scan == chain.time
        and set(f.latents) == set(chain.states)
        and not reading.sites[f.site].timed
    ]
    if not sites or any(s.vmapped for s in reading.slots):
        return {}

    def extract(m: Message) -> Any:
        bare = unwrap(m.fn)
        rank = bare.columns + len(bare.fn.event_shape)
        mean, spread = bare.fn.mean, bare.fn.variance
        return m.placed(mean, rank), m.placed(spread, rank)

    found: dict[str, dict[str, np.ndarray]] = {}
    for factor in sites:
        site = reading.sites[factor.site]
        try:
            pair = reading.run(
                values, bound.data.dynamic, extract, wanted=frozenset({factor.site})
            )[factor.site]
        except NotImplementedError:
            continue
        rank = site.columns + len(site.event_shape)
        inner = {p: d for p, d in site.dims.items() if p != chain.time}
        plates = reading.plate_shape(inner)
        tables = []
        for array in pair:
            array = np.asarray(array)
            batch = array.ndim - rank
            dims = [batch + reading.latent_dim(s) for s in chain.states]
            moved = np.moveaxis(array, dims, range(len(dims)))
            event = moved.shape[moved.ndim - rank :] if rank else ()
            wide = np.broadcast_to(
                moved.reshape(*chain.sizes, *moved.shape[batch - reading.depth + 1 :])
                if len(dims) == batch - reading.depth
                else moved.reshape(*chain.sizes, *((1,) * len(plates)), *event),
                (*chain.sizes, *plates, *event),
            )
            tables.append(wide.reshape(own_states(chain), *plates, *event))
        mean, variance = tables
        probs = joint.reshape(joint.shape[0], own_states(chain), *shape)
        probs = probs.reshape(*probs.shape[:2], *shape, *((1,) * (mean.ndim - 1 - len(shape))))
        first = (probs * mean).sum(1)
        second = (probs * (variance + mean**2)).sum(1)
        found[factor.site] = {"mean": first, "sd": np.sqrt(np.maximum(second - first**2, 0.0))}
    return found
