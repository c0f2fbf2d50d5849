"""One download from request to row, against a server that misbehaves."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.images.row import SCHEMA
from servers.fault_server import (
    Exchange,
    FaultServer,
    body,
    endless,
    first_then,
    open_files,
    raw,
)
from servers.pictures import gif_of_frames, picture, png_header

JPEG = picture()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def test_a_good_jpeg_is_saved_and_described(server: FaultServer, download: Any) -> None:
    """A good image gives one file and one row with hash, size, format and path."""
    server.routes["/a/picture.jpg"] = body(JPEG)
    row = download(f"{server.url}/a/picture.jpg")
    assert row["status"] == "ok"
    assert (row["http_status"], row["attempts"], row["error_kind"]) == (200, 1, None)
    assert (row["width"], row["height"], row["format"], row["bytes"]) == (64, 48, "JPEG", len(JPEG))
    assert row["sha256"] == hashlib.sha256(JPEG).hexdigest()
    assert download.files == [download.run / row["path"]]
    assert (download.run / row["path"]).read_bytes() == JPEG
    assert set(row) == set(SCHEMA.names)


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        ("404 Not Found", "http_4xx", 1),
        ("410 Gone", "http_4xx", 1),
        ("401 Unauthorized", "http_4xx", 1),
        ("403 Forbidden", "http_4xx", 1),
        ("418 I'm a teapot", "http_4xx", 1),
        ("451 Unavailable For Legal Reasons", "http_4xx", 1),
        ("408 Request Timeout", "http_4xx", 3),
        ("425 Too Early", "http_4xx", 3),
        ("429 Too Many Requests", "rate_limited", 3),
        ("500 Internal Server Error", "http_5xx", 3),
        ("501 Not Implemented", "http_5xx", 1),
        ("502 Bad Gateway", "http_5xx", 3),
        ("503 Service Unavailable", "http_5xx", 3),
        ("504 Gateway Timeout", "http_5xx", 3),
        ("520 Unknown", "http_5xx", 3),
        ("524 A Timeout Occurred", "http_5xx", 3),
        ("903 What", "http_other", 1),
        ("999 Denied", "http_other", 1),
        ("206 Partial Content", "http_2xx", 1),
        ("304 Not Modified", "http_3xx", 1),
        ("300 Multiple Choices", "http_3xx", 1),
    ],
)
def test_status_codes(server: FaultServer, download: Any, status: str, kind: str, tries: int) -> None:
    """Only a status that may change is tried again; the code is kept in the row; nothing is saved."""
    server.routes["/x"] = body(b"" if status.startswith("304") else JPEG, status)
    row = download(f"{server.url}/x")
    assert (row["status"], row["error_kind"], row["attempts"]) == ("failed", kind, tries)
    assert row["http_status"] == int(status[:3])
    assert server.requests["/x"] == tries
    assert download.files == []


@pytest.mark.parametrize("status", ["500 Oops", "429 Slow down"])
def test_a_failure_that_passes_is_tried_again(server: FaultServer, download: Any, status: str) -> None:
    """An item that fails once and then works is ok, with two attempts."""
    server.routes["/x"] = first_then(body(b"no", status), body(JPEG))
    row = download(f"{server.url}/x")
    assert (row["status"], row["attempts"], row["http_status"]) == ("ok", 2, 200)


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_retries_are_counted(server: FaultServer, download: Any, retries: int) -> None:
    """There is one try more than retries, never another."""
    server.routes["/x"] = body(b"no", "500 Oops")
    assert download(f"{server.url}/x", retries=retries)["attempts"] == retries + 1
    assert len(download.pauses) == retries


def test_retry_after_is_waited_for(server: FaultServer, download: Any) -> None:
    """The wait before the next try is no shorter than the server asks."""
    server.routes["/x"] = first_then(body(b"", "429 Slow down", Retry_After="2"), body(JPEG))
    assert download(f"{server.url}/x")["status"] == "ok"
    assert download.pauses[0] >= 2


def test_retry_after_date_is_measured_by_the_servers_clock(server: FaultServer, download: Any) -> None:
    """A server whose clock is a day wrong still gets the wait it means."""
    then = datetime.now(UTC) - timedelta(days=1)
    headers = {"Date": format_datetime(then, True), "Retry_After": format_datetime(then + timedelta(seconds=3), True)}
    server.routes["/x"] = first_then(body(b"", "503 Busy", **headers), body(JPEG))
    assert download(f"{server.url}/x")["status"] == "ok"
    assert 3 <= download.pauses[0] < 4


@pytest.mark.parametrize("value", ["1000000000", "31"])
def test_a_retry_after_beyond_the_cap_ends_the_item(server: FaultServer, download: Any, value: str) -> None:
    """A server that asks for too long a wait is left alone."""
    server.routes["/x"] = body(b"", "429 Slow down", Retry_After=value)
    row = download(f"{server.url}/x", retry_after_cap_s=30)
    assert (row["error_kind"], row["attempts"]) == ("rate_limited", 1)


def test_a_garbled_retry_after_is_ignored(server: FaultServer, download: Any) -> None:
    """A Retry-After that is neither seconds nor a date counts as none."""
    server.routes["/x"] = first_then(body(b"", "503 Busy", Retry_After="soon \u00e9"), body(JPEG))
    assert download(f"{server.url}/x")["status"] == "ok"


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "205 Reset Content"])
def test_an_empty_body_is_a_failure(server: FaultServer, download: Any, status: str) -> None:
    """No content is no image."""
    server.routes["/x"] = body(b"", status)
    row = download(f"{server.url}/x")
    assert (row["status"], row["error_kind"], row["attempts"]) == ("failed", "empty_body", 1)


@pytest.mark.parametrize("hint", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
def test_informational_responses_are_skipped(server: FaultServer, download: Any, hint: bytes) -> None:
    """A 1xx before the real response changes nothing."""
    server.routes["/x"] = raw(hint * 2, HEAD, b"Content-Length: %d\r\n\r\n" % len(JPEG), JPEG)
    assert download(f"{server.url}/x")["status"] == "ok"


def test_endless_informational_responses_end(server: FaultServer, download: Any) -> None:
    """A server that only ever sends 1xx is given up after a few."""
    server.routes["/x"] = endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert download(f"{server.url}/x")["error_kind"] == "bad_response"


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (b"<!DOCTYPE html><title>Not here</title>", "text/html", "not_an_image"),
        (b'{"error": "no"}', "application/json", "not_an_image"),
        (b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "format_not_allowed"),
        (picture("TIFF"), "image/tiff", "format_not_allowed"),
        (JPEG[: len(JPEG) // 2], "image/jpeg", "decode_error"),
        (JPEG[: len(JPEG) // 2].ljust(len(JPEG), b"\0"), "image/jpeg", "decode_error"),
        (picture("PNG")[:-100], "image/png", "decode_error"),
        (picture("WEBP")[:-100], "image/webp", "decode_error"),
        (picture("GIF")[:-400], "image/gif", "decode_error"),
        (picture("AVIF")[:-100], "image/avif", "decode_error"),
        (png_header(50_000, 50_000), "image/png", "too_many_pixels"),
        (png_header(0, 0), "image/png", "decode_error"),
        (gif_of_frames(10_001), "image/gif", "too_many_frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_wanted_image(
    server: FaultServer, download: Any, data: bytes, content_type: str, kind: str
) -> None:
    """A 200 that is no whole, wanted image is a failure; its Content-Type is kept; nothing is saved."""
    server.routes["/x.jpg"] = body(data, Content_Type=content_type)
    row = download(f"{server.url}/x.jpg")
    assert (row["status"], row["error_kind"], row["content_type"]) == ("failed", kind, content_type)
    assert download.files == []


@pytest.mark.parametrize(
    ("format", "extension"),
    [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("AVIF", ".avif"), ("BMP", ".bmp")],
)
@pytest.mark.parametrize("claimed", ["text/html", "image/png", None])
def test_the_bytes_tell_the_format(
    server: FaultServer, download: Any, format: str, extension: str, claimed: str | None
) -> None:
    """Neither the URL's extension nor the Content-Type matters; the file gets its true extension."""
    data = picture(format)
    typed = f"Content-Type: {claimed}\r\n".encode() if claimed else b""
    server.routes["/x.jpg"] = raw(b"HTTP/1.1 200 OK\r\n" + typed + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    row = download(f"{server.url}/x.jpg")
    assert (row["status"], row["format"]) == ("ok", format)
    assert Path(row["path"]).suffix == extension


def test_small_images_are_dropped_only_on_request(server: FaultServer, download: Any) -> None:
    """A tracking pixel is kept unless min_side_px says otherwise."""
    server.routes["/x"] = body(picture("GIF", (1, 1)))
    assert download(f"{server.url}/x")["status"] == "ok"
    assert download(f"{server.url}/x", min_side_px=2)["error_kind"] == "too_small"


def test_connections_and_threads_end_with_the_client(server: FaultServer, download: Any) -> None:
    """After a client is closed no socket, file or thread of it is left, whatever happened."""
    server.routes |= {"/ok": body(JPEG), "/cut": raw(HEAD + b"Content-Length: 50\r\n\r\nx"), "/no": body(b"", "404 No")}
    download(f"{server.url}/ok")
    before = (open_files(), {thread.name for thread in threading.enumerate()} - {"fault-connection"})
    for path in "/ok", "/cut", "/no", "/missing":
        download(server.url + path)
    server.__exit__(None, None, None)
    after = {thread.name for thread in threading.enumerate()} - {"fault-connection"}
    assert after <= before[1]
    assert open_files() <= before[0]
    server.__init__()  # type: ignore[misc] # the fixture ends it once more
    server.__enter__()


def test_user_agent_and_proxy(server: FaultServer, download: Any) -> None:
    """The User-Agent is the one asked for, and a proxy gets the whole URL."""
    seen: list[tuple[str, str]] = []

    def handle(exchange: Exchange) -> bool:
        seen.append((exchange.target, exchange.headers["user-agent"]))
        return exchange.answer(JPEG)

    url = "http://192.0.2.1/x.jpg"
    server.routes[url] = handle
    assert download(url, proxies={"http": server.url}, user_agent="me (me@example.org)")["status"] == "ok"
    assert seen == [(url, "me (me@example.org)")]
    blocked = download("http://127.0.0.1/x", proxies={"http": server.url}, allow_private=False)
    assert blocked["error_kind"] == "blocked_address"
    direct = download(f"{server.url}/x", proxies={"http": "http://192.0.2.1:1", "no": "127.0.0.1"})
    assert direct["http_status"] == 404


def test_a_kept_connection_that_the_server_closed_is_not_a_failure(server: FaultServer, tmp_path: Path) -> None:
    """When a kept-alive connection turns out to be dead the request goes out once more, at no attempt's cost."""
    from prefect_fanout.tasks.images.body import Body
    from prefect_fanout.tasks.images.client import ClientFactory
    from prefect_fanout.tasks.images.options import ImageOptions

    def second_on_this_connection(exchange: Exchange) -> bool:
        return False if exchange.number == 1 else exchange.answer(JPEG)

    server.routes |= {"/a": body(JPEG), "/b": second_on_this_connection}
    with ClientFactory(ImageOptions(allow_private=True))() as client:
        for path in "/a", "/b":
            fetched = Body(tmp_path)
            client.fetch(server.url + path, fetched)
            assert fetched.size == len(JPEG)
    assert (server.requests["/b"], server.connections) == (2, 2)


def test_ipv6(download: Any) -> None:
    """A literal IPv6 address works like any other host."""
    try:
        server = FaultServer({"/x": body(JPEG)}, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server:
        assert download(f"{server.url}/x")["status"] == "ok"


def test_a_folder_that_cannot_be_written_stops_the_run(server: FaultServer, download: Any) -> None:
    """A storage fault is raised: it is not the item's failure, and nothing half-written stays."""
    from prefect_fanout._errors import RunFailed

    def sabotage(exchange: Exchange) -> bool:
        (download.run / "images").rmdir()
        (download.run / "images").write_text("in the way")
        return exchange.answer(JPEG)

    server.routes["/x"] = sabotage
    with pytest.raises(RunFailed, match="could not be written"):
        download(f"{server.url}/x")
    assert [path.name for path in download.run.iterdir()] == ["images"]
