"""The declarative catalog: a TOML or JSON document, its rows, and the changes a file needs to match
it.

    text ─ parse ─► Document ─ plan ─► Plan(puts, deletes) ─► the writer
                                 ▲
    file ─ export ─► plain value │ ─ to_toml, to_json ─► text

    fields.py          the keys of every table; parser, exporter and JSON Schema derive from them
    values.py          the kinds of values: how each is read, and its JSON Schema
    reading.py         parse: text to Document, with all faults at once
    lines.py           the line of every key and array element in a text
    document.py        Document, DocumentFault, InvalidDocument
    file.py            the rows of a catalog file, as documents see them
    planning.py        plan: Document and file to Plan
    difference.py      the difference between wanted and present rows, as rows and in words
    exporting.py       export: file to plain value
    text.py            plain value to TOML or JSON

docs/declarative.md describes the format. A document replaces what it names: a network becomes
exactly as written, with all its apps, machines, peers and flycasts; regions, hosts, organizations
and latency pairs are replaced one by one. Everything else stays, unless pruned. Names keep their
letter case: the reader of the catalog lower-cases them.
"""

from internal_dns.store.declare.difference import Change
from internal_dns.store.declare.document import Document, DocumentFault, InvalidDocument
from internal_dns.store.declare.exporting import Exported, export
from internal_dns.store.declare.fields import json_schema
from internal_dns.store.declare.planning import Plan, plan
from internal_dns.store.declare.reading import parse
from internal_dns.store.declare.text import to_json, to_toml

__all__ = [
    "Change", "Document", "DocumentFault", "Exported", "InvalidDocument", "Plan",
    "export", "json_schema", "parse", "plan", "to_json", "to_toml",
]  # fmt: skip
