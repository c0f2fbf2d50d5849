"""`fanout csv` on files as people have them: folders that others write to, titles, several encodings."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prefect_fanout.tasks.ledger import read_ledger
from servers.command import run_fanout
from servers.prefect_server import PrefectServer


@pytest.fixture
def environment(prefect_server: PrefectServer) -> dict[str, str]:
    """An environment in which the command uses the tests' server."""
    return {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(prefect_server.home)}


def test_links_in_an_input_folder_gain_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    """Links out of it, dangling ones, loops, a pipe and a folder are failed items; no byte of a secret is kept."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "good.csv").write_text("a,b\n1,x\n")
    (tmp_path / "shadow").write_text("root:SECRET\n")
    for name in ("evil.csv", "*.csv"):
        (incoming / name).symlink_to("../shadow")
    (incoming / "loop").symlink_to(".")
    (incoming / "loop too").symlink_to(".")
    (incoming / "dangling.csv").symlink_to("nowhere")
    (incoming / "folder.csv").mkdir()
    os.mkfifo(incoming / "pipe.csv")
    done = run_fanout("csv", "incoming/**/*.csv", "--out", "run", cwd=tmp_path, environment=environment)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("run: 6 items, 1 ok, 5 failed")
    assert "(not_a_file 2, outside_folder 2, unreadable 1)" in done.stdout
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"SECRET" not in kept
    done = run_fanout(
        "csv",
        "incoming/evil.csv",
        "incoming/e*",
        "--follow-links",
        "--out",
        "run2",
        cwd=tmp_path,
        environment=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run2: 2 items, 1 ok, 0 failed, 1 duplicate")


def test_the_options_that_messages_advise_can_be_typed(tmp_path: Path, environment: dict[str, str]) -> None:
    """Files of several encodings behind a title become right tables by `--encoding`, `--skip-lines`, `--delimiter`."""
    for codec in ("utf-8", "cp1252", "utf-16"):
        (tmp_path / f"{codec}.csv").write_text("Umsatz 2024\nname\tv\nJosé\t1\n", encoding=codec)
    arguments = ["csv", "*.csv", "--out", "run", "--skip-lines", "1", "--encoding", "cp1252", "--delimiter", "\\t"]
    done = run_fanout(*arguments, cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    tables = [pq.read_table(path) for path in (tmp_path / "run" / "data").iterdir()]
    assert [table.to_pylist() for table in tables] == [[{"name": "José", "v": 1}]] * 3
    assert list(read_ledger(tmp_path / "run")["encoding"]) == ["cp1252", "utf-16", "utf-8"]
