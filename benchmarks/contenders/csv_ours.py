"""The flow `ingest-csv`, on a local Prefect server: it also keeps rejects, a ledger and a report, and reconciles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.encoders  # noqa: F401 - Prefect imports it with its first flow run; imports are not timed for anybody
import prefect.flow_engine  # noqa: F401 - as above
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from prefect_fanout.flows.ingest_csv import ingest_csv
from prefect_fanout.tasks.tables.options import CsvOptions

Work = Callable[[], dict[str, Any]]


def flow(spec: dict[str, Any]) -> Work:
    """The whole flow, from the names of the files to the report, with default options."""
    options = CsvOptions(codec=spec["codec"])

    def work() -> dict[str, Any]:
        told = ingest_csv(spec["files"], spec["out"], options)
        return {"ok": told["ok"]}

    return work


def flow_of_the_command(spec: dict[str, Any]) -> Work:
    """The same as `fanout` runs it with a server of its own: without heartbeats, whose thread a flow waits for."""
    run = flow(spec)

    def work() -> dict[str, Any]:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return run()

    return work
