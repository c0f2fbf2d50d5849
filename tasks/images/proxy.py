"""The proxies of a run: checked once, and never repeated, as they may hold a password."""

from __future__ import annotations

from collections.abc import Mapping

import urllib3

from prefect_fanout._errors import UsageError


def checked_proxies(proxies: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that are used, each with its scheme, and under "no" the hosts without.

    Args:
        proxies: As `urllib.request.getproxies` returns them.

    Raises:
        UsageError: A proxy cannot be used; the text does not repeat it, as it may hold a password.
    """
    checked = {"no": proxies["no"]} if "no" in proxies else {}
    for scheme in ("http", "https"):
        text = proxies.get(scheme, "").strip()
        if not text:
            continue
        proxy = text if "://" in text else f"http://{text}"
        try:
            parts = urllib3.util.parse_url(proxy)
            extra = (parts.path or "").strip("/") or parts.query or parts.fragment
            usable = parts.scheme in ("http", "https") and bool(parts.host) and not extra
        except urllib3.exceptions.LocationParseError:
            usable = False
        if not usable:
            raise UsageError(
                f"The proxy for {scheme} URLs (the variable {scheme}_proxy or {scheme.upper()}_PROXY) cannot be used; "
                "expected http://host:port or http://user:password@host:port, with special characters of user and "
                "password as % escapes."
            )
        checked[scheme] = proxy
    return checked


def without_user(proxy: str) -> str:
    """Return a proxy that `checked_proxies` took, without user name and password."""
    scheme, mark, rest = proxy.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
