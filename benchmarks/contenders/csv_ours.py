"""The flow `ingest-csv`, on a local Prefect server: it also keeps rejects, a ledger and a report, and reconciles."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.flow_run import Work, without_heartbeats
from prefect_fanout.flows.ingest_csv import ingest_csv
from prefect_fanout.tasks.tables.options import CsvOptions


def flow(spec: dict[str, Any]) -> Work:
    """The whole flow, from the names of the files to the report, with default options."""
    options = CsvOptions(codec=spec["codec"])

    def work() -> dict[str, Any]:
        told = ingest_csv(spec["files"], spec["out"], options)
        return {"ok": told["ok"]}

    return work


def flow_of_the_command(spec: dict[str, Any]) -> Work:
    """The same as `fanout` runs it with a server of its own."""
    return without_heartbeats(flow(spec))
