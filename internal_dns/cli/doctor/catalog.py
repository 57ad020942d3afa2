"""Check of the catalog file: it can be read, and every row can be served."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from internal_dns.cli.doctor.result import CheckResult

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog


def check_catalog(settings: Settings) -> Generator[CheckResult, None, Catalog | None]:
    """Yield what is to say; return the catalog, or None when there is none."""
    from internal_dns.service.summary import counted
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        loaded = load(settings.catalog, rules=settings.catalog_rules)
    except FileNotFoundError:
        why = "our names get SERVFAIL until it is there"
        yield CheckResult(
            "fail",
            "catalog",
            f"{settings.catalog} is not there",
            why,
            "Make one: internal-dns init FILE --demo",
        )
    except UnusableCatalog as error:
        yield CheckResult(
            "fail",
            "catalog",
            str(error),
            "`serve` exits 78 with it",
            "Restore it, or: internal-dns init FILE",
        )
    else:
        yield CheckResult("ok", "catalog", counted(loaded))
        if loaded.fault_count:
            do = f"internal-dns check --catalog {settings.catalog} lists each"
            yield CheckResult(
                "warn",
                "catalog rows",
                f"{loaded.fault_count:,} are left out",
                "they cannot be served",
                do,
            )
        return loaded.catalog
    return None
