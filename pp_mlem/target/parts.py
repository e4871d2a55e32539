"""How functions of a target are put together from parts of the rows.

Rows that come in chunks are never all there. A function of a target says of itself what it is then: one that
reads no rows (`without_rows`), one that is linear in the objective, so that its values add up over the rows
(`adds_up`), or one of two `Parts`. Any other is refused for such data, so that none answers for one chunk alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from pp_mlem.base.joined import added

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parts:
    """`part(target, *given)` is a pytree that adds up over the rows; its target has some of the rows, and no prior.
    `whole(target, total, *given)` is the function's value; its target has the rows of the first chunk alone, for
    the shapes of what belongs to no row. `join` adds the values of two parts, on the host.
    `by_objective`: the function knows the rows by the objective and its expected statistics alone."""

    part: Callable[..., Any]
    whole: Callable[..., Any]
    join: Callable[[Any, Any], Any] = added
    by_objective: bool = False


WITHOUT_ROWS = "reads no rows"
_ATTRIBUTE = "_over_rows"


def without_rows(function: F) -> F:
    """Mark a function of a target that gives the same for any rows."""
    setattr(function, _ATTRIBUTE, WITHOUT_ROWS)
    return function


def adds_up(function: F) -> F:
    """Mark a function that is linear in the objective: what it gives of the log-likelihood adds up over rows, and
    what it gives of the log prior is added."""

    def whole(target: Any, total: Any, *given: Any) -> Any:
        if not target.problem.with_prior:
            return total
        prior = function(target.prior_alone, *given)
        return jax.tree.map(lambda a, b: a + b, total, prior)

    setattr(function, _ATTRIBUTE, Parts(function, whole, by_objective=True))
    return function


def of_rows_alone(function: F) -> F:
    """Mark a function whose values add up over the rows, and that knows no prior."""
    setattr(function, _ATTRIBUTE, Parts(function, lambda target, total, *given: total))
    return function


def in_parts(
    part: Callable[..., Any],
    whole: Callable[..., Any],
    join: Callable[[Any, Any], Any] = added,
    by_objective: bool = False,
) -> Callable[[F], F]:
    """Mark a function that is put together from these."""

    def mark(function: F) -> F:
        setattr(function, _ATTRIBUTE, Parts(part, whole, join, by_objective))
        return function

    return mark


def over_rows(function: Callable[..., Any]) -> Parts | str | None:
    """What a function is over rows; None where it has not said so."""
    return getattr(function, _ATTRIBUTE, None)
