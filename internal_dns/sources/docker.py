"""Containers, from `docker inspect $(docker ps --all --quiet)`.

id        the first 12 of the container's id, as `docker ps` shows it
app       label internal-dns.app, else the compose service, else --app, else the container's name
region    label internal-dns.region, else --region
group     label internal-dns.group
state     started when running, else stopped
address   that of the first network, by name, whose IPv6 address lies in the prefix
service   tcp-8080 for the exposed port 8080/tcp
metadata  project: the compose project
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct, field

from internal_dns.sources import Draft, Imported, Options, SourceError, json_of, octets, shaped
from internal_dns.store.rows import shown

WHAT: Final = "list of containers as `docker inspect` prints it"
DO: Final = "Give the output of `docker inspect` for containers, not for images or networks"
_PORT: Final = re.compile(r"([0-9]{1,5})/(tcp|udp)\Z")


class _Fixed(Struct):
    address: str | None = field(name="IPv6Address", default=None)


class _Attachment(Struct):
    address: str | None = field(name="GlobalIPv6Address", default=None)
    fixed: _Fixed | None = field(name="IPAMConfig", default=None)

    @property
    def wanted(self) -> str:
        """The address, or the one it will have: a stopped container has only what was fixed for
        it."""
        return self.address or (self.fixed and self.fixed.address) or ""


class _Networks(Struct):
    by_name: dict[str, _Attachment | None] | None = field(name="Networks", default=None)


class _State(Struct):
    running: bool = field(name="Running")
    paused: bool = field(name="Paused", default=False)


class _Config(Struct):
    labels: dict[str, str] | None = field(name="Labels", default=None)
    exposed: dict[str, object] | None = field(name="ExposedPorts", default=None)


class _Container(Struct):
    id: str = field(name="Id")
    name: str = field(name="Name")
    state: _State = field(name="State")
    config: _Config = field(name="Config")
    networks: _Networks = field(name="NetworkSettings")


def read(source: object, options: Options | None = None) -> Imported:
    """Return a machine for each container with an address in the prefix.

    *source* is text or parsed already. Raises SourceError.
    """
    value = json_of(source, WHAT)
    if not isinstance(value, list):
        raise SourceError(f"no {WHAT}", "it is not a list", DO)
    draft = Draft(options or Options())
    projects: dict[str, set[str]] = {}
    for container in shaped(value, list[_Container], WHAT, DO):
        _add(draft, container, projects)
    for app, several in sorted(projects.items()):
        if len(several) > 1:
            draft.note(
                "compose projects became one app",
                f"{app} of {', '.join(map(shown, sorted(several)))}",
            )
    return draft.done()


def _add(draft: Draft, container: _Container, projects: dict[str, set[str]]) -> None:
    labels = container.config.labels or {}
    name = container.name.removeprefix("/")
    if labels.get("com.docker.compose.oneoff", "").lower() == "true":
        draft.note("left out, a one-off `docker compose run`", shown(name))
        return
    address = _address(draft, container, shown(name))
    if address is None:
        return
    project = labels.get("com.docker.compose.project", "")
    app = (
        labels.get("internal-dns.app")
        or labels.get("com.docker.compose.service")
        or draft.options.app
        or name
    )
    if project:
        projects.setdefault(shown(app), set()).add(project)
    draft.machine(
        container.id[:12],
        app,
        address,
        region=labels.get("internal-dns.region", ""),
        group=labels.get("internal-dns.group", ""),
        state="started" if container.state.running and not container.state.paused else "stopped",
        metadata={"project": project} if project else {},
        services=_services(draft, container.config.exposed or {}, shown(name)),
    )


def _address(draft: Draft, container: _Container, who: str) -> str | None:
    """Return the first address in the prefix, or None and a note."""
    attached = sorted((container.networks.by_name or {}).items())
    found = [(name, one.wanted) for name, one in attached if one is not None and one.wanted]
    inside = [pair for pair in found if (octets(pair[1]) or b"").startswith(draft.options.prefix)]
    if not inside:
        why = f"left out, no IPv6 address in {draft.options.prefix.hex()}::/16 (a stopped one keeps only a fixed one)"
        draft.note(
            why, f"{who} ({shown(', '.join(address for _, address in found)) if found else 'none'})"
        )
        return None
    for pair in found:
        if pair != inside[0]:
            draft.note(
                "other addresses left out, a machine has one",
                f"{who} ({shown(pair[1])} of {shown(pair[0])})",
            )
    return inside[0][1]


def _services(draft: Draft, exposed: dict[str, object], who: str) -> Iterator[tuple[str, str, int]]:
    for port in sorted(exposed):
        if match := _PORT.match(port):
            yield f"{match[2]}-{int(match[1])}", match[2], int(match[1])
        else:
            draft.note("exposed ports left out, neither tcp nor udp", f"{who} ({shown(port)})")
