"""Structural equations: is alienation stable, and how much of it is status?

status_i ~ Normal(0, s0),  then_i ~ Normal(b0 status_i, s1),  later_i ~ Normal(b1 status_i + b2 then_i, s2)

Anomia and powerlessness measure alienation in 1967 (then) and in 1971 (later), schooling and an index of
occupation measure status; what anomia measures besides may be correlated over the years. The three latent
variables are integrated out exactly; load, b, s, S and noise are parameters. EM's M-steps are regressions
on expected moments. Of the 932 people only the covariances are published: the rows are made up so that
they have exactly these. The chi-squared statistic against all covariances free, 931 times the
discrepancy, is 6.3307 on 5 degrees of freedom (Fox 2006, doi:10.1207/s15328007sem1303_7), which by these
rows is log L = -15217.0768. Source: Wheaton, Muthen, Alwin & Summers (1977), doi:10.2307/270754.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PEOPLE = 932
COVARIANCE = np.array([  # anomia 67, powerlessness 67, anomia 71, powerlessness 71, schooling, occupation
    [11.834, 6.947, 6.819, 4.783, -3.839, -21.899], [6.947, 9.364, 5.091, 5.028, -3.889, -18.831],
    [6.819, 5.091, 12.532, 7.495, -3.841, -21.748], [4.783, 5.028, 7.495, 9.986, -3.625, -18.775],
    [-3.839, -3.889, -3.841, -3.625, 9.610, 35.522],
    [-21.899, -18.831, -21.748, -18.775, 35.522, 450.288],
])  # fmt: skip

published = {"log_likelihood": (-15217.07684, 4e-5)}  # from the chi-squared statistic


def model(anomia, powerless, status):
    n = len(anomia)
    load = numpyro.sample("load", dist.Normal(1, 5).expand([3]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(3).expand([3]).to_event(1))
    S = numpyro.param("S", 4 * jnp.eye(2), constraint=dist.constraints.positive_definite)
    noise = numpyro.sample("noise", dist.HalfNormal(10).expand([4]).to_event(1))
    with numpyro.plate("people", n):
        ses = numpyro.sample("ses", dist.Normal(0, s[0]))
        then = numpyro.sample("then", dist.Normal(b[0] * ses, s[1]))
        later = numpyro.sample("later", dist.Normal(b[1] * ses + b[2] * then, s[2]))
        both = jnp.stack([then, later], -1)
        numpyro.sample("anomia", dist.MultivariateNormal(both, S), obs=anomia)
        mean = both * load[:2]
        numpyro.sample("powerless", dist.Normal(mean, noise[:2]).to_event(1), obs=powerless)
        mean = jnp.stack([ses, load[2] * ses], -1)
        numpyro.sample("status", dist.Normal(mean, noise[2:]).to_event(1), obs=status)


def data():
    white = np.random.default_rng(0).normal(size=(PEOPLE, 6))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / PEOPLE)).T
    x = white @ np.linalg.cholesky(COVARIANCE).T
    return {"anomia": x[:, [0, 2]], "powerless": x[:, [1, 3]], "status": x[:, 4:]}


def picture(fit):
    """The path diagram: latents as ellipses, measures as boxes, coefficients at the arrows."""
    from matplotlib.figure import Figure

    p = {k: np.asarray(v) for k, v in fit.params.items()}
    load, b, S = p["load"], p["b"], p["S"]
    latents = {
        "status": (0.14, 0.38),
        "alienation\n1967": (0.48, 0.64),
        "alienation\n1971": (0.83, 0.38),
    }
    status, then, later = latents
    measures = {
        "schooling": (0.05, 0.04), "occupation": (0.25, 0.04), "anomia\n1967": (0.37, 0.95),
        "powerlessness\n1967": (0.61, 0.95), "anomia\n1971": (0.72, 0.04),
        "powerlessness\n1971": (0.93, 0.04),
    }  # fmt: skip
    at = latents | measures
    arrows = [
        (status, "schooling", 1), (status, "occupation", load[2]), (then, "anomia\n1967", 1),
        (then, "powerlessness\n1967", load[0]), (later, "anomia\n1971", 1),
        (later, "powerlessness\n1971", load[1]), (status, then, b[0]), (status, later, b[1]),
        (then, later, b[2]),
    ]  # fmt: skip
    figure = Figure(figsize=(7.4, 5.0), layout="constrained")
    axes = figure.subplots()
    for name, place in at.items():
        shape = "round,pad=0.6,rounding_size=1.2" if name in latents else "square,pad=0.4"
        box = {"boxstyle": shape, "fc": "#dde7f2" if name in latents else "white", "ec": "0.3"}
        axes.annotate(name, place, ha="center", va="center", bbox=box, fontsize=9, zorder=3)
    for start, end, weight in arrows:
        away = 34 if end in latents else 20  # points to the middle of a box
        line = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": away}
        axes.annotate("", at[end], at[start], arrowprops=line, zorder=1)
        middle = (np.array(at[start]) + at[end]) / 2
        told = f"{weight:.2f}" if weight != 1 else "1"
        axes.annotate(
            told,
            middle,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )
    correlation = S[0, 1] / np.sqrt(S[0, 0] * S[1, 1])
    axes.set_title(
        f"Path coefficients, {fit.method}; the errors of anomia correlate by {correlation:.2f}"
    )
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.0), xticks=[], yticks=[])
    axes.set_axis_off()
    return figure
