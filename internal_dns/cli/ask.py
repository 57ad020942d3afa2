"""dig and explain: ask over the wire, or in process with every reason."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internal_dns.admin import asking
from internal_dns.admin.asking import PREFIX, reply_value
from internal_dns.cli.words import (
    CONFIGURATION,
    FINDING,
    UNREACHABLE,
    Told,
    catalog_option,
    json_option,
    paint,
    print_json,
    settings,
)

if TYPE_CHECKING:
    import dns.message

    from internal_dns.core.explain import Explanation


def query_for(
    name: str, qtype: str | None, who: str | None, prefix: bytes = PREFIX
) -> dns.message.QueryMessage:
    """Return the query. Raises Told."""
    try:
        return asking.query_for(name, qtype, who, prefix)
    except asking.NotAQuestion as error:
        raise Told(error.what, error.why, error.do, 2) from error


def as_address(who: str | None) -> bytes | None:
    """The address that --as names; None when it is a network."""
    try:
        return IPv6Address(who or "").packed
    except ValueError:
        return None


@click.command()
@click.option(
    "--as",
    "who",
    metavar="NETWORK[/REGION]|ADDRESS",
    help="Whom to ask as; the server must run in dev mode.",
)
@click.option(
    "--server",
    default="[::1]:1053",
    show_default=True,
    metavar="ADDR:PORT",
    help="The server to ask.",
)
@click.option("--tcp", is_flag=True, help="Ask by TCP.")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait.")
@json_option
@click.argument("name")
@click.argument("qtype", required=False, metavar="[TYPE]")
def dig(
    who: str | None,
    server: str,
    tcp: bool,
    timeout: float,
    as_json: bool,
    name: str,
    qtype: str | None,
) -> None:
    """Ask a server for NAME (an address asks its reverse name). TYPE: what that name usually
    has."""
    import dns.exception
    import dns.message
    import dns.query

    from internal_dns.net import Endpoint

    query = query_for(name, qtype, who)
    try:
        endpoint = Endpoint.parse(server, 53)
    except ValueError as error:
        raise Told(
            f"--server {server}", str(error), "Write [::1]:1053 or 127.0.0.1:1053", 2
        ) from error
    start, host = time.perf_counter(), str(endpoint.host)
    try:
        if tcp:
            reply, by_tcp = dns.query.tcp(query, host, timeout, endpoint.port), True
        else:
            # Connected, so that "nothing listens there" (ICMP) ends the wait at once.
            with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(endpoint.sockaddr)
                reply, by_tcp = dns.query.udp_with_fallback(
                    query, host, timeout, endpoint.port, udp_sock=sock
                )
    except (OSError, dns.exception.DNSException) as error:
        dead = isinstance(error, ConnectionRefusedError)
        why = (
            f"nothing listens on that {'TCP' if tcp else 'UDP'} port"
            if dead
            else str(error) or type(error).__name__
        )
        raise Told(f"no reply from {endpoint}", why, "Start it with `internal-dns dev`, or name "
                                                     "another with --server",
                   UNREACHABLE) from error  # fmt: skip
    milliseconds = (time.perf_counter() - start) * 1000
    if as_json:
        print_json(
            reply_value(reply)
            | {"milliseconds": round(milliseconds, 2), "transport": "tcp" if by_tcp else "udp"}
        )
    else:
        for line in reply_lines(reply):
            click.echo(line)
        size = len(reply.wire or b"")
        tail = " · forwarded" if from_elsewhere(reply) else ""
        click.echo(
            paint(
                f"; {endpoint} · {'tcp' if by_tcp else 'udp'} · {milliseconds:.1f} ms · {size} "
                f"octets{tail}",
                "cyan",
            )
        )
    raise SystemExit(0 if reply.rcode() == 0 else FINDING)


def from_elsewhere(reply: dns.message.Message) -> bool:
    """Whether an upstream's words are in it, just now or kept: what this server answers itself has
    AA.

    So has neither a failure, which is nobody's answer, nor the empty one to a name of one label.
    """
    import dns.flags

    itself = reply.flags & dns.flags.AA or not reply.flags & dns.flags.RA
    return not itself and reply.rcode() in (0, 3) and len(reply.question[0].name.labels) > 2


def reply_lines(reply: dns.message.Message) -> list[str]:
    """A reply as people read it: RCODE and flags, the reason if there is one, records."""
    value = reply_value(reply)
    colour = "green" if value["rcode"] == "NOERROR" else "yellow"
    lines = [paint(f"; {value['rcode']} {' '.join(value['flags'])}", colour)]
    lines += [paint(f"; {reason}", "yellow") for reason in value["reasons"]]
    for section in ("answer", "authority", "additional"):
        lines += [
            *([f"; {section}"] if value[section] and section != "answer" else []),
            *value[section],
        ]
    return lines


@click.command()
@click.option(
    "--as",
    "who",
    metavar="NETWORK[/REGION]|ADDRESS",
    help="Whom to answer as. [default: the first network]",
)
@click.option("--region", metavar="CODE", help="The region of the server.")
@click.option("--tcp", is_flag=True, help="As by TCP.")
@click.option("--quiet", is_flag=True, help="The records only.")
@catalog_option
@json_option
@click.argument("name")
@click.argument("qtype", required=False, metavar="[TYPE]")
def explain(
    who: str | None,
    region: str | None,
    tcp: bool,
    quiet: bool,
    catalog: str,
    as_json: bool,
    name: str,
    qtype: str | None,
) -> None:
    """Tell why NAME is answered as it is: the server's own decision, from the catalog file, step by
    step."""
    import dns.message

    from internal_dns.core.explain import explain as explained
    from internal_dns.core.journey import Forward, Rules
    from internal_dns.store.sqlite import UnusableCatalog, load

    as_served = settings()
    try:
        loaded = load(catalog, rules=as_served.catalog_rules)
    except (FileNotFoundError, UnusableCatalog) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise Told(f"catalog {catalog}", why, "Name it with --catalog, or make one: internal-dns "
                                              "init FILE --demo",
                   CONFIGURATION) from error  # fmt: skip
    first = min(loaded.catalog.networks.values(), key=lambda network: network.id, default=None)
    if who is None and first:
        who = str(IPv6Address(first.prefix + bytes(10)))
    address = as_address(who)
    query = query_for(name, qtype, None if address else who, as_served.prefix)
    rules = Rules(
        prefix=as_served.prefix, region=region.lower().encode() if region else None, dev=True
    )
    loopback = bytes(15) + b"\1"
    story = explained(
        query.to_wire(), address or loopback, loopback, loaded.catalog, rules, stream=tcp
    )
    if isinstance(story.outcome, Forward):
        story = replace(story, steps=(*story.steps, *_forwarded(catalog, query.to_wire())))
    reply = dns.message.from_wire(story.octets) if story.octets else None
    if as_json:
        print_json(_story_value(story) | {"reply": reply_value(reply) if reply else None})
    else:
        for line in [] if quiet else _story_lines(story):
            click.echo(line)
        for line in reply_lines(reply)[quiet:] if reply else []:
            click.echo(line)
    raise SystemExit(FINDING if reply is None or reply.rcode() else 0)


def _forwarded(catalog: str, octets: bytes) -> tuple[tuple[str, str], ...]:
    """What the server of *catalog* knows of a question that is not ours; without one, that it is
    not known."""
    from internal_dns.cli.backend import connected

    try:
        with connected(Path(catalog), offline=False) as server:
            server.sendall(json.dumps({"op": "forward", "query": octets.hex()}).encode() + b"\n")
            said = json.loads(server.makefile("rb").readline())
    except (Told, OSError, ValueError):
        return (
            (
                "cache",
                "not known: no server of this catalog runs here, and only it knows what it asked "
                "before",
            ),
        )
    return tuple((title, says) for title, says in said.get("steps", ()))


def _story_value(story: Explanation) -> dict[str, Any]:
    from internal_dns.core.names import printable
    from internal_dns.core.records import address_text

    return {
        "steps": [{"step": title, "says": says} for title, says in story.steps],
        "machines": [
            {
                "id": v.machine.id.decode(),
                "address": address_text(v.machine.address).decode(),
                "region": v.machine.region.decode(),
                "group": v.machine.group.decode(),
                "state": printable(v.machine.state),
                "included": not v.why,
                "why_not": v.why or None,
                "distance": v.distance or None,
            }
            for v in story.machines
        ],
    }


def _story_lines(story: Explanation) -> list[str]:
    value = _story_value(story)
    lines = [f"{title:9}{says}" for title, says in story.steps]
    columns = ("id", "region", "group", "address")
    widths = [
        max((len(machine[column]) for machine in value["machines"]), default=0)
        for column in columns
    ]
    for machine in value["machines"]:
        mark = paint("+", "green") if machine["included"] else paint("-", "red")
        cells = (
            f"{machine[column]:{width}}" for column, width in zip(columns, widths, strict=True)
        )
        lines.append(
            f"  {mark} {'  '.join(cells)}  {machine['why_not'] or machine['distance'] or ''}".rstrip()
        )
    return lines
