"""The command: run every check, print every result, exit 1 if a check failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from internal_dns.cli.common import FINDING, json_option, paint, print_json
from internal_dns.cli.doctor.answers import check_answers
from internal_dns.cli.doctor.catalog import check_catalog
from internal_dns.cli.doctor.host import (
    check_ipv6,
    check_ports,
    check_programs,
    check_queues,
    check_routes,
)
from internal_dns.cli.doctor.replica import check_replica
from internal_dns.cli.doctor.result import CheckResult
from internal_dns.cli.doctor.sources import check_sources
from internal_dns.cli.doctor.upstreams import check_upstreams
from internal_dns.cli.routes import ROUTES
from internal_dns.cli.servers import meant_for, running
from internal_dns.errors import OperatorError
from internal_dns.text import printable_text

_COLORS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--listen", multiple=True, metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--upstream", multiple=True, metavar="URL", help="As `serve` would.")
@click.option("--admin", metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--console", metavar="ADDR:PORT", help="As `serve` would.")
@click.option("--catalog", metavar="FILE", help="As `serve` would.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@click.option(
    "--server",
    metavar="ADDR:PORT",
    help="The running server to query.  [default: the server of the catalog, if any]",
)
@json_option
def doctor(
    listen: tuple[str, ...],
    upstream: tuple[str, ...],
    admin: str | None,
    console: str | None,
    catalog: str | None,
    config: Path | None,
    server: str | None,
    as_json: bool,
) -> None:
    """Check this host for whatever would keep the server from running well, and say what to do.

    It queries each upstream for two names and the running server, if any, for three. With the
    setting `source` it also connects to the bucket.
    """
    ports = {"listen": listen, "upstream": upstream, "admin": admin, "console": console}
    found = list(run_checks({**ports, "catalog": catalog}, config, server))
    if as_json:
        print_json([{key: value or None for key, value in asdict(s).items()} for s in found])
    else:
        click.echo("\n".join(report(found)))
    raise SystemExit(FINDING if any(s.level == "fail" for s in found) else 0)


def report(found: Sequence[CheckResult]) -> list[str]:
    """Return the lines for people; the last one counts problems and warnings."""
    width = max(len(printable_text(s.what)) for s in found)
    lines = []
    for s in found:
        what, says = printable_text(s.what), printable_text(s.says)
        lines.append(f"{paint(f'{s.level:4}', _COLORS[s.level])}  {what:{width}}  {says}")
        lines += [
            f"{'':6}{paint(word, 'cyan')}{'':{5 - len(word)}}{printable_text(text)}"
            for word, text in (("why", s.why), ("do", s.do))
            if text
        ]
    counts = [sum(s.level == level for s in found) for level in _COLORS]
    words = [
        f"{n} {word}{'s' * (n != 1)}"
        for n, word in ((counts[2], "problem"), (counts[1], "warning"))
        if n
    ]
    passed = f"{counts[0]} check{'s' * (counts[0] != 1)} passed"
    return [*lines, "", f"{' and '.join(words)}, {passed}" if words else f"all {passed}"]


def _demo_catalog() -> str | None:
    """Return the demo catalog if it exists, as other commands do; else None, for the settings'."""
    return "demo/catalog.db" if Path("demo/catalog.db").exists() else None


def run_checks(
    flags: dict[str, Any], config: Path | None, server: str | None
) -> Iterator[CheckResult]:
    from internal_dns.config import ConfigurationError, find_misspelled, load_settings

    yield from check_programs()
    yield check_ipv6()
    for words in find_misspelled():
        yield CheckResult(
            "warn",
            "environment",
            words,
            "variables that are not settings are ignored",
            "Correct the name: internal-dns config show --origin lists the settings",
        )
    try:
        settings = load_settings(flags, file=config)
        if settings.origin["catalog"] == "default" and (demo := _demo_catalog()):
            settings = load_settings({**flags, "catalog": demo}, file=config)
    except ConfigurationError as error:
        for fault in error.faults:
            yield CheckResult(
                "fail",
                "settings",
                fault,
                "`serve` would exit with status 78",
                "Correct it: docs/settings.md describes every setting",
            )
        return
    found = running(settings.catalog)
    yield from check_ports(settings, found)
    yield from check_upstreams(settings)
    catalog = yield from check_catalog(settings)
    if catalog is not None:
        yield from check_routes(settings.listen, catalog, settings.prefix, ROUTES)
    yield from check_replica(settings)
    if found:
        where = ", ".join(map(str, found.listen))
        yield CheckResult("ok", "server", f"a server of this catalog listens on {where}")
        yield from check_queues(found, settings.workers)
        yield from check_sources(str(settings.catalog))
    if server or found:
        try:
            endpoint = meant_for(server, settings, settings.catalog)[0]
        except OperatorError as error:
            yield CheckResult("fail", error.what, error.why, "it is not an address", error.do)
            return
        yield from check_answers(endpoint, settings, catalog)
