"""`fanout demo`: the planted faults are found, the results are where it says, and a second demo replaces the first."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from prefect_fanout._demo import EXPECTED_IMAGES, EXPECTED_KINDS, EXPECTED_TABLES, find_surprises
from prefect_fanout._demo_site import IMAGE_NAMES, demo_site
from prefect_fanout._demo_tables import BAD_ROWS, COLUMNS, FILES, ROWS_PER_FILE, write_demo_tables
from prefect_fanout._finished import Finished
from prefect_fanout.tasks.ledger import read_ledger
from servers.closed import ask, is_up, login, open_to_a_page
from servers.command import run_fanout
from servers.deployed import in_background
from servers.process import free_port

# Settings of someone who uses another server: the demo must not care.
ELSEWHERE = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What two demos in the same folder have left there, and what the second has printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Two demos, one after the other."""
    folder = tmp_path_factory.mktemp("demo")
    for _ in range(2):
        done = run_fanout("demo", cwd=folder, environment=ELSEWHERE)
        assert (done.returncode, done.stderr) == (0, "")
    return Demo(folder=folder, printed=done.stdout)


def test_the_demo_finds_what_was_planted_twice_in_a_row(demo: Demo) -> None:
    """Both demos exit with 0 and tell the whole story also in a pipe; files, ledgers, rejects and reports are there."""
    told = " ".join(demo.printed.split())
    assert "24 items 20 ok 3 failed 1 duplicate" in told
    assert "10 items 10 ok" in told
    assert all(kind in told for kind in ("decode_error", "http_4xx", "not_an_image"))
    assert all(place in told for place in ("images/report.html", "tables/data", "tables/rejects", "ledger.parquet"))
    assert "planted faults" in told

    out = demo.folder / "fanout-demo"
    ledger = read_ledger(out / "images")
    assert ledger["status"].value_counts().to_dict() == {"ok": 20, "failed": 3, "duplicate": 1}
    for path in ledger.loc[ledger["status"] == "ok", "path"]:
        with Image.open(out / "images" / path) as image:
            image.load()
    frames = [pd.read_parquet(path) for path in (out / "tables" / "data").glob("*.parquet")]
    assert [len(frame) for frame in frames] == [ROWS_PER_FILE] * FILES
    assert all(list(frame.columns) == COLUMNS.split(",") for frame in frames)
    rejects = pd.concat([pd.read_parquet(path) for path in (out / "tables" / "rejects").glob("*.parquet")])
    assert {raw.decode() for raw in rejects["raw"]} == {line for lines in BAD_ROWS.values() for line in lines}
    assert all((out / run / "report.html").is_file() for run in ("images", "tables"))


def test_the_command_for_the_ui_starts_a_server_that_only_its_reader_can_use(demo: Demo) -> None:
    """The printed line, as it is, starts a server with all runs of the demo, which answers only to the new password."""
    (command,) = re.findall(r"^ +PREFECT_HOME=(?:.+\\\n)+.+ start$", demo.printed, re.MULTILINE)
    (password,) = re.findall(r"with the password (\S+)$", demo.printed, re.MULTILINE)
    port = free_port()
    command = f"{command.replace('4200', str(port))} --port {port}"
    api = f"http://127.0.0.1:{port}/api"
    with in_background(["sh", "-c", command], log=demo.folder / "server.log", environment=os.environ) as server:
        server.look_until(partial(is_up, api), "The start of the server")
        assert open_to_a_page(api) == []
        status, _, count = ask(api, "/flow_runs/count", method="POST", body={}, headers=login(password))
    assert (status, count) == (200, b"4")


def test_a_demo_in_a_folder_of_someone_else_touches_nothing(tmp_path: Path) -> None:
    """A folder with other things in the place of a run is a usage error, and they stay."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_text("mine")
    done = run_fanout("demo", "--out", tmp_path, cwd=tmp_path, environment=ELSEWHERE)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["holiday.jpg"]


def _as_planned() -> tuple[Finished, Finished]:
    images = Finished(run=Path("i"), counts=EXPECTED_IMAGES, failures=EXPECTED_KINDS, examples=[], seconds=1.0)
    tables = Finished(run=Path("t"), counts=EXPECTED_TABLES, failures={}, examples=[], seconds=1.0)
    return images, tables


def test_an_outcome_as_planned_is_no_surprise() -> None:
    """The demo is content with exactly the planted faults."""
    assert find_surprises(*_as_planned()) == []


@pytest.mark.parametrize(("count", "kind"), [({"ok": 19}, {}), ({}, {"http_4xx": 2}), ({"failed": 4}, {"timeout": 1})])
def test_another_outcome_is_told(count: dict[str, int], kind: dict[str, int]) -> None:
    """Each number that differs from the plan is named with both values."""
    images, tables = _as_planned()
    changed = replace(images, counts={**images.counts, **count}, failures={**images.failures, **kind})
    surprises = find_surprises(changed, tables)
    planted = {name for name in (*count, *kind) if name in (*EXPECTED_IMAGES, *EXPECTED_KINDS)}
    assert len(surprises) == len(planted)
    assert all(any(name in sentence for sentence in surprises) for name in planted)


def test_the_site_serves_what_the_demo_says() -> None:
    """20 distinct images of the format of their name, a 404, an HTML page, a cut JPEG, and one URL twice."""
    with demo_site() as urls:
        assert len(urls) == 24
        assert urls[23] == urls[0]
        bodies = []
        for url, name in zip(urls, IMAGE_NAMES, strict=False):
            with urllib.request.urlopen(url) as answer:
                bodies.append(answer.read())
            with Image.open(BytesIO(bodies[-1])) as image:
                assert image.format == ("PNG" if name.endswith(".png") else "JPEG")
                image.load()
        assert len(set(bodies)) == len(IMAGE_NAMES)
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(urls[20])
        refused.value.close()
        with urllib.request.urlopen(urls[21]) as page:
            assert page.headers["Content-Type"] == "image/jpeg"
            assert b"<html>" in page.read()
        with (
            urllib.request.urlopen(urls[22]) as cut,
            Image.open(BytesIO(cut.read())) as image,
            pytest.raises(OSError, match="truncated"),
        ):
            image.load()


def test_the_tables_are_the_same_every_time(tmp_path: Path) -> None:
    """Ten files with the planned number of lines, byte for byte the same in a second folder."""
    first, second = write_demo_tables(tmp_path / "a"), write_demo_tables(tmp_path / "b")
    assert len(first) == FILES
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        content = one.read_bytes()
        assert content == other.read_bytes()
        assert content.count(b"\n") == 1 + ROWS_PER_FILE + len(BAD_ROWS.get(number, ()))
