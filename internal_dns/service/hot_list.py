"""The list of names that were queried lately, from this process for the next one.

It is in the state directory ($STATE_DIRECTORY, systemd's StateDirectory=), readable by its owner
only, and written every minute and at the end. The next process decides these names ahead
(transport/ahead.py). A list that is missing, damaged, too large or from another version or prefix
means a start without one.

    internal-dns hot names 1 fdaa
    18 1c 037765620869…00        network, QTYPE, name in wire form: all hexadecimal
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from heapq import nlargest
from pathlib import Path
from typing import Final

from internal_dns.core.catalog import NetworkId
from internal_dns.transport.ahead import Key
from internal_dns.transport.answer import Exchange
from internal_dns.transport.table.changes import parts
from internal_dns.transport.table.table import Busy, hits_of

NAME: Final = "hot-names"
VERSION: Final = b"internal-dns hot names 1 "
MAX_KEYS: Final = 100_000
MAX_NAME: Final = 255
MAX_OCTETS: Final = MAX_KEYS * 2 * (MAX_NAME + 16)
PERIOD: Final = 60  # seconds between two lists
_log = logging.getLogger("internal_dns")


def path_of(environment: Mapping[str, str]) -> Path | None:
    """Return where the list is, None without a state directory."""
    directory = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory) / NAME if directory else None


class HotList:
    """Reads the list of the process before this one, and writes one for the next."""

    def __init__(self, path: Path, exchange: Exchange) -> None:
        self.path, self.exchange = path, exchange
        # What was read. A process that ends before its first list adds these to its last one.
        self.inherited: list[Key] = []
        self._failed = False

    async def follow(self) -> None:
        """Decide the inherited names ahead, then write a list every PERIOD."""
        await self.read()
        for keys in parts(self.inherited):
            for network, name, qtype in keys:
                self.exchange.ahead.add(network, ((name, qtype),))
            await asyncio.sleep(0)
        await asyncio.sleep(PERIOD)
        while True:
            self.inherited = []
            await self.write()
            await asyncio.sleep(PERIOD)

    async def read(self) -> None:
        """Read the list. One that is unusable is ignored."""
        loop = asyncio.get_running_loop()
        octets = await loop.run_in_executor(None, _read, self.path)
        head, _, rest = octets.partition(b"\n")
        if head != self._head():
            return
        keys: list[Key] = []
        for lines in parts(rest.split(b"\n")):
            for line in lines:
                if line and (key := parse(line)) is None:
                    return  # nothing in a damaged list can be relied on
                if line and key and len(keys) < MAX_KEYS:
                    keys.append(key)
            await asyncio.sleep(0)
        self.inherited = keys

    async def write(self) -> None:
        """Write what was repeated since it was stored, with a fair share for each network."""
        by_network = defaultdict[NetworkId, list[Busy]](list)
        count = 0
        for part in self.exchange.answers.repeated():
            for busy in part:
                by_network[busy.network].append(busy)
            count += len(part)
            if count > 4 * MAX_KEYS:
                count = _shorten(by_network)
            await asyncio.sleep(0)
        _shorten(by_network)
        keys: dict[Key, None] = {
            (b.network, b.name, b.qtype): None for found in by_network.values() for b in found
        }
        for key in self.inherited:
            if len(keys) < MAX_KEYS:
                keys.setdefault(key)
        text = [self._head()]
        for some in parts(keys):
            text += [b"%x %x %s" % (n, qtype, name.hex().encode()) for n, name, qtype in some]
            await asyncio.sleep(0)
        try:
            await asyncio.get_running_loop().run_in_executor(
                None, _write, self.path, b"\n".join(text) + b"\n"
            )
        except OSError as error:
            if not self._failed:
                _log.warning(
                    "cannot write the list of queried names to %s: %s; the next start will decide "
                    "every name when it is queried", self.path, error.strerror or error,
                )  # fmt: skip
            self._failed = True

    def _head(self) -> bytes:
        return VERSION + self.exchange.rules.prefix.hex().encode()


def parse(line: bytes) -> Key | None:
    """Return the key in *line*, None when it is damaged."""
    words = line.split(b" ")
    try:
        network, qtype = int(words[0], 16), int(words[1], 16)
        name = bytes.fromhex(words[2].decode())
    except (ValueError, IndexError):
        return None
    if len(words) != 3 or not 0 < network < 1 << 32 or not 0 < qtype < 1 << 16:
        return None
    return (NetworkId(network), name, qtype) if _is_name(name) else None


def _is_name(name: bytes) -> bool:
    """Whether *name* is an uncompressed name in lower case."""
    at = 0
    while at < len(name) and 0 < name[at] < 64:
        at += 1 + name[at]
    return at == len(name) - 1 and not name[at] and len(name) <= MAX_NAME and name.lower() == name


def _shorten(by_network: dict[NetworkId, list[Busy]]) -> int:
    """Shorten the lists to MAX_KEYS together; return how many are left.

    The networks with the shortest lists keep all. The others share what remains equally, and each
    keeps its busiest names.
    """
    left, networks = MAX_KEYS, len(by_network)
    for number, found in sorted(by_network.items(), key=lambda item: len(item[1])):
        share = left // networks
        if len(found) > share:
            by_network[number] = nlargest(share, found, key=hits_of)
        left -= len(by_network[number])
        networks -= 1
    return MAX_KEYS - left


def _read(path: Path) -> bytes:
    """Return the file's octets, none of a file that is missing, unreadable, or too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            octets = file.read(MAX_OCTETS + 1)
    except OSError:
        return b""
    return octets if octets and len(octets) <= MAX_OCTETS else b""


def _write(path: Path, octets: bytes) -> None:
    """Write the file in one step: a reader finds the previous one or this one. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(octets)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
