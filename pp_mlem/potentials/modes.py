"""How latents are taken out of a product: summed, maximised, or drawn from their posterior.

Each gives a value whose derivative tells about the latents: posterior probabilities, the most
probable values, or one draw (Kschischang, Frey & Loeliger 2001, doi:10.1109/18.910572). The modes are
few and fixed; how each is carried out is known to the potentials and to the steps.
"""

from __future__ import annotations

import itertools

import jax


class Mode:
    """One of the ways below."""


class Sum(Mode):
    """The sum over all values: log Z, and posterior probabilities."""


class Max(Mode):
    """The largest term, of finite latents; real ones are integrated out: decoding."""


class First(Mode):
    """The entry at the first value of every latent: for counting."""


class Draw(Mode):
    """The sum, whose derivative marks one joint draw of the latents given the data."""

    def __init__(self, key: jax.Array) -> None:
        self._key, self._count = key, itertools.count()

    def next_key(self) -> jax.Array:
        """A key for the next latent that is taken out."""
        return jax.random.fold_in(self._key, next(self._count))


SUM, MAX, FIRST = Sum(), Max(), First()
