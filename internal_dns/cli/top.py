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
    help="Seconds per look.",
)
@click.option(
    "--names",
    "count",
    type=click.IntRange(1, SNAPSHOT_NAMES),
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
    with connected(Path(catalog), offline=False) as server, _quit_key(live) as quit_pressed:
        replies = server.makefile("rb")

        def take_snapshot() -> Snapshot:
            server.sendall(json.dumps({"op": "busiest", "names": SNAPSHOT_NAMES}).encode() + b"\n")
            return _read_reply(replies)

        try:
            before = take_snapshot()
            while not quit_pressed(interval):
                now = take_snapshot()
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
                        count or (_count_rows(size.lines) if live else 20),
                    )
                )
                click.echo(_CLEAR * live + text + "\n" * (not once and not live))
                if once:
                    return
                before = now
        except KeyboardInterrupt:
            return


def table(shown: Snapshot, width: int, count: int) -> list[str]:
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


def _share(row: Snapshot, whole: float) -> str:
    return f"{min(row['rate'] / whole, 1):6.1%}" if whole else f"{'-':>6}"


def _line(kind: str, text: str, width: int) -> str:
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return paint(cut, {"head": "green", "title": "cyan"}[kind]) if kind else cut


def _count_rows(lines: int) -> int:
    """How many names fit below the head, with a third as many networks above them."""
    return max(3, (lines - 6) * 3 // 4)


def _read_reply(replies: IO[bytes]) -> Snapshot:
    line = replies.readline()
    if not line:
        raise OperatorError(
            "the server has quit_pressed", "it closed the connection", "Start it again", UNREACHABLE
        )
    found: Snapshot = json.loads(line)
    if "error" in found:
        why = ", ".join(found["faults"])
        raise OperatorError(
            "the server cannot tell",
            why,
            "Is it of this version? Restart it after an upgrade",
            UNREACHABLE,
        )
    return found


@contextmanager
def _quit_key(live: bool) -> Iterator[Callable[[float], bool]]:
    """Give a function that waits so many seconds and returns whether q was pressed, which needs a
    terminal."""
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
