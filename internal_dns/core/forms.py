"""What users read about each form of name: a description, the usual query type, an example.

A test compares the table with the grammar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from internal_dns.core import names
from internal_dns.core.wire import Type


class Form(NamedTuple):
    """A form of name. `words` may have fields of the form in braces, which `explain` fills in."""

    words: str
    type: Type
    example: str


FORMS: Final[Mapping[type[names.Asked], Form]] = {
    names.Apex: Form("the apex of a zone", Type.SOA, "internal"),
    names.Apps: Form("every app of the network", Type.TXT, "_apps.internal"),
    names.Instances: Form(
        "machines with address and region, of one app or of all", Type.TXT, "_instances.internal"
    ),
    names.Peers: Form("the names of the visible peers", Type.TXT, "_peer.internal"),
    names.PeerAddress: Form("the address of a peer", Type.AAAA, "laptop._peer.internal"),
    names.ServerAddress: Form(
        "the server address that all networks share", Type.AAAA, "_dns.internal"
    ),
    names.ApiAddress: Form(
        "the server address in the requester's network", Type.AAAA, "_api.internal"
    ),
    names.WhoAmI: Form("how the server identifies the requester", Type.TXT, "_whoami.internal"),
    names.Addresses: Form(
        "an app's visible machines, narrowed by region, by group, or both",
        Type.AAAA,
        "ams.web.internal",
    ),
    names.Nearest: Form(
        "at most {count} visible machines, nearest first",
        Type.AAAA,
        "top3.nearest.of.web.internal",
    ),
    names.MachineAddress: Form(
        "the machine with this id, or the machines with this name",
        Type.AAAA,
        "3d8d9930b03989.vm.web.internal",
    ),
    names.Metadata: Form(
        "visible machines with this metadata key, or with this key and value",
        Type.AAAA,
        "leader.role.kv._metadata.web.internal",
    ),
    names.Regions: Form(
        "the regions that an app or process group runs in", Type.TXT, "regions.web.internal"
    ),
    names.Machines: Form(
        "ids and regions of the machines of an app or process group", Type.TXT, "vms.web.internal"
    ),
    names.Services: Form(
        "the machines that publish a service, narrowed by region, by group, or both",
        Type.SRV,
        "_http._tcp.web.internal",
    ),
    names.Flycast: Form(
        "the flycast addresses of an app in the requester's network", Type.AAAA, "web.flycast"
    ),
    names.Reverse: Form(
        "the reverse name of an address, or a name above it",
        Type.PTR,
        "2.0.0.0.2.0.0.0.1.0.0.0.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa",
    ),
    names.Page: Form("a page of a list or set", Type.TXT, "1._page._instances.internal"),
    names.EmptyNonTerminal: Form(
        "a name that exists because names below it may", Type.ANY, "vm.web.internal"
    ),
    names.NoSuchForm: Form("a name of no valid form", Type.ANY, "all.web.internal"),
}
