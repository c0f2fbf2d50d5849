"""The first step of deployments/README.md, as a reader types it."""

from __future__ import annotations

import os
import re
import stat
from functools import partial
from pathlib import Path

import pytest

from servers.closed import ask, is_up, login, open_to_a_page
from servers.deployed import PREFECT, ROOT, in_background
from servers.process import free_port

pytestmark = pytest.mark.deployed


def test_the_first_step_starts_a_server_that_only_the_reader_can_use(tmp_path: Path) -> None:
    """The block writes the password into a file of mode 0600; without it the server answers 401, to any page."""
    guide = (ROOT / "deployments" / "README.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"^```sh\n(.*?)^```", guide, re.MULTILINE | re.DOTALL))
    api = f"http://127.0.0.1:{(port := free_port())}/api"
    assert "http://127.0.0.1:4200/api" in block
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{PREFECT.parent}:{os.environ['PATH']}",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = ["sh", "-c", block.replace("4200", str(port))]
    with in_background(command, log=tmp_path / "server.log", environment=environment) as server:
        server.look_until(partial(is_up, api), "The start of the server")
        file = tmp_path / "fanout-server.env"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        found = re.search(r"^export PREFECT_API_AUTH_STRING=(fanout:\S{40,})$", file.read_text(), re.MULTILINE)
        assert found
        assert open_to_a_page(api) == []
        assert ask(api, "/flows/filter", method="POST", body={}, headers=login(found[1]))[0] == 200
