"""Data read in chunks: every form against NumPy and pandas, shares, samples, and what is refused."""

from __future__ import annotations

import gc
import gzip
import itertools
import os
import pickle
import signal
import sys
import threading
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import scipy.stats
from test_imports import fresh

from pp_mlem.base.csv_signs import SAMPLE, first_lines
from pp_mlem.base.fingerprint import changed
from pp_mlem.sources import Column, Source, open_source

ROWS = 1000
THREADS = "pp_mlem-reader"


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    x[17] = np.nan
    return pd.DataFrame(
        {
            "x": x, "g": rng.integers(0, 9, ROWS), "b": rng.random(ROWS) < 0.5,
            "y": rng.normal(size=ROWS), "word": "a",
        }
    )  # fmt: skip


def thirds(frame):
    return [frame.iloc[:400], frame.iloc[400:400], frame.iloc[400:450], frame.iloc[450:]]


def as_parquet(frame, folder):
    for name, part in zip("abcd", thirds(frame), strict=True):
        table = pa.Table.from_pandas(part, preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=128)
    return folder


def as_csv(frame, folder):
    for name, part in zip("abcd", thirds(frame), strict=True):
        part.to_csv(folder / f"{name}.csv", index=False)
    return str(folder / "*.csv")


def as_feather(frame, folder, **options):
    for name, part in zip("abcd", thirds(frame), strict=True):
        feather.write_feather(part.reset_index(drop=True), folder / f"{name}.feather", **options)
    return [folder / f"{name}.feather" for name in "abcd"]


def as_plain_feather(frame, folder):
    return as_feather(frame, folder, compression="uncompressed", chunksize=77)


def as_small_feather(frame, folder):
    return as_feather(frame, folder, compression="lz4", chunksize=77)


def as_one_arrow(frame, folder):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with ipc.new_file(folder / "t.arrow", table.schema) as file:
        file.write_table(table)
    return folder / "t.arrow"


def as_npy(frame, folder):
    for name in ("x", "g", "b", "y"):
        np.save(folder / f"{name}.npy", frame[name].to_numpy())
    return {name: folder / f"{name}.npy" for name in ("x", "g", "b", "y")}


def as_table(frame, folder):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return pa.concat_tables([table[:400], table[400:450], table[450:]])


def as_dataset(frame, folder):
    return ds.dataset(as_parquet(frame, folder))


def as_filtered(frame, folder):
    return as_dataset(frame, folder).filter(ds.field("word") == "a")


def as_memory_dataset(frame, folder):
    return ds.dataset(as_table(frame, folder))


def as_csv_dataset(frame, folder):
    as_csv(frame, folder)
    (folder / "b.csv").unlink()
    return ds.dataset(folder, format="csv")


def as_record_batches(frame, folder):
    table = as_table(frame, folder)
    return lambda: iter(table.to_batches(333))


def as_frames(frame, folder):
    return lambda: thirds(frame)


def as_dicts(frame, folder):
    def batches():
        for start in range(0, ROWS, 130):
            yield {n: frame[n].to_numpy()[start : start + 130] for n in frame.columns}

    return batches


FORMS = (
    as_parquet, as_csv, as_feather, as_plain_feather, as_small_feather, as_one_arrow, as_npy, as_table,
    as_dataset, as_filtered, as_memory_dataset, as_csv_dataset, as_record_batches, as_frames, as_dicts,
    lambda frame, folder: frame,
    lambda frame, folder: {n: frame[n].to_numpy() for n in frame},
)  # fmt: skip


@pytest.fixture(params=FORMS, ids=lambda f: f.__name__)
def source(request, frame, tmp_path):
    return open_source(request.param(frame, tmp_path))


def columns_of(source):
    return source["x"], source["g"], source["b"], source[["g", "y"]], source["g"].float()


def expected(frame):
    return (
        frame["x"].to_numpy(), frame["g"].to_numpy(), frame["b"].to_numpy(),
        frame[["g", "y"]].to_numpy(float), frame["g"].to_numpy(float),
    )  # fmt: skip


def joined(chunks):
    chunks = list(chunks)
    return tuple(
        np.concatenate([c.arrays[i][: c.count] for c in chunks])
        for i in range(len(chunks[0].arrays))
    )


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


# --- every form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [64, 333, 5000])
def test_chunks_are_the_data(source, frame, rows):
    chunks = list(source.chunks(columns_of(source), rows))
    assert [c.number for c in chunks] == list(range(-(-ROWS // rows)))
    assert [c.count for c in chunks] == [min(rows, ROWS - i * rows) for i in range(len(chunks))]
    assert {a.shape[0] for c in chunks for a in c.arrays} == {rows}
    assert_equal(joined(chunks), expected(frame))
    last = chunks[-1]
    for array in last.arrays:
        padding = array[last.count :]
        np.testing.assert_array_equal(
            padding, np.broadcast_to(array[last.count - 1], padding.shape)
        )


def test_shares_give_the_whole(source, frame):
    columns = columns_of(source)
    shares = [
        source.chunks(columns, 90, begin, end, ahead=0)
        for begin, end in ((9, None), (0, 4), (4, 4), (4, 9), (12, 15))
    ]
    last, first, nothing, middle, beyond = [list(share) for share in shares]
    assert [c.number for c in first + middle + last] == list(range(12))
    assert not nothing and not beyond
    assert_equal(joined(first + middle + last), expected(frame))


def test_counts_and_describes(source, frame):
    assert source.count() == ROWS
    assert source.describe().endswith(", 1,000 rows") and source.describe() in repr(source)
    assert {"x", "g", "b", "y"} <= set(source.columns)


def test_head_and_sample(source, frame):
    columns = columns_of(source)
    assert_equal(source.head(columns, 450), [a[:450] for a in expected(frame)])
    assert_equal(source.head(columns, 10**9), expected(frame))
    assert_equal(source.sample(columns, 2 * ROWS, seed=1), expected(frame))
    some = source.sample(columns, 100, seed=1)
    kept = np.flatnonzero(np.isin(frame["y"], some[3][:, 1]))
    assert len(kept) == 100
    assert_equal(some, [a[kept] for a in expected(frame)])
    assert_equal(source.sample(columns, 100, seed=1), some)
    assert (source.sample(columns, 100, seed=2)[3] != some[3]).any()


@pytest.mark.parametrize("form", FORMS[7:8] + FORMS[10:11] + FORMS[12:])
def test_fingerprint_of_data_in_memory(form, frame, tmp_path):
    own = open_source(form(frame, tmp_path)).fingerprint()
    assert all(isinstance(v, str) for v in own.values()) and "x: " in own["columns"]
    assert open_source(form(frame.copy(), tmp_path)).fingerprint() == own
    other = frame.copy()
    other.loc[0, "y"] += 1
    assert changed(own, open_source(form(other, tmp_path)).fingerprint()) in (
        ["values"], ["first batch"], ["first rows"])  # fmt: skip
    assert "columns" in changed(own, open_source(form(frame[["x"]].assign(word="a", g=1, b=True, y=1.0),
                                                      tmp_path)).fingerprint())  # fmt: skip


@pytest.mark.parametrize("form", [as_parquet, as_csv, as_plain_feather, as_npy, as_dataset])
def test_fingerprint_of_files(form, frame, tmp_path):
    what = form(frame, tmp_path)
    own = open_source(what).fingerprint()
    assert open_source(what).fingerprint() == own
    os.utime(next(tmp_path.iterdir()), ns=(1, 1))
    assert changed(own, open_source(form(frame, tmp_path)).fingerprint()) == ["modified"]
    other = form(frame.iloc[:990], tmp_path)
    assert "sizes" in changed(own, open_source(other).fingerprint())


def test_a_second_pass_is_the_first(source):
    columns = columns_of(source)
    assert_equal(joined(source.chunks(columns, 100)), joined(source.chunks(columns, 101)))


def test_columns(source):
    column = source[["g", "y"]]
    assert isinstance(source, Source) and isinstance(column, Column)
    assert (column.names, column.matrix, column.width) == (("g", "y"), True, 2)
    assert (source["x"].width, source["g"].dtype, source["b"].dtype) == (None, np.int64, np.bool_)
    assert column.dtype == source["g"].float().dtype == np.float64
    assert source["g"].float() == source["g"].float() and hash(column) == hash(source[["g", "y"]])
    assert open_source(source) is source


@pytest.mark.parametrize("form", [as_parquet, as_csv, as_feather, as_npy, as_table])
def test_a_source_goes_to_another_process(frame, tmp_path, form):
    source = pickle.loads(pickle.dumps(open_source(form(frame, tmp_path))))
    assert_equal(joined(source.chunks(columns_of(source), 300)), expected(frame))


# --- where rows stand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form, places",
    [
        (as_parquet, ("a.parquet, row 1 (row group 0)", "a.parquet, row 300 (row group 2)",
                      "d.parquet, row 550 (row group 4)")),
        (as_csv, ("a.csv, row 1", "a.csv, row 300", "d.csv, row 550")),
        (as_plain_feather, ("a.feather, row 1", "a.feather, row 300", "d.feather, row 550")),
        (as_npy, ("x.npy, row 1", "x.npy, row 300", "x.npy, row 1,000")),
        (as_dicts, ("batch 1, row 1", "batch 3, row 40", "batch 8, row 90")),
        (as_frames, ("batch 1, row 1", "batch 1, row 300", "batch 4, row 550")),
        (as_table, ("row 1", "row 300", "row 1,000")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [70, 4000])
def test_places(frame, tmp_path, form, places, rows):
    source = open_source(form(frame, tmp_path))
    chunks = {c.number: c for c in source.chunks([source["x"]], rows)}
    found = [chunks[row // rows].place(row % rows) for row in (0, 299, 999)]
    assert tuple(found) == places
    last = chunks[max(chunks)]
    assert last.place(rows - 1) == places[-1]  # padding stands where the row does that it repeats


def test_places_of_a_share(frame, tmp_path):
    source = open_source(as_parquet(frame, tmp_path))
    (chunk,) = source.chunks([source["x"]], 200, begin=4)
    assert chunk.place(0) == "d.parquet, row 351 (row group 2)"
    np.testing.assert_array_equal(chunk.arrays[0], frame["x"].to_numpy()[800:])


# --- formats ------------------------------------------------------------------------------------


def read_all(source, *columns):
    return joined(source.chunks(columns, 7))


def test_npy_by_position(tmp_path):
    matrix = np.arange(30.0).reshape(10, 3)
    np.save(tmp_path / "c.npy", matrix)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(matrix))
    np.save(tmp_path / "vector.npy", np.arange(10))
    for name in ("c.npy", "fortran.npy"):
        source = open_source(tmp_path / name)
        assert source.columns == ("0", "1", "2") and source.count() == 10
        assert_equal(read_all(source, source[:], source["1"], source[["2", "0"]]),
                     (matrix, matrix[:, 1], matrix[:, [2, 0]]))  # fmt: skip
    vector = open_source(tmp_path / "vector.npy")
    assert vector[:].matrix is False
    assert_equal(read_all(vector, vector[:]), (np.arange(10),))


def test_npy_matrices_by_name(tmp_path):
    matrix = np.arange(20.0).reshape(10, 2)
    np.save(tmp_path / "m.npy", matrix)
    np.save(tmp_path / "g.npy", np.arange(10))
    source = open_source({"m": str(tmp_path / "m.npy"), "g": tmp_path / "g.npy"})
    assert source["m"].width == 2 and source["g"].width is None
    both = np.column_stack([np.arange(10), matrix])
    assert_equal(read_all(source, source["m"], source[["g", "m"]]), (matrix, both))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.float64(), 3), pa.large_list(pa.float32())]
)
def test_lists_are_matrices(tmp_path, kind):
    values = np.arange(60.0).reshape(20, 3)
    rows = [*values.tolist(), [None, 1.0, 2.0]]
    wanted = np.vstack([values, [[np.nan, 1, 2]]])
    pq.write_table(pa.table({"v": pa.array(rows, kind)}), tmp_path / "v.parquet", row_group_size=6)
    source = open_source(tmp_path / "v.parquet")
    assert source["v"].width == 3
    assert_equal(read_all(source, source["v"], source[["v"]]), (wanted, wanted))
    source = open_source(pa.table({"v": pa.array([None, *rows, None], kind)}).slice(1))
    assert_equal(read_all(source, source["v"]), (np.vstack([wanted, [[np.nan] * 3]]),))


def test_types_become_three(tmp_path):
    nan = np.nan
    cases = {
        "half": (pa.array(np.array([1, 2.5], np.float16)), [1, 2.5]),
        "single": (pa.array([1, None], pa.float32()), [1, nan]),
        "money": (pa.array([Decimal("1.25"), None], pa.decimal128(20, 2)), [1.25, nan]),
        "empty": (pa.nulls(2), [nan, nan]),
        "byte": (pa.array([1, 255], pa.uint8()), [1, 255]),
        "flag": (pa.array([True, None]), [1, nan]),
        "gap": (pa.array([7, None]), [7, nan]),
    }
    pq.write_table(pa.table({n: v for n, (v, _) in cases.items()}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    found = read_all(source, *(source[n].float() for n in cases))
    assert_equal(found, [np.array(wanted, float) for _, wanted in cases.values()])
    kinds = {n: source[n].dtype for n in cases}
    assert set(map(kinds.get, ("half", "single", "money", "empty"))) == {np.dtype(float)}
    assert (kinds["byte"], kinds["flag"]) == (np.int64, np.bool_)
    assert_equal(read_all(source, source["byte"]), (np.array([1, 255]),))


def test_data_frames_of_pandas_own_types():
    frame = pd.DataFrame(
        {
            "i": pd.array([1, 2, None], "Int64"), "f": pd.array([1.5, None, 2], "Float64"),
            "b": pd.array([True, False, True], "boolean"), "a": pd.array([1, 2, 3], "int32[pyarrow]"),
        },
        index=[5, 5, 7],
    )  # fmt: skip
    source = open_source(frame)
    found = read_all(source, source["i"].float(), source["f"], source["b"], source["a"])
    nan = np.nan
    assert_equal(found, (np.array([1, 2, nan]), np.array([1.5, nan, 2]), np.array([True, False, True]),
                         np.array([1, 2, 3])))  # fmt: skip
    with pytest.raises(ValueError, match=r"^row 3: column 'i' .*source\['i'\].float\(\)"):
        read_all(source, source["i"])
    again = frame.copy()
    assert open_source(again).fingerprint() == source.fingerprint()
    again.loc[7, "i"] = 4
    assert open_source(again).fingerprint() != source.fingerprint()


def test_csv_of_other_signs(tmp_path):
    (tmp_path / "a.csv").write_text("x; y\n1,5; 2\n; 3\n")
    source = open_source(tmp_path / "a.csv", sep=";", decimal=",")
    assert_equal(read_all(source, source["x"], source["y"]),
                 (np.array([1.5, np.nan]), np.array([2, 3])))  # fmt: skip
    (tmp_path / "a.tsv").write_text("x\ty\n1\t2\n")
    source = open_source(tmp_path / "a.tsv")
    assert_equal(read_all(source, source["y"]), (np.array([2]),))
    (tmp_path / "latin.csv").write_bytes("größe,y\n1,2\n".encode("latin1"))
    assert open_source(tmp_path / "latin.csv").columns == ("größe", "y")


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin1"])
def test_signs_of_csv_are_found(tmp_path, separator, encoding):
    """Of the first file with rows, for all; those that are given are taken."""
    comma = separator != ","
    rows = [
        ["größe", "n"],
        ["1,5" if comma else "1.5", "2"],
        ["", "3"],
        ["-0,25" if comma else "-.25", "4"],
    ]
    (tmp_path / "a.csv").write_text(separator.join(rows[0]) + "\n", encoding)
    text = "\n".join(separator.join(r) for r in rows)
    (tmp_path / "b.csv").write_text(text, encoding)
    with gzip.open(tmp_path / "c.csv.gz", "wt", encoding=encoding) as file:
        file.write(text)
    wanted = np.array([1.5, np.nan, -0.25])
    for what, times in (("b.csv", 1), ("c.csv.gz", 1), ("*.csv", 1), ("*", 2)):
        source = open_source(tmp_path / what)
        assert_equal(read_all(source, source["größe"], source["n"]),
                     (np.tile(wanted, times), np.tile([2, 3, 4], times)))  # fmt: skip
    source = open_source(tmp_path / "b.csv", sep=separator, decimal="." if comma else ",")
    with pytest.raises(TypeError, match="column 'größe' is of type string"):
        source["größe"]


def test_a_line_that_is_cut_tells_no_signs():
    lines = ["a;b", "1,5;" + "2" * (SAMPLE - 12), "3,5;4"]
    assert first_lines("\n".join(lines)) == lines[:2]
    assert first_lines("a;b\n\n1;2\n3") == ["a;b", "1;2", "3"]


def test_another_separator_is_told(tmp_path):
    (tmp_path / "semicolons.csv").write_text("x;y\n1;2\n")
    with pytest.raises(ValueError, match="^semicolons.csv: ',' leaves it one column.*sep=';'"):
        open_source(tmp_path / "semicolons.csv", sep=",")


def test_csv_of_one_column_may_be_empty_in_a_line(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1.5\n\n2\n")
    source = open_source(tmp_path / "a.csv")
    assert_equal(read_all(source, source["x"]), (np.array([1.5, np.nan, 2]),))


def test_csv_packed_and_quoted(tmp_path):
    table = pd.DataFrame({"x": [1.5, 2], "note": ["a\nb", 'say "c"']})
    table.to_csv(tmp_path / "a.csv.gz", index=False)
    source = open_source(tmp_path / "a.csv.gz")
    assert_equal(read_all(source, source["x"]), (np.array([1.5, 2]),))
    assert source.count() == 2


def test_folders_are_read_in_order_to_the_bottom(tmp_path):
    for name, value in (
        ("b/x.parquet", 2),
        ("a/y.parquet", 1),
        ("c.parquet", 3),
        ("_old.parquet", 9),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": [float(value)]}), tmp_path / name)
    (tmp_path / "README.md").write_text("what this is")
    source = open_source(tmp_path)
    assert_equal(read_all(source, source["x"]), (np.array([1.0, 2, 3]),))
    files = [tmp_path / "c.parquet", tmp_path / "a"]
    source = open_source(files)
    assert_equal(read_all(source, source["x"]), (np.array([3.0, 1]),))
    assert source.describe() == "2 files 'c.parquet' to 'a/y.parquet', 2 rows"


def test_a_partitioned_dataset(tmp_path):
    for year in (2023, 2024):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(pa.table({"x": [float(year)] * 2}), tmp_path / f"year={year}" / "a.parquet")
    source = open_source(ds.dataset(tmp_path, partitioning="hive"))
    years = np.repeat([2023, 2024], 2)
    assert_equal(read_all(source, source["x"], source["year"]), (years.astype(float), years))


def test_row_groups_before_a_share_are_not_read(frame, tmp_path, monkeypatch):
    source = open_source(as_parquet(frame, tmp_path))
    asked = []
    read = pq.ParquetFile.iter_batches

    def noted(self, *args, row_groups, columns, **options):
        asked.append((list(row_groups), columns))
        return read(self, *args, row_groups=row_groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    list(source.chunks([source["x"], source[["x", "y"]]], 100, begin=8))
    assert asked == [([2, 3, 4], ["x", "y"])]  # of the last file, whose rows from 350 on are wanted


# --- sequences in long format -------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Sequences of 1 to 9 steps in two files, and the table that they are of."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 10, 37)
    name = np.repeat(rng.permutation(37) + 100, lengths)
    table = pd.DataFrame(
        {"who": name, "y": rng.poisson(3, len(name)), "x": rng.normal(size=len(name))}
    )
    table.loc[5, "x"] = np.nan
    folder = tmp_path_factory.mktemp("steps")
    cut = len(table) // 2 + 1
    table[:cut].to_parquet(folder / "a.parquet")
    table[cut:].to_parquet(folder / "b.parquet")
    return folder, table


@pytest.mark.parametrize("rows", [None, 1, 5, 36])
def test_sequences_of_steps_are_rows(steps, rows, monkeypatch):
    monkeypatch.setattr("pp_mlem.sources.sequences.NUMBERS", 9 * 4)
    folder, table = steps
    source = open_source(str(folder), sequences="who", fill={"y": -1}, chunk_rows=rows)
    groups = [g for _, g in table.groupby("who", sort=False)]
    longest = max(map(len, groups))
    assert source.count() == len(groups) == 37 and source["y"].width == longest
    assert source["y"].dtype == np.int64 and source.chunk_rows == rows
    chunks = list(source.chunks([source["x"], source["n_steps"], source["y"]], rows or 10))
    x, n, y = (np.concatenate([c.arrays[i][: c.count] for c in chunks]) for i in range(3))
    np.testing.assert_array_equal(n, [len(g) for g in groups])
    for i, group in enumerate(groups):
        np.testing.assert_array_equal(
            x[i], np.pad(group["x"], (0, longest - n[i]), constant_values=np.nan)
        )
        np.testing.assert_array_equal(
            y[i], np.pad(group["y"], (0, longest - n[i]), constant_values=-1)
        )
    at = sum(len(g) for g in groups[:20])  # where the first step of a sequence stands
    cut = len(table) // 2 + 1
    place = chunks[20 // (rows or 10)].place(20 % (rows or 10))
    assert f"{'ab'[at >= cut]}.parquet, row {at + 1 - cut * (at >= cut)} " in place
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()
    assert open_source(str(folder), sequences="who").fingerprint() != source.fingerprint()


def test_sequences_of_integers_need_a_filling(steps):
    folder, table = steps
    source = open_source(str(folder), sequences="who")
    with pytest.raises(
        ValueError, match=r"shorter than the longest \(9 steps\) are filled up with nan.*fill="
    ):
        list(source.chunks([source["y"]], 10))
    (y,) = source.head([source["y"].float()], 37)
    assert np.isnan(y).sum() == 37 * 9 - len(table)
    even = {"who": np.repeat([1, 2], 3), "y": np.arange(6)}
    source = open_source(even, sequences="who")
    np.testing.assert_array_equal(source.head([source["y"]], 2)[0], [[0, 1, 2], [3, 4, 5]])


def test_sequences_that_are_refused(steps):
    table = steps[1]
    with pytest.raises(ValueError, match="do not follow one another. Sort the data by 'who'"):
        open_source(pd.concat([table[::2], table[1::2]]), sequences="who")
    with pytest.raises(ValueError, match="has a column 'n_steps'"):
        open_source(table.rename(columns={"y": "n_steps"}), sequences="who")
    with pytest.raises(ValueError, match="there is no column 'z'"):
        open_source(table, sequences="who", fill={"z": 0})
    with pytest.raises(ValueError, match="there is no column 'how'"):
        open_source(table, sequences="how")
    with pytest.raises(ValueError, match="received both"):
        open_source(table, sequences="who", groups="who")
    with pytest.raises(ValueError, match="give sequences="):
        open_source(table, fill={"y": 0})
    lists = {"who": np.array([1, 1, 2]), "y": np.zeros((3, 2))}
    with pytest.raises(TypeError, match="column 'y'"):
        open_source(lists, sequences="who")["y"]


# --- a sample is uniform ------------------------------------------------------------------------


def test_sample_is_uniform():
    source = open_source({"i": np.arange(6)})
    counts = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    for seed in range(600):
        counts[tuple(source.sample([source["i"]], 2, seed)[0])] += 1
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_sample_of_many_rows_forgets_as_it_goes(monkeypatch):
    monkeypatch.setattr("pp_mlem.sources.sample.SLACK", 8)
    source = open_source(lambda: ({"i": np.arange(s, s + 50)} for s in range(0, 20_000, 50)))
    counts = np.zeros(10)
    for seed in range(30):
        (found,) = source.sample([source["i"]], 40, seed)
        assert len(found) == 40 and (np.diff(found) > 0).all()
        counts += np.bincount(found // 2000, minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


# --- the thread ---------------------------------------------------------------------------------


def readers():
    return [t for t in threading.enumerate() if t.name == THREADS]


def slowly(number=10**6):
    for i in range(number):
        yield {"i": np.full(10, i)}


def test_the_thread_ends_with_its_iterator():
    source = open_source(slowly)
    chunks = source.chunks([source["i"]], 10)
    assert not readers()
    next(chunks)
    assert len(readers()) == 1
    chunks.close()
    assert not readers()
    chunks = source.chunks([source["i"]], 10)
    next(chunks)
    del chunks
    gc.collect()
    assert not readers()
    with pytest.raises(KeyError):
        for _ in source.chunks([source["i"]], 10):
            raise KeyError
    gc.collect()
    assert not readers()
    short = open_source(lambda: slowly(7))
    assert len(list(short.chunks([short["i"]], 10))) == 7 and not readers()


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_thread_goes_no_further_than_asked(ahead):
    made = []

    def batches():
        for i in range(30):
            made.append(i)
            yield {"i": np.full(10, i)}

    source = open_source(batches)
    made.clear()
    chunks = source.chunks([source["i"]], 10, ahead=ahead)
    next(chunks)
    for _ in range(50):
        time.sleep(0.005)
    assert len(made) <= ahead + 3  # those ahead, one in hand, one at the consumer, one begun
    chunks.close()


def test_an_error_arrives_as_itself():
    class Mine(Exception):
        pass

    error = Mine("broken")

    def batches():
        yield {"i": np.arange(10)}
        yield {"i": np.arange(10)}
        raise error

    source = open_source(batches)
    for ahead in (0, 2):
        chunks = source.chunks([source["i"]], 10, ahead=ahead)
        assert [next(chunks).number, next(chunks).number] == [0, 1]
        with pytest.raises(Mine) as raised:
            next(chunks)
        assert raised.value is error
    assert not readers()


def test_ctrl_c_ends_the_thread():
    stuck = threading.Event()

    def batches():
        yield {"i": np.arange(10)}
        stuck.wait(0.3)
        yield {"i": np.arange(10)}

    source = open_source(batches)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(source.chunks([source["i"]], 10))
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()
    assert not readers()


def test_an_iterator_of_the_user_is_closed():
    closed = []

    def batches():
        try:
            yield from slowly()
        finally:
            closed.append(threading.current_thread().name)

    source = open_source(batches)
    closed.clear()
    chunks = source.chunks([source["i"]], 10)
    next(chunks)
    chunks.close()
    assert closed == [THREADS]


# --- pyarrow is optional ------------------------------------------------------------------------


def test_importing_loads_no_pyarrow(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    told = fresh(
        "import sys, pp_mlem; from pp_mlem import *; from pp_mlem.sources import open_source\n"
        f"source = open_source({str(tmp_path / 'x.npy')!r})\n"
        "print(*[c.arrays for c in source.chunks([source[:]], 5)])\n"
        "source = open_source({'a': [1, 2]})\n"
        "print(*[c.arrays for c in source.chunks([source['a']], 2)])\n"
        "print('pyarrow' in sys.modules, 'pandas' in sys.modules)"
    )
    assert told.splitlines()[-1] == "False False"


def test_a_missing_pyarrow_is_told(frame, tmp_path, monkeypatch):
    as_parquet(frame, tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="^a.parquet needs pyarrow.*: pip install pyarrow"):
        open_source(tmp_path)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what, error, told",
    [
        ("nothing.parquet", ValueError, "there is no file or folder .*nothing.parquet"),
        ("b.parquet", ValueError, "Did you mean 'a.parquet'"),
        ("*.tsv", ValueError, r"'.*\*.tsv' matches no file"),
        ("gone/*.csv", ValueError, "There is no folder .*gone"),
        ("empty", ValueError, "folder .*empty holds no file to read: expected one of .parquet"),
        ("a.xlsx", ValueError, "a.xlsx is of no known format: expected one of"),
        ("mixed", ValueError, r"several formats \(1 CSV, 1 Parquet\)"),
        ("broken.parquet", ValueError, "^broken.parquet cannot be read: "),
        ("broken.npy", ValueError, "^broken.npy cannot be read: "),
        ("broken.arrow", ValueError, "^broken.arrow cannot be read: "),
        ("nobody.parquet", ValueError, "file 'nobody.parquet': there are no rows"),
        ("nobody.csv", ValueError, "file 'nobody.csv': there are no rows"),
        ("zero.csv", ValueError, "file 'zero.csv': there are no rows"),
        ("zero.npy", ValueError, "file 'zero.npy': there are no rows"),
        ("twice.csv", ValueError, "^twice.csv: two columns are named 'x'"),
        ("cube.npy", ValueError, r"^cube.npy holds an array of shape \(2, 2, 2\)"),
        ("objects.npy", ValueError, "^objects.npy cannot be read: .*objects"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, what, error, told):
    for folder in ("empty", "mixed"):
        (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "mixed/a.parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "nobody.parquet")
    for name, text in (("mixed/b.csv", "x\n1\n"), ("nobody.csv", "x,y\n"), ("twice.csv", "x,x\n1,2\n"),
                       ("a.xlsx", "?"), ("zero.csv", "")):  # fmt: skip
        (tmp_path / name).write_text(text)
    for name in ("broken.parquet", "broken.npy", "broken.arrow"):
        (tmp_path / name).write_bytes(b"no such thing at all")
    np.save(tmp_path / "zero.npy", np.zeros((0, 3)))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(error, match=told):
        open_source(str(tmp_path / what))


@pytest.mark.parametrize(
    "what, error, told",
    [
        (3, TypeError, "received int, expected a path, folder or glob"),
        ([1.0, 2.0], TypeError, "received list, expected a path"),
        ([], ValueError, "empty list of files"),
        ({}, ValueError, "without columns"),
        ({"x": []}, ValueError, "no rows"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, ValueError, "different lengths .*'x' 3, 'y' 4"),
        ({"x": np.zeros((2, 0))}, ValueError, r"'x': received shape \(2, 0\)"),
        ({"1": [1.0], 1: [1.0]}, ValueError, "^the arrays: two columns are named '1'"),
        ({"x": np.zeros((2, 2, 2))}, ValueError, r"'x': received shape \(2, 2, 2\)"),
        ({"x": "x.npy", "y": np.zeros(4)}, TypeError, "'y': received ndarray beside paths"),
        ({"x": np.ma.array([1.0], mask=[True])}, TypeError, "'x': received a masked array"),
        (iter([{"x": np.zeros(3)}]), TypeError, "can be read once only. Pass a function"),
        (slowly(), TypeError, "can be read once only. Pass a function"),
        (pa.table({"x": [1]}).to_reader(), TypeError, "can be read once only. Pass a function"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), ValueError, "two columns are named 'x'"),
        (pa.table([[1], [2]], names=["x", "x"]), ValueError, "two columns are named 'x'"),
        (lambda: 3, TypeError, r"<lambda>\(\): received int, expected an iterable of tables"),
        (lambda: {"x": np.zeros(3)}, TypeError, "received dict, expected an iterable of tables"),
        (lambda: [3], TypeError, "batch 1 is of type int, expected an iterable of tables"),
        (lambda: [], ValueError, "gives no rows"),
        (lambda: [pd.DataFrame({"x": []})], ValueError, "gives no rows"),
    ],
)
def test_bad_data(what, error, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(4))
    with pytest.raises(error, match=told):
        open_source(what)


def test_nothing_is_left_of_a_dataset(frame, tmp_path):
    source = open_source(as_dataset(frame, tmp_path).filter(ds.field("g") > 100))
    for read in (lambda c: list(source.chunks(c, 10)), lambda c: source.head(c, 10),
                 lambda c: source.sample(c, 10, 0)):  # fmt: skip
        with pytest.raises(ValueError, match="^a dataset: there are no rows in it"):
            read([source["x"]])


def test_bad_dicts_of_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    np.save(tmp_path / "g.npy", np.zeros(4))
    with pytest.raises(ValueError, match="different lengths .*'x' 3, 'g' 4"):
        open_source({"x": tmp_path / "x.npy", "g": tmp_path / "g.npy"})
    with pytest.raises(ValueError, match="x.npy is named twice"):
        open_source([tmp_path / "x.npy", tmp_path / "*.npy"])
    (tmp_path / "x.csv").write_text("x\n1\n")
    with pytest.raises(ValueError, match="'x': received .*x.csv, expected one .npy file"):
        open_source({"x": tmp_path / "x.csv"})
    for what in (tmp_path / "x.npy", {"x": np.zeros(3)}):
        with pytest.raises(ValueError, match="sep, decimal: they are for CSV files"):
            open_source(what, sep=";")


def test_bad_columns(source):
    with pytest.raises(
        ValueError, match="there is no column 'X'. Did you mean 'x'. Its columns are 'x', 'g'"
    ):
        source["X"]
    with pytest.raises(ValueError, match="there is no column 'z'"):
        source[["x", "z"]]
    for key in (0, [], [0], slice(3)):
        with pytest.raises(TypeError, match="expected a name, a list of names, or"):
            source[key]
    with pytest.raises(ValueError, match="columns: received none"):
        source.chunks([], 10)
    with pytest.raises(TypeError, match="expected columns of this source"):
        source.chunks([open_source({"x": [1]})["x"]], 10)
    for options in ({"rows": 0}, {"rows": 5, "begin": -1}, {"rows": 5, "ahead": 1.5}):
        with pytest.raises(ValueError, match="received .*, expected"):
            source.chunks([source["x"]], **options)


@pytest.mark.parametrize("form", [f for f in FORMS if f is not as_npy])
def test_words_are_no_numbers(form, frame, tmp_path):
    source = open_source(form(frame, tmp_path))
    for key in ("word", ["x", "word"]):
        with pytest.raises(
            TypeError, match="column 'word' is of type (large_)?(str|string|object).*Encode it as"
        ):
            source[key]


@pytest.mark.parametrize(
    "values, told",
    [
        (pa.array(["a"]).dictionary_encode(), "dictionary<"),
        (pa.array([0], pa.timestamp("ms")), "timestamp"),
        (pa.array([0], pa.date32()), "date32"),
        (pa.array([[["a"]]]), "list<"),
        (pa.array([{"a": 1}]), "struct<"),
    ],
)
def test_types_without_numbers(tmp_path, values, told):
    pq.write_table(pa.table({"v": values}), tmp_path / "v.parquet")
    with pytest.raises(
        TypeError, match=f"^v.parquet: column 'v' is of type {told}.*Encode it as integers"
    ):
        open_source(tmp_path / "v.parquet")["v"]


def test_a_gap_among_integers(tmp_path):
    values = [*range(300), None, 301]
    pq.write_table(pa.table({"g": values}), tmp_path / "a.parquet", row_group_size=128)
    source = open_source(tmp_path / "a.parquet")
    with pytest.raises(
        ValueError,
        match=r"^a.parquet, row 301 \(row group 2\): column 'g' .*source\['g'\].float\(\)",
    ):
        list(source.chunks([source["g"]], 100))
    (found,) = joined(source.chunks([source["g"].float()], 100))
    assert np.isnan(found[300]) and found[301] == 301
    pd.DataFrame({"g": values, "x": 0.5}).astype({"g": "Int64"}).to_csv(
        tmp_path / "a.csv", index=False
    )
    source = open_source(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="^a.csv, row 301: column 'g'"):
        list(source.chunks([source["g"]], 100))


def test_ragged_lists(tmp_path):
    rows = [[1.0, 2.0]] * 9 + [[1.0]]
    pq.write_table(pa.table({"v": rows}), tmp_path / "v.parquet", row_group_size=4)
    source = open_source(tmp_path / "v.parquet")
    with pytest.raises(
        ValueError, match=r"^v.parquet, row 10 \(row group 2\): .*list of 1, before it lists of 2"
    ):
        list(source.chunks([source["v"]], 4))


@pytest.mark.parametrize("write", [
    lambda table, path: pq.write_table(table, path.with_suffix(".parquet")),
    lambda table, path: feather.write_feather(table, path.with_suffix(".feather")),
])  # fmt: skip
def test_other_columns_in_a_later_file(tmp_path, write):
    write(pa.table({"x": [1.0], "y": [1], "z": [1.0], "v": [[1.0]]}), tmp_path / "a")
    write(pa.table({"x": [1], "y": [2.5], "Z": [1.0], "v": pa.array([[1.0, 2]], pa.list_(pa.float64()))}),
          tmp_path / "b")  # fmt: skip
    source = open_source(tmp_path)
    with pytest.raises(
        ValueError, match="^b.*there is no column 'z', which a.* has. Did you mean 'Z'"
    ):
        source["z"]
    with pytest.raises(
        TypeError, match=r"^b.*'x' is of type int64, in a.* it is double. Read it as floats"
    ):
        source.chunks([source["x"]], 10)
    with pytest.raises(TypeError, match=r"^b.*'y' is of type double.*source\['y'\].float\(\)"):
        source.sample([source["y"]], 10, 0)
    assert_equal(read_all(source, source["y"].float(), source["x"].float()),
                 (np.array([1, 2.5]), np.array([1.0, 1.0])))  # fmt: skip
    with pytest.raises(
        ValueError, match="^b.*row 1.*: column 'v' holds a list of 2, before it lists of 1"
    ):
        read_all(source, source["v"])


def test_words_in_a_later_file(tmp_path):
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["1"]}), tmp_path / "b.parquet")
    source = open_source(tmp_path)
    for column in (source["x"], source["x"].float()):
        with pytest.raises(
            TypeError, match="^b.parquet: .*string, in a.parquet it is double. Write both"
        ):
            source.chunks([column], 10)


def test_bad_cells_of_csv(tmp_path):
    (tmp_path / "a.csv").write_text("n,x\n1,1.5\n2,2\n")
    (tmp_path / "b.csv").write_text("n,x\n3,3\n4,four\n")
    (tmp_path / "c.csv").write_text("x,n\n3,2.5\n")
    (tmp_path / "d.csv").write_text("n,x\n1,2\n1\n")
    (tmp_path / "e.csv").write_text("n,x\n1,2\noops,3\n")
    (tmp_path / "f.csv").write_text("n,y\n1,2\n")
    (tmp_path / "g.csv").write_text("x,n\n3,2\n")

    def read(names, *columns):
        source = open_source([tmp_path / f"{n}.csv" for n in names])
        return read_all(source, *(source[c] for c in columns))

    assert_equal(read("ag", "n", "x"), (np.array([1, 2, 2]), np.array([1.5, 2, 3])))
    with pytest.raises(
        ValueError, match=r"^b.csv, row 2: column 'x': 'four' is not a number\. Correct it"
    ):
        read("ab", "n", "x")
    with pytest.raises(
        ValueError, match=r"^c.csv, row 1: column 'n': '2.5' is not of type int64.*float\(\)"
    ):
        read("ac", "x", "n")
    source = open_source([tmp_path / "a.csv", tmp_path / "c.csv"])
    assert_equal(read_all(source, source["n"].float()), (np.array([1, 2, 2.5]),))
    (tmp_path / "h.csv").write_text("n,x\n4,1\nfour,2\n")
    source = open_source([tmp_path / "a.csv", tmp_path / "h.csv"])
    with pytest.raises(ValueError, match="^h.csv, row 2: column 'n': 'four' is not a number"):
        read_all(source, source["n"].float())
    with pytest.raises(
        ValueError, match="^d.csv, row 2: Expected 2 columns, got 1: 1. Correct that line"
    ):
        read("d", "x")
    with pytest.raises(
        TypeError, match=r"^e.csv: column 'n' is of type string \('oops' in row 2\)"
    ):
        read("e", "n")
    with pytest.raises(ValueError, match="^f.csv: there is no column 'x', which a.csv has. "):
        read("af", "x")


@pytest.mark.parametrize("form", [as_parquet, as_csv, as_plain_feather, as_npy, as_dataset])
def test_files_that_change(form, frame, tmp_path):
    source = open_source(form(frame, tmp_path))
    columns = [source["x"]]
    list(source.chunks(columns, 100))
    file = sorted(p for p in tmp_path.iterdir() if p.name[0] in "ax")[0]
    content = file.read_bytes()
    os.utime(file, ns=(1, 1))
    with pytest.raises(
        ValueError, match=f"{file.name} has changed since its source was opened: it had "
    ):
        list(source.chunks(columns, 100))
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=f"{file.name} has changed since its source was opened: it had "
    ):
        list(source.chunks(columns, 100))
    file.unlink()
    with pytest.raises(ValueError, match=f"{file.name} is gone since its source was opened"):
        list(source.chunks(columns, 100))


def test_a_file_that_changes_while_it_is_read(frame, tmp_path):
    source = open_source(as_parquet(frame, tmp_path))
    chunks = source.chunks([source["x"]], 100, ahead=0)
    next(chunks)
    os.utime(tmp_path / "a.parquet", ns=(1, 1))
    with pytest.raises(ValueError, match="a.parquet has changed"):
        list(chunks)


def test_damage_is_told_with_its_place(tmp_path):
    pq.write_table(pa.table({"x": np.arange(4000.0)}), tmp_path / "a.parquet", row_group_size=1000,
                   compression="snappy", use_dictionary=False)  # fmt: skip
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(2).column(0).data_page_offset
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[start : start + 60] = bytes([255]) * 60
    (tmp_path / "a.parquet").write_bytes(content)
    source = open_source(tmp_path)
    with pytest.raises(ValueError, match="^a.parquet cannot be read"):
        list(source.chunks([source["x"]], 500))
    assert joined(source.chunks([source["x"]], 1000, begin=3))[0][0] == 3000


def counted(*sizes):
    """A function whose calls give so many rows, one after another; the last from then on."""
    calls = iter([*sizes, *itertools.repeat(sizes[-1], 50)])
    return lambda: (
        {"i": np.arange(s, min(s + 10, n))} for n in [next(calls)] for s in range(0, n, 10)
    )


def test_passes_of_other_lengths():
    for later, told in (
        (40, "gives 40 rows, and gave 60"),
        (80, "gives more than 60 rows, and gave 60"),
    ):
        source = open_source(counted(60, 60, 60, 60, 60, later))
        columns = [source["i"]]
        assert source.count() == 60 and len(list(source.chunks(columns, 25))) == 3
        with pytest.raises(ValueError, match=rf"^<lambda>\(\) {told}"):
            list(source.chunks(columns, 25))


def test_an_iterator_that_was_used():
    once = slowly(5)
    with pytest.raises(ValueError, match="gives the same iterator at each call"):
        open_source(lambda: once)
    again = iter(list(slowly(5)))
    source = open_source(lambda: (batch for batch in again))
    with pytest.raises(ValueError, match="begins with other rows than when its source was opened"):
        list(source.chunks([source["i"]], 10))
    empty = open_source(counted(5, 5, 5, 0))
    with pytest.raises(ValueError, match="or has none left"):
        empty.head([empty["i"]], 3)


def test_other_columns_in_a_later_batch():
    batches = [{"x": np.zeros(3)}, {"y": np.zeros(3)}]
    source = open_source(lambda: batches)
    with pytest.raises(ValueError, match="^batch 2: there is no column 'x', which batch 1 has"):
        list(source.chunks([source["x"]], 2))
    batches = [{"x": np.zeros(3)}, pd.DataFrame({"x": [1, 2]})]
    source = open_source(lambda: batches)
    with pytest.raises(
        TypeError, match="^batch 2: column 'x' is of type int64, in batch 1 it is float64"
    ):
        list(source.chunks([source["x"]], 2))
    assert_equal(read_all(source, source["x"].float()), (np.array([0.0, 0, 0, 1, 2]),))


def test_integers_beyond_64_bits():
    source = open_source({"i": np.array([1, 2**63], np.uint64)})
    with pytest.raises(ValueError, match="'i' .* holds 9223372036854775808, beyond .*float"):
        source.head([source["i"]], 2)
    assert source.head([source["i"].float()], 2)[0][1] == 2.0**63


def test_a_sample_does_not_follow_data_of_the_same_seed():
    """Data are often simulated from seed 0, and so is the sample drawn: the two must not go together."""
    z = np.random.default_rng(0).choice(2, 50_000)
    source = open_source({"z": z})
    (sample,) = source.sample([source["z"]], 2_000, 0)
    assert abs(sample.mean() - 0.5) < 0.05
