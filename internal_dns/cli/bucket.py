"""publish and fleet: write the bucket that many hosts follow, and see how far each host is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import msgspec

from internal_dns.cli.backend import opened
from internal_dns.cli.common import (
    FINDING,
    UNREACHABLE,
    USAGE,
    catalog_option,
    json_option,
    paint,
    print_json,
    settings,
)
from internal_dns.core.names import printable
from internal_dns.errors import OperatorError
from internal_dns.replicate.source import Source
from internal_dns.store.rows import shown

SILENT = 20.0  # seconds without a report; a host reports every 5 s

T = TypeVar("T")


class _Url(click.ParamType[Source]):
    name = "URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Source:
        if isinstance(value, Source):
            return value
        try:
            return Source.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


URL = _Url()


def run_on_bucket(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* on a bucket and return its result. Raises OperatorError."""
    from internal_dns.replicate.bucket import Conflict, NoBucket, Unavailable
    from internal_dns.store.declare import InvalidDocument
    from internal_dns.store.writer import RejectedChange

    try:
        return asyncio.run(work)
    except (RejectedChange, InvalidDocument) as error:
        why = "\n       ".join(str(fault) for fault in error.faults)
        raise OperatorError(
            "the change was rejected; nothing was written",
            why,
            "Correct it and try again",
            FINDING,
        ) from error
    except Conflict as error:
        do = "Run the command again: it continues from the bucket's current content"
        raise OperatorError(
            "the bucket was written only in part", str(error), do, FINDING
        ) from error
    except NoBucket as error:
        do = "Create and fill it: internal-dns publish --to URL --catalog FILE"
        raise OperatorError("there is no such bucket", str(error), do, UNREACHABLE) from error
    except Unavailable as error:
        do = (
            "Check that NATS runs, and check the address and the credentials. Meanwhile every host "
            "answers from its file"
        )
        raise OperatorError("the bucket cannot be used", str(error), do, UNREACHABLE) from error


def apply_to_bucket(source: Source, request: dict[str, Any]) -> dict[str, Any]:
    """Apply a document to the catalog in a bucket. Raises OperatorError."""
    from internal_dns.replicate import publishing

    as_served = settings()
    return run_on_bucket(publishing.apply(source, request, as_served.catalog_rules))


@click.command()
@click.option(
    "--to",
    "source",
    type=URL,
    required=True,
    help="The bucket: nats://HOST[,HOST…]/BUCKET?creds=FILE",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; print how much would be written.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="Replicas of a bucket that is created.",
)
@click.option(
    "--compact",
    is_flag=True,
    help="Then remove tombstones. A host that missed a delete reads the whole bucket again.",
)
@catalog_option
@json_option
def publish(
    source: Source, dry_run: bool, replicas: int, compact: bool, catalog: str, as_json: bool
) -> None:
    """Make a bucket match the catalog file, for every host that follows the bucket."""
    from internal_dns.replicate import publishing
    from internal_dns.store.writer import RejectedChange

    as_served = settings()
    with opened(catalog) as connection:
        try:
            wanted = publishing.read_file_values(connection, as_served.catalog_rules)
        except RejectedChange as error:
            do = f"Find and correct the rows: internal-dns check --catalog {catalog}"
            raise OperatorError(
                "nothing was published", "\n       ".join(error.faults), do, FINDING
            ) from error
    reply = run_on_bucket(
        publishing.publish(source, wanted, dry_run=dry_run, replicas=replicas, forget=compact)
    )
    if as_json:
        print_json(reply)
        return
    verb = "would be " if dry_run else ""
    click.echo(f"{source}: {reply['puts']:,} rows {verb}put, {reply['deletes']:,} {verb}deleted")
    if not dry_run:
        removed = f", {reply['forgotten']:,} tombstones removed" if compact else ""
        click.echo(
            f"revision {reply['revision']}{removed}" if reply["revision"] else f"no change{removed}"
        )


@click.group()
def fleet() -> None:
    """Show the hosts that follow a bucket."""


@fleet.command()
@click.option("--source", type=URL, help="The bucket.  [default: the setting `source`]")
@json_option
def status(source: Source | None, as_json: bool) -> None:
    """Print revision and replication lag per host.

    Exit 1 if a host is behind, silent, or reports a problem.
    """
    bucket = source or settings().source
    if bucket is None:
        raise OperatorError(
            "no bucket is given",
            "neither --source nor the setting `source` names one",
            "Give one with --source nats://HOST/BUCKET",
            USAGE,
        )
    last, reports = run_on_bucket(_read_reports(bucket))
    hosts = [_assess(report, last, time.time()) for report in reports]
    if as_json:
        print_json({"bucket": str(bucket), "revision": last, "hosts": hosts})
    else:
        click.echo(f"{bucket}: revision {last}, {len(hosts)} hosts")
        for host in hosts:
            lag = (
                f"{host['behind']} behind, {host['lag_seconds']:.0f} s"
                if host["behind"]
                else "up to date"
            )
            reported = f"reported {host['said_seconds_ago']:.0f} s ago"
            line = (
                f"{host['host']:24} {host['revision']:>10}  {lag:22} {reported:20} {host['says']}"
            )
            click.echo(line.rstrip() if host["ok"] else paint(line.rstrip(), "yellow"))
    raise SystemExit(0 if all(host["ok"] for host in hosts) else FINDING)


async def _read_reports(source: Source) -> tuple[int, list[dict[str, Any]]]:
    """Return the bucket's last revision and the reports of the hosts."""
    from internal_dns.replicate.bucket import NoBucket
    from internal_dns.replicate.nats import connected
    from internal_dns.replicate.publishing import read

    async with connected(source) as bucket:
        last = (await bucket.facts()).last
        try:
            messages = await read(bucket.fleet_bucket())
        except NoBucket:
            return last, []  # No host has followed the bucket yet.
    values = (message.value for message in messages.values())
    reports = [_read_report(value) for value in values if value is not None]
    return last, sorted(
        (report for report in reports if report), key=lambda report: str(report["host"])
    )


class _Report(msgspec.Struct, frozen=True):
    """The report that a host writes about itself. Members of later versions are ignored."""

    host: str
    revision: int
    lag_revisions: int
    lag_seconds: float
    quarantined: int
    problem: str
    at: float


def _read_report(value: bytes) -> dict[str, Any] | None:
    try:
        report = msgspec.json.decode(value, type=_Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # A reporter can write anything, so escape whatever would control the terminal.
    problem = printable(report.problem.encode("utf-8", "backslashreplace"))[:300]
    return msgspec.structs.asdict(report) | {"host": shown(report.host), "problem": problem}


def _assess(report: dict[str, Any], last: int, now: float) -> dict[str, Any]:
    ago = max(0.0, now - report["at"])
    says = [report["problem"]] if report["problem"] else []
    says += [f"silent for {ago:.0f} s"] if ago > SILENT else []
    says += [f"{report['quarantined']} keys rejected"] if report["quarantined"] else []
    behind = max(0, last - report["revision"])
    report |= {"behind": behind, "said_seconds_ago": round(ago, 1), "says": "; ".join(says)}
    # Revisions written since the report do not count as lag.
    return report | {
        "ok": not report["problem"] and ago <= SILENT and report["lag_seconds"] < SILENT
    }
