"""Downloading one image: fetch, try again, check, save, and say in a row what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_fanout import worker_resource
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.checks import inspect
from prefect_fanout.tasks.images.client import Client, ClientFactory
from prefect_fanout.tasks.images.failure import FetchError
from prefect_fanout.tasks.images.formats.structure import ContentError
from prefect_fanout.tasks.images.name import file_name, url_hash
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.retry import delay_before_retry
from prefect_fanout.tasks.images.row import Item, Row, failed, new_row
from prefect_fanout.tasks.run_directory import storage_failure

IMAGES_FOLDER = "images"
"""Folder of the images in the run directory."""
FLAT_FILES = 10_000
"""A longer list is spread over 256 folders: file managers and many tools are slow with more files in one. When a run
goes on with a longer list, the images that are there stay where they are."""
SPREAD_FOLDER = "files"
"""Folder in each of the 256: Hugging Face `datasets` takes the name of an image's folder for its label, unless all
have the same."""


class Plan:
    """What every download of a run shares. An ordinary class, so that Prefect does not look for futures in it.

    Attributes:
        run: The run directory.
        options: The run's options.
        clients: Makes the client of each worker.
        spread: Whether the images are spread over sub-folders.
    """

    def __init__(self, run: Path, options: ImageOptions, clients: ClientFactory, *, spread: bool = False) -> None:
        self.run = run
        self.options = options
        self.clients = clients
        self.spread = spread

    def folder(self, key: str) -> str:
        """Folder of an item's image, relative to the run directory. A text: a Path takes longer than a hash."""
        return f"{IMAGES_FOLDER}/{url_hash(key)[:2]}/{SPREAD_FOLDER}" if self.spread else IMAGES_FOLDER


@task(name="download", cache_policy=NO_CACHE, persist_result=False)
def download(item: Item, *, plan: Plan) -> Row:
    """Downloads one image with the worker's own client; see `download_image`."""
    return download_image(item, plan, worker_resource(plan.clients))


def download_image(item: Item, plan: Plan, client: Client, *, pause: Callable[[float], None] | None = None) -> Row:
    """Downloads one image and gives its ledger row, whatever became of it.

    Args:
        item: The URL.
        plan: What the run's downloads share. The folder of the images exists.
        client: Used by this thread only.
        pause: Waits before a retry, in seconds, instead of the plan's own way, which ends when the run is told to
            stop. `retry_limit_s` bounds all waits of an item together.

    Raises:
        RunFailed: this machine, not the item, is at fault (disk full, too many open files).
        Stopped: the run was told to stop.
    """
    row = new_row(item.index, item.url, item.key)
    began = time.monotonic()
    folder = plan.folder(item.key)
    with closing(Body(f"{plan.run}/{folder}")) as body:
        try:
            _fetch(item.target, plan.options, client, body, row, pause or plan.clients.pause)
            facts = inspect(body.open(), plan.options, stopped=lambda: plan.clients.pause(0))
        except (FetchError, ContentError) as error:
            failed(row, error.kind, str(error))
        else:
            path = f"{folder}/{file_name(item.key, facts.extension)}"
            row.update(status="ok", path=path, sha256=body.sha256, bytes=body.size)
            row.update(format=facts.format, width=facts.width, height=facts.height)
            body.save(f"{plan.run}/{path}")
    row["seconds"] = time.monotonic() - began
    return row


def make_folders(plan: Plan) -> None:
    """Makes the folders of the images, once, before the first download.

    Raises:
        RunFailed: when the disk refuses.
    """
    folder = plan.run / IMAGES_FOLDER
    try:
        folder.mkdir(exist_ok=True)
        if plan.spread:
            for number in range(256):
                (folder / f"{number:02x}" / SPREAD_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_failure("The folder of the images", folder, error) from error


def _fetch(
    url: str, options: ImageOptions, client: Client, body: Body, row: Row, pause: Callable[[float], None]
) -> None:
    """Tries until it works or the failure stays; notes in the row what was seen."""
    began = time.monotonic()
    row["started"] = datetime.now(UTC)
    while True:
        row["attempts"] += 1
        body.clear()
        try:
            fetched = client.fetch(url, body)
        except FetchError as error:
            row.update(http_status=error.status, content_type=error.content_type, final_url=error.final_url)
            delay = delay_before_retry(error, row["attempts"], time.monotonic() - began, options)
            if delay is None:
                raise
        else:
            row.update(http_status=fetched.status, content_type=fetched.content_type, final_url=fetched.final_url)
            return
        pause(delay)
