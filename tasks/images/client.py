"""One try at fetching a URL: what a client promises, and the client on top of requests."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.images import url as urls
from prefect_fanout.tasks.images.address import BlockedAddress, Dialer, Resolver
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.deadline import Deadline, Stopped
from prefect_fanout.tasks.images.failure import RETRIED_STATUS, FetchError, classify, status_kind
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.proxy import checked_proxies, without_user
from prefect_fanout.tasks.images.retry import retry_after_s
from prefect_fanout.tasks.images.transport import Adapter, tls_context

CHUNK_BYTES = 64 * 1024
"""Bytes per read: with what lies in the buffer, at most twice as many more than `max_bytes` are ever taken."""
DRAIN_BYTES = 64 * 1024
"""A rest of this size is read and thrown away, which is cheaper than a new connection; a longer one is cut off."""
DRAIN_S = 1.0
"""Time for that."""
OPEN_CONNECTIONS = 512
"""Idle connections that all workers together keep open: half of the usual limit of 1,024 open files."""
HOSTS_PER_WORKER = 8
"""Hosts to which one worker keeps a connection open; lists that mix more hosts rarely come back to one in time."""
MAX_TEXT_CHARACTERS = 200
"""Characters that are kept of a server's Content-Type and reason phrase: real ones have below 100, http.client takes
60,000."""
DEFAULT_WORKERS = 16
"""Workers when the options name no number. Downloads wait most of the time, so more than the cores; beyond 16, threads
of one interpreter mostly wait for each other."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_QUERY = re.compile(r"\?\S+")  # in an error text, which may repeat a server's words


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response whose whole body was received.

    Attributes:
        status: HTTP status code, always 200.
        final_url: URL that answered, after redirects.
        content_type: The server's Content-Type, cut to MAX_TEXT_CHARACTERS, or None. It is a claim, nothing more.
    """

    status: int
    final_url: str
    content_type: str | None


class Client(Protocol):
    """What the download needs of an HTTP client. One client is used by one thread."""

    def fetch(self, url: str, body: Body) -> Fetched:
        """Makes one try, within the total time and the limits of the options it was made with.

        Args:
            url: URL in normal form.
            body: Empty; receives the bytes.

        Raises:
            FetchError: the try failed; the body holds no or some bytes then.
            RunFailed: this machine cannot go on.
            Stopped: the run was told to stop.
        """

    def close(self) -> None:
        """Closes all connections."""


class ClientFactory:
    """Makes the client of each worker; all of them share the look-ups of host names and the TLS context.

    State: `_context`, made with the first client, guarded by `_lock`; `_stop`, set once.
    """

    def __init__(self, options: ImageOptions, proxies: Mapping[str, str] | None = None) -> None:
        """Prepares for a run.

        Args:
            options: The run's options.
            proxies: Proxy per scheme, and under "no" the hosts without, as `urllib.request.getproxies` gives them.

        Raises:
            UsageError: The client, the certificate bundle or a proxy cannot be used.
        """
        if options.client == "curl":
            raise UsageError("The curl client is not part of this release; use requests (--client requests).")
        if options.ca_bundle is not None:
            tls_context(options.ca_bundle)  # so that a bad file is refused before anything begins
        self._options = options
        self._proxies = checked_proxies(proxies or {})
        self._context: ssl.SSLContext | None = None
        self._stop = threading.Event()
        self._resolver = Resolver()
        self._lock = threading.Lock()

    def __call__(self) -> contextlib.AbstractContextManager[Client]:
        """A new client as a context manager that closes it."""
        with self._lock:
            if self._context is None:
                self._context = tls_context(self._options.ca_bundle)
        made = RequestsClient(self._options, self._resolver, self._context, self._proxies, self._stop)
        return contextlib.closing(made)

    def stop(self) -> None:
        """Has every fetch of every client end soon, with `Stopped`; also those that begin later."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Waits, for a retry.

        Raises:
            Stopped: as soon as the run is told to stop.
        """
        if self._stop.wait(seconds):
            raise Stopped("The run was told to stop.")

    def __getstate__(self) -> tuple[ImageOptions, dict[str, str]]:
        """Leave the credentials of proxies out: they stay in the environments of the processes that have them."""
        return self._options, {name: without_user(proxy) for name, proxy in self._proxies.items()}

    def __setstate__(self, state: tuple[ImageOptions, dict[str, str]]) -> None:
        """Make all that is shared anew. A proxy gets the credentials that this process's own environment has for it."""
        options, proxies = state
        # The one place below flows/ that looks into the environment: nothing else may carry a password to a worker.
        for name, proxy in checked_proxies(urllib.request.getproxies()).items():
            if without_user(proxy) == proxies.get(name):
                proxies[name] = proxy
        self.__init__(options, proxies)  # type: ignore[misc] # the way of a new factory is the only one


class RequestsClient:
    """A client on top of one `requests.Session`, used by one thread.

    What it does not take from requests, and why: redirects (their bodies would be read without a limit), retries
    (the first one waits for nothing), cookies and the environment (time, and items must not influence one another).
    """

    def __init__(
        self,
        options: ImageOptions,
        resolver: Resolver,
        context: ssl.SSLContext,
        proxies: Mapping[str, str],
        stop: threading.Event,
    ) -> None:
        self._options = options
        self._proxies = proxies
        self._deadline = Deadline(options.read_timeout_s, stop)
        self._dialer = Dialer(
            resolver,
            self._deadline,
            connect_timeout_s=options.connect_timeout_s,
            allow_private=options.allow_private,
            allow_unresolved=options.allow_unresolved,
        )
        hosts = max(1, min(HOSTS_PER_WORKER, OPEN_CONNECTIONS // (options.workers or DEFAULT_WORKERS)))
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = Adapter(self._dialer, context, hosts=hosts)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._headers = CaseInsensitiveDict(
            {
                "User-Agent": options.user_agent,
                "Accept": "image/*, */*;q=0.5",
                "Accept-Encoding": "identity",
            }
        )

    def close(self) -> None:
        """Closes all connections."""
        self._session.close()

    def fetch(self, url: str, body: Body) -> Fetched:
        """Makes one try; see `Client.fetch`."""
        try:
            fetched = self._fetch(url, body)
        except FetchError as error:
            if not self._options.keep_queries:
                error.message = _QUERY.sub("", error.message)
                error.final_url = None if error.final_url is None else urls.without_query(error.final_url)
            raise
        if self._options.keep_queries:
            return fetched
        return replace(fetched, final_url=urls.without_query(fetched.final_url))

    def _fetch(self, url: str, body: Body) -> Fetched:
        self._deadline.start(self._options.timeout_s)
        here = url
        for _ in range(self._options.max_redirects + 1):
            response = self._request(here)
            target = self._redirect_target(response, here)
            if target is None:
                return self._receive(response, here, body)
            self._dispose(response)
            here = target
        raise FetchError(
            "too_many_redirects", f"More than {self._options.max_redirects} redirects (max_redirects).", final_url=here
        )

    def _request(self, url: str) -> requests.Response:
        """Sends one request and receives the headers."""
        opened = self._dialer.opened
        try:
            return self._send(url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, BlockedAddress, OSError, ValueError) as error:
            failure = self._classify(error, "response", url)
            if failure.kind != "reset" or self._dialer.opened != opened:
                raise failure from error
        try:
            # The server had closed a connection that was kept open; that is nobody's failure. Once more on a new one.
            return self._send(url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, BlockedAddress, OSError, ValueError) as error:
            raise self._classify(error, "response", url) from error

    def _send(self, url: str) -> requests.Response:
        wait = self._deadline.wait()
        request = requests.PreparedRequest()
        request.method = "GET"
        request.url = url
        request.headers = self._headers
        proxies = self._proxies_for(url) if self._proxies else None
        return self._session.get_adapter(url).send(request, stream=True, timeout=wait, proxies=proxies)

    def _proxies_for(self, url: str) -> dict[str, str]:
        """The proxy for a URL. Its host is looked up here as well, as the proxy's own connections are out of sight."""
        parts = urlsplit(url)
        host, proxy = parts.hostname or "", self._proxies.get(parts.scheme)
        # An ordinary function of its arguments, though its name says environment; typeshed does not list it.
        if proxy is None or urllib.request.proxy_bypass_environment(host, self._proxies):  # type: ignore[attr-defined]
            return {}
        self._dialer.check(host, parts.port or 0)
        return {parts.scheme: proxy}

    def _redirect_target(self, response: requests.Response, here: str) -> str | None:
        """Where a response sends us, checked and in normal form; None when it is not a redirect."""
        location = response.headers.get("Location")
        if response.status_code not in _REDIRECTS or not location:
            return None
        try:
            # Header bytes arrive as Latin-1; sites mean UTF-8.
            text = location.encode("latin-1").decode("utf-8", "replace") if not location.isascii() else location
            there = urljoin(here, text.strip())
            scheme = urlsplit(there).scheme
            if scheme not in ("http", "https"):
                text = "Redirected to a URL that is neither http nor https, which is never fetched."
                raise self._refused(response, "bad_redirect_scheme", text, here)
            target = urls.normalise(there)
        except urls.InvalidUrl as error:
            raise self._refused(response, "bad_redirect", f"Redirected to a bad URL. {error}", here) from None
        except ValueError:  # of urljoin or urlsplit; its text repeats the URL
            raise self._refused(response, "bad_redirect", "Redirected to a URL that cannot be read.", here) from None
        if here.startswith("https:") and scheme == "http" and not self._options.allow_downgrade:
            text = "Redirected from https to http (allow_downgrade)."
            raise self._refused(response, "redirect_downgrade", text, here)
        return target

    def _receive(self, response: requests.Response, here: str, body: Body) -> Fetched:
        """Reads the body of the last response."""
        content_type = _content_type(response)
        status = response.status_code
        if status in (204, 205):
            raise self._refused(response, "empty_body", f"The server sent no content (status {status}).", here)
        if status != 200:
            text = f"The server answered {status} {(response.reason or '')[:MAX_TEXT_CHARACTERS]}".strip()
            failure = self._refused(response, status_kind(status), f"{text}.", here)
            failure.retry = status in RETRIED_STATUS
            failure.retry_after_s = retry_after_s(response.headers) if failure.retry else None
            raise failure
        try:
            self._read(response.raw, body, encoded="Content-Encoding" in response.headers)
        except FetchError as failure:
            failure.status, failure.content_type, failure.final_url = status, content_type, here
            raise
        finally:
            response.raw.close()  # after a whole body the connection is back in its pool already
            response.raw.release_conn()
        return Fetched(status, here, content_type)

    def _read(self, raw: Any, body: Body, *, encoded: bool) -> None:
        """Copies the body, up to the limit."""
        limit = self._options.max_bytes
        announced = raw.length_remaining
        if announced is not None and announced > limit:
            raise FetchError("too_large", f"The server announces {announced:,} bytes, over {limit:,} (max_bytes).")
        while True:
            try:
                data = raw.read(CHUNK_BYTES, decode_content=encoded)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise self._classify(error, "body", None) from error
            if not data:
                break
            if body.size + len(data) > limit:
                kind = "decode_bomb" if encoded else "too_large"
                raise FetchError(kind, f"The body has more than {limit:,} bytes (max_bytes).")
            body.write(data)
        if not body.size:
            raise FetchError("empty_body", "The server answered with an empty body.")

    def _refused(self, response: requests.Response, kind: str, message: str, here: str) -> FetchError:
        """The failure that a response means; frees its connection."""
        self._dispose(response)
        content_type, status = _content_type(response), response.status_code
        return FetchError(kind, message, status=status, content_type=content_type, final_url=here)

    def _dispose(self, response: requests.Response) -> None:
        """Frees the connection of a response whose body is not wanted; keeps it open when that is cheap."""
        raw = response.raw
        rest = raw.length_remaining
        expires = self._deadline.expires
        try:
            if rest is not None and rest <= DRAIN_BYTES:
                self._deadline.start(min(DRAIN_S, self._deadline.remaining()))
                raw.read(DRAIN_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            pass  # nobody waits for these bytes: the connection is closed below, which is the whole outcome
        finally:
            self._deadline.expires = expires
            raw.close()
            raw.release_conn()

    def _classify(self, error: BaseException, phase: str, url: str | None) -> FetchError:
        failure = classify(error, phase=phase, total_over=self._deadline.expired())
        failure.final_url = url
        return failure


def _content_type(response: requests.Response) -> str | None:
    text: str | None = response.headers.get("Content-Type")
    return None if text is None else text[:MAX_TEXT_CHARACTERS]
