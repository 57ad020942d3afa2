"""What tests of channels share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from internal_dns.forward.channel import Channel
from internal_dns.forward.question import Question


def run(story: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await story

    asyncio.run(in_time())


def query(number: int) -> bytes:
    question = Question(b"\x06n%05d\0" % number, 1, False, False)
    return question.query(question.section(mixed=False))


async def given_up(channel: Channel, number: int = 0, after: float = 0.02) -> None:
    """Ask, and leave when there is no reply in time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await channel.ask(query(number), lambda: True)
