"""The IP addresses that are not on the public internet, in one table that is the same on every Python.

`ipaddress.is_global` follows the table of the Python release at hand, which differs even between patch releases. This
module imports nothing else, so that the table can be run under any interpreter.

Source: the IPv4 and IPv6 Special-Purpose Address Registries and the IPv6 Address Space registry of IANA, as of November
2026, with the registries' own names. Every entry is refused, also those that IANA marks as globally reachable (anycast
services such as AS112 or TURN): none of them serves web pages.
"""

from __future__ import annotations

import ipaddress

SPECIAL_V4 = tuple(
    (ipaddress.IPv4Network(block), name)
    for block, name in (
        ("0.0.0.0/8", "This network"),  # holds 0.0.0.0/32, "This host on this network"
        ("10.0.0.0/8", "Private-Use"),
        ("100.64.0.0/10", "Shared Address Space"),
        ("127.0.0.0/8", "Loopback"),
        ("168.63.129.16/32", "Azure host service"),  # in no registry; reachable from Azure's virtual machines only
        ("169.254.0.0/16", "Link Local"),
        ("172.16.0.0/12", "Private-Use"),
        # Holds 192.0.0.0/29 (IPv4 Service Continuity Prefix), 192.0.0.8 (IPv4 dummy address), 192.0.0.9 (Port Control
        # Protocol Anycast), 192.0.0.10 (TURN Anycast), 192.0.0.170 and .171 (NAT64/DNS64 Discovery), and Oracle's
        # metadata service, 192.0.0.192.
        ("192.0.0.0/24", "IETF Protocol Assignments"),
        ("192.0.2.0/24", "Documentation (TEST-NET-1)"),
        ("192.31.196.0/24", "AS112-v4"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "Deprecated (6to4 Relay Anycast)"),  # holds 192.88.99.2/32, 6a44-relay anycast address
        ("192.168.0.0/16", "Private-Use"),
        ("192.175.48.0/24", "Direct Delegation AS112 Service"),
        ("198.18.0.0/15", "Benchmarking"),
        ("198.51.100.0/24", "Documentation (TEST-NET-2)"),
        ("203.0.113.0/24", "Documentation (TEST-NET-3)"),
        ("224.0.0.0/4", "Multicast"),  # of the IPv4 Address Space registry
        ("240.0.0.0/4", "Reserved"),  # holds 255.255.255.255/32, Limited Broadcast
    )
)

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only part of the IPv6 address space from which IANA has assigned public addresses.

Outside of it, and so refused, are ::/128 (Unspecified Address), ::1/128 (Loopback Address), ::/96 (IPv4-Compatible
Address, deprecated), 64:ff9b:1::/48 (IPv4-IPv6 Translation of the own network), 100::/64 (Discard-Only Address Block),
100:0:0:1::/64 (Dummy IPv6 Prefix), 5f00::/16 (Segment Routing SIDs), fc00::/7 (Unique-Local), fe80::/10 (Link-Local
Unicast), fec0::/10 (Site-Local, deprecated) and ff00::/8 (Multicast). Two blocks outside hold IPv4 addresses; see
`embedded`.
"""

SPECIAL_V6 = tuple(
    (ipaddress.IPv6Network(block), name)
    for block, name in (
        # Holds 2001::/32 (TEREDO), 2001:1::1, ::2, ::3 (anycast of PCP, TURN and DNS-SD), 2001:2::/48 (Benchmarking),
        # 2001:3::/32 (AMT), 2001:4:112::/48 (AS112-v6), 2001:10::/28 (Deprecated, ORCHID), 2001:20::/28 (ORCHIDv2) and
        # 2001:30::/28 (Drone Remote ID Protocol Entity Tags).
        ("2001::/23", "IETF Protocol Assignments"),
        ("2001:db8::/32", "Documentation"),
        ("2620:4f:8000::/48", "Direct Delegation AS112 Service"),
        ("3fff::/20", "Documentation"),
    )
)

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4-mapped Address: the system connects to the IPv4 address
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4-IPv6 Translation: how a network without IPv4 reaches IPv4 servers
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")  # 6to4: the IPv4 address of the router follows the prefix


def is_public(text: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    An IPv6 address that leads to an IPv4 address (mapped, NAT64, 6to4) is judged by that one.

    Args:
        text: An IPv4 or IPv6 address as the system writes it, a scope (`%eth0`) included.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = embedded(address)
        if inner is None:
            return address in GLOBAL_UNICAST and not any(address in block for block, _ in SPECIAL_V6)
        address = inner
    return not any(address in block for block, _ in SPECIAL_V4)


def embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that packets to an IPv6 address end up at, or None where that cannot be said.

    Args:
        address: Any IPv6 address. Teredo, IPv4-compatible and local translation addresses are in the table instead.
    """
    if address in MAPPED or address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None
