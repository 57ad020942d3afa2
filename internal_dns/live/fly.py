"""The machines of a Fly.io organization, or of some of its apps, from the Machines API.

    GET /v1/orgs/<org>/machines?cursor=…     page by page
    GET /v1/apps/<app>/machines              of each app that was named

The API has no hints: it is asked every few seconds. `sources/fly.py` reads the machines. A page
that says that regions could not be reached is half a snapshot, and none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from urllib.parse import quote

from internal_dns.live.http import Api
from internal_dns.live.listed import Listed, source_away
from internal_dns.live.source import Snapshot, SourceAway
from internal_dns.sources import Options
from internal_dns.sources.fly import read

ADDRESS: Final = "https://api.machines.dev"
TOKEN_VARIABLE: Final = "FLY_API_TOKEN"
INTERVAL: Final = 10.0  # seconds between looks
MAX_PAGES: Final = 1_000


class Fly:
    """The machines of *organization*, or of *apps*."""

    def __init__(
        self,
        api: Api,
        options: Options,
        organization: str = "",
        apps: Sequence[str] = (),
        interval: float = INTERVAL,
    ) -> None:
        if bool(organization) == bool(apps):
            raise ValueError("name an organization or apps, one of the two")
        self.api, self.organization, self.apps = api, organization, tuple(apps)
        self.interval = interval
        self.listed = Listed(read, options, _identity)

    async def snapshot(self) -> Snapshot:
        """Return every machine. Raises SourceAway."""
        with source_away(self.api):
            machines = await self._of_organization() if self.organization else await self._of_apps()
            return self.listed.snapshot(machines)

    async def _of_organization(self) -> list[Any]:
        path = f"/v1/orgs/{quote(self.organization, safe='')}/machines"
        machines: list[Any] = []
        query: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            page = (await self.api.fetch(path, query)).json()
            if not isinstance(page, dict) or not isinstance(page.get("machines"), list):
                raise SourceAway("the reply is no page of machines")
            if page.get("error_regions"):
                raise SourceAway("some regions could not be reached: half a listing")
            machines += page["machines"]
            cursor = page.get("next_cursor")
            if not cursor:
                return machines
            if cursor == query.get("cursor"):
                raise SourceAway("a page leads to itself")
            query = {"cursor": str(cursor)}
        raise SourceAway(f"more than {MAX_PAGES:,} pages")

    async def _of_apps(self) -> list[Any]:
        machines = []
        for app in self.apps:
            found = (await self.api.fetch(f"/v1/apps/{quote(app, safe='')}/machines")).json()
            if not isinstance(found, list):
                raise SourceAway(f"the reply with the machines of {app} is not a list")
            machines += [
                {"app_name": app, **one} if isinstance(one, dict) else one for one in found
            ]
        return machines

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield every few seconds."""
        while True:
            yield
            await asyncio.sleep(self.interval)


def _identity(machine: Any) -> object:
    return machine["id"]
