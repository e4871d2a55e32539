"""Topics of documents: probabilistic latent semantic analysis, and LDA's weights by MAP.

z_c ~ Categorical(theta[document_c]),  word_c ~ Categorical(phi[z_c])

A cell c is a (document, word) pair that occurs, its count a case weight: exact EM over the word
assignments z, which are latent and summed out, without one row per token, in closed form. theta (topics
of each document) and phi (words of each topic) are parameters: maximum likelihood is PLSA (Hofmann 2001,
doi:10.1023/A:1007617005950), MAP under the Dirichlet priors is LDA's point estimate (Blei, Ng & Jordan
2003, doi:10.1162/jmlr.2003.3.4-5.993). By maximum likelihood shares of zero end at the boundary. Data:
90 documents on three themes and their mixtures, simulated; `top_words` lists each topic's words.
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
    "eclipse",
    "nebula",
    "crater",
    "rocket",
    "goal",
    "match",
    "team",
    "league",
    "player",
    "coach",
    "stadium",
    "score",
    "referee",
    "keeper",
    "season",
    "trophy",
    "oven",
    "flour",
    "sugar",
    "butter",
    "recipe",
    "salt",
    "kitchen",
    "taste",
    "pepper",
    "onion",
    "garlic",
    "bread",
    "day",
    "new",
    "time",
    "people",
]


def themes():
    """Word probabilities of the simulated topics, (topics, words)."""
    phi = np.full((3, len(WORDS)), 0.05)
    for k in range(3):
        phi[k, 12 * k : 12 * (k + 1)] = np.linspace(3, 1, 12)
    phi[:, 36:] = 1
    return phi / phi.sum(1, keepdims=True)


def shares(rng, documents=90):
    """The share of every theme in the simulated documents, (documents, topics)."""
    return rng.dirichlet(np.full(3, 0.3), size=documents)


truth = {"theta": shares(np.random.default_rng(0)), "phi": themes()}


def model(document, word, count, documents, words=len(WORDS), K=3):
    with numpyro.plate("documents", documents):
        theta = numpyro.sample("theta", dist.Dirichlet(1.1 * jnp.ones(K)))
    with numpyro.plate("topics", K):
        phi = numpyro.sample("phi", dist.Dirichlet(1.1 * jnp.ones(words)))
    with numpyro.plate("cells", len(word)), numpyro.handlers.scale(scale=count):
        z = numpyro.sample("z", dist.Categorical(theta[document]))
        numpyro.sample("word", dist.Categorical(phi[z]), obs=word)


def data(seed=0, documents=90, length=80):
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(length, p) for p in shares(rng, documents) @ themes()])
    document, word = np.nonzero(counts)
    return {
        "document": document,
        "word": word,
        "count": counts[document, word],
        "documents": documents,
    }


def top_words(fit, n=8):
    """The most probable words of each topic."""
    return [[WORDS[j] for j in np.argsort(-row)[:n]] for row in np.asarray(fit.params["phi"])]


def picture(fit, words=10):
    """The most probable words of each topic, as bars."""
    from matplotlib.figure import Figure

    phi = np.asarray(fit.params["phi"])
    figure = Figure(figsize=(2.6 * min(len(phi), 4), 2.6 * -(-len(phi) // 4)), layout="constrained")
    grid = figure.subplots(-(-len(phi) // 4), min(len(phi), 4), squeeze=False).ravel()
    for axes in grid[len(phi) :]:
        axes.set_visible(False)
    for k, (axes, row) in enumerate(zip(grid, phi)):
        best = np.argsort(-row)[:words][::-1]
        names = [WORDS[j] if row.size == len(WORDS) else str(j) for j in best]
        axes.barh(names, row[best], color="#4477aa")
        axes.set_title(f"topic {k}")
    figure.supxlabel("probability of a word")
    return figure
