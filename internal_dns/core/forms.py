"""What users read about each form of a name: a sentence, the type that is usually asked for, and an
example. A test holds the table and the grammar together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from internal_dns.core import names
from internal_dns.core.wire import Type


class Form(NamedTuple):
    """A form in words; `example` is a name of it."""

    words: str
    type: Type
    example: str


FORMS: Final[Mapping[type[names.Asked], Form]] = {
    names.Apex: Form("a zone's apex", Type.SOA, "internal"),
    names.Apps: Form("every app of the network", Type.TXT, "_apps.internal"),
    names.Instances: Form(
        "machines with address and region, of one app or all", Type.TXT, "_instances.internal"
    ),
    names.Peers: Form("the visible peers' names", Type.TXT, "_peer.internal"),
    names.PeerAddress: Form("one peer's address", Type.AAAA, "laptop._peer.internal"),
    names.ServerAddress: Form("`fdaa::3`", Type.AAAA, "_dns.internal"),
    names.ApiAddress: Form("`<network>::3` of the asker", Type.AAAA, "_api.internal"),
    names.WhoAmI: Form("what the server takes the asker for", Type.TXT, "_whoami.internal"),
    names.Addresses: Form(
        "an app's visible machines, narrowed by region, by group, or both",
        Type.AAAA,
        "ams.web.internal",
    ),
    names.Nearest: Form(
        "at most `count` visible machines, nearest first",
        Type.AAAA,
        "top3.nearest.of.web.internal",
    ),
    names.MachineAddress: Form(
        "one machine by its id, or those of a name", Type.AAAA, "3d8d9930b03989.vm.web.internal"
    ),
    names.Metadata: Form(
        "visible machines that have the key, with this value if one is named",
        Type.AAAA,
        "leader.role.kv._metadata.web.internal",
    ),
    names.Regions: Form("where an app (or group) runs", Type.TXT, "regions.web.internal"),
    names.Machines: Form(
        "ids and regions of an app's (or group's) machines", Type.TXT, "vms.web.internal"
    ),
    names.Services: Form(
        "where a service of an app is published, narrowed by region, by group, or both",
        Type.SRV,
        "_http._tcp.web.internal",
    ),
    names.Flycast: Form(
        "the flycast addresses of an app name on the asker's network", Type.AAAA, "web.flycast"
    ),
    names.Reverse: Form(
        "an address (32 nibbles, most significant first) or an ancestor of one",
        Type.PTR,
        "2.0.0.0.2.0.0.0.1.0.0.0.d.7.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa",
    ),
    names.Page: Form("part of a list or set", Type.TXT, "1._page._instances.internal"),
    names.EmptyNonTerminal: Form(
        "a name that exists because something below it may", Type.ANY, "vm.web.internal"
    ),
    names.NoSuchForm: Form("a name no row of the grammar has", Type.ANY, "all.web.internal"),
}
