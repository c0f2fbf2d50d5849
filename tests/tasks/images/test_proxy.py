"""Requests through a proxy, which connects out of sight and may read hosts in a way of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.images import address
from servers.certificates import Authority
from servers.fault_server import FaultServer, body, redirect
from servers.pictures import picture
from servers.recording_proxy import RecordingProxy

UNKNOWN = "only-the-proxy-knows.invalid"
INSIDE = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.1.",
    "2130706433",
    "2130706433.",
    "0x7f000001",
    "0x7f000001.",
    "0x7F.0.0x0.1.",
    "0177.0.0.01.",
    "017700000001.",
    "0",
    "0.",
    "localhost",
    "localhost.",
    "LOCALHOST.",
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166.",
    "\uff11\uff12\uff17.0.0.1\u3002",
    "\u2460\u2461\u2466.0.0.1.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "168.63.129.16.",
    "192.0.0.192.",
    UNKNOWN,
    f"{UNKNOWN}.",
    "intranet-that-only-the-proxy-knows",
]


@pytest.fixture
def inside() -> Iterator[FaultServer]:
    """A server of the own network, with something to steal."""
    with FaultServer({"/secret.png": body(picture("PNG"))}) as server:
        yield server


@pytest.fixture
def proxy(inside: FaultServer) -> Iterator[RecordingProxy]:
    """A proxy for which every host leads inside."""
    with RecordingProxy(inside) as server:
        yield server


def through(proxy: FaultServer, **more: str) -> dict[str, str]:
    """The proxies of a run in which all requests go through this one."""
    return {"http": proxy.url, "https": proxy.url, **more}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", INSIDE)
def test_a_proxy_is_never_asked_for_a_host_that_may_lead_inside(
    inside: FaultServer, proxy: RecordingProxy, download: Any, scheme: str, host: str
) -> None:
    """No spelling of a private address and no unknown name reaches the proxy, by GET or by CONNECT."""
    url = f"{scheme}://{host}:{inside.port}/secret.png"
    row = download(url, proxies=through(proxy), allow_private=False, retries=0)
    assert row["error_kind"] == "blocked_address"
    assert (proxy.asked, inside.connections) == ([], 0)


@pytest.mark.parametrize("host", ["1.2.3.4.5", "0x7f.0.0.256", "intranet.1", "08.0.0.1"])
def test_a_host_that_ends_in_a_number_is_an_address_or_refused(proxy: RecordingProxy, download: Any, host: str) -> None:
    """A redirect to a host that some readers take for an address, and others for a name, is not followed."""
    proxy.routes["http://192.0.2.1/x"] = redirect(f"http://{host}/secret.png")
    row = download("http://192.0.2.1/x", proxies=through(proxy))
    assert row["error_kind"] == "bad_redirect"
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1.", "2130706433.", "localhost.", UNKNOWN])
def test_every_hop_behind_a_proxy_is_judged(
    inside: FaultServer, proxy: RecordingProxy, download: Any, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A page of the internet that redirects inside leads nowhere."""
    proxy.routes["http://192.0.2.1/x"] = redirect(f"http://{host}:{inside.port}/secret.png")
    # The first hop is a documentation address, which this test takes for the internet.
    monkeypatch.setattr(address, "is_public", lambda text: text == "192.0.2.1")
    row = download("http://192.0.2.1/x", proxies=through(proxy), allow_private=False, retries=0)
    assert row["error_kind"] == "blocked_address"
    assert row["final_url"] != "http://192.0.2.1/x"
    assert (proxy.requests["http://192.0.2.1/x"], proxy.asked, inside.connections) == (1, [], 0)


def test_an_unknown_name_is_refused_with_advice(proxy: RecordingProxy, download: Any) -> None:
    """The refusal says which option allows such names, and that the check is the proxy's then."""
    row = download(f"http://{UNKNOWN}/secret.png", proxies=through(proxy), allow_private=False, retries=0)
    assert "--allow-unresolved (allow_unresolved=True)" in row["error"]
    assert "leave the check of such names to the proxy" in row["error"]


def test_unknown_names_can_be_left_to_the_proxy(
    inside: FaultServer, proxy: RecordingProxy, download: Any, tmp_path: Path
) -> None:
    """With allow_unresolved a name that only the proxy knows is fetched through it; private addresses stay refused."""
    row = download(f"http://{UNKNOWN}/secret.png", proxies=through(proxy), allow_private=False, allow_unresolved=True)
    assert row["status"] == "ok"
    assert proxy.asked == [f"GET http://{UNKNOWN}/secret.png"]
    row = download("http://127.0.0.1./secret.png", proxies=through(proxy), allow_private=False, allow_unresolved=True)
    assert row["error_kind"] == "blocked_address"
    authority = Authority(tmp_path)
    secure = FaultServer({"/secret.png": body(picture("PNG"))}, tls=authority.server(UNKNOWN))
    with secure, RecordingProxy(secure) as tunnel:
        options = {"allow_private": False, "allow_unresolved": True, "ca_bundle": authority.bundle}
        row = download(f"https://{UNKNOWN}/secret.png", proxies=through(tunnel), **options)
        assert (row["status"], tunnel.asked) == ("ok", [f"CONNECT {UNKNOWN}:443"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1.", "2130706433"])
def test_a_host_without_proxy_is_dialled_directly_and_guarded(
    inside: FaultServer, proxy: RecordingProxy, download: Any, host: str
) -> None:
    """A host of NO_PROXY, in any spelling, is not asked of the proxy, and its address is judged all the same."""
    url = f"http://{host}:{inside.port}/secret.png"
    row = download(url, proxies=through(proxy, no="127.0.0.1"), allow_private=False)
    assert row["error_kind"] == "blocked_address"
    assert inside.connections == 0
    assert download(url, proxies=through(proxy, no="127.0.0.1"))["status"] == "ok"
    assert (proxy.asked, inside.connections) == ([], 1)
