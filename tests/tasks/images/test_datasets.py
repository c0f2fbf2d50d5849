"""A run as Hugging Face `datasets` sees it: every image whose extension it knows, in one split, without labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_fanout.tasks.images.client import ClientFactory
from prefect_fanout.tasks.images.download import Plan, download_image, make_folders
from prefect_fanout.tasks.images.options import DEFAULT_FORMATS, ImageOptions
from prefect_fanout.tasks.images.row import Item
from servers.fault_server import FaultServer, body
from servers.pictures import picture

PATIENCE_S = 240
SPLITS = ("train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation")
NAMES = [
    *("cat", "dog", "bird", "", "data-00000-of-00001", "~", "~cat~", "logo+2=3,4@5", "%E7%86%8A", "a%5B1%5D"),
    *(f"{begin}{word}{end}" for word in SPLITS for begin, end in (("", ""), ("steam-", ""), ("", ".2"), ("a_", "-b"))),
    *("Train", "TEST", "steam-Train", "%D9%A3test%D9%A3", "1train2", "my%20train", "train~", "~test", "latest"),
]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

LOAD = """
import json, sys
from datasets import load_dataset

seen = {}
for folder in sys.argv[1:]:
    splits = load_dataset("imagefolder", data_dir=folder)
    seen[folder] = {name: [len(split), sorted(split.features)] for name, split in splits.items()}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three runs with the same images: flat, spread, and flat at first."""
    folder = tmp_path_factory.mktemp("runs")
    with FaultServer() as server:
        items = []
        for number, name in enumerate(NAMES):
            for path in f"/{number}/{name}", f"/{number}/{name}.jpg":
                server.routes[path] = body(picture(FORMATS[number % len(FORMATS)], (8, 8)))
                items.append(Item(len(items), server.url + path, server.url + path))
        server.routes["/picture.avif"] = body(picture("AVIF", (16, 16)))
        items.append(Item(len(items), f"{server.url}/picture.avif", f"{server.url}/picture.avif"))
        options = ImageOptions(allow_private=True, formats=frozenset({*DEFAULT_FORMATS, "TIFF"}))
        clients = ClientFactory(options)
        for name, spread_from in (("flat", len(items)), ("spread", 0), ("mixed", len(items) // 2)):
            (folder / name).mkdir()
            plans = [Plan(folder / name, options, clients, spread=spread) for spread in (False, True)]
            with clients() as client:
                for item in items:
                    plan = plans[item.index >= spread_from]
                    make_folders(plan)
                    row = download_image(item, plan, client)
                    assert row["status"] == "ok", row
                    assert (folder / name / row["path"]).is_file()
            (folder / name / "ledger.parquet").write_bytes(b"")
            (folder / name / "report.html").write_text("<html></html>")
        yield folder


def test_datasets_finds_every_image_and_invents_no_label(runs: Path, tmp_path: Path) -> None:
    """From the run's folder as from that of its images: one split with all images but AVIF, and no other column."""
    folders = [str(runs / name / below) for name in ("flat", "spread", "mixed") for below in ("", "images")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, *folders],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {folder: {"train": [2 * len(NAMES), ["image"]]} for folder in folders}
