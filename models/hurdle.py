"""Hurdle model of counts: whether an apple shoot roots at all, and how many roots it has if it does.

y_n = 0 with probability 1 - sigmoid(x_n' gamma), else y_n ~ Poisson(exp(x_n' beta)) given that it is not 0

beta and gamma are parameters, nothing is latent: zeros come from the hurdle only, so that the likelihood is that
of a logistic regression times that of a Poisson regression without zeros, and there is no E-step. (In the model
`zero_inflated` chance makes zeros as well, and which zeros it made is latent.) NumPyro has no such law: `Hurdle`
below is one, with its density and its draws.

x: constant, doublings of BAP
y: roots of a shoot

Data: 130 micropropagated shoots of the columnar apple Trajan under days of 16 hours and four concentrations
of the cytokinin BAP, Ridout, Hinde & Demetrio (1998), Models for count data with many zeros, Proceedings of
the 19th International Biometric Conference, 179-192. The model: Mullahy (1986),
doi:10.1016/0304-4076(86)90002-3. Checked against a logistic regression of y > 0 and statsmodels' truncated
Poisson regression of the rest: BAP hardly moves the share that roots, and the roots become fewer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

BAP = (2.2, 4.4, 8.8, 17.6)  # uM
SHOOTS = [  # at each concentration: how many have 0, 1, 2, ... roots
    [15, 0, 2, 2, 1, 2, 1, 0, 1, 3, 1, 1, 1],
    [16, 2, 1, 1, 2, 1, 2, 0, 1, 0, 3, 0, 1],
    [12, 3, 2, 1, 2, 2, 3, 1, 0, 2, 0, 1, 1],
    [19, 2, 2, 4, 3, 1, 4, 3, 0, 2],
]  # fmt: skip

COLUMNS = ["constant", "doublings of BAP"]
options = {"dims": {"beta": "covariate", "gamma": "covariate"}, "coords": {"covariate": COLUMNS}}


class Hurdle(dist.Distribution):
    """Zero with probability 1 - sigmoid(logits), else Poisson(rate) given that it is positive."""

    arg_constraints = {"logits": constraints.real, "rate": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(self, logits, rate, *, validate_args=None):
        self.logits, self.rate = jnp.broadcast_arrays(logits, rate)
        super().__init__(jnp.shape(self.rate), validate_args=validate_args)

    def log_prob(self, value):
        positive = dist.Poisson(self.rate).log_prob(value) - jnp.log(-jnp.expm1(-self.rate))
        return jnp.where(
            value == 0,
            jax.nn.log_sigmoid(-self.logits),
            jax.nn.log_sigmoid(self.logits) + positive,
        )

    def sample(self, key, sample_shape=()):
        """Of a Poisson process that has an event before time `rate`: the first, and those after it."""
        keys, shape = jax.random.split(key, 3), sample_shape + self.batch_shape
        u = jax.random.uniform(keys[0], shape)
        first = -jnp.log1p(u * jnp.expm1(-self.rate))
        count = 1 + jax.random.poisson(keys[1], self.rate - first, shape)
        over = jax.random.bernoulli(keys[2], jax.nn.sigmoid(self.logits), shape)
        return jnp.where(over, count, 0)

    @property
    def mean(self):
        return jax.nn.sigmoid(self.logits) * self.rate / -jnp.expm1(-self.rate)

    @property
    def variance(self):
        return self.mean * (1 + self.rate - self.mean)


def model(y, x):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([x.shape[1]]).to_event(1))
    gamma = numpyro.sample("gamma", dist.Normal(0, 3).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("shoots", len(y)):
        numpyro.sample("y", Hurdle(x @ gamma, jnp.exp(x @ beta)), obs=y)


def data():
    doublings = np.repeat(np.log2(BAP) - np.log2(BAP[0]), [sum(row) for row in SHOOTS])
    return {
        "y": np.concatenate([np.repeat(np.arange(len(row)), row) for row in SHOOTS]),
        "x": np.column_stack([np.ones(len(doublings)), doublings]),
    }


def picture(fit):
    """The two regressions: the share that clears the hurdle, and the mean of what lies beyond it."""
    from matplotlib.figure import Figure

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    y, doublings = np.asarray(arguments["y"]), np.asarray(arguments["x"])[:, 1]
    line = np.linspace(doublings.min() - 0.3, doublings.max() + 0.3, 100)
    x = np.column_stack([np.ones(100), line])
    rate, share = np.exp(x @ p["beta"]), 1 / (1 + np.exp(-x @ p["gamma"]))
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(line, share, color="#4477aa")
    right.plot(line, rate / -np.expm1(-rate), color="#4477aa")
    for at in np.unique(doublings):
        here = y[doublings == at]
        rooted = here[here > 0]
        s = len(rooted) / len(here)
        left.errorbar(at, s, np.sqrt(s * (1 - s) / len(here)), fmt="o", color="0.3", capsize=3)
        if len(rooted) > 1:
            error = rooted.std(ddof=1) / np.sqrt(len(rooted))
            right.errorbar(at, rooted.mean(), error, fmt="o", color="0.3", capsize=3)
    left.set_ylim(0, 1)
    left.set_ylabel("share of shoots that root")
    right.set_ylim(bottom=0)
    right.set_ylabel("mean roots of those that root")
    for axes in (left, right):
        axes.set_xticks(range(4), [f"{bap:g}" for bap in BAP])
        axes.set_xlabel("BAP (uM)")
    figure.suptitle(f"Both sides of the hurdle, {fit.method}; means with their standard errors")
    return figure
