"""The services of a Consul datacenter.

    GET /v1/catalog/services              which services there are
    GET /v1/health/service/<name>         the instances of each, with their checks
    GET /v1/health/state/any?index=…      hint: a check changed
    GET /v1/catalog/services?index=…      hint: a service or an instance came or went

`sources/consul.py` reads the instances.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from urllib.parse import quote

from internal_dns.live.blocking import merged, watch
from internal_dns.live.http import Api
from internal_dns.live.listed import Listed, source_away
from internal_dns.live.source import Snapshot, SourceAway
from internal_dns.sources import Options
from internal_dns.sources.consul import read

INDEX: Final = "x-consul-index"
TOKEN: Final = "X-Consul-Token"
TOKEN_VARIABLE: Final = "CONSUL_HTTP_TOKEN"


class Consul:
    """One agent or server. *services*: only these; empty: all."""

    def __init__(self, api: Api, options: Options, services: Sequence[str] = ()) -> None:
        self.api, self.services = api, tuple(services)
        self.listed = Listed(read, options, _identity)

    async def snapshot(self) -> Snapshot:
        """Return every instance. Raises SourceAway."""
        with source_away(self.api):
            instances = [one for name in await self._names() for one in await self._instances(name)]
            return self.listed.snapshot(instances)

    async def _names(self) -> Sequence[str]:
        if self.services:
            return self.services
        found = (await self.api.fetch("/v1/catalog/services")).json()
        if not isinstance(found, dict):
            raise SourceAway("the reply with the services is not an object")
        return sorted(found)

    async def _instances(self, name: str) -> list[Any]:
        found = (await self.api.fetch(f"/v1/health/service/{quote(name, safe='')}")).json()
        if not isinstance(found, list):
            raise SourceAway(f"the reply with the instances of {name} is not a list")
        return found

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield when a check, a service or an instance may have changed."""
        return merged(
            watch(self.api, "/v1/health/state/any", INDEX),
            watch(self.api, "/v1/catalog/services", INDEX),
        )


def _identity(instance: Any) -> str:
    node = instance["Node"]
    return f"{node.get('Datacenter', '')}/{node['Node']}/{instance['Service']['ID']}"
