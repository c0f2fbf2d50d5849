"""From a line of a list to a URL that can be fetched, and to the key that says when two URLs are the same."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

import idna

MAX_URL_CHARACTERS = 8_192
"""Longest URL that is tried. Servers commonly refuse request lines over 8 KiB (nginx: 4 buffers of 8 KiB)."""
DIGEST_BYTES = 16
"""Bytes of a query's digest: 128 bits, for which two queries of one list never share one."""
MAX_HOST_CHARACTERS = 253
"""Longest host name without its final dot (RFC 1035: 255 bytes with the length bytes of the labels)."""

LEFT_OUT = "?***"
"""Stands for a query in places where it must not be kept, such as the parameters of a flow run."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Schemes that people put into lists. Of any other one nothing is repeated: in `user:password@host` it is the user name.
_KNOWN_SCHEMES = frozenset({"about", "blob", "data", "file", "ftp", "ftps", "gs", "javascript", "mailto", "s3", "sftp"})
# All that reads as an at-sign: itself, characters that Unicode's NFKC makes one, and escapes of URLs and JSON.
_AT_SIGN = re.compile("@|\ufe6b|\uff20|%(?:25)*40|\\\\u(?:0040|fe6b|ff20)", re.IGNORECASE)
_SCHEME = re.compile(r"\s*https?:[/\\]*", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_HOST_LABELS = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# A host whose last label is a number is an IPv4 address or nothing (URL Standard, "ends in a number").
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_NUMBER = re.compile(r"0x(?P<hex>[0-9a-f]*)|0(?P<octal>[0-7]*)|(?P<decimal>[1-9][0-9]*)")
# What most URLs look like; a match is in normal form already and needs none of the work below. The last label begins
# with a letter: a host that ends in a number may be an address in another spelling.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LAST_LABEL = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN = re.compile(rf"https?://(?:{_LABEL}\.){{0,3}}{_LAST_LABEL}/[A-Za-z0-9._~/=&+-]*(?:\?[A-Za-z0-9._~/=&+-]+)?")
_ESCAPE = re.compile(r"%(?:([0-9A-Fa-f]{2}))?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters of path and query that are sent as they are, besides the unreserved ones (RFC 3986, and brackets).
_KEPT = "!$%&'()*+,/:;=?@[]~"


class InvalidUrl(ValueError):
    """A text that is not a URL this project fetches; the message says why, and repeats nothing of the text."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in normal form.

    Attributes:
        url: What is requested: scheme and host in lower case, host in ASCII and without a final dot, an IPv4 address as
            four decimal numbers, no default port, no fragment.
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
    # Nothing of the text may get into a message or the cause of an error: any part of it may be a password.
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InvalidUrl("The URL's host cannot be read; check its brackets and its special characters.") from None
    try:
        port = parts.port
    except ValueError:
        raise InvalidUrl("The URL's port cannot be read; expected a number from 1 to 65535.") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        got = f"{scheme}:" if scheme in _KNOWN_SCHEMES else "another scheme" if scheme else "none"
        raise InvalidUrl(f"Expected a URL that starts with http:// or https://, got {got}.")
    # A password may begin with a slash: http://user:/word@host.
    if "@" in parts.netloc or (parts.netloc.endswith(":") and "@" in text):
        raise InvalidUrl("The URL holds a user name or password, which would be written to the ledger; remove it.")
    if parts.query == LEFT_OUT[1:]:
        raise InvalidUrl("The URL's query was left out of a record (keep_queries=False); give the original list again.")
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
    """Return a text that may be a URL with all that may be a user name or password masked.

    Of a text that is no valid URL, everything up to its last at-sign goes, except the scheme: a password with a slash,
    a missing slash or a wrong port make it impossible to say where the credentials end. A valid URL holds none.

    Args:
        text: Any text; the whole of it, as a cut text may have lost its at-sign.
    """
    last = 0
    for sign in _AT_SIGN.finditer(text):
        last = sign.end()
    if not last or _is_valid(text):
        return text
    scheme = _SCHEME.match(text, 0, last)
    return f"{scheme[0] if scheme else ''}***@{text[last:]}"


def without_query(text: str) -> str:
    """Return a URL without its query and fragment."""
    return re.split("[?#]", text, maxsplit=1)[0]


def digest_key(url: str) -> str:
    """Return a URL in normal form with its query replaced by a digest, which keeps it apart from others."""
    base, mark, query = url.partition("?")
    if not mark:
        return url
    return f"{base}?digest={hashlib.blake2b(query.encode(), digest_size=DIGEST_BYTES).hexdigest()}"


def _is_valid(text: str) -> bool:
    try:
        normalise(text)
    except InvalidUrl:
        return False
    return True


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
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise InvalidUrl("The URL's host is not a valid international name.") from None
    # The final dot goes: some proxies read `127.0.0.1.` as the address, while no look-up on this machine finds it.
    host = host.removesuffix(".")
    if len(host) > MAX_HOST_CHARACTERS or not _HOST_LABELS.fullmatch(host) or max(map(len, host.split("."))) > 63:
        raise InvalidUrl("The URL's host is not a valid name or address.")
    return _ipv4(host) if _NUMERIC_END.fullmatch(host) else host


def _ipv4(host: str) -> str:
    """Return the IPv4 address that browsers read in a host that ends in a number, as four decimal numbers.

    One to four numbers, each decimal, octal (`0...`) or hexadecimal (`0x...`); the last one fills the remaining bytes.
    Proxies read hosts in this way too, so the guard must judge the same address.

    Source: the IPv4 parser of the URL Standard (url.spec.whatwg.org).

    Raises:
        InvalidUrl: The host ends in a number and is no such address.
    """
    parts = [_NUMBER.fullmatch(part) for part in host.split(".")]
    numbers = [_value(part) for part in parts if part is not None]
    last_bytes = 5 - len(parts)
    if len(numbers) < len(parts) or last_bytes < 1 or max(numbers[:-1], default=0) > 255:
        raise InvalidUrl("The URL's host ends in a number, but is not an IPv4 address.")
    if numbers[-1] >= 256**last_bytes:
        raise InvalidUrl("The URL's host ends in a number that is too large for an IPv4 address.")
    leading = sum(number << 8 * (3 - position) for position, number in enumerate(numbers[:-1]))
    return str(ipaddress.IPv4Address(leading + numbers[-1]))


def _value(number: re.Match[str]) -> int:
    if number["decimal"]:
        return int(number["decimal"])
    return int(number["hex"] or "0", 16) if number["octal"] is None else int(number["octal"] or "0", 8)
