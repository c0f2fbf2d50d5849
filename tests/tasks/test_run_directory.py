"""The run directory: who may open it, what it removes, and how a file gets its final name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.ownership import LOCK_FILE, MARK_FILE
from prefect_fanout.tasks.run_directory import (
    FORMAT,
    NAME_BYTES,
    RunDirectory,
    commit_file,
    storage_failure,
    temporary_name,
)


def names(folder: Path) -> set[str]:
    """List everything in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_open_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    """A new run needs no folder: it is made, with nothing in it but the lock and the mark of its pipeline."""
    with RunDirectory.open(tmp_path / "a" / "b", pipeline="ingest-csv") as run:
        assert run.path == tmp_path / "a" / "b"
        assert names(run.path) == {LOCK_FILE, MARK_FILE}
        assert json.loads((run.path / MARK_FILE).read_text()) == {"format": FORMAT, "pipeline": "ingest-csv"}


def test_an_empty_folder_becomes_a_run_directory(tmp_path: Path) -> None:
    """An empty folder that the user made is as good as none."""
    with RunDirectory.open(tmp_path, pipeline="p"):
        assert names(tmp_path) == {LOCK_FILE, MARK_FILE}


def test_a_relative_path_and_a_home_folder_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run keeps its folder when the working folder changes; `~` is understood where no shell expands it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with RunDirectory.open("run", pipeline="p") as run:
        assert run.path == tmp_path / "run"
    with RunDirectory.open("~/run", pipeline="p") as run:
        assert run.path == tmp_path / "home" / "run"


@pytest.mark.parametrize(
    "path",
    [
        *("", "  ", "a\0b", "~nobody-of-that-name/run", "s3://bucket/run", "gs://bucket", "S3:/bucket", "file:///run"),
        *(Path("s3://bucket/run"), Path("abfs+x://a@b/run")),
    ],
)
def test_a_path_that_names_no_local_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | Path
) -> None:
    """Nothing, a broken path and an address, also one that pathlib shortened, are refused before anything is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="output folder"):
        RunDirectory.open(path, pipeline="p")
    assert not names(tmp_path)


@pytest.mark.parametrize("name", ["12:30", "a:b/c", "run:1/x", "-:/x"])
def test_a_folder_whose_name_only_looks_like_an_address_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A colon in a folder's name makes no address of a path."""
    monkeypatch.chdir(tmp_path)
    with RunDirectory.open(name, pipeline="p") as run:
        assert run.path == tmp_path / name


@pytest.mark.parametrize("below", [".", "below", "far/below"])
def test_a_regular_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    """A path that is a file, or lies below one, gives a usage error that names it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"cannot be used: (File exists|Not a directory).*Name a folder"):
        RunDirectory.open(tmp_path / "file" / below, pipeline="p")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc, where even root cannot make a folder")
@pytest.mark.parametrize("path", ["/proc/run", "/proc/self/run"])
def test_a_folder_that_cannot_be_written_is_refused(path: str) -> None:
    """A place where nothing can be made gives a usage error, also for a user who may write everywhere."""
    with pytest.raises(UsageError, match="output folder"):
        RunDirectory.open(path, pipeline="p")


def test_files_that_no_run_wrote_are_refused_and_left_alone(tmp_path: Path) -> None:
    """A folder with other files in it is refused, with `fresh` too, and not even a lock file is added."""
    (tmp_path / "thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(UsageError, match=r"no run wrote \('thesis.txt'"):
            RunDirectory.open(tmp_path, pipeline="p", fresh=fresh)
    assert names(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_of_another_pipeline_is_refused(tmp_path: Path, fresh: bool) -> None:
    """Two pipelines never share a folder, and `fresh` does not remove what another pipeline made."""
    with RunDirectory.open(tmp_path, pipeline="download-images") as run:
        run.write_run_json({})
    with pytest.raises(UsageError, match="'download-images', and 'ingest-csv' cannot use it"):
        RunDirectory.open(tmp_path, pipeline="ingest-csv", fresh=fresh)
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    "mark",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 4_000,
        b"[" * 200_000,
        b'{"pipeline": "p", "x": "' + b"x" * 5_000 + b'"}',
    ],
    ids=["empty", "half", "list", "nothing", "binary", "deep", "very deep", "long"],
)
def test_a_damaged_mark_is_a_usage_error(tmp_path: Path, mark: bytes) -> None:
    """When it cannot be told whose run it is, nothing is touched; however deep or long it is, it is refused at once."""
    (tmp_path / MARK_FILE).write_bytes(mark)
    with pytest.raises(UsageError, match="which pipeline owns the folder"):
        RunDirectory.open(tmp_path, pipeline="p", fresh=True)
    assert names(tmp_path) == {MARK_FILE}


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    """The lock keeps out a second opener in the same process, names the holder, and goes with `close`."""
    first = RunDirectory.open(tmp_path, pipeline="p")
    with pytest.raises(UsageError, match=rf"in use by another run \(process {os.getpid()}\)"):
        RunDirectory.open(tmp_path, pipeline="p")
    first.close()
    first.close()
    with RunDirectory.open(tmp_path, pipeline="p"):
        pass


HOLD = """
import sys
from prefect_fanout.tasks.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1], pipeline="p")
print("open", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    """While another process runs its folder is refused; after kill -9 it can be opened at once."""
    command = [sys.executable, "-P", "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            with pytest.raises(UsageError, match=rf"in use by another run \(process {other.pid}\)"):
                RunDirectory.open(tmp_path, pipeline="p", fresh=True)
        finally:
            other.kill()
    with RunDirectory.open(tmp_path, pipeline="p"):
        pass


def test_open_sweeps_the_temporary_files_of_a_killed_run(tmp_path: Path) -> None:
    """Temporary names go, at the top and at any depth of the run's own folders; files that only look alike stay."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        deep = run.path / "images" / "ab" / "cd"
        deep.mkdir(parents=True)
        finals = [run.path / "run.json", run.path / "ledger" / "part-1.parquet", deep / "cat.jpg"]
        (run.path / "ledger").mkdir()
        for final in finals:
            run.temporary(final).write_text("half")
        half_removed = run.temporary(run.path / "images")
        half_removed.mkdir()
        (half_removed / "dog.jpg").write_text("half")
        kept = {"images/ab/cd/cat.tmp-notes.jpg", "notes.tmp-1"}
        for name in kept:
            (run.path / name).write_text("whole")
    with RunDirectory.open(tmp_path, pipeline="p"):
        folders = {"images", "images/ab", "images/ab/cd", "ledger"}
        assert names(tmp_path) == {LOCK_FILE, MARK_FILE} | folders | kept


def test_a_killed_first_open_can_be_repeated(tmp_path: Path) -> None:
    """A process that died before it wrote the mark leaves a folder that still counts as empty."""
    (tmp_path / LOCK_FILE).touch()
    temporary_name(tmp_path / MARK_FILE).touch()
    with RunDirectory.open(tmp_path, pipeline="p"):
        assert names(tmp_path) == {LOCK_FILE, MARK_FILE}


def test_run_json_is_gone_while_a_run_goes_on(tmp_path: Path) -> None:
    """The commit mark of the last run is removed by `open`, and read back only after it was written again."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        assert run.read_run_json() is None
        assert run.write_run_json({"items": 3}) == tmp_path / "run.json"
        assert run.read_run_json() == {"format": FORMAT, "items": 3}
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        assert run.read_run_json() is None


def test_run_json_holds_what_the_pipeline_passes(tmp_path: Path) -> None:
    """Paths and dates become text; text of any language, and even half a surrogate pair, survives."""
    when = datetime(2026, 11, 22, tzinfo=UTC)
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        run.write_run_json({"out": tmp_path, "when": when, "name": "Contrôle \udcff", "nested": {"a": [1, None, 0.5]}})
        assert run.read_run_json() == {
            "format": FORMAT,
            "out": str(tmp_path),
            "when": str(when),
            "name": "Contrôle \udcff",
            "nested": {"a": [1, None, 0.5]},
        }
        with pytest.raises(ValueError, match="Out of range"):
            run.write_run_json({"rate": float("nan")})
    assert not [name for name in names(tmp_path) if ".tmp-" in name]


def test_a_run_json_that_is_no_object_is_a_usage_error(tmp_path: Path) -> None:
    """A commit mark that somebody replaced is not taken for one."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        (tmp_path / "run.json").write_text("[]")
        with pytest.raises(UsageError, match="should hold a JSON object, but holds list"):
            run.read_run_json()


def test_a_commit_mark_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    """When run.json cannot get its name the run fails, and no temporary file is left."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        (tmp_path / "run.json").mkdir()
        with pytest.raises(RunFailed, match="commit mark could not be written"):
            run.write_run_json({})
        assert names(tmp_path) == {LOCK_FILE, MARK_FILE, "run.json"}


def set_format(folder: Path, number: object) -> None:
    """Make a run directory one of another format; None removes the number."""
    mark = json.loads((folder / MARK_FILE).read_text())
    mark = {**mark, "format": number} if number is not None else {"pipeline": mark["pipeline"]}
    (folder / MARK_FILE).write_text(json.dumps(mark))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        *((None, "without a format number"), ("2", "without a format number"), (True, "without a format number")),
        *((0, "format 0"), (1, "format 1"), (FORMAT - 1, f"format {FORMAT - 1}"), (-1, "format -1")),
    ],
)
def test_a_folder_of_an_older_format_is_refused_until_fresh(tmp_path: Path, number: object, said: str) -> None:
    """An older run is refused in one sentence that names --fresh, its run.json stays, and `fresh` starts anew in it."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        run.write_run_json({})
    set_format(tmp_path, number)
    with pytest.raises(UsageError, match=f"older version.*{said}.*--fresh") as raised:
        RunDirectory.open(tmp_path, pipeline="p")
    assert ". " not in str(raised.value)
    assert (tmp_path / "run.json").exists()
    with RunDirectory.open(tmp_path, pipeline="p", fresh=True):
        assert names(tmp_path) == {LOCK_FILE, MARK_FILE}
    with RunDirectory.open(tmp_path, pipeline="p"):
        pass


@pytest.mark.parametrize("number", [FORMAT + 1, FORMAT + 2, 10**300])
def test_a_folder_of_a_newer_format_is_refused(tmp_path: Path, number: int) -> None:
    """A run of a newer version is refused, with `fresh` too: this version does not know what belongs to it."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        run.write_run_json({})
    set_format(tmp_path, number)
    for fresh in (False, True):
        with pytest.raises(UsageError, match=r"newer version.*update prefect-fanout") as raised:
            RunDirectory.open(tmp_path, pipeline="p", fresh=fresh)
        assert ". " not in str(raised.value)
    assert (tmp_path / "run.json").exists()


def test_temporary_names_are_fresh_and_in_the_same_folder(tmp_path: Path) -> None:
    """Two temporary names of one file differ, and the file can be renamed without leaving its folder."""
    final = tmp_path / "cat.jpg"
    first, second = temporary_name(final), temporary_name(final)
    assert first != second
    assert first.parent == final.parent


@pytest.mark.parametrize("name", ["x" * NAME_BYTES, "é" * (NAME_BYTES // 2), "猫" * (NAME_BYTES // 3), "x"])
def test_a_temporary_name_fits_where_the_final_name_fits(tmp_path: Path, name: str) -> None:
    """The longest file name that a disk takes can be written and committed."""
    final = tmp_path / name
    temporary = temporary_name(final)
    temporary.write_text("whole")
    commit_file(temporary, final)
    assert names(tmp_path) == {name}


def test_commit_replaces_an_older_file(tmp_path: Path) -> None:
    """A rerun's file takes the place of the older one; no temporary name is left."""
    with RunDirectory.open(tmp_path / "run", pipeline="p") as run:
        final = run.path / "data" / "a.parquet"
        final.parent.mkdir()
        for text in ("old", "new"):
            temporary = run.temporary(final)
            temporary.write_text(text)
            run.commit(temporary, final)
        assert final.read_text() == "new"
        assert names(final.parent) == {"a.parquet"}


def test_a_failed_commit_leaves_no_temporary_file(tmp_path: Path) -> None:
    """When the final name is taken by a folder the error is raised as it is, and the temporary file goes."""
    final = tmp_path / "taken"
    final.mkdir()
    temporary = temporary_name(final)
    temporary.write_text("whole")
    with pytest.raises(IsADirectoryError):
        commit_file(temporary, final)
    assert names(tmp_path) == {"taken"}


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EFBIG, "file size limit"),
        (errno.EROFS, "Make the folder writable"),
        (errno.EMFILE, "limit of open files"),
        (errno.EIO, "Check that disk"),
    ],
)
def test_a_storage_failure_says_what_to_do(code: int, advice: str) -> None:
    """Each way in which a disk refuses has its own advice, beside what, where and why."""
    error = storage_failure("The ledger part", Path("run/part"), OSError(code, os.strerror(code)))
    assert isinstance(error, RunFailed)
    for words in ("The ledger part could not be written to run/part", os.strerror(code), advice, "start the run again"):
        assert words in str(error)
