"""What the followers of live sources say of themselves, for `/metrics`, `source list` and
`doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from prometheus_client.core import Metric

from internal_dns.live.status import SILENT, Status, as_json, families

MAX_SOURCES: Final = 100  # one series each; the socket is the operator's, but a mistake is bounded


class Sources:
    """The last status of each source. A follower that is killed says nothing more, so the time
    since then counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reports: dict[str, tuple[Status, float]] = {}

    def report(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take the report of a follower. Raises ValueError."""
        try:
            status = msgspec.convert(request.get("status"), Status)
        except msgspec.ValidationError as error:
            raise ValueError(f"`status` is not that of a source: {error}") from error
        if status.source not in self.reports and len(self.reports) >= MAX_SOURCES:
            raise ValueError(f"there are {MAX_SOURCES} sources already")
        self.reports[status.source] = status, self.clock()
        return {}

    def current(self) -> list[Status]:
        """Return the status of each source as it is now."""
        return [self._current(status, at) for status, at in self.reports.values()]

    def _current(self, status: Status, at: float) -> Status:
        silent = self.clock() - at
        if status.stopped:
            problem = "its follower was stopped"
        elif silent >= SILENT:
            problem = f"its follower has said nothing for {silent:.0f} s"
        else:
            problem = status.problem
        age = status.age_seconds + silent if status.age_seconds >= 0 else -1.0
        up = status.up and not status.stopped and silent < SILENT
        return replace(status, up=up, age_seconds=round(age, 1), problem=problem)

    def forget(self, source: str) -> None:
        """Forget a source whose rows were removed."""
        self.reports.pop(source, None)

    def listed(self) -> dict[str, Any]:
        return {"sources": [as_json(status) for status in self.current()]}

    def families(self) -> Iterable[Metric]:
        return families(self.current())
