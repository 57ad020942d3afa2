"""Checks of a replica: the bucket it follows, its revision, and the keys it rejected."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from internal_dns.cli.doctor.result import CheckResult
from internal_dns.store.rows import shown

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.replicate.logic import Facts
    from internal_dns.replicate.source import Source

_MAX_REJECTED_SHOWN: Final = 20  # rejected keys that get a result each


def check_replica(settings: Settings) -> Iterator[CheckResult]:
    """Check which bucket the file follows, its revision, and which keys it rejected."""
    from internal_dns.replicate.replica import followed, quarantine
    from internal_dns.store.sqlite import UnusableCatalog

    if settings.source:
        yield _check_bucket(settings.source)
    try:
        replica = followed(settings.catalog)
        count, some = quarantine(settings.catalog, _MAX_REJECTED_SHOWN)
    except (FileNotFoundError, UnusableCatalog):
        return
    if replica:
        yield CheckResult(
            "ok", "replica", f"follows {replica['source']}, has revision {replica['revision']}"
        )
    if replica and not settings.source:
        yield CheckResult(
            "warn",
            "replica",
            "the setting `source` is not set",
            "the file is a replica that no follower updates",
            "Set `source` again; or make the file independent: DELETE FROM replica",
        )
    for key, revision, why in some:
        yield CheckResult(
            "warn",
            f"rejected {shown(key)}",
            f"revision {revision}",
            f"{why}; the row keeps its old value",
            _advice(key, why),
        )
    if count > len(some):
        yield CheckResult(
            "warn",
            "rejected",
            f"{count - len(some):,} more keys",
            "their values cannot be served",
            "Correct the keys above first",
        )


def _advice(key: str, why: str) -> str:
    """Return what to do about a key that was rejected."""
    from internal_dns.replicate.codec import FLOOR, UPGRADE, InvalidEntry, read_key

    if why.endswith(UPGRADE):
        return "Upgrade internal-dns on this host, then restart it"
    try:
        if key != FLOOR:
            read_key(key)
    except InvalidEntry:
        return "No row has such a key: `internal-dns publish` removes it, and so does any KV client"
    return "Publish a value that matches docs/bucket.schema.json; `internal-dns publish` does"


def _check_bucket(source: Source) -> CheckResult:
    """Check that the bucket can be reached and was published completely."""
    from internal_dns.replicate.bucket import Unavailable
    from internal_dns.replicate.nats import connected

    async def facts() -> Facts:
        async with connected(source) as bucket:
            return await bucket.facts()

    try:
        bucket = asyncio.run(facts())
    except Unavailable as error:
        why = "answers come from the file, as of the last contact with the bucket"
        return CheckResult("fail", "bucket", str(error), why, "Start NATS, or correct `source`")
    if bucket.floor is None:
        return CheckResult(
            "warn",
            "bucket",
            f"{source} has no floor key",
            "no catalog was published completely, so followers wait",
            "Publish one: internal-dns publish --to URL",
        )
    return CheckResult("ok", "bucket", f"{source} has revision {bucket.last}, {bucket.keys:,} keys")
