"""Special-use names that are always answered here and never forwarded to an upstream."""

from __future__ import annotations

from typing import Final, NamedTuple

from internal_dns.core.names import Labels
from internal_dns.core.wire import Type


class LocalAddress(NamedTuple):
    """The rdata of localhost for one type."""

    type: Type
    rdata: bytes


# RFC 6761 section 6.3.
LOCALHOST: Final = {
    int(Type.A): LocalAddress(Type.A, b"\x7f\0\0\1"),
    int(Type.AAAA): LocalAddress(Type.AAAA, bytes(15) + b"\1"),
}

_ZONES: Final = """
home.arpa test invalid onion local use-application-dns.net resolver.arpa
0.in-addr.arpa 10.in-addr.arpa 127.in-addr.arpa 254.169.in-addr.arpa 168.192.in-addr.arpa
2.0.192.in-addr.arpa 100.51.198.in-addr.arpa 113.0.203.in-addr.arpa 255.255.255.255.in-addr.arpa
d.f.ip6.arpa 8.e.f.ip6.arpa 9.e.f.ip6.arpa a.e.f.ip6.arpa b.e.f.ip6.arpa 8.b.d.0.1.0.0.2.ip6.arpa
"""
# RFC 8375, RFC 6761, RFC 7686, RFC 6762 (local has no unicast servers), RFC 6303 section 4, RFC
# 7793. Browsers query use-application-dns.net to learn whether to bypass the network's resolver.
LOCAL_ZONES: Final[frozenset[Labels]] = frozenset(
    tuple(name.encode().split(b"."))
    for name in (
        *_ZONES.split(),
        *(f"{octet}.172.in-addr.arpa" for octet in range(16, 32)),
        *(f"{octet}.100.in-addr.arpa" for octet in range(64, 128)),
        "0." * 32 + "ip6.arpa",  # ::
        "1." + "0." * 31 + "ip6.arpa",  # ::1
    )
)
# RFC 9462 section 6.1: no other resolver is designated, since only this server knows .internal.
EMPTY_ZONES: Final[frozenset[Labels]] = frozenset({(b"resolver", b"arpa")})
_TOPS: Final = frozenset(zone[-1] for zone in LOCAL_ZONES)


def local_zone(labels: Labels) -> Labels | None:
    """Return the locally served zone that contains *labels*, or None."""
    if labels[-1:] and labels[-1] in _TOPS:
        for at in range(len(labels)):
            if labels[at:] in LOCAL_ZONES:
                return labels[at:]
    return None


def is_bare(labels: Labels, qtype: int) -> bool:
    """Whether this queries an address of a one-label name, such as a host name.

    It gets an empty reply without SOA, which clients do not cache.
    """
    return len(labels) == 1 and qtype in (Type.A, Type.AAAA)
