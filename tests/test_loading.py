"""The examples of docs/loading.md run as they stand there, on a run of the flow."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_fanout.flows.download_images import download_images
from prefect_fanout.tasks.images.options import ImageOptions
from servers.fault_server import FaultServer, body
from servers.pictures import picture
from servers.prefect_server import PrefectServer

PATIENCE_S = 240
PAGE = Path(__file__).parent.parent / "docs" / "loading.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of four images, one of them an AVIF and one called after a split, and a failure."""
    where = tmp_path_factory.mktemp("loading")
    with FaultServer() as server:
        for name, format in (("cat", "JPEG"), ("steam-train", "JPEG"), ("dog", "PNG"), ("bird", "AVIF")):
            server.routes[f"/{name}"] = body(picture(format))
        urls = [f"{server.url}{path}" for path in [*server.routes, "/missing"]]
        download_images(urls, str(where / "pictures"), ImageOptions(allow_private=True))
    return where


@pytest.mark.parametrize(
    ("block", "needs", "printed"),
    [
        (BLOCKS[0], "pandas", r"images/steam-train~-[0-9a-f]{16}\.jpg"),
        (BLOCKS[1], "duckdb", r"JPEG\W+2\D"),
        (BLOCKS[2], "datasets", r"features: \['image'\],\n +num_rows: 3\n"),
        (BLOCKS[3], "datasets", r"features: \['image', 'url'\],\n +num_rows: 4\n(.*\n)*.*\(64, 48\)"),
    ],
    ids=["pandas", "DuckDB", "imagefolder", "datasets and the ledger"],
)
def test_the_examples_run(folder: Path, tmp_path: Path, block: str, needs: str, printed: str) -> None:
    """Each prints what the text around it says."""
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    done = subprocess.run(
        [sys.executable, "-P", "-c", block],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout), done.stdout


def test_every_example_is_run() -> None:
    """No block of the page is left out."""
    assert len(BLOCKS) == 4
