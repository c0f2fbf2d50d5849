"""The flow `download-images`, on a local Prefect server: it checks, hashes, names and keeps the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.encoders  # noqa: F401 - Prefect imports it with its first flow run; imports are not timed for anybody
import prefect.flow_engine  # noqa: F401 - as above
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from prefect_fanout.flows.download_images import download_images
from prefect_fanout.tasks.images.options import ImageOptions

Work = Callable[[], dict[str, Any]]


def flow(spec: dict[str, Any]) -> Work:
    """The whole flow, from the list of URLs to the report.

    Args:
        spec: `list`, `out` and `threads` as for the peers; `options`, further `ImageOptions`.
    """
    options = ImageOptions(**{"workers": spec["threads"], "allow_private": True, **spec.get("options", {})})

    def work() -> dict[str, Any]:
        told = download_images(spec["list"], spec["out"], options)
        return {"ok": told["ok"]}

    return work


def flow_of_the_command(spec: dict[str, Any]) -> Work:
    """The same as `fanout` runs it with a server of its own: without heartbeats, whose thread a flow waits for."""
    run = flow(spec)

    def work() -> dict[str, Any]:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return run()

    return work
