"""Server cookies, RFC 7873 and RFC 9018: version 1, three reserved octets, a time stamp,
SipHash-2-4.

Every server that holds the same secret makes the same cookie. No query is refused for its cookie (a
reply always carries a fresh one), so a client that keeps score is content and a clock that is wrong
does no harm.
"""

from __future__ import annotations

from struct import pack, unpack

_MASK = 0xFFFF_FFFF_FFFF_FFFF


def full_cookie(client_cookie: bytes, source: bytes, secret: bytes, now: int) -> bytes:
    """Return the 24 octets of the COOKIE option of a reply: client cookie, then server cookie.

    *source* is the client's address (16 octets, or 4), *secret* 16 octets, *now* Unix seconds.
    """
    client = client_cookie[:8]
    head = b"\1\0\0\0" + pack("!I", now & 0xFFFF_FFFF)
    return client + head + siphash(client + head + source, secret)


def siphash(octets: bytes, key: bytes) -> bytes:
    """Return SipHash-2-4 (8 octets); *key* has 16."""
    k0, k1 = unpack("<QQ", key)
    v = (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )
    tail = octets[len(octets) & ~7 :].ljust(7, b"\0") + bytes((len(octets) & 255,))
    padded = octets[: len(octets) & ~7] + tail
    for (word,) in (unpack("<Q", padded[at : at + 8]) for at in range(0, len(padded), 8)):
        v = _rounds((v[0], v[1], v[2], v[3] ^ word), 2)
        v = (v[0] ^ word, v[1], v[2], v[3])
    v = _rounds((v[0], v[1], v[2] ^ 0xFF, v[3]), 4)
    return pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])


def _rounds(v: tuple[int, int, int, int], count: int) -> tuple[int, int, int, int]:
    a, b, c, d = v
    for _ in range(count):
        a = (a + b) & _MASK
        b = (b << 13 | b >> 51) & _MASK ^ a
        a = (a << 32 | a >> 32) & _MASK
        c = (c + d) & _MASK
        d = (d << 16 | d >> 48) & _MASK ^ c
        a = (a + d) & _MASK
        d = (d << 21 | d >> 43) & _MASK ^ a
        c = (c + b) & _MASK
        b = (b << 17 | b >> 47) & _MASK ^ c
        c = (c << 32 | c >> 32) & _MASK
    return a, b, c, d
