"""The hosts that follow one bucket, as they report to the bucket `<BUCKET>-fleet`.

Times are of the engine's clock: when it stored a report, and when it was asked. A host's own clock
is compared with that and trusted for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from internal_dns.core.names import printable
from internal_dns.replicate.bucket import NoBucket
from internal_dns.replicate.codec import COLUMNS, host_key
from internal_dns.replicate.nats import NatsBucket
from internal_dns.replicate.reading import read_deliveries
from internal_dns.store.rows import shown

SILENT: Final = 20.0  # seconds without a report: a host reports every 5
SKEW: Final = 2.0  # seconds by which a host's clock may differ before it is shown
UNKNOWN: Final = "of unknown version"


class _Report(msgspec.Struct, frozen=True):
    """A host's report; members of later versions are ignored."""

    host: str
    revision: int
    lag_revisions: int
    lag_seconds: float
    quarantined: int
    problem: str
    at: float
    software: str = UNKNOWN
    columns: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host's report, how long ago the engine stored it, and how far the host's clock is ahead."""

    report: _Report
    ago: float
    skew: float

    # Whoever may report may write anything: nothing of it may move a terminal's cursor.
    @property
    def name(self) -> str:
        return shown(self.report.host)

    @property
    def software(self) -> str:
        return shown(self.report.software)

    @property
    def problem(self) -> str:
        return printable(self.report.problem.encode("utf-8", "backslashreplace"))[:300]

    @property
    def is_older(self) -> bool:
        """Whether the host ignores a column that this version publishes."""
        return self.report.columns < COLUMNS

    @property
    def ok(self) -> bool:
        report = self.report
        late = report.lag_seconds >= SILENT
        return not (report.problem or report.quarantined or late) and self.ago <= SILENT

    def words(self) -> list[str]:
        """Return what is to be said about the host."""
        report = self.report
        words = [self.problem] if report.problem else []
        words += [f"silent for {self.ago:.0f} s"] if self.ago > SILENT else []
        words += [f"{report.quarantined:,} keys kept out"] if report.quarantined else []
        if abs(self.skew) >= SKEW:
            way = "ahead" if self.skew > 0 else "behind"
            words.append(f"its clock is {abs(self.skew):,.0f} s {way}")
        words += [f"an older internal-dns ({self.software})"] if self.is_older else []
        return words

    def as_json(self, last: int) -> dict[str, Any]:
        """Return the report with what this side knows. *last* is the bucket's revision."""
        return msgspec.structs.asdict(self.report) | {
            "host": self.name,
            "problem": self.problem,
            "software": self.software,
            # Revisions that were written since the report are no fault yet.
            "behind": max(0, last - self.report.revision),
            "said_seconds_ago": round(self.ago, 1),
            "skew_seconds": round(self.skew, 1),
            "says": "; ".join(self.words()),
            "ok": self.ok,
        }


def read_report(value: bytes, at: float, now: float) -> Host | None:
    """Return the host that reported *value*, stored *at*, asked *now*; None for anything else."""
    try:
        report = msgspec.json.decode(value, type=_Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Host(report, max(0.0, now - at), report.at - at)


async def hosts(bucket: NatsBucket) -> list[Host]:
    """Return the hosts that follow *bucket*, by name. Raises Unavailable."""
    try:
        found, now = await read_deliveries(bucket.fleet_bucket())
    except NoBucket:
        return []  # no host has followed it yet
    made = [
        read_report(delivery.message.value, delivery.at, now)
        for key, delivery in found.items()
        # A key with a dot is not of a host.
        if delivery.message.value is not None and "." not in key
    ]
    return sorted((host for host in made if host is not None), key=lambda host: host.name)


async def older_hosts(bucket: NatsBucket) -> list[Host]:
    """Return the hosts that would ignore a column of this version. Raises Unavailable."""
    return [host for host in await hosts(bucket) if host.is_older]


async def forget(bucket: NatsBucket, host: str) -> bool:
    """Delete the report of *host*; whether there was one. A host that lives reports again.

    Raises Unavailable.
    """
    fleet, key = bucket.fleet_bucket(), host_key(host)
    try:
        message = await fleet.get(key)
    except NoBucket:
        return False
    if message is None or message.value is None:
        return False
    await fleet.write([(key, None, None)])
    return True
