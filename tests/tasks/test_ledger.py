"""The ledger: what survives a kill, what counts, what order, and what a full disk or a damaged file does."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.ledger import ERROR_CHARS, Ledger, ledger_schema, read_ledger
from prefect_fanout.tasks.ledger_files import GROUP_ROWS
from prefect_fanout.tasks.ownership import INDEX_FILE
from prefect_fanout.tasks.run_directory import RunDirectory

SCHEMA = ledger_schema("url_key", pa.field("bytes", pa.int64()), pa.field("whole", pa.bool_()))
NEVER = float("inf")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """An open run directory."""
    with RunDirectory.open(tmp_path / "run", pipeline="p") as opened:
        yield opened


def ledger(run: RunDirectory, *, part_rows: int = 5, part_seconds: float = NEVER) -> Ledger:
    """Open a ledger whose parts do not depend on the clock."""
    return Ledger(run, SCHEMA, key="url_key", part_rows=part_rows, part_seconds=part_seconds)


def row(index: int, status: str = "ok", kind: str | None = None, **more: Any) -> dict[str, Any]:
    """Make a row for the item at a position."""
    return {"index": index, "url_key": f"item {index}", "status": status, "error_kind": kind, **more}


def parts(run: RunDirectory) -> list[int]:
    """Give the number of rows of each part."""
    return [pq.read_metadata(path).num_rows for path in sorted((run.path / "ledger").iterdir())]


def group_sizes(path: Path) -> list[int]:
    """Give the number of rows of each row group of a file."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


@pytest.mark.parametrize(("rows", "expected"), [(0, []), (1, [1]), (2, [2]), (5, [5]), (6, [5, 1]), (11, [5, 5, 1])])
def test_parts_hold_part_rows_and_the_end_commits_the_rest(run: RunDirectory, rows: int, expected: list[int]) -> None:
    """A part is committed every `part_rows` rows, the rest at the end, and no part is empty."""
    with ledger(run) as opened:
        for index in range(rows):
            opened.append(row(index))
        assert parts(run) == expected[: rows // 5]
    assert parts(run) == expected
    assert len(read_ledger(run.path)) == rows


def test_what_is_buffered_is_committed_when_an_exception_ends_the_run(run: RunDirectory) -> None:
    """The rows of finished items survive the exception that ends the block, which is raised as it is."""

    def work() -> None:
        with ledger(run) as opened:
            opened.append(row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(read_ledger(run.path)["index"]) == [0]


def test_part_seconds_0_commits_every_row(run: RunDirectory) -> None:
    """With an age of 0 each row is on the disk when `append` returns."""
    with ledger(run, part_seconds=0) as opened:
        for index in range(3):
            opened.append(row(index))
            assert len(read_ledger(run.path)) == index + 1


def test_a_row_is_committed_when_it_is_due_though_no_other_comes(run: RunDirectory) -> None:
    """A slow item does not keep the finished ones off the disk: the ledger's own thread commits them."""
    with ledger(run, part_seconds=0.01) as opened:
        for index in range(2):
            opened.append(row(index))
            with opened._changed:
                assert opened._changed.wait_for(lambda: not opened._buffer, timeout=60)
            assert list(read_ledger(run.path)["index"]) == list(range(index + 1))
    assert "ledger-committer" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_the_committing_thread_reaches_the_flow(run: RunDirectory) -> None:
    """When the ledger's own thread cannot commit, the next call raises what it met, and the row is not lost."""
    with ledger(run, part_seconds=0.01) as opened:
        (run.path / "ledger").rmdir()
        opened.append(row(0))
        with opened._changed:
            assert opened._changed.wait_for(lambda: opened._committer_failed is not None, timeout=60)
        with pytest.raises(RunFailed, match="ledger part could not be written"):
            opened.append(row(1))
        (run.path / "ledger").mkdir()
        opened.append(row(1))
    assert list(read_ledger(run.path)["index"]) == [0, 1]


def test_status_and_row_are_known_before_and_after_the_commit(run: RunDirectory) -> None:
    """A row is found while it is buffered, in a part, in a later session and after compaction, with all columns."""
    started = datetime(2026, 11, 22, 14, 30, 0, 123456, tzinfo=UTC)
    more: dict[str, Any] = {
        "attempts": 2,
        "started": started,
        "seconds": 0.5,
        "bytes": 2**62,
        "error": None,
        "whole": True,
    }
    expected = {name: row(7, **more)[name] for name in SCHEMA.names}
    with ledger(run) as opened:
        assert opened.status_of("item 7") is None
        assert opened.row_of("item 7") is None
        opened.append(row(7, **more))
        for _ in range(2):
            assert opened.status_of("item 7") == "ok"
            assert opened.row_of("item 7") == expected
            opened.flush()
    with ledger(run) as opened:
        assert (opened.status_of("item 7"), opened.row_of("item 7")) == ("ok", expected)
        opened.compact()
        assert (opened.status_of("item 7"), opened.row_of("item 7")) == ("ok", expected)
        assert opened.row_of("item 8") is None


def test_only_the_newest_row_of_a_key_counts(run: RunDirectory) -> None:
    """Rows of earlier sessions, earlier parts and the buffer itself give way to a newer row of the same item."""
    with ledger(run) as opened:
        for index in range(4):
            opened.append(row(index, "failed", "dns"))
    with ledger(run) as opened:
        assert (opened.counts(), opened.failures()) == ({"failed": 4}, {"dns": 4})
        opened.append(row(0))  # will be in an earlier part
        opened.flush()
        opened.append(row(1, "failed", "timeout"))  # buffered, then repeated in the buffer
        opened.append(row(1, "failed", "http_5xx"))
        opened.append(row(2))
        assert (opened.counts(), opened.failures()) == ({"failed": 2, "ok": 2}, {"dns": 1, "http_5xx": 1})
        opened.flush()
        assert (opened.counts(), opened.failures()) == ({"failed": 2, "ok": 2}, {"dns": 1, "http_5xx": 1})
        opened.append(row(2, "failed"))
        opened.append(row(3, "failed", "unknown"))
        assert opened.failures() == {"unknown": 2, "http_5xx": 1}
        opened.compact()
        assert opened.failures() == {"unknown": 2, "http_5xx": 1}
        assert pq.read_table(run.path / "ledger.parquet").column("status").to_pylist() == ["ok", *["failed"] * 3]
    with ledger(run) as opened:
        opened.append(row(3))
        assert (opened.counts(), opened.failures()) == ({"failed": 2, "ok": 2}, {"http_5xx": 1, "unknown": 1})


def test_failure_examples_show_each_kind(run: RunDirectory) -> None:
    """The first failures of every kind are given, a frequent kind does not crowd out a rare one."""
    with ledger(run) as opened:
        assert opened.failure_examples() == []
        for index in reversed(range(30)):
            opened.append(row(index, "failed", "dns" if index == 20 else "http_4xx", error=f"no {index}"))
        examples = opened.failure_examples(per_kind=2)
        assert [example["index"] for example in examples] == [0, 1, 20]
        assert examples[0]["error"] == "no 0"
        assert len(opened.failure_examples(per_kind=2, limit=1)) == 1
        opened.compact()
        assert opened.failure_examples(per_kind=2) == examples


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_compaction_orders_by_index_and_removes_the_parts(run: RunDirectory, rows: int) -> None:
    """ledger.parquet holds one row per item in the order of the input, in whatever order the items were finished."""
    order = list(range(rows))
    random.Random(7).shuffle(order)
    with ledger(run) as opened:
        for index in order:
            opened.append(row(index, bytes=index * 10))
        path = opened.compact()
        assert path == run.path / "ledger.parquet"
        assert parts(run) == []
        table = pq.read_table(path)
        assert table.column("index").to_pylist() == list(range(rows))
        assert table.column("bytes").to_pylist() == [index * 10 for index in range(rows)]
        assert table.schema.remove_metadata() == SCHEMA
        unchanged = path.stat().st_mtime_ns
        assert opened.compact().stat().st_mtime_ns == unchanged
        opened.append(row(rows, bytes=rows * 10))
        opened.compact()
    assert list(read_ledger(run.path)["bytes"]) == [index * 10 for index in range(rows + 1)]
    assert not list(run.path.rglob("*.tmp-*"))


def test_rows_of_equal_index_keep_the_order_in_which_they_were_written(run: RunDirectory) -> None:
    """When the input list changed between sessions, two items share a position: the older row comes first."""
    for key in "cab":
        with ledger(run) as opened:
            opened.append({"index": 0, "url_key": key, "status": "ok"})
    assert list(read_ledger(run.path)["url_key"]) == ["c", "a", "b"]
    with ledger(run) as opened:
        opened.compact()
    assert list(read_ledger(run.path)["url_key"]) == ["c", "a", "b"]


def test_row_groups_are_bounded_in_parts_and_in_the_compacted_file(run: RunDirectory) -> None:
    """No row group is larger than `GROUP_ROWS`, so that no reader needs more of a ledger in memory at a time."""
    rows = 2 * GROUP_ROWS + 3
    with ledger(run, part_rows=rows) as opened:
        for index in reversed(range(rows)):
            opened.append(row(index))
        (part,) = (run.path / "ledger").iterdir()
        assert group_sizes(part) == [GROUP_ROWS, GROUP_ROWS, 3]
        assert group_sizes(opened.compact()) == [GROUP_ROWS, GROUP_ROWS, 3]
        for index in (0, GROUP_ROWS - 1, GROUP_ROWS, rows - 1):
            found = opened.row_of(f"item {index}")
            assert found is not None
            assert found["index"] == index


COMPACT_TWO_SIZES = """
import sys
import pyarrow as pa
from pathlib import Path
from prefect_fanout.tasks.ledger import Ledger, ledger_schema
from prefect_fanout.tasks.ledger_files import GROUP_ROWS
from prefect_fanout.tasks.run_directory import RunDirectory

for times in (1, 3):
    with RunDirectory.open(Path(sys.argv[1], str(times)), pipeline="p") as run:
        with Ledger(run, ledger_schema("url_key"), key="url_key") as ledger:
            for index in range(times * GROUP_ROWS):
                ledger.append({"index": index ^ 63, "url_key": f"https://example.org/{index}", "status": "ok"})
            ledger.compact()
    print(pa.default_memory_pool().max_memory())
"""


def test_compaction_needs_no_more_memory_for_more_rows(tmp_path: Path) -> None:
    """Three times the rows do not raise the peak of what Arrow holds while a ledger is written and compacted."""
    command = [sys.executable, "-P", "-c", COMPACT_TWO_SIZES, str(tmp_path)]
    small, large = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert large < 1.25 * small


def test_read_ledger_reads_a_live_run(run: RunDirectory) -> None:
    """While a run goes on its committed rows can be read, and reading takes no lock and writes nothing."""
    with ledger(run) as opened:
        assert read_ledger(run.path).empty
        for index in range(7):
            opened.append(row(index, bytes=None if index else 2**60 + 1, whole=None if index else True))
        before = sorted(run.path.rglob("*"))
        frame = read_ledger(str(run.path))
        assert sorted(run.path.rglob("*")) == before
        assert list(frame["index"]) == [0, 1, 2, 3, 4]
        assert frame["bytes"].dtype == pd.Int64Dtype()
        assert frame["bytes"][0] == 2**60 + 1
        assert frame["whole"].dtype == pd.BooleanDtype()
        assert frame["bytes"].isna().sum() == 4


@pytest.mark.parametrize("there", [None, "empty", "file"])
def test_read_ledger_refuses_what_is_no_run(tmp_path: Path, there: str | None) -> None:
    """A folder that is not there, is empty or is a file gives a usage error that says what to name."""
    path = tmp_path / "x"
    if there == "empty":
        path.mkdir()
    elif there == "file":
        path.touch()
    with pytest.raises(UsageError, match="should be the folder of a run"):
        read_ledger(path)


def test_read_ledger_works_without_the_hidden_files(run: RunDirectory, tmp_path: Path) -> None:
    """A copy of what a user sees of a run directory can be read elsewhere."""
    with ledger(run) as opened:
        opened.append(row(0))
        opened.compact()
        opened.append(row(1))
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns(".*"))
    assert list(read_ledger(copy)["index"]) == [0, 1]


def test_a_kill_between_the_rename_and_the_removal_of_parts_counts_nothing_twice(run: RunDirectory) -> None:
    """Parts that ledger.parquet holds already are neither read nor counted, and go when the ledger is opened."""
    with ledger(run) as opened:
        opened.append(row(0, "failed", "dns"))
        opened.flush()
        opened.append(row(0))
        opened.append(row(1))
        opened.flush()
        shutil.copytree(run.path / "ledger", run.path.parent / "parts")
        opened.compact()
    # The oldest part alone: it would bring the failure back, if it were read as newer than ledger.parquet.
    shutil.copy(run.path.parent / "parts" / "part-00000001.parquet", run.path / "ledger")
    assert list(read_ledger(run.path)["status"]) == ["ok", "ok"]
    with ledger(run) as opened:
        assert parts(run) == []
        assert opened.counts() == {"ok": 2}
        opened.append(row(2))
    assert [path.name for path in (run.path / "ledger").iterdir()] == ["part-00000003.parquet"]
    assert list(read_ledger(run.path)["index"]) == [0, 1, 2]


def test_kill_at_every_step_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL at each line near the disk: no half file, no flushed row lost, exact counts, a rerun completes."""
    program = Path(__file__).with_name("killed_ledger.py")
    done = subprocess.run([sys.executable, "-P", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert int(done.stdout) > 100


WAIT_TO_BE_KILLED = """
import sys
from prefect_fanout.tasks.ledger import Ledger, ledger_schema
from prefect_fanout.tasks.run_directory import RunDirectory

run = RunDirectory.open(sys.argv[1], pipeline="p")
ledger = Ledger(run, ledger_schema("url_key"), key="url_key", part_rows=5, part_seconds=float("inf"))
for index in range(int(sys.argv[2])):
    ledger.append({"index": index, "url_key": f"item {index}", "status": "ok"})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("rows", "kept"), [(0, 0), (4, 0), (5, 5), (13, 10)])
def test_kill_from_outside_keeps_the_committed_parts(tmp_path: Path, rows: int, kept: int) -> None:
    """A process killed by another keeps every part it committed; a rerun finds exactly these rows."""
    folder = tmp_path / "run"
    command = [sys.executable, "-P", "-c", WAIT_TO_BE_KILLED, str(folder), str(rows)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        finally:
            other.kill()
    assert list(read_ledger(folder)["index"]) == list(range(kept))
    with RunDirectory.open(folder, pipeline="p") as run, Ledger(run, ledger_schema("url_key"), key="url_key") as opened:
        assert not list(folder.glob("**/*.tmp-*.parquet"))
        assert opened.counts() == ({"ok": kept} if kept else {})


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT"
HOSTILE_SCHEMAS = {
    "view": f"""
        ALTER TABLE rows RENAME TO real;
        CREATE VIEW rows AS {ENDLESS} x digest, 'ok' status, NULL error_kind, x position, 1 source, x row FROM n;""",
    "view of sources": f"""
        DROP TABLE sources; CREATE VIEW sources AS {ENDLESS} x id, 'part' name, x size, x mtime_ns FROM n;""",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON rows BEGIN UPDATE rows SET status = 'gone'; END;",
    "table": "CREATE TABLE more (x);",
    "index": "CREATE INDEX more ON rows (status);",
    "key": "UPDATE format SET key = 'source_key';",
    "sources": "INSERT INTO sources VALUES (9, 'part-00000009.parquet', 1, 1);",
    "formats": "INSERT INTO format SELECT * FROM format;",
}


@pytest.mark.parametrize("harm", ["lost", "stale", "torn", "empty", "text", *HOSTILE_SCHEMAS])
def test_an_index_that_does_not_match_the_files_is_not_trusted(run: RunDirectory, harm: str) -> None:
    """A lost, stale, damaged or hostile index is made again from the Parquet files; no query of it runs without end."""
    index = run.path / INDEX_FILE
    with ledger(run) as opened:
        opened.append(row(0, "failed", "dns"))
    stale = index.read_bytes()
    with ledger(run) as opened:
        opened.append(row(0))
        opened.append(row(1))
    if harm == "lost":
        index.unlink()
    elif harm == "stale":
        index.write_bytes(stale)
    elif harm == "torn":
        index.write_bytes(index.read_bytes()[:5000])
    elif harm == "empty":
        index.write_bytes(b"")
    elif harm == "text":
        index.write_text("no index " * 1000)
    else:
        connection = sqlite3.connect(index)
        connection.executescript(HOSTILE_SCHEMAS[harm])
        connection.close()
    with ledger(run) as opened:
        assert opened.counts() == {"ok": 2}
        assert opened.status_of("item 0") == "ok"
        opened.append(row(2))
        opened.flush()
        assert opened.counts() == {"ok": 3}


def test_an_index_with_a_second_name_is_not_written_to(run: RunDirectory, tmp_path: Path) -> None:
    """A file that is an index in the run directory and something else elsewhere keeps its content."""
    with ledger(run) as opened:
        opened.append(row(0))
    copy = tmp_path / "elsewhere"
    copy.hardlink_to(run.path / INDEX_FILE)
    before = copy.read_bytes()
    with ledger(run) as opened:
        opened.append(row(1))
    assert copy.read_bytes() == before
    with ledger(run) as opened:
        assert opened.counts() == {"ok": 2}


@pytest.mark.parametrize("name", ["ledger.parquet", "ledger/part-00000002.parquet"])
def test_a_reader_does_not_wait_for_a_fifo(run: RunDirectory, name: str) -> None:
    """A FIFO in the place of a file of the ledger is an error that names it, for readers and for the next run."""
    with ledger(run) as opened:
        opened.append(row(0))
        opened.compact()
        opened.append(row(1))
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    for read in (lambda: read_ledger(run.path), lambda: ledger(run)):
        with pytest.raises(RunFailed, match=f"{name} should be.*is a FIFO"):
            read()


def test_an_index_that_matches_the_files_is_used_again(run: RunDirectory) -> None:
    """A clean end saves the next session the reading of all rows."""
    with ledger(run) as opened:
        opened.append(row(0))
    connection = sqlite3.connect(run.path / INDEX_FILE)
    connection.execute("UPDATE rows SET status = 'seen again'")
    connection.commit()
    connection.close()
    with ledger(run) as opened:
        assert opened.status_of("item 0") == "seen again"


def test_the_index_is_never_under_its_final_name_while_in_use(run: RunDirectory) -> None:
    """A killed session leaves no index that the next one could take for whole."""
    with ledger(run) as opened:
        opened.append(row(0))
    with ledger(run) as opened:
        assert not (run.path / INDEX_FILE).exists()
        opened.append(row(1))
    assert (run.path / INDEX_FILE).exists()


def test_text_that_utf8_cannot_hold_is_spelled_out(run: RunDirectory) -> None:
    """A key or an error with half a surrogate pair neither ends the run nor costs another row, and is found again."""
    with ledger(run) as opened:
        opened.append(row(0))
        opened.append({"index": 1, "url_key": "caf\udce9", "status": "failed", "error": "no \udcff", "error_kind": "x"})
        assert opened.status_of("caf\udce9") == "failed"
        opened.flush()
        assert opened.status_of("caf\udce9") == "failed"
    frame = read_ledger(run.path)
    assert list(frame["url_key"]) == ["item 0", "caf\\udce9"]
    assert frame["error"][1] == "no \\udcff"


def test_a_long_error_is_cut(run: RunDirectory) -> None:
    """An error text is kept up to its bound; one of exactly the bound is kept whole."""
    with ledger(run) as opened:
        for index, length in enumerate((ERROR_CHARS, ERROR_CHARS + 1)):
            opened.append(row(index, "failed", "x", error="e" * length))
    kept = read_ledger(run.path)["error"]
    assert list(kept) == ["e" * ERROR_CHARS, "e" * (ERROR_CHARS - 1) + "…"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"colour": "red"}, "has also \\['colour'\\]"),
        ({"index": None}, "needs 'index' as int, but has None"),
        ({"url_key": 7}, "needs 'url_key' as str, but has 7"),
        ({"status": None}, "needs 'status' as str, but has None"),
    ],
)
def test_a_row_that_the_schema_lacks_is_refused_at_once(run: RunDirectory, wrong: dict[str, Any], words: str) -> None:
    """A misspelt column or a missing key is an error where it is made, not a silent null."""
    with ledger(run) as opened:
        with pytest.raises(UsageError, match=words):
            opened.append({**row(0), **wrong})
        assert opened.counts() == {}


def test_a_column_that_may_not_be_null_is_asked_for_at_once(run: RunDirectory) -> None:
    """A pipeline's own column without nulls is missed where the row is made, not when its part is written."""
    with Ledger(run, SCHEMA.append(pa.field("sha256", pa.string(), nullable=False)), key="url_key") as opened:
        with pytest.raises(UsageError, match="needs a value of 'sha256', but has none"):
            opened.append(row(0))
        opened.append({**row(0), "sha256": "abc"})
    assert list(read_ledger(run.path)["sha256"]) == ["abc"]


def test_a_value_of_the_wrong_type_fails_the_run_but_no_other_row(run: RunDirectory) -> None:
    """A row that fits no column is named; the rows committed with it are kept."""
    with ledger(run, part_rows=3) as opened:
        opened.append(row(0))
        opened.append(row(1, bytes="many"))
        with pytest.raises(RunFailed, match=r"1 rows do not fit.*'many'"):
            opened.append(row(2))
        assert opened.counts() == {"ok": 2}
    assert list(read_ledger(run.path)["index"]) == [0, 2]


@pytest.mark.parametrize(
    "limits", [{"part_rows": 0}, {"part_rows": -1}, {"part_seconds": -1}, {"part_seconds": float("nan")}]
)
def test_limits_out_of_range_are_refused(run: RunDirectory, limits: dict[str, Any]) -> None:
    """A ledger without a bound, or with one below zero, cannot be made."""
    with pytest.raises(UsageError, match="part_rows should be at least 1"):
        Ledger(run, SCHEMA, key="url_key", **limits)


def test_a_schema_without_the_common_columns_is_refused(run: RunDirectory) -> None:
    """Every ledger has the same first columns, so that one reader serves all pipelines."""
    with pytest.raises(UsageError, match="column 'error_kind' of type string"):
        Ledger(run, pa.schema([field for field in SCHEMA if field.name != "error_kind"]), key="url_key")
    with pytest.raises(UsageError, match="column 'source_key' of type string, but the schema has none"):
        Ledger(run, SCHEMA, key="source_key")
    with pytest.raises(UsageError, match="different names"):
        Ledger(run, SCHEMA.append(pa.field("bytes", pa.int64())), key="url_key")


def test_a_newer_version_may_add_columns_but_not_change_them(run: RunDirectory) -> None:
    """Rows of an older version get null in a new column; a column that went or changed its type is refused."""
    with ledger(run) as opened:
        opened.append(row(0, bytes=1))
    wider = SCHEMA.append(pa.field("sha256", pa.string()))
    with Ledger(run, wider, key="url_key", part_seconds=NEVER) as opened:
        opened.append({**row(1), "sha256": "abc"})
        assert opened.row_of("item 0") == {**dict.fromkeys(wider.names), **row(0, bytes=1)}
        opened.flush()
        assert read_ledger(run.path)["sha256"].isna().sum() == 1
        opened.compact()
    assert pq.read_table(run.path / "ledger.parquet").column("sha256").to_pylist() == [None, "abc"]
    with pytest.raises(UsageError, match=r"another version: this version knows no column 'sha256'\. .*--fresh"):
        ledger(run)


@pytest.mark.parametrize(
    ("key", "columns", "said"),
    [
        ("source_key", {"bytes": pa.int64()}, "its key is 'url_key' instead of 'source_key'"),
        ("url_key", {"bytes": pa.string()}, "its column 'bytes' is int64 instead of string"),
        ("url_key", {}, "this version knows no column 'bytes'"),
    ],
)
def test_a_ledger_that_does_not_fit_says_why(
    run: RunDirectory, key: str, columns: dict[str, pa.DataType], said: str
) -> None:
    """The refusal of a ledger of another version names each thing that differs, and only what differs."""
    with Ledger(run, ledger_schema("url_key", pa.field("bytes", pa.int64())), key="url_key") as opened:
        opened.append(row(0))
    schema = ledger_schema(key, *(pa.field(name, kind) for name, kind in columns.items()))
    with pytest.raises(UsageError, match="another version") as raised:
        Ledger(run, schema, key=key)
    assert said in str(raised.value)
    assert ("its key is" in str(raised.value)) == (key != "url_key")
    assert "--fresh" in str(raised.value)


@pytest.mark.parametrize("name", ["ledger.parquet", "ledger/part-00000002.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1 half"])
def test_a_damaged_file_is_named(run: RunDirectory, name: str, content: bytes) -> None:
    """A file of the ledger that is no Parquet is not skipped: the error names it and says what to do."""
    with ledger(run) as opened:
        opened.append(row(0))
        opened.compact()
        opened.append(row(1))
    (run.path / name).write_bytes(content)
    for read in (lambda: read_ledger(run.path), lambda: ledger(run)):
        with pytest.raises(RunFailed, match=f"{name} should be a Parquet file.*Remove that file"):
            read()


def test_a_closed_ledger_says_so(run: RunDirectory) -> None:
    """After its block a ledger takes no row and answers no question; closing again is allowed."""
    with ledger(run) as opened:
        opened.append(row(0))
        assert "1 rows buffered, next part 1" in repr(opened)
    opened.close()
    assert "closed" in repr(opened)
    for use in (lambda: opened.append(row(1)), opened.flush, opened.counts, lambda: opened.status_of("item 0")):
        with pytest.raises(RunFailed, match="is closed"):
            use()
    assert list(read_ledger(run.path)["index"]) == [0]


FILL_THE_DISK = """
import os, resource, sys
from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.ledger import Ledger, ledger_schema
from prefect_fanout.tasks.run_directory import RunDirectory

folder, limit, rows, part_rows, text = sys.argv[1], *map(int, sys.argv[2:])
with RunDirectory.open(folder, pipeline="p") as run:
    ledger = Ledger(run, ledger_schema("url_key"), key="url_key", part_rows=part_rows, part_seconds=float("inf"))
    # Python ignores SIGXFSZ, so that a write beyond the limit fails with EFBIG, as it fails with ENOSPC on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with ledger:
            for index in range(rows):
                row = {"index": index, "url_key": f"item {index}", "status": "ok", "error": os.urandom(text).hex()}
                ledger.append(row if index >= 20 else {**row, "error": None})
            ledger.compact()
    except RunFailed as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("what", "rows", "part_rows", "text", "committed"),
    [
        ("ledger part", 1_000, 20, 1_000, 20),  # the second part is larger than the limit
        ("ledger part", 100_000, 20, 0, 100),  # parts are small, the index is larger than the limit after some
        ("ledger could", 200, 20, 400, 200),  # parts and index are small, ledger.parquet is larger than the limit
    ],
    ids=["part", "index", "compaction"],
)
def test_a_disk_that_refuses_fails_the_run_and_leaves_no_partial_file(
    tmp_path: Path, what: str, rows: int, part_rows: int, text: int, committed: int
) -> None:
    """A write that the disk cuts short gives a clear error; what was committed stays, and nothing else does."""
    folder = tmp_path / "run"
    command = [sys.executable, "-P", "-c", FILL_THE_DISK, str(folder), *map(str, (32_768, rows, part_rows, text))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"The {what}" in done.stdout
    assert "start the run again with the same folder" in done.stdout
    assert not list(folder.rglob("*.tmp-*"))
    assert not (folder / "ledger.parquet").exists()
    assert not (folder / INDEX_FILE).exists() or what == "ledger could"
    frame = read_ledger(folder)
    assert list(frame["index"]) == list(range(len(frame)))
    assert committed <= len(frame) <= rows
    with RunDirectory.open(folder, pipeline="p") as run, Ledger(run, ledger_schema("url_key"), key="url_key") as opened:
        assert opened.counts() == {"ok": len(frame)}
        opened.compact()
    assert len(read_ledger(folder)) == len(frame)
