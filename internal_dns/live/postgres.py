"""The rows of one query of a PostgreSQL database.

The query gives the columns that `import csv` reads (docs/import.md); `metadata` may be one column
of type json or jsonb. It runs in a read-only transaction and sees one state of the database. With
a channel, LISTEN gives hints; a NOTIFY that gets lost costs a minute, not a row, because every
hint and every minute asks for the whole result.

psycopg is imported on first use, because it is optional: `pip install 'internal-dns[postgres]'`.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from internal_dns.core.names import printable
from internal_dns.live.source import Key, Snapshot, SourceAway, machine_key, snapshot_of
from internal_dns.sources import Draft, Options, SourceError
from internal_dns.sources.csv import METADATA, read
from internal_dns.store.rows import shown
from internal_dns.store.schema import PEERS

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Column

SCHEMES: Final = ("postgres", "postgresql")
INTERVAL: Final = 10.0  # seconds between looks without a channel
CONNECT_TIMEOUT: Final = 10  # seconds
QUERY_TIMEOUT: Final = 30_000  # milliseconds: a lock that another transaction holds
MAX_ROWS: Final = 1_000_000
# A connection that waits for notifications notices a dead peer by these alone.
_KEEPALIVES: Final = {
    "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
}  # fmt: skip
_NAME: Final = "internal-dns"
NOT_INSTALLED: Final = "psycopg is not installed; in the checkout: pip install '.[postgres]'"


class Postgres:
    """The result of *query* at *address*. *channel*: what NOTIFY names; empty: none."""

    def __init__(
        self,
        address: str,
        query: str,
        options: Options,
        *,
        channel: str = "",
        interval: float = INTERVAL,
    ) -> None:
        """Raise ValueError, whose text holds no secret."""
        self.address, self.query, self.options = address, query, options
        self.channel, self.interval = channel, interval
        self.name = check_address(address)
        if not query.strip():
            raise ValueError("the query is empty")
        # Keys of peers by name: a peer whose row has become unreadable keeps its own.
        self.peers: dict[str, frozenset[Key]] = {}

    def __str__(self) -> str:
        return self.name

    async def snapshot(self) -> Snapshot:
        """Return every row of the result. Raises SourceAway."""
        columns, rows = await self._select()
        names = [shown(column.name) for column in columns]
        if not names:
            raise SourceAway(f"{self.name}: the query returns no table")
        if len(rows) > MAX_ROWS:
            raise SourceAway(f"{self.name}: the query returns more than {MAX_ROWS:,} rows")
        try:
            imported = read(as_csv(names, rows), self.options, advice=False)
        except SourceError as error:
            raise SourceAway(f"{self.name}: {error.why}") from error
        found = snapshot_of(imported)
        return Snapshot(
            found.objects,
            found.notes,
            unreadable=self._unreadable(names, rows, found),
            figures={"result_rows": len(rows)},
        )

    def _unreadable(
        self, names: Sequence[str], rows: Sequence[Sequence[Any]], found: Snapshot
    ) -> frozenset[Key]:
        """Return the keys of rows that the reader left out: they are there, so nothing is
        deleted."""
        lowered = [name.lower() for name in names]
        if "id" in lowered:
            idents = {_text(row[lowered.index("id")]) for row in rows}
            return frozenset(map(machine_key, map(_as_id, idents))) - found.objects.keys()
        told = {_as_id(_text(row[lowered.index("name")])) for row in rows}
        present: dict[str, set[Key]] = {}
        for key in found.objects:
            if key[0] == PEERS.name:
                present.setdefault(str(key[2]), set()).add(key)
        before, self.peers = self.peers, {}
        for name in told:
            self.peers[name] = frozenset(present.get(name, ())) or before.get(name, frozenset())
        kept = frozenset(key for keys in self.peers.values() for key in keys)
        return kept - found.objects.keys()

    async def _select(self) -> tuple[Sequence[Column], Sequence[Sequence[Any]]]:
        """Return columns and rows of the query. Raises SourceAway."""
        psycopg = _psycopg()
        try:
            connection = await self._connect()
            async with connection:
                await connection.set_read_only(True)
                await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                await connection.execute(f"SET LOCAL statement_timeout = {QUERY_TIMEOUT}")
                # The extended protocol takes one statement only.
                cursor = await connection.execute(self.query, prepare=True)
                if cursor.description is None:
                    return (), ()
                return cursor.description, await cursor.fetchmany(MAX_ROWS + 1)
        except (psycopg.Error, OSError) as error:
            raise SourceAway(f"{self.name}: {_words(error)}") from error

    async def _connect(self, **options: Any) -> AsyncConnection[Any]:
        psycopg = _psycopg()
        connection: AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
            self.address, connect_timeout=CONNECT_TIMEOUT, application_name=_NAME,
            **_KEEPALIVES, **options,
        )  # fmt: skip
        return connection

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield at each notification, or every few seconds without a channel."""
        if not self.channel:
            while True:
                yield
                await asyncio.sleep(self.interval)
        psycopg = _psycopg()
        try:
            connection = await self._connect(autocommit=True)
            async with connection:
                await connection.execute(
                    psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(self.channel))
                )
                yield  # what was committed before is not notified
                async for _ in connection.notifies():
                    yield
        except (psycopg.Error, OSError):
            return  # the next snapshot says why


def _psycopg() -> Any:
    """Return the library. Raises SourceAway when it is not installed."""
    try:
        import psycopg
        import psycopg.sql
    except ImportError:
        raise SourceAway(NOT_INSTALLED) from None
    return psycopg


def check_address(address: str) -> str:
    """Return *address* without user, password and options. Raises ValueError without a secret."""
    example = "an address is postgres://[USER@]HOST[:PORT]/DATABASE"
    try:
        parts = urlsplit(address)
    except ValueError:
        raise ValueError(example) from None
    if parts.scheme not in SCHEMES:
        raise ValueError(example)
    login, _, host = parts.netloc.rpartition("@")
    if "@" in login:  # libpq would take the rest of a password for the host, and print it
        raise ValueError("write @ in a user or password as %40")
    return f"{parts.scheme}://{host}{parts.path}"


def as_csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a result as `import csv` reads a table. A json column `metadata` becomes columns."""
    at = next((n for n, name in enumerate(names) if name.lower() == "metadata"), None)
    pairs = [_pairs(row[at]) if at is not None else {} for row in rows]
    keys = sorted({key for found in pairs for key in found})
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    kept = [n for n in range(len(names)) if n != at]
    writer.writerow([*(names[n] for n in kept), *(f"{METADATA}{key}" for key in keys)])
    for row, found in zip(rows, pairs, strict=True):
        cells = [_text(row[n]) for n in kept]
        writer.writerow([*cells, *(found.get(key, "") for key in keys)])
    return text.getvalue()


def _pairs(value: object) -> dict[str, str]:
    """Return the pairs of a JSON object that are not null."""
    if not isinstance(value, dict):
        return {}
    return {str(k): _text(v) for k, v in value.items() if v is not None and str(k).strip()}


def _text(value: object) -> str:
    """Return a cell as CSV writes it. A NUL cannot come from a PostgreSQL text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _as_id(raw: str) -> str:
    """Return the id or name that the reader makes of *raw*."""
    return Draft(Options()).make_name(raw.strip(), "id", "")


def _words(error: Exception) -> str:
    """Return one line of what the server or libpq says. libpq repeats no password."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return printable(text.encode("utf-8", "backslashreplace"))[:300] or type(error).__name__
