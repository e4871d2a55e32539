"""The separator and the decimal sign of a CSV file, found from its first lines."""

from __future__ import annotations

import csv
import re

SEPARATORS = ",;\t|"
SAMPLE = 1 << 20  # characters that are looked at
SAMPLE_LINES = 200
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")


def first_lines(text: str) -> list[str]:
    """The first lines that are not blank, header included; of a long text none that its cut leaves open."""
    lines = text[:SAMPLE].splitlines()
    if len(text) >= SAMPLE and len(lines) > 1:
        lines.pop()
    return [line for line in lines if line.strip()][:SAMPLE_LINES]


def found_separator(lines: list[str]) -> str:
    """The separator that splits header and rows alike, into the most fields."""
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            counts = {len(row) for row in csv.reader(lines, delimiter=separator) if row}
        except csv.Error:
            continue
        if len(counts) == 1 and (fields := counts.pop()) > most:
            best, most = separator, fields
    if most == 1:  # rows of different lengths: what splits the header, so that the reader can tell
        best = max(SEPARATORS, key=lambda s: len(next(csv.reader(lines[:1], delimiter=s), [])))
    return best


def found_decimal(lines: list[str], separator: str) -> str:
    """A comma where numbers have one and none has a point."""
    if separator == ",":
        return "."
    cells = [c for row in csv.reader(lines[1:], delimiter=separator) for c in row]
    commas = sum(DECIMAL_COMMA.fullmatch(c) is not None for c in cells)
    points = sum(DECIMAL_POINT.fullmatch(c) is not None for c in cells)
    return "," if commas > points else "."
