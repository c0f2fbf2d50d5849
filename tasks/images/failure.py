"""What can become of one try, as a kind that counts can be made of and a sentence that a person can act on."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3.exceptions

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.images.address import BlockedAddress

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""Status codes that may be different a moment later. 520 to 524 are those of a large content network."""

# What the system says when this machine, not the item, is at fault.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTDOWN})
_RESET = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ESHUTDOWN})
# X509_V_ERR_* of OpenSSL, which the ssl module does not name.
_CERTIFICATE_KINDS = {
    9: "tls_not_yet_valid",
    10: "tls_expired",
    18: "tls_self_signed",
    19: "tls_unknown_ca",
    20: "tls_unknown_ca",
    21: "tls_unknown_ca",
    62: "tls_wrong_host",
    64: "tls_wrong_host",
}


@dataclass(eq=False)
class FetchError(Exception):
    """One try failed.

    Attributes:
        kind: Short slug, for counts.
        message: A sentence: what was expected, what was got, what to do.
        retry: Whether another try may go better.
        retry_after_s: Seconds that the server asked to wait, or None.
        status: HTTP status code, where there was one.
        content_type: The server's Content-Type, where there was one.
        final_url: The URL that failed, after redirects.
    """

    kind: str
    message: str
    retry: bool = False
    retry_after_s: float | None = None
    status: int | None = None
    content_type: str | None = None
    final_url: str | None = None

    def __str__(self) -> str:
        return self.message


def status_kind(status: int) -> str:
    """The kind of a response that is not the image: http_4xx and the like, rate_limited for 429."""
    if status == 429:
        return "rate_limited"
    return f"http_{status // 100}xx" if 100 <= status < 600 else "http_other"


def classify(error: BaseException, *, phase: str, total_over: bool) -> FetchError:
    """Says in this project's words what an exception of requests, urllib3, http.client, ssl or socket means.

    Args:
        error: What was raised.
        phase: "response" until the headers are here, then "body".
        total_over: Whether the total time of the try is used up.

    Raises:
        RunFailed: when this machine ran out of files or memory: no item can be fetched, so no item is to blame.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _EXHAUSTED:
            raise RunFailed(
                f"No connection can be opened: {cause}. Use fewer workers or raise the limit of open files "
                "(ulimit -n), then start the run again with the same folder; finished items are not repeated."
            ) from cause
    if isinstance(error, BlockedAddress):
        # The name server may answer in a moment; an address does not change.
        lookup = error.__cause__
        passing = isinstance(lookup, TimeoutError) or getattr(lookup, "errno", None) == socket.EAI_AGAIN
        return FetchError("blocked_address", str(error), retry=passing)
    if total_over:
        return FetchError("timeout_total", "The total time for one try was used up (timeout_s).")
    if any(type(cause) is urllib3.exceptions.ConnectTimeoutError for cause in causes):
        # Before the innermost cause: that is a plain TimeoutError, which means silence anywhere else.
        return FetchError("timeout_connect", "No connection in time (connect_timeout_s).", retry=True)
    for cause in causes:
        found = _of_cause(cause, phase)
        if found is not None:
            return found
    return FetchError("bad_response", f"The server's answer could not be understood ({_innermost(causes)}).")


def _of_cause(cause: BaseException, phase: str) -> FetchError | None:
    match cause:
        case socket.gaierror():
            again = cause.errno == socket.EAI_AGAIN
            text = f"The host name could not be looked up ({cause.strerror})."
            return FetchError("dns_temporary" if again else "dns", text, retry=again)
        case ssl.SSLCertVerificationError():
            kind = _CERTIFICATE_KINDS.get(cause.verify_code, "tls_certificate")
            return FetchError(kind, f"The server's certificate is not trusted ({cause.verify_message}).")
        case ssl.SSLError():
            return FetchError("tls_handshake", f"No secure connection could be made ({cause.reason or cause}).")
        case ConnectionRefusedError():
            return FetchError("refused", "The server refuses connections on this port.", retry=True)
        case http.client.IncompleteRead():
            return FetchError("truncated", "The body ended before its announced end.", retry=True)
        case TimeoutError():
            kind = "timeout_first_byte" if phase == "response" else "timeout_read"
            return FetchError(kind, "The server was silent for too long (read_timeout_s).", retry=True)
        case OSError() if cause.errno in _UNREACHABLE:
            return FetchError("unreachable", f"No way to the host ({cause.strerror}).", retry=True)
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return FetchError("reset", "The server closed the connection in the middle.", retry=True)
        case OSError() if cause.errno in _RESET:
            return FetchError("reset", "The connection broke in the middle.", retry=True)
        case urllib3.exceptions.DecodeError():
            if "Too many content encodings" in str(cause):
                return FetchError("decode_bomb", "The body is encoded too many times over.")
            return FetchError("bad_encoding", f"The body is not what its Content-Encoding says ({cause}).")
        case urllib3.exceptions.LocationParseError() | UnicodeError():
            return FetchError("invalid_url", "The URL cannot be requested.")  # the cause repeats it
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all it wraps, innermost first: requests and urllib3 keep the cause in four different places."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop(0)
        if any(cause is known for known in seen):
            continue
        seen.append(cause)
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__]
        waiting += [part for part in inner if isinstance(part, BaseException)]
    return reversed(seen)


def _innermost(causes: list[BaseException]) -> str:
    cause = causes[0]
    return f"{type(cause).__name__}: {str(cause)[:200]}"
