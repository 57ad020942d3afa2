"""A stand-in for a Corrosion agent: its HTTP API over a real SQLite file.

It does what crates/corro-agent/src/api/public/mod.rs does with statements: all of a transaction or
none, an error as status 500, one read-only SELECT per query, a line per row.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.following.scripted import Answer, Asked, Scripted, scripted


class Agent:
    """Answers for the file *path*. `writes` has every transaction that was committed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes: list[list[Any]] = []
        self.lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        if asked.method != "POST" or asked.headers.get("content-type") != "application/json":
            return Answer(b"", 415)
        with self.lock, closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            match asked.path:
                case "/v1/queries":
                    return self.query(connection, *asked.json())
                case "/v1/transactions":
                    return self.transaction(connection, asked.json())
        return Answer(b"", 404)

    def query(self, connection: sqlite3.Connection, sql: str, values: list[Any]) -> Answer:
        connection.execute("PRAGMA query_only = 1")
        try:
            cursor = connection.execute(sql, values)
        except sqlite3.Error as error:
            return Answer({"error": str(error)}, 400)
        lines: list[Any] = [{"columns": [column[0] for column in cursor.description]}]
        lines += [{"row": [n, list(row)]} for n, row in enumerate(cursor, 1)]
        lines.append({"eoq": {"time": 5e-8}})
        return Answer("".join(json.dumps(line) + "\n" for line in lines).encode())

    def transaction(self, connection: sqlite3.Connection, statements: list[Any]) -> Answer:
        if not statements:
            return Answer({"results": [{"error": "at least 1 statement is required"}]}, 400)
        connection.execute("BEGIN IMMEDIATE")
        results = []
        try:
            for sql, values in statements:
                results.append(
                    {"rows_affected": connection.execute(sql, values).rowcount, "time": 0}
                )
        except sqlite3.Error as error:
            connection.execute("ROLLBACK")
            return Answer({"results": [{"error": str(error)}], "time": 0.0}, 500)
        connection.execute("COMMIT")
        self.writes.append(statements)
        return Answer({"results": results, "time": 0.0, "version": len(self.writes)})


@contextmanager
def agent(path: Path) -> Iterator[tuple[Agent, Scripted]]:
    made = Agent(path)
    with scripted(made) as server:
        yield made, server
