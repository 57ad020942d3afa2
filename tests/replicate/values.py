"""Keys and values as a publisher writes them."""

from __future__ import annotations

import json
from typing import Any

from internal_dns.replicate.codec import bucket_key


def machine(ident: str, host: int = 1, **more: Any) -> tuple[str, bytes]:
    value = {
        "version": 1, "id": ident, "network_id": 24, "app": "web",
        "address": f"fdaa:0:18:a7b:7d:1:{host:x}:2", "region": "iad", "state": "started",
    }  # fmt: skip
    return bucket_key("machines", (ident,)), json.dumps(value | more).encode()


def network(number: int = 24, name: str = "acme") -> tuple[str, bytes]:
    return bucket_key("networks", (number,)), json.dumps(
        {"version": 1, "id": number, "name": name}
    ).encode()
