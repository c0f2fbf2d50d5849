"""Both pipelines as a user deploys them: a real server, `prefect deploy`, a worker, runs of each kind; and serve.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule

from prefect_fanout.tasks.ledger import read_ledger
from servers.deployed import COMMAND_PATIENCE_S, ROOT, Background, Deployed, in_background

pytestmark = pytest.mark.deployed

IMAGES = "download-images/nightly"
CSV = "ingest-csv/nightly"
SERVED = ("download-images/served", "ingest-csv/served")
PICTURES = 6
FILES = 3
ROWS = 5
SCHEDULE_INTERVAL = timedelta(seconds=15)


def write_csv(file: Path) -> None:
    """Write a CSV file of ROWS rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"2026-01-0{row + 1},{file.stem},{row}\n" for row in range(ROWS)]
    file.write_text("day,shop,amount\n" + "".join(rows), encoding="utf-8")


def pictures(site: str, count: int) -> list[str]:
    """The addresses of `count` pictures."""
    return [f"{site}/picture-{number}.png" for number in range(count)]


def rows_of(run: Path) -> int:
    """The number of rows in the Parquet files of a CSV run."""
    return sum(len(pd.read_parquet(file)) for file in sorted((run / "data").glob("*.parquet")))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run as the API tells of it."""

    flow_run: FlowRun
    task_states: list[tuple[str, str]]
    artifacts: Mapping[str, Any]

    @classmethod
    def settled(cls, deployed: Deployed, flow_run_id: UUID) -> Run | None:
        """Ask the API for a run, its task runs and its artifacts; None while one of the runs has not ended.

        The server takes task runs and their states from a stream of events, a second after that of the flow run.
        """
        flow_run = deployed.finished(flow_run_id)
        if flow_run is None:
            return None
        of_run = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
        task_runs = deployed.client.read_task_runs(flow_run_filter=of_run)
        artifacts = deployed.client.read_artifacts(flow_run_filter=of_run)
        if not task_runs or not all(task_run.state and task_run.state.is_final() for task_run in task_runs):
            return None
        return cls(
            flow_run=flow_run,
            task_states=sorted((task_run.name, task_run.state_name or "") for task_run in task_runs),
            artifacts={artifact.type or "": artifact.data for artifact in artifacts},
        )

    def assert_all_well(self, name: str) -> None:
        """The run, its name, its task runs, the progress and the summary are as a user wants to see them."""
        assert self.flow_run.state_name == "Completed", self.flow_run.state
        assert re.fullmatch(name, self.flow_run.name)
        assert self.task_states
        assert {state for _, state in self.task_states} == {"Completed"}
        assert self.artifacts["progress"] == 100
        assert "```mermaid" in self.artifacts["markdown"]


@pytest.fixture(scope="module")
def by_hand(deployed: Deployed, worker: Background, site: str) -> dict[str, Run]:
    """One run of each deployment, started by hand: images with parameters of the moment, CSV with the deployment's."""
    for number in range(FILES):
        write_csv(deployed.folder / "incoming" / f"{number}.csv")
    urls = [*pictures(site, PICTURES), f"{site}/not-there.jpg"]
    started = {
        IMAGES: deployed.start_run(IMAGES, {"urls": urls, "options": {"allow_private": True}}),
        CSV: deployed.start_run(CSV, {}),
    }
    return {
        name: worker.look_until(partial(Run.settled, deployed, flow_run_id), f"The run of {name}")
        for name, flow_run_id in started.items()
    }


@pytest.mark.parametrize(
    ("name", "entrypoint", "tag", "cron"),
    [
        (IMAGES, "prefect_fanout.flows.download_images.download_images", "images", "15 2 * * *"),
        (CSV, "prefect_fanout.flows.ingest_csv.ingest_csv", "csv", "45 2 * * *"),
    ],
)
def test_deployment_holds_what_the_file_says(
    deployed: Deployed, name: str, entrypoint: str, tag: str, cron: str
) -> None:
    """The server knows module, pool, schedule, tags and limit, and no path of the machine that deployed."""
    deployment = deployed.client.read_deployment_by_name(name)
    assert deployment.entrypoint == entrypoint
    assert deployment.tags == ["fanout", tag]
    assert deployment.work_pool_name == "fanout"
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    (schedule,) = deployment.schedules
    assert (schedule.slug, schedule.active) == ("nightly", True)
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == (cron, "UTC")
    assert deployment.pull_steps == []
    assert str(ROOT) not in deployment.model_dump_json()


def test_images_run_by_hand(deployed: Deployed, by_hand: Mapping[str, Run]) -> None:
    """The worker downloads the pictures into its folder; the missing one is a row of the ledger, not a failed run."""
    by_hand[IMAGES].assert_all_well(rf"download {PICTURES + 1} images -> .*images")
    run = deployed.folder / "runs" / "images"
    ledger = read_ledger(run)
    assert list(ledger["status"]) == ["ok"] * PICTURES + ["failed"]
    assert (run / "run.json").is_file()


def test_csv_run_by_hand(deployed: Deployed, by_hand: Mapping[str, Run]) -> None:
    """Without parameters of its own the run reads the folder that the deployment names, and loses no row."""
    by_hand[CSV].assert_all_well(rf"ingest {FILES} csv -> .*csv")
    run = deployed.folder / "runs" / "csv"
    assert list(read_ledger(run)["status"]) == ["ok"] * FILES
    assert rows_of(run) == FILES * ROWS
    assert (run / "run.json").is_file()


def test_runs_by_schedule(deployed: Deployed, worker: Background, by_hand: Mapping[str, Run], site: str) -> None:
    """When its time comes the schedule starts a run by itself, and that run does only what is new."""
    write_csv(deployed.folder / "incoming" / "new.csv")
    urls = pictures(site, PICTURES + 2)
    (deployed.folder / "images.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
    parameters: dict[str, dict[str, Any]] = {IMAGES: {"options": {"allow_private": True}}, CSV: {}}
    with ExitStack() as schedules:
        ids = {name: schedules.enter_context(schedule(deployed, name, given)) for name, given in parameters.items()}
        started = {
            name: worker.look_until(partial(run_of_schedule, deployed, schedule_id), f"A run by the schedule of {name}")
            for name, schedule_id in ids.items()
        }
    runs = {
        name: worker.look_until(partial(Run.settled, deployed, flow_run_id), f"The scheduled run of {name}")
        for name, flow_run_id in started.items()
    }
    runs[IMAGES].assert_all_well(r"download .*images -> .*images")
    runs[CSV].assert_all_well(rf"ingest {FILES + 1} csv -> .*csv")
    assert (read_ledger(deployed.folder / "runs" / "images")["status"] == "ok").sum() == PICTURES + 2
    assert (read_ledger(deployed.folder / "runs" / "csv")["status"] == "ok").sum() == FILES + 1
    assert rows_of(deployed.folder / "runs" / "csv") == (FILES + 1) * ROWS


def test_serve(deployed: Deployed, site: str) -> None:
    """The process makes both deployments and runs them; when it is stopped politely it pauses their schedules."""
    (deployed.folder / "images.txt").write_text(f"{site}/served.png\n", encoding="utf-8")
    source = deployed.folder / "served.csv"
    source.write_text("day,amount\n2026-01-01,1\n", encoding="utf-8")
    runs = [deployed.folder / "served-images", deployed.folder / "served-csv"]
    parameters: list[dict[str, Any]] = [
        {"out": str(runs[0]), "options": {"allow_private": True}},
        {"out": str(runs[1]), "sources": str(source)},
    ]
    with deployed.background("serve", sys.executable, ROOT / "deployments" / "serve.py") as serving:
        for name in SERVED:
            serving.look_until(partial(deployed.deployment_id, name), f"The deployment {name}")
        started = [deployed.start_run(name, given) for name, given in zip(SERVED, parameters, strict=True)]
        for flow_run_id in started:
            flow_run = serving.look_until(partial(deployed.finished, flow_run_id), f"The served run {flow_run_id}")
            assert flow_run.state_name == "Completed", flow_run.state
        serving.process.send_signal(signal.SIGINT)
        serving.process.wait(60)
    for run in runs:
        assert list(read_ledger(run)["status"]) == ["ok"]
    for name in SERVED:
        deployment = deployed.client.read_deployment_by_name(name)
        assert (deployment.entrypoint or "").startswith("prefect_fanout.flows.")  # a module, not a file
        assert deployment.paused


def test_serve_without_a_server_is_refused(tmp_path: Path) -> None:
    """Without PREFECT_API_URL serve.py says what to set and exits with 2: Prefect would start a server open to all."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, ROOT / "deployments" / "serve.py"],
        cwd=tmp_path,
        env={**environment, "PREFECT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=COMMAND_PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert all(name in done.stderr for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"))


def test_nothing_outlives_a_failure(tmp_path: Path) -> None:
    """A test that fails leaves nothing behind, not even what its background process started in a session of its own."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        grandchild = f"import socket; socket.create_connection({listener.getsockname()}).recv(1)"
        command = [sys.executable, "-c", grandchild]
        child = f"import subprocess; subprocess.run({command!r}, start_new_session=True)"
        with (
            suppress(ZeroDivisionError),
            in_background([sys.executable, "-c", child], log=tmp_path / "log", environment=os.environ),
        ):
            connection, _ = listener.accept()
            sockets.enter_context(connection).settimeout(60)
            raise ZeroDivisionError
        assert connection.recv(1) == b""  # its end of the connection closed with the process


def test_nothing_outlives_killed_tests(tmp_path: Path) -> None:
    """What a fixture has started ends with the process of the tests, even when that is killed outright."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        grandchild = f"import socket; socket.create_connection({listener.getsockname()}).recv(1)"
        tests = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
from servers.process import started
with started([sys.executable, "-c", {grandchild!r}], log=Path("log"), environment=os.environ):
    signal.pause()
"""
        process = subprocess.Popen([sys.executable, "-c", tests], cwd=tmp_path)
        try:
            connection, _ = listener.accept()
            sockets.enter_context(connection).settimeout(60)
        finally:
            process.kill()
            process.wait()
        assert connection.recv(1) == b""  # its end of the connection closed with the process


@contextmanager
def schedule(deployed: Deployed, name: str, parameters: dict[str, Any]) -> Iterator[UUID]:
    """Give a deployment a schedule of a few seconds while the block lasts."""
    deployment_id = deployed.deployment_id(name)
    assert deployment_id
    every: SCHEDULE_TYPES = IntervalSchedule(interval=SCHEDULE_INTERVAL)
    (added,) = deployed.client.create_deployment_schedules(
        deployment_id, [(every, True)], parameters=parameters, slug="often"
    )
    try:
        yield added.id
    finally:
        deployed.client.delete_deployment_schedule(deployment_id, added.id)


def run_of_schedule(deployed: Deployed, schedule_id: UUID) -> UUID | None:
    """The id of a run that the schedule created and the worker has taken on."""
    taken = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", *TERMINAL_STATES]}}})
    for flow_run in deployed.client.read_flow_runs(flow_run_filter=taken):
        if flow_run.created_by and flow_run.created_by.id == schedule_id:
            assert flow_run.auto_scheduled
            return flow_run.id
    return None
