"""Redirects: which are followed, how many, and what is never fetched."""

from __future__ import annotations

from typing import Any

import pytest

from servers.fault_server import (
    FaultServer,
    body,
    endless,
    redirect,
)
from servers.pictures import picture

JPEG = picture()


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
