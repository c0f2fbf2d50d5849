"""The flow `download-images`, on a local Prefect server: it checks, hashes, names and keeps the ledger."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.flow_run import Work, without_heartbeats
from prefect_fanout.flows.download_images import download_images
from prefect_fanout.tasks.images.options import ImageOptions


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
    """The same as `fanout` runs it with a server of its own."""
    return without_heartbeats(flow(spec))
