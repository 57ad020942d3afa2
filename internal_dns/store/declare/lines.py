"""Find the line of each key and array element in a TOML or JSON text."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

from internal_dns.store.rows import shown

Path = tuple[str | int, ...]  # ("networks", "acme", "apps", "web", "machines", 0, "address")


class MalformedText(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line, self.what = line, what


class Lines:
    """Decodes a text, and finds the line of each key and array element.

    The decoders do not report lines, so the text is walked once more when the first fault needs
    one. By then it is known to be well-formed, so the walk validates nothing.
    """

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind = text, kind

    def value(self) -> Any:
        """Return the decoded text. Raises MalformedText or RecursionError."""
        try:
            octets = self.text.encode()
        except UnicodeEncodeError as error:
            raise MalformedText(
                self.text.count("\n", 0, error.start) + 1, "an octet that is not UTF-8"
            ) from error
        try:
            return tomllib.loads(self.text) if self.kind == "toml" else msgspec.json.decode(octets)
        except msgspec.DecodeError as error:
            byte = re.search(r" \(byte (\d+)\)", str(error))
            before = octets[: int(byte[1])] if byte else octets.rstrip()
            what = re.sub(r" \(byte \d+\)", "", str(error)).removeprefix("JSON is malformed: ")
            raise MalformedText(before.count(b"\n") + 1, what) from error
        except ValueError as error:
            # TOMLDecodeError, or an integer with more digits than Python reads.
            line = re.search(r" \(at line (\d+), column \d+\)", str(error))
            last = self.text.rstrip().count("\n") + 1 if "end of document" in str(error) else 1
            what = re.sub(r" \(at [^()]*\)$", "", str(error))
            raise MalformedText(int(line[1]) if line else last, shown(what)) from error

    @cached_property
    def walk(self) -> _Walk:
        return _TomlWalk(self.text) if self.kind == "toml" else _JsonWalk(self.text)

    @cached_property
    def breaks(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self.text)]

    @property
    def duplicates(self) -> list[tuple[Path, str]]:
        """Keys that stand twice in one table: tomllib refuses them, msgspec takes the last."""
        return self.walk.duplicates if self.kind == "json" else []

    def line(self, path: Path) -> int:
        """Return the line of *path*, or of the nearest table around it."""
        while path and path not in self.walk.offsets:
            path = path[:-1]
        return bisect_right(self.breaks, self.walk.offsets.get(path, 0) - 1) + 1


class _Walk:
    """Walks a well-formed text and records the offset of each path."""

    blank: re.Pattern[str]
    token: re.Pattern[str]  # a string or any other value that is neither array nor table

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.offsets: dict[Path, int] = {}
        self.duplicates: list[tuple[Path, str]] = []

    def peek(self) -> str:
        """Skip blanks and comments; return the character there, or nothing at the end."""
        self.take(self.blank)
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"the decoder accepted what the walk cannot parse at {self.at}"
        self.at = match.end()
        return match[0]

    def item(self, path: Path) -> None:
        """Walk one value, and record the offsets of what it contains."""
        match self.peek():
            case "[":
                for position, _ in enumerate(self.members("]")):
                    self.offsets[*path, position] = self.at
                    self.item((*path, position))
            case "{":
                start = self.at
                for _ in self.members("}"):
                    self.pair(path, start)
            case _:
                self.take(self.token)

    def members(self, end: str) -> Iterator[None]:
        """Yield at each member of an array or table."""
        self.at += 1
        while self.peek() != end:
            yield
            self.at += self.peek() == ","
        self.at += 1

    def pair(self, path: Path, table: int) -> None:
        """Walk a key and its value in the table that begins at *table*."""
        raise NotImplementedError


class _JsonWalk(_Walk):
    blank = re.compile(r"[ \t\r\n]*")
    token = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]}]+')

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.seen: dict[tuple[int, str], int] = {}
        self.item(())

    def pair(self, path: Path, table: int) -> None:
        start = self.at
        key = msgspec.json.decode(self.take(self.token))
        path = (*path, key)
        if (first := self.seen.setdefault((table, key), start)) != start:
            self.duplicates.append(
                (path, f"the key stands twice, first in line {self.line(first)}")
            )
        self.offsets[path] = start
        self.peek()
        self.at += 1
        self.item(path)

    def line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


class _TomlWalk(_Walk):
    blank = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    key = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+')
    token = re.compile(
        r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^,\]}#\n]+',
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.counts: dict[Path, int] = {}  # members of each array of tables so far
        table: Path = ()
        while character := self.peek():
            if character == "[":
                table = self.header()
            else:
                self.pair(table, 0)

    def header(self) -> Path:
        """Walk [a.b] or [[a.b]] and return the path it opens; an array of tables on the way means
        its last element."""
        start, width = self.at, 2 if self.text.startswith("[[", self.at) else 1
        self.at += width
        keys = self.keys()
        self.at += width
        path: Path = ()
        for position, key in enumerate(keys, 1):
            path = (*path, key)
            self.offsets.setdefault(path, start)
            if position == len(keys) and width == 2:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        self.offsets[path] = start
        return path

    def keys(self) -> list[str]:
        """Walk a dotted key."""
        keys: list[str] = []
        while not keys or self.peek() == ".":
            self.at += bool(keys)
            self.peek()
            raw = self.take(self.key)
            keys.append(next(iter(tomllib.loads(f"{raw} = 0"))) if raw[0] in "\"'" else raw)
        return keys

    def pair(self, path: Path, _: int) -> None:
        start = self.at
        for key in self.keys():
            path = (*path, key)
            self.offsets.setdefault(path, start)
        self.at += 1  # the = after the key
        self.item(path)
