"""Which argument of a distribution is which parameter, found by probing with unique values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pp_mlem.base.compiling import quick_jit
from pp_mlem.families import family_of
from pp_mlem.program.distributions import as_floating, is_factor, unwrap
from pp_mlem.program.messages import Message
from pp_mlem.program.reading import Reading
from pp_mlem.program.sites import Role


@dataclass(frozen=True)
class Binding:
    """How an argument of a site depends on the parameters.

    kind: "constant" (no parameter), "direct" (every entry is one entry of a parameter) or
    "computed". `parameters` are those involved, in program order.
    """

    kind: str
    parameters: tuple[str, ...]


def offsets(reading: Reading) -> dict[str, int]:
    """Where each parameter's entries start in the concatenation of all parameters."""
    starts, start = {}, 0
    for site in reading.space.sites:
        starts[site.name] = start
        start += int(np.prod(site.shape))
    return starts


def iota_parameters(reading: Reading) -> dict[str, np.ndarray]:
    """Every parameter entry set to its own global index (whatever its support)."""
    start = offsets(reading)
    return {
        s.name: (start[s.name] + np.arange(int(np.prod(s.shape)), dtype=float)).reshape(s.shape)
        for s in reading.space.sites
    }


def own_arguments(message: Message) -> dict[str, jax.Array]:
    """The arguments of a site's distribution, as they are before plates expand them. Those that a
    family estimates are floating, whatever the program wrote: Normal(mu, 1), an integer array."""
    fn = unwrap(message.fn).fn
    args = {k: jnp.asarray(v) for k, v in fn.get_args().items() if v is not None}
    family = family_of(fn)
    if family is None:
        return args
    return {
        k: as_floating(v) if k in family.arguments else v
        for k, v in given_arguments(family, args).items()
    }


def site_arguments(
    message: Message, trailing: dict[tuple[str, str], int] | None = None
) -> dict[str, Any]:
    """`own_arguments`, ready to be given a dimension of steps. `trailing` receives how many
    dimensions of each (site, argument) follow those of the batch."""
    bare = unwrap(message.fn)
    family = family_of(bare.fn)
    events = {} if family is None else family.arguments
    arguments = {}
    for k, v in own_arguments(message).items():
        after = bare.columns + events.get(k, _event_dims(bare.fn, k, jnp.ndim(v)))
        arguments[k] = message.placed(v, after)
        if trailing is not None:
            trailing[message.name, k] = min(after, jnp.ndim(v))
    return arguments


def _event_dims(fn: Any, argument: str, ndim: int) -> int:
    """The event dimensions of an argument as its distribution declares them, else those of its values."""
    constraint = getattr(fn, "arg_constraints", {}).get(argument)
    if constraint is not None:
        return min(constraint.event_dim, ndim)
    rank = len(fn.event_shape)
    return rank if ndim >= rank else 0


def given_arguments(family: Any, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the program gave, without those that a distribution derives from them."""
    known = {k: v for k, v in args.items() if k in family.arguments or k in family.known}
    return family.given(known)


def find_bindings(
    reading: Reading, dynamic: tuple, names: frozenset[str]
) -> dict[str, dict[str, Binding]]:
    """Probe the program with two sets of unique values and classify every argument."""
    space = reading.space
    total = sum(int(np.prod(s.shape)) for s in space.sites)
    first = iota_parameters(reading)
    shuffle = np.random.default_rng(0).permutation(total) + 0.5
    second = {s.name: shuffle[first[s.name].astype(int)] for s in space.sites}

    @quick_jit
    def probe(params: dict[str, Any], data: tuple) -> dict:
        return reading.run(params, data, site_arguments, wanted=names)

    a, b = jax.device_get((probe(first, dynamic), probe(second, dynamic)))
    parameters = {s.name for s in reading.with_role(Role.PARAMETER)}
    owner = np.concatenate(
        [np.full(int(np.prod(s.shape)), i) for i, s in enumerate(space.sites)] + [np.zeros(0)]
    )
    bindings: dict[str, dict[str, Binding]] = {}
    for name in names:
        bindings[name] = {}
        for argument, value in a[name].items():
            depends = reading.dependencies[name].get(f"argument {argument}", frozenset())
            involved = tuple(n for n in space.names if n in depends & parameters)
            kind = "computed" if involved else "constant"
            entries = _entries(value, b[name][argument], shuffle) if involved else None
            if entries is not None:
                used = np.unique(owner[entries]).astype(int)
                if {space.names[i] for i in used} <= set(involved):
                    kind, involved = "direct", tuple(space.names[i] for i in used)
            bindings[name][argument] = Binding(kind, involved)
    return bindings


def _entries(first: Any, second: Any, shuffle: np.ndarray) -> np.ndarray | None:
    """The parameter entries that an argument's own are, by its values at both probes; None where
    one of them is no such entry."""
    index = np.asarray(first, float)
    if not np.all(np.isfinite(index)):
        return None
    if not np.all((index == np.round(index)) & (index >= 0) & (index < len(shuffle))):
        return None
    entries = index.astype(int)
    return entries if np.array_equal(np.asarray(second, float), shuffle[entries]) else None


def closed_form_candidates(reading: Reading, messages_fn: dict[str, Any]) -> frozenset[str]:
    """Sites whose distribution is a known exponential family."""
    return frozenset(
        s.name
        for s in reading.sites.values()
        if (s.role is Role.OBSERVED or s.law_of)
        and s.name in messages_fn
        and not is_factor(messages_fn[s.name])
        and family_of(unwrap(messages_fn[s.name]).fn) is not None
    )
