"""Read machines from Fly.io's Machines API or `fly machine list --json`.

    /v1/apps/APP/machines     [{"id": …}, …]            also a single machine
    /v1/orgs/ORG/machines     {"machines": [{"id": …, "app_name": …}, …],
                               "next_cursor": …, "error_regions": …}

id, region, state    unchanged
address              private_ip
app                  app_name; else `{"app": NAME, "machines": […]}` around the list (or several
                     such in a list), else --app, else metadata fly_app_name or app
group                metadata fly_process_group
skip_registration    config.dns.skip_registration
service              tcp-8080 for internal_port 8080; `ports` are those of the Fly proxy
ready                false while a check starts or fails
config               incomplete_config where it is null, because the host could not be reached
metadata             all of config.metadata, so that the same names can be queried here
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from internal_dns.sources import Draft, Imported, Options, SourceError, convert_list, parse_json
from internal_dns.store.rows import shown

WHAT: Final = "list of machines as the Machines API gives it"
DO: Final = "Give the reply of /v1/apps/APP/machines, or the output of `fly machine list --json`"
PART: Final = "the listing is incomplete, and `apply` would remove the missing machines"


class _Dns(Struct):
    skip_registration: bool | None = None


class _Service(Struct):
    internal_port: int = 0
    protocol: str = "tcp"


class _Config(Struct):
    metadata: dict[str, str] | None = None
    services: list[_Service] | None = None
    dns: _Dns | None = None


class _Check(Struct):
    status: str | None = None


class _Machine(Struct):
    id: str
    state: str
    region: str = ""
    private_ip: str | None = None
    config: _Config | None = None
    incomplete_config: _Config | None = None
    app_name: str | None = None
    checks: list[_Check] | None = None
    host_status: str | None = None


class _Listing(Struct):
    machines: list[_Machine] | None
    app: str = ""
    next_cursor: str | None = None
    error_regions: list[object] | dict[str, object] | None = None


def read(source: object, options: Options | None = None, *, advice: bool = True) -> Imported:
    """Return the machines with an address in the prefix.

    *source* is text, or already parsed. Raises SourceError, also when an app has no name.
    """
    value = parse_json(source, WHAT)
    draft = Draft(options or Options())
    for app, machine in _machines(draft, value):
        _add(draft, app, machine)
    return draft.finish(advice=advice)


def _machines(draft: Draft, value: object) -> Iterator[tuple[str, _Machine]]:
    """Yield each machine with the app around it, if any."""
    if isinstance(value, dict) and "id" in value:
        value = [value]  # /v1/apps/APP/machines/ID
    listed = value if isinstance(value, list) else [value]
    if all(isinstance(one, dict) and "machines" in one for one in listed):
        listings = convert_list(listed, list[_Listing], WHAT, DO)
        for one in listings:
            for region in one.error_regions or ():
                draft.note(f"{PART}: regions that could not be reached", shown(str(region)))
            yield from ((one.app, machine) for machine in one.machines or ())
        if listings and listings[-1].next_cursor:
            draft.note(f"{PART}: it continues at a next_cursor", shown(listings[-1].next_cursor))
    elif isinstance(value, list):
        yield from (("", machine) for machine in convert_list(value, list[_Machine], WHAT, DO))
    else:
        raise SourceError(f"no {WHAT}", "it is neither a list nor an object with `machines`", DO)


def _add(draft: Draft, around: str, machine: _Machine) -> None:
    config = machine.config or machine.incomplete_config
    if config is None:
        draft.note(
            "configuration unknown, and with it group, metadata and services", shown(machine.id)
        )
        config = _Config()
    elif machine.config is None:
        draft.note("configuration incomplete, the known part was read", shown(machine.id))
    if machine.host_status not in (None, "", "ok"):
        why = f"its host is {shown(machine.host_status)}, so the state is the last one known"
        draft.note(why, shown(machine.id))
    metadata = config.metadata or {}
    app = machine.app_name or around or draft.options.app
    if not app:
        key = next((key for key in ("fly_app_name", "app") if metadata.get(key)), "")
        if not key:
            why = f"machine {shown(machine.id)} has no app: the list does not name it"
            raise SourceError("no app", why, "Name it with --app NAME")
        app = metadata[key]
        draft.note(f"app guessed from metadata {key}", f"{shown(machine.id)} ({shown(app)})")
    failing = {check.status for check in machine.checks or ()} - {None, "", "passing"}
    unready = "a check does not pass" if machine.state == "started" and failing else ""
    draft.add_machine(
        machine.id,
        app,
        machine.private_ip or "",
        region=machine.region,
        state=machine.state,
        unready=unready,
        group=metadata.get("fly_process_group", ""),
        metadata=metadata,
        skip_registration=config.dns is not None and config.dns.skip_registration is True,
        services=[
            (f"{one.protocol}-{one.internal_port}", one.protocol, one.internal_port)
            for one in config.services or []
        ],
    )
