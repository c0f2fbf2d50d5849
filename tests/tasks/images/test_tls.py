"""TLS: what is trusted, and what kind of failure each bad certificate is."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.images.client import ClientFactory
from prefect_fanout.tasks.images.options import ImageOptions
from servers.certificates import Authority
from servers.fault_server import FaultServer, body, drip, redirect
from servers.pictures import picture


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that signs the servers of these tests."""
    return Authority(tmp_path_factory.mktemp("certificates"))


def test_a_good_certificate_is_trusted(authority: Authority, download: Any) -> None:
    """With the right authority an https URL works, over one connection for two requests."""
    with FaultServer({"/a": redirect("/b"), "/b": body(picture())}, tls=authority.server()) as server:
        assert download(f"{server.url}/a", ca_bundle=authority.bundle)["status"] == "ok"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("name", "options", "trusted", "kind"),
    [
        ("127.0.0.1", {"days": -1}, True, "tls_expired"),
        ("elsewhere.example", {}, True, "tls_wrong_host"),
        ("127.0.0.1", {"self_signed": True}, True, "tls_self_signed"),
        ("127.0.0.1", {}, False, "tls_unknown_ca"),
    ],
)
def test_bad_certificates(
    authority: Authority, download: Any, name: str, options: dict[str, Any], trusted: bool, kind: str
) -> None:
    """Each bad certificate has its own kind; nothing is tried again and nothing is requested."""
    with FaultServer({"/x": body(picture())}, tls=authority.server(name, **options)) as server:
        row = download(f"{server.url}/x", **({"ca_bundle": authority.bundle} if trusted else {}))
        assert (row["error_kind"], row["attempts"]) == (kind, 1)
        assert server.requests["/x"] == 0


def test_an_old_protocol_version_is_refused(authority: Authority, download: Any) -> None:
    """A server that speaks only TLS 1.1 is not downgraded to."""
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context = authority.server(maximum=ssl.TLSVersion.TLSv1_1)
    with FaultServer({"/x": body(picture())}, tls=context) as server:
        row = download(f"{server.url}/x", ca_bundle=authority.bundle)
    assert (row["error_kind"], row["attempts"]) == ("tls_handshake", 1)


def test_a_handshake_that_never_comes_is_a_connect_timeout(authority: Authority, download: Any) -> None:
    """A server that accepts and then says nothing of TLS is given up like one that does not accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/x"
        row = download(url, ca_bundle=authority.bundle, connect_timeout_s=0.1, retries=1)
    assert (row["error_kind"], row["attempts"]) == ("timeout_connect", 2)


def test_a_plain_server_on_an_https_url(server: FaultServer, download: Any) -> None:
    """A server that does not speak TLS is a failed handshake, not retried without."""
    row = download(server.url.replace("http:", "https:") + "/x")
    assert (row["error_kind"], row["attempts"]) == ("tls_handshake", 1)


def test_the_deadline_holds_inside_tls(authority: Authority, download: Any) -> None:
    """A dripping body is given up over TLS too."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    with FaultServer({"/x": drip(head)}, tls=authority.server()) as server:
        row = download(f"{server.url}/x", ca_bundle=authority.bundle, timeout_s=0.5, read_timeout_s=3600)
    assert row["error_kind"] == "timeout_total"


@pytest.mark.parametrize(("allowed", "kind"), [(True, None), (False, "redirect_downgrade")])
def test_a_redirect_to_plain_http(
    authority: Authority, server: FaultServer, download: Any, allowed: bool, kind: str | None
) -> None:
    """From https to http is followed or refused, as the options say."""
    server.routes["/x"] = body(picture())
    with FaultServer({"/x": redirect(f"{server.url}/x")}, tls=authority.server()) as secure:
        row = download(f"{secure.url}/x", ca_bundle=authority.bundle, allow_downgrade=allowed)
    assert row["error_kind"] == kind


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    """A bad certificate bundle is refused before anything begins."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(UsageError, match=r"bundle\.pem"):
        ClientFactory(ImageOptions(ca_bundle=bundle))
