"""Bodies and connections that go wrong on the way, and the limits on both."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import zlib
from typing import Any

import pytest

from servers.fault_server import (
    Exchange,
    FaultServer,
    Handler,
    body,
    drip,
    endless,
    first_then,
    raw,
    silent,
)
from servers.pictures import picture

JPEG = picture()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def reset_after(data: bytes) -> Handler:
    """Sends some bytes, then RST."""

    def handle(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.reset()

    return handle


def test_a_short_error_page_that_never_comes_does_not_hold_the_worker(server: FaultServer, download: Any) -> None:
    """The rest of an unwanted body is waited for briefly, whatever the time limits are."""

    def handle(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n")
        silent(exchange)

    server.routes["/x"] = handle
    row = download(f"{server.url}/x", timeout_s=3600, read_timeout_s=3600)
    assert (row["error_kind"], row["attempts"]) == ("http_4xx", 1)


@pytest.mark.parametrize(
    "answer",
    [
        raw(HEAD + b"Content-Length: 5000\r\n\r\n" + JPEG[:1000]),
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n100\r\n" + JPEG[:256] + b"\r\n"),
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n100\r\n" + JPEG[:256] + b"\r\nzz\r\n"),
    ],
    ids=["length", "chunked", "bad chunk size"],
)
def test_a_body_that_ends_early_is_tried_again(server: FaultServer, download: Any, answer: Handler) -> None:
    """A cut-off body is truncated, is retried, and never becomes a file."""
    server.routes["/x"] = answer
    row = download(f"{server.url}/x", retries=1)
    assert (row["status"], row["error_kind"], row["attempts"]) == ("failed", "truncated", 2)
    assert download.files == []
    server.routes["/x"] = body(JPEG)
    assert download(f"{server.url}/x")["sha256"] == hashlib.sha256(JPEG).hexdigest()


def test_a_connection_reset_in_the_body_is_tried_again(server: FaultServer, download: Any) -> None:
    """After a reset the next try starts from nothing, so no byte is there twice."""
    server.routes["/x"] = first_then(
        reset_after(HEAD + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG[:500]), body(JPEG)
    )
    row = download(f"{server.url}/x")
    assert (row["status"], row["attempts"], row["bytes"]) == ("ok", 2, len(JPEG))


def test_bytes_after_the_announced_length_are_not_taken(server: FaultServer, download: Any) -> None:
    """A body longer than its Content-Length ends there, and the next request gets its own answer."""
    server.routes["/x"] = raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG + b"rubbish" * 10)
    assert download(f"{server.url}/x")["sha256"] == hashlib.sha256(JPEG).hexdigest()


@pytest.mark.parametrize(("cut", "kind"), [(None, None), (-200, "decode_error")])
def test_a_body_without_length_counts_when_it_decodes(
    server: FaultServer, download: Any, cut: int | None, kind: str | None
) -> None:
    """A body that ends with the connection is whole if the image is."""
    server.routes["/x"] = raw(HEAD + b"Connection: close\r\n\r\n" + JPEG[:cut])
    assert download(f"{server.url}/x")["error_kind"] == kind


@pytest.mark.parametrize(
    "answer",
    [
        drip(b""),
        drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        drip(HEAD + b"Content-Length: 100000\r\n\r\n"),
        drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n"),
        drip(b"HTTP/1.1 302 Found\r\nContent-Length: 60000\r\nLocation: /x\r\n\r\n"),
    ],
    ids=["status", "header", "body", "chunk", "redirect"],
)
def test_a_dripping_server_is_given_up_at_the_deadline(server: FaultServer, download: Any, answer: Handler) -> None:
    """One byte now and then, wherever, does not get past the total time; there is no second try."""
    server.routes["/x"] = answer
    row = download(f"{server.url}/x", timeout_s=0.3, read_timeout_s=3600)
    assert (row["error_kind"], row["attempts"]) == ("timeout_total", 1)


def test_a_silent_server_is_given_up(server: FaultServer, download: Any) -> None:
    """A server that accepts and says nothing is a timeout of the first byte, tried again."""
    server.routes["/x"] = silent
    row = download(f"{server.url}/x", read_timeout_s=0.1, retries=1)
    assert (row["error_kind"], row["attempts"]) == ("timeout_first_byte", 2)


def test_a_server_that_falls_silent_is_given_up(server: FaultServer, download: Any) -> None:
    """Silence in the middle of a body is a timeout of its own kind."""

    def handle(exchange: Exchange) -> None:
        exchange.send(HEAD + b"Content-Length: 5000\r\n\r\nabc")
        silent(exchange)

    server.routes["/x"] = handle
    row = download(f"{server.url}/x", read_timeout_s=0.1, retries=0)
    assert row["error_kind"] == "timeout_read"


@pytest.mark.parametrize("coding", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_an_endless_body_is_cut_at_the_limit(server: FaultServer, download: Any, coding: bytes) -> None:
    """Not more than max_bytes and one block are taken from a server."""
    block = b"10000\r\n" + b"x" * 65_536 + b"\r\n" if coding else b"x" * 65_536
    server.routes["/x"] = endless(HEAD + coding + b"\r\n", block)
    row = download(f"{server.url}/x", max_bytes=3_000_000)
    assert (row["error_kind"], row["attempts"]) == ("too_large", 1)
    assert download.files == []


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_the_size_limit_is_exact(server: FaultServer, download: Any, room: int) -> None:
    """A body of max_bytes is taken, one byte more is not, with and without an announced length."""
    server.routes |= {"/x": body(JPEG), "/y": raw(HEAD + b"\r\n" + JPEG)}
    expected = "too_large" if room < 0 else None
    for path in "/x", "/y":
        assert download(server.url + path, max_bytes=len(JPEG) + room)["error_kind"] == expected


def test_a_body_larger_than_memory_goes_through_a_file(server: FaultServer, download: Any) -> None:
    """A large image is saved whole and leaves no temporary file."""
    large = picture("BMP", (900, 900))
    server.routes["/x"] = body(large)
    row = download(f"{server.url}/x")
    assert (row["bytes"], row["sha256"]) == (len(large), hashlib.sha256(large).hexdigest())
    assert download.files == [download.run / row["path"]]


def test_identity_is_asked_for_and_encodings_are_undone(server: FaultServer, download: Any) -> None:
    """The client asks for no encoding, and undoes one that comes all the same."""
    asked: list[str] = []

    def handle(exchange: Exchange) -> bool:
        asked.append(exchange.headers["accept-encoding"])
        return exchange.answer(gzip.compress(JPEG), Content_Encoding="gzip")

    server.routes["/x"] = handle
    row = download(f"{server.url}/x")
    assert (row["status"], row["sha256"]) == ("ok", hashlib.sha256(JPEG).hexdigest())
    assert asked == ["identity"]


@pytest.mark.parametrize(
    ("data", "coding", "kind"),
    [
        (gzip.compress(b"\0" * 20_000_000), "gzip", "decode_bomb"),
        (gzip.compress(gzip.compress(b"\0" * 20_000_000)), "gzip, gzip", "decode_bomb"),
        (zlib.compress(JPEG), "deflate, deflate, gzip, gzip, gzip, gzip", "decode_bomb"),
        (b"no gzip at all", "gzip", "bad_encoding"),
    ],
    ids=["bomb", "twice", "six times", "not gzip"],
)
def test_harmful_encodings(server: FaultServer, download: Any, data: bytes, coding: str, kind: str) -> None:
    """A body that unpacks beyond the limit, or is packed too often, is refused."""
    server.routes["/x"] = body(data, Content_Encoding=coding)
    row = download(f"{server.url}/x", max_bytes=1_000_000)
    assert (row["error_kind"], row["attempts"]) == (kind, 1)


def test_a_refused_connection(download: Any) -> None:
    """A port where nobody listens is `refused`, and tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    row = download(f"http://127.0.0.1:{port}/x", retries=1)
    assert (row["error_kind"], row["attempts"]) == ("refused", 2)


def test_a_host_that_does_not_accept_is_a_connect_timeout(download: Any) -> None:
    """A full backlog (no SYN is answered) ends at the connect timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        row = download(f"http://127.0.0.1:{port}/x", connect_timeout_s=0.2, retries=0)
    assert row["error_kind"] == "timeout_connect"


def test_no_connection_in_time(server: FaultServer, download: Any) -> None:
    """A connection that is not there within connect_timeout_s is a kind of its own, tried again."""
    row = download(f"{server.url}/x", connect_timeout_s=1e-9, retries=1)
    assert (row["error_kind"], row["attempts"]) == ("timeout_connect", 2)


def test_a_host_without_a_name_fails_at_once(download: Any) -> None:
    """A name that does not exist is `dns`; the name server's own failure is told apart."""
    row = download("http://does-not-exist.invalid/x.jpg", retries=0)
    assert row["error_kind"] in ("dns", "dns_temporary")
    assert row["attempts"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1000),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    ],
    ids=["many headers", "long header", "endless headers", "not HTTP", "no status"],
)
def test_an_answer_that_is_not_http(server: FaultServer, download: Any, answer: Handler) -> None:
    """Headers beyond the limits of http.client, and other protocols, are a bad response and not retried."""
    server.routes["/x"] = answer
    row = download(f"{server.url}/x")
    assert (row["error_kind"], row["attempts"]) == ("bad_response", 1)


def test_the_server_closing_at_once_is_a_reset(server: FaultServer, download: Any) -> None:
    """A connection that ends without an answer is retried."""
    server.routes["/x"] = first_then(raw(b""), body(JPEG))
    row = download(f"{server.url}/x")
    assert (row["status"], row["attempts"]) == ("ok", 2)
