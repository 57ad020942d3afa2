"""Catalog documents in a directory: every *.toml and *.json of it, merged.

Two ways of noticing a change, because neither is enough: inotify on the directory and on its name
in the directory above, and a look at names, sizes and times every few seconds (a bind mount or a
network file system sends no events).
A file that is renamed into place, and a directory that is a symbolic link to another one that is
swapped (`..data` of Kubernetes, `current` of a deployment), are seen by both.

The documents have the form that `apply` takes. Only machines and peers count; networks, regions,
hosts and organizations are the catalog's own. Of two files that name one object the first, by file
name, wins. A file that cannot be read or parsed keeps what it said before; when nobody knows what
that was, nothing is written until it is corrected.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Final

from internal_dns.core.catalog_rules import DEFAULT_RULES, CatalogRules
from internal_dns.live.source import Key, Object, Snapshot, SourceAway, objects_of
from internal_dns.store.declare import InvalidDocument, parse
from internal_dns.store.rows import shown

POLL: Final = 5.0  # seconds between looks at names, sizes and times
MAX_FILE: Final = 64 << 20  # octets
SUFFIXES: Final = (".toml", ".json")
# linux/inotify.h: what can change which files a directory has, or what they say.
_CLOSE_WRITE, _MOVED, _CREATE, _DELETE, _SELF = 0x8, 0xC0, 0x100, 0x200, 0xC00
_MASK: Final = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF
# What can change which directory is at a path, seen from the directory above it.
_MASK_ABOVE: Final = _MOVED | _CREATE | _DELETE | 0x2000_0000  # IN_MASK_ADD: both may be one
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, octets of the name behind it

State = tuple[object, ...]


class Directory:
    """The documents of one directory. *poll*: seconds between looks without events."""

    def __init__(
        self,
        path: Path,
        rules: CatalogRules = DEFAULT_RULES,
        *,
        poll: float = POLL,
        events: bool = True,
    ) -> None:
        self.path, self.rules, self.poll, self.events = path, rules, poll, events
        # What each file said when it could last be parsed.
        self.objects: dict[str, dict[Key, Object]] = {}

    async def snapshot(self) -> Snapshot:
        """Return the objects of all files. Raises SourceAway."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Snapshot:
        try:
            names = self._names()
        except OSError as error:
            raise SourceAway(f"{self.path}: {error.strerror or error}") from error
        notes: list[str] = []
        for name in names:
            try:
                self.objects[name] = self._parse(name)
            except FileNotFoundError:
                self.objects.pop(name, None)  # removed since the directory was read
            except (OSError, ValueError, InvalidDocument) as error:
                why = _words(name, error)
                if name not in self.objects:
                    raise SourceAway(f"{self.path}: {why}") from error
                notes.append(f"{why}: what it said before stays")
        self.objects = {name: self.objects[name] for name in names if name in self.objects}
        merged: dict[Key, Object] = {}
        owners: dict[Key, str] = {}
        for name, objects in self.objects.items():
            for key, object_ in objects.items():
                if owners.setdefault(key, name) == name:
                    merged[key] = object_
                else:
                    notes.append(f"{name}: {shown(key[-1])} is in {owners[key]} too, which counts")
        return Snapshot(merged, tuple(notes), figures={"files": len(self.objects)})

    def _names(self) -> list[str]:
        """Return the names of the files, sorted; hidden ones are being written."""
        with os.scandir(self.path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
            )

    def _parse(self, name: str) -> dict[Key, Object]:
        path = self.path / name
        with path.open("rb") as file:
            octets = file.read(MAX_FILE + 1)
        if len(octets) > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE:,} octets")
        document = parse(octets.decode(), name=name, rules=self.rules)
        return objects_of(document)

    # ── hints ─────────────────────────────────────────────────────────────────────────────────────

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield when the directory differs, by an event or by its state."""
        woken = asyncio.Event()
        before = await asyncio.to_thread(self._state)
        with _Inotify(self.path if self.events else None, woken) as inotify:
            yield
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.poll):
                        await woken.wait()
                event, now = woken.is_set(), await asyncio.to_thread(self._state)
                woken.clear()
                if event or now != before:
                    yield
                if now[:1] != before[:1]:
                    inotify.watch(self.path)  # another directory is at this path
                before = now

    def _state(self) -> State:
        """Return a value that differs when the directory does; its first item identifies the
        directory."""
        try:
            here = os.stat(self.path)
            files = []
            for name in self._names():
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(self.path / name)
                    files.append((name, found.st_ino, found.st_size, found.st_mtime_ns))
            return (here.st_dev, here.st_ino), tuple(files)
        except OSError as error:
            return (error.errno,)


class _Inotify:
    """Sets *woken* when the kernel reports a change of a directory.

    Through libc: Python has no inotify of its own, and polling goes on beside it. Without inotify
    (another system, no more watches allowed), polling alone must do.
    """

    def __init__(self, path: Path | None, woken: asyncio.Event) -> None:
        self.woken, self.descriptor, self.watching, self.above = woken, -1, -1, -1
        if path is None or not sys.platform.startswith("linux"):
            return
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.name = os.fsencode(path.name)
        if self.descriptor >= 0:
            # A symbolic link that is swapped changes nothing in the directory it pointed to.
            parent = os.fsencode(path.parent)
            self.above = self.libc.inotify_add_watch(self.descriptor, parent, _MASK_ABOVE)
        self.watch(path)

    def watch(self, path: Path) -> None:
        """Watch the directory that is at *path* now."""
        if self.descriptor < 0:
            return
        if self.watching >= 0:
            self.libc.inotify_rm_watch(self.descriptor, self.watching)
        self.watching = self.libc.inotify_add_watch(self.descriptor, os.fsencode(path), _MASK)
        self.woken.set()  # it may have changed before it was watched

    def __enter__(self) -> _Inotify:
        if self.descriptor >= 0:
            asyncio.get_running_loop().add_reader(self.descriptor, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self.descriptor)
            os.close(self.descriptor)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while octets := os.read(self.descriptor, 65_536):
                if any(self._counts(*event) for event in _events(octets)):
                    self.woken.set()

    def _counts(self, watch: int, name: bytes) -> bool:
        """Whether an event is of this directory: others may be beside it, and busy."""
        beside = watch == self.above != self.watching and watch >= 0  # -1: events were lost
        return not beside or name == self.name


def _events(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the watch and the name of each event."""
    start = 0
    while start < len(octets):
        watch, _, _, length = _EVENT.unpack_from(octets, start)
        start += _EVENT.size + length
        yield watch, octets[start - length : start].rstrip(b"\0")


def _words(name: str, error: Exception) -> str:
    match error:
        case InvalidDocument(faults=[first, *more]):
            return f"{first}" + (f" (and {len(more):,} more)" if more else "")
        case OSError(strerror=str(words)):
            return f"{name}: {words}"
        case UnicodeDecodeError():
            return f"{name}: it is not UTF-8"
        case _:
            return f"{name}: {error}"
