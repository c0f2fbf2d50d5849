from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import State

from prefect_fanout import Outcome, OutcomeStatus
from prefect_fanout._errors import RunFailed, TooManyFailures, UsageError
from prefect_fanout.flows.ingest_csv import FILES_SHOWN, _rows, ingest_csv
from prefect_fanout.tasks.ledger import read_ledger
from prefect_fanout.tasks.report import bound_listener
from prefect_fanout.tasks.run_directory import FORMAT
from prefect_fanout.tasks.tables.options import CsvOptions
from prefect_fanout.tasks.tables.sources import SourceFile
from servers.eventually import eventually
from servers.prefect_server import PrefectServer, logs_of
from servers.task_runs import all_final, task_runs_of

pytestmark = pytest.mark.usefixtures("prefect_server")

TEXTS = {
    "a.csv": b"id,name\n1,x\n2,y\n3\n",
    "b.csv": b"id;name\n1;x\n",
    "c.csv.gz": gzip.compress(b"id,name\n7,z\n"),
}


class Inputs:
    """A folder of CSV files and a run directory beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "in"
        self.run = folder / "out"
        self.folder.mkdir()

    def write(self, **texts: bytes) -> None:
        for name, text in (texts or TEXTS).items():
            (self.folder / name).write_bytes(text)

    def ingest(self, *sources: str, **options: Any) -> dict[str, Any]:
        named = [str(self.folder / source) for source in sources or ("*",)]
        return ingest_csv(named, str(self.run), CsvOptions(**options))

    def rows(self) -> dict[str, dict[str, Any]]:
        """The ledger by the name of the file."""
        frame = read_ledger(self.run).astype(object)
        rows = frame.where(frame.notna(), None).to_dict("records")
        return {Path(row["source_key"]).name: row for row in rows}

    @property
    def run_json(self) -> dict[str, Any] | None:
        path = self.run / "run.json"
        return json.loads(path.read_text()) if path.exists() else None

    def data(self) -> dict[str, int]:
        """The Parquet files in the run directory, and when they were written."""
        return {path.name: path.stat().st_mtime_ns for path in sorted((self.run / "data").iterdir())}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Nothing in it yet."""
    return Inputs(tmp_path)


def _counts(result: dict[str, Any]) -> tuple[int, int, int, int]:
    return result["ok"], result["failed"], result["duplicate"], result["skipped"]


@pytest.mark.parametrize("workers", [None, 1, 2])
@pytest.mark.parametrize("chunksize", ["auto", 2])
def test_files_become_parquet_files(inputs: Inputs, workers: int | None, chunksize: Any) -> None:
    """Each file has its Parquet file, its row, and its rejects; figures agree everywhere."""
    inputs.write()
    result = inputs.ingest(workers=workers, chunksize=chunksize)
    assert _counts(result) == (3, 0, 0, 0)
    assert (result["rows_in"], result["rows_out"], result["rejected"]) == (5, 4, 1)
    rows = inputs.rows()
    assert list(rows) == ["a.csv", "b.csv", "c.csv.gz"]
    assert [pq.read_table(inputs.run / row["path"]).num_rows for row in rows.values()] == [2, 1, 1]
    assert [row["delimiter"] for row in rows.values()] == [",", ";", ","]
    [reject] = pq.read_table(inputs.run / rows["a.csv"]["rejects_path"]).to_pylist()
    assert (reject["line"], reject["raw"], reject["reason"]) == (4, b"3", "too_few_fields")
    assert inputs.run_json is not None
    counts = {"items": 3, "ok": 3, "skipped": 0, "empty": 0, "rows_in": 5, "rows_out": 4, "rejected": 1, "withheld": 0}
    assert inputs.run_json["counts"] == counts
    assert (inputs.run / "report.html").exists()
    assert pq.read_table(inputs.run / "timeline.parquet").num_rows == (3 if chunksize == "auto" else 2)


def test_the_run_is_shown_in_the_ui(inputs: Inputs, prefect_server: PrefectServer) -> None:
    """Its name says what it does; each file is a task run; a progress and a summary with a timeline are there."""
    inputs.write()
    state: State[Any] = ingest_csv(str(inputs.folder / "*"), str(inputs.run), return_state=True)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run_id).name == "ingest 3 csv -> out"
    # the client's own method for this sends nulls that the server refuses
    answer = httpx.post(
        f"{prefect_server.api_url}/artifacts/filter", json={"flow_runs": {"id": {"any_": [str(run_id)]}}}
    )
    by_type = {artifact["type"]: artifact["data"] for artifact in answer.raise_for_status().json()}
    task_runs = eventually(lambda: task_runs_of(run_id), lambda runs: all_final(runs, 3))
    assert [task_run.name for task_run in task_runs] == [f"ingest-csv-file[{i}:{i + 1}]" for i in range(3)]
    assert by_type["progress"] == 100
    assert "gantt" in by_type["markdown"]


def test_a_defect_is_logged_without_escape_sequences(prefect_server: PrefectServer) -> None:
    """What an unforeseen error repeats of a file commands no terminal that shows the log of the run."""

    @flow
    def work() -> str:
        source = SourceFile(index=0, source="a.csv", path=Path("/a.csv"))
        outcome = Outcome(0, source, OutcomeStatus.FAILED, error=ValueError("a\x1b]0;PWNED\x07.csv"), attempts=1)
        assert [row["error_kind"] for row in _rows(iter([outcome]), CsvOptions())] == ["internal"]
        return str(flow_run.id)

    logged = "\n".join(logs_of(prefect_server, work()))
    assert "ValueError: a\ufffd]0;PWNED\ufffd.csv" in logged
    assert "\x1b" not in logged


def test_progress_reaches_a_listener(inputs: Inputs) -> None:
    """Whoever draws a bar is told of every file at the end."""
    inputs.write(**{"a.csv": b"a\n1\n", "b.csv": b"\x1f\x8b"})
    told: list[tuple[int, int, int | None]] = []
    with bound_listener(lambda *state: told.append(state)):
        inputs.ingest()
    assert told[-1] == (2, 1, 2)


def test_a_bad_file_is_a_row_and_the_run_goes_on(inputs: Inputs) -> None:
    """Nothing of it is kept, the ledger says why, and the others are done."""
    inputs.write(**{"a.csv": gzip.compress(b"a,b\n1,2\n" * 1000)[:-9], "b.csv": b"a\n1\n", "c.csv": b"PK\x03\x04"})
    assert _counts(inputs.ingest()) == (1, 2, 0, 0)
    rows = inputs.rows()
    assert [row["error_kind"] for row in rows.values()] == ["truncated_gzip", None, "compressed"]
    assert "Fetch it again" in rows["a.csv"]["error"]
    assert len(inputs.data()) == 1


@pytest.mark.parametrize(("allowed", "raises"), [(0, True), (1, True), (2, False), (None, False)])
def test_more_failures_than_allowed_fail_a_finished_run(inputs: Inputs, allowed: int | None, raises: bool) -> None:
    """Everything is written first."""
    inputs.write(**{"a.csv": b"\x1f\x8b", "b.csv": b"a\n1\n", "c.csv": b"PK\x03\x04"})
    if raises:
        with pytest.raises(TooManyFailures, match="2 files failed"):
            inputs.ingest(max_failed=allowed)
    else:
        inputs.ingest(max_failed=allowed)
    assert inputs.run_json is not None
    assert inputs.rows()["b.csv"]["status"] == "ok"


def test_a_rerun_skips_what_is_done(inputs: Inputs) -> None:
    """Unchanged files are not written again, also after a touch; the figures still count them."""
    inputs.write()
    first = inputs.ingest()
    before = inputs.data()
    os.utime(inputs.folder / "a.csv")
    again = inputs.ingest()
    assert _counts(again) == (0, 0, 0, 3)
    assert (again["rows_in"], again["rejected"]) == (first["rows_in"], first["rejected"])
    assert inputs.data() == before
    assert [row["status"] for row in inputs.rows().values()] == ["ok"] * 3


PROGRAM = """
import sys
from prefect_fanout.flows.ingest_csv import ingest_csv
if __name__ == "__main__":
    ingest_csv(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_is_completed_by_the_next(
    inputs: Inputs, prefect_server: PrefectServer, sent: signal.Signals
) -> None:
    """Killed or interrupted between two files: no half Parquet file, a readable ledger, and a rerun that completes."""
    files, rows = 120, 5000
    text = b"".join(b"%d,x\n" % row for row in range(rows))
    inputs.write(**{f"{number}.csv": b"id,n%d\n" % number + text for number in range(files)})
    command = [sys.executable, "-P", "-c", PROGRAM, str(inputs.folder / "*"), str(inputs.run)]
    # Its own session: the signal is for it alone.
    with subprocess.Popen(
        command, env=dict(prefect_server.environment), start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        try:
            eventually(lambda: list(inputs.run.glob("data/*.parquet")), lambda done: len(done) >= 10)
            process.send_signal(sent)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode != 0, errors
    assert inputs.run_json is None
    written = list(inputs.run.glob("data/*.parquet"))
    assert 0 < len(written) < files
    assert {pq.read_metadata(path).num_rows for path in written} == {rows}, "what has its name is whole"
    result = inputs.ingest("*")
    assert (result["rows_in"], result["rows_out"]) == (files * rows, files * rows)
    assert result["ok"] + result["skipped"] == files
    assert {path.suffix for path in (inputs.run / "data").iterdir()} == {".parquet"}, "nothing half-written is left"
    if sent is not signal.SIGKILL:
        assert 0 < result["skipped"] <= len(written), "what was finished is in the ledger"


def test_a_rerun_does_a_changed_file_again(inputs: Inputs) -> None:
    """A new content replaces what was made of the old one, also when it has the same size."""
    inputs.write()
    inputs.ingest()
    inputs.write(**{"b.csv": b"id;name\n9;w\n"})
    assert _counts(inputs.ingest()) == (1, 0, 0, 2)
    assert pq.read_table(inputs.run / inputs.rows()["b.csv"]["path"]).to_pylist() == [{"id": 9, "name": "w"}]
    assert len(inputs.data()) == 3


def test_a_rerun_does_a_file_again_whose_result_is_gone(inputs: Inputs) -> None:
    """Whoever removes a Parquet file gets it back."""
    inputs.write()
    inputs.ingest()
    (inputs.run / inputs.rows()["a.csv"]["path"]).unlink()
    assert _counts(inputs.ingest()) == (1, 0, 0, 2)
    assert len(inputs.data()) == 3


def test_a_rerun_with_other_options_does_everything_again(inputs: Inputs) -> None:
    """Options that change what is written count as a change; the number of workers does not."""
    inputs.write()
    inputs.ingest(workers=1)
    assert _counts(inputs.ingest(workers=2)) == (0, 0, 0, 3)
    assert _counts(inputs.ingest(codec="snappy")) == (3, 0, 0, 0)


def test_failed_files_are_tried_again_when_asked(inputs: Inputs) -> None:
    """Without being asked only once their content changes."""
    inputs.write(**{"a.csv": b"\x1f\x8b", "b.csv": b"a\n1\n"})
    assert _counts(inputs.ingest()) == (1, 1, 0, 0)
    assert _counts(inputs.ingest()) == (0, 0, 0, 2)
    assert _counts(inputs.ingest(retry_failed=True)) == (0, 1, 0, 1)
    inputs.write(**{"a.csv": b"a\n2\n"})
    assert _counts(inputs.ingest()) == (1, 0, 0, 1)
    assert inputs.rows()["a.csv"]["error_kind"] is None


def test_fresh_forgets_earlier_runs(inputs: Inputs) -> None:
    """Files that are no longer named leave the run directory."""
    inputs.write()
    inputs.ingest()
    assert _counts(inputs.ingest("a.csv", fresh=True)) == (1, 0, 0, 0)
    assert len(inputs.data()) == 1
    assert list(inputs.rows()) == ["a.csv"]


def test_fresh_keeps_a_users_own_files_and_the_page_names_them(inputs: Inputs) -> None:
    """What a user put beside the data and the rejects stays, and the report says that it was left."""
    inputs.write()
    inputs.ingest()
    mine = [inputs.run / "data" / "labels.csv", inputs.run / "rejects" / "looked at" / "notes.txt"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    inputs.ingest("b.csv", fresh=True)
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    assert len(list(inputs.run.glob("data/*.parquet"))) == 1
    assert not list(inputs.run.glob("rejects/*.parquet"))
    assert "--fresh left 2 files in place" in (inputs.run / "report.html").read_text()
    assert inputs.run_json is not None
    assert "such as 'data/labels.csv'" in inputs.run_json["notes"][0]


def test_a_folder_of_an_older_version_is_refused_until_fresh(inputs: Inputs) -> None:
    """A run of another format is left as it is, in one sentence that names --fresh; with it the run is made anew."""
    inputs.write()
    inputs.ingest()
    assert inputs.run_json is not None
    assert inputs.run_json["format"] == json.loads((inputs.run / ".run").read_text())["format"] == FORMAT
    (inputs.run / ".run").write_text('{"format": 1, "pipeline": "ingest-csv"}')
    with pytest.raises(UsageError, match=r"older version.*--fresh"):
        inputs.ingest()
    assert inputs.run_json is not None
    assert _counts(inputs.ingest(fresh=True)) == (3, 0, 0, 0)
    assert len(inputs.data()) == 3


def test_a_file_named_twice_is_read_once(inputs: Inputs) -> None:
    """By a pattern, by name and through a link: one Parquet file, and a row for each time it was named."""
    inputs.write(**{"a.csv": b"a\n1\n"})
    (inputs.folder / "link.csv").symlink_to("a.csv")
    result = inputs.ingest("*.csv", "a.csv")
    assert _counts(result) == (1, 0, 2, 0)
    assert result["rows_in"] == 1
    rows = inputs.rows()
    assert [row["status"] for row in rows.values()] == ["ok", "duplicate", "duplicate"]
    assert rows["a.csv#3"]["duplicate_of"] == str(inputs.folder / "a.csv")
    assert _counts(inputs.ingest("*.csv", "a.csv")) == (0, 0, 0, 3)


def test_two_files_of_one_name_have_two_results(inputs: Inputs) -> None:
    """Names are unique by their folder."""
    for name in ("x", "y"):
        (inputs.folder / name).mkdir()
        (inputs.folder / name / "a.csv").write_bytes(f"a\n{name}\n".encode())
    inputs.ingest("**/*.csv")
    assert len(inputs.data()) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.csv", "There is no file"),
        ("*.nothing", "matches no file"),
        (".", "is a folder"),
        ("pipe", "not a regular file"),
        ("dangling.csv", "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_used_is_an_error_before_anything_is_written(
    inputs: Inputs, source: str, said: str
) -> None:
    """The message names it; no run directory appears."""
    inputs.write()
    os.mkfifo(inputs.folder / "pipe")
    (inputs.folder / "dangling.csv").symlink_to("nowhere")
    with pytest.raises(UsageError, match=said):
        inputs.ingest("a.csv", source)
    assert not inputs.run.exists()


def test_an_output_that_cannot_be_used_is_an_error(inputs: Inputs) -> None:
    """A file is no run directory, and it stays what it was."""
    inputs.write()
    inputs.run.write_text("mine")
    with pytest.raises(UsageError):
        inputs.ingest()
    assert inputs.run.read_text() == "mine"


def test_counts_that_do_not_reconcile_fail_the_run(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that loses a row: no commit mark, no Parquet file, and the error has the figures."""
    inputs.write(**{"a.csv": b"a\n1\n2\n"})
    true_write = pq.ParquetWriter.write_table

    def write(self: pq.ParquetWriter, table: Any, **options: Any) -> None:
        true_write(self, table.slice(1) if table.schema.names == ["a"] else table, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write)
    with pytest.raises(RunFailed, match="2 records"):
        inputs.ingest()
    assert inputs.run_json is None
    assert inputs.data() == {}
    assert read_ledger(inputs.run).empty


@pytest.mark.parametrize("files", [0, 1, 2, 12])
def test_rejects_are_on_the_page_of_the_run(inputs: Inputs, prefect_server: PrefectServer, files: int) -> None:
    """The summary and the report say how many rows were rejected, where they are and why, also when run again."""
    bad = {f"bad-{number}.csv": b"a,b\n1,2\n" + b"3\n" * (number + 1) for number in range(files)}
    inputs.write(**{"good.csv": b"a,b\n1,2\n"} | bad)
    rejected = sum(range(files + 1))
    for _ in range(2):
        options = CsvOptions(max_rejects="100%")
        state: State[Any] = ingest_csv(str(inputs.folder / "*"), str(inputs.run), options, return_state=True)
        run_id = state.state_details.flow_run_id
        wanted = {"flow_runs": {"id": {"any_": [str(run_id)]}}, "artifacts": {"type": {"any_": ["markdown"]}}}
        answer = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=wanted)
        [artifact] = answer.raise_for_status().json()
        report = (inputs.run / "report.html").read_text()
        assert f"| rows rejected | {rejected} |" in artifact["data"]
        for page in (artifact["data"], report):
            assert (f"{rejected} of {1 + files + rejected} rows rejected" in page) == bool(files)
        shown = [row["rejects_path"] in report for row in inputs.rows().values() if row["rejects_path"]]
        assert sum(shown) == min(files, FILES_SHOWN)
        assert report.count("line 3: expected 2 fields, got 1") == min(files, FILES_SHOWN)
        assert (f"Of {files} files" in report) == (files > FILES_SHOWN)


def test_rejects_that_were_taken_away_do_not_fail_a_run(inputs: Inputs) -> None:
    """The page of a later run in the same folder says that they cannot be read."""
    inputs.write(**{"a.csv": b"a,b\n1,2\n3\n", "b.csv": b"a,b\n1,2\n"})
    inputs.ingest("a.csv")
    (inputs.run / inputs.rows()["a.csv"]["rejects_path"]).unlink()
    assert _counts(inputs.ingest("b.csv")) == (1, 0, 0, 0)
    assert "cannot be read" in (inputs.run / "report.html").read_text()
