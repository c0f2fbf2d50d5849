"""A deployed project for the tests: the `prefect` command, processes in the background, and runs of deployments."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from servers.prefect_server import PrefectServer
from servers.process import started

ROOT = Path(__file__).parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
POOL = "fanout"
COMMAND_PATIENCE_S = 120
LOOK_EVERY_S = 0.5
LOOKS = 240

# Worker and runner ask for work every 10 s by default; a person can wait for that, a test need not.
IMPATIENT_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
}

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Background:
    """A process of ours that runs until the test ends, and the file that holds what it printed."""

    process: subprocess.Popen[bytes]
    log: Path

    def look_until(self, look: Callable[[], Found | None], what: str) -> Found:
        """Repeat `look` until it finds something; fail when the process ends before, or when it takes too long."""
        for _ in range(LOOKS):
            if (found := look()) is not None:
                return found
            try:
                self.process.wait(LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                continue
            break
        pytest.fail(f"{what} did not happen. The process printed:\n{self.log.read_text(errors='replace')}")


@contextmanager
def in_background(command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str]) -> Iterator[Background]:
    """Run a command in the folder of its log while the block lasts; nothing that it started outlives the block."""
    family: list[int] = []
    try:
        with started(command, log=log, environment=environment, cwd=log.parent) as process:
            try:
                yield Background(process=process, log=log)
            finally:
                family = descendants(process.pid)
    finally:
        # A worker gives every flow run a process group of its own, so stopping the worker's group is not enough.
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The ids of the processes that `pid` started, of those that they started, and so on."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listing.splitlines())}
    found = [pid]
    for ancestor in found:  # grows while it is read
        found.extend(child for child, parent in parents.items() if parent == ancestor)
    return found[1:]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A server, the folder in which its worker was started, and ways to use both as a person would."""

    server: PrefectServer
    folder: Path
    client: SyncPrefectClient

    def prefect(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run a `prefect` command and return what it printed."""
        done = subprocess.run(
            [PREFECT, *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process that talks to the server."""
        return {**os.environ, **self.server.environment, **IMPATIENT_SETTINGS}

    @contextmanager
    def background(self, name: str, *command: str | Path) -> Iterator[Background]:
        """Run a command beside the test while the block lasts; see `in_background`."""
        with in_background(command, log=self.folder / f"{name}.log", environment=self.environment) as background:
            yield background

    def start_run(self, deployment: str, parameters: Mapping[str, Any]) -> UUID:
        """Start a run by hand, with parameters that take the place of the deployment's."""
        printed = self.prefect("deployment", "run", deployment, "--params", json.dumps(parameters))
        found = re.search(r"UUID: (\S+)", printed)
        assert found, printed
        return UUID(found[1])

    def finished(self, flow_run_id: UUID) -> FlowRun | None:
        """The flow run, once it is in a final state."""
        flow_run = self.client.read_flow_run(flow_run_id)
        return flow_run if flow_run.state and flow_run.state.is_final() else None

    def deployment_id(self, name: str) -> UUID | None:
        """The id of a deployment, once there is one of that name."""
        try:
            return self.client.read_deployment_by_name(name).id
        except ObjectNotFound:
            return None
