"""One download from request to row, against a server that misbehaves."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import threading
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.images.row import SCHEMA
from servers.fault_server import (
    Exchange,
    FaultServer,
    Handler,
    body,
    drip,
    endless,
    first_then,
    open_files,
    raw,
    redirect,
    silent,
)
from servers.pictures import gif_of_frames, picture, png_header

JPEG = picture()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def reset_after(data: bytes) -> Handler:
    """Sends some bytes, then RST."""

    def handle(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.reset()

    return handle


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


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed(server: FaultServer, download: Any, status: str) -> None:
    """Every kind of redirect is followed, relative ones too, and the last URL is kept."""
    server.routes |= {"/a/x": redirect("y?z=1", status), "/a/y": redirect("//" + server.url[7:] + "/b", status)}
    server.routes["/b"] = body(JPEG)
    row = download(f"{server.url}/a/x")
    assert (row["status"], row["final_url"]) == ("ok", f"{server.url}/b")
    assert server.connections == 1, "short redirect bodies must not cost the connection"


@pytest.mark.parametrize(("hops", "limit", "kind"), [(0, 0, None), (1, 0, "too_many_redirects"), (1, 1, None)])
@pytest.mark.parametrize("more", [0, 1])
def test_the_redirect_limit(
    server: FaultServer, download: Any, hops: int, limit: int, kind: str | None, more: int
) -> None:
    """Exactly max_redirects redirects are followed."""
    for hop in range(hops + more):
        server.routes[f"/{hop}"] = redirect(f"/{hop + 1}")
    server.routes[f"/{hops + more}"] = body(JPEG)
    assert download(f"{server.url}/0", max_redirects=limit + more)["error_kind"] == kind


def test_a_redirect_loop_ends(server: FaultServer, download: Any) -> None:
    """A page that redirects to itself is given up at the limit."""
    server.routes["/x"] = redirect("/x")
    row = download(f"{server.url}/x", max_redirects=4)
    assert (row["error_kind"], row["attempts"], server.requests["/x"]) == ("too_many_redirects", 1, 5)


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("file:///etc/passwd", "bad_redirect_scheme"),
        ("data:image/png;base64,AAAA", "bad_redirect_scheme"),
        ("ftp://example.org/x.jpg", "bad_redirect_scheme"),
        ("javascript:alert(1)", "bad_redirect_scheme"),
        ("http://[::1", "bad_redirect"),
        ("http://user:secret@example.org/", "bad_redirect"),
    ],
)
def test_redirects_to_elsewhere_than_the_web_are_refused(
    server: FaultServer, download: Any, location: str, kind: str
) -> None:
    """A redirect leads to another http URL or nowhere."""
    server.routes["/x"] = redirect(location)
    assert download(f"{server.url}/x")["error_kind"] == kind


def test_a_redirect_without_location_is_a_failure(server: FaultServer, download: Any) -> None:
    """A redirect status that leads nowhere is reported with its code."""
    server.routes["/x"] = body(b"", "302 Found")
    row = download(f"{server.url}/x")
    assert (row["error_kind"], row["http_status"]) == ("http_3xx", 302)


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked", b"Content-Length: 99999999999"])
def test_the_body_of_a_redirect_is_not_read(server: FaultServer, download: Any, length: bytes) -> None:
    """An endless body of a redirect is cut off, not drained."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /y\r\n" + length + b"\r\n\r\n"
    block = b"10000\r\n" + b"x" * 65_536 + b"\r\n" if b"chunked" in length else b"x" * 65_536
    server.routes |= {"/x": endless(head, block), "/y": body(JPEG)}
    assert download(f"{server.url}/x")["status"] == "ok"


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
