"""Sequences in long format, a row for each step: a part whose rows are the sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pp_mlem.sources.fields import OTHER, Field, NotWhole
from pp_mlem.sources.grouped import Grouped
from pp_mlem.sources.parts import Piece, Place
from pp_mlem.sources.source import Column, Source

STEPS = "n_steps"
NUMBERS = 1 << 18  # cells of a column that are laid out at once


@dataclass(frozen=True)
class Sequences:
    """Sequences of a source whose rows are sorted by sequence and, within each, by time.

    A column is (sequences, longest), what follows the end of a shorter sequence NaN, or what `fill` has for the column.
    `n_steps` is (sequences,), the steps that each has.
    """

    steps: Grouped
    fields: Mapping[str, Field]
    fill: Mapping[str, float]
    known: int

    @classmethod
    def of(cls, steps: Grouped, fill: Mapping[str, float]) -> Sequences:
        """By one pass over the column that tells the sequences apart."""
        longest = int(np.diff(steps.starts).max())
        fields = {
            name: replace(f, width=longest, kind=f.kind if f.width is None else OTHER)
            for name, f in steps.rows.fields.items()
        }
        fields[STEPS] = Field(STEPS, "integer", "int64")
        return cls(steps, fields, fill, steps.count())

    @property
    def name(self) -> str:
        return f"sequences by '{self.steps.by}'"

    @property
    def lengths(self) -> np.ndarray:
        """(sequences,): the steps of each."""
        return np.diff(self.steps.starts)

    def counted(self) -> int:
        return self.known

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        """So many sequences at a time that they are a few megabytes."""
        wanted = [f for f in fields if f.name != STEPS]
        lengths = self.lengths
        many = max(NUMBERS // int(lengths.max()), 1)
        ends = [(a, min(a + many, self.known)) for a in range(begin, self.known, many)]
        columns = [Column(self.steps.rows, (f.name,), False, f.loose) for f in wanted]
        columns = columns or [self.steps.rows[self.steps.by]]
        with contextlib.closing(self.steps.spans(columns, ends, 0)) as spans:
            for (arrays, place), (first, last) in zip(spans, ends, strict=True):
                own = lengths[first:last]
                whole = {STEPS: own}
                for field, steps in zip(wanted, arrays, strict=False):
                    whole[field.name] = self._whole(steps, field, own)
                found = tuple(whole[f.name] for f in fields)
                begins = np.cumsum(own) - own
                yield Piece(first, last - first, found, partial(_first_step, place, begins))

    def _whole(self, steps: np.ndarray, field: Field, lengths: np.ndarray) -> np.ndarray:
        """(sequences, longest) of the steps of all, one sequence after another."""
        longest = field.width or 1
        there = np.arange(longest) < lengths[:, None]
        value = self.fill.get(field.name, np.nan)
        holds = field.kind == "float" or float(value).is_integer()
        if not holds and not there.all():
            raise NotWhole(
                f"{self.name}: column '{field.name}' is of type {field.told}, and sequences shorter than the "
                f"longest ({longest} steps) are filled up with {value}, which only floats can hold. Read it "
                f"as floats, source['{field.name}'].float(), or say what fills it: "
                f"open_source(..., fill={{'{field.name}': 0}}).",
                field.name,
            )
        whole = np.full(there.shape, value if holds else 0, steps.dtype)
        whole[there] = steps
        return whole


def _first_step(place: Place, first: np.ndarray, sequence: int) -> str:
    return place(int(first[sequence]))


def sequences_of(steps: Grouped, fill: Mapping[str, float]) -> Source:
    """A source of sequences from one of steps.

    Raises:
        ValueError: where the source has a column named as the one that is added, or `fill` names a column that is not
            there.
    """
    if STEPS in steps.columns:
        raise ValueError(
            f"sequences: the source has a column '{STEPS}', which is what the steps of each sequence are called. Rename it."
        )
    for name in fill:
        steps.rows[name]
    part = Sequences.of(steps, fill)
    told = f"{steps.rows.told}, sequences by '{steps.by}'"
    identify = partial(_identity, steps, tuple(fill.items()))
    return Source((part,), told, identify, units="sequences")


def _identity(steps: Grouped, fill: tuple[tuple[str, float], ...]) -> dict[str, str]:
    filled = {"filled": ", ".join(f"{n}: {v}" for n, v in fill)} if fill else {}
    return {**steps.rows.identify(), "sequences": steps.by, **filled}
