"""Structural time series: quarterly carbon dioxide at Mauna Loa, 1959-2001, with its season.

slope_t ~ Normal(slope_{t-1}, s_slope),  level_t ~ Normal(level_{t-1} + slope_t, s_level),
season_t ~ Normal(-(season_{t-1} + season_{t-2} + season_{t-3}), s_season),
y_t ~ Normal(level_t + season_t, s_noise)

The scales are parameters; level, slope and season are latent and integrated out by a Kalman recursion,
with a flat law of what comes before the first quarter. EM's M-steps are mean expected squares. A basic
structural model: Harvey, Forecasting, Structural Time Series Models and the Kalman Filter (1989), section
2.3.4, doi:10.1017/CBO9781107049994. Data: means of the weekly measurements in parts per million, from
statsmodels (co2); quarters without any are missing. Its UnobservedComponents has the same diffuse
log-likelihood at the same scales, -55.5994 at the maximum (without the constants of the first five).

y: carbon dioxide (ppm)
"""

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

options = {"latents": {"before"}}


def model(y):
    scales = {
        name: numpyro.sample(f"s_{name}", dist.HalfNormal(1))
        for name in ("level", "slope", "season", "noise")
    }
    before = numpyro.sample("before", dist.ImproperUniform(dist.constraints.real_vector, (), (5,)))

    def step(carry, y_t):
        level, slope, (one, two, three) = carry
        slope = numpyro.sample("slope", dist.Normal(slope, scales["slope"]))
        level = numpyro.sample("level", dist.Normal(level + slope, scales["level"]))
        season = numpyro.sample("season", dist.Normal(-one - two - three, scales["season"]))
        numpyro.sample("y", dist.Normal(level + season, scales["noise"]), obs=y_t)
        return (level, slope, (season, one, two)), None

    scan(step, (before[0], before[1], (before[2], before[3], before[4])), y)


def data():
    from statsmodels.datasets import co2

    weekly = co2.load_pandas().data["co2"]
    return {"y": np.asarray(weekly["1959":].resample("QS").mean(), float)}


def picture(fit):
    """The series with its level, its season, and how fast it grows, with 95% bands."""
    from matplotlib.figure import Figure

    (y,) = fit.model.observed_values().values()
    year = 1959 + np.arange(len(y)) / 4
    posterior = fit.posterior()
    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    panels = (
        ("level", 1, "carbon dioxide (ppm)"), ("season", 1, "season (ppm)"),
        ("slope", 4, "growth (ppm a year)"),
    )  # fmt: skip
    for axes, (name, times, label) in zip(figure.subplots(3, 1, sharex=True), panels):
        mean, sd = (times * np.ravel(v) for v in (posterior[name].mean, posterior[name].sd))
        if name == "level":
            axes.plot(year, y, ".", ms=3, color="0.5", label="measured")
        axes.plot(year, mean, lw=1.4, color="#4477aa", label="expected")
        band = {"color": "#4477aa", "alpha": 0.25, "lw": 0, "label": "95% band"}
        axes.fill_between(year, mean - 1.96 * sd, mean + 1.96 * sd, **band)
        axes.set_ylabel(label)
    axes.set_xlabel("year")
    figure.suptitle(f"Level, season and slope, {fit.method}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
