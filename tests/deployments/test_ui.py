"""`make ui` as a person uses it: the printed password, the login in a browser, and nothing without the password."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Request, expect

from servers.browser import chromium
from servers.closed import ask, login, open_routes, open_to_a_page, open_websockets
from servers.deployed import ROOT, Background, descendants, in_background
from servers.eventually import eventually
from servers.fault_server import Exchange, FaultServer, silent
from servers.process import free_port

pytestmark = pytest.mark.deployed

NO_ID = "00000000-0000-0000-0000-000000000000"
FROM_A_PAGE = {"Origin": "http://evil.example"}
BUSY = 503
PATIENCE_S = 120
PATIENCE_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Ui:
    """A running `make ui`: what it printed, and where it keeps its files."""

    background: Background
    home: Path
    url: str
    password: str

    @property
    def api(self) -> str:
        """The address of the API."""
        return f"{self.url}/api"

    def post(self, path: str, body: object, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Send JSON as a page does that avoids the browser's questions: without saying that it is JSON."""
        status, _, answer = eventually(
            lambda: ask(self.api, path, method="POST", body=body, headers=headers),
            lambda answer: answer[0] != BUSY,  # SQLite, while the server writes down something else
        )
        return status, json.loads(answer)

    def start_images(self, url: str) -> None:
        """Start a run of the deployment that downloads one image."""
        proof = login(self.password)
        status, _, answer = ask(self.api, "/deployments/name/download-images/nightly", headers=proof)
        assert status == 200
        parameters = {"urls": [url], "out": "runs/one", "options": {"allow_private": True}}
        run = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        status, _ = self.post(f"/deployments/{json.loads(answer)['id']}/create_flow_run", run, proof)
        assert status == 201


def commands(pids: Iterable[int]) -> dict[int, str]:
    """Return the command lines of those processes that have not ended, as every user can see them."""
    chosen = ",".join(map(str, pids))
    command = ["ps", "-ww", "-o", "pid=,stat=,args=", "-p", chosen]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines())
    return {int(pid): args for pid, state, args in rows if not state.startswith("Z")}


@contextmanager
def make_ui(home: Path, log: Path) -> Iterator[Ui]:
    """Run `make ui` as from a shell, also where the tests run inside `make test`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["make", "-C", ROOT, "ui", f"UI_PORT={port}", f"UI_HOME={home}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    # A server of the user's, which this one must not be.
    environment |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_SERVER_API_AUTH_STRING": "user:own"}
    with in_background(command, log=log, environment=environment) as background:

        def printed() -> re.Match[str] | None:
            return re.search(rf"{re.escape(url)}\nLog in with:  (\S+)\n", log.read_text())

        found = background.look_until(printed, "The address and the password")
        yield Ui(background=background, home=home, url=url, password=found[1])


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """A running `make ui` with a home of its own."""
    folder = tmp_path_factory.mktemp("ui")
    with make_ui(folder / "home", folder / "make.log") as ui:
        yield ui


def test_the_password_is_in_a_file_that_only_its_user_can_read(ui: Ui) -> None:
    """The printed password is that of the file; the home has mode 0700, everything in it is closed to others."""
    assert (ui.home / "login").read_text() == f"{ui.password}\n"
    assert re.fullmatch(r"fanout:\S{40,}", ui.password)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (ui.home, *ui.home.rglob("*"))}
    assert modes[ui.home] == 0o700
    assert modes[ui.home / "login"] == modes[ui.home / "prefect.db"] == 0o600
    assert {path for path, mode in modes.items() if mode & 0o077} == set()


def test_the_password_is_in_no_command_line(ui: Ui) -> None:
    """`ps` shows the server and the worker, and nowhere the password."""
    shown = "\n".join(commands(descendants(ui.background.process.pid)).values())
    assert "prefect server" in shown
    assert "prefect worker" in shown
    assert ui.password.partition(":")[2] not in shown


def test_a_web_page_can_do_nothing_with_the_server(ui: Ui) -> None:
    """A foreign Origin and a foreign Host get 401, also without a Content-Type, and no page may read the answer."""
    assert open_to_a_page(ui.api) == []


def test_every_route_of_the_server_asks_for_the_password(ui: Ui) -> None:
    """Without the password each route answers 401 except the two probes, and each WebSocket is closed."""
    assert open_routes(ui.api) == {"GET /health", "GET /ready"}
    assert open_websockets(ui.api) == []


def test_three_posts_from_a_web_page_run_no_command(ui: Ui, tmp_path: Path) -> None:
    """A flow, a deployment with a shell step and a run of it get 401 from a page; with the password they do their work.

    The second half shows that the attack would be one.
    """

    def attack(target: Path, headers: Mapping[str, str]) -> list[int]:
        step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {target}"}}
        made, flow = ui.post("/flows/", {"name": target.name}, headers)
        deployment = {
            "name": "evil",
            "flow_id": flow.get("id", NO_ID),
            "work_pool_name": "fanout",
            "entrypoint": "prefect_fanout.flows.ingest_csv.ingest_csv",
            "pull_steps": [step],
        }
        deployed, answer = ui.post("/deployments/", deployment, headers)
        path = f"/deployments/{answer.get('id', NO_ID)}/create_flow_run"
        return [made, deployed, ui.post(path, {"state": {"type": "SCHEDULED"}}, headers)[0]]

    foreign, known = tmp_path / "foreign", tmp_path / "known"
    assert attack(foreign, FROM_A_PAGE) == [401, 401, 401]
    assert attack(known, {**FROM_A_PAGE, **login(ui.password)}) == [201, 201, 201]
    ui.background.look_until(
        lambda: known.exists() or None, "The command of the run that was started with the password"
    )
    assert not foreign.exists()


def test_the_ui_works_after_the_login(ui: Ui, tmp_path: Path) -> None:
    """In a real browser the printed password opens the dashboard and both deployments, and no request fails then."""
    failed = []

    def look(request: Request) -> None:
        response = request.response()
        if request.url.startswith(ui.url) and (response is None or response.status >= 400):
            failed.append(f"{request.method} {request.url}: {response and response.status} {request.failure}")

    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(ui.url)
        field = page.get_by_placeholder("admin:pass")
        field.fill(ui.password)
        page.wait_for_load_state("networkidle")  # the first page has asked without a password, and got 401
        page.on("requestfinished", look)
        page.on("requestfailed", look)
        field.press("Enter")
        expect(page.get_by_text("Active Work Pools")).to_be_visible(timeout=PATIENCE_MS)
        page.screenshot(path=tmp_path / "dashboard.png")
        page.get_by_role("link", name="Deployments").click()
        for name in ("download-images", "ingest-csv"):
            expect(page.get_by_text(name).first).to_be_visible(timeout=PATIENCE_MS)
        page.screenshot(path=tmp_path / "deployments.png")
    assert failed == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_every_part(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, and SIGTERM to make, end server, worker and the run in progress, and say so."""
    asked = threading.Event()

    def hold(exchange: Exchange) -> None:
        asked.set()
        silent(exchange)

    with FaultServer({"/held.jpg": hold}) as site, make_ui(tmp_path / "home", tmp_path / "make.log") as ui:
        ui.start_images(f"{site.url}/held.jpg")
        ui.background.look_until(lambda: asked.is_set() or None, "The download of the run")
        make = ui.background.process
        (program,) = (pid for pid, command in commands(descendants(make.pid)).items() if "deployments/ui.py" in command)
        parts = descendants(program)
        assert len(parts) >= 3  # the server, the worker, its run
        # A terminal sends Ctrl-C to the whole group; other programs ask only make to end.
        (os.killpg if number is signal.SIGINT else os.kill)(make.pid, number)
        make.wait(PATIENCE_S)
        assert commands([program, *parts]) == {}
        assert "\nStopped.\n" in ui.background.log.read_text()


@pytest.mark.parametrize("fault", ["port", "mode"])
def test_what_cannot_be_used_is_named_at_once(tmp_path: Path, fault: str) -> None:
    """A port that is taken, and a home that others can read, end `make ui` with one sentence before anything starts."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755 if fault == "mode" else 0o700)
    with FaultServer() as taken:
        port = taken.port if fault == "port" else free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "-C", ROOT, "ui", f"UI_PORT={port}", f"UI_HOME={home}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    assert done.returncode != 0
    assert ("UI_PORT=" if fault == "port" else "chmod 700") in done.stderr
    assert "Traceback" not in done.stderr
    assert list(home.iterdir()) == []
