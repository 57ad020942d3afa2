"""The declarative catalog: a TOML or JSON document, the rows it means, and what would have to
change for them.

    text ─ parse ─► Document ─ plan ─► Plan(puts, deletes) ─► the writer
                                 ▲
    file ─ export ─► plain value │ ─ to_toml, to_json ─► text

    fields.py, values.py       what may stand in a document: parser and JSON Schema derive from its tables
    reading.py, lines.py       text to Document, and where in the text its faults are
    document.py                Document and its faults
    file.py                    the rows of a catalog file, as documents see them
    planning.py, difference.py Document and file to Plan
    exporting.py, text.py      file to plain value, plain value to text

docs/declarative.md describes the format. What a document names it names whole: a network becomes
exactly as written, with all its apps, machines, peers and flycasts; regions, hosts, organizations
and latency pairs one by one. What it does not name stays, unless pruned. Names keep their letter
case: the reader of the catalog lower-cases them.
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
