"""dig and explain: query a server, or decide the answer in this process and show every reason."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from internal_dns.admin import presentation
from internal_dns.admin.presentation import PREFIX, reply_value
from internal_dns.cli.common import (
    CONFIGURATION,
    FINDING,
    UNREACHABLE,
    USAGE,
    catalog_option,
    default_catalog,
    json_option,
    paint,
    print_json,
    settings,
)
from internal_dns.cli.servers import Asked, NoReply, ask, ask_first, meant_for
from internal_dns.core.wire import ASK_AS
from internal_dns.errors import OperatorError
from internal_dns.text import printable_text

if TYPE_CHECKING:
    import dns.message

    from internal_dns.core.explain import Explanation
    from internal_dns.net import Endpoint


def query_for(
    name: str, qtype: str | None, who: str | None, prefix: bytes = PREFIX
) -> dns.message.QueryMessage:
    """Return the query for *name*. Raises OperatorError."""
    try:
        return presentation.query_for(name, qtype, who, prefix)
    except presentation.InvalidQuestion as error:
        raise OperatorError(error.what, error.why, error.do, 2) from error


def as_address(who: str | None) -> bytes | None:
    """Return the address that --as names; None for a network."""
    try:
        return IPv6Address(who or "").packed
    except ValueError:
        return None


@click.command()
@click.option(
    "--as",
    "who",
    metavar="NETWORK[/REGION]|ADDRESS",
    help="The client to imitate; the server must run in dev mode.",
)
@click.option(
    "-b",
    "source",
    metavar="ADDRESS",
    help="Query from this address of the host, as the machine or peer that owns it.",
)
@click.option(
    "--server",
    metavar="ADDR:PORT",
    help="The server to query.  [default: the running server of the catalog, else `listen` of the "
    "configuration, else [::1]:1053 or 127.0.0.1:1053]",
)
@click.option("--catalog", metavar="FILE", help="The catalog whose server to query.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As `serve` would.")
@click.option("--tcp", is_flag=True, help="Query over TCP.")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait.")
@json_option
@click.argument("name")
@click.argument("qtype", required=False, metavar="[TYPE]")
def dig(
    who: str | None,
    source: str | None,
    server: str | None,
    catalog: str | None,
    config: Path | None,
    tcp: bool,
    timeout: float,
    as_json: bool,
    name: str,
    qtype: str | None,
) -> None:
    """Query a server for NAME; an address stands for its reverse name.

    The default TYPE is the usual one for that name.
    """
    from internal_dns.cli.advice import about_reply, about_silence, about_source

    if who and source:
        raise click.UsageError("--as and -b exclude each other: both choose the client")
    if name.startswith("@"):
        raise click.UsageError(f"name the server with an option: --server {name[1:] or 'ADDRESS'}")
    own = _source(source) if source else None
    as_served = settings({"catalog": catalog} if catalog else {}, config)
    query = query_for(name, qtype, who, as_served.prefix)
    configured = as_served.origin["catalog"] != "default"
    file = as_served.catalog if configured else Path(default_catalog())
    endpoints = meant_for(server, as_served, file, own if own and own.version == 6 else None)
    try:
        asked = ask_first(query, endpoints, source=own, tcp=tcp, timeout=timeout)
        if who and not was_honored(asked, who, as_served.prefix, timeout):
            raise _not_honored(who, asked.endpoint)
    except NoReply as error:
        why, do = about_silence(error, timeout=timeout, tcp=tcp)
        raise OperatorError(f"no reply from {error.endpoint}", why, do, UNREACHABLE) from error
    except OSError as error:
        why, do = about_source(error)
        raise OperatorError(f"cannot query from {source}", why, do, USAGE) from error
    reply, advice = asked.reply, about_reply(asked, name, who)
    if as_json:
        print_json(
            reply_value(reply)
            | {
                "server": str(asked.endpoint),
                "milliseconds": round(asked.milliseconds, 2),
                "transport": "tcp" if asked.tcp else "udp",
                "next": advice or None,
            }
        )
    else:
        size = len(reply.wire or b"")
        tail = " · forwarded" if from_elsewhere(reply) else ""
        how = "tcp" if asked.tcp else "udp"
        last = f"; {asked.endpoint} · {how} · {asked.milliseconds:.1f} ms · {size} octets{tail}"
        click.echo("\n".join([*reply_lines(reply), paint(last, "cyan")]))
        if advice:
            click.echo(paint(f"; next: {advice}", "yellow"))
    raise SystemExit(0 if reply.rcode() == 0 else FINDING)


def _source(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        do = "Use an address of this host, such as that of a machine: fdaa:0:18:a7b:7d:1:1:2"
        raise OperatorError(f"-b {text}", "it is not an address", do, USAGE) from error


def was_honored(asked: Asked, who: str, prefix: bytes, timeout: float) -> bool:
    """Return whether the server answered as *who*. In dev mode the reply repeats the option.

    Without that, `_whoami` names the client as the server sees it, which may be *who* anyway.
    """
    if _echoes(asked.reply, who):
        return True
    query = query_for("_whoami.internal", "TXT", who, prefix)
    told = ask(query, asked.endpoint, timeout=timeout).reply
    if _echoes(told, who):
        return True
    texts = [
        b"".join(rdata.strings).decode(errors="replace") for rrset in told.answer for rdata in rrset
    ]
    facts = dict(part.partition("=")[::2] for text in texts for part in text.split(","))
    network, _, region = who.lower().partition("/")
    if address := as_address(who):
        return facts.get("address") == str(IPv6Address(address))
    return facts.get("network", "").lower() == network and region in ("", facts.get("region"))


def _echoes(reply: dns.message.Message, who: str) -> bool:
    return any(
        option.otype == ASK_AS and getattr(option, "data", b"") == who.encode()
        for option in reply.options
    )


def _not_honored(who: str, endpoint: Endpoint) -> OperatorError:
    return OperatorError(
        "--as was not honored: this server is not in dev mode",
        f"{endpoint} ignored `{who}` and answered this host's own address",
        "Query from an address of the network with -b ADDRESS; or run `internal-dns explain "
        "--as`, which needs no server; or start one in dev mode with `internal-dns dev`",
        FINDING,
    )


def from_elsewhere(reply: dns.message.Message) -> bool:
    """Return whether the reply came from an upstream, directly or cached.

    The server's own answers have AA. Failures do not count as an upstream's answer, nor does the
    empty answer to a name of one label.
    """
    import dns.flags

    itself = reply.flags & dns.flags.AA or not reply.flags & dns.flags.RA
    return not itself and reply.rcode() in (0, 3) and len(reply.question[0].name.labels) > 2


def reply_lines(reply: dns.message.Message) -> list[str]:
    """Return the lines of a reply for people: RCODE and flags, reasons, records."""
    value = reply_value(reply)
    color = "green" if value["rcode"] == "NOERROR" else "yellow"
    lines = [paint(f"; {value['rcode']} {' '.join(value['flags'])}", color)]
    lines += [paint(f"; {printable_text(reason)}", "yellow") for reason in value["reasons"]]
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
    help="The client to answer.  [default: the network with the lowest ID]",
)
@click.option("--region", metavar="CODE", help="The server's region.")
@click.option("--tcp", is_flag=True, help="Answer as over TCP.")
@click.option("--quiet", is_flag=True, help="Print the records only.")
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
    """Explain, step by step and from the catalog file, how the server answers NAME."""
    import dns.message

    from internal_dns.core.explain import explain as explained
    from internal_dns.core.journey import Forward, Rules
    from internal_dns.store.sqlite import UnusableCatalog, load

    as_served = settings()
    try:
        loaded = load(catalog, rules=as_served.catalog_rules)
    except (FileNotFoundError, UnusableCatalog) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise OperatorError(
            f"cannot use catalog {catalog}",
            why,
            "Name another file with --catalog, or create one: internal-dns init FILE --demo",
            CONFIGURATION,
        ) from error
    first = min(loaded.catalog.networks.values(), key=lambda network: network.id, default=None)
    if who is None and first:
        who = str(IPv6Address(first.prefix + bytes(10)))
    address = as_address(who)
    query = query_for(name, qtype, None if address else who, as_served.prefix)
    rules = Rules(
        prefix=as_served.prefix,
        region=region.lower().encode() if region else None,
        dev=True,
        echo=False,
    )
    loopback = bytes(15) + b"\1"
    story = explained(
        query.to_wire(), address or loopback, loopback, loaded.catalog, rules, stream=tcp
    )
    if isinstance(story.outcome, Forward):
        forwarded = query
        if story.outcome.aliased is not None:  # an alias leads there: another name is asked for
            target = dns.name.Name((*story.outcome.query.labels, b""))
            forwarded = dns.message.make_query(target, query.question[0].rdtype)
        story = replace(story, steps=(*story.steps, *_forwarded(catalog, forwarded.to_wire())))
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
    """Return what the server of *catalog* knows about a forwarded query, or that no server runs."""
    from internal_dns.cli.backend import connected

    try:
        with connected(Path(catalog), offline=False) as server:
            server.sendall(json.dumps({"op": "forward", "query": octets.hex()}).encode() + b"\n")
            reply = json.loads(server.makefile("rb").readline())
    except (OperatorError, OSError, ValueError):
        return (
            (
                "cache",
                "unknown: no server of this catalog runs here, and the cache is in its memory",
            ),
        )
    return tuple((title, says) for title, says in reply.get("steps", ()))


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
        note = machine["why_not"] or machine["distance"] or ""
        lines.append(f"  {mark} {'  '.join(cells)}  {note}".rstrip())
    return lines
