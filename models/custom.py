"""A model of one's own, step by step: do all customers of a cafe use its coupons?

segment_i ~ Categorical(share),  visits_im ~ Poisson(exp(base[segment_i] + lift[segment_i] coupon_im))

This file is meant to be copied. The story: a cafe sends coupons in some months and counts the visits of each
customer. It believes that there are kinds of customers, who come more or less often (base) and are moved
more or less by a coupon (lift), but nobody knows who is of which kind. So the segment of a customer is latent, a
discrete variable that is summed out; share, base and lift are parameters. EM weighs each customer by the
probability of each segment, counts for the shares, and runs a weighted Poisson regression for base and lift.

visits: visits in a month
coupon: got a coupon in this month

Data: 150 customers in six months, simulated: 60% come seldom and hardly notice a coupon, 30% often and not
because of it, 10% come for the coupons.
"""

# 1. What to import. A program is plain NumPyro; nothing in it knows about pp_mlem.
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

# 2. True values, since these data are simulated: whoever reads this can see whether a fit finds them.
#    With data of your own there is no `truth`.
truth = {
    "share": np.array([0.6, 0.3, 0.1]),
    "base": np.log([0.8, 5.0, 1.5]),  # logs of visits in a month without a coupon
    "lift": np.array([0.2, 0.0, 1.5]),  # exp(1.5) = 4.5 times as many visits with one
}


# 3. The program: how the data came about, from the parameters down to what was seen. Its arguments are the
#    data (visits and coupon: customers x months) and settings (K), which `--set K=2` or `select` change.
def model(visits, coupon, K=3):
    customers, months = visits.shape

    # 3a. Parameters: continuous, and drawn from nothing unknown. Their priors serve MAP and NUTS; EM
    #     and MLE take only their support. Let them be wide, but say what is absurd: a lift of 10 is.
    share = numpyro.sample("share", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("segments", K):
        base = numpyro.sample("base", dist.Normal(0, 1.5))
        lift = numpyro.sample("lift", dist.Normal(0, 1))

    # 3b. Latent and observed: each customer has a segment, and a count in each month. A plate says "independent,
    #     given the rest". dim=-2 is the axis of customers in `visits`, dim=-1 that of months.
    with numpyro.plate("customers", customers, dim=-2):
        segment = numpyro.sample("segment", dist.Categorical(share))  # no obs: latent
        with numpyro.plate("months", months, dim=-1):
            rate = jnp.exp(base[segment] + lift[segment] * coupon)
            numpyro.sample("visits", dist.Poisson(rate), obs=visits)  # obs: observed


# 4. The data: a dict with the program's arguments. `pp-mlem compare custom.py --data rows.csv` takes columns
#    of a table in place of these.
def data():
    rng = np.random.default_rng(1)
    segment = rng.choice(3, size=150, p=truth["share"])
    coupon = rng.integers(2, size=(150, 6)).astype(float)
    rate = np.exp(truth["base"][segment, None] + truth["lift"][segment, None] * coupon)
    return {"visits": rng.poisson(rate), "coupon": coupon}


# 5. That is all a model needs. From here:
#
#        pp-mlem show custom                      how it is read: is every role what you meant?
#        pp-mlem compare custom                   EM, MLE, MAP and NUTS side by side, and a report
#        pp-mlem select custom --over K=1:5       how many segments?
#
#    or in Python:
#
#        from pp_mlem import Model, fit_em
#        fit = fit_em(Model(model, **data()), starts=20, seed=0)
#        print(fit.summary())                     estimates with standard errors
#        fit.posterior()["segment"]               how probable each segment is for each customer


# 6. And a picture, if you like: any function of a fit that returns a figure of matplotlib.
def picture(fit):
    """Mean visits with and without a coupon: of each customer (dots), and of each segment (lines)."""
    from matplotlib.figure import Figure

    given = fit.model.arguments
    values = {k: np.asarray(v) for k, v in zip(given.names, given.dynamic)}
    visits, coupon = values["visits"], values["coupon"]
    share, base, lift = (np.asarray(fit.params[name]) for name in ("share", "base", "lift"))
    segment = np.ravel(fit.decode()["segment"]).astype(int)
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.08, 0.08, len(visits))
    for k in range(len(share)):
        for c in (0, 1):
            months = (coupon[segment == k] == c).sum(1)
            mean = (visits * (coupon == c))[segment == k].sum(1) / np.maximum(months, 1)
            x = c + jitter[segment == k]
            axes.plot(x[months > 0], mean[months > 0], ".", color=f"C{k}", alpha=0.45)
        name = f"{share[k]:.0%}: a coupon makes {np.exp(lift[k]):.1f} times as many"
        axes.plot(
            [0, 1],
            np.exp(base[k] + lift[k] * np.array([0, 1])),
            "o-",
            color=f"C{k}",
            lw=2,
            label=name,
        )
    axes.set_xticks([0, 1], ["without a coupon", "with a coupon"])
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylabel("visits in a month")
    axes.set_title(f"{len(share)} segments of customers, {fit.method}")
    axes.legend(frameon=False, loc="upper left")
    return figure
