"""Suggest what a name without an answer may have been meant to be, for `explain`.

    queried                   what it is              suggested
    web                       one label, an app       web.internal
    alice.internal            a peer                  alice._peer.internal
    17811953f92389.internal   a machine               17811953f92389.vm.batch.internal
    17811953f92389.batch.internal
    worker.web.internal       a process group         worker.process.web.internal
    1.0.0.10.in-addr.arpa     a private IPv4 address  nothing: the networks are IPv6

Only the requester's own network is searched, and at most MACHINES of its machines.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Final

from internal_dns.core.catalog import App, Network
from internal_dns.core.local import is_bare, local_zone
from internal_dns.core.names import INTERNAL, Labels, printable

MACHINES: Final = 100_000  # which takes some 5 ms
_OCTETS: Final = 4  # of an IPv4 address


def suggest(labels: Labels, qtype: int, network: Network) -> str:
    """Return a sentence that says what *labels* may stand for, or an empty text."""
    if is_bare(labels, qtype):
        return _one_label(labels[0], network)
    if labels[-2:] == (b"in-addr", b"arpa") and local_zone(labels):
        return "an IPv4 address: machines and peers have IPv6 addresses only"
    if len(labels) == _OCTETS and all(label.isdigit() for label in labels):
        return f"{_text(labels)} is an IPv4 address, not a name"
    if labels[-1:] != INTERNAL or not 2 <= len(labels) <= 3:
        return ""
    label, app = labels[0], network.apps.get(labels[-2])
    if len(labels) == 2:
        return "" if app else _by_label(label, network)
    return _within(label, app) if app else ""


def _one_label(label: bytes, network: Network) -> str:
    """Explain a name of one label, which may lack the search domain, and suggest a full one."""
    if found := _by_label(label, network):
        return f"a name of one label is not forwarded; {found}"
    example = label if label in network.apps else b"web"
    return f"a name of one label is not forwarded; try {_text((example, *INTERNAL))}"


def _by_label(label: bytes, network: Network) -> str:
    """Say which peer or machine of *network* has the name or id *label*."""
    if label in network.apps:
        return ""
    peer = network.peers.get(label)
    if peer is not None and peer.visible:
        return f"{printable(label)} is a peer; try {_text((label, b'_peer', *INTERNAL))}"
    every = chain.from_iterable(app.machines for app in network.apps.values())
    for machine in islice(every, MACHINES):
        if machine.id == label:
            return _machine(label, machine.app)
    return ""


def _within(label: bytes, app: App) -> str:
    """Say what *label* is in *app*, unless it is a region."""
    if label in app.regions:
        return ""
    if len(app.machines) <= MACHINES and label in app.by_id:
        return _machine(label, app.name)
    if label in app.groups:
        name = _text((label, b"process", app.name, *INTERNAL))
        return f"{printable(label)} is a process group of {printable(app.name)}; try {name}"
    return ""


def _machine(label: bytes, app: bytes) -> str:
    name = _text((label, b"vm", app, *INTERNAL))
    return f"{printable(label)} is a machine of {printable(app)}; try {name}"


def _text(labels: Labels) -> str:
    return ".".join(map(printable, labels))
