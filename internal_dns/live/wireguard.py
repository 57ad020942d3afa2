"""Peers of the WireGuard interfaces of this host, from `wg show all dump`.

The command prints no names: a peer is called after its public key, as `import wireguard` calls it.
A handshake is for the status only, since an idle peer makes none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from internal_dns.live.source import Snapshot, SourceAway, snapshot_of
from internal_dns.sources import Options, SourceError
from internal_dns.sources.wireguard import read
from internal_dns.store.rows import shown

COMMAND: Final = ("wg", "show", "all", "dump")
NAME: Final = " ".join(COMMAND)
INTERVAL: Final = 5.0  # seconds between looks: WireGuard reports no changes
TIMEOUT: Final = 10.0
PEER_FIELDS: Final = 9  # of a line of a peer; that of an interface has 5
HANDSHAKE: Final = 5  # its field with Unix seconds, 0 for never


class WireGuard:
    """The peers of all interfaces. *command* prints what `wg show all dump` does."""

    def __init__(
        self, options: Options, command: tuple[str, ...] = COMMAND, interval: float = INTERVAL
    ) -> None:
        self.options, self.command, self.interval = options, command, interval

    async def snapshot(self) -> Snapshot:
        """Return every peer. Raises SourceAway."""
        text = await self._run()
        if not text.strip():
            return Snapshot({}, ("there is no WireGuard interface",))
        try:
            imported = read(text, self.options, advice=False)
        except SourceError as error:
            raise SourceAway(f"{NAME}: {error.why}") from error
        lines = [line.split(b"\t") for line in text.splitlines()]
        handshakes = [
            int(fields[HANDSHAKE])
            for fields in lines
            if len(fields) == PEER_FIELDS and fields[HANDSHAKE].isdigit()
        ]
        return snapshot_of(
            imported,
            figures={
                "peers": sum(len(fields) == PEER_FIELDS for fields in lines),
                "last_handshake": max(handshakes, default=0),
            },
        )

    async def _run(self) -> bytes:
        """Return what the command prints. Raises SourceAway."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise SourceAway(f"{NAME}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                out, errors = await process.communicate()
        except TimeoutError:
            raise SourceAway(f"{NAME}: it has not ended after {TIMEOUT:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode or errors.strip():
            # An interface that cannot be read is reported on standard error only.
            said = shown(errors.decode("utf-8", "replace").strip() or f"exit {process.returncode}")
            raise SourceAway(f"{NAME}: {said}")
        return out

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield every few seconds."""
        while True:
            yield
            await asyncio.sleep(self.interval)
