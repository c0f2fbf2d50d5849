"""`fresh`: it removes what a run of this pipeline wrote, all of it, and nothing else."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_fanout.tasks.ledger import Ledger, ledger_schema, read_ledger
from prefect_fanout.tasks.run_directory import RunDirectory
from servers.command import PATIENCE_S

SCHEMA = ledger_schema("key", pa.field("path", pa.string()), pa.field("rejects_path", pa.string()))
ROWS = [
    ("images/cat-0123456789abcdef.jpg", None),
    ("images/3f/dog-0123456789abcdef.png", None),
    ("images/a0/files/owl-0123456789abcdef.gif", None),
    ("data/shop-0123456789.parquet", "rejects/shop-0123456789.parquet"),
    (None, None),
]
MINE = [
    *("images/my_notes.txt", "images/3f/mine.jpg", "data/labels.csv", "rejects/sub/mine.csv", "notes.txt"),
    # As a run names its files, but no row names them: a user's own names can look like that too.
    *("images/IMG-1234567890123456.jpg", "data/export-1700000000.parquet"),
]
OWN = {".lock", ".run"}


def names(folder: Path) -> set[str]:
    """List the files and the empty folders below a folder."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or not any(path.iterdir())  # a folder is there with its files
    }


def write(folder: Path, files: Sequence[str]) -> None:
    """Write files, with their folders."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def finished_run(folder: Path, rows: Sequence[tuple[str | None, str | None]] = ROWS, *, compact: int = 2) -> Path:
    """Make the folder of a run that compacted its first rows, and committed each other row as a part."""
    with RunDirectory.open(folder, pipeline="p") as run:
        with Ledger(run, SCHEMA, key="key", part_seconds=0) as ledger:
            for index, (path, rejects) in enumerate(rows):
                row = {"index": index, "key": str(index), "status": "ok", "path": path, "rejects_path": rejects}
                ledger.append(row)
                if index + 1 == compact:
                    ledger.compact()
        write(folder, [name for row in rows for name in row if name is not None and folder in (folder / name).parents])
        write(folder, ["report.html", "timeline.parquet"])
        for number in range(256):  # as a run over a long list makes them at its beginning
            (folder / "images" / f"{number:02x}" / "files").mkdir(parents=True, exist_ok=True)
        run.write_run_json({})
    return folder


def clear(folder: Path) -> tuple[str, ...]:
    """Start anew in a folder; give what a user is told of it."""
    with RunDirectory.open(folder, pipeline="p", fresh=True) as run:
        document = run.write_run_json({})
        assert document.is_file()
        kept = (run.read_run_json() or {}).get("notes", [])
        assert kept == list(run.notes)
        document.unlink()
        return run.notes


@pytest.mark.parametrize("compact", [0, 1, 2, len(ROWS)])
def test_all_that_a_run_wrote_goes_and_its_empty_folders_with_it(tmp_path: Path, compact: int) -> None:
    """Files that rows of any part of the ledger name, the ledger itself, the report: nothing is left, nor told."""
    finished_run(tmp_path, compact=compact)
    assert clear(tmp_path) == ()
    assert names(tmp_path) == OWN


@pytest.mark.parametrize("mine", [MINE[:1], MINE[:2], MINE])
def test_what_a_user_put_there_stays(tmp_path: Path, mine: list[str]) -> None:
    """A user's files stay with their folders and their content, are counted, and one of them is named."""
    finished_run(tmp_path)
    write(tmp_path, mine)
    (tmp_path / "images" / "for later").mkdir()
    (told,) = clear(tmp_path)
    assert names(tmp_path) == {*OWN, *mine, "images/for later"}
    assert {(tmp_path / name).read_text() for name in mine} == set(mine)
    counted = [name for name in mine if "/" in name]
    assert f" {len(counted)} file{'s' * (len(counted) > 1)} in place that no row" in told
    assert repr(min(counted)) in told
    assert clear(tmp_path) == (told,)


@pytest.mark.parametrize(
    "path",
    [
        *("../outside.txt", "images/../../outside.txt", "images/../notes.txt", "/etc/hostname", "//etc/hostname"),
        *(
            "notes.txt",
            "./notes.txt",
            "run.json",
            "ledger/mine.txt",
            "images",
            "images/mine",
            "images/./mine",
            "images/",
        ),
        *("images/a\0b", "images/" + "x" * 300, "images/" + "y/" * 3_000, "", ".", "..", "images/notes.txt/x"),
    ],
)
def test_a_row_cannot_name_anything_else(tmp_path: Path, path: str) -> None:
    """A path that leads out of the data folders, names a folder, or cannot be a name removes nothing."""
    write(tmp_path, ["outside.txt"])
    folder = tmp_path / "run"
    mine = ["notes.txt", "ledger/mine.txt", "images/mine/x.txt", "images/notes.txt"]
    finished_run(folder, [*ROWS, (None, None)])
    write(folder, mine)
    with RunDirectory.open(folder, pipeline="p") as run, Ledger(run, SCHEMA, key="key") as ledger:
        ledger.append({"index": 9, "key": "hostile", "status": "ok", "path": path, "rejects_path": path})
    clear(folder)
    assert names(tmp_path) == {"outside.txt", *(f"run/{name}" for name in (*OWN, *mine))}


@pytest.mark.parametrize("harm", ["empty", "no footer", "no pages", "text"])
@pytest.mark.parametrize("name", ["ledger.parquet", "ledger/part-00000004.parquet"])
def test_a_damaged_part_of_the_ledger_is_told_and_its_files_stay(tmp_path: Path, name: str, harm: str) -> None:
    """What the other parts name is removed, the damaged part too, and what only it names stays and is told."""
    finished_run(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    damaged = {"empty": b"", "no footer": whole[:-20], "no pages": b"PAR1" + bytes(len(whole) // 2), "text": b"text"}
    path.write_bytes(damaged[harm] + (whole[len(damaged[harm]) :] if harm == "no pages" else b""))
    kept = {output for row in (ROWS[:2] if name == "ledger.parquet" else ROWS[3:4]) for output in row if output}
    first, second = clear(tmp_path)
    assert f"only {path.name} names" in first
    assert "damaged" in first
    assert repr(min(kept)) in second
    assert names(tmp_path) == OWN | kept
    with RunDirectory.open(tmp_path, pipeline="p") as run, Ledger(run, SCHEMA, key="key") as ledger:
        assert ledger.counts() == {}


@pytest.mark.parametrize(
    "columns",
    [{"path": pa.string()}, {"rejects_path": pa.string()}, {}, {"path": pa.int64()}, {"path": pa.list_(pa.string())}],
    ids=["path", "rejects_path", "neither", "numbers", "lists"],
)
def test_a_folder_of_an_older_format_is_cleared_as_far_as_its_ledger_tells(
    tmp_path: Path, columns: dict[str, pa.DataType]
) -> None:
    """Of an older ledger only the columns that name files are needed; where they are not, the files stay."""
    write(tmp_path, ["images/a-0123456789abcdef.jpg", "run.json"])
    (tmp_path / ".run").write_text('{"format": 1, "pipeline": "p"}')
    values: dict[pa.DataType, object] = {pa.string(): "images/a-0123456789abcdef.jpg", pa.int64(): 1}
    table = {name: pa.array([values.get(kind, ["images/a"])], kind) for name, kind in columns.items()}
    pq.write_table(pa.table({"other": [1], **table}), tmp_path / "ledger.parquet")
    notes = clear(tmp_path)
    removed = pa.string() in columns.values()
    assert names(tmp_path) == (OWN if removed else OWN | {"images/a-0123456789abcdef.jpg"})
    assert len(notes) == (0 if removed else 1)


def test_what_an_older_version_was_removing_when_it_was_killed_goes(tmp_path: Path) -> None:
    """Format 1 renamed a folder before it removed it; such a folder goes, and one that only looks alike stays."""
    finished_run(tmp_path)
    write(tmp_path, ["images.tmp-0123456789ab/x.jpg", "mine.tmp-0123456789ab/x.jpg", "images.tmp-1/x.jpg"])
    clear(tmp_path)
    assert names(tmp_path) == OWN | {"mine.tmp-0123456789ab/x.jpg", "images.tmp-1/x.jpg"}


KILLED = """
import os, signal, sys
from pathlib import Path
from prefect_fanout.tasks import clearing, run_directory
from prefect_fanout.tasks.run_directory import RunDirectory

folder, last = Path(sys.argv[1]), int(sys.argv[2])
FILES = {clearing.__file__, run_directory.__file__}
steps = 0

def on_line(frame, event, argument):
    global steps
    steps += event == "line"
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return on_line

sys.settrace(lambda frame, event, argument: on_line if frame.f_code.co_filename in FILES else None)
RunDirectory.open(folder, pipeline="p", fresh=True).close()
"""


def test_a_kill_in_the_midst_is_made_good(tmp_path: Path) -> None:
    """Killed at any of its steps, `fresh` is either not begun, or is completed by the next run without being asked."""
    step, seen = 1, set()
    for number in itertools.count():
        folder = finished_run(tmp_path / str(number))
        write(folder, MINE)
        command = [sys.executable, "-P", "-c", KILLED, str(folder), str(step)]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        with RunDirectory.open(folder, pipeline="p") as run:
            rows = len(read_ledger(run.path)) if (run.path / "ledger").exists() else 0
            files = names(folder) & {name for row in ROWS for name in row if name}
            assert (rows, len(files)) in {(0, 0), (len(ROWS), 5)}, f"killed at step {step}"
            assert set(MINE) <= names(folder)
            seen.add(rows)
        step = step * 3 // 2 + 1
    assert seen == {0, len(ROWS)}, "some kills came before the first step of `fresh`, and some after it"
    assert number > 8
