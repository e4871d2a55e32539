"""Topics against scikit-learn's latent Dirichlet allocation, and a photograph cut into segments.

    python benchmarks/text_and_images.py             # both
    python benchmarks/text_and_images.py topics --topics 10
    python benchmarks/text_and_images.py segments

Topics: the corpus are the docstrings of scikit-learn's public functions and classes, a document each; nine tenths of the
documents are fitted. Perplexity is exp(-mean log sum_k theta_dk phi_kw) per word, with each side's point estimates: of the
documents fitted, and of words held out: theta of the other documents is found from every second word of theirs and scores the
rest. Scikit-learn: batch variational Bayes with its defaults but as many passes as it needs to come to rest. Here: EM to
the maximum of the posterior with the same priors plus one, which makes the mode what the variational mean is
(Asuncion, Welling, Smyth & Teh 2009, arXiv:1205.2662).

Segments: scikit-learn's photograph china.jpg, 640 x 427 pixels in three colours, a mixture of five normals with free covariances, to
the maximum, in a fresh process that compiles everything (PP_MLEM_CACHE=off).
"""

from __future__ import annotations

import argparse
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import time
import warnings
from importlib import import_module

import numpy as np


def corpus(words: int) -> np.ndarray:
    """Counts (documents, words) of the docstrings of scikit-learn's public names."""
    import sklearn
    from sklearn.feature_extraction.text import CountVectorizer

    texts = {}
    for module in pkgutil.iter_modules(sklearn.__path__):
        if module.name.startswith("_") or module.name in ("externals", "conftest", "tests"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = import_module(f"sklearn.{module.name}")
        for name in getattr(found, "__all__", ()):
            text = inspect.getdoc(vars(found).get(name)) or ""
            if len(text) > 500:
                texts[f"{module.name}.{name}"] = re.sub(r"[_\W\d]+", " ", text)
    counter = CountVectorizer(stop_words="english", min_df=5, max_df=0.4, max_features=words)
    counts = counter.fit_transform(texts[t] for t in sorted(texts)).toarray()
    return counts[counts.sum(1) > 30]


def perplexity(counts: np.ndarray, theta: np.ndarray, phi: np.ndarray) -> float:
    """Per word, of counts (documents, words)."""
    return float(np.exp(-(counts * np.log(theta @ phi)).sum() / counts.sum()))


def halves(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every second word of each document, and the rest."""
    rng = np.random.default_rng(0)
    first = rng.binomial(counts, 0.5)
    return first, counts - first


def topics(size: int, words: int) -> None:
    from sklearn.decomposition import LatentDirichletAllocation

    from pp_mlem import Model, fit_em

    counts = corpus(words)
    held = np.arange(len(counts)) % 10 == 0
    train, (seen, unseen) = counts[~held], halves(counts[held])
    print(
        f"{len(counts)} documents, {counts.shape[1]} words, {counts.sum():,} tokens, {size} topics"
    )

    began = time.perf_counter()
    lda = LatentDirichletAllocation(
        size, max_iter=500, evaluate_every=5, perp_tol=1e-2, random_state=0
    )
    theta = lda.fit_transform(train)
    theirs = time.perf_counter() - began
    phi = lda.components_ / lda.components_.sum(1, keepdims=True)
    told = [perplexity(train, theta, phi), perplexity(unseen, lda.transform(seen), phi)]
    print(
        f"scikit-learn: {theirs:.2f} s, {lda.n_iter_} passes; perplexity {told[0]:.1f}, held out {told[1]:.1f}"
    )

    program = lda_of(1 + 1 / size)
    for name in ("cold", "warm"):
        began = time.perf_counter()
        model = Model(program, **cells(train), words=counts.shape[1], K=size)
        fit = fit_em(model, objective="map", starts=1, seed=0, tol=1e-6)
        ours = time.perf_counter() - began
        p = fit.params
        other = Model(program, **cells(seen), words=counts.shape[1], K=size)
        fold = fit_em(other, objective="map", fixed={"phi": p["phi"]}, starts=1, tol=1e-6)
        own = [
            perplexity(train, p["theta"], p["phi"]),
            perplexity(unseen, fold.params["theta"], p["phi"]),
        ]
        print(
            f"pp_mlem, {name}: {ours:.2f} s, {fit.iterations} iterations, {fit.status}; perplexity {own[0]:.1f}, "
            f"held out {own[1]:.1f}; {theirs / ours:.2f} of its speed"
        )


def lda_of(prior: float):
    """The model of the shelf, with a prior of its own on both kinds of probabilities."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def program(document, word, count, documents, words, K):
        with numpyro.plate("documents", documents):
            theta = numpyro.sample("theta", dist.Dirichlet(prior * jnp.ones(K)))
        with numpyro.plate("topics", K):
            phi = numpyro.sample("phi", dist.Dirichlet(prior * jnp.ones(words)))
        with numpyro.plate("cells", len(word)), numpyro.handlers.scale(scale=count):
            z = numpyro.sample("z", dist.Categorical(theta[document]))
            numpyro.sample("word", dist.Categorical(phi[z]), obs=word)

    return program


def cells(counts: np.ndarray) -> dict:
    document, word = np.nonzero(counts)
    return {
        "document": document, "word": word, "count": counts[document, word].astype(float),
        "documents": len(counts),
    }  # fmt: skip


SEGMENTS = """
import time
began = time.perf_counter()
from pp_mlem import Model, fit_em
from pp_mlem.show.catalogue import find_model
shelf = find_model("image_segmentation")
data = shelf.data()
began_fit = time.perf_counter()
model = Model(shelf.program, **data)
fit = fit_em(model, starts=1, seed=0)
labels = fit.decode()["z"]
ended = time.perf_counter()
print(f"{len(labels):,} pixels: {ended - began_fit:.1f} s ({ended - began:.1f} s with imports and the photograph), "
      f"log-likelihood {fit.log_likelihood:.1f}, {fit.status}, {fit.iterations} iterations")
"""


def segments() -> None:
    env = {**os.environ, "PP_MLEM_CACHE": "off"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", SEGMENTS], check=True, env=env)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["topics", "segments"])
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--words", type=int, default=2000)
    asked = parser.parse_args()
    if asked.what != "segments":
        topics(asked.topics, asked.words)
    if asked.what != "topics":
        segments()


if __name__ == "__main__":
    main()
