"""The keys of every table of a document; the parser, the exporter and the JSON Schema derive from
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from internal_dns.store import schema
from internal_dns.store.declare.text import to_json
from internal_dns.store.declare.values import (
    ADDRESS,
    DOMAIN_NAME,
    FLAG,
    HOST_ID,
    NAME,
    SOME_TEXT,
    Kind,
    array_of,
    kind_of,
    read_table,
    table_of,
)

# The states Fly.io knows. Any other text is accepted with a warning: it may be a typing error.
STATES: Final = (
    "created starting started stopping stopped suspending suspended restarting updating "
    "replacing replaced failed launch_failed destroying destroyed"
).split()

REQUIRED: Final = schema.REQUIRED


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a table of the document, and its column."""

    column: str
    kind: Kind
    words: str
    default: Any = REQUIRED


def object_of(known: Mapping[str, Field]) -> dict[str, Any]:
    """Return the JSON Schema of a table with these keys."""
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


def fields_of(table: schema.Table, *given: str) -> dict[str, Field]:
    """Return the keys of the document's table for *table*, without the columns *given* by its
    place."""
    return {
        column.document_name: Field(
            column.name, kind_of(column.domain), column.words, column.default
        )
        for column in table.columns
        if column.document is not None and column.name not in given
    }


SERVICE: Final = fields_of(schema.MACHINE_SERVICES, "machine_id")
_TEXTS: Final = Kind(read_table, {"type": "object", "additionalProperties": {"type": "string"}})
MACHINE: Final = fields_of(schema.MACHINES, "network_id", "app") | {
    "metadata": Field("metadata", _TEXTS,
                       "Texts by key.", {}),
    "services": Field("services", array_of(object_of(SERVICE)), "What it publishes as SRV.", []),
}  # fmt: skip
APP: Final = {
    "machines": Field(
        "machines", array_of(object_of(MACHINE)), "Its machines; an app may have none.", []
    )
}
PEER: Final = fields_of(schema.PEERS, "network_id", "name")
RECORD: Final = fields_of(schema.RECORDS, "network_id")
_FLYCASTS: Final = table_of({"type": "array", "items": dict(ADDRESS.schema)}, NAME)
NETWORK: Final = fields_of(schema.NETWORKS, "name") | {
    "apps": Field("apps", table_of(object_of(APP), NAME), "Apps by name.", {}),
    "peers": Field("peers", table_of(object_of(PEER), NAME), "WireGuard peers by name.", {}),
    "flycasts": Field(
        "flycasts", _FLYCASTS, "Addresses on this network, by the app they lead to.", {}
    ),
    "zones": Field(
        "zones",
        array_of(DOMAIN_NAME.schema),
        "Private zones of this network alone: all names in them are answered from its records.",
        [],
    ),
    "records": Field(
        "records",
        array_of(object_of(RECORD)),
        "Records of its own, in .internal and its zones.",
        [],
    ),
}
ORGANIZATION: Final = fields_of(schema.ORGANIZATIONS, "slug")
REGION: Final = fields_of(schema.REGIONS, "code")
LATENCY: Final = fields_of(schema.REGION_LATENCY)
HOST: Final = fields_of(schema.HOSTS, "id")
DOCUMENT: Final = {
    "networks": Field("networks", table_of(object_of(NETWORK), NAME),
                       "Networks by name. Each is replaced as a whole.", {}),
    "organizations": Field("organizations", table_of(object_of(ORGANIZATION), SOME_TEXT),
                            "Organizations by slug.", {}),
    "regions": Field("regions", table_of(object_of(REGION), NAME), "Regions by code.", {}),
    "latency": Field("latency", array_of(object_of(LATENCY)), "Round trips between regions.", []),
    "hosts": Field("hosts", table_of(object_of(HOST), HOST_ID),
                    "Hosts by their 32 bits as in an address (a7b:7d), or as an integer in "
                    "quotes.", {}),
}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a document. Rules that span several keys are checked by
    `parse` only."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "internal-dns catalog",
        "description": "A declarative catalog for `internal-dns apply`; see docs/declarative.md.",
        **object_of(DOCUMENT),
    }


if __name__ == "__main__":
    print(to_json(json_schema()), end="")
