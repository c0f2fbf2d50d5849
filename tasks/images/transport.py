"""How requests reaches the network here: guarded addresses, one deadline, one TLS context.

A `requests` adapter of its own, for five reasons: the address guard and the deadline must sit where connections are
opened; requests loads the certificate authorities anew for every TLS connection (about 15 ms with OpenSSL 3), so one
context is shared; requests reads whole redirect bodies; and cookies, hooks and the environment cost time per request.
"""

from __future__ import annotations

import functools
import http.client
import io
import re
import socket
import ssl
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import certifi
import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import PoolManager, ProxyManager
from urllib3.util.ssl_ import create_urllib3_context

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.images.address import Dialer
from prefect_fanout.tasks.images.deadline import DeadlineSSLSocket

MAX_INFORMATIONAL = 10
"""1xx responses that are skipped before the real one; more is an attack or a defect."""
MAX_TRAILER_LINES = 100
"""Lines after the last chunk of a body: as many as http.client allows for headers."""
MAX_CHUNK_EXTRA_BYTES = 64 * 1024
"""Chunk extensions and trailers of one response together, in bytes. Servers use neither for images; the limit is that
of one header line."""
READ_BYTES = 64 * 1024
"""Bytes asked of a socket at once: most images on the web are smaller."""


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """A context that verifies certificates and host names, its authorities loaded once, for all threads.

    Args:
        ca_bundle: PEM file; None means the bundle that requests ships.

    Raises:
        UsageError: when the file cannot be read or holds no certificate.
    """
    context: ssl.SSLContext = create_urllib3_context()
    context.sslsocket_class = DeadlineSSLSocket
    try:
        context.load_verify_locations(cafile=str(ca_bundle or certifi.where()))
    except OSError as error:  # ssl.SSLError is an OSError too
        raise UsageError(
            f"The certificate bundle {ca_bundle} cannot be used ({error}); expected a PEM file of certificates."
        ) from error
    return context


class _LargeReads:
    """A socket for `http.client`, which makes a file of it and reads that in pieces of 8 KiB.

    Each read lets another thread have the interpreter and then waits for its turn, so the fewer the better.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: Literal["rb"]) -> io.IOBase:
        return self._sock.makefile(mode, READ_BYTES)


# Hexadecimal digits, without the sign, prefix and underscores that int() accepts; 16 of them are 64 bits. Some servers
# pad the size with blanks. An extension follows a semicolon.
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]{0,16}(;.*)?\r?\n", re.DOTALL)


class _Response(http.client.HTTPResponse):
    """A response that is stricter than the standard library's, in three places.

    It skips every 1xx, of which the standard library skips 100 only and takes 103 for the answer. It takes a chunk size
    only as the standard writes it: `-1` would be read to the end of the stream, into memory. And it bounds the chunk
    extensions and trailers, which no limit on the body counts.

    The overridden methods are the only hooks there are, and typeshed does not list them.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_LargeReads(sock), *args, **kwargs)  # type: ignore[arg-type] # it only calls makefile
        self._extra_bytes = 0

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INFORMATIONAL):
            version, status, reason = super()._read_status()  # type: ignore[misc] # see above
            if not 100 <= status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.BadStatusLine(f"more than {MAX_INFORMATIONAL} informational responses")

    def _read_next_chunk_size(self) -> int:
        """Return the size of the next chunk, in bytes.

        Raises:
            ValueError: There is no size, or one that is not written as the standard says; http.client makes an
                IncompleteRead of it.
            http.client.HTTPException: The line is too long, or there are too many extensions.
        """
        line = self._extra_line("chunk size")
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise ValueError("the size of a chunk is not a hexadecimal number")
        self._count_extra(len(size[2] or b""))
        return int(size[1], 16)

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MAX_TRAILER_LINES + 1):
            line = self._extra_line("trailer")
            if line in (b"\r\n", b"\n", b""):
                return
            self._count_extra(len(line))
        raise http.client.HTTPException(f"more than {MAX_TRAILER_LINES} trailers")

    def _extra_line(self, name: str) -> bytes:
        line = self.fp.readline(MAX_CHUNK_EXTRA_BYTES + 1)
        if len(line) > MAX_CHUNK_EXTRA_BYTES:
            raise http.client.LineTooLong(name)
        return line

    def _count_extra(self, size: int) -> None:
        self._extra_bytes += size
        if self._extra_bytes > MAX_CHUNK_EXTRA_BYTES:
            raise http.client.HTTPException("too many bytes of chunk extensions and trailers")


class _Connection(HTTPConnection):
    """A connection that the dialer opens."""

    response_class = _Response

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return _dial(self, self._dialer, self._dns_host)


class _TLSConnection(HTTPSConnection):
    """The same over TLS."""

    response_class = _Response

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return _dial(self, self._dialer, self._dns_host)

    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError as error:  # the handshake's; urllib3 would take it for a silence after the request
            raise ConnectTimeoutError(self, f"no secure connection in time: {error}") from error
        if isinstance(self.sock, DeadlineSSLSocket):
            self.sock.deadline = self._dialer.deadline


def _dial(connection: HTTPConnection, dialer: Dialer, host: str) -> socket.socket:
    """Opens the socket and speaks of failures in urllib3's own words."""
    name = host.strip("[]")
    try:
        return dialer.dial(name, connection.port, guarded=connection.proxy is None)
    except socket.gaierror as error:
        raise NameResolutionError(name, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, str(error)) from error
    except OSError as error:
        raise NewConnectionError(connection, f"{name}: {error}") from error


class _PoolManager(PoolManager):
    """Pools whose connections go through the dialer."""

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> HTTPConnectionPool:
        pool = super()._new_pool(scheme, host, port, request_context)
        connection = _TLSConnection if scheme == "https" else _Connection
        # Set on the pool, as the key of a pool has no place for a dialer. The pool only ever calls it.
        pool.ConnectionCls = functools.partial(connection, dialer=self._dialer)  # type: ignore[assignment]
        return pool


class _ProxyManager(_PoolManager, ProxyManager):
    """The same through a proxy; the proxy itself may be on the own network."""


def _path_start(url: str) -> int:
    """Where the path begins in a URL in normal form: at the first slash that belongs neither to http:// nor https://."""
    return url.index("/", len("https://"))


class Adapter(requests.adapters.HTTPAdapter):
    """The adapter of one client: used by one thread, closed with its session."""

    def __init__(self, dialer: Dialer, context: ssl.SSLContext, *, hosts: int) -> None:
        """Args: hosts: hosts to which a connection is kept open, at most one each."""
        self._dialer = dialer
        self._context = context
        self._hosts = hosts
        self._origin = ""
        self._pool: Any = None
        super().__init__(pool_connections=hosts, pool_maxsize=1)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        """Makes the pools of connections without a proxy."""
        self.poolmanager = _PoolManager(
            num_pools=connections,
            maxsize=maxsize,
            block=block,
            ssl_context=self._context,
            dialer=self._dialer,
            **kwargs,
        )

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Makes, once, the pools of connections through a proxy."""
        manager = self.proxy_manager.get(proxy)
        if manager is None:
            manager = self.proxy_manager[proxy] = _ProxyManager(
                proxy,
                num_pools=self._hosts,
                maxsize=1,
                proxy_headers=self.proxy_headers(proxy),
                ssl_context=self._context,
                dialer=self._dialer,
                **kwargs,
            )
        return manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """The pool of a request. The last one is kept at hand: lists have long stretches of one host."""
        if proxies:
            return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        url = request.url or ""
        origin = url[: _path_start(url)]
        if self._pool is None or origin != self._origin:
            self._pool = super().get_connection_with_tls_context(request, verify, cert=cert)
            self._origin = origin
        return self._pool

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Host part of the pool's key; the TLS part is the shared context, set when the pools were made."""
        parts = urlsplit(request.url or "")
        return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to do: the shared context verifies, and has its authorities already."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """The request's target; without a proxy that is known without parsing the URL again."""
        url = request.url or ""
        return super().request_url(request, proxies) if proxies else url[_path_start(url) :]

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The parts of a Response that are used here: no cookies, no guess at the text encoding."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers  # urllib3's own mapping ignores case too; a copy costs time and gains nothing
        response.raw = resp
        response.reason = resp.reason
        response.url = req.url or ""
        response.request = req
        return response
