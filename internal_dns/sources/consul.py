"""Read the instances of a service from Consul's HTTP API.

/v1/health/service/NAME    with checks: ready when all of them pass, or there are none
/v1/catalog/service/NAME   without checks: all are imported as started

id        <node>-<ServiceID>-<10 digits>: the digits are a hash of network, datacenter, node and
          ServiceID, because Consul's ServiceIDs are unique per node only, and the ids of a catalog
          are unique across all networks
app       ServiceName
region    `region` of the node's meta, else its datacenter
address   the first in the prefix: the service's, its lan_ipv6, the node's, its lan_ipv6
service   the service's name and port; udp when a tag says `udp`, else tcp
metadata  ServiceMeta
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from msgspec import Struct, field

from internal_dns.sources import (
    Draft,
    Imported,
    Options,
    SourceError,
    convert_list,
    octets,
    parse_json,
)
from internal_dns.store.rows import shown

WHAT: Final = "list of service instances as Consul's API gives it"
DO: Final = "Give the reply of /v1/health/service/NAME or /v1/catalog/service/NAME"
LAN: Final = "lan_ipv6"
DIGITS: Final = 10  # 40 bits suffice: only ids with the same readable part can collide
READABLE: Final = 63 - 1 - DIGITS


class _Tagged(Struct):
    address: str = field(name="Address", default="")


class _FlatInstance(Struct):
    """An element of /v1/catalog/service/NAME."""

    node: str = field(name="Node")
    address: str = field(name="Address")
    id: str = field(name="ServiceID")
    name: str = field(name="ServiceName")
    datacenter: str = field(name="Datacenter", default="")
    node_tagged: dict[str, str] | None = field(name="TaggedAddresses", default=None)
    node_meta: dict[str, str] | None = field(name="NodeMeta", default=None)
    service_address: str = field(name="ServiceAddress", default="")
    tagged: dict[str, _Tagged] | None = field(name="ServiceTaggedAddresses", default=None)
    meta: dict[str, str] | None = field(name="ServiceMeta", default=None)
    tags: list[str] | None = field(name="ServiceTags", default=None)
    port: int = field(name="ServicePort", default=0)


class _Node(Struct):
    node: str = field(name="Node")
    address: str = field(name="Address")
    datacenter: str = field(name="Datacenter", default="")
    tagged: dict[str, str] | None = field(name="TaggedAddresses", default=None)
    meta: dict[str, str] | None = field(name="Meta", default=None)


class _Service(Struct):
    id: str = field(name="ID")
    name: str = field(name="Service")
    address: str = field(name="Address", default="")
    tagged: dict[str, _Tagged] | None = field(name="TaggedAddresses", default=None)
    meta: dict[str, str] | None = field(name="Meta", default=None)
    tags: list[str] | None = field(name="Tags", default=None)
    port: int = field(name="Port", default=0)


class _Check(Struct):
    status: str = field(name="Status")


class _CheckedInstance(Struct):
    """An element of /v1/health/service/NAME."""

    node: _Node = field(name="Node")
    service: _Service = field(name="Service")
    checks: list[_Check] | None = field(name="Checks")


@dataclass(frozen=True, slots=True)
class _Instance:
    """What both replies contain; `failing` is the worst status of its checks, empty when all
    pass."""

    datacenter: str
    node: str
    id: str
    name: str
    addresses: tuple[str, ...]
    region: str
    meta: dict[str, str]
    tags: list[str]
    port: int
    failing: str


def read(source: object, options: Options | None = None, *, advice: bool = True) -> Imported:
    """Return a machine per instance with an address in the prefix.

    *source* is text, or already parsed. Raises SourceError.
    """
    value = parse_json(source, WHAT)
    if not isinstance(value, list):
        raise SourceError(f"no {WHAT}", "it is not a list", DO)
    draft = Draft(options or Options())
    if value and isinstance(value[0], dict) and "Service" in value[0]:
        instances = [
            _of_checked(one) for one in convert_list(value, list[_CheckedInstance], WHAT, DO)
        ]
    else:
        instances = [_of_flat(one) for one in convert_list(value, list[_FlatInstance], WHAT, DO)]
        if instances:
            draft.note(
                "all imported as started: /v1/catalog has no checks, /v1/health/service/NAME has"
            )
    for instance in instances:
        _add(draft, instance)
    return draft.finish(advice=advice)


def _identifier(instance: _Instance, network: bytes) -> str:
    """Return the id of an instance. It depends only on where and what it is, so it stays the same
    whichever others come and go."""
    parts = (instance.datacenter, instance.node, instance.id)
    # Each part is preceded by its length, so no two lists of parts give the same octets.
    written = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (network, *(part.encode("utf-8", "surrogatepass") for part in parts))
    )
    readable = re.sub(r"[^a-z0-9_]+", "-", f"{instance.node}-{instance.id}".lower()).strip("-")
    return f"{readable[:READABLE]}-{sha256(written).hexdigest()[:DIGITS]}".strip("-")


def _add(draft: Draft, instance: _Instance) -> None:
    subject = shown(f"{instance.node}/{instance.id}")
    inside = [a for a in instance.addresses if (octets(a) or b"").startswith(draft.options.prefix)]
    if not inside:
        why = f"left out, no address in {draft.options.prefix.hex()}::/16"
        draft.note(why, f"{subject} ({shown(', '.join(filter(None, instance.addresses)))})")
        return
    unready = ""
    if instance.failing:
        unready = "a check warns" if instance.failing == "warning" else "a check fails"
    udp = "udp" in instance.tags and "tcp" not in instance.tags
    left = [tag for tag in instance.tags if tag not in ("tcp", "udp")]
    if left:
        draft.note(
            "tags left out, they are not key-value pairs", f"{subject} ({shown(', '.join(left))})"
        )
    draft.add_machine(
        _identifier(instance, (octets(inside[0]) or b"")[:6]),
        instance.name,
        inside[0],
        region=instance.region,
        state="started",
        unready=unready,
        metadata=instance.meta,
        services=[(instance.name, "udp" if udp else "tcp", instance.port)] if instance.port else [],
    )


def _of_flat(one: _FlatInstance) -> _Instance:
    addresses = (
        one.service_address,
        _lan(one.tagged),
        one.address,
        (one.node_tagged or {}).get(LAN, ""),
    )
    region = (one.node_meta or {}).get("region", "") or one.datacenter
    return _Instance(one.datacenter, one.node, one.id, one.name, addresses, region, one.meta or {},
                     one.tags or [],
                     one.port, "")  # fmt: skip


def _of_checked(one: _CheckedInstance) -> _Instance:
    node, service = one.node, one.service
    addresses = (
        service.address,
        _lan(service.tagged),
        node.address,
        (node.tagged or {}).get(LAN, ""),
    )
    region = (node.meta or {}).get("region", "") or node.datacenter
    statuses = {check.status for check in one.checks or []} - {"passing"}
    failing = "" if not statuses else "warning" if statuses == {"warning"} else "critical"
    return _Instance(node.datacenter, node.node, service.id, service.name, addresses, region,
                     service.meta or {},
                     service.tags or [], service.port, failing)  # fmt: skip


def _lan(tagged: dict[str, _Tagged] | None) -> str:
    return tagged[LAN].address if tagged and LAN in tagged else ""
