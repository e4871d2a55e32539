"""Part-of-speech tagging: what kind of word is it, by its ending and by its neighbours?

tag_t ~ Categorical(P[tag_{t-1}]),  ending_t ~ Categorical(endings[tag_t])

A hidden Markov model of text. P (which tag follows which) and endings (those of each tag) are parameters; the
tags are latent but for the first 150 words, which somebody tagged: Model(..., observe={"tag": labels}) with -1
where a tag is unknown. With all labels it is supervised, and the M-step counts; with none it is Baum-Welch, whose
tags have no names. An ending may belong to any tag ("-s": dogs, runs), and only the neighbours tell which.

ending: ending of the word (as a number)

Data: 600 words of a made-up text, drawn from the grammar and the endings below. With all tags known the estimates
are shares of counts. Source: Merialdo (1994), Tagging English text with a probabilistic model, Computational
Linguistics 20(2), 155-171; endings of unknown words: Brants (2000), doi:10.3115/974147.974178.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

LABELLED = 150
TAGS = ["noun", "verb", "adjective", "other"]
ENDINGS = ["-s", "-ed", "-ing", "-al", "bare"]
truth = {
    "P": np.array([
        [0.15, 0.45, 0.08, 0.32], [0.20, 0.08, 0.20, 0.52], [0.70, 0.08, 0.14, 0.08], [0.40, 0.15, 0.30, 0.15],
    ]),
    "endings": np.array([
        [0.60, 0.06, 0.10, 0.06, 0.18], [0.12, 0.48, 0.26, 0.06, 0.08], [0.06, 0.08, 0.08, 0.64, 0.14],
        [0.06, 0.06, 0.06, 0.06, 0.76],
    ]),
}  # fmt: skip


def corpus(length=600, seed=0):
    """Endings and tags as numbers, drawn from the truth; the text begins after an "other"."""
    rng = np.random.default_rng(seed)
    tags, endings = [TAGS.index("other")], []
    for _ in range(length):
        tags.append(rng.choice(len(TAGS), p=truth["P"][tags[-1]]))
        endings.append(rng.choice(len(ENDINGS), p=truth["endings"][tags[-1]]))
    return np.array(endings), np.array(tags[1:])


options = {
    "observe": {"tag": np.where(np.arange(600) < LABELLED, corpus()[1], -1)},
    "dims": {"P": ("tag", "next"), "endings": ("tag", "ending")},
    "coords": {"tag": TAGS, "next": TAGS, "ending": ENDINGS},
}


def model(ending, tags=len(TAGS), different=len(ENDINGS)):
    P = numpyro.sample("P", dist.Dirichlet(1.5 * jnp.ones((tags, tags))).to_event(1))
    law = dist.Dirichlet(1.5 * jnp.ones((tags, different))).to_event(1)
    endings = numpyro.sample("endings", law)

    def step(tag, ending_t):
        tag = numpyro.sample("tag", dist.Categorical(P[tag]))
        numpyro.sample("ending", dist.Categorical(endings[tag]), obs=ending_t)
        return tag, None

    scan(step, tags - 1, ending)


def data():
    return {"ending": corpus()[0]}


def picture(fit):
    """The endings of each tag, which tag follows which, and how many unlabelled words are tagged right."""
    from matplotlib.figure import Figure

    (ending,) = fit.model.observed_values().values()
    ending, found = np.ravel(ending).astype(int), np.ravel(fit.decode()["tag"]).astype(int)
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = (left, "endings", ENDINGS, "endings of each tag"), (right, "P", TAGS, "next tag")
    for axes, name, columns, title in shown:
        share = np.asarray(fit.params[name])
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(share.shape):
            colour = "white" if share[i, j] > 0.55 else "black"
            axes.text(
                j, i, f"{share[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=9
            )
        if share.shape == np.shape(truth[name]):
            axes.set_xticks(range(len(columns)), columns, rotation=30)
            axes.set_yticks(range(len(TAGS)), TAGS)
        axes.set_title(title, fontsize=10)
    heading = f"Tagging, {fit.method}"
    drawn, tags = corpus(len(ending))
    if np.array_equal(drawn, ending):
        right_ones = np.mean((found == tags)[LABELLED:])
        heading += f": {right_ones:.0%} of the unlabelled words are tagged as they were drawn"
    figure.suptitle(heading, fontsize=11)
    return figure
