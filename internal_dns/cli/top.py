"""top: the busiest networks and names.

A network's rate counts computed and repeated answers. A name's rate comes from the hit counts in
the answer table.
"""

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
from typing import IO, Final

import click

from internal_dns.admin.rates import SNAPSHOT_NAMES, Snapshot, rates
from internal_dns.cli.backend import connected
from internal_dns.cli.common import UNREACHABLE, catalog_option, json_option, paint, print_json
from internal_dns.errors import OperatorError

_CLEAR: Final = "\x1b[H\x1b[2J"


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3_600),
    default=2.0,
    show_default=True,
    help="Seconds between updates.",
)
@click.option(
    "--names",
    "count",
    type=click.IntRange(1, SNAPSHOT_NAMES),
    help="The number of names.  [default: as many as fit, or 20]",
)
@click.option("--once", is_flag=True, help="Print one table and exit.")
@catalog_option
@json_option
def top(interval: float, count: int | None, once: bool, catalog: str, as_json: bool) -> None:
    """Show the busiest networks and names of the running server.

    Press q to quit; --json prints one sample. The rate of a network counts all its queries. The
    rate of a name counts replies repeated from the answer table, nearly all of a busy name's.
    """
    live = sys.stdout.isatty() and not once and not as_json
    with connected(Path(catalog), offline=False) as server, _quit_key(live) as quit_pressed:
        replies = server.makefile("rb")

        def take_snapshot() -> Snapshot:
            server.sendall(json.dumps({"op": "busiest", "names": SNAPSHOT_NAMES}).encode() + b"\n")
            return _read_reply(replies)

        try:
            previous = take_snapshot()
            while not quit_pressed(interval):
                snapshot = take_snapshot()
                shown = rates(previous, snapshot)
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
                        count or (_count_rows(size.lines) if live else 20),
                    )
                )
                click.echo(_CLEAR * live + text + "\n" * (not once and not live))
                if once:
                    return
                previous = snapshot
        except KeyboardInterrupt:
            return


def table(shown: Snapshot, width: int, count: int) -> list[str]:
    """Return the lines of one table, none longer than *width*."""
    queries, repeated = shown["requests"], shown["repeated"]
    answered = repeated + shown["decided"]
    share = f"{min(repeated / queries, 1):.1%} repeated" if queries else "no queries"
    head = f"{queries:,.0f} queries/s · {share} · {shown['entries']:,} replies in the answer table"
    lines = [
        _line("head", head, width),
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
        lines.append(_line("", f"{'':19}no query was repeated yet", width))
    return lines


def _share(row: Snapshot, whole: float) -> str:
    return f"{min(row['rate'] / whole, 1):6.1%}" if whole else f"{'-':>6}"


def _line(kind: str, text: str, width: int) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return paint(cut, {"head": "green", "title": "cyan"}[kind]) if kind else cut


def _count_rows(lines: int) -> int:
    """Return how many names fit below the head and a third as many networks."""
    return max(3, (lines - 6) * 3 // 4)


def _read_reply(replies: IO[bytes]) -> Snapshot:
    line = replies.readline()
    if not line:
        raise OperatorError(
            "the server stopped", "it closed the connection", "Start it again", UNREACHABLE
        )
    snapshot: Snapshot = json.loads(line)
    if "error" in snapshot:
        raise OperatorError(
            "the server did not return its counts",
            ", ".join(snapshot["faults"]),
            "It may be older than this program: restart it after an upgrade",
            UNREACHABLE,
        )
    return snapshot


@contextmanager
def _quit_key(live: bool) -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits for some seconds and returns whether q was pressed.

    Without a terminal it only waits.
    """
    if not live or not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def quit_pressed(seconds: float) -> bool:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return bool(ready) and os.read(terminal, 64)[:1].lower() in (b"q", b"")

    tty.setcbreak(terminal)
    try:
        yield quit_pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
