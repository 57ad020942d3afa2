"""publish and fleet: write the bucket that many hosts follow, and see how far each host is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

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
from internal_dns.errors import OperatorError
from internal_dns.replicate.source import Source
from internal_dns.text import printable_text

if TYPE_CHECKING:
    from internal_dns.live.fleet import Reported
    from internal_dns.replicate.fleet import Host

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


class _Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d behind it."""

    name = "DURATION"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90, 5m, 2h or 7d", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


URL = _Url()
DURATION = _Duration()


def run_on_bucket(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* on a bucket and return its result. Raises OperatorError."""
    from internal_dns.live.target import TargetAway
    from internal_dns.replicate.bucket import Conflict, NoBucket, Unavailable
    from internal_dns.replicate.publishing import NeedsForce
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
    except NeedsForce as error:
        raise OperatorError(
            "nothing was written", "\n       ".join(error.lines), error.do, FINDING
        ) from error
    except Conflict as error:
        do = "Run the command again: it continues from the bucket's current content"
        raise OperatorError(
            "the bucket was written only in part", str(error), do, FINDING
        ) from error
    except NoBucket as error:
        do = "Create and fill it: internal-dns publish --to URL --catalog FILE"
        raise OperatorError("there is no such bucket", str(error), do, UNREACHABLE) from error
    except (Unavailable, TargetAway) as error:
        do = (
            "Check that NATS runs, and check the address and the credentials. Meanwhile every host "
            "answers from its file"
        )
        raise OperatorError("the bucket cannot be used", str(error), do, UNREACHABLE) from error


def apply_to_bucket(source: Source, request: dict[str, Any], *, force: bool) -> dict[str, Any]:
    """Apply a document to the catalog in a bucket. Raises OperatorError."""
    from internal_dns.replicate import publishing

    as_served = settings()
    return run_on_bucket(publishing.apply(source, request, as_served.catalog_rules, force=force))


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
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite and remove values of a later version, and write although a host runs an older "
    "one.",
)
@catalog_option
@json_option
def publish(
    source: Source,
    dry_run: bool,
    replicas: int,
    compact: bool,
    force: bool,
    catalog: str,
    as_json: bool,
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
        publishing.publish(
            source, wanted, dry_run=dry_run, replicas=replicas, forget=compact, force=force
        )
    )
    if as_json:
        print_json(reply)
        return
    verb = "would be " if dry_run else ""
    click.echo(f"{source}: {reply['puts']:,} rows {verb}put, {reply['deletes']:,} {verb}deleted")
    if count := reply["unwritable"]:
        click.echo(f"{count:,} keys stay that this client cannot write: hosts keep them out")
    if not dry_run:
        removed = f", {reply['forgotten']:,} tombstones removed" if compact else ""
        click.echo(
            f"revision {reply['revision']}{removed}" if reply["revision"] else f"no change{removed}"
        )


@click.group()
def fleet() -> None:
    """Show the hosts that follow a bucket."""


source_option = click.option(
    "--source", type=URL, help="The bucket.  [default: the setting `source`]"
)


def _bucket(source: Source | None) -> Source:
    """Return the bucket that a command means. Raises OperatorError."""
    bucket = source or settings().source
    if bucket is None:
        raise OperatorError(
            "no bucket is given",
            "neither --source nor the setting `source` names one",
            "Give one with --source nats://HOST/BUCKET",
            USAGE,
        )
    return bucket


@fleet.command()
@source_option
@json_option
def status(source: Source | None, as_json: bool) -> None:
    """Print revision and replication lag per host, and the age of live sources.

    Exit 1 if a host is behind, silent, reports a problem or rejects keys, or a source is away.
    """
    bucket = _bucket(source)
    last, hosts, sources = run_on_bucket(_read_reports(bucket))
    host_reports = [host.as_json(last) for host in hosts]
    source_reports = [one.as_json() for one in sources]
    if as_json:
        print_json(
            {"bucket": str(bucket), "revision": last, "hosts": host_reports,
             "sources": source_reports}
        )  # fmt: skip
    else:
        click.echo(f"{bucket}: revision {last}, {len(hosts)} hosts")
        for host in host_reports:
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
        for one in source_reports:
            age = one["age_seconds"]
            read = f"read {age:.0f} s before" if age >= 0 else "never read"
            reported = f"reported {one['said_seconds_ago']:.0f} s ago"
            line = (
                f"source {one['source']:17} {one['rows']:>10}  {read:22} {reported:20} "
                f"{one['says']}"
            )
            click.echo(line.rstrip() if one["ok"] else paint(line.rstrip(), "yellow"))
    well = all(host.ok for host in hosts) and all(one.ok for one in sources)
    raise SystemExit(0 if well else FINDING)


async def _read_reports(source: Source) -> tuple[int, list[Host], list[Reported]]:
    """Return the bucket's last revision, the hosts that follow it, and its live sources."""
    from internal_dns.live import fleet as live_reports
    from internal_dns.replicate import fleet as reports
    from internal_dns.replicate.nats import connected

    async with connected(source) as bucket:
        return (
            (await bucket.facts()).last,
            await reports.hosts(bucket),
            await live_reports.reported(bucket),
        )


@fleet.command()
@click.argument("name")
@click.option(
    "--after",
    type=DURATION,
    required=True,
    metavar="DURATION",
    help="Only if the source was not read for so long: 90, 5m, 2h, 7d.",
)
@source_option
@json_option
def expire(name: str, after: float, source: Source | None, as_json: bool) -> None:
    """Remove the rows of a live source that is away for good. A timer may run it."""
    found = _bucket(source)
    rows, why = run_on_bucket(_expire(found, name, after))
    if as_json:
        print_json({"bucket": str(found), "source": name, "rows": rows, "kept": why})
    elif not why:
        click.echo(f"{found}: {rows:,} rows of {printable_text(name)} removed")
    else:
        click.echo(f"{found}: nothing removed: {printable_text(why)}")
    raise SystemExit(FINDING if why else 0)


async def _expire(source: Source, name: str, after: float) -> tuple[int, str]:
    """Return how many rows were removed, and why none, if so."""
    from internal_dns.live.bucket import remove
    from internal_dns.live.fleet import reported
    from internal_dns.replicate.nats import connected

    async with connected(source) as bucket:
        one = next((one for one in await reported(bucket) if one.status.source == name), None)
    if one is None:
        return 0, f"no source {name} has reported; `source rm --to` removes rows all the same"
    if one.unread_for < after:
        return 0, f"it was read {one.unread_for:.0f} s ago"
    return await remove(source, settings().catalog_rules, name, followed=True), ""


@fleet.command()
@click.argument("host")
@source_option
@json_option
def forget(host: str, source: Source | None, as_json: bool) -> None:
    """Forget what a retired HOST reported. One that still runs reports again."""
    found = _bucket(source)
    forgotten = run_on_bucket(_forget(found, host))
    if as_json:
        print_json({"bucket": str(found), "host": host, "forgotten": forgotten})
    elif forgotten:
        click.echo(f"{found}: forgot {printable_text(host)}")
    if not forgotten:
        raise OperatorError(f"no host {host}", f"nothing in {found} was reported by it",
                   "See the names: internal-dns fleet status", FINDING)  # fmt: skip


async def _forget(source: Source, host: str) -> bool:
    from internal_dns.replicate import fleet as reports
    from internal_dns.replicate.nats import connected

    async with connected(source) as bucket:
        return await reports.forget(bucket, host)
