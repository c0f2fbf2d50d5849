"""Where a host name leads, and whether a connection there is allowed.

The guard looks at the addresses that the one look-up gave and connects to those very addresses, so a name that
resolves differently a moment later (rebinding) gains nothing. It runs for every connection: after a redirect and
after a reconnect too.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from dataclasses import dataclass, field

from prefect_fanout.tasks.images.deadline import Deadline, DeadlineSocket
from prefect_fanout.tasks.images.special_address import is_public

POSITIVE_TTL_S = 60.0
"""How long an answer is kept. getaddrinfo does not tell the record's own life; a minute follows common resolvers."""
NEGATIVE_TTL_S = 60.0
"""How long "no such host" is kept: lists name a dead host many times in a row."""
MAX_CACHED_HOSTS = 10_000
MAX_LOOKUPS = 64
"""Look-ups under way at once, each in a thread of its own, because getaddrinfo knows no timeout."""
MAX_ADDRESSES = 8
"""Addresses of one host that are tried before the host counts as dead."""

SocketAddress = tuple[str, *tuple[int, ...]]


class BlockedAddress(Exception):
    """The host leads to addresses that are not public, or, behind a proxy, its addresses cannot be known here."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a host, ready for `socket.connect`."""

    family: socket.AddressFamily
    address: SocketAddress


@dataclass(slots=True)
class _Lookup:
    """One look-up, shared by everybody who waits for the same host."""

    done: threading.Event = field(default_factory=threading.Event)
    endpoints: tuple[Endpoint, ...] = ()
    error: OSError | UnicodeError | None = None
    expires: float = 0.0


class Resolver:
    """getaddrinfo with a time limit, a cache and one look-up per host at a time.

    State: `_cache`, guarded by `_lock`; a `_Lookup` is written by its own thread before `done` is set.

    Cancellation and shutdown: look-ups run in daemon threads that end with their getaddrinfo, so there is
    nothing to close.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, int], _Lookup] = {}
        self._slots = threading.BoundedSemaphore(MAX_LOOKUPS)

    def resolve(self, host: str, port: int, timeout_s: float) -> tuple[Endpoint, ...]:
        """The addresses of a host, in the order the system prefers.

        Raises:
            socket.gaierror: when there is no such host, or the name server fails.
            TimeoutError: when the answer does not come in time; the look-up goes on for those who ask later.
        """
        if _is_literal(host):
            return _endpoints(host, port)
        key = (host, port)
        with self._lock:
            lookup = self._cache.get(key)
            ours = lookup is None or (lookup.done.is_set() and lookup.expires < time.monotonic())
            if lookup is None or ours:
                self._cache.pop(key, None)
                while len(self._cache) >= MAX_CACHED_HOSTS:
                    self._cache.pop(next(iter(self._cache)))
                lookup = self._cache[key] = _Lookup()
        if ours:
            self._start(lookup, key, timeout_s)
        if not lookup.done.wait(timeout_s):
            raise TimeoutError(f"the look-up of {host} took longer than {timeout_s:g} s")
        if lookup.error is not None:
            raise type(lookup.error)(*lookup.error.args)  # a copy: other threads raise theirs
        return lookup.endpoints

    def _start(self, lookup: _Lookup, key: tuple[str, int], timeout_s: float) -> None:
        """Starts the look-up's thread once there is room for it."""
        if not self._slots.acquire(timeout=timeout_s):
            self._fail(lookup, TimeoutError(f"{MAX_LOOKUPS} other look-ups are still waiting for the name server"))
            return
        try:
            threading.Thread(target=self._run, args=(lookup, key), name=f"lookup-{key[0]}", daemon=True).start()
        except RuntimeError as error:  # "can't start new thread": the one who waits must not wait in vain
            self._slots.release()
            self._fail(lookup, OSError(f"no thread for the look-up of {key[0]}: {error}"))

    def _run(self, lookup: _Lookup, key: tuple[str, int]) -> None:
        try:
            lookup.endpoints = _endpoints(*key)
            lookup.expires = time.monotonic() + POSITIVE_TTL_S
            lookup.done.set()
        except (OSError, UnicodeError) as error:
            # A name server that fails now may work in a moment: only a definite "no such host" is kept.
            definite = isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
            self._fail(lookup, error, NEGATIVE_TTL_S if definite else 0.0)
        finally:
            self._slots.release()

    @staticmethod
    def _fail(lookup: _Lookup, error: OSError | UnicodeError, ttl_s: float = 0.0) -> None:
        lookup.error = error
        lookup.expires = time.monotonic() + ttl_s
        lookup.done.set()


class Dialer:
    """Opens the connections of one client, guarded and in time.

    `opened` counts them, so that the client can tell a fresh connection from one that was kept alive.
    """

    def __init__(
        self,
        resolver: Resolver,
        deadline: Deadline,
        *,
        connect_timeout_s: float,
        allow_private: bool,
        allow_unresolved: bool = False,
    ) -> None:
        self.deadline = deadline
        self.opened = 0
        self._resolver = resolver
        self._connect_timeout_s = connect_timeout_s
        self._allow_private = allow_private
        self._allow_unresolved = allow_unresolved

    def check(self, host: str, port: int) -> None:
        """Refuse a host that a proxy is to be asked for, unless all its addresses are public.

        The proxy looks the name up by itself and chooses among the addresses, so one private address is enough to
        refuse the host, and a name that cannot be looked up here may lead anywhere.

        Args:
            host: Name or literal address in normal form, without brackets.
            port: TCP port.

        Raises:
            BlockedAddress: The host leads to a private address, or cannot be looked up and `allow_unresolved` is off.
        """
        if self._allow_private:
            return
        wait = min(self._connect_timeout_s, self.deadline.wait())
        try:
            endpoints = self._resolver.resolve(host, port, wait)
        except (OSError, UnicodeError) as error:
            if self._allow_unresolved:
                return
            reason = getattr(error, "strerror", None) or error
            raise BlockedAddress(
                f"{host} cannot be looked up here ({reason}), so only the proxy knows where it leads. "
                "Use --allow-unresolved (allow_unresolved=True) to leave the check of such names to the proxy, which "
                "must then refuse private addresses itself."
            ) from error
        if len(_allowed(host, endpoints)) < len(endpoints):
            raise BlockedAddress(
                f"{host} leads to private addresses as well as to public ones, and the proxy may choose any of them. "
                "Use --allow-private (allow_private=True) if that is meant."
            )

    def dial(self, host: str, port: int, *, guarded: bool) -> DeadlineSocket:
        """Connects to the first address of the host that is allowed and answers.

        Args:
            host: Name or literal address, without brackets.
            port: TCP port.
            guarded: False for a proxy that the operator named: it may well be on the own network.

        Raises:
            BlockedAddress: when no address of the host may be connected to.
            OSError: socket.gaierror, TimeoutError, ConnectionRefusedError and the like, of the last address tried.
        """
        until = time.monotonic() + min(self._connect_timeout_s, self.deadline.wait())
        endpoints = self._resolver.resolve(host, port, until - time.monotonic())
        if guarded and not self._allow_private:
            endpoints = _allowed(host, endpoints)
        endpoints = endpoints[:MAX_ADDRESSES]
        self.opened += 1
        failure: OSError = TimeoutError(f"no time was left to connect to {host}")
        for position, end in enumerate(endpoints):
            # Each address gets an equal share of the time left: a dead first one (often IPv6) leaves time for the rest.
            share = (until - time.monotonic()) / (len(endpoints) - position)
            if share <= 0:
                break
            sock = DeadlineSocket(end.family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(share)
                sock.connect(end.address)
            except OSError as error:
                sock.close()
                failure = error
                continue
            except BaseException:
                sock.close()
                raise
            sock.settimeout(max(until - time.monotonic(), 0.001))  # what is left is for the TLS handshake
            sock.deadline = self.deadline
            return sock
        raise failure


def _allowed(host: str, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The public ones among the addresses of a host."""
    public = tuple(end for end in endpoints if is_public(end.address[0]))
    if endpoints and not public:
        raise BlockedAddress(
            f"{host} leads to {endpoints[0].address[0]}, which is not on the public internet. "
            "Use --allow-private (allow_private=True) if that is meant."
        )
    return public


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _endpoints(host: str, port: int) -> tuple[Endpoint, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Without IPv6 in this Python, getaddrinfo gives IPv6 addresses as (int, bytes), which nothing can connect to.
    usable = tuple(
        Endpoint(family, (address[0], *address[1:]))
        for family, _, _, _, address in found
        if isinstance(address[0], str)
    )
    if not usable:
        raise socket.gaierror(socket.EAI_NONAME, "it has no address that this Python can connect to")
    return usable
