"""Machines, from the Machines API (GET /v1/apps/APP/machines) or `fly machine list --json`.

id, region, state    as they are
address              private_ip
app                  not in the list: `{"app": NAME, "machines": […]}` around it (or several such in a list),
                     else --app, else metadata fly_app_name or app
group                metadata fly_process_group
skip_registration    config.dns.skip_registration
service              tcp-8080 for internal_port 8080; `ports` are those of the Fly proxy, not of the machine
metadata             config.metadata, all of it: what could be asked for there can be asked for here
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from internal_dns.sources import Draft, Imported, Options, SourceError, json_of, shaped
from internal_dns.store.rows import shown

WHAT: Final = "list of machines as the Machines API gives it"
DO: Final = "Give the reply of /v1/apps/APP/machines, or the output of `fly machine list --json`"


class _Dns(Struct):
    skip_registration: bool | None = None


class _Service(Struct):
    internal_port: int = 0
    protocol: str = "tcp"


class _Config(Struct):
    metadata: dict[str, str] | None = None
    services: list[_Service] | None = None
    dns: _Dns | None = None


class _Machine(Struct):
    id: str
    state: str
    region: str = ""
    private_ip: str | None = None
    config: _Config | None = None


class _App(Struct):
    app: str
    machines: list[_Machine]


def read(source: object, options: Options | None = None) -> Imported:
    """Return the machines with an address in the prefix.

    *source* is text or parsed already. Raises SourceError, also when an app has no name.
    """
    value = json_of(source, WHAT)
    draft = Draft(options or Options())
    for app, machine in _machines(value):
        _add(draft, app, machine)
    return draft.done()


def _machines(value: object) -> Iterator[tuple[str, _Machine]]:
    """Yield each machine with the app around it, if any."""
    listed = value if isinstance(value, list) else [value]
    if all(isinstance(one, dict) and "machines" in one for one in listed):
        for one in shaped(listed, list[_App], WHAT, DO):
            yield from ((one.app, machine) for machine in one.machines)
    elif isinstance(value, list):
        yield from (("", machine) for machine in shaped(value, list[_Machine], WHAT, DO))
    else:
        raise SourceError(f"no {WHAT}", "it is neither a list nor has it `machines`", DO)


def _add(draft: Draft, around: str, machine: _Machine) -> None:
    config = machine.config or _Config()
    metadata = config.metadata or {}
    app = around or draft.options.app
    if not app:
        key = next((key for key in ("fly_app_name", "app") if metadata.get(key)), "")
        if not key:
            why = f"machine {shown(machine.id)} has no app: the list does not name it"
            raise SourceError("no app", why, "Name it with --app NAME")
        app = metadata[key]
        draft.note(f"app guessed from metadata {key}", f"{shown(machine.id)} ({shown(app)})")
    draft.machine(
        machine.id,
        app,
        machine.private_ip or "",
        region=machine.region,
        state=machine.state,
        group=metadata.get("fly_process_group", ""),
        metadata=metadata,
        skip_registration=config.dns is not None and config.dns.skip_registration is True,
        services=[
            (f"{one.protocol}-{one.internal_port}", one.protocol, one.internal_port)
            for one in config.services or []
        ],
    )
