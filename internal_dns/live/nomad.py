"""The allocations of a Nomad cluster.

    GET /v1/allocations?namespace=*               which allocations there are
    GET /v1/allocation/<id>                       each that may run; 404: it is gone meanwhile
    GET /v1/allocations?namespace=*&index=…       hint: one changed

`sources/nomad.py` reads the allocations.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import quote

from internal_dns.live.blocking import watch
from internal_dns.live.http import Api
from internal_dns.live.listed import Listed, source_away
from internal_dns.live.source import Snapshot, SourceAway
from internal_dns.sources import Options
from internal_dns.sources.nomad import TERMINAL, read

INDEX: Final = "x-nomad-index"
TOKEN: Final = "X-Nomad-Token"
TOKEN_VARIABLE: Final = "NOMAD_TOKEN"
NAMESPACE: Final = "*"


class Nomad:
    """One agent or server. *namespace*: `*` for all that the token may read."""

    def __init__(self, api: Api, options: Options, namespace: str = NAMESPACE) -> None:
        self.api, self.namespace = api, namespace
        self.listed = Listed(read, options, _identity)
        # What was read of each allocation, by id, with its ModifyIndex: an unchanged one is not
        # fetched again.
        self.fetched: dict[str, tuple[object, Any]] = {}

    async def snapshot(self) -> Snapshot:
        """Return every allocation that may run. Raises SourceAway."""
        with source_away(self.api):
            return self.listed.snapshot(await self._allocations())

    async def _allocations(self) -> list[Any]:
        stubs = (await self.api.fetch("/v1/allocations", {"namespace": self.namespace})).json()
        if not isinstance(stubs, list):
            raise SourceAway("the reply with the allocations is not a list")
        fetched: dict[str, tuple[object, Any]] = {}
        for stub in stubs:
            ident = stub.get("ID") if isinstance(stub, dict) else None
            if not isinstance(ident, str) or not ident:
                raise SourceAway("the reply has an allocation without an id")
            if stub.get("ClientStatus") in TERMINAL:
                continue
            index, (seen, value) = stub.get("ModifyIndex"), self.fetched.get(ident, (None, None))
            if index is None or index != seen:
                reply = await self.api.get(f"/v1/allocation/{quote(ident, safe='')}", gone=True)
                if reply is None:
                    continue
                value = reply.json()
            fetched[ident] = index, value
        self.fetched = fetched
        return [value for _, value in fetched.values()]

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield when an allocation may have changed."""
        return watch(self.api, "/v1/allocations", INDEX, {"namespace": self.namespace})


def _identity(allocation: Any) -> object:
    return allocation["ID"]
