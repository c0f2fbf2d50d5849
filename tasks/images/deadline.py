"""Sockets that keep a total deadline, and that let go when the run is told to stop.

A timeout of the standard library bounds one `recv`; a server that sends a byte now and then passes it for ever, in
the headers as well as in the body. The sockets here look at one `Deadline` before every `recv`, so whatever reads
from them, header parser or body loop, ends in time. No watcher thread is needed.

State: a `Deadline` belongs to one client and is used by one thread; only its `stop` event is set from elsewhere.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STOP_CHECK_S = 0.5
"""How often a read that waits looks whether the run was told to stop."""


class Stopped(Exception):
    """The run was told to stop while an item was being fetched; the item is not done and not to blame."""


class Deadline:
    """When the try in hand must be over, and how long the peer may be silent."""

    def __init__(self, silence_s: float, stop: threading.Event | None = None) -> None:
        """Prepares.

        Args:
            silence_s: Seconds without a byte before a read gives up.
            stop: Set when the run is told to stop.
        """
        self.silence_s = silence_s
        self.expires = 0.0
        self._stop = stop or threading.Event()

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
        """Seconds that the next step may wait.

        Raises:
            TimeoutError: when the total time is used up.
            Stopped: when the run was told to stop.
        """
        if self._stop.is_set():
            raise Stopped("The run was told to stop.")
        left = self.remaining()
        if left <= 0:
            raise TimeoutError("the total time for this try is used up")
        return min(self.silence_s, left)

    def receive(self, sock: socket.socket, read: Callable[[], int]) -> int:
        """Reads from a socket as soon as there is something, within all limits.

        Raises:
            TimeoutError: when the peer was silent for too long, or the total time is used up.
            Stopped: when the run was told to stop.
        """
        silent_until = time.monotonic() + self.wait()
        while True:
            wait = min(STOP_CHECK_S, max(silent_until - time.monotonic(), 0.001))
            # settimeout is a system call; far from the deadline the value stays the same and it is spared.
            if sock.gettimeout() != wait:
                sock.settimeout(wait)
            try:
                return read()
            except TimeoutError:
                if time.monotonic() >= silent_until:
                    raise
                self.wait()  # only to look whether the run was told to stop


class DeadlineSocket(socket.socket):
    """A TCP socket whose reads end at a deadline."""

    deadline: Deadline | None = None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Reads into a buffer, waiting no longer than the deadline allows."""
        read = super().recv_into
        if self.deadline is None:
            return read(buffer, nbytes, flags)
        return self.deadline.receive(self, lambda: read(buffer, nbytes, flags))


class DeadlineSSLSocket(ssl.SSLSocket):
    """The same for TLS; an `SSLContext` makes these when its `sslsocket_class` says so."""

    deadline: Deadline | None = None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Reads into a buffer, waiting no longer than the deadline allows."""
        read = super().recv_into
        if self.deadline is None:
            return read(buffer, nbytes, flags)
        return self.deadline.receive(self, lambda: read(buffer, nbytes, flags))
