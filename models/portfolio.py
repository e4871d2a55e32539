"""A portfolio: assets grouped by what they return and how they are exposed to common factors.

z_i ~ Categorical(w),  b_i ~ Normal(B[z_i], S[z_i]),  r_it ~ Normal(b_i0 + b_i1 f_t1 + b_i2 f_t2, sigma)

r is the return of asset i in month t (per cent), f are the factors (the market, and large less small
firms), which are known; w, B, S and sigma are parameters. Each asset has a mean return and exposures b of
its own, latent and integrated out exactly; assets of one group have them from one law. So the returns of
a group are Gaussian with a low-rank covariance of their own, and the portfolio is a mixture of such
factor models. EM's M-steps are shares, means and expected squares of the exposures. Random coefficients:
Swamy (1970), doi:10.2307/1913012; growth mixtures as here: Muthen & Shedden (1999),
doi:10.1111/j.0006-341X.1999.00463.x. Simulated: 120 assets of three groups (utilities that hardly move
with the market, broad funds, small technology), ten years of months.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

EXPOSURES = np.array([[0.3, 0.4, -0.1], [0.5, 1.0, 0.0], [0.9, 1.5, 0.8]])
SPREADS = np.array([[0.2, 0.1, 0.1], [0.3, 0.15, 0.15], [0.4, 0.2, 0.3]])

truth = {"w": [0.3, 0.5, 0.2], "B": EXPOSURES, "S": SPREADS, "sigma": 1.5}


def model(r, f, K=3):
    design = jnp.concatenate([jnp.ones((len(f), 1)), f], 1)
    size = design.shape[1]
    w = numpyro.sample("w", dist.Dirichlet(2 * jnp.ones(K)))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5))
    with numpyro.plate("groups", K):
        B = numpyro.sample("B", dist.Normal(0, 2).expand([size]).to_event(1))
        S = numpyro.sample("S", dist.LogNormal(-1.5, 1).expand([size]).to_event(1))
    with numpyro.plate("assets", len(r)):
        z = numpyro.sample("z", dist.Categorical(w))
        b = numpyro.sample("b", dist.Normal(B[z], S[z]).to_event(1))
        numpyro.sample("r", dist.Normal(b @ design.T, sigma).to_event(1), obs=r)


def simulated(assets=120, months=120, seed=0):
    """The arguments of the program, and the group of every asset."""
    rng = np.random.default_rng(seed)
    f = rng.normal([0.5, 0.1], [4.0, 2.5], (months, 2))
    z = rng.choice(3, assets, p=[0.3, 0.5, 0.2])
    b = EXPOSURES[z] + SPREADS[z] * rng.normal(size=(assets, 3))
    r = b[:, :1] + b[:, 1:] @ f.T + 1.5 * rng.normal(size=(assets, months))
    return {"r": r, "f": f}, z


def data():
    return simulated()[0]


def picture(fit):
    """The exposures of the assets to the two factors, coloured by group, with nine tenths of each group's law."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    b, group = np.asarray(fit.posterior()["b"].mean), fit.decode()["z"]
    p = fit.params
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for k, (centre, spread) in enumerate(zip(p["B"], p["S"])):
        size = 2 * np.sqrt(2 * np.log(10)) * spread  # of an ellipse that holds 90% of a normal law
        own = b[group == k]
        label = f"group {k}: {len(own)} assets, {centre[0]:.2f}% a month"
        (dots,) = axes.plot(own[:, 1], own[:, 2], "o", ms=4, label=label)
        ring = {"fill": False, "color": dots.get_color(), "lw": 1.4}
        axes.add_patch(Ellipse((centre[1], centre[2]), size[1], size[2], **ring))
    axes.autoscale_view()
    axes.set_xlabel("exposure to the market")
    axes.set_ylabel("exposure to small less large firms")
    axes.set_title(f"Assets at the posterior means of their exposures, {fit.method}")
    figure.legend(loc="outside lower center")
    return figure
