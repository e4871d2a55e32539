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

    def plot_components(self, site: str | None = None) -> Any:
        """The data of an observed site whose distribution one finite latent chooses, in the colours of the
        components: a histogram or a plane under the components' densities, more columns in pairs, a profile
        of binary items with 95% intervals, a series over its decoded states, or a regression's rows with
        the components' curves. Colours are paler where a label is less sure; above 5,000 rows planes are
        counted in hexagons.

        Args:
            site: the observed site; the first that can be drawn by default.

        Returns:
            the matplotlib figure, None where no site can be drawn so.

        Raises:
            ValueError: for a name that is no observed site, and for a fit without its model.
        """
        return verbs.plot_components(self, site)

    def plot_predictive_check(self, draws: int = 100) -> Any:
        """Data drawn from the fit against the data: by covariate where the predictions depend on one, each column
        apart, and the autocorrelation of a series. Of a point fit the parameters are drawn from its asymptotic
        normal distribution.

        Args:
            draws: data sets; fewer of large data, none beyond a million cells.

        Returns:
            the matplotlib figure, None where data cannot be drawn, or rows carry case weights.
        """
        return verbs.plot_predictive_check(self, draws)

    def plot_latents(
        self,
        names: Iterable[str] | str | None = None,
        *,
        others: Mapping[str, Any] | None = None,
        units: Mapping[str, Sequence[Any]] | None = None,
        forecasts: Mapping[str, Moments] | None = None,
        observed: Mapping[str, ArrayLike] | None = None,
    ) -> Any:
        """Posterior means and 95% bands of real latents: units in the order of their means, states of a
        scan in time. A panel for each entry of a vector.

        Args:
            names: of the latents; all of them by default.
            others: more fits by name, drawn beside this one where the units are few.
            units: names of the units of a latent, in their order.
            forecasts: moments after the last step, by the name of a state.
            observed: data on the scale of a state, (steps, ...), by its name; they are drawn as points.

        Returns:
            the matplotlib figure.

        Raises:
            ValueError: where there is no such real latent.
        """
        names = [names] if isinstance(names, str) else None if names is None else list(names)
        return verbs.plot_latents(
            self,
            names,
            others=others or {},
            units=units or {},
            forecasts=forecasts or {},
            observed=observed or {},
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
