"""Messages wait in a line for each network, and the networks take turns."""

from __future__ import annotations

import pytest

from internal_dns.transport import turns
from internal_dns.transport.turns import MOST, Turns


def test_networks_take_turns_and_each_keeps_its_order() -> None:
    waiting = Turns[str]()
    for message in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert waiting.put(message[:1].encode(), message)
    assert [waiting.take() for _ in range(len(waiting))] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert len(waiting) == 0
    with pytest.raises(IndexError):
        waiting.take()


def test_a_flood_waits_for_itself_alone() -> None:
    waiting = Turns[int]()
    assert [waiting.put(b"flood", number) for number in range(2 * MOST)] == [True] * MOST + [
        False
    ] * MOST
    assert waiting.put(b"quiet", -1)
    assert [waiting.take() for _ in range(3)] == [0, -1, 1]


def test_all_together_are_bounded_and_everyone_keeps_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "MOST_OF_ALL", 100)
    waiting = Turns[int]()
    for number in range(100):
        assert waiting.put(b"%d" % (number % 5), number)
    assert not waiting.put(b"0", 0)  # it has twenty
    assert waiting.put(b"new", 0)
    assert [waiting.put(b"new", 0) for _ in range(20)] == [True] * 15 + [False] * 5
    assert sum(waiting.put(b"made up %d" % number, 0) for number in range(500)) == 200 - 116
