"""The server that the command brings along: closed to other users and to web pages, and beside any proxy."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefect_fanout._local_server import without_proxy
from servers.closed import ask, login, open_routes, open_to_a_page, open_websockets
from servers.command import PATIENCE_S, run_fanout, start_fanout
from servers.deployed import descendants
from servers.fault_server import Exchange, FaultServer, body
from servers.pictures import picture

# Someone who uses another server at other times, and opened that one to all pages; the command's own must not care.
OF_THE_USER = "user:their-own-server"
USER_SETTINGS = {
    "PREFECT_API_AUTH_STRING": OF_THE_USER,
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "*",
}
# Each keeps the command busy until it gives up that image, so the tests have an hour.
ITEMS = 40
NOBODY = 65_534
# The imports come first: the user nobody may not be allowed to read this environment's packages.
AS_NOBODY = """
import encodings.idna, http.client, json, os, pwd, sys
from pathlib import Path
port, control, *files = sys.argv[1:]
user = pwd.getpwnam("nobody")
os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)

def read(file):
    try:
        return len(os.listdir(file) if os.path.isdir(file) else Path(file).read_bytes())
    except PermissionError:
        return None

connection = http.client.HTTPConnection("127.0.0.1", int(port))
wanted = json.dumps({"include_secrets": True})
connection.request("POST", "/api/block_documents/filter", wanted, {"Content-Type": "application/json"})
answer = connection.getresponse()
print(json.dumps({"status": answer.status, "control": read(control), "files": [read(file) for file in files]}))
"""


def _no_prefect(**changes: str) -> dict[str, str | None]:
    """Changes that take every setting of Prefect away from a process, but for those given."""
    return {**dict.fromkeys(name for name in os.environ if name.startswith("PREFECT_")), **changes}


def _environment_of(pid: int) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A command in the middle of its run, and the server that it has started."""

    folder: Path
    home: Path
    api: str
    pids: list[int]

    @property
    def password(self) -> str:
        """The password of the server, as only its user can find it."""
        (found,) = {
            environment["PREFECT_SERVER_API_AUTH_STRING"]
            for environment in map(_environment_of, self.pids[1:])
            if "PREFECT_SERVER_API_AUTH_STRING" in environment
        }
        return found


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A command that waits for its images, in a folder that every user of the machine may enter."""
    asked, answered = threading.Event(), threading.Event()

    def hold(exchange: Exchange) -> bool:
        asked.set()
        answered.wait(PATIENCE_S)
        return exchange.answer(picture())

    with (
        tempfile.TemporaryDirectory(prefix="fanout-test-") as name,
        FaultServer(dict.fromkeys((f"/{number}.jpg" for number in range(ITEMS)), hold)) as site,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "not-there-yet" / "home"
        (folder / "urls.txt").write_text("".join(f"{site.url}/{number}.jpg\n" for number in range(ITEMS)))
        process = start_fanout(
            ["images", "urls.txt", "--allow-private", "--workers", "1", "--max-failed", str(ITEMS), "--out", "run"],
            cwd=folder,
            # Prefect's log is the only place where a person sees the address of this server.
            environment=_no_prefect(**USER_SETTINGS, PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="INFO"),
        )
        try:
            assert process.stderr is not None
            said = ""
            while (found := re.search(r"View at (http://127\.0\.0\.1:\d+)", said)) is None:
                line = process.stderr.readline().decode()
                assert line, f"The command ended early. It printed:\n{said}"
                said += line
            assert asked.wait(PATIENCE_S)
            yield Running(
                folder=folder, home=home, api=f"{found[1]}/api", pids=[process.pid, *descendants(process.pid)]
            )
            answered.set()
            _, stderr = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said + stderr.decode()
        finally:
            answered.set()
            process.kill()
            process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user")
def test_another_user_can_neither_use_the_server_nor_read_its_files(running: Running) -> None:
    """The user nobody gets 401, and may read neither the home, nor the database and the log in it, nor a password."""
    control = running.folder / "control"
    control.write_text("everyone")
    files = [running.home, running.home / "prefect.db", running.home / "fanout-server.log"]
    files += [Path(f"/proc/{pid}/environ") for pid in running.pids]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, running.api.split(":")[2].split("/")[0], control, *files],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"status": 401, "control": len("everyone"), "files": [None] * len(files)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
@pytest.mark.parametrize("command", ["csv", "demo"])
def test_a_home_that_another_user_prepared_is_refused(tmp_path: Path, command: str) -> None:
    """Exit code 2, one sentence with both users, and a file that a link in there leads to keeps its content."""
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    home = tmp_path / ("home" if command == "csv" else "fanout-demo/.prefect")
    home.mkdir(parents=True)
    (home / "fanout-server.log").symlink_to(victim)
    os.chown(home, NOBODY, NOBODY)
    arguments = ["csv", "table.csv", "--out", "run"] if command == "csv" else ["demo"]
    done = run_fanout(*arguments, cwd=tmp_path, environment=_no_prefect(PREFECT_HOME=str(tmp_path / "home")))
    assert done.returncode == 2, done.stderr
    assert f"user {NOBODY}" in done.stderr
    assert "Traceback" not in done.stderr
    assert victim.read_text() == "mine"


def test_only_its_user_may_enter_the_home_and_read_the_files_in_it(running: Running) -> None:
    """The home that the command makes has mode 0700, and every file in it 0600."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (running.home, *running.home.rglob("*"))}
    assert modes.pop("home") == 0o700
    assert {"prefect.db", "fanout-server.log"} <= set(modes)
    assert set(modes.values()) <= {0o600, 0o700}


def test_a_web_page_can_do_nothing_with_the_server(running: Running) -> None:
    """A foreign Origin and a foreign Host get 401, also without a Content-Type, and no page may read the answer."""
    assert open_to_a_page(running.api) == []


def test_every_route_of_the_server_asks_for_the_password(running: Running) -> None:
    """Without the password each route answers 401 except the two probes, and each WebSocket is closed."""
    assert open_routes(running.api) == {"GET /health", "GET /ready"}
    assert open_websockets(running.api) == []


def test_the_password_is_random_and_in_no_command_line(running: Running) -> None:
    """The user's own password does not open the server; the random one does, and no `ps` shows it."""
    for password, status in ((OF_THE_USER, 401), ("fanout:", 401), (running.password, 200)):
        assert ask(running.api, "/flows/filter", method="POST", body={}, headers=login(password))[0] == status
    assert len(running.password) > 40
    for pid in running.pids:
        assert running.password not in Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("given", [None, OF_THE_USER])
def test_a_server_that_asks_for_another_password_is_a_clear_error(
    running: Running, tmp_path: Path, given: str | None
) -> None:
    """Exit code 1 and one sentence that names PREFECT_API_AUTH_STRING, no traceback, and nothing is written."""
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    environment = {**_no_prefect(PREFECT_API_URL=running.api, PREFECT_HOME=str(tmp_path / "home"))}
    if given is not None:
        environment["PREFECT_API_AUTH_STRING"] = given
    done = run_fanout("csv", "table.csv", "--out", "run", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "PREFECT_API_AUTH_STRING" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_users_password_opens_the_users_server(running: Running, tmp_path: Path) -> None:
    """Where PREFECT_API_URL names a server, the command uses the user's PREFECT_API_AUTH_STRING as it is."""
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    environment = _no_prefect(
        PREFECT_API_URL=running.api,
        PREFECT_API_AUTH_STRING=running.password,
        PREFECT_HOME=str(tmp_path / "home"),
    )
    done = run_fanout("csv", "table.csv", "--out", "run", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_proxy_is_asked_for_images_and_not_for_the_commands_own_server(tmp_path: Path) -> None:
    """With a proxy in the environment the image comes through it, and the server sees all events without it."""
    url = "http://192.0.2.1/picture.jpg"  # an address for examples: nobody answers there
    home = tmp_path / "home"
    with FaultServer({url: body(picture())}) as proxy:
        environment = _no_prefect(PREFECT_HOME=str(home)) | dict.fromkeys(("no_proxy", "NO_PROXY"))
        environment |= {name: None for name in os.environ if name.lower().endswith("_proxy")}
        environment |= {"http_proxy": proxy.url, "ALL_PROXY": proxy.url}
        done = run_fanout("images", url, "--out", "run", "--allow-private", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(proxy.requests) == {url: 1}
    with sqlite3.connect(home / "prefect.db") as database:
        states = database.execute("select state_type, count(*) from task_run group by state_type").fetchall()
    database.close()
    assert states == [("COMPLETED", 1)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"no_proxy": "a.example"}, ("a.example,127.0.0.1", "a.example,127.0.0.1")),
        ({"NO_PROXY": "a.example"}, ("a.example,127.0.0.1", "a.example,127.0.0.1")),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, ("a.example,127.0.0.1", "b.example,127.0.0.1")),
        ({"no_proxy": "", "NO_PROXY": "b.example"}, ("127.0.0.1", "b.example,127.0.0.1")),
        ({"no_proxy": "*"}, ("*", "*")),
    ],
)
def test_hosts_that_the_user_reaches_without_a_proxy_stay_so(given: dict[str, str], expected: tuple[str, str]) -> None:
    """127.0.0.1 is added to each spelling, and a spelling that is not set takes over the hosts of the other."""
    changed = without_proxy(given)
    assert (changed["no_proxy"], changed["NO_PROXY"]) == expected
