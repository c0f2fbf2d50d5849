"""Finished runs that count as failed, and the figures of files that were lost; against a real Prefect server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.states import State

from prefect_fanout._errors import AllItemsFailed, TooManyFailures
from prefect_fanout.flows.download_images import download_images
from prefect_fanout.flows.ingest_csv import FILES_SHOWN, ingest_csv
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.ledger import read_ledger
from prefect_fanout.tasks.tables.options import CsvOptions
from servers.fault_server import FaultServer, body
from servers.pictures import picture

pytestmark = pytest.mark.usefixtures("prefect_server")

Run = Callable[..., Any]


@pytest.fixture(params=["csv", "images"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Either pipeline: `run("good", "bad 1", ...)` runs on items of these names, in one run directory."""
    out = str(tmp_path / "run")
    if request.param == "csv":

        def csv(*names: str, return_state: bool = False, **options: Any) -> Any:
            for name in {name for name in names if not (tmp_path / name).exists()}:
                (tmp_path / name).write_bytes(b"a\n1\n" if name == "good" else b"PK\x03\x04" + name.encode())
            files = [str(tmp_path / name) for name in names]
            return ingest_csv(files, out, CsvOptions(**options), return_state=return_state)

        yield csv
        return
    with FaultServer() as server:
        server.routes["/good"] = body(picture())

        def images(*names: str, return_state: bool = False, **options: Any) -> Any:
            urls = [f"{server.url}/{name.replace(' ', '-')}" for name in names]
            chosen = ImageOptions(allow_private=True, retry_wait_s=0, **options)
            return download_images(urls, out, chosen, return_state=return_state)

        yield images


def _document(tmp_path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tmp_path / "run" / "run.json").read_text())
    return document


@pytest.mark.parametrize("names", [["bad"], ["bad", "bad"], ["bad 1", "bad 2"], ["bad 1", "bad 2", "bad 1", "bad 3"]])
@pytest.mark.parametrize("max_failed", [None, 0, 99])
def test_a_run_in_which_every_item_failed_is_failed(
    run: Run, tmp_path: Path, names: list[str], max_failed: int | None
) -> None:
    """Whatever `max_failed` allows, repeated items too; everything is written before, and a rerun fails again."""
    different = len(set(names))
    said = r"The one (item|file) of this run failed" if different == 1 else f"All {different} (items|files) of this run"
    for options in ({}, {}, {"retry_failed": True}):
        with pytest.raises(AllItemsFailed, match=said):
            run(*names, max_failed=max_failed, **options)
        assert _document(tmp_path)["counts"]["failed"] == different
        assert (tmp_path / "run" / "report.html").is_file()
    assert (read_ledger(tmp_path / "run")["status"] == "failed").sum() == different


def test_the_ui_shows_it_as_failed(run: Run) -> None:
    """The flow run is in the state Failed, and the sentence stands beside it."""
    state: State[Any] = run("bad 1", "bad 2", return_state=True)
    with get_client(sync_client=True) as client:
        assert state.state_details.flow_run_id is not None
        seen = client.read_flow_run(state.state_details.flow_run_id).state
    assert seen is not None
    assert (seen.type, seen.name) == ("FAILED", "Failed")
    assert "All 2 " in (seen.message or "")


def test_a_run_is_judged_by_its_own_input(run: Run) -> None:
    """One good item is enough, also one that an earlier run did; good items of another input are not."""
    assert run("bad", "good")["ok"] == 1
    assert run("bad", "good")["skipped"] == 2
    with pytest.raises(AllItemsFailed):
        run("bad")
    assert run("good")["skipped"] == 1
    with pytest.raises(TooManyFailures, match=r"1 (item|file)s failed, and 0 are allowed"):
        run("bad", "good", max_failed=0)


def test_no_items_are_no_failure(tmp_path: Path) -> None:
    """A list of URLs may be empty."""
    assert download_images([], str(tmp_path / "run"))["items"] == 0


def test_urls_that_are_none_are_failures(tmp_path: Path) -> None:
    """A list of rubbish is a failed run although nothing was fetched."""
    with pytest.raises(AllItemsFailed):
        download_images(["rubbish", "more rubbish"], str(tmp_path / "run"))


def test_a_site_that_is_down_is_a_failed_run(tmp_path: Path) -> None:
    """Every connection refused: the ledger says why, and the run is not a success."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    urls = [f"http://127.0.0.1:{dead}/{number}" for number in range(5)]
    with pytest.raises(AllItemsFailed, match="All 5 items"):
        download_images(urls, str(tmp_path / "run"), ImageOptions(allow_private=True, retries=0))
    assert set(read_ledger(tmp_path / "run")["error_kind"]) == {"refused"}


# --- lost rows and empty files ---------------------------------------------------------------------------------------


def _table(good: int, bad: int) -> bytes:
    return b"a,b\n" + b"1,2\n" * good + b"1,\xff\n" * bad


def _ingest(folder: Path, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = ingest_csv(str(folder / "*.csv"), str(folder / "run"), CsvOptions(**options))
    return result


def test_the_figures_of_a_run_add_up(tmp_path: Path) -> None:
    """Rows read are rows written, rejected and withheld: in the result, run.json and the report, also of a rerun."""
    (tmp_path / "bad.csv").write_bytes(_table(60, 40))
    (tmp_path / "good.csv").write_bytes(_table(99, 1))
    for _ in range(2):
        result = _ingest(tmp_path)
        figures = {name: result[name] for name in ("rows_in", "rows_out", "rejected", "withheld")}
        assert figures == {"rows_in": 200, "rows_out": 99, "rejected": 41, "withheld": 60}
        assert _document(tmp_path)["counts"].items() >= figures.items()
        report = (tmp_path / "run" / "report.html").read_text()
        assert "41 of 200 rows rejected" in report
        assert "60 rows that fit are withheld" in report
    rows = read_ledger(tmp_path / "run")
    assert list(rows["status"]) == ["failed", "ok"]
    assert sum(pq.read_metadata(tmp_path / "run" / path).num_rows for path in rows["rejects_path"]) == 41


def test_another_limit_judges_files_again(tmp_path: Path) -> None:
    """Raising it makes a failed file good without `retry_failed`; lowering it makes a good one fail."""
    (tmp_path / "bad.csv").write_bytes(_table(60, 40))
    (tmp_path / "good.csv").write_bytes(_table(100, 0))
    first = _ingest(tmp_path)
    assert (first["ok"], first["failed"]) == (1, 1)
    raised = _ingest(tmp_path, max_rejects="40%")
    assert (raised["ok"], raised["failed"], raised["skipped"]) == (1, 0, 1)
    lowered = _ingest(tmp_path, max_rejects="39")
    assert (lowered["ok"], lowered["failed"], lowered["skipped"]) == (0, 1, 1)
    assert [path.name[:4] for path in (tmp_path / "run" / "data").iterdir()] == ["good"]


def test_parameters_of_an_earlier_deployment_are_refused(tmp_path: Path) -> None:
    """A run with a number for `max_rejects` fails before it begins, with the sentence that says to deploy again."""
    (tmp_path / "a.csv").write_bytes(_table(1, 0))
    state: State[Any] = ingest_csv(
        str(tmp_path / "a.csv"),
        str(tmp_path / "run"),
        {"max_rejects": 25},  # type: ignore[arg-type] # a deployment gives options as plain values
        return_state=True,
    )
    assert state.is_failed()
    assert "and got 25: deploy again with the new value" in (state.message or "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("empty", [0, 1, 2, FILES_SHOWN + 2])
def test_empty_files_are_counted_and_named(tmp_path: Path, empty: int) -> None:
    """They are no failures, and nobody has to look for them: run.json has their number, the report their names."""
    (tmp_path / "good.csv").write_bytes(_table(1, 0))
    for number in range(empty):
        (tmp_path / f"void-{number:02}.csv").write_bytes(b"\n" * (number % 2))
    assert _ingest(tmp_path)["ok"] == 1 + empty
    assert _document(tmp_path)["counts"]["empty"] == empty
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.count("void-") == min(empty, FILES_SHOWN)
    assert (f"{empty} empty file" in report) == bool(empty)
    assert (f"These are the first {FILES_SHOWN}" in report) == (empty > FILES_SHOWN)


def test_a_folder_of_empty_files_is_no_failure(tmp_path: Path) -> None:
    """Nothing was lost."""
    (tmp_path / "void.csv").touch()
    assert _ingest(tmp_path, max_failed=0)["ok"] == 1
