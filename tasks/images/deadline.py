"""Sockets that keep a total deadline.

A timeout of the standard library bounds one `recv`; a server that sends a byte now and then passes it for ever, in
the headers as well as in the body. The sockets here look at one `Deadline` before every `recv`, so whatever reads
from them, header parser or body loop, ends in time. No watcher thread is needed.

State: a `Deadline` belongs to one client and is used by one thread; there is no lock.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Deadline:
    """When the try in hand must be over, and how long the peer may be silent."""

    def __init__(self, silence_s: float) -> None:
        """Args: silence_s: seconds without a byte before a read gives up."""
        self.silence_s = silence_s
        self.expires = 0.0

    def start(self, seconds: float) -> None:
        """Begins a try of at most so many seconds."""
        self.expires = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less when the try is over."""
        return self.expires - time.monotonic()

    def expired(self) -> bool:
        """Whether the total time is used up."""
        return self.remaining() <= 0

    def wait(self) -> float:
        """Seconds that the next read may wait.

        Raises:
            TimeoutError: when the total time is used up.
        """
        left = self.remaining()
        if left <= 0:
            raise TimeoutError("the total time for this try is used up")
        return min(self.silence_s, left)


class DeadlineSocket(socket.socket):
    """A TCP socket whose reads end at a deadline."""

    deadline: Deadline | None = None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Reads into a buffer, waiting no longer than the deadline allows."""
        _set_wait(self, self.deadline)
        return super().recv_into(buffer, nbytes, flags)


class DeadlineSSLSocket(ssl.SSLSocket):
    """The same for TLS; an `SSLContext` makes these when its `sslsocket_class` says so."""

    deadline: Deadline | None = None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Reads into a buffer, waiting no longer than the deadline allows."""
        _set_wait(self, self.deadline)
        return super().recv_into(buffer, nbytes, flags)


def _set_wait(sock: socket.socket, deadline: Deadline | None) -> None:
    if deadline is None:
        return
    wait = deadline.wait()
    # settimeout is a system call; far from the deadline the value stays the same and it is spared.
    if sock.gettimeout() != wait:
        sock.settimeout(wait)
