from __future__ import annotations

import csv
import gzip
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.tables.convert import VALUE_LIMIT
from prefect_fanout.tasks.tables.ingest import ingest_file, reconcile
from prefect_fanout.tasks.tables.options import KIB, MIB, CsvOptions
from prefect_fanout.tasks.tables.records import RAW_LIMIT_BYTES
from prefect_fanout.tasks.tables.row import SCHEMA
from prefect_fanout.tasks.tables.sources import find_sources

SAMPLE = MIB  # types are found in the first block, which is at least this large


def _ingest_text(text: bytes, **options: Any) -> tuple[dict[str, Any], pa.Table | None, list[dict[str, Any]]]:
    """For hypothesis, whose examples must not share a folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input.csv")
        path.write_bytes(text)
        run = Path(folder, "run")
        run.mkdir()
        row = ingest_file(find_sources(path)[0], run, CsvOptions(max_rejects="100%", **options))
        table = pq.read_table(run / row["path"]) if row.get("path") else None
        rejects = pq.read_table(run / row["rejects_path"]).to_pylist() if row.get("rejects_path") else []
        return row, table, rejects


def _late(column: str, good: str, bad: str) -> bytes:
    """A file whose last record but one holds a bad cell, far behind the block that types are found in."""
    line = f"x,{good}\n".encode()
    count = SAMPLE // len(line) + 10
    return f"name,{column}\n".encode() + line * count + f"y,{bad}\n".encode() + line


pieces = st.sampled_from(["a", "é", '"', ",", "\n", "\r\n", " ", "\0", "1", "0", ".", "-", "true", ""])
cells = st.lists(pieces, max_size=4).map("".join)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=9)))
def test_every_record_of_a_well_formed_file_is_a_row(rows: list[list[str]]) -> None:
    """Against the csv module: the same number of rows, and the same text in the columns that stay text."""
    rows = [[f"c{i}" for i in range(len(rows[0]))], *rows]
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    row, table, rejects = _ingest_text(out.getvalue().encode(), delimiter=",")
    assert (row["status"], row["rows_in"], row["rows_out"]) == ("ok", len(rows) - 1, len(rows) - 1)
    assert rejects == []
    assert table is not None
    for i, name in enumerate(table.schema.names):
        expected = [record[i] for record in rows[1:]]
        if pa.types.is_string(table.schema.field(name).type):
            assert table.column(name).to_pylist() == expected
        else:
            assert [value is None for value in table.column(name).to_pylist()] == [cell == "" for cell in expected]


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(alphabet='ab1,"\n\r.é', max_size=60).map(str.encode) | st.binary(max_size=40))
def test_rows_in_is_rows_out_and_rejects_for_any_bytes(text: bytes) -> None:
    """Whatever the bytes, a file is either read with nothing lost and nothing invented, or fails as a whole."""
    row, table, rejects = _ingest_text(b"a,b\n" + text)
    if row["status"] == "failed":
        assert row["error_kind"]
        assert table is None
        return
    assert table is not None
    assert row["rows_in"] == row["rows_out"] + row["rejected"]
    assert (row["rows_out"], row["rejected"]) == (table.num_rows, len(rejects))
    for reject in rejects:
        start = reject["byte_offset"]
        assert (b"a,b\n" + text)[start : start + reject["byte_length"]] == reject["raw"]


def test_a_row_fits_the_ledger(ingest: Any) -> None:
    """Good and failed files give rows of the ledger's columns and types."""
    rows = [ingest(b"a\n1\n").row, ingest(b"\x1f\x8b", name="b.csv").row]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    assert table.column("status").to_pylist() == ["ok", "failed"]
    assert all(set(row) <= set(SCHEMA.names) for row in rows)
    assert len(rows[0]["sha256"]) == 64


@pytest.mark.parametrize("codec", ["zstd", "snappy", "none"])
@pytest.mark.parametrize("overlap", [False, True])
def test_types_and_values_arrive(ingest: Any, codec: str, overlap: bool) -> None:
    """Each type comes through, with every codec, encoded in the same or in another thread."""
    done = ingest(
        b"i,d,b,day,t,s\n1,1.5,true,2024-01-05,2024-01-05 10:00:00,007\n,,,,,\n", codec=codec, overlap=overlap
    )
    assert list(done.columns.values()) == ["int64", "double", "bool", "date32[day]", "timestamp[us]", "string"]
    assert done.rows[1] == (None,) * 6
    assert done.rows[0][0:3] == (1, 1.5, True)
    assert done.rows[0][5] == "007"
    assert done.left_behind == [done.row["path"]]


def test_empty_and_quoted_empty_are_told_apart_in_text(ingest: Any) -> None:
    """A bare empty cell is null; a quoted one is an empty string in text and null elsewhere."""
    assert ingest(b'i,s\n1,\n2,""\n"","x"\n').rows == [(1, None), (2, ""), (None, "x")]


def test_null_spellings_are_declared(ingest: Any) -> None:
    """NA is text unless it is named as a null, and a quoted NA is text even then."""
    text = b'i,s\n1,NA\n2,"NA"\n'
    assert ingest(text).rows == [(1, "NA"), (2, "NA")]
    assert ingest(text, null_values=("", "NA")).rows == [(1, None), (2, "NA")]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("1", "1.5"),
        ("1", "abc"),
        ("1", "007"),
        ("1", "9223372036854775808"),
        ("1.5", "1e400"),
        ("2024-01-05", "2024-02-30"),
        ("2024-01-05 10:00:00", "2024-01-05T10:00:00Z"),
        ("true", "1"),
    ],
)
def test_a_late_cell_that_does_not_fit_rejects_its_record(ingest: Any, good: str, bad: str) -> None:
    """Nothing is rounded, cut or guessed: the record is rejected with column, value, place and bytes."""
    text = _late("value", good, bad)
    done = ingest(text, block_bytes=4 * KIB)
    count = text.count(b"\n") - 1
    assert (done.row["rows_in"], done.row["rows_out"], done.row["rejected"]) == (count, count - 1, 1)
    [reject] = done.rejects
    assert (reject["reason"], reject["column"], reject["value"]) == ("cast", "value", bad)
    assert (reject["record_no"], reject["line"]) == (count - 1, count)
    assert reject["raw"] == f"y,{bad}".encode()
    assert text[reject["byte_offset"] :].startswith(reject["raw"])
    assert repr(bad) in reject["message"]


def test_a_late_cell_that_does_not_fit_can_make_its_column_text(ingest: Any) -> None:
    """By choice the file is read again with the column as text, and nothing is rejected."""
    text = _late("value", "1", "007")
    done = ingest(text, on_type_conflict="string", block_bytes=4 * KIB)
    assert done.columns == {"name": "string", "value": "string"}
    assert (done.row["rows_out"], done.row["rejected"]) == (text.count(b"\n") - 1, 0)
    assert done.rows[-2] == ("y", "007")
    assert done.notes["widened_to_text"] == ["value"]
    assert done.left_behind == [done.row["path"]]


def test_records_of_another_width_are_rejected(ingest: Any) -> None:
    """Too few and too many fields, a footer, and a last record cut short; nothing is padded or shifted."""
    done = ingest(b"a,b\n1,2\n3\n4,5,6\n7,8\nTotal: 2 rows\n9")
    assert done.rows == [(1, 2), (7, 8)]
    assert [(r["reason"], r["line"], r["raw"]) for r in done.rejects] == [
        ("too_few_fields", 3, b"3"),
        ("too_many_fields", 4, b"4,5,6"),
        ("too_few_fields", 6, b"Total: 2 rows"),
        ("too_few_fields", 7, b"9"),
    ]


def test_one_bad_byte_rejects_one_record(ingest: Any) -> None:
    """The record with it is kept with its true bytes; all others are read."""
    lines = [b"%d,x" % i for i in range(70_000)]
    lines[60_000] = b"60000,\xff"
    done = ingest(b"a,b\n" + b"\n".join(lines))
    [reject] = done.rejects
    assert (reject["reason"], reject["line"], reject["raw"]) == ("invalid_utf8", 60_002, b"60000,\xff")
    assert done.row["rows_out"] == 69_999


def test_latin_1_is_rejected_unless_declared(ingest: Any) -> None:
    """A file in another encoding is never guessed."""
    text = b"a,b\n1,x\n2,\xe9\n"
    assert [r["reason"] for r in ingest(text).rejects] == ["invalid_utf8"]
    done = ingest(text, encoding="latin-1")
    assert done.rows == [(1, "x"), (2, "é")]
    assert done.row["encoding"] == "iso8859-1"


def test_quoted_line_ends_are_kept_at_every_cut(ingest: Any) -> None:
    """A quoted CRLF keeps both its characters wherever blocks begin and end, and rows are counted right."""
    text = b"a,b\r\n" + b"".join(b'%d,"x\r\ny"\r\n' % i for i in range(200_000))
    done = ingest(text, block_bytes=4 * KIB)
    assert done.row["rows_out"] == 200_000
    assert done.table.column("b").unique().to_pylist() == ["x\r\ny"]
    assert done.table.column("a").to_pylist() == list(range(200_000))


def test_an_unterminated_quote_costs_one_record(ingest: Any) -> None:
    """It swallows neither the rest of the file nor the rows up to the next quote."""
    done = ingest(b'a,b\n1,"x\n2,y\n3,"z"\n4,"w')
    assert done.rows == [(2, "y"), (3, "z")]
    assert [(r["reason"], r["line"]) for r in done.rejects] == [("unterminated_quote", 2), ("unterminated_quote", 5)]


def test_text_after_a_closing_quote_is_rejected(ingest: Any) -> None:
    """`"ab"c` is rejected; an inch mark in a bare field is text."""
    done = ingest(b'a,b\n1,"ab"c\n2,5" pipe\n')
    assert done.rows == [(2, '5" pipe')]
    assert [r["reason"] for r in done.rejects] == ["stray_quote"]


def test_a_repeated_header_is_rejected(ingest: Any) -> None:
    """Files put one after the other leave their headers in the middle."""
    done = ingest(b"a,b\nx,y\na,b\nz,w\n")
    assert done.rows == [("x", "y"), ("z", "w")]
    assert [(r["reason"], r["line"]) for r in done.rejects] == [("repeated_header", 3)]


def test_a_record_beyond_the_limit_is_rejected(ingest: Any) -> None:
    """Its beginning is kept and marked as cut; the records around it are read."""
    text = b"a,b\n" + b"1,x\n" * 300_000 + b"2," + b"y" * 200_000 + b"\n3,z\n"
    done = ingest(text, max_record_bytes=100_000, block_bytes=4 * KIB)
    [reject] = done.rejects
    assert (reject["reason"], reject["byte_length"], reject["raw_cut"]) == ("record_too_long", 200_002, True)
    assert len(reject["raw"]) == RAW_LIMIT_BYTES
    assert done.row["rows_out"] == 300_001


def test_a_long_record_below_the_limit_is_read(ingest: Any) -> None:
    """Records longer than a block, with line ends in them, come through whole."""
    value = "x\r\n" * 1_000_000
    done = ingest(f'a,b\n1,"{value}"\n2,y\n'.encode(), block_bytes=4 * KIB)
    assert done.rows == [(1, value), (2, "y")]


def test_a_long_rejected_cell_is_shown_in_part(ingest: Any) -> None:
    """The message stays readable; the record's bytes are kept."""
    [reject] = ingest(_late("value", "1", "z" * 5000), block_bytes=4 * KIB).rejects
    assert (len(reject["value"]), len(reject["raw"]), reject["raw_cut"]) == (VALUE_LIMIT, 5002, False)
    assert len(reject["message"]) < 300


def test_blank_lines_are_counted(ingest: Any) -> None:
    """They are neither rows nor rejects, and the lines after them keep their numbers."""
    done = ingest(b"\na,b\n\n1,2\n\r\n3\n")
    assert (done.row["blank_lines"], done.row["rows_in"]) == (3, 2)
    assert [r["line"] for r in done.rejects] == [6]


def test_byte_order_marks_are_stripped_only_at_the_start(ingest: Any) -> None:
    """Before a quoted header too; one at the start of a later record is text."""
    done = ingest(b'\xef\xbb\xbf"id",b\n\xef\xbb\xbfx,1\n')
    assert done.columns == {"id": "string", "b": "int64"}
    assert done.rows == [("\ufeffx", 1)]


def test_utf_16_is_transcoded(ingest: Any) -> None:
    """A file with a mark is read, and the ledger says what it was."""
    done = ingest("a,b\n1,é\n".encode("utf-16"))
    assert (done.rows, done.row["encoding"]) == ([(1, "é")], "utf-16")


def test_nul_bytes_are_kept(ingest: Any) -> None:
    """The text after them is not lost."""
    assert ingest(b"a,b\nx\0y,1\n").rows == [("x\0y", 1)]


def test_formulas_are_text(ingest: Any) -> None:
    """Cells that a spreadsheet would run are kept as they are."""
    assert ingest(b"a,b\n=cmd(),1\n").rows == [("=cmd()", 1)]


@pytest.mark.parametrize("text", [b"a,b", b"a,b\n", b"a,b\r\n\r\n"])
def test_a_header_only_gives_a_table_without_rows(ingest: Any, text: bytes) -> None:
    """The file has its columns, as text."""
    done = ingest(text)
    assert (done.table.num_rows, done.columns) == (0, {"a": "string", "b": "string"})


@pytest.mark.parametrize("text", [b"", b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"")])
def test_an_empty_file_gives_no_table(ingest: Any, text: bytes) -> None:
    """It is done, with no rows and no file."""
    done = ingest(text)
    assert (done.row["status"], done.row["rows_in"], done.notes) == ("ok", 0, {"empty": True})
    assert done.left_behind == []


def test_duplicate_names_can_be_read_back(ingest: Any) -> None:
    """The map from old to new names is in the ledger."""
    done = ingest(b"a,a,,A\n1,2,3,4\n")
    assert list(done.columns) == ["a", "a_2", "column_3", "A_3"]
    assert done.notes["renamed_columns"] == {"a": "a_2", "": "column_3", "A": "A_3"}
    assert done.rows == [(1, 2, 3, 4)]


def test_a_delimiter_at_the_end_of_each_record_shifts_nothing(ingest: Any) -> None:
    """A record with something after it has a field too many."""
    done = ingest(b"a,b\n" + b"1,2,\n" * 300 + b"3,4,5\n6,7,\n")
    assert done.columns == {"a": "int64", "b": "int64"}
    assert (done.row["rows_out"], done.rows[-1]) == (301, (6, 7))
    assert [(r["reason"], r["raw"]) for r in done.rejects] == [("too_many_fields", b"3,4,5")]


def test_one_column_reads_too(ingest: Any) -> None:
    """A quoted empty value is a row, a blank line is none."""
    assert ingest(b'a\nx\n\n""\n').rows == [("x",), ("",)]


def test_without_a_header_the_first_record_is_a_row(ingest: Any) -> None:
    """Nothing is eaten."""
    done = ingest(b"1,x\n2,y\n", header=False)
    assert (done.rows, list(done.columns)) == ([(1, "x"), (2, "y")], ["column_1", "column_2"])


@pytest.mark.parametrize("members", [1, 2])
def test_gzip_is_read_whatever_its_name(ingest: Any, members: int) -> None:
    """All members; the ledger has the size and digest of the file itself."""
    text = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n") * (members - 1)
    done = ingest(text)
    assert done.row["rows_out"] == members
    assert (done.row["compression"], done.row["bytes_in"]) == ("gzip", len(text))


def test_nothing_of_a_truncated_gzip_file_is_kept(ingest: Any) -> None:
    """It fails with a reason, although most of it could be read."""
    text = b"a,b\n" + b"".join(b"%d,x\n" % i for i in range(500_000)) + b"bad\n"
    done = ingest(gzip.compress(text)[:-20], block_bytes=4 * KIB)
    assert (done.row["status"], done.row["error_kind"]) == ("failed", "truncated_gzip")
    assert done.left_behind == []


def test_a_file_that_vanished_fails(tmp_path: Path) -> None:
    """Between the listing and the reading a file may go; that is its row, not an error."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n")
    [source] = find_sources(path)
    path.unlink()
    row = ingest_file(source, tmp_path, CsvOptions())
    assert (row["status"], row["error_kind"]) == ("failed", "vanished")


@pytest.mark.parametrize("change", ["grow", "replace", "remove"])
def test_a_file_that_changes_while_it_is_read_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What was read is compared with what lies on the disk afterwards; a mixture of two contents is not kept."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n")
    true_close = pq.ParquetWriter.close

    def close(writer: pq.ParquetWriter) -> None:
        true_close(writer)
        if change == "grow":
            path.write_bytes(b"a,b\n1,2\n3,4\n")
        elif change == "replace":
            path.write_bytes(b"a,b\n5,6\n")
            os.utime(path, ns=(0, 0))
        else:
            path.unlink()

    monkeypatch.setattr(pq.ParquetWriter, "close", close)
    row = ingest_file(find_sources(path)[0], tmp_path / "run", CsvOptions())
    assert (row["status"], row["error_kind"]) == ("failed", "vanished" if change == "remove" else "changed")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


def test_another_content_replaces_what_was_made_of_the_old_one(ingest: Any) -> None:
    """The rejects of the old content go with its rows."""
    assert len(ingest(b"a,b\n1\n").left_behind) == 2
    done = ingest(b"a,b\n1,2\n")
    assert done.left_behind == [done.row["path"]]
    assert done.rows == [(1, 2)]


def test_counts_that_do_not_reconcile_fail_the_run() -> None:
    """The figures are named; one record or one byte is enough."""
    good = {"rows_in": 3, "rows_out": 2, "rejected": 1, "text_bytes": 10, "cut_bytes": 10}
    reconcile("a.csv", **good)
    for wrong in ({"rows_in": 4}, {"rows_out": 1}, {"rejected": 0}, {"cut_bytes": 9}):
        with pytest.raises(RunFailed, match=r"a\.csv do not reconcile"):
            reconcile("a.csv", **{**good, **wrong})


def test_a_parser_that_loses_a_row_fails_the_run(ingest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that drops a record is found out, and nothing of the file is kept."""
    true_read = pyarrow.csv.read_csv
    monkeypatch.setattr(pyarrow.csv, "read_csv", lambda *args: true_read(*args).slice(1))
    with pytest.raises(RunFailed, match="3 records, but 2 rows"):
        ingest(b"a,b\n1,2\n3,4\n5,6\n")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


def test_a_writer_that_loses_a_row_fails_the_run(ingest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is read back, and the file is removed when it holds another number of rows."""
    true_write = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda self, table, **kw: true_write(self, table.slice(1), **kw)
    )
    with pytest.raises(RunFailed, match=r"3 records in .* 2 rows and 0 rejects"):
        ingest(b"a,b\n1,2\n3,4\n5,6\n")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("overlap", [False, True])
def test_a_full_disk_fails_the_run_with_advice(ingest: Any, monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    """The error of the disk is told, and no half file is left."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunFailed, match="Free some space"):
        ingest(b"a,b\n1,2\n", overlap=overlap)
