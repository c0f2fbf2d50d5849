"""From a line of a list to a URL that can be fetched, and to the key that says when two URLs are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

import idna

MAX_URL_CHARACTERS = 8_192
"""Longest URL that is tried. Servers commonly refuse request lines over 8 KiB (nginx: 4 buffers of 8 KiB)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_HOST_LABELS = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
# What most URLs look like; a match is in normal form already and needs none of the work below.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN = re.compile(rf"https?://{_LABEL}(?:\.{_LABEL}){{0,3}}/[A-Za-z0-9._~/=&+-]*(?:\?[A-Za-z0-9._~/=&+-]+)?")
_ESCAPE = re.compile(r"%(?:([0-9A-Fa-f]{2}))?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters of path and query that are sent as they are, besides the unreserved ones (RFC 3986, and brackets).
_KEPT = "!$%&'()*+,/:;=?@[]~"


class InvalidUrl(ValueError):
    """A text that is not a URL this project fetches; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in normal form.

    Attributes:
        url: What is requested: scheme and host in lower case, host in ASCII, no default port, no fragment.
        scheme: "http" or "https".
        host: Host in ASCII, without brackets.
        port: TCP port.
    """

    url: str
    scheme: str
    host: str
    port: int


def normalise(text: str) -> str:
    """The normal form of a URL: two texts with the same normal form are fetched once.

    Args:
        text: A URL as it stands in a list; white space around it is dropped, spaces inside are encoded.

    Raises:
        InvalidUrl: when it is not an http or https URL that can be fetched.
    """
    if len(text) <= MAX_URL_CHARACTERS and _PLAIN.fullmatch(text):
        return text
    return parse(text).url


def parse(text: str) -> Target:
    """Checks and normalises a URL.

    Raises:
        InvalidUrl: see `normalise`.
    """
    text = text.strip()
    if not text:
        raise InvalidUrl("The URL is empty; expected http:// or https:// and a host.")
    if len(text) > MAX_URL_CHARACTERS:
        raise InvalidUrl(f"The URL has {len(text):,} characters; at most {MAX_URL_CHARACTERS:,} are tried.")
    if _CONTROL.search(text):
        raise InvalidUrl("The URL holds a control character (a tab, a line break or NUL); remove it.")
    if "\ufffd" in text:
        raise InvalidUrl("The URL holds bytes that are not UTF-8; save the list as UTF-8.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidUrl(f"The URL cannot be read ({error}).") from error
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        got = f"got {scheme}:" if scheme else "got none"
        raise InvalidUrl(f"Expected a URL that starts with http:// or https://, {got}.")
    if "@" in parts.netloc:
        raise InvalidUrl("The URL holds a user name or password, which would be written to the ledger; remove it.")
    if port == 0:
        raise InvalidUrl("Port 0 cannot be connected to; expected 1 to 65535.")
    host = _ascii_host(parts)
    default = _DEFAULT_PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port in (None, default) else f"{shown}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    url = f"{scheme}://{authority}{_encoded(parts.path or '/')}{_encoded(query)}"
    return Target(url, scheme, host, port or default)


def without_credentials(text: str) -> str:
    """The text with `user:password@` masked, for the ledger and for messages."""
    return re.sub(r"(?<=//)[^/?#]*@", "***@", text)


def _encoded(text: str) -> str:
    """Path or query in normal form: escapes only where they are needed, and in capitals."""

    def escape(match: re.Match[str]) -> str:
        digits = match[1]
        if digits is None:
            return "%25"  # a per cent sign that begins no escape
        character = chr(int(digits, 16))
        return character if character in _UNRESERVED else f"%{digits.upper()}"

    return quote(_ESCAPE.sub(escape, text), safe=_KEPT, errors="surrogatepass")


def _ascii_host(parts: SplitResult) -> str:
    """The host in lower-case ASCII (IDNA 2008 with the UTS 46 mapping, as browsers do)."""
    host = (parts.hostname or "").lower()
    if not host:
        raise InvalidUrl("The URL has no host; expected for example https://example.org/picture.jpg.")
    if ":" in host:  # an IPv6 literal: urlsplit has checked the brackets and the address
        if "%" in host:
            raise InvalidUrl("The URL names a network interface (%) in its IPv6 address, which is not supported.")
        return host
    try:
        ascii_host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise InvalidUrl(f"The host {host!r} is not a valid international name ({error}).") from error
    if len(ascii_host) > 254 or not _HOST_LABELS.fullmatch(ascii_host) or max(map(len, ascii_host.split("."))) > 63:
        raise InvalidUrl(f"The host {host[:80]!r} is not a valid name or address.")
    return ascii_host
