"""The exit codes of the `fanout` command where work was lost or stopped, each of a process of its own.

tests/test_cli.py has 0, 2, 3 and the runs that could not be finished.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from prefect_fanout._demo_site import demo_site
from prefect_fanout.tasks.ledger import read_ledger
from servers.command import PATIENCE_S, run_fanout, start_fanout
from servers.eventually import eventually
from servers.fault_server import Exchange, FaultServer, body, silent
from servers.prefect_server import PrefectServer


@pytest.fixture
def environment(prefect_server: PrefectServer) -> dict[str, str]:
    """An environment in which the command uses the tests' server."""
    return {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(prefect_server.home)}


def _list_of(folder: Path, urls: list[str]) -> str:
    (folder / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
    return "urls.txt"


def _table(folder: Path, name: str, rows: int = 3) -> str:
    (folder / name).write_text("a,b\n" + "".join(f"{row},x\n" for row in range(rows)), encoding="utf-8")
    return name


@pytest.mark.parametrize("command", ["images", "csv"])
def test_a_run_in_which_every_item_failed_exits_with_1(
    tmp_path: Path, environment: dict[str, str], command: str
) -> None:
    """The summary is printed and everything written, however many may fail; so it is again in a rerun."""
    (tmp_path / "bad.csv").write_bytes(b"PK\x03\x04")
    items = {"images": _list_of(tmp_path, ["no url", "neither"]), "csv": "bad.csv"}
    arguments = [command, items[command], "--out", "run", "--max-failed", "9"]
    for _ in range(2):
        done = run_fanout(*arguments, cwd=tmp_path, environment=environment)
        assert done.returncode == 1, done.stderr
        assert re.match(r"run: [12] items?, 0 ok, [12] failed", done.stdout)
        assert re.search(
            r"fanout: (The one file|All 2 items) of this run failed; the ledger in .* says why", done.stderr
        )
        assert "Traceback" not in done.stderr
        assert (tmp_path / "run" / "run.json").is_file()


def test_rejects_beyond_max_rejects_fail_their_file(tmp_path: Path, environment: dict[str, str]) -> None:
    """Six of 100 records are more than 5%, and as many as `--max-rejects 6` allows."""
    (tmp_path / "bad.csv").write_text("a,b\n" + "1,2\n" * 94 + "x\n" * 6, encoding="utf-8")
    arguments = ["csv", "bad.csv", _table(tmp_path, "good.csv"), "--out", "run"]
    done = run_fanout(*arguments, cwd=tmp_path, environment=environment)
    assert done.returncode == 3, done.stderr
    assert re.search(r"2 items, 1 ok, 1 failed, 103 rows in, 3 rows out, 6 rejected, 94 withheld", done.stdout)
    assert "too_many_rejects 1" in done.stdout
    done = run_fanout(*arguments, "--max-rejects", "6", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "97 rows out, 6 rejected" in done.stdout


SIGNALS = pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, b"Interrupted."), (signal.SIGTERM, 143, b"Stopped by SIGTERM.")],
)


def _end(process: subprocess.Popen[bytes], sent: signal.Signals, code: int, said: bytes) -> None:
    """Send a signal to the command's process group, as a terminal or a service manager does, and look at its end."""
    os.killpg(process.pid, sent)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (code, b""), stderr.decode()
    assert said in stderr
    assert b"What was finished is kept" in stderr
    assert b"Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@SIGNALS
def test_a_signal_keeps_the_images_that_were_finished(
    tmp_path: Path, environment: dict[str, str], sent: signal.Signals, code: int, said: bytes
) -> None:
    """After Ctrl-C or SIGTERM the finished items are in the ledger, nothing is left running, and a rerun goes on."""
    asked = threading.Event()

    def hold(exchange: Exchange) -> None:
        asked.set()
        silent(exchange)

    with demo_site() as urls, FaultServer({"/held.jpg": hold}) as server:
        urls_file = _list_of(tmp_path, [urls[0], f"{server.url}/held.jpg"])
        arguments = ["images", urls_file, "--allow-private", "--out", "run", "--workers", "1", "--chunksize", "1"]
        process = start_fanout(arguments, cwd=tmp_path, environment=environment)
        assert asked.wait(PATIENCE_S)
        _end(process, sent, code, said)
        rows = read_ledger(tmp_path / "run")
        assert dict(zip(rows["url"], rows["status"], strict=True))[urls[0]] == "ok"
        assert not (tmp_path / "run" / "run.json").exists()
        server.routes["/held.jpg"] = body(b"", "404 Not Found")
        done = run_fanout("images", urls_file, "--allow-private", "--out", "run", cwd=tmp_path, environment=environment)
        assert done.stdout.startswith("run: 2 items, 1 ok, 1 failed, 1 skipped")


@SIGNALS
def test_a_signal_keeps_the_tables_that_were_finished(
    tmp_path: Path, environment: dict[str, str], sent: signal.Signals, code: int, said: bytes
) -> None:
    """As with images: a table under its name is whole and in the ledger, and a rerun reads the others."""
    files, rows = 200, 5_000
    for number in range(files):
        _table(tmp_path, f"table-{number}.csv", rows)
    arguments = ["csv", "table-*.csv", "--out", "run", "--workers", "1"]
    process = start_fanout(arguments, cwd=tmp_path, environment=environment)
    data = tmp_path / "run" / "data"
    assert len(eventually(lambda: list(data.glob("*.parquet")), lambda done: len(done) >= 5)) >= 5
    _end(process, sent, code, said)
    ledger = read_ledger(tmp_path / "run")
    assert 5 <= len(ledger) < files
    assert set(ledger["status"]) == {"ok"}
    assert not (tmp_path / "run" / "run.json").exists()
    done = run_fanout(*arguments, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"run: {files} items, {files} ok, 0 failed, {len(ledger)} skipped")
    assert f"{files * rows:,} rows out" in done.stdout


def test_sigterm_before_the_work_begins_exits_with_143(tmp_path: Path) -> None:
    """Also while the command still waits for a server: no traceback, and nothing is written."""
    with FaultServer({"/api/health": silent, "/api/admin/version": silent}) as server:
        environment = {"PREFECT_API_URL": f"{server.url}/api", "PREFECT_HOME": str(tmp_path / "home")}
        arguments = ["csv", _table(tmp_path, "table.csv"), "--out", "run"]
        process = start_fanout(arguments, cwd=tmp_path, environment=environment)
        eventually(server.requests.total, bool)
        _end(process, signal.SIGTERM, 143, b"Stopped by SIGTERM.")
    assert not (tmp_path / "run").exists()
