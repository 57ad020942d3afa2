"""Blocking queries, as Consul and Nomad have them: a reply comes when something has changed.

    GET PATH?index=N&wait=…  ─►  at once when the index is past N, else at a change or after `wait`

The rules are HashiCorp's own: an index that falls is one of another server or of a restored state,
so it starts again from 0; an index is at least 1; two queries are a second apart at least.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from internal_dns.live.http import Api, ApiAway, Query

WAIT: Final = 55  # seconds that a query may block
SLACK: Final = 15.0  # the server adds up to a sixteenth to `wait`
SPACING: Final = 1.0  # seconds between two queries


def next_index(seen: int, header: str | None) -> int:
    """Return the index to ask with, after *seen*, from a reply's header."""
    found = int(header) if header is not None and header.isascii() and header.isdecimal() else 0
    if found < 1:
        return 1  # 0 would not block, and the server would be asked without end
    return found if found >= seen else 0


async def watch(
    api: Api,
    path: str,
    header: str,
    query: Query | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[None, None]:
    """Yield when the reply of *path* may have changed; end when the API is away."""
    index = 0
    while True:
        began = clock()
        try:
            asked = {**(query or {}), "index": index, "wait": f"{WAIT}s"}
            reply = await api.fetch(path, asked, timeout=WAIT + SLACK)
        except ApiAway:
            return
        found = next_index(index, reply.headers.get(header))
        if found != index:
            yield
        index = found
        if (left := SPACING - (clock() - began)) > 0:
            await sleep(left)


async def merged(*iterators: AsyncGenerator[None, None]) -> AsyncGenerator[None, None]:
    """Yield whenever one of *iterators* does; end when one of them ends."""
    came: asyncio.Queue[bool] = asyncio.Queue(maxsize=1)

    async def feed(iterator: AsyncGenerator[None, None]) -> None:
        async with aclosing(iterator) as hints:
            async for _ in hints:
                if came.empty():
                    came.put_nowait(True)
        await came.put(False)

    tasks = [asyncio.ensure_future(feed(iterator)) for iterator in iterators]
    try:
        while await came.get():
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
