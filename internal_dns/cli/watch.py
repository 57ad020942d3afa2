"""watch: see an answer change, as it becomes visible."""

from __future__ import annotations

import json
from datetime import datetime
from ipaddress import IPv6Address
from pathlib import Path

import click

from internal_dns.cli.ask import query_for, reply_lines, reply_value
from internal_dns.cli.backend import connected, read_rows
from internal_dns.cli.words import UNREACHABLE, Told, catalog_option, json_option, paint, settings


@click.command()
@click.option("--as", "who", metavar="NETWORK[/REGION]|ADDRESS", help="Whom to answer as. [default: the first network]")
@click.option("--changes", type=click.IntRange(1), metavar="N", help="End after N answers.")
@catalog_option
@json_option
@click.argument("name")
@click.argument("qtype", required=False, metavar="[TYPE]")
def watch(who: str | None, changes: int | None, catalog: str, as_json: bool, name: str, qtype: str | None) -> None:
    """Print the answer to NAME, and again whenever it becomes another. Ctrl-C ends."""
    import dns.message

    prefix = settings().prefix
    if who is None and (networks := read_rows(catalog, "networks")):
        lowest = min(row["id"] for row in networks)
        who = str(IPv6Address(prefix + lowest.to_bytes(4, "big") + bytes(10)))
    query = query_for(name, qtype, who, prefix).to_wire()
    request = {"op": "watch", "query": query.hex(), "source": (bytes(15) + b"\1").hex()}
    with connected(Path(catalog), offline=False) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        seen = 0
        try:
            for line in server.makefile("rb"):
                said = json.loads(line)
                if "error" in said:
                    raise Told("cannot watch", ", ".join(said["faults"]), "Check the name", UNREACHABLE)
                reply = dns.message.from_wire(bytes.fromhex(said["reply"]))
                now = datetime.now().isoformat(timespec="milliseconds")
                if as_json:
                    click.echo(json.dumps({"time": now, "revision": said["revision"], **reply_value(reply)}))
                else:
                    click.echo(paint(f"; {now} revision {said['revision']}", "cyan"))
                    click.echo("\n".join(reply_lines(reply)))
                seen += 1
                if seen == changes:
                    return
        except KeyboardInterrupt:
            return
    raise Told("the server has ended", "it closed the connection", "Start it again and watch again", UNREACHABLE)
