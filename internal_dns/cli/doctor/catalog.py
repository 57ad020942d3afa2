"""Check that the catalog file can be read and that every row can be served."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from internal_dns.cli.doctor.result import CheckResult

if TYPE_CHECKING:
    from internal_dns.config import Settings
    from internal_dns.core.catalog import Catalog


def check_catalog(settings: Settings) -> Generator[CheckResult, None, Catalog | None]:
    """Check the catalog. Return it, or None if it cannot be read."""
    from internal_dns.service.summary import counted
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        loaded = load(settings.catalog, rules=settings.catalog_rules)
    except FileNotFoundError:
        yield CheckResult(
            "fail",
            "catalog",
            f"{settings.catalog} does not exist",
            "internal names get SERVFAIL until it exists",
            "Create it: internal-dns init FILE --demo",
        )
    except UnusableCatalog as error:
        yield CheckResult(
            "fail",
            "catalog",
            str(error),
            "`serve` would exit with status 78",
            "Restore it, or create another: internal-dns init FILE",
        )
    else:
        yield CheckResult("ok", "catalog", counted(loaded))
        if loaded.fault_count:
            yield CheckResult(
                "warn",
                "catalog rows",
                f"{loaded.fault_count:,} rejected",
                "rejected rows are not served",
                f"List them: internal-dns check --catalog {settings.catalog}",
            )
        return loaded.catalog
    return None
