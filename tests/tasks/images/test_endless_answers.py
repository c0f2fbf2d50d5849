"""Answers without an end, and sizes that are none: a failed item within the limits, in little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.images.client import MAX_TEXT_CHARACTERS
from prefect_fanout.tasks.images.transport import MAX_CHUNK_EXTRA_BYTES, MAX_TRAILER_LINES
from servers.fault_server import FaultServer, Handler, body, endless, raw
from servers.memory import growth_mb
from servers.pictures import picture

JPEG = picture()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"x" * 1_000_000

FETCH = """
def prepare():
    global Body, ClientFactory, FetchError, Path, options
    from pathlib import Path
    from prefect_fanout.tasks.images.body import Body
    from prefect_fanout.tasks.images.client import ClientFactory
    from prefect_fanout.tasks.images.failure import FetchError
    from prefect_fanout.tasks.images.options import ImageOptions

    options = ImageOptions(allow_private=True, max_bytes=4_000_000, timeout_s=60)

def work(url):
    with ClientFactory(options)() as client:
        try:
            client.fetch(url, Body(Path()))
        except FetchError as error:
            assert error.kind in ("bad_response", "truncated", "too_large"), error
        else:
            raise AssertionError("it was taken for a body")
"""


@pytest.mark.parametrize(
    "answer",
    [
        endless(CHUNKED + b"-1\r\n", MEGABYTE),
        endless(CHUNKED + b"+5\r\n", MEGABYTE),
        endless(CHUNKED + b"0x5\r\n", MEGABYTE),
        endless(CHUNKED + b" 5\r\n", MEGABYTE),
        endless(CHUNKED + b"5_0\r\n", MEGABYTE),
        endless(CHUNKED + b"f" * 20 + b"\r\n", MEGABYTE),
        endless(CHUNKED + b"f" * 16 + b"\r\n", MEGABYTE),
        endless(CHUNKED + b"0\r\n", b"X-Trailer: y\r\n" * 1_000),
        endless(CHUNKED + b"0\r\n", MEGABYTE),
        endless(CHUNKED + b"1;", MEGABYTE),
        endless(CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
        endless(CHUNKED, b"1" + b" " * 60_000 + b"\r\nx\r\n"),
        endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1_000),
        endless(b"HTTP/1.1 200 OK\r\nX: ", MEGABYTE),
        endless(b"HTTP/1.1 200 ", MEGABYTE),
    ],
    ids=[
        "size -1",
        "size +5",
        "size 0x5",
        "size after a blank",
        "size with an underscore",
        "size of 20 digits",
        "size of 16 digits",
        "trailers",
        "trailer line",
        "chunk extension",
        "chunk extensions",
        "blanks after sizes",
        "headers",
        "header line",
        "reason",
    ],
)
def test_an_endless_answer_ends_at_a_limit(server: FaultServer, tmp_path: Path, answer: Handler) -> None:
    """Whatever part of an answer has no end, the item fails before its time is up, in less than 200 MB."""
    server.routes["/x"] = answer
    assert growth_mb(FETCH, f"{server.url}/x", cwd=tmp_path) < 200
    assert server.requests["/x"] == 1


@pytest.mark.parametrize("size", [b"%x", b"%X", b"%016x", b"%x   ", b"%x\t", b"%x;name=value", b"%x ; name", b"%x;"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_size_as_servers_write_it(server: FaultServer, download: Any, size: bytes, end: bytes) -> None:
    """Sizes in either case, with leading zeros, blanks or an extension behind, are sizes."""
    server.routes["/x"] = raw(CHUNKED + size % len(JPEG) + end + JPEG + b"\r\n0\r\nX-Trailer: y\r\n\r\n")
    assert download(f"{server.url}/x")["bytes"] == len(JPEG)


@pytest.mark.parametrize(
    ("count", "length", "kind"),
    [
        (0, 0, None),
        (1, 0, None),
        (MAX_TRAILER_LINES, 0, None),
        (MAX_TRAILER_LINES + 1, 0, "bad_response"),
        (2, MAX_CHUNK_EXTRA_BYTES // 2 - 10, None),
        (2, MAX_CHUNK_EXTRA_BYTES // 2, "bad_response"),
    ],
)
def test_trailers_up_to_the_limits(
    server: FaultServer, download: Any, count: int, length: int, kind: str | None
) -> None:
    """As many trailers as there may be headers are skipped, up to the bytes of one header line; more are refused."""
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"y" * length) for number in range(count))
    server.routes["/x"] = raw(CHUNKED + b"%x\r\n" % len(JPEG) + JPEG + b"\r\n0\r\n" + trailers + b"\r\n")
    assert download(f"{server.url}/x")["error_kind"] == kind


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
@pytest.mark.parametrize("length", [0, 1, MAX_TEXT_CHARACTERS, MAX_TEXT_CHARACTERS + 1, 60_000])
def test_a_content_type_is_cut(server: FaultServer, download: Any, status: str, length: int) -> None:
    """A server's Content-Type is kept up to a limit, of a good answer and of a bad one."""
    text = "y" * length
    server.routes["/x"] = body(JPEG, status, Content_Type=text)
    assert download(f"{server.url}/x")["content_type"] == text[:MAX_TEXT_CHARACTERS]


def test_a_reason_phrase_is_cut(server: FaultServer, download: Any) -> None:
    """A server's reason phrase is kept up to a limit."""
    server.routes["/x"] = body(b"", f"404 {'y' * 60_000}")
    assert len(download(f"{server.url}/x")["error"]) < MAX_TEXT_CHARACTERS + 100
