"""A server of its own with both pipelines deployed to it, a worker, and a small site to download from."""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from servers.deployed import IMPATIENT_SETTINGS, POOL, PREFECT, ROOT, Background, Deployed
from servers.prefect_server import prefect_server_process

# A worker runs commands for the clients of its server, so nobody else may be one, not even for the minute of a test.
PASSWORD = f"tests:{secrets.token_urlsafe(32)}"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server with its own home, database, port and password, a process pool, and both pipelines deployed to it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in IMPATIENT_SETTINGS.items():
            monkeypatch.setenv(name, value)
        with (
            prefect_server_process(tmp_path_factory.mktemp("prefect"), password=PASSWORD) as server,
            temporary_settings(
                updates={PREFECT_API_URL: server.api_url, PREFECT_API_AUTH_STRING: PASSWORD, PREFECT_HOME: server.home}
            ),
            get_client(sync_client=True) as client,
        ):
            deployed = Deployed(server=server, folder=tmp_path_factory.mktemp("worker"), client=client)
            deployed.prefect("work-pool", "create", POOL, "--type", "process")
            deployed.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml", cwd=ROOT)
            yield deployed


@pytest.fixture(scope="module")
def worker(deployed: Deployed) -> Iterator[Background]:
    """A worker of the pool, started in the folder that holds its inputs and receives its run directories."""
    with deployed.background("worker", PREFECT, "worker", "start", "--pool", POOL) as worker:
        yield worker


class _PictureHandler(BaseHTTPRequestHandler):
    """A PNG for every path that ends in .png, its colour made from the name; 404 for the rest."""

    def do_GET(self) -> None:
        body = io.BytesIO()
        if self.path.endswith(".png"):
            Image.new("RGB", (32, 32), (sum(self.path.encode()) % 256, 100, 100)).save(body, "PNG")
        self.send_response(200 if body.tell() else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(body.tell()))
        self.end_headers()
        self.wfile.write(body.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a loopback site that has a picture under every name ending in .png."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _PictureHandler) as server:
        thread = threading.Thread(target=server.serve_forever, name="picture-site")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
