"""Checks of a replica: the bucket it follows, its revision, and keys that it rejected."""

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

_MAX_REJECTED_SHOWN: Final = 20  # keys of a bucket, one finding each


def check_replica(settings: Settings) -> Iterator[CheckResult]:
    """Whether the file follows a bucket, how far it is, and what is kept out of it."""
    from internal_dns.replicate.replica import followed, quarantine
    from internal_dns.store.sqlite import UnusableCatalog

    if settings.source:
        yield _check_bucket(settings.source)
    try:
        found = followed(settings.catalog)
        count, some = quarantine(settings.catalog, _MAX_REJECTED_SHOWN)
    except (FileNotFoundError, UnusableCatalog):
        return
    if found:
        yield CheckResult(
            "ok", "replica", f"follows {found['source']}, has revision {found['revision']}"
        )
    if found and not settings.source:
        yield CheckResult(
            "warn",
            "replica",
            "no `source` is set",
            "The file is a replica that no follower keeps",
            "Set `source` again; or, to write the file by yourself for good: DELETE FROM replica",
        )
    for key, revision, why in some:
        yield CheckResult(
            "warn",
            f"kept out {shown(key)}",
            f"revision {revision}",
            f"{why}; its row stays as it was",
            "Publish a value as docs/bucket.schema.json has it",
        )
    if count > len(some):
        why = "Each has a value that could not be served"
        yield CheckResult(
            "warn", "kept out", f"{count - len(some):,} more keys", why, "Correct those above first"
        )


def _check_bucket(source: Source) -> CheckResult:
    from internal_dns.replicate.bucket import Unavailable
    from internal_dns.replicate.nats import connected

    async def facts() -> Facts:
        async with connected(source) as bucket:
            return await bucket.facts()

    try:
        found = asyncio.run(facts())
    except Unavailable as error:
        why = "The file answers, as of when the bucket was last followed"
        return CheckResult("fail", "bucket", str(error), why, "Start it, or correct `source`")
    if found.floor is None:
        why = "Nothing was published whole: followers wait"
        return CheckResult(
            "warn",
            "bucket",
            f"{source} has no floor key",
            why,
            "Publish: internal-dns publish --to URL",
        )
    return CheckResult("ok", "bucket", f"{source} has revision {found.last}, {found.keys:,} keys")
