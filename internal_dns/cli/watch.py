"""watch: print an answer each time it changes, or with --queries the queries as they arrive."""

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
    help="The client to answer.  [default: the network with the lowest ID]",
)
@click.option(
    "--queries",
    is_flag=True,
    help="Print queries with client and reply as they arrive. Nothing is stored.",
)
@click.option(
    "--sample",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    help="With --queries, print one in N, chosen at random.",
)
@click.option(
    "--changes", type=click.IntRange(1), metavar="N", help="Exit after N answers or queries."
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
    """Print the answer to NAME now and after each change. Press Ctrl-C to stop.

    With --queries instead of NAME, print the queries of all networks as they arrive.
    """
    if queries == (name is not None) or (sample and not queries):
        raise click.UsageError("give either NAME or --queries; --sample N needs --queries")
    if queries:
        request = {"op": "queries", "sample": sample or 1}
    else:
        assert name is not None
        request = _watch_request(name, qtype, who, catalog)
    try:
        for number, message in enumerate(_messages(Path(catalog), request), 1):
            lines = _query_lines(message, as_json) if queries else _answer_lines(message, as_json)
            click.echo("\n".join(lines))
            if number == changes:
                return
    except KeyboardInterrupt:
        return
    raise OperatorError(
        "the server stopped",
        "it closed the connection",
        "Start it again and run watch again",
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


def _messages(catalog: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the server's messages until it stops. Raises OperatorError."""
    with connected(catalog, offline=False) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        for line in server.makefile("rb"):
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise OperatorError(
                    "cannot watch", ", ".join(message["faults"]), "Check the name", UNREACHABLE
                )
            yield message


def _answer_lines(message: dict[str, Any], as_json: bool) -> list[str]:
    import dns.message

    reply = dns.message.from_wire(bytes.fromhex(message["reply"]))
    now = datetime.now().isoformat(timespec="milliseconds")
    if as_json:
        return [json.dumps({"time": now, "revision": message["revision"], **reply_value(reply)})]
    return [paint(f"; {now} revision {message['revision']}", "cyan"), *reply_lines(reply)]


def _query_lines(sample: dict[str, Any], as_json: bool) -> list[str]:
    return [json.dumps(sample) if as_json else query_line(sample)]


def query_line(sample: dict[str, Any]) -> str:
    """Return one sampled query as a line: time, transport, client, question, reply."""
    at = datetime.fromtimestamp(sample["time"]).strftime("%H:%M:%S.%f")[:-3]
    rcode = sample["rcode"] or "no reply"
    color = {"NOERROR": "green", "NXDOMAIN": "yellow"}.get(rcode, "red")
    question = f"{sample['name']} {sample['type']}" if sample["name"] else "(not a query)"
    reply = f"{rcode} {sample['answers']}" if sample["answers"] else rcode
    skipped = paint(f"  ({sample['skipped']:,} not shown)", "yellow") if sample["skipped"] else ""
    client = f"{sample['network'] or '-':15} {sample['source']:39}"
    fields = f"{at} {sample['proto']} {client} {question:45}"
    return f"{fields} {paint(reply, color)}  {sample['how']}{skipped}"
