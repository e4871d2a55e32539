"""What vectors with missing entries never show: entries, and pairs of entries that are never seen together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pp_mlem.data.program_data import ProgramData
from pp_mlem.factors.patterns import Patterns


@dataclass(frozen=True)
class Unseen:
    """Of one site: pairs (column, entry, entry) that no vector shows together, an entry that is never seen as
    one with itself; how many vectors there are, how many show something, and in how many patterns."""

    site: str
    pairs: tuple[tuple[int, int, int], ...]
    vectors: int
    shown: int
    missing: int
    patterns: int

    @classmethod
    def of(cls, site: str, patterns: Patterns) -> Unseen:
        seen = np.asarray(patterns.seen) > 0
        counts = np.asarray(patterns.counts)
        column, used = np.asarray(patterns.column), counts > 0
        pairs = []
        for c in np.unique(column[used]):
            own = seen[used & (column == c)].astype(float)
            together = own.T @ own
            pairs += [(int(c), int(a), int(b)) for a, b in np.argwhere(np.triu(together == 0))]
        missing = int((counts * (~seen).sum(1)).sum())
        return cls(
            site,
            tuple(pairs),
            int(patterns.place.size),
            int(counts.sum()),
            missing,
            int(used.sum()),
        )

    @property
    def entries(self) -> list[tuple[int, int]]:
        """(column, entry) of what is never seen."""
        return [(c, a) for c, a, b in self.pairs if a == b]

    @property
    def apart(self) -> list[tuple[int, int, int]]:
        """Pairs of which each is seen, never both."""
        alone = set(self.entries)
        return [(c, a, b) for c, a, b in self.pairs if not {(c, a), (c, b)} & alone]

    def told(self) -> Iterator[str]:
        """A sentence for each fact."""
        yield (
            f"{self.site}: {self.missing} entries of {self.shown} vectors are missing, in {self.patterns} patterns; "
            "they are integrated out"
        )
        nothing = self.vectors - self.shown
        if nothing:
            yield f"{self.site}: {nothing} of {self.vectors} vectors show nothing and add nothing"
        for what, several in (
            ("is never seen", self.entries),
            ("are never seen together", self.apart),
        ):
            if several:
                named = ", ".join(str(list(e[1:])) for e in several[:5])
                more = f" and {len(several) - 5} more" if len(several) > 5 else ""
                yield f"{self.site}: entry {named}{more} {what}: the likelihood knows nothing of it"


@dataclass(frozen=True)
class Blank:
    """Of one site whose cells are independent given its latents: how many rows there are, how many of their cells
    are missing or masked, how many rows show nothing, and which columns do."""

    site: str
    rows: int
    missing: int
    silent: int
    columns: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, site: str, mask: np.ndarray) -> Blank:
        flat = mask.reshape(-1, mask.shape[-1])
        columns = np.argwhere(~mask.any(-1)) if mask.ndim > 1 else ()
        return cls(
            site,
            mask.shape[-1],
            int((~mask).sum()),
            int((~flat.any(0)).sum()),
            tuple(tuple(int(i) for i in c) for c in columns),
        )

    def told(self) -> Iterator[str]:
        """A sentence for each fact."""
        if self.missing:
            yield f"{self.site}: {self.missing} cells are missing or masked; they say nothing"
        if self.silent:
            yield f"{self.site}: {self.silent} of {self.rows} rows show nothing and add nothing"
        if self.columns:
            named = ", ".join(str(list(c)) for c in self.columns[:5])
            more = f" and {len(self.columns) - 5} more" if len(self.columns) > 5 else ""
            yield f"{self.site}: column {named}{more} is never seen: the likelihood knows nothing of it"


def blanks_of(data: ProgramData) -> list[Blank]:
    """Of every other site with missing or masked cells."""
    return [
        Blank.of(name, np.asarray(site.mask, bool))
        for name, site in data.sites.items()
        if site.patterns is None and site.mask is not None
    ]


def warn_of_unseen(data: ProgramData) -> None:
    """Tell of entries that no vector shows, mostly a mistake in the data."""
    for blank in blanks_of(data):
        for place in blank.columns:
            warnings.warn(
                f"observed site '{blank.site}': column {list(place)} is missing in all {blank.rows} rows, so the "
                "likelihood knows nothing of its parameters; a prior alone does. Drop it, or check what was read "
                "from the file.",
                stacklevel=2,
            )
    for unseen in unseen_of(data):
        for column, entry in unseen.entries:
            where = f"entry {entry} of column {column}" if column else f"entry {entry}"
            warnings.warn(
                f"observed site '{unseen.site}': {where} is missing in all {unseen.shown} vectors, so the likelihood "
                "knows nothing of its mean and variance; a prior alone does. Drop it, or check what was read "
                "from the file.",
                stacklevel=2,
            )


def unseen_of(data: ProgramData) -> list[Unseen]:
    """Of every site whose vectors are missing in part."""
    return [
        Unseen.of(name, site.patterns)
        for name, site in data.sites.items()
        if site.patterns is not None
    ]
