from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_fanout.tasks.tables import writer
from prefect_fanout.tasks.tables.writer import ParquetFile

SCHEMA = pa.schema([("a", pa.int64()), ("s", pa.string())])


def _table(rows: int) -> pa.Table:
    return pa.table({"a": list(range(rows)), "s": ["x"] * rows}, schema=SCHEMA)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("tables", [0, 1, 2, 9])
def test_what_is_written_is_there_after_the_commit_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: int, overlap: bool
) -> None:
    """Rows keep their order over any number of row groups, and only the commit gives the file its name."""
    monkeypatch.setattr(writer, "ROW_GROUP_ROWS", 25)
    final = tmp_path / "a.parquet"
    with ParquetFile(final, SCHEMA, codec="zstd", dictionary=["s"], overlap=overlap) as file:
        for _ in range(tables):
            file.write(_table(10))
        assert file.close() == 10 * tables
        assert not final.exists()
        file.commit()
    assert pq.read_table(final).column("a").to_pylist() == list(range(10)) * tables
    assert pq.read_metadata(final).num_row_groups == -(-tables // 3)
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_an_error_leaves_no_file(tmp_path: Path, closed: bool, overlap: bool) -> None:
    """Not even one with a valid footer below half of the rows."""

    def interrupted() -> None:
        with ParquetFile(tmp_path / "a.parquet", SCHEMA, codec="snappy", overlap=overlap) as file:
            file.write(_table(10))
            if closed:
                file.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overlap", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    """However much is written, no more than the row groups in flight are held."""
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 1_000_000)
    table = pa.table({"a": list(range(20_000)), "s": ["x" * 20] * 20_000}, schema=SCHEMA)
    held: list[int] = []
    with ParquetFile(tmp_path / "a.parquet", SCHEMA, codec="none", overlap=overlap) as file:
        start = pa.total_allocated_bytes()
        for _ in range(100):
            file.write(pa.Table.from_batches([pa.RecordBatch.from_pydict(table.to_pydict(), schema=SCHEMA)]))
            held.append(pa.total_allocated_bytes() - start)
        assert file.close() == 2_000_000
    assert max(held) < (writer.ROW_GROUPS_IN_FLIGHT + 1) * (1_000_000 + table.nbytes)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_error_of_an_encoder_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    """At the next write or at the close, and the file is gone."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def run() -> None:
        with ParquetFile(tmp_path / "a.parquet", SCHEMA, codec="none", overlap=overlap) as file:
            file.write(_table(10))
            file.close()

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_only_chosen_columns_have_dictionaries(tmp_path: Path) -> None:
    """The others are written as they are."""
    table = pa.table({"s": ["x", "y"], "u": ["1", "2"]})
    with ParquetFile(tmp_path / "a.parquet", table.schema, codec="snappy", dictionary=["s"]) as file:
        file.write(table)
        file.close()
        file.commit()
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    assert [group.column(i).has_dictionary_page for i in range(2)] == [True, False]
