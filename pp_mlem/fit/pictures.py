"""The pictures of a fit; how they are drawn stands in `show`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from pp_mlem.base import verbs
from pp_mlem.model.latents import Moments


class Pictures:
    """What can be asked of a fit as a picture."""

    def plot_surface(
        self,
        a: str,
        b: str,
        kind: str = "slice",
        others: Mapping[str, Any] | None = None,
        points: int = 41,
        width: float = 4.0,
        *,
        axes: Any = None,
    ) -> Any:
        """Contours of the objective over two free scalars, such as "mu[0]" and "mu[1]".

        Args:
            a, b: the scalars on the two axes.
            kind: "slice" (the others stay at the estimate; the rest of a simplex is rescaled) or
                "profile" (the others are maximised anew at every point).
            others: more fits by name: their estimates, their paths (fits made with trace=True) and
                their posterior draws are drawn on it. This fit's own path is drawn too.
            points: per axis. width: of each axis to either side, in standard errors.
            axes: matplotlib axes to draw on.

        Returns:
            the matplotlib figure. Surrounding contours are nats below the best value drawn.
        """
        return verbs.plot(
            self, a, b, kind=kind, others=dict(others or {}), points=points, width=width, axes=axes
        )

    def plot_latents(
        self,
        names: Iterable[str] | str | None = None,
        *,
        others: Mapping[str, Any] | None = None,
        units: Mapping[str, Sequence[Any]] | None = None,
        forecasts: Mapping[str, Moments] | None = None,
    ) -> Any:
        """Posterior means and 95% bands of real latents: units in the order of their means, states of a
        scan in time. A panel for each entry of a vector.

        Args:
            names: of the latents; all of them by default.
            others: more fits by name, drawn beside this one where the units are few.
            units: names of the units of a latent, in their order.
            forecasts: moments after the last step, by the name of a state.

        Returns:
            the matplotlib figure.

        Raises:
            ValueError: where there is no such real latent.
        """
        names = [names] if isinstance(names, str) else None if names is None else list(names)
        return verbs.plot_latents(
            self, names, others=others or {}, units=units or {}, forecasts=forecasts or {}
        )

    def plot_loadings(
        self,
        loadings: str | Callable[[dict[str, Any]], ArrayLike] | None = None,
        *,
        rows: Sequence[Any] | None = None,
    ) -> Any:
        """A heat map of loadings with their standard errors.

        Args:
            loadings: the parameter that holds them, or a function of the parameters that returns them
                (rows, factors), as in `estimate`; by default the parameter that a rotation of a real latent
                turns.
            rows: names of the rows.

        Returns:
            the matplotlib figure.
        """
        return verbs.plot_loadings(self, loadings, rows=rows)
