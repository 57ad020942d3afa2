"""Run a loop: perform its actions one at a time, turn hints into events, report the status.

What an edge raises becomes an event (`Failed`, `Refused`): a follower goes on whatever happens to
its source or its catalog, and rows stay meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

import msgspec

from internal_dns.live.loop import (
    Action,
    Applied,
    Apply,
    Changed,
    Event,
    Failed,
    Hold,
    Look,
    Loop,
    Present,
    Read,
    Refused,
    Seen,
    Tick,
)
from internal_dns.live.source import Live, SourceAway
from internal_dns.live.status import INTERVAL, Status, status_of
from internal_dns.live.target import Lost, Target, TargetAway

SNAPSHOT_TIMEOUT: Final = 60.0  # seconds for a whole snapshot
SOON: Final = 0.5  # seconds between two reports at least
RESUBSCRIBE: Final = (1.0, 30.0)  # seconds until hints are asked for again: first, most

_log = logging.getLogger("internal_dns.follow")


class Runner:
    """One source, its loop and its target."""

    def __init__(
        self,
        live: Live,
        target: Target,
        loop: Loop,
        *,
        source: str,
        kind: str,
        host: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.live, self.target, self.loop = live, target, loop
        self.source, self.kind, self.host = source, kind, host
        self.clock, self.sleep = clock, sleep
        self.hinted = asyncio.Event()
        self.news = asyncio.Event()  # set when the status has another thing to say
        self.logged: dict[str, str] = {}  # what was logged last, by subject

    def status(self) -> Status:
        return status_of(
            self.loop, self.clock(), source=self.source, kind=self.kind, host=self.host
        )

    async def run(self) -> None:
        """Follow until cancelled. Raises Lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_hints())
            group.create_task(self._report())
            group.create_task(self._follow())

    async def _follow(self) -> None:
        events: list[Event] = [Tick()]
        while True:
            actions = [a for event in events for a in self.loop.step(event, self.clock())]
            events = []
            for action in actions:
                if isinstance(action, Hold):
                    _log.warning("%s: %s", self.source, action.why)
                else:
                    events = [await self._perform(action)]
            self._log_problems()
            if actions:
                self.news.set()
            if not events:
                await self._wait()
            if self.hinted.is_set():
                self.hinted.clear()
                events.insert(0, Changed())
            if not events:
                events = [Tick()]

    async def _wait(self) -> None:
        """Wait for a hint, or until the loop is due."""
        left = max(0.0, self.loop.due - self.clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self.hinted.wait()

    async def _perform(self, action: Action) -> Event:
        """Perform one action and return the event that ends it."""
        try:
            match action:
                case Read():
                    return Present(await self.target.rows())
                case Look():
                    async with asyncio.timeout(SNAPSHOT_TIMEOUT):
                        return Seen(await self.live.snapshot())
                case Apply(puts, deletes):
                    faults = await self.target.apply(puts, deletes)
                    _log.info(
                        "%s: %d written, %d deleted, %d at fault",
                        self.source, len(puts) - len(puts.keys() & faults.keys()),
                        len(deletes) - len(deletes & faults.keys()), len(faults),
                    )  # fmt: skip
                    return Applied(faults)
                case Hold():
                    return Tick()
                case never:
                    assert_never(never)
        except SourceAway as error:
            return Failed(str(error))
        except TimeoutError:
            return Failed(f"no whole snapshot within {SNAPSHOT_TIMEOUT:.0f} s")
        except TargetAway as error:
            return Refused(str(error))
        except Lost:
            raise
        except Exception as error:  # a mistake of ours: rows stay, and the next look may succeed
            _log.exception("%s: unexpected error", self.source)
            words = f"{type(error).__name__}: {error}"
            return Failed(words) if isinstance(action, Look) else Refused(words)

    async def _take_hints(self) -> None:
        """Subscribe to hints, again when they end."""
        first, most = RESUBSCRIBE
        pause = first
        while True:
            async with contextlib.aclosing(self.live.changes()) as hints:
                async for _ in hints:
                    self.hinted.set()
                    pause = first
                    # A source that always has a hint must not keep the others from running.
                    await asyncio.sleep(0)
            await self.sleep(pause)
            pause = min(most, 2 * pause)

    async def _report(self) -> None:
        """Report the status every few seconds, and soon after a change."""
        while True:
            self.news.clear()
            try:
                await self.target.report(self.status())
            except TargetAway as error:
                _log.debug("%s: status not reported: %s", self.source, error)
            except Lost:
                raise
            except Exception:  # a mistake of ours, and no reason to stop following
                _log.exception("%s: unexpected error while reporting", self.source)
            await self.sleep(SOON)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL - SOON):
                    await self.news.wait()

    async def stopped(self) -> None:
        """Report that the follower was stopped."""
        status = msgspec.structs.replace(self.status(), stopped=True)
        with contextlib.suppress(TargetAway, Lost, TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await self.target.report(status)

    def _log_problems(self) -> None:
        """Log what is wrong when that changes, not each time."""
        for subject, words in (
            ("source", self.loop.source_problem),
            ("catalog", self.loop.catalog_problem),
            ("faults", "; ".join(self.status().fault_lines[:5])),
        ):
            if words == self.logged.get(subject, ""):
                continue
            self.logged[subject] = words
            if words:
                _log.warning("%s: %s: %s", self.source, subject, words)
            else:
                _log.info("%s: %s: all is well again", self.source, subject)
