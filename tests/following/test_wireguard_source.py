"""The peers of this host's interfaces, from a command that prints what `wg show all dump` does."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import pytest

from internal_dns.live import wireguard as module
from internal_dns.live.source import Snapshot, SourceAway, peer_key
from internal_dns.live.wireguard import WireGuard
from internal_dns.sources import Options

KEY = "4" * 43 + "="
OTHER = "5" * 43 + "="
INTERFACE = f"wg0\t{KEY}\t{KEY}\t51820\toff"


def peer(key: str, allowed: str, handshake: int = 0) -> str:
    return f"wg0\t{key}\t(none)\t192.0.2.1:5\t{allowed}\t{handshake}\t0\t0\toff"


def printing(text: str, *, errors: str = "", code: int = 0) -> WireGuard:
    """A source whose command prints *text*."""
    script = f"import sys; sys.stdout.write({text!r}); sys.stderr.write({errors!r}); exit({code})"
    return WireGuard(Options(), (sys.executable, "-c", script))


def look(source: WireGuard) -> Snapshot:
    return asyncio.run(source.snapshot())


def test_peers_are_read_with_their_last_handshake_for_the_status_only() -> None:
    lines = (
        INTERFACE,
        peer(KEY, "fdaa:0:18:1:1:0:a:102/128", 1_700_000_000),
        peer(OTHER, "fdaa:0:19:1:1:0:b:102/128,10.0.0.2/32"),
    )
    found = look(printing("\n".join(lines) + "\n"))
    assert set(found.objects) == {
        peer_key(24, "peer-4444444444444444"),
        peer_key(25, "peer-5555555555555555"),
    }
    assert found.figures == {"peers": 2, "last_handshake": 1_700_000_000}
    again = "\n".join(lines).replace("1700000000", "1700000099")
    assert look(printing(again)).objects == found.objects


def test_no_interface_is_an_empty_snapshot_that_says_so() -> None:
    assert look(printing("")) == Snapshot({}, ("there is no WireGuard interface",))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (printing("", code=3), "exit 3"),
        (printing(INTERFACE, errors="Unable to access interface wg1: Operation not permitted"),
         "Unable to access interface wg1"),
        (printing(INTERFACE + "\nwg0\tcut off"), "line 2 has 2 fields"),
        (printing("hello"), "4 or 5 fields"),
        (WireGuard(Options(), ("/nonexistent/wg",)), "No such file"),
    ],
)  # fmt: skip
def test_what_is_not_a_whole_dump_is_no_snapshot(source: WireGuard, why: str) -> None:
    with pytest.raises(SourceAway) as caught:
        look(source)
    assert why in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    with pytest.raises(SourceAway, match="not ended"):
        look(WireGuard(Options(), (sys.executable, "-c", "import time; time.sleep(600)")))


def test_hints_come_at_an_interval() -> None:
    async def follow() -> int:
        source, count = WireGuard(Options(), interval=0), 0
        async with aclosing(source.changes()) as hints:
            async for _ in hints:
                count += 1
                if count == 5:
                    break
        return count

    assert asyncio.run(follow()) == 5
