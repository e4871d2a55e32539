"""Decides the role of every site: observed, latent, parameter, or ignored; refuses to guess."""

from __future__ import annotations

from collections.abc import Iterable

from pp_mlem.program.sites import Role
from pp_mlem.program.trace import Message, is_discrete, is_factor


def _check_names(argument: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{argument}: unknown site(s) {unknown}. The unobserved sites of the program are "
            f"{sorted(known)}."
        )


def _descendants(name: str, parents: dict[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    frontier = {name}
    while frontier:
        frontier = {s for s, p in parents.items() if p & frontier} - found
        found |= frontier
    return found


def assign_roles(
    messages: dict[str, Message],
    parents: dict[str, frozenset[str]],
    latents: frozenset[str],
    parameters: frozenset[str],
    refusals: dict[str, str],
) -> dict[str, tuple[Role, str]]:
    """The role of each site and why; `refusals` says why a discrete site has no finite support.

    Raises ValueError for ambiguous sites, unknown names, contradictory overrides, a program
    without an observed site, and latents that no structure can sum.
    """
    unobserved = {n for n, m in messages.items() if not m.observed}
    _check_names("latents", latents, unobserved)
    _check_names("parameters", parameters, unobserved)
    both = sorted(latents & parameters)
    if both:
        raise ValueError(f"site(s) {both} are named both in latents= and in parameters=.")
    observed = {n for n, m in messages.items() if m.observed}
    if not observed:
        raise ValueError(
            "the program has no observed site. Pass data with obs=, as in "
            'numpyro.sample("x", dist.Normal(mu, 1), obs=x), or add a numpyro.factor.'
        )
    discrete = [
        n for n in unobserved if messages[n].kind == "sample" and is_discrete(messages[n].fn)
    ]
    units = [*sorted(observed), *sorted(discrete)]
    roles: dict[str, tuple[Role, str]] = {}
    ambiguous: dict[str, str] = {}
    for name, message in messages.items():
        if message.observed:
            kind = "numpyro.factor" if is_factor(message.fn) else "has a value"
            roles[name] = (Role.OBSERVED, kind)
            continue
        if message.kind == "param":
            roles[name] = (Role.PARAMETER, "numpyro.param: flat on its support")
            if name in latents:
                raise ValueError(f"latents: '{name}' is a numpyro.param, always a parameter.")
            continue
        below = _descendants(name, parents)
        random_parents = sorted(p for p in parents[name] if messages[p].kind == "sample")
        if is_discrete(message.fn):
            if name in parameters:
                raise ValueError(
                    f"parameters: '{name}' is discrete; only continuous sites can be parameters."
                )
            if not below & observed and name in refusals:
                roles[name] = (Role.IGNORED, "no observation depends on it: it sums to one")
            else:
                roles[name] = (Role.LATENT, "discrete and unobserved: summed out")
            continue
        if name in parameters:
            roles[name] = (Role.PARAMETER, "named in parameters=")
        elif name in latents:
            roles[name] = (Role.LATENT, "named in latents=")
        elif random_parents and not below & observed:
            roles[name] = (Role.IGNORED, "no observation depends on it: it integrates to one")
        elif random_parents:
            roles[name] = (
                Role.LATENT,
                f"continuous, and its distribution depends on {', '.join(random_parents)}",
            )
        else:
            own = {plate for plate, _, _ in message.plates}
            hosts = [n for n in units if own and own == {p for p, _, _ in messages[n].plates}]
            if hosts:
                ambiguous[name] = hosts[0]
            roles[name] = (Role.PARAMETER, "continuous, depends on no other unobserved site")
    if ambiguous and (latents or parameters):
        side = Role.LATENT if parameters and not latents else Role.PARAMETER
        word = "parameters=" if side is Role.LATENT else "latents="
        for name in ambiguous:
            if name not in latents | parameters:
                roles[name] = (side, f"the other side of the choice made in {word}")
    elif ambiguous:
        name, host = next(iter(ambiguous.items()))
        names = ", ".join(f'"{n}"' for n in ambiguous)
        raise ValueError(
            f"ambiguous site(s) {sorted(ambiguous)}: '{name}' is continuous, has no random "
            f"parents and has the plates of '{host}', so it could be a "
            f"latent of each unit or a parameter. Pass Model(..., parameters={{{names}}}) to "
            f"estimate, or Model(..., latents={{{names}}}) to integrate out; naming one side "
            "settles the other."
        )
    _refuse_unsummable(messages, roles, refusals)
    return roles


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
    if continuous:
        name, reason = next(iter(continuous.items()))
        names = ", ".join(f'"{n}"' for n in continuous)
        raise ValueError(
            f"latent '{name}' ({reason}): no structure can integrate a continuous latent out "
            f"exactly. Estimate it with Model(..., parameters={{{names}}}): its distribution is "
            "then its prior, hierarchical or not, and counts in MAP and in fit_nuts, which samples "
            "all parameters jointly as numpyro.infer.NUTS does on the program itself; or make it "
            "discrete."
        )
    for name, (role, _) in roles.items():
        if role is Role.LATENT and name in refusals:
            raise ValueError(refusals[name])
