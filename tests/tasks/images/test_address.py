"""How a host is looked up and connected to, and which addresses are never."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from prefect_fanout.tasks.images import address
from prefect_fanout.tasks.images.address import BlockedAddress, Dialer, Resolver
from prefect_fanout.tasks.images.deadline import Deadline
from servers.fault_server import FaultServer, body, redirect
from servers.pictures import picture


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "127.1", "2130706433", "0"])
def test_own_addresses_are_refused_in_every_spelling(server: FaultServer, download: Any, host: str) -> None:
    """The guard judges the address that would be connected to, whatever the URL calls it."""
    server.routes["/x"] = body(picture())
    row = download(f"http://{host}:{server.port}/x", allow_private=False)
    assert (row["error_kind"], row["attempts"]) == ("blocked_address", 1)
    assert "--allow-private" in row["error"]
    assert server.connections == 0


def test_a_redirect_to_an_own_address_is_refused(
    server: FaultServer, download: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every hop is judged, so a public page cannot lead inside. Here the proxy plays the public page."""
    server.routes |= {"http://192.0.2.1/x": redirect(f"{server.url}/secret"), "/secret": body(picture())}
    proxies = {"http": server.url, "no": "127.0.0.1"}
    # The first hop goes to a documentation address through the proxy, the second one straight to this machine.
    monkeypatch.setattr(address, "is_public", lambda text: text == "192.0.2.1")
    row = download("http://192.0.2.1/x", proxies=proxies, allow_private=False)
    assert row["error_kind"] == "blocked_address"
    assert server.requests["/secret"] == 0


def test_the_first_address_that_answers_is_taken() -> None:
    """A dead address of a host (IPv6, often) does not keep the next one from being tried."""
    with FaultServer() as server, socket.create_server(("127.0.0.2", 0)) as dead:
        del dead
        deadline = Deadline(5)
        deadline.start(5)
        dialer = Dialer(_Known("127.0.0.3", "127.0.0.1"), deadline, connect_timeout_s=5, allow_private=True)
        with dialer.dial("somewhere", server.port, guarded=True) as connection:
            assert connection.getpeername()[0] == "127.0.0.1"


def test_only_the_public_addresses_of_a_host_are_tried() -> None:
    """A host with a private and a public address is reached by the public one only."""
    deadline = Deadline(5)
    deadline.start(5)
    dialer = Dialer(_Known("10.0.0.1", "127.0.0.1"), deadline, connect_timeout_s=5, allow_private=False)
    with pytest.raises(BlockedAddress, match=r"somewhere leads to 10\.0\.0\.1"):
        dialer.dial("somewhere", 1, guarded=True)


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [(["1.1.1.1"], True), (["1.1.1.1", "1.0.0.1"], True), (["1.1.1.1", "10.0.0.1"], False), (["10.0.0.1"], False)],
)
def test_one_private_address_is_enough_behind_a_proxy(addresses: list[str], allowed: bool) -> None:
    """The proxy chooses among the addresses of a host, so all of them must be public."""
    deadline = Deadline(5)
    deadline.start(5)
    dialer = Dialer(_Known(*addresses), deadline, connect_timeout_s=5, allow_private=False)
    if allowed:
        dialer.check("somewhere", 80)
    else:
        with pytest.raises(BlockedAddress, match=r"somewhere leads to"):
            dialer.check("somewhere", 80)


class _Known(Resolver):
    """A resolver whose name server says what the test wants."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.addresses = addresses

    def resolve(self, host: str, port: int, timeout_s: float) -> tuple[address.Endpoint, ...]:
        return tuple(address.Endpoint(socket.AF_INET, (text, port)) for text in self.addresses)


def test_a_look_up_is_shared_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many workers that ask for one host at once cause one look-up, and so do those who come later."""
    asked: list[str] = []
    go, everyone = threading.Event(), threading.Barrier(8)

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        go.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    resolver, found = Resolver(), []

    def ask() -> None:
        everyone.wait()
        found.append(resolver.resolve("pictures.example", 80, 30))

    threads = [threading.Thread(target=ask) for _ in range(7)]
    for thread in threads:
        thread.start()
    everyone.wait()
    go.set()
    for thread in threads:
        thread.join()
    assert resolver.resolve("pictures.example", 80, 30)[0].address == ("192.0.2.7", 80)
    assert (asked, len(found)) == (["pictures.example"], 7)


def test_a_name_server_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that does not end is given up in time; its answer serves whoever asks after it has come."""
    go = threading.Event()

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        go.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    resolver = Resolver()
    with pytest.raises(TimeoutError, match=r"pictures\.example"):
        resolver.resolve("pictures.example", 80, 0.05)
    go.set()
    assert resolver.resolve("pictures.example", 80, 30)


@pytest.mark.parametrize(("code", "again"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_only_a_definite_no_is_remembered(monkeypatch: pytest.MonkeyPatch, code: int, again: bool) -> None:
    """A host that does not exist is asked for once; a name server that failed is asked again."""
    asked: list[str] = []

    def answer(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(code, "no")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            resolver.resolve("pictures.example", 80, 30)
    assert len(asked) == (2 if again else 1)


def test_the_cache_of_hosts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit the cache forgets the oldest hosts."""
    monkeypatch.setattr(address, "MAX_CACHED_HOSTS", 2)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **_: [(socket.AF_INET, 1, 6, "", ("192.0.2.7", port))]
    )
    resolver = Resolver()
    for number in range(5):
        resolver.resolve(f"host-{number}.example", 80, 30)
    assert [key[0] for key in resolver._cache] == ["host-3.example", "host-4.example"]
