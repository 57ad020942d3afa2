"""Read containers from `docker inspect $(docker ps --all --quiet)`.

id        the first 12 characters of the container's id, as `docker ps` shows it
app       label internal-dns.app, else the service of compose or Swarm, else --app,
          else the container's name (`app` of a Swarm task's `app.1.x`)
region    label internal-dns.region, else --region
group     label internal-dns.group
state     started when running or restarting, else stopped (paused, too)
ready     false while restarting, or while a health check starts or fails; with the label
          internal-dns.health=ignore, checks do not count
address   the first one in the prefix, in the order of the networks' names
service   tcp-8080 for the exposed port 8080/tcp; one per port of a range
metadata  project: the compose project or Swarm stack
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct, field

from internal_dns.sources import (
    Draft,
    Imported,
    Options,
    SourceError,
    convert_list,
    octets,
    parse_json,
)
from internal_dns.store.rows import shown

WHAT: Final = "list of containers as `docker inspect` prints it"
DO: Final = "Give the output of `docker inspect` for containers, not for images or networks"
LISTED: Final = "docker inspect $(docker ps --all --quiet)"
WIDEST_RANGE: Final = 1_000  # ports; a wider range is no list of services
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?/(tcp|udp)\Z")
_TASK: Final = re.compile(r"(.+)\.[0-9]+\.[A-Za-z0-9]+\Z")  # a Swarm task: service.slot.id


class _Fixed(Struct):
    address: str | None = field(name="IPv6Address", default=None)


class _Attachment(Struct):
    address: str | None = field(name="GlobalIPv6Address", default=None)
    fixed: _Fixed | None = field(name="IPAMConfig", default=None)

    @property
    def wanted(self) -> str:
        """The current address, or the fixed one, which is all that a stopped container has."""
        return self.address or (self.fixed and self.fixed.address) or ""


class _Networks(Struct):
    by_name: dict[str, _Attachment | None] | None = field(name="Networks", default=None)


class _Health(Struct):
    status: str | None = field(name="Status", default=None)


class _State(Struct):
    running: bool = field(name="Running")
    paused: bool = field(name="Paused", default=False)
    restarting: bool = field(name="Restarting", default=False)
    health: _Health | None = field(name="Health", default=None)
    podman_health: _Health | None = field(name="Healthcheck", default=None)  # before Podman 4

    @property
    def started(self) -> bool:
        return (self.running or self.restarting) and not self.paused

    @property
    def health_status(self) -> str:
        health = self.health or self.podman_health
        return (health and health.status) or ""


class _HostConfig(Struct):
    network_mode: str = field(name="NetworkMode", default="")


class _Config(Struct):
    labels: dict[str, str] | None = field(name="Labels", default=None)
    exposed: dict[str, object] | None = field(name="ExposedPorts", default=None)


class _Container(Struct):
    id: str = field(name="Id")
    name: str = field(name="Name")
    state: _State = field(name="State")
    config: _Config = field(name="Config")
    networks: _Networks = field(name="NetworkSettings")
    host_config: _HostConfig | None = field(name="HostConfig", default=None)


def read(source: object, options: Options | None = None) -> Imported:
    """Return a machine per container with an address in the prefix.

    *source* is text, or already parsed. Raises SourceError.
    """
    value = parse_json(source, WHAT)
    if _is_of_ps(value):
        why = "it is the output of `docker ps`, which has no addresses"
        raise SourceError(f"no {WHAT}", why, f"Give the output of: {LISTED}")
    if isinstance(value, dict) and "NetworkSettings" in value:
        value = [value]  # `--format '{{json .}}'` of one container
    if not isinstance(value, list):
        raise SourceError(f"no {WHAT}", "it is not a list", DO)
    draft = Draft(options or Options())
    projects: dict[str, set[str]] = {}
    for container in convert_list(value, list[_Container], WHAT, DO):
        _add(draft, container, projects)
    for app, several in sorted(projects.items()):
        if len(several) > 1:
            draft.note(
                "compose projects became one app",
                f"{app} from {', '.join(map(shown, sorted(several)))}",
            )
    return draft.finish()


def _is_of_ps(value: object) -> bool:
    """Whether this is what `docker ps --format json`, or podman's, prints."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and "Names" in first and "NetworkSettings" not in first


def _add(draft: Draft, container: _Container, projects: dict[str, set[str]]) -> None:
    labels = container.config.labels or {}
    name = container.name.removeprefix("/")
    if labels.get("com.docker.compose.oneoff", "").lower() == "true":
        draft.note("left out, a one-off `docker compose run`", shown(name))
        return
    address = _address(draft, container, shown(name))
    if address is None:
        return
    project = labels.get("com.docker.compose.project") or labels.get(
        "com.docker.stack.namespace", ""
    )
    app = (
        labels.get("internal-dns.app")
        or labels.get("com.docker.compose.service")
        or labels.get("com.docker.swarm.service.name")
        or draft.options.app
        or _own_name(draft, name)
    )
    if project:
        projects.setdefault(shown(app), set()).add(project)
    state = container.state
    draft.add_machine(
        container.id[:12],
        app,
        address,
        region=labels.get("internal-dns.region", ""),
        group=labels.get("internal-dns.group", ""),
        state="started" if state.started else "stopped",
        unready=_unready(state, labels.get("internal-dns.health", "")) if state.started else "",
        metadata={"project": project} if project else {},
        services=_services(draft, container.config.exposed or {}, shown(name)),
    )


def _own_name(draft: Draft, name: str) -> str:
    """Return the app for a container without labels."""
    task = _TASK.match(name)
    if task is None:
        return name
    draft.note("app guessed from the name of a Swarm task", f"{shown(name)} ({shown(task[1])})")
    return task[1]


def _unready(state: _State, label: str) -> str:
    """Return why a started container should get no traffic; empty when it should."""
    if state.restarting:
        return "it is restarting"
    if label.lower() == "ignore" or state.health_status in ("", "none", "healthy"):
        return ""
    if state.health_status == "starting":
        return "its health check is starting"
    return "its health check fails"


def _address(draft: Draft, container: _Container, subject: str) -> str | None:
    """Return the first address in the prefix, or None and add a note."""
    attached = sorted((container.networks.by_name or {}).items())
    addresses = [(name, one.wanted) for name, one in attached if one is not None and one.wanted]
    inside = [
        pair for pair in addresses if (octets(pair[1]) or b"").startswith(draft.options.prefix)
    ]
    mode = container.host_config.network_mode if container.host_config else ""
    if not addresses and (mode == "host" or [name for name, _ in attached] == ["host"]):
        draft.note("left out, it uses the host's network and has no address of its own", subject)
        return None
    if not inside:
        why = (
            f"left out, no IPv6 address in {draft.options.prefix.hex()}::/16 "
            "(a stopped container has only a fixed one)"
        )
        others = shown(", ".join(address for _, address in addresses)) if addresses else "none"
        draft.note(why, f"{subject} ({others})")
        return None
    for pair in addresses:
        if pair != inside[0]:
            draft.note(
                "other addresses left out, a machine has one",
                f"{subject} ({shown(pair[1])} of {shown(pair[0])})",
            )
    return inside[0][1]


def _services(
    draft: Draft, exposed: dict[str, object], subject: str
) -> Iterator[tuple[str, str, int]]:
    for port in sorted(exposed):
        match = _PORT.match(port)
        if match is None:
            draft.note("exposed ports left out, neither tcp nor udp", f"{subject} ({shown(port)})")
            continue
        first, last, protocol = int(match[1]), int(match[2] or match[1]), match[3]
        if not first <= last < first + WIDEST_RANGE:
            why = f"exposed ports left out, not a range of 1 to {WIDEST_RANGE:,} ports"
            draft.note(why, f"{subject} ({shown(port)})")
            continue
        for number in range(first, last + 1):
            yield f"{protocol}-{number}", protocol, number
