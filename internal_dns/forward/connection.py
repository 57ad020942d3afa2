"""One TCP or TLS connection to an upstream, with many queries on it at once, each under an id of
its own (RFC 7766 section 6.2.1.1)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from internal_dns.core.wire import is_bare_refusal, is_reply_to
from internal_dns.forward.channel import NoReply, NotSent, Silence
from internal_dns.forward.times import Times

_Waiting = tuple[bytes, asyncio.Future[bytes]]  # the query without its id, its reply


class Connection(asyncio.Protocol):
    """One connection, and the queries on it: at most *room* at once, or, if *limited*, in all."""

    opening: asyncio.Task[None]

    def __init__(
        self, room: int, times: Times, on_close: Callable[[Connection], None], *, limited: bool
    ) -> None:
        self.loop, self.times = asyncio.get_running_loop(), times
        self.transport: Any = None
        self.total = self.room = room
        self.limited = limited
        self.answered = 0  # replies so far
        self.unread = 0  # queries without a reply when the upstream ended the connection
        self.busy = False  # the upstream ended it soon after a reply, not because it was idle
        self.replied_at = 0.0
        self.usable = True
        self.draining = False  # it takes no more queries; replies are still awaited
        self.lost = asyncio.Event()
        self.silence = Silence()
        self._on_close = on_close
        self._buffer = bytearray()
        self._waiting: dict[bytes, _Waiting] = {}  # by id
        self._idle: asyncio.TimerHandle | None = None

    @property
    def ending(self) -> bool:
        """Whether nothing can be written anymore.

        A write that fails closes the transport at once, but asyncio calls `connection_lost` only in
        the next round of the event loop. Queries that come in between must go elsewhere.
        """
        return self.transport is not None and self.transport.is_closing()

    def has_room(self) -> bool:
        return self.usable and self.room > 0 and not self.ending

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._start_idling()  # whoever it was opened for may have left
        transport.set_write_buffer_limits(high=1 << 20)

    async def ask(self, query: bytes) -> bytes:
        """Send *query* and return the reply. The caller has taken one unit of room.

        Raises NoReply when the connection ends first, NotSent when it has ended already.
        """
        if self.ending:
            self.give_back()
            raise NotSent("the upstream closed the connection")
        ident = secrets.token_bytes(2)
        while ident in self._waiting:
            ident = secrets.token_bytes(2)
        reply: asyncio.Future[bytes] = self.loop.create_future()
        self._waiting[ident] = query, reply
        self._stop_idling()
        self.silence.start(self.loop.time())
        self.transport.write((len(query) + 2).to_bytes(2, "big") + ident + query)
        try:
            return await reply
        finally:
            del self._waiting[ident]
            self.give_back()
            self._after(cancelled=reply.cancelled())

    def _after(self, *, cancelled: bool) -> None:
        """Decide what becomes of the connection after a query."""
        if cancelled and self.silence.lasts(self.loop.time(), self.times.silent):
            self.usable = False
            self.transport.abort()  # the peer may be gone, and TCP does not know yet
        elif not self._waiting and not self.lost.is_set():
            if self.draining or (self.limited and not self.room):
                self.close()
            else:
                self._start_idling()

    def give_back(self) -> None:
        """Give back a unit of room, unless the total is limited."""
        if not self.limited:
            self.room += 1

    def drain(self) -> None:
        """Take no more queries; close after the last reply."""
        self.usable, self.draining = False, True
        if not self._waiting and self.transport is not None:
            self.close()

    def data_received(self, data: bytes) -> None:
        self.silence.end()
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2 and len(buffer) >= (end := 2 + int.from_bytes(buffer[:2], "big")):
            message = bytes(buffer[2:end])
            del buffer[:end]
            query, reply = self._waiting.get(message[:2], (b"", None))
            if reply and not reply.done() and _answers(message, query):
                self.answered += 1
                self.replied_at = self.loop.time()
                reply.set_result(b"\0\0" + message[2:])

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self.lost.set()
        self._stop_idling()
        why = NoReply(str(error or "the upstream closed the connection"))
        unanswered = [reply for _, reply in self._waiting.values() if not reply.done()]
        self.unread = len(unanswered)
        self.busy = self.loop.time() - self.replied_at < self.times.busy
        for reply in unanswered:
            reply.set_exception(why)
        self._on_close(self)

    def eof_received(self) -> bool:
        self.usable = False
        return False

    def close(self) -> None:
        self.usable = False
        self.transport.close()

    def check_books(self) -> None:
        """Raise AssertionError unless all room that is taken belongs to a query."""
        taken = self.total - self.room
        assert 0 <= self.room <= self.total
        assert len(self._waiting) <= taken, f"{len(self._waiting)} wait, {taken} are counted"
        assert not self.lost.is_set() or not self.usable

    async def end(self) -> None:
        """Close and wait until it is closed. TLS says goodbye first, which the peer may not
        answer."""
        self.usable = False
        self.opening.cancel()
        await asyncio.gather(self.opening, return_exceptions=True)
        if self.transport is None:
            return
        self.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.lost.wait(), self.times.goodbye)
        self.transport.abort()
        await asyncio.sleep(0)

    def _start_idling(self) -> None:
        self._idle = self.loop.call_later(self.times.idle, self.close)

    def _stop_idling(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None


def _answers(message: bytes, query: bytes) -> bool:
    """Return whether *message* is a reply to *query*, which lacks its id."""
    ident, end = message[:2], 10
    while query[end]:
        end += 1 + query[end]
    return is_reply_to(message, ident, query[10 : end + 5]) or is_bare_refusal(message, ident)
