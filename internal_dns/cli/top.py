"""top: the busiest networks, from what was decided and repeated for each, and names, from the counts
that the answer table keeps with each entry."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from internal_dns.cli.backend import connected
from internal_dns.cli.words import UNREACHABLE, Told, catalog_option, json_option, paint, print_json

Look = dict[str, Any]  # what the server counts (admin/live.py)

LOOKED_AT: Final = 1_000  # names a look brings
_CLEAR: Final = "\x1b[H\x1b[2J"


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3_600),
    default=2.0,
    show_default=True,
    help="Seconds per look.",
)
@click.option(
    "--names",
    "count",
    type=click.IntRange(1, LOOKED_AT),
    help="How many names.  [default: what fits, or 20]",
)
@click.option("--once", is_flag=True, help="One table, then end.")
@catalog_option
@json_option
def top(interval: float, count: int | None, once: bool, catalog: str, as_json: bool) -> None:
    """The busiest networks and names of the running server. q ends; --json prints one look.

    A network's rate counts every question. A name's counts the replies repeated from the answer
    table: nearly all of a busy name's.
    """
    live = sys.stdout.isatty() and not once and not as_json
    with connected(Path(catalog), offline=False) as server, _keys(live) as ended:
        replies = server.makefile("rb")

        def look() -> Look:
            server.sendall(json.dumps({"op": "busiest", "names": LOOKED_AT}).encode() + b"\n")
            return _reply(replies)

        try:
            before = look()
            while not ended(interval):
                now = look()
                shown = rates(before, now)
                if as_json:
                    print_json(
                        shown
                        | {"networks": shown["networks"][:count], "names": shown["names"][:count]}
                    )
                    return
                size = shutil.get_terminal_size()
                text = "\n".join(
                    table(
                        shown,
                        size.columns if live else 100,
                        count or (_fits(size.lines) if live else 20),
                    )
                )
                click.echo(_CLEAR * live + text + "\n" * (not once and not live))
                if once:
                    return
                before = now
        except KeyboardInterrupt:
            return


def rates(before: Look, now: Look) -> Look:
    """Return what happened between two looks, per second, busiest first.

    A name that the earlier look did not bring may be new, or was less busy than those it brought:
    count from there.
    """
    seconds: float = max(now["at"] - before["at"], 1e-9)
    floor = before["names"][-1]["hits"] if len(before["names"]) >= LOOKED_AT else 0

    def per_second(hits: int, earlier: int) -> float:
        # A decided-anew answer counts from nothing again; what was counted before it is then
        # unknown.
        return round((hits - earlier if hits >= earlier else hits) / seconds, 1)

    def count(network: Look) -> int:  # a server before this one tells no `decided`
        answers: int = network["hits"] + network.get("decided", 0)
        return answers

    names = {(n["network"], n["name"], n["type"]): n["hits"] for n in before["names"]}
    networks = {n["network"]: count(n) for n in before["networks"]}
    return {
        "seconds": round(seconds, 3),
        "requests": per_second(now["requests"], before["requests"]),
        "repeated": per_second(now["repeated"], before["repeated"]),
        "decided": per_second(now.get("decided", 0), before.get("decided", 0)),
        "entries": now["entries"],
        "networks": _busiest_first(
            {**n, "rate": per_second(count(n), networks.get(n["network"], 0))}
            for n in now["networks"]
        ),
        "names": _busiest_first(
            {
                **n,
                "rate": per_second(
                    n["hits"],
                    names.get((n["network"], n["name"], n["type"]), min(floor, n["hits"])),
                ),
            }
            for n in now["names"]
        ),
    }


def _busiest_first(rows: Iterator[Look]) -> list[Look]:
    return sorted(
        rows, key=lambda row: (-row["rate"], -row["hits"], row.get("name", ""), row["network"])
    )


def table(shown: Look, width: int, count: int) -> list[str]:
    """Return the lines of one table, none longer than *width*."""
    asked, repeated = shown["requests"], shown["repeated"]
    answered = repeated + shown["decided"]
    share = f"{min(repeated / asked, 1):.1%} repeated" if asked else "nothing asked"
    lines = [
        _line(
            "head", f"{asked:,.0f} questions/s · {share} · {shown['entries']:,} replies kept", width
        ),
        "",
        _line("title", f"{'per second':>10} {'share':>6}  network", width),
    ]
    for row in shown["networks"][: max(3, count // 3)]:
        lines.append(
            _line("", f"{row['rate']:>10,.1f} {_share(row, answered)}  {row['network']}", width)
        )
    lines += [
        "",
        _line("title", f"{'per second':>10} {'share':>6}  {'type':6} {'network':15} name", width),
    ]
    for row in shown["names"][:count]:
        who = f"{row['type']:6} {row['network']:15}"
        lines.append(
            _line("", f"{row['rate']:>10,.1f} {_share(row, repeated)}  {who} {row['name']}", width)
        )
    if not shown["names"]:
        lines.append(_line("", f"{'':19}nothing was asked twice yet", width))
    return lines


def _share(row: Look, whole: float) -> str:
    return f"{min(row['rate'] / whole, 1):6.1%}" if whole else f"{'-':>6}"


def _line(kind: str, text: str, width: int) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return paint(cut, {"head": "green", "title": "cyan"}[kind]) if kind else cut


def _fits(lines: int) -> int:
    """How many names fit below the head, with a third as many networks above them."""
    return max(3, (lines - 6) * 3 // 4)


def _reply(replies: IO[bytes]) -> Look:
    line = replies.readline()
    if not line:
        raise Told(
            "the server has ended", "it closed the connection", "Start it again", UNREACHABLE
        )
    found: Look = json.loads(line)
    if "error" in found:
        why = ", ".join(found["faults"])
        raise Told(
            "the server cannot tell",
            why,
            "Is it of this version? Restart it after an upgrade",
            UNREACHABLE,
        )
    return found


@contextmanager
def _keys(live: bool) -> Iterator[Callable[[float], bool]]:
    """Give a function that waits so many seconds and returns whether q was pressed, which needs a
    terminal."""
    if not live or not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def ended(seconds: float) -> bool:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return bool(ready) and os.read(terminal, 64)[:1].lower() in (b"q", b"")

    tty.setcbreak(terminal)
    try:
        yield ended
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
