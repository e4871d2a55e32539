"""Item response theory: what five questions of the Law School Admission Test tell about ability.

t_n ~ Normal(0, 1) on a grid,  y_nj ~ Bernoulli(logits = a_j (t_n - b_j))

Two parameters for each item: its discrimination a and its difficulty b. The ability t is latent; it takes the nodes
of Gauss and Hermite with their weights, so that it is one more finite latent and is summed out, as in the EM of
Bock & Aitkin (1981), doi:10.1007/BF02293801, who invented it for this model: people are shared out among the
abilities in the E-step, and the M-step is a logistic regression for each item, climbed by Newton's method. 21 nodes
are as good as exact here.

y: items 1 to 5 answered rightly
count: people with these answers

Data: LSAT, section 6, 1,000 people by pattern of answers (case weights), Bock & Lieberman (1970),
doi:10.1007/BF02291262, as R's ltm has them; log-likelihood -2466.653 and the values of `published` as it prints
them (Rizopoulos 2006, doi:10.18637/jss.v017.i05).
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

COUNTS = [  # of 00000, 00001, 00010, ..., 11111
    3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15,
    10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298,
]  # fmt: skip

options = {"coords": {"items": ["1", "2", "3", "4", "5"]}}


def model(y, count, nodes=21):
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    with numpyro.plate("items", y.shape[1]):
        a = numpyro.sample("a", dist.LogNormal(0, 0.7))
        b = numpyro.sample("b", dist.Normal(0, 3))
    with numpyro.plate("patterns", len(y)), numpyro.handlers.scale(scale=count):
        k = numpyro.sample("k", dist.Categorical(weight / weight.sum()))
        ability = jnp.asarray(at)[k][..., None]
        numpyro.sample("y", dist.Bernoulli(logits=a * (ability - b)).to_event(1), obs=y)


def data():
    patterns, counts = np.array(list(np.ndindex((2,) * 5))), np.array(COUNTS)
    return {"y": patterns[counts > 0], "count": counts[counts > 0]}


published = {  # ltm stopped where its largest gradient was 0.024
    "log_likelihood": (-2466.653, 5e-4),
    "a[1]": (0.8254, 3e-3),
    "a[2]": (0.7229, 3e-3),
    "a[3]": (0.8905, 3e-3),
    "a[4]": (0.6886, 3e-3),
    "a[5]": (0.6575, 3e-3),
    "b[1]": (-3.3597, 3e-3),
    "b[2]": (-1.3696, 3e-3),
    "b[3]": (-0.2799, 3e-3),
    "b[4]": (-1.8659, 3e-3),
    "b[5]": (-3.1236, 3e-3),
}


def picture(fit):
    """The items' curves, and the ability that each pattern of answers lets expect."""
    from matplotlib.figure import Figure

    p, given = fit.params, fit.model.arguments
    arguments = dict(zip(given.names, given.dynamic))
    y, count = np.asarray(arguments["y"]), np.asarray(arguments["count"])
    a, b = np.asarray(p["a"]), np.asarray(p["b"])
    member = np.asarray(fit.posterior()["k"])
    at, _ = np.polynomial.hermite_e.hermegauss(member.shape[1])
    ability = np.linspace(-4, 4, 200)
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for j in range(len(a)):
        left.plot(ability, 1 / (1 + np.exp(-a[j] * (ability - b[j]))), label=f"item {j + 1}")
    left.set_ylim(0, 1)
    left.set_xlabel("ability")
    left.set_ylabel("probability of a right answer")
    left.legend()
    right.scatter(y.sum(1), member @ at, 4 + 2 * count, alpha=0.5, lw=0)
    right.set_xlabel("items answered rightly")
    right.set_ylabel("expected ability")
    right.set_xlim(-0.4, y.shape[1] + 0.4)
    right.set_xticks(range(y.shape[1] + 1))
    figure.suptitle(f"Items, and patterns of answers (area: people), {fit.method}")
    return figure
