"""Bend octets: what a fuzzer and the property tests do to good messages."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

# Octets that mean something in a message: label ends and types, pointers, counts, flags.
TELLING: Final = (0, 1, 2, 3, 12, 16, 28, 41, 63, 64, 65, 127, 128, 192, 193, 254, 255)
WORDS: Final = (0, 1, 2, 5, 10, 15, 28, 41, 255, 256, 512, 4_096, 32_768, 49_164, 65_001, 65_535)
PIECES: Final = (
    b"\0",
    b"\xc0\x0c",
    b"\xc0\x10",
    b"\xff\xff",
    b"\x08internal\0",
    b"\x07flycast\0",
    b"\3web\x08internal\0",
    b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
    b"\0\x0a\0\x08abcdefgh",
    b"\0\x0b\0\0",
    b"\0\3\0\0",
    b"\xfd\xaa\0\0\0\x18",
    b"\x3f" + b"x" * 63,
    b"\1a" * 40,
)


def mutated(octets: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return *octets* with one to eight changes."""
    found = bytearray(octets)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(10):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1 if found:
                found[at % len(found)] = rng.choice(TELLING)
            case 2 if found:
                found[at % len(found)] = rng.randrange(256)
            case 3:
                del found[at:]
            case 4:
                del found[at : at + rng.choice((1, 1, 2, 4, 11))]
            case 5:
                found[at:at] = rng.choice(PIECES)
            case 6:
                piece = found[at : at + rng.randint(1, 30)]
                found[at:at] = piece * rng.choice((1, 1, 2, 20))
            case 7 if len(found) >= 12:  # a count or the flags
                where = rng.choice((2, 4, 6, 8, 10))
                found[where : where + 2] = rng.choice((0, 0, 1, 1, 2, 3, 33, 256, 65_535)).to_bytes(
                    2, "big"
                )
            case 8 if len(found) > 1:
                where = at % (len(found) - 1)
                found[where : where + 2] = rng.choice(WORDS).to_bytes(2, "big")
            case 9 if others:
                other = rng.choice(others)
                found[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(found[:70_000])
