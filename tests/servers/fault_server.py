"""A web server that misbehaves on demand: one path, one behaviour.

A real threaded server on loopback with a port of its own. It is ready when `with FaultServer() as server` begins (the
socket listens before the thread starts) and every thread of it has ended when the block ends. A handler that must hold
the client waits for the client's disconnection or for the server's end, never for a clock.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

Handler = Callable[["Exchange"], bool | None]
"""Answers one request; True keeps the connection open for the next one."""

MAX_HEAD_BYTES = 64 * 1024


class Exchange:
    """One request, and the raw connection to answer it on."""

    def __init__(self, server: FaultServer, connection: socket.socket, head: bytes, number: int) -> None:
        self.server = server
        self.connection = connection
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target = lines[0].split(" ")[:2]
        self.path = self.target.partition("?")[0]
        self.headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        self.number = number
        """How often this path was asked for, from 1."""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> bool:
        """A well-formed answer; underscores in header names become hyphens."""
        named = {"Content_Length": str(len(body)), "Content_Type": "image/jpeg"} | headers
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body)
        return True

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def until_gone(self, every_s: float = 60.0) -> bool:
        """Waits until the client or the server ends (False), or so many seconds (True: go on)."""
        ready, _, _ = select.select([self.connection, self.server.ended], [], [], every_s)
        return not ready


class FaultServer:
    """Serves handlers by path until its `with` block ends."""

    def __init__(
        self,
        routes: dict[str, Handler] | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        fallback: Handler | None = None,
    ) -> None:
        self.routes: dict[str, Handler] = dict(routes or {})
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._tls = tls
        self._fallback = fallback or _missing
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self._listener.getsockname()[1]
        self.host = host
        self.ended, self._end = socket.socketpair()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def __enter__(self) -> FaultServer:
        self._acceptor = threading.Thread(target=self._accept, name="fault-server")
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.close()  # `ended` becomes readable for everybody who waits
        self._acceptor.join()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self.ended.close()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self.ended], [], [])
            if self.ended in ready:
                return
            connection, _ = self._listener.accept()
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), name="fault-connection")
            self._threads = [known for known in self._threads if known.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._tls is not None:
                    connection.settimeout(10)  # a client that never finishes its handshake must not hold us
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    connection.settimeout(None)
                while self._serve_one(connection):
                    pass
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the client went away, or refused our certificate: tests look at the client's side
            finally:
                connection.close()

    def _serve_one(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
            ready = [connection] if pending else select.select([connection, self.ended], [], [])[0]
            if self.ended in ready:
                return False
            data = connection.recv(MAX_HEAD_BYTES)
            if not data or len(head) > MAX_HEAD_BYTES:
                return False
            if data[:1] == b"\x16" and not head:  # the beginning of a TLS handshake on a plain port
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return False
            head += data
        with self._lock:
            path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
            self.requests[path] += 1
            exchange = Exchange(self, connection, head, self.requests[path])
        handler = self.routes.get(exchange.path, self._fallback)
        return bool(handler(exchange))


def _missing(exchange: Exchange) -> bool:
    return exchange.answer(b"<html>no such page</html>", "404 Not Found", Content_Type="text/html")


def open_files() -> int:
    """Open files and sockets of this process."""
    return len(list(Path("/dev/fd").iterdir()))


def body(data: bytes, status: str = "200 OK", **headers: str) -> Handler:
    """A handler that always gives the same well-formed answer."""
    return lambda exchange: exchange.answer(data, status, **headers)


def redirect(location: str, status: str = "302 Found") -> Handler:
    """A handler that sends the client elsewhere."""
    return lambda exchange: exchange.answer(b"moved", status, Location=location)


def raw(*parts: bytes) -> Handler:
    """A handler that sends these bytes as they are, then ends the connection."""

    def handle(exchange: Exchange) -> None:
        for part in parts:
            exchange.send(part)

    return handle


def drip(head: bytes, every_s: float = 0.02, byte: bytes = b"x") -> Handler:
    """A handler that sends some bytes, then one byte at a time for as long as the client stays."""

    def handle(exchange: Exchange) -> None:
        exchange.send(head)
        while exchange.until_gone(every_s):
            exchange.send(byte)

    return handle


def endless(head: bytes, block: bytes = b"x" * 65_536) -> Handler:
    """A handler that sends for as long as the client reads."""

    def handle(exchange: Exchange) -> None:
        exchange.send(head)
        while True:
            exchange.send(block)

    return handle


def silent(exchange: Exchange) -> None:
    """A handler that never answers."""
    while exchange.until_gone():
        pass


def first_then(*handlers: Handler) -> Handler:
    """A handler that behaves like the first at the first request, and so on; the last one stays."""

    def handle(exchange: Exchange) -> bool | None:
        return handlers[min(exchange.number, len(handlers)) - 1](exchange)

    return handle
