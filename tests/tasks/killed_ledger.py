"""A program for test_ledger.py: kills itself with SIGKILL at every line of the code that touches the disk, and checks.

Usage: killed_ledger.py FOLDER. A session that is not killed shows which lines of the functions below are run, and when.
Then, for the first and the last time that each line is run, a forked child is killed just before it, and another child
opens what is left. Prints the number of kills; a check that fails ends the program with a traceback.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.parquet as pq

from prefect_fanout.tasks import key_index, ledger, ledger_files, ownership, run_directory
from prefect_fanout.tasks.ledger import Ledger, ledger_schema, read_ledger
from prefect_fanout.tasks.run_directory import RunDirectory

SCHEMA = ledger_schema("url_key")
ITEMS = 12
TRACED_FILES = {module.__file__ for module in (key_index, ledger, ledger_files, ownership, run_directory)}
TRACED_FUNCTIONS = {
    # ownership, run_directory
    *("take_lock", "open", "commit_file", "_fsync", "fsync_folder", "_write_json", "_write_mark", "_sweep", "close"),
    # key_index, ledger_files, ledger
    *("_reuse", "add", "write_file", "_flush", "compact", "_open_index"),
}


def trace(on_step: Callable[[int, tuple[str, int]], None]) -> None:
    """Have a function called before every traced line, with the number of the step, from 0, and file and line."""
    steps = itertools.count()

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            on_step(next(steps), (frame.f_code.co_filename, frame.f_lineno))
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        return on_line if code.co_filename in TRACED_FILES and code.co_name in TRACED_FUNCTIONS else None

    sys.settrace(on_call)


def session(folder: Path, *, items: int, failing: int, attempts: int, acknowledge: Path | None = None) -> None:
    """Run a pipeline over the first items of the input: skip what is ok, fail each `failing`-th (0: none)."""
    with RunDirectory.open(folder, pipeline="p") as run:
        with Ledger(run, SCHEMA, key="url_key", part_rows=3, part_seconds=float("inf")) as rows:
            for index in range(items):
                key = f"item {index}"
                if rows.status_of(key) == "ok":
                    continue
                failed = failing and index % failing == 0
                status, kind = ("failed", "http_5xx") if failed else ("ok", None)
                rows.append(
                    {"index": index, "url_key": key, "status": status, "error_kind": kind, "attempts": attempts}
                )
                if acknowledge is not None and index % 5 == 4:
                    rows.flush()
                    with acknowledge.open("a") as file:  # outside the run, and whole before the next step
                        file.write(f"{index + 1}\n")
            rows.compact()
            counts = rows.counts()
        run.write_run_json({"counts": counts})


def check(folder: Path, acknowledge: Path) -> None:
    """Check what a killed second session left, run a third one, and check that it is complete."""
    for path in folder.rglob("*.parquet"):
        pq.read_metadata(path)  # raises on half a file under a final name
    found = read_ledger(folder)
    assert found["url_key"].is_unique
    assert found["index"].is_monotonic_increasing
    assert set(range(6)) <= set(found["index"]), "a row of the first session is lost"
    flushed = max((int(line) for line in acknowledge.read_text().split()), default=0)
    assert set(range(flushed)) <= set(found["index"]), "a flushed row is lost"
    done = found[found["index"] < flushed]
    assert list(done["attempts"]) == [2 if index % 2 == 0 or index >= 6 else 1 for index in done["index"]]
    if (folder / "run.json").exists():
        assert json.loads((folder / "run.json").read_text())["counts"] == Counter(found["status"])
    with RunDirectory.open(folder, pipeline="p") as run:
        assert not list(folder.rglob("*.tmp-*"))
        with Ledger(run, SCHEMA, key="url_key") as rows:
            assert rows.counts() == Counter(found["status"])
            for key, status in zip(found["url_key"], found["status"], strict=True):
                assert rows.status_of(key) == status
    session(folder, items=ITEMS, failing=0, attempts=3)
    complete = read_ledger(folder)
    assert list(complete["index"]) == list(range(ITEMS))
    assert set(complete["status"]) == {"ok"}
    assert pq.read_metadata(folder / "ledger.parquet").num_rows == ITEMS
    assert {path.name for path in folder.iterdir()} == {".lock", ".run", "ledger", "ledger.parquet", "run.json"}
    assert not list((folder / "ledger").iterdir())


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked child; give its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent; it shows what it met
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def second(folder: Path, acknowledge: Path) -> None:
    """Run the session that is killed: repeat the failed items, do the rest of the input, fail some."""
    session(folder, items=ITEMS, failing=4, attempts=2, acknowledge=acknowledge)


def steps_to_kill_at(first: Path, base: Path) -> list[int]:
    """Run the second session to its end; give the steps at which a line is run for the first or the last time."""
    folder, acknowledge, steps = base / "not killed", base / "acknowledged", base / "steps"
    shutil.copytree(first, folder)

    def recorded() -> None:
        seen: dict[tuple[str, int], list[int]] = {}
        trace(lambda step, line: seen.setdefault(line, []).append(step))
        second(folder, acknowledge)
        sys.settrace(None)
        steps.write_text(json.dumps(sorted({step for each in seen.values() for step in (each[0], each[-1])})))

    assert in_child(recorded) == 0
    assert in_child(lambda: check(folder, acknowledge)) == 0
    return list(json.loads(steps.read_text()))


def killed_at(step: int, first: Path, base: Path) -> None:
    """Kill a second session at a step, and check what it leaves."""
    folder, acknowledge = base / "killed", base / "acknowledged"
    shutil.copytree(first, folder)
    acknowledge.write_text("")

    def killed() -> None:
        trace(lambda now, line: os.kill(os.getpid(), signal.SIGKILL) if now == step else None)
        second(folder, acknowledge)

    status = in_child(killed)
    assert status == signal.SIGKILL, f"step {step} ended with wait status {status}"
    assert in_child(lambda: check(folder, acknowledge)) == 0, f"killed at step {step}"
    shutil.rmtree(folder)


def main(base: Path) -> None:
    """Kill second sessions, each at another step."""
    first = base / "first"
    assert in_child(lambda: session(first, items=6, failing=2, attempts=1)) == 0
    steps = steps_to_kill_at(first, base)
    for step in steps:
        killed_at(step, first, base)
    print(len(steps))  # noqa: T201 - this is a program: the test reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
