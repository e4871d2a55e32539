"""CSV files, block by block. Nothing in a CSV file tells where its rows are or of what type: its types
are those of the first block of the first file, and a later row is reached by reading up to it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pp_mlem.base.csv_signs import SAMPLE, first_lines, found_decimal, found_separator
from pp_mlem.base.lazy import pa, pa_csv
from pp_mlem.sources.arrow import field_of, pieces_of
from pp_mlem.sources.fields import DTYPES, OTHER, Field, NotWhole
from pp_mlem.sources.files import File
from pp_mlem.sources.parts import Piece, check_distinct, rows_of

BLOCK = 1 << 20  # bytes parsed at once
CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?.*invalid value '(.*)'", re.DOTALL)
PARSING = re.compile(r"CSV parse error: (?:Row #(\d+): )?(.*)", re.DOTALL)
REMEDY = "Correct it, or leave the cell empty where the value is missing."
T = TypeVar("T")
WORDS = 40  # characters of a bad cell or line that are shown


@dataclass(frozen=True)
class Dialect:
    """How fields are separated, and what stands before decimals."""

    separator: str
    decimal: str

    @classmethod
    def of(cls, file: File, separator: str | None, decimal: str | None) -> Dialect:
        """What is not given is found from the first lines; the columns of a `.tsv` file are separated by tabs."""
        if separator is None and ".tsv" in Path(file.name).suffixes:
            separator = "\t"
        if separator is not None and decimal is not None:
            return cls(separator, decimal)
        lines = first_lines(_beginning(file))
        separator = found_separator(lines) if separator is None else separator
        return cls(separator, found_decimal(lines, separator) if decimal is None else decimal)


@dataclass(frozen=True)
class Csv:
    """A file, its columns and what the header calls them (blanks around a name do not count)."""

    file: File
    dialect: Dialect
    fields: Mapping[str, Field]
    headings: Mapping[str, str]
    empty: bool
    encoding: str = "utf8"

    @classmethod
    def of(cls, file: File, dialect: Dialect) -> Csv:
        """The file by its first block."""
        part = cls(file, dialect, {}, {}, True)
        if not file.size:
            return part
        try:
            schema, rows = part._first_block()
        except UnicodeDecodeError:
            part = replace(part, encoding="latin1")
            schema, rows = part._first_block()
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return part
            raise part._told(error, {}) from None
        names = [name.strip() for name in schema.names]
        check_distinct(names, file.name)
        _check_separated(names, file, dialect)
        types = zip(names, schema, strict=True)
        return replace(
            part,
            fields={n: _field(n, own.type, rows, own.name) for n, own in types},
            headings=dict(zip(names, schema.names, strict=True)),
            empty=rows is None or not rows.num_rows,
        )

    def of_types(self, first: Csv) -> Csv:
        """The file, its columns read as those of the first one."""
        own = {n: first.fields.get(n, Field(n, OTHER, "unknown")) for n in self.fields}
        return replace(self, fields=own)

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def known(self) -> int | None:
        return 0 if self.empty else None

    def counted(self) -> int:
        if self.empty:
            return 0
        text = Field(next(iter(self.fields)), OTHER, "string")
        return sum(batch.num_rows for batch in self._read((text,)))

    def pieces(self, fields: tuple[Field, ...], begin: int) -> Generator[Piece, None, None]:
        return pieces_of(self._read(fields), fields, 0, rows_of(self.name))

    def _first_block(self) -> tuple[pa.Schema, pa.RecordBatch | None]:
        def first(threads: bool) -> tuple[pa.Schema, pa.RecordBatch | None]:
            with self._opened(None, threads) as opened:
                opened.schema.names  # noqa: B018  # a header in another encoding is told here
                return opened.schema, next(iter(opened), None)

        return self._with_rows(first)

    def _with_rows(self, read: Callable[[bool], T]) -> T:
        """What is read by threads, which do not count rows: where that fails, once more without them, so that the
        error tells the row."""
        try:
            return read(True)
        except pa.ArrowInvalid as error:
            if "Row #" not in str(error):
                read(False)
            raise

    def _read(self, fields: tuple[Field, ...]) -> Iterator[pa.RecordBatch]:
        strict_last = sorted(fields, key=lambda f: not f.loose)  # what is asked as both is both
        types = {f.name: _arrow_type(f) for f in strict_last}
        return self.file.read(self._batches(types), told=partial(self._told, types=types))

    def _batches(self, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        by_heading = {self.headings[n]: kind for n, kind in types.items()}
        try:
            with self._opened(by_heading) as opened:
                for batch in opened:
                    yield pa.RecordBatch.from_arrays(batch.columns, names=list(types))
        except pa.ArrowInvalid as error:
            if "Row #" not in str(error):  # as in `_with_rows`
                with self._opened(by_heading, threads=False) as opened:
                    for _ in opened:
                        pass
            raise

    def _opened(
        self, types: dict[str, pa.DataType] | None, threads: bool = True
    ) -> pa_csv.CSVStreamingReader:
        single = len(self.headings) == 1  # an empty line is a missing value then
        return pa_csv.open_csv(
            str(self.file.path),
            read_options=pa_csv.ReadOptions(
                block_size=BLOCK, encoding=self.encoding, use_threads=threads
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.dialect.separator,
                newlines_in_values=True,
                ignore_empty_lines=not single,
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(types or ()),
                column_types=types,
                decimal_point=self.dialect.decimal,
            ),
        )

    def _told(self, error: Exception, types: Mapping[str, pa.DataType]) -> ValueError:
        """What Arrow says of a file, with the row of the data and the column."""
        told = str(error)
        if (cell := CONVERSION.search(told)) and types:
            name = list(types)[int(cell[1])]
            where = f"{self._row(cell[2])}: column '{name}': {_cut(cell[3])!r}"
            if pa.types.is_floating(types[name]) or not self._is_number(cell[3]):
                return ValueError(f"{where} is not a number. {REMEDY}")
            return NotWhole(
                f"{where} is not of type {types[name]}, as the first cells are. If its column holds "
                f"other numbers too, read it as floats, source['{name}'].float().",
                name,
            )
        if line := PARSING.search(told):
            return ValueError(
                f"{self._row(line[1])}: {_cut(line[2].strip(), 2 * WORDS)}. Correct that line."
            )
        return ValueError(f"{self.name} cannot be read as CSV: {told}")

    def _is_number(self, word: str) -> bool:
        return _is_number(word.replace(self.dialect.decimal, "."))

    def _row(self, number: str | None) -> str:
        """Arrow counts lines from 1, the header being the first."""
        return f"{self.name}, row {int(number) - 1:,}" if number else self.name


def _beginning(file: File) -> str:
    """The first characters of a file, packed or not; of one that is not UTF-8 in Latin-1."""
    with file.reading(), pa.input_stream(str(file.path), compression="detect") as stream:
        raw = stream.read(SAMPLE)
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(raw)  # the cut may be in a letter
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _arrow_type(field: Field) -> pa.DataType:
    return pa.string() if field.kind == OTHER else pa.from_numpy_dtype(DTYPES[field.kind])


def _cut(text: str, most: int = WORDS) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _field(name: str, kind: pa.DataType, first: pa.RecordBatch | None, heading: str) -> Field:
    """The field by its first rows. Of words the first that is no number is told."""
    field = field_of(name, kind)
    if field.kind != OTHER or first is None or not pa.types.is_string(kind):
        return field
    for row, cell in enumerate(first.column(heading), 1):
        if (word := cell.as_py()) is not None and not _is_number(word):
            return replace(field, told=f"string ({_cut(word)!r} in row {row:,})")
    return field


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_separated(names: Sequence[str], file: File, dialect: Dialect) -> None:
    for sign in ",;\t|":
        if len(names) == 1 and sign in names[0]:
            raise ValueError(
                f"{file.name}: {dialect.separator!r} leaves it one column, {names[0]!r}. Where {sign!r} "
                f"separates the columns, say so: open_source(..., sep={sign!r})."
            )
