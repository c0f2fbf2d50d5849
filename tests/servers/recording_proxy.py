"""An HTTP proxy that notes every target it is asked for, and for which every host leads to one server inside."""

from __future__ import annotations

import select
import socket
from urllib.parse import urlsplit

from servers.fault_server import Exchange, FaultServer

BLOCK_BYTES = 64 * 1024


class RecordingProxy(FaultServer):
    """A proxy on loopback, as one in a network that reads hosts in its own way and has its own names.

    It asks `inside` whatever the host is called: the worst that any spelling or name can lead to.

    Attributes:
        asked: Method and target of each request that arrived, such as "CONNECT example.org:443".
    """

    def __init__(self, inside: FaultServer) -> None:
        super().__init__(fallback=self._forward)
        self.asked: list[str] = []
        self._inside = inside

    def _forward(self, exchange: Exchange) -> None:
        self.asked.append(f"{exchange.method} {exchange.target}")
        with socket.create_connection((self._inside.host, self._inside.port)) as inside:
            if exchange.method == "CONNECT":
                exchange.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                path = urlsplit(exchange.target).path or "/"
                inside.sendall(f"GET {path} HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n".encode("latin-1"))
            self._relay(exchange, inside)

    def _relay(self, exchange: Exchange, inside: socket.socket) -> None:
        """Carry bytes both ways until one side ends."""
        other = {exchange.connection: inside, inside: exchange.connection}
        while True:
            ready, _, _ = select.select([*other, self.ended], [], [])
            for source in ready:
                data = b"" if source is self.ended else source.recv(BLOCK_BYTES)
                if not data:
                    return
                other[source].sendall(data)
