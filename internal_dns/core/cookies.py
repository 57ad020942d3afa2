"""Make server cookies (RFC 7873, RFC 9018): version 1, reserved octets, time stamp, SipHash-2-4.

Servers with the same secret make the same cookie. No query is refused for its cookie, and each
reply carries a fresh one: clients that verify cookies accept it, and a wrong clock does no harm.
"""

from __future__ import annotations

from struct import pack, unpack

_MASK = 0xFFFF_FFFF_FFFF_FFFF


def full_cookie(client_cookie: bytes, source: bytes, secret: bytes, now: int) -> bytes:
    """Return the COOKIE option of a reply: the client cookie, then the server cookie (24 octets).

    *source* is the client's address (16 or 4 octets). *secret* has 16 octets. *now* is in Unix
    seconds.
    """
    client = client_cookie[:8]
    head = b"\1\0\0\0" + pack("!I", now & 0xFFFF_FFFF)
    return client + head + siphash(client + head + source, secret)


def siphash(octets: bytes, key: bytes) -> bytes:
    """Return the SipHash-2-4 of *octets* (8 octets); *key* has 16 octets."""
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
