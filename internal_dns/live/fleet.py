"""The sources of a bucket, as their followers report to the bucket of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from internal_dns.core.names import printable
from internal_dns.live.status import SILENT, Status, as_json
from internal_dns.replicate.bucket import NoBucket
from internal_dns.replicate.nats import NatsBucket
from internal_dns.replicate.reading import read_deliveries
from internal_dns.store.rows import shown

PREFIX: Final = "source."


@dataclass(frozen=True, slots=True)
class Reported:
    """A source's status, and how long ago the engine stored it."""

    status: Status
    ago: float

    @property
    def unread_for(self) -> float:
        """Seconds since the source was last read; infinite when it never was."""
        age = self.status.age_seconds
        return float("inf") if age < 0 else age + self.ago

    @property
    def ok(self) -> bool:
        status = self.status
        return status.up and not status.faults and not status.problem and self.ago <= SILENT

    def words(self) -> str:
        """Return what is to be said about the source."""
        status = self.status
        words = [status.problem] if status.problem else []
        if status.stopped:
            words.append("its follower was stopped")
        elif self.ago > SILENT:
            words.append(f"its follower has said nothing for {self.ago:.0f} s")
        words += [f"{status.faults:,} at fault"] if status.faults else []
        words += [f"{status.held:,} rows held"] if status.held else []
        return "; ".join(words)

    def as_json(self) -> dict[str, Any]:
        return as_json(self.status) | {
            "said_seconds_ago": round(self.ago, 1),
            "says": self.words(),
            "ok": self.ok,
        }


def read_status(value: bytes) -> Status | None:
    """Return the status that a follower wrote, without anything that moves a terminal's cursor;
    None for anything else."""
    try:
        status = msgspec.json.decode(value, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    problem = printable(status.problem.encode("utf-8", "backslashreplace"))[:300]
    return replace(
        status,
        source=shown(status.source),
        kind=shown(status.kind),
        host=shown(status.host),
        problem=problem,
    )


async def reported(bucket: NatsBucket) -> list[Reported]:
    """Return the sources of *bucket*, by name. Raises Unavailable."""
    try:
        found, now = await read_deliveries(bucket.fleet_bucket())
    except NoBucket:
        return []
    made = [
        Reported(status, max(0.0, now - delivery.at))
        for key, delivery in found.items()
        if key.startswith(PREFIX) and delivery.message.value is not None
        if (status := read_status(delivery.message.value)) is not None
    ]
    return sorted(made, key=lambda one: one.status.source)
