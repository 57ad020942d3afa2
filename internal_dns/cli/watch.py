"""watch: see an answer change as it becomes visible, or with --queries what is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import click

from internal_dns.admin.presentation import reply_value
from internal_dns.cli.ask import query_for, reply_lines
from internal_dns.cli.backend import connected, read_rows
from internal_dns.cli.common import UNREACHABLE, catalog_option, json_option, paint, settings
from internal_dns.errors import OperatorError


@click.command()
@click.option(
    "--as",
    "who",
    metavar="NETWORK[/REGION]|ADDRESS",
    help="Whom to answer as. [default: the first network]",
)
@click.option(
    "--queries",
    is_flag=True,
    help="Print what is asked, by whom, and what it gets; nothing is kept.",
)
@click.option(
    "--sample",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    help="With --queries: one in N, by chance.",
)
@click.option(
    "--changes", type=click.IntRange(1), metavar="N", help="End after N answers, or questions."
)
@catalog_option
@json_option
@click.argument("name", required=False)
@click.argument("qtype", required=False, metavar="[TYPE]")
def watch(
    who: str | None,
    queries: bool,
    sample: int | None,
    changes: int | None,
    catalog: str,
    as_json: bool,
    name: str | None,
    qtype: str | None,
) -> None:
    """Print the answer to NAME, and again whenever it becomes another. Ctrl-C ends.

    With --queries instead of NAME: the questions of all networks as they come.
    """
    if queries == (name is not None) or (sample and not queries):
        raise click.UsageError("give a NAME, or --queries (with --sample N for one in N)")
    if queries:
        request = {"op": "queries", "sample": sample or 1}
    else:
        assert name is not None
        request = _watch_request(name, qtype, who, catalog)
    try:
        for number, said in enumerate(_lines(Path(catalog), request), 1):
            click.echo("\n".join(_question(said, as_json) if queries else _answer(said, as_json)))
            if number == changes:
                return
    except KeyboardInterrupt:
        return
    raise OperatorError(
        "the server has ended",
        "it closed the connection",
        "Start it again and watch again",
        UNREACHABLE,
    )


def _watch_request(name: str, qtype: str | None, who: str | None, catalog: str) -> dict[str, Any]:
    prefix = settings().prefix
    if who is None:
        ids = [row["id"] for row in read_rows(catalog, "networks")]
        # A foreign file may hold any value there.
        if valid := [n for n in ids if isinstance(n, int) and 0 < n < 1 << 32]:
            who = str(IPv6Address(prefix + min(valid).to_bytes(4, "big") + bytes(10)))
    query = query_for(name, qtype, who, prefix).to_wire()
    return {"op": "watch", "query": query.hex(), "source": (bytes(15) + b"\1").hex()}


def _lines(catalog: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the server says, until it ends. Raises OperatorError."""
    with connected(catalog, offline=False) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        for line in server.makefile("rb"):
            said: dict[str, Any] = json.loads(line)
            if "error" in said:
                raise OperatorError(
                    "cannot watch", ", ".join(said["faults"]), "Check the name", UNREACHABLE
                )
            yield said


def _answer(said: dict[str, Any], as_json: bool) -> list[str]:
    import dns.message

    reply = dns.message.from_wire(bytes.fromhex(said["reply"]))
    now = datetime.now().isoformat(timespec="milliseconds")
    if as_json:
        return [json.dumps({"time": now, "revision": said["revision"], **reply_value(reply)})]
    return [paint(f"; {now} revision {said['revision']}", "cyan"), *reply_lines(reply)]


def _question(said: dict[str, Any], as_json: bool) -> list[str]:
    return [json.dumps(said) if as_json else query_line(said)]


def query_line(said: dict[str, Any]) -> str:
    """One sampled question: when, how, whose, what, and what it got."""
    at = datetime.fromtimestamp(said["time"]).strftime("%H:%M:%S.%f")[:-3]
    rcode = said["rcode"] or "no reply"
    colour = {"NOERROR": "green", "NXDOMAIN": "yellow"}.get(rcode, "red")
    asked = f"{said['name']} {said['type']}" if said["name"] else "(not a question)"
    got = f"{rcode} {said['answers']}" if said["answers"] else rcode
    lost = paint(f"  ({said['skipped']:,} not shown)", "yellow") if said["skipped"] else ""
    who = f"{said['network'] or '-':15} {said['source']:39}"
    return f"{at} {said['proto']} {who} {asked:45} {paint(got, colour)}  {said['how']}{lost}"
