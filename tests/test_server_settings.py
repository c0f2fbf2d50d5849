"""The settings of Prefect that this project sets, and the servers that its texts tell a reader to start."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import prefect.settings
import pytest

ROOT = Path(__file__).parents[1]
# Read by Prefect outside its settings: which profile to load, and a value of its logging configuration.
NO_SETTINGS = {"PREFECT_PROFILE", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"}
FLUSH_INTERVAL = re.compile(r"TASK_RUN_RECORDER_FLUSH_INTERVAL\W{1,5}([\d.]+)")


def _texts() -> dict[str, str]:
    """Every tracked text file but the lock file, by its path."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git repository, so nothing says which files belong to it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("requirements/")]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


def test_every_setting_of_prefect_that_is_named_exists() -> None:
    """The installed Prefect knows each PREFECT_ variable in the tree: a renamed one would be ignored silently."""
    named = {name for text in _texts().values() for name in re.findall(r"\bPREFECT_[A-Z][A-Z_]*[A-Z]\b", text)}
    assert len(named) > 10
    assert [name for name in sorted(named - NO_SETTINGS) if not hasattr(prefect.settings, name)] == []


def test_no_server_is_started_with_a_recorder_that_never_sleeps() -> None:
    """Where the recorder's flush interval is set or advised it is 1 second or more: Prefect cuts 0.2 to 0."""
    found = [(name, float(value)) for name, text in _texts().items() for value in FLUSH_INTERVAL.findall(text)]
    assert len(found) > 1
    assert [place for place in found if place[1] < 1] == []
