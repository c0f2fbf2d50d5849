"""Making clients, and what happens when this machine runs out of files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.client import ClientFactory, RequestsClient
from prefect_fanout.tasks.images.options import ImageOptions
from servers.fault_server import FaultServer, body


@pytest.mark.parametrize("client", ["auto", "requests"])
def test_auto_means_requests(client: Literal["auto", "requests"]) -> None:
    """Both names give the client on top of requests."""
    with ClientFactory(ImageOptions(client=client))() as made:
        assert isinstance(made, RequestsClient)


def test_curl_is_refused_clearly() -> None:
    """The client that is not there yet says so, and what to use."""
    with pytest.raises(UsageError, match="not part of this release; use requests"):
        ClientFactory(ImageOptions(client="curl"))


def test_a_factory_can_be_sent_to_another_process() -> None:
    """What is shared between workers is made anew on the other side."""
    factory = pickle.loads(pickle.dumps(ClientFactory(ImageOptions(), {"http": "http://proxy.example"})))
    with factory() as client:
        assert isinstance(client, RequestsClient)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": 257},
        {"chunksize": 0},
        {"max_failed": -1},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"max_bytes": 0},
        {"retries": -1},
        {"formats": []},
        {"formats": ["EPS"]},
        {"user_agent": "a\r\nb"},
        {"verify": "no"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    """A parameter out of range, or one that does not exist, is named."""
    with pytest.raises(ValidationError, match=next(iter(options))):
        ImageOptions.model_validate(options)


def test_the_connection_at_hand_is_that_of_the_url() -> None:
    """One client that goes back and forth between two hosts asks each for what is its own."""
    with FaultServer() as first, FaultServer() as second, ClientFactory(ImageOptions(allow_private=True))() as client:
        first.routes["/x"], second.routes["/x"] = body(b"first"), body(b"second")
        received = []
        for server in (first, first, second, first, second, second):
            fetched = Body(Path())
            client.fetch(f"{server.url}/x", fetched)
            received.append(fetched.open().read())
    assert received == [b"first", b"first", b"second", b"first", b"second", b"second"]


def test_too_few_file_descriptors_are_a_failed_run() -> None:
    """EMFILE is nobody's URL: the run stops and says what to do."""
    program = """
import os, resource, socket
from pathlib import Path
from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.client import ClientFactory
from prefect_fanout.tasks.images.options import ImageOptions
listener = socket.create_server(("127.0.0.1", 0))
with ClientFactory(ImageOptions(allow_private=True))() as client:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        client.fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/x", Body(Path()))
    except RunFailed as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert "ulimit -n" in done.stdout
