"""The form of a document: every key of every table, from which the parser and the JSON Schema
derive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from internal_dns.store.declare.values import (
    ADDRESS,
    FLAG,
    HOST_ID,
    MILLISECONDS,
    NAME,
    NETWORK_ID,
    PEER_REGION,
    PORT,
    PROTOCOL,
    SERVICE_NAME,
    SOME_TEXT,
    TEXT,
    Kind,
    array_of,
    ranged,
    read_table,
    table_of,
)

# The original's states. Any other text is taken, with a warning: it may be a slip of the pen.
STATES: Final = (
    "created starting started stopping stopped suspending suspended restarting updating "
    "replacing replaced failed launch_failed destroying destroyed"
).split()


REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a table of the document, and its column."""

    column: str
    kind: Kind
    words: str
    default: Any = REQUIRED


def object_of(known: Mapping[str, Field]) -> dict[str, Any]:
    """The JSON Schema of a table with these keys."""
    properties = {}
    for key, known_field in known.items():
        properties[key] = {**known_field.kind.schema, "description": known_field.words}
        default = known_field.default
        if default is not REQUIRED and default not in (None, {}, []):
            properties[key]["default"] = bool(default) if known_field.kind is FLAG else default
    required = [key for key, known_field in known.items() if known_field.default is REQUIRED]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return schema | ({"required": required} if required else {})


SERVICE: Final = {
    "name": Field(
        "name", SERVICE_NAME, "Its name, without the underscore: http is asked for as _http._tcp."
    ),
    "protocol": Field("protocol", PROTOCOL, "tcp or udp.", "tcp"),
    "port": Field("port", PORT, "Where it listens."),
}
MACHINE: Final = {
    "id": Field("id", NAME, "Its id, one of its kind in the catalog."),
    "address": Field("address", ADDRESS, "Its address, of this network."),
    "region": Field("region", NAME, "The code of its region."),
    "group": Field("process_group", NAME, "Its process group.", "app"),
    "state": Field("state", TEXT, "It is answered while started.", "created"),
    "skip_registration": Field("skip_registration", FLAG, "Keep it out of all names and lists.", 0),
    "metadata": Field("metadata", Kind(read_table, {"type": "object", "additionalProperties": {"type": "string"}}),
                       "Texts by key.", {}),
    "services": Field("services", array_of(object_of(SERVICE)), "What it publishes as SRV.", []),
}  # fmt: skip
APP: Final = {
    "machines": Field(
        "machines", array_of(object_of(MACHINE)), "Its machines; an app may have none.", []
    )
}
PEER: Final = {
    "address": Field("address", ADDRESS, "Its address, of this network."),
    "region": Field("region", PEER_REGION, "The code of its region; empty: that of its host.", ""),
}
_FLYCASTS: Final = table_of({"type": "array", "items": dict(ADDRESS.schema)}, NAME)
NETWORK: Final = {
    "id": Field("id", NETWORK_ID, "Its /48, or the 32 bits after the prefix as an integer."),
    "organization": Field("organization", TEXT, "The slug of the organization that owns it.", ""),
    "apps": Field("apps", table_of(object_of(APP), NAME), "Apps by name.", {}),
    "peers": Field("peers", table_of(object_of(PEER), NAME), "WireGuard peers by name.", {}),
    "flycasts": Field(
        "flycasts", _FLYCASTS, "Addresses on this network, by the app they lead to.", {}
    ),
}
ORGANIZATION: Final = {"name": Field("name", TEXT, "What it is called.", "")}
REGION: Final = {
    "name": Field("name", TEXT, "What it is called.", ""),
    "latitude": Field(
        "latitude", ranged("degrees", -90, 90), "Degrees north; with longitude, or unknown.", None
    ),
    "longitude": Field(
        "longitude", ranged("degrees", -180, 180), "Degrees east; with latitude, or unknown.", None
    ),
    "gateway": Field("gateway", FLAG, "WireGuard peers may end there.", 0),
}
LATENCY: Final = {
    "from": Field("from_region", NAME, "The code of one region."),
    "to": Field("to_region", NAME, "The code of the other."),
    "milliseconds": Field("milliseconds", MILLISECONDS, "A measured round trip."),
}
HOST: Final = {
    "name": Field("name", TEXT, "What it is called.", ""),
    "region": Field("region", NAME, "The code of its region."),
}
DOCUMENT: Final = {
    "networks": Field("networks", table_of(object_of(NETWORK), NAME),
                       "Networks by name. Each becomes exactly as written.", {}),
    "organizations": Field("organizations", table_of(object_of(ORGANIZATION), SOME_TEXT),
                            "Organizations by slug.", {}),
    "regions": Field("regions", table_of(object_of(REGION), NAME), "Regions by code.", {}),
    "latency": Field("latency", array_of(object_of(LATENCY)), "Round trips between regions.", []),
    "hosts": Field("hosts", table_of(object_of(HOST), HOST_ID),
                    "Hosts by their 32 bits as in an address (a7b:7d), or as an integer in "
                    "quotes.", {}),
}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a document. What spans several keys only `parse` can
    say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "internal-dns catalog",
        "description": "A declarative catalog for `internal-dns apply`; see docs/declarative.md.",
        **object_of(DOCUMENT),
    }
