"""Growth curves: the trunks of five orange trees, each on its way to a girth of its own.

a_i ~ Normal(mu, tau),  y_it ~ Normal(a_i / (1 + exp(-(age_t - middle) / scale)), sigma)

The curve is nonlinear in middle and scale, and affine in the trees' asymptotes a, which are latent and
integrated out exactly. mu, tau, middle, scale and sigma are parameters. In EM mu and tau are the mean and
spread of the expected asymptotes, the rest a few Newton steps over the rows. By maximum likelihood log L
= -131.5719, mu = 192.05, middle = 727.9, scale = 348.1, tau = 31.65 and sigma = 7.84 (the example of
lme4's nlmer). Source: Draper & Smith, Applied Regression Analysis (1981), exercise 24.N; Pinheiro & Bates
(2000), doi:10.1007/b98882, section 8.2.

y: girth (mm)
age: age (days)
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

DAYS = np.array([118.0, 484, 664, 1004, 1231, 1372, 1582])
GIRTH = np.array([  # in millimetres
    [30.0, 58, 87, 115, 120, 142, 145], [33, 69, 111, 156, 172, 203, 203],
    [30, 51, 75, 108, 115, 139, 140], [32, 62, 112, 167, 179, 209, 214],
    [30, 49, 81, 125, 142, 174, 177],
])  # fmt: skip

published = {
    "log_likelihood": (-131.5719, 6e-5), "mu": (192.05, 0.006), "middle": (727.9, 0.06),
    "scale": (348.1, 0.06), "tau": (31.65, 0.006), "sigma": (7.84, 0.006),
}  # fmt: skip


def model(y, age):
    mu = numpyro.sample("mu", dist.Normal(200, 50))
    tau = numpyro.sample("tau", dist.HalfNormal(50))
    middle = numpyro.sample("middle", dist.Normal(700, 200))
    scale = numpyro.sample("scale", dist.Gamma(4, 0.01))
    sigma = numpyro.sample("sigma", dist.HalfNormal(20))
    share = 1 / (1 + jnp.exp(-(age - middle) / scale))
    with numpyro.plate("trees", y.shape[0], dim=-2):
        a = numpyro.sample("a", dist.Normal(mu, tau))
        with numpyro.plate("ages", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(a * share, sigma), obs=y)


def data():
    return {"y": GIRTH, "age": DAYS}


def picture(fit):
    """The trees with their curves, each through its own asymptote."""
    from matplotlib.figure import Figure

    (y,) = fit.model.observed_values().values()
    p, a = fit.params, np.ravel(fit.posterior()["a"].mean)
    given = fit.model.arguments
    age = dict(zip(given.names, given.dynamic))["age"]
    days = np.linspace(0, 1.1 * np.max(age), 200)
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for i, (girth, own) in enumerate(zip(y, a)):
        (line,) = axes.plot(days, own / (1 + np.exp(-(days - p["middle"]) / p["scale"])), lw=1.4)
        axes.plot(age, girth, "o", ms=4, color=line.get_color(), label=f"tree {i}")
    axes.set_xlabel("age (days)")
    axes.set_ylabel("girth (mm)")
    axes.set_title(f"Curves at the posterior means of the asymptotes, {fit.method}")
    figure.legend(loc="outside lower center", ncols=min(len(y), 6))
    return figure
