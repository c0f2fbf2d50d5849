"""Attempts to use a Prefect server without its password, as a web page or another user of the machine would."""

from __future__ import annotations

import http.client
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.routing import WebSocketRoute
from websockets.exceptions import ConnectionClosedError, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

EVIL = "evil.example"
# As a web page can send them, and one that claims to be asked for by name (DNS rebinding). Without a Content-Type the
# browser asks nobody for permission, and Prefect reads JSON all the same.
FROM_A_PAGE: list[dict[str, str]] = [
    {"Origin": f"http://{EVIL}", "Content-Type": "application/json"},
    {"Origin": f"http://{EVIL}"},
    {"Origin": "null"},
    {"Origin": f"http://{EVIL}", "Host": EVIL},
    {"Host": EVIL},
]
ALLOWED = "access-control-allow-origin"
PREFLIGHT = {"Origin": f"http://{EVIL}", "Access-Control-Request-Method": "POST"}
# Each asks for something that would be there: everything that a stored secret, a run or a variable holds.
QUESTIONS = (
    ("/block_documents/filter", {"include_secrets": True}),
    ("/flow_runs/filter", {}),
    ("/variables/", {"name": "planted", "value": "by a web page"}),
)
NO_ID = "00000000-0000-0000-0000-000000000000"
UNAUTHORIZED = 401
TIMEOUT_S = 30


def ask(
    url: str, path: str = "", *, method: str = "GET", body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request with exactly these headers; return the status, the headers in lower case and the body."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    try:
        named = dict(headers or {})
        connection.putrequest(method, address.path + path, skip_host="Host" in named)
        data = b"" if body is None else json.dumps(body).encode()
        for name, value in {**named, "Content-Length": str(len(data))}.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def is_up(api: str) -> bool | None:
    """Return True once the server answers, and None before."""
    try:
        return ask(api, "/health")[0] == 200 or None
    except OSError:
        return None


def login(password: str) -> dict[str, str]:
    """Return the header that proves a password."""
    return {"Authorization": f"Basic {b64encode(password.encode()).decode()}"}


def open_to_a_page(api: str) -> list[str]:
    """Ask in each way that a web page has; return the requests that did not get 401, or whose answer it may read."""
    found = []
    for path, body in QUESTIONS:
        for headers in FROM_A_PAGE:
            status, given, _ = ask(api, path, method="POST", body=body, headers=headers)
            if status != UNAUTHORIZED or ALLOWED in given:
                found.append(f"POST {path} with {headers}: {status}, {given.get(ALLOWED)}")
        _, given, _ = ask(api, path, method="OPTIONS", headers=PREFLIGHT)
        if ALLOWED in given:
            found.append(f"OPTIONS {path}: {given[ALLOWED]}")
    return found


def open_routes(api: str) -> set[str]:
    """Ask for each route of a server's API without a password; return those that answer something else than 401."""
    status, _, schema = ask(api.removesuffix("/api"), "/openapi.json")
    assert status == 200
    routes = [(method.upper(), path) for path, methods in json.loads(schema)["paths"].items() for method in methods]
    assert len(routes) > 100
    found = set()
    for method, path in routes:
        url = api.removesuffix("/api") + path if path.startswith("/api/") else api + path
        if ask(re.sub(r"{\w+}", NO_ID, url), method=method, body={}, headers={})[0] != UNAUTHORIZED:
            found.add(f"{method} {path}")
    return found


def open_websockets(api: str) -> list[str]:
    """Open each WebSocket of a server with no password and with a wrong one; return those that it does not close."""
    from prefect.server.api.server import API_ROUTERS  # the schema of the API, which lists the other routes, has none

    paths = [route.path for router in API_ROUTERS for route in router.routes if isinstance(route, WebSocketRoute)]
    assert len(paths) > 2
    found = []
    for path in paths:
        for first in (None, {"type": "auth"}, {"type": "auth", "token": "a:wrong-one"}):
            try:
                with connect(
                    re.sub(r"{\w+}", "fanout", f"ws{api.removeprefix('http')}{path}"),
                    subprotocols=None if first is None else [Subprotocol("prefect")],
                    proxy=None,
                    open_timeout=TIMEOUT_S,
                ) as socket:
                    if first is not None:
                        socket.send(json.dumps(first))
                    socket.recv(TIMEOUT_S)
            except (InvalidHandshake, ConnectionClosedError):
                continue
            except TimeoutError:
                pass  # open, and waiting for more
            found.append(f"{path} after {first}")
    return found
