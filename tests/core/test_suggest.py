"""`explain` suggests what a name without an answer may have been meant to be."""

from __future__ import annotations

from functools import cache

import pytest

from internal_dns.core import suggest as module
from internal_dns.core.catalog import Network, NetworkId
from internal_dns.core.suggest import suggest
from internal_dns.core.wire import Type
from internal_dns.store.generate import demo_rows
from tests.core.messages import loaded


@cache
def acme() -> Network:
    return loaded(rows=demo_rows()).catalog.networks[NetworkId(0x18)]


def said(name: str, qtype: Type = Type.AAAA) -> str:
    return suggest(tuple(label.encode() for label in name.split(".")), qtype, acme())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("db", "a name of one label is not forwarded; try db.internal"),
        ("nosuch", "a name of one label is not forwarded; try web.internal"),
        ("alice-laptop", "a name of one label is not forwarded; alice-laptop is a peer; try "
         "alice-laptop._peer.internal"),
        ("alice-laptop.internal", "alice-laptop is a peer; try alice-laptop._peer.internal"),
        ("17811953f92389.internal", "17811953f92389 is a machine of batch; try "
         "17811953f92389.vm.batch.internal"),
        ("17811953f92389.batch.internal", "17811953f92389 is a machine of batch; try "
         "17811953f92389.vm.batch.internal"),
        ("worker.web.internal",
         "worker is a process group of web; try worker.process.web.internal"),
        ("1.0.0.10.in-addr.arpa", "an IPv4 address: machines and peers have IPv6 addresses only"),
        ("10.0.0.1", "10.0.0.1 is an IPv4 address, not a name"),
    ],
)  # fmt: skip
def test_a_suggestion_names_an_object_that_exists(name: str, words: str) -> None:
    assert said(name) == words


@pytest.mark.parametrize(
    "name",
    [
        "web.internal",  # it exists
        "iad.web.internal",
        "nosuch.internal",
        "17811953f92389.web.internal",  # a machine of another app
        "x.alice-laptop.internal",
        "8.8.8.8.in-addr.arpa",  # it is forwarded
        "example.com",
        "alice-laptop.flycast",
    ],
)
def test_nothing_is_suggested_when_nothing_is_similar(name: str) -> None:
    assert said(name) == ""


def test_other_types_of_one_label_are_forwarded() -> None:
    assert said("com", Type.TXT) == ""


def test_a_hidden_peer_is_not_named() -> None:
    (hidden,) = [p for p in acme().peers.values() if not p.visible][:1]
    assert said(f"{hidden.name.decode()}.internal") == ""


def test_machines_past_the_bound_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MACHINES", 0)
    assert said("17811953f92389.internal") == ""
