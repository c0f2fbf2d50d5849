"""Which addresses are public: the table, with both ends of every block and their neighbours."""

from __future__ import annotations

import socket

import pytest

from prefect_fanout.tasks.images.special_address import GLOBAL_UNICAST, SPECIAL_V4, SPECIAL_V6, is_public

# First and last address of each block that is refused, and whether the address before and the one after are public.
BLOCKS_V4 = [
    ("0.0.0.0", "0.255.255.255", None, True),
    ("10.0.0.0", "10.255.255.255", True, True),
    ("100.64.0.0", "100.127.255.255", True, True),
    ("127.0.0.0", "127.255.255.255", True, True),
    ("168.63.129.16", "168.63.129.16", True, True),
    ("169.254.0.0", "169.254.255.255", True, True),
    ("172.16.0.0", "172.31.255.255", True, True),
    ("192.0.0.0", "192.0.0.255", True, True),
    ("192.0.2.0", "192.0.2.255", True, True),
    ("192.31.196.0", "192.31.196.255", True, True),
    ("192.52.193.0", "192.52.193.255", True, True),
    ("192.88.99.0", "192.88.99.255", True, True),
    ("192.168.0.0", "192.168.255.255", True, True),
    ("192.175.48.0", "192.175.48.255", True, True),
    ("198.18.0.0", "198.19.255.255", True, True),
    ("198.51.100.0", "198.51.100.255", True, True),
    ("203.0.113.0", "203.0.113.255", True, True),
    ("224.0.0.0", "239.255.255.255", True, False),
    ("240.0.0.0", "255.255.255.255", False, None),
]
BLOCKS_V6 = [
    ("::", "::fffe:ffff:ffff", None, False),  # up to the mapped addresses, of which the first is 0.0.0.0
    ("::1:0:0:0", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", False, False),  # up to those of NAT64
    ("64:ff9b:0:0:0:1:0:0", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", False, True),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", True, True),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", True, True),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", True, True),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", True, True),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", True, None),
]
ONE_BY_ONE = [
    ("8.8.8.8", True),
    ("1.1.1.1", True),
    ("93.184.216.34", True),
    ("169.254.169.254", False),
    ("100.100.100.200", False),
    ("192.0.0.9", False),
    ("192.0.0.10", False),
    ("192.0.0.192", False),
    ("192.88.99.1", False),
    ("192.88.99.2", False),
    ("255.255.255.255", False),
    ("::1", False),
    ("::127.0.0.1", False),
    ("::8.8.8.8", False),
    ("::ffff:127.0.0.1", False),
    ("::ffff:168.63.129.16", False),
    ("::ffff:1.1.1.1", True),
    ("::ffff:0:1.1.1.1", False),
    ("64:ff9b::7f00:1", False),
    ("64:ff9b::a9fe:a9fe", False),
    ("64:ff9b::101:101", True),
    ("64:ff9b:1::101:101", False),
    ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", False),
    ("100::1", False),
    ("100:0:0:1::1", False),
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),
    ("2001:0:808:808::f7f7:f7f7", False),
    ("2001:1::1", False),
    ("2001:20::1", False),
    ("2001:4860:4860::8888", True),
    ("2606:4700::1111", True),
    ("2002:7f00:1::", False),
    ("2002:a9fe:a9fe::1", False),
    ("2002:c0a8:101::", False),
    ("2002:808:808::1", True),
    ("3fff::1", False),
    ("5f00::1", False),
    ("fd00:ec2::254", False),
    ("fe80::1", False),
    ("fe80::1%eth0", False),
    ("fec0::1", False),
    ("ff02::1", False),
    ("ff0e::1", False),
]


def neighbours(first: str, last: str) -> tuple[str | None, str | None]:
    """The addresses before the first and after the last, or None at the end of the address space."""
    family, most = (socket.AF_INET6, 2**128) if ":" in first else (socket.AF_INET, 2**32)
    size = 16 if family == socket.AF_INET6 else 4

    def step(text: str, by: int) -> str | None:
        number = int.from_bytes(socket.inet_pton(family, text), "big") + by
        return socket.inet_ntop(family, number.to_bytes(size, "big")) if 0 <= number < most else None

    return step(first, -1), step(last, 1)


@pytest.mark.parametrize(("first", "last", "before", "after"), BLOCKS_V4 + BLOCKS_V6)
def test_both_ends_of_a_block_are_refused(first: str, last: str, before: bool | None, after: bool | None) -> None:
    """A block is refused from its first address to its last, and its neighbours are what the table says."""
    assert not is_public(first)
    assert not is_public(last)
    for text, expected in zip(neighbours(first, last), (before, after), strict=True):
        assert (None if text is None else is_public(text)) is expected, text


@pytest.mark.parametrize(("text", "public"), ONE_BY_ONE)
def test_a_well_known_address(text: str, public: bool) -> None:
    """Each address with a story of its own is judged as it should be, on every Python."""
    assert is_public(text) is public


def test_every_block_of_the_table_has_its_test() -> None:
    """No block can be added or lost without the list of its ends above."""
    assert [str(block[0]) for block, _ in SPECIAL_V4] == [first for first, *_ in BLOCKS_V4]
    assert {str(block[0]) for block, _ in SPECIAL_V6} <= {first for first, *_ in BLOCKS_V6}
    assert str(GLOBAL_UNICAST) == "2000::/3"
