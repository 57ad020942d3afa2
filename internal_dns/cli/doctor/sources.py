"""Checks of the live sources that write through the running server."""

from __future__ import annotations

from collections.abc import Iterator

from internal_dns.cli.doctor.result import CheckResult
from internal_dns.store.rows import shown


def check_sources(catalog: str) -> Iterator[CheckResult]:
    """Check what the followers of live sources told the server of *catalog*."""
    from internal_dns.cli.follow import statuses

    for status in statuses(catalog) or ():
        what = f"source {shown(status['source'])}"
        age = status["age_seconds"]
        read = f"read {age:.0f} s ago" if age >= 0 else "never read"
        says = f"{status['kind']}, {status['rows']:,} rows, {read}"
        if not status["up"]:
            why = f"{status['problem'] or 'it cannot be read'}; meanwhile its rows do not change"
            do = (
                "See the log of `internal-dns follow`; if the source is gone: "
                "internal-dns source rm"
            )
            yield CheckResult("warn", what, says, why, do)
        elif status["faults"]:
            first = status["fault_lines"][0]
            do = "Correct it at the source; `internal-dns source list --json` lists them all"
            yield CheckResult("warn", what, f"{says}, {status['faults']:,} at fault", first, do)
        elif status["problem"]:
            do = "See the log of `internal-dns follow`"
            yield CheckResult("warn", what, says, status["problem"], do)
        else:
            held = f", {status['held']:,} held as not ready" if status["held"] else ""
            yield CheckResult("ok", what, says + held)
