"""Decides the role of every site: observed, latent, parameter, or ignored; refuses to guess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pp_mlem.program.distributions import (
    innermost,
    is_discrete,
    is_factor,
    is_flat,
    is_gaussian_or_flat,
)
from pp_mlem.program.messages import Message
from pp_mlem.program.sites import Role
from pp_mlem.program.standardised import Standardised

ONLY_TIMES = "a Gaussian that enters only times"


def _check_names(argument: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{argument}: unknown site(s) {unknown}. The unobserved sites of the program are "
            f"{sorted(known)}."
        )


def _descendants(name: str, parents: dict[str, frozenset[str]]) -> set[str]:
    below: set[str] = set()
    frontier = {name}
    while frontier:
        frontier = {s for s, p in parents.items() if p & frontier} - below
        below |= frontier
    return below


@dataclass(frozen=True)
class _Program:
    """The sites of a program, what they depend on, and what the user says of them."""

    messages: dict[str, Message]
    parents: dict[str, frozenset[str]]
    latents: frozenset[str]
    parameters: frozenset[str]
    refusals: dict[str, str]
    movers: frozenset[str]
    standardised: dict[str, Standardised]

    def is_observed_below(self, name: str) -> bool:
        below = _descendants(name, self.parents)
        return any(self.messages[n].observed for n in below)

    def is_needed(self, name: str) -> bool:
        """Whether an observation, or a latent that the user names, depends on a site."""
        below = _descendants(name, self.parents)
        return any(self.messages[n].observed or n in self.latents for n in below)

    def unit_of(self, name: str) -> str | None:
        """An observed or discrete site with all the plates of this one, if it has any."""
        own = {plate for plate, _, _ in self.messages[name].plates}
        observed = sorted(n for n, m in self.messages.items() if m.observed)
        discrete = sorted(n for n, m in self.messages.items() if not m.observed and _is_discrete(m))
        plates = {n: {p for p, _, _ in self.messages[n].plates} for n in (*observed, *discrete)}
        return next((n for n in plates if own and own == plates[n]), None)


def _is_discrete(message: Message) -> bool:
    return message.kind == "sample" and is_discrete(message.fn)


def assign_roles(
    messages: dict[str, Message],
    parents: dict[str, frozenset[str]],
    latents: frozenset[str],
    parameters: frozenset[str],
    refusals: dict[str, str],
    movers: frozenset[str] = frozenset(),
    standardised: Mapping[str, Standardised] = MappingProxyType({}),
) -> dict[str, tuple[Role, str]]:
    """The role of each site and why; `refusals` says why a discrete site has no finite support,
    `movers` are the real latents that a scan carries from step to step, `standardised` the random
    effects that are written as a scale times a standard Gaussian.

    Raises ValueError for ambiguous sites, unknown names, contradictory overrides, a program
    without an observed site, and latents that no structure can sum.
    """
    program = _Program(messages, parents, latents, parameters, refusals, movers, dict(standardised))
    _check_overrides(program)
    roles: dict[str, tuple[Role, str]] = {}
    ambiguous: dict[str, str] = {}  # with the site whose units it could be a latent of
    for name, message in messages.items():
        if message.observed:
            reason = "numpyro.factor" if is_factor(message.fn) else "has a value"
            roles[name] = (Role.OBSERVED, reason)
        elif message.kind == "param":
            roles[name] = _of_param(name, program)
        elif is_discrete(message.fn):
            roles[name] = _of_discrete(name, program)
        else:
            roles[name], unit = _of_continuous(name, program)
            ambiguous |= {} if unit is None else {name: unit}
    if ambiguous and not (latents or parameters):
        _refuse_ambiguous(ambiguous)
    side = Role.LATENT if parameters and not latents else Role.PARAMETER
    word = "parameters=" if side is Role.LATENT else "latents="
    for name in set(ambiguous) - latents - parameters:
        roles[name] = (side, f"the other side of the choice made in {word}")
    _refuse_unsummable(messages, roles, refusals)
    return roles


def _check_overrides(program: _Program) -> None:
    """The names in latents= and parameters= are of unobserved sites, and there is data."""
    unobserved = {n for n, m in program.messages.items() if not m.observed}
    _check_names("latents", program.latents, unobserved)
    _check_names("parameters", program.parameters, unobserved)
    both = sorted(program.latents & program.parameters)
    if both:
        raise ValueError(f"site(s) {both} are named both in latents= and in parameters=.")
    if len(unobserved) == len(program.messages):
        named = ", ".join(f"'{n}'" for n in sorted(program.latents))
        left = f"latents: with {named} named there, " if named else ""
        raise ValueError(
            f"{left}the program has no observed site. Pass data with obs=, as in "
            'numpyro.sample("x", dist.Normal(mu, 1), obs=x), or add a numpyro.factor.'
        )


def _of_param(name: str, program: _Program) -> tuple[Role, str]:
    if name in program.latents:
        raise ValueError(f"latents: '{name}' is a numpyro.param, always a parameter.")
    return Role.PARAMETER, "numpyro.param: flat on its support"


def _of_discrete(name: str, program: _Program) -> tuple[Role, str]:
    if name in program.parameters:
        raise ValueError(
            f"parameters: '{name}' is discrete; only continuous sites can be parameters."
        )
    if name in program.refusals and not program.is_observed_below(name):
        return Role.IGNORED, "no observation depends on it: it sums to one"
    return Role.LATENT, "discrete and unobserved: summed out"


def _of_continuous(name: str, program: _Program) -> tuple[tuple[Role, str], str | None]:
    """The role of a continuous site; also, if it could be a latent as well, of which site's units."""
    if name in program.parameters:
        return (Role.PARAMETER, "named in parameters="), None
    if name in program.latents:
        if is_flat(program.messages[name].fn) and not program.is_observed_below(name):
            raise ValueError(
                f"latent '{name}' has a flat law, and no observation depends on it: it cannot be integrated "
                "out. Leave it out of the program, or give it a proper law."
            )
        return (Role.LATENT, "named in latents="), None
    if name in program.movers:
        return (Role.LATENT, "continuous, carried by the scan from step to step"), None
    above = sorted(program.parents[name])  # a numpyro.param is estimated, too
    if not above and name in program.standardised:
        return _of_standardised(name, program)
    if not above:
        reason = "continuous, depends on no other unobserved site"
        return (Role.PARAMETER, reason), program.unit_of(name)
    if not program.is_needed(name):
        return (Role.IGNORED, "no observation depends on it: it integrates to one"), None
    reason = f"continuous, and its distribution depends on {', '.join(above)}"
    return (Role.LATENT, reason), None


def _of_standardised(name: str, program: _Program) -> tuple[tuple[Role, str], str | None]:
    """The role of a Gaussian that is a random effect but for its scale, which multiplies it."""
    own = program.standardised[name]
    scales = ", ".join(own.scales)
    if own.not_gaussian is None:
        reason = f"{ONLY_TIMES} {scales}: a random effect of that scale"
        return (Role.LATENT, reason), program.unit_of(name)
    reason = (
        f"a random effect of scale {scales}, estimated, since '{own.not_gaussian}' below it is no Gaussian: the "
        "likelihood does not tell its scale, only a prior does"
    )
    return (Role.PARAMETER, reason), program.unit_of(name)


def _refuse_ambiguous(ambiguous: dict[str, str]) -> None:
    name, host = next(iter(ambiguous.items()))
    names = ", ".join(f'"{n}"' for n in ambiguous)
    raise ValueError(
        f"ambiguous site(s) {sorted(ambiguous)}: '{name}' is continuous, has no unobserved "
        f"parents and has the plates of '{host}', so it could be a "
        f"latent of each unit or a parameter. Pass Model(..., parameters={{{names}}}) to "
        f"estimate, or Model(..., latents={{{names}}}) to integrate out; naming one side "
        "settles the other."
    )


def not_exact(name: str, reason: str, continuous: Iterable[str], how: str) -> str:
    """The refusal of a real latent that no step integrates out: how it is, and what to do."""
    names = ", ".join(f'"{n}"' for n in continuous)
    return (
        f"latent '{name}' ({reason}): no structure can integrate a continuous latent out exactly {how}. "
        "What can be is a Normal or MultivariateNormal in plates that enters the means of other Normals "
        f"affinely. Estimate it with Model(..., parameters={{{names}}}): its distribution is "
        "then its prior, hierarchical or not, and counts in MAP and in fit_nuts, which samples "
        "all parameters jointly as numpyro.infer.NUTS does on the program itself; or approximate it by "
        "a discrete one, a Categorical over the nodes of a quadrature with their weights, of which each unit "
        "reads the value."
    )


def _refuse_unsummable(
    messages: dict[str, Message],
    roles: dict[str, tuple[Role, str]],
    refusals: dict[str, str],
) -> None:
    continuous = {
        name: reason
        for name, (role, reason) in roles.items()
        if role is Role.LATENT and not is_discrete(messages[name].fn)
    }
    for name, reason in continuous.items():
        fn = messages[name].fn
        if not is_gaussian_or_flat(fn):
            how = f"whose distribution is {type(innermost(fn)).__name__}"
            raise ValueError(not_exact(name, reason, continuous, how))
    for name, (role, _) in roles.items():
        if role is Role.LATENT and name in refusals:
            raise ValueError(refusals[name])
