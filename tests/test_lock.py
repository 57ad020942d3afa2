"""Threads that work beside the event loop take short turns, however many do."""

from __future__ import annotations

import sys

import pytest

from internal_dns.lock import SWITCH, short_turns


def test_turns_are_short_until_the_last_one_who_needs_it_has_ended() -> None:
    usual = sys.getswitchinterval()
    loading, page = short_turns(), short_turns()
    loading.__enter__()
    page.__enter__()
    loading.__exit__(None, None, None)  # they need not end in order
    assert sys.getswitchinterval() == pytest.approx(SWITCH)
    page.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_turns_are_as_usual_after_a_failure() -> None:
    usual = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError), short_turns():
        raise ZeroDivisionError
    assert sys.getswitchinterval() == pytest.approx(usual)
