"""Naive Bayes for word counts, with labels known, hidden or partly known.

z_n ~ Categorical(w),  x_n ~ Multinomial(length_n, phi[z_n])

w and phi are parameters, z (the class of a document) is latent and summed out. EM is in closed form:
expected shares of documents and of words. Model(..., observe={"z": labels}) makes it supervised, or
semi-supervised with -1 where a label is unknown. Under maximum likelihood a word that a class never used
has probability zero: the fit ends with status "boundary" and says so; the Dirichlet prior of MAP
(add-one-half smoothing) avoids it. Data: 120 documents on three themes, drawn from the program. McCallum
& Nigam (1998); Nigam et al. (2000), doi:10.1023/A:1007692713085.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

WORDS = [
    "planet",
    "star",
    "orbit",
    "moon",
    "galaxy",
    "comet",
    "telescope",
    "light",
    "goal",
    "match",
    "team",
    "league",
    "player",
    "coach",
    "stadium",
    "score",
    "oven",
    "flour",
    "sugar",
    "butter",
    "recipe",
    "salt",
    "kitchen",
    "taste",
    "day",
    "new",
    "time",
    "people",
]


def themes():
    """Word probabilities of the three themes."""
    phi = np.full((3, len(WORDS)), 0.2)
    for k in range(3):
        phi[k, 8 * k : 8 * (k + 1)] = [9, 8, 7, 6, 5, 4, 3, 2]
    phi[:, 24:] = 3
    return phi / phi.sum(1, keepdims=True)


truth = {"w": [1 / 3, 1 / 3, 1 / 3], "phi": themes()}


def model(x, K=3):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("classes", K):
        phi = numpyro.sample("phi", dist.Dirichlet(1.5 * jnp.ones(x.shape[1])))
    with numpyro.plate("documents", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Multinomial(x.sum(-1), phi[z]), obs=x)


def labels(seed=0):
    """The true class of each document."""
    return np.random.default_rng(seed).integers(3, size=120)


def data(seed=0):
    z = labels(seed)
    rng = np.random.default_rng(seed + 1)
    lengths = rng.poisson(25, size=len(z)) + 5
    phi = themes()
    return {"x": np.stack([rng.multinomial(n, phi[k]) for n, k in zip(lengths, z)])}


def picture(fit, words=10):
    """The words that tell each class most: its probability of a word over the average of all classes."""
    from matplotlib.figure import Figure

    phi = np.asarray(fit.params["phi"])
    lift = np.log2(np.maximum(phi, 1e-6) / np.maximum(phi.mean(0), 1e-6))
    figure = Figure(figsize=(2.6 * min(len(phi), 4), 2.6 * -(-len(phi) // 4)), layout="constrained")
    grid = figure.subplots(-(-len(phi) // 4), min(len(phi), 4), squeeze=False).ravel()
    for axes in grid[len(phi) :]:
        axes.set_visible(False)
    for k, axes in enumerate(grid[: len(phi)]):
        best = np.argsort(-phi[k] * np.maximum(lift[k], 0))[:words][::-1]
        names = [WORDS[j] if phi.shape[1] == len(WORDS) else str(j) for j in best]
        axes.barh(names, phi[k, best], color="#4477aa")
        axes.set_title(f"class {k}")
    figure.supxlabel("probability of a word in the class")
    return figure
