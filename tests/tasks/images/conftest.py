"""What the tests of the image tasks share: a server that misbehaves, and one download with its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.images.client import ClientFactory
from prefect_fanout.tasks.images.download import Plan, download_image, make_folders
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.row import Item, Row
from prefect_fanout.tasks.images.url import normalise
from servers.fault_server import FaultServer


class Download:
    """Downloads one URL after the other as a worker does; `pauses` are the waits it asked for, in seconds."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.pauses: list[float] = []
        self._client: Any = None

    def __call__(self, url: str, *, proxies: dict[str, str] | None = None, **options: Any) -> Row:
        chosen = ImageOptions(**{"allow_private": True, "retry_wait_s": 0.0} | options)
        plan = Plan(self.run, chosen, ClientFactory(chosen, proxies))
        make_folders(plan)
        with plan.clients() as client:
            return download_image(Item(0, url, normalise(url)), plan, client, pause=self.pauses.append)

    @property
    def files(self) -> list[Path]:
        """Every file there is in the run directory."""
        return sorted(path for path in self.run.rglob("*") if path.is_file())


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server without routes yet."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def download(tmp_path: Path) -> Download:
    """Downloads into a folder of its own."""
    return Download(tmp_path)


Fetch = Callable[..., Row]
