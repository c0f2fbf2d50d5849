"""The flow download-images against a real Prefect server and a web server with faults."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from prefect import flow
from prefect.runtime import flow_run

from prefect_fanout import Outcome, OutcomeStatus
from prefect_fanout._errors import AllItemsFailed, RunFailed, TooManyFailures, UsageError
from prefect_fanout.flows.download_images import _row_of, download_images
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.row import Item
from prefect_fanout.tasks.ledger import read_ledger
from prefect_fanout.tasks.run_directory import FORMAT
from servers.fault_server import Exchange, FaultServer, body, first_then, open_files, raw
from servers.pictures import picture
from servers.prefect_server import PrefectServer, logs_of

JPEG = picture()
GOOD = 20
EXPECTED = ["ok"] * GOOD + ["failed", "failed", "failed", "duplicate", "failed"]


@pytest.fixture
def site(prefect_server: PrefectServer) -> Iterator[FaultServer]:
    """Twenty pictures, a page that poses as one, and a picture that is cut off."""
    with FaultServer() as server:
        for number in range(GOOD):
            server.routes[f"/{number}.jpg"] = body(picture(("JPEG", "PNG", "WEBP")[number % 3], seed=number))
        server.routes["/page.jpg"] = body(b"<html>not here</html>")
        server.routes["/cut.jpg"] = body(JPEG[: len(JPEG) // 2])
        yield server


def urls_of(site: FaultServer) -> list[str]:
    """The list of the tests: good ones, each kind of bad one, a duplicate."""
    good = [f"{site.url}/{number}.jpg" for number in range(GOOD)]
    return [
        *good,
        f"{site.url}/missing.jpg",
        f"{site.url}/page.jpg",
        f"{site.url}/cut.jpg",
        f"{good[0]}#again",
        "no url",
    ]


def options(**more: Any) -> ImageOptions:
    """Options for a server on loopback."""
    return ImageOptions(**{"allow_private": True, "workers": 4, "retry_wait_s": 0.0} | more)


def pictures_in(run: Path) -> set[str]:
    """Every file below the folder of the images, relative to the run directory."""
    return {path.relative_to(run).as_posix() for path in (run / "images").rglob("*") if path.is_file()}


def assert_reconciled(run: Path, items: int) -> None:
    """One row per item, and one file per ok row."""
    ledger = read_ledger(run)
    assert list(ledger["index"]) == list(range(items))
    assert set(ledger.loc[ledger["status"] == "ok", "path"]) == pictures_in(run)


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_every_item_becomes_a_row_and_every_good_one_a_file(site: FaultServer, tmp_path: Path, workers: int) -> None:
    """The outcome is the same with any number of workers; nothing of the run stays open."""
    run = tmp_path / "run"
    summary = download_images(urls_of(site)[:1], str(tmp_path / "warm-up"), options(workers=workers))
    assert summary["ok"] == 1
    threads, files = {thread.name for thread in threading.enumerate()}, open_files()
    summary = download_images(urls_of(site), str(run), options(workers=workers))
    assert summary == {"run": str(run), "items": 25, "ok": 20, "failed": 4, "duplicate": 1, "skipped": 0}
    ledger = read_ledger(run)
    assert list(ledger["status"]) == EXPECTED
    assert list(ledger["error_kind"].iloc[20:23]) == ["http_4xx", "not_an_image", "decode_error"]
    assert ledger["duplicate_of"].iloc[23] == 0
    assert_reconciled(run, 25)
    assert site.requests["/0.jpg"] == 2, "once for the warm-up, once here, never for the duplicate"
    assert not {name for name in threads ^ {thread.name for thread in threading.enumerate()} if "download" in name}
    assert open_files() <= files + 4, "Prefect's own connections may come and go"


def test_what_a_run_leaves_behind(site: FaultServer, tmp_path: Path) -> None:
    """Ledger, timeline, report and, last, run.json, which holds counts, options and versions."""
    run = tmp_path / "run"
    download_images(urls_of(site), str(run), options())
    document = json.loads((run / "run.json").read_text())
    assert document["counts"] == {"items": 25, "ok": 20, "failed": 4, "duplicate": 1, "skipped": 0}
    assert document["failures"] == {"http_4xx": 1, "not_an_image": 1, "decode_error": 1, "invalid_url": 1}
    assert document["options"]["workers"] == 4
    assert document["format"] == json.loads((run / ".run").read_text())["format"] == FORMAT
    assert "requests" in document["versions"]
    assert (run / "ledger.parquet").is_file()
    assert (run / "timeline.parquet").is_file()
    assert "not_an_image" in (run / "report.html").read_text()


def test_what_the_ui_shows(prefect_server: PrefectServer, site: FaultServer, tmp_path: Path) -> None:
    """The run says in its name what it does, and has a progress artifact and a summary."""
    state = download_images(urls_of(site), str(tmp_path / "site"), options(chunksize=10), return_state=True)
    assert state.is_completed()
    run_id = str(state.state_details.flow_run_id)
    assert httpx.get(f"{prefect_server.api_url}/flow_runs/{run_id}").json()["name"] == "download 25 images -> site"
    wanted = {"flow_runs": {"id": {"any_": [run_id]}}}
    found = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=wanted).json()
    artifacts = {artifact["type"]: artifact["data"] for artifact in found}
    assert artifacts["progress"] == 100
    for text in "http\\_4xx", "duplicate", "items/s", "```mermaid":
        assert text in artifacts["markdown"]


def test_the_name_of_a_list_stays_text_in_the_ui(
    prefect_server: PrefectServer, site: FaultServer, tmp_path: Path
) -> None:
    """A list whose name is Markdown and HTML brings no image, link or tag into what the UI shows of its artifacts."""
    name = "![b](x) <img src=x onerror=alert(1)> [l](javascript:1) **b** `c` \x1b[31m.txt"
    (tmp_path / name).write_text(f"{site.url}/0.jpg\n")
    state = download_images(str(tmp_path / name), str(tmp_path / "run"), options(), return_state=True)
    wanted = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    found = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=wanted).raise_for_status().json()
    assert {artifact["type"] for artifact in found} == {"progress", "markdown"}
    for artifact in found:
        paragraph, text, end = MarkdownIt("commonmark", {"html": True}).parse(artifact["description"])
        assert (paragraph.type, end.type) == ("paragraph_open", "paragraph_close")
        assert {child.type for child in text.children or []} <= {"text", "text_special"}
        assert name.replace("\x1b", "\ufffd") in "".join(child.content for child in text.children or [])


def test_a_defect_is_logged_without_escape_sequences(prefect_server: PrefectServer) -> None:
    """What an unforeseen error repeats of an item commands no terminal that shows the log of the run."""

    @flow
    def work() -> str:
        item = Item(0, "http://example.org/a", "http://example.org/a")
        error = ValueError("http://example.org/\x1b]0;PWNED\x07")
        _row_of(Outcome(0, item, OutcomeStatus.FAILED, error=error, attempts=1))
        return str(flow_run.id)

    logged = "\n".join(logs_of(prefect_server, work()))
    assert "ValueError: http://example.org/\ufffd]0;PWNED\ufffd" in logged
    assert "\x1b" not in logged


def test_a_rerun_fetches_only_what_is_missing(site: FaultServer, tmp_path: Path) -> None:
    """Finished items are skipped; with retry_failed those that failed are fetched once more."""
    run, urls = str(tmp_path / "run"), urls_of(site)
    download_images(urls, run, options())
    before = site.requests.total()
    assert download_images(urls, run, options())["skipped"] == 25
    assert site.requests.total() == before
    site.routes["/missing.jpg"] = body(JPEG)
    summary = download_images(urls, run, options(retry_failed=True))
    assert (summary["ok"], summary["failed"], summary["skipped"]) == (1, 3, 21)
    assert_reconciled(tmp_path / "run", 25)
    assert (read_ledger(run)["status"] == "ok").sum() == 21
    assert download_images(urls, run, options(fresh=True))["ok"] == 21


def test_fresh_keeps_a_users_own_files_and_the_page_names_them(site: FaultServer, tmp_path: Path) -> None:
    """The images of the run before go, what a user put among them stays, and the report says that it was left."""
    run = tmp_path / "run"
    download_images(urls_of(site), str(run), options())
    (run / "images" / "my_notes.txt").write_text("mine")
    summary = download_images(urls_of(site)[:1], str(run), options(fresh=True))
    assert (summary["ok"], summary["skipped"]) == (1, 0)
    assert pictures_in(run) == {"images/my_notes.txt", *read_ledger(run)["path"]}
    assert (run / "images" / "my_notes.txt").read_text() == "mine"
    assert "--fresh left 1 file in place" in (run / "report.html").read_text()


def test_a_file_name_in_the_ledger_is_never_computed_again(site: FaultServer, tmp_path: Path) -> None:
    """An image keeps the name that its row has, whatever name this version would give it; a longer list adds to it."""
    run, urls = tmp_path / "run", urls_of(site)
    download_images(urls[:1], str(run), options())
    table = pq.read_table(run / "ledger.parquet")
    (path,) = table["path"].to_pylist()
    (run / path).rename(run / "images" / "train-old.jpg")
    column = table.schema.get_field_index("path")
    table = table.set_column(column, table.schema.field(column), pa.array(["images/train-old.jpg"]))
    pq.write_table(table, run / "ledger.parquet")
    assert download_images(urls, str(run), options(retry_failed=True))["skipped"] == 1
    assert read_ledger(run)["path"].iloc[0] == "images/train-old.jpg"
    assert_reconciled(run, 25)


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_list_in_a_file(site: FaultServer, tmp_path: Path, suffix: str) -> None:
    """The list may be a file; a deployment gives options as plain values."""
    path = tmp_path / f"list.{suffix}"
    path.write_text("\n".join((["link"] if suffix == "csv" else []) + urls_of(site)[:3]))
    given: Any = {"allow_private": True, "url_column": "link"}
    assert download_images(str(path), str(tmp_path / "run"), given)["ok"] == 3


def test_an_empty_list(site: FaultServer, tmp_path: Path) -> None:
    """No items are a finished run without rows."""
    summary = download_images([], str(tmp_path / "run"), options())
    assert (summary["items"], len(read_ledger(tmp_path / "run"))) == (0, 0)
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.parametrize(("allowed", "raised"), [(3, True), (4, False), (5, False)])
def test_too_many_failures(site: FaultServer, tmp_path: Path, allowed: int, raised: bool) -> None:
    """More failed items than allowed fail the run, after everything is written."""
    run = tmp_path / "run"
    if raised:
        with pytest.raises(TooManyFailures, match="4 items failed, and 3 are allowed"):
            download_images(urls_of(site), str(run), options(max_failed=allowed))
    else:
        download_images(urls_of(site), str(run), options(max_failed=allowed))
    assert (run / "run.json").is_file()
    assert_reconciled(run, 25)


def test_wrong_usage_writes_nothing(site: FaultServer, tmp_path: Path) -> None:
    """A list, an option or a folder that cannot be used is refused before anything is written."""
    run, urls = tmp_path / "run", urls_of(site)
    with pytest.raises(UsageError, match="curl"):
        download_images(urls, str(run), options(client="curl"))
    with pytest.raises(UsageError, match="cannot be read"):
        download_images(str(tmp_path / "no.txt"), str(run), options())
    assert not run.exists()
    run.write_text("a file")
    with pytest.raises(UsageError, match="cannot be used"):
        download_images(urls, str(run), options())
    assert run.read_text() == "a file"


def test_a_storage_fault_ends_the_run_and_the_next_one_completes_it(site: FaultServer, tmp_path: Path) -> None:
    """When the disk refuses, the run fails with the cause, its ledger is kept, and a rerun does the rest."""
    run, urls = tmp_path / "run", urls_of(site)
    aside = tmp_path / "aside"

    def sabotage(exchange: Exchange) -> bool:
        (run / "images").rename(aside)
        (run / "images").write_text("in the way")
        return exchange.answer(JPEG)

    site.routes["/10.jpg"] = sabotage
    with pytest.raises(RunFailed, match="could not be written"):
        download_images(urls, str(run), options(workers=1, chunksize=1))
    assert not (run / "run.json").exists()
    done = read_ledger(run)
    assert 0 < len(done) <= 11
    (run / "images").unlink()
    aside.rename(run / "images")
    site.routes["/10.jpg"] = body(JPEG)
    assert download_images(urls, str(run), options())["skipped"] == len(done)
    assert_reconciled(run, 25)


PROGRAM = """
import sys
from prefect_fanout.flows.download_images import download_images
from prefect_fanout.tasks.images.options import ImageOptions
if __name__ == "__main__":
    options = ImageOptions(allow_private=True, workers=2, chunksize=1)
    download_images(sys.argv[2:], sys.argv[1], options)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_is_completed_by_the_next(
    prefect_server: PrefectServer, site: FaultServer, tmp_path: Path, sent: signal.Signals
) -> None:
    """Killed or interrupted in the middle of a body: no half file, a readable ledger, and a rerun that completes."""
    run, urls = tmp_path / "run", urls_of(site)
    reached, good = threading.Event(), body(JPEG)

    def hold(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + JPEG[:100])
        reached.set()
        while exchange.until_gone():
            pass

    site.routes["/15.jpg"] = first_then(hold, good)
    command = [sys.executable, "-P", "-c", PROGRAM, str(run), *urls]
    # Its own session: the signal is for it alone.
    with subprocess.Popen(
        command, env=dict(prefect_server.environment), start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            assert reached.wait(120)
            process.send_signal(sent)  # with an item in the middle of a body, which would wait for 20 s and try again
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode != 0, errors
    assert site.requests["/15.jpg"] == 1, "nothing is tried again once the run was told to stop"
    assert not (run / "run.json").exists()
    assert len(read_ledger(run)) < 25
    summary = download_images(urls, str(run), options())
    assert summary["items"] == 25
    assert_reconciled(run, 25)
    if sent is not signal.SIGKILL:
        assert summary["skipped"] > 0, "what was finished is in the ledger"


def test_items_whose_task_gave_no_row_get_one(site: FaultServer) -> None:
    """A defect and a cancellation are rows; a fault of this machine is raised."""
    item = Item(7, "http://example.org/a#b", "http://example.org/a")
    cancelled = _row_of(Outcome(7, item, OutcomeStatus.CANCELLED, attempts=0))
    assert (cancelled["status"], cancelled["index"], cancelled["url_key"]) == ("cancelled", 7, item.key)
    with pytest.raises(RunFailed, match="disk"):
        _row_of(Outcome(7, item, OutcomeStatus.FAILED, error=RunFailed("the disk is full"), attempts=1))


def test_a_server_that_closes_all_connections_costs_no_thread(site: FaultServer, tmp_path: Path) -> None:
    """Many broken answers in a row leave the process as it was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    site.routes["/broken"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
    urls = [f"http://127.0.0.1:{dead}/{number}" for number in range(30)]
    urls += [f"{site.url}/broken?{number}" for number in range(30)]
    with pytest.raises(AllItemsFailed, match="All 60 items"):
        download_images(urls, str(tmp_path / "run"), options(workers=8, retries=1))
    assert set(read_ledger(tmp_path / "run")["error_kind"]) == {"refused", "truncated"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]
