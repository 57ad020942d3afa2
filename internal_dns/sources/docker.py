"""Read containers from `docker inspect $(docker ps --all --quiet)`.

id        the first 12 characters of the container's id, as `docker ps` shows it; on its second
          network and on, these and the number of the network: 3d8d9930b039-19 in fdaa:0:19::/48
name      the container's name
app       label internal-dns.app, else the service of compose or Swarm, else --app,
          else the container's name (`app` of a Swarm task's `app.1.x`)
region    label internal-dns.region, else --region
group     label internal-dns.group
state     started when running or restarting, else stopped (paused, too)
ready     false while restarting, or while a health check starts or fails; with the label
          internal-dns.health=ignore, checks do not count
address   that of each network in the prefix, a machine each, in the order of the networks'
          numbers. The network is that of the address: labels are the tenants' own input, and no
          label can claim another network
service   label internal-dns.service.NAME=PORT (or PORT/udp), and tcp-8080 for the exposed port
          8080/tcp; one per port of a range
metadata  label internal-dns.metadata.KEY; project: the compose project or Swarm stack
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
ID_LENGTH: Final = 12  # characters, as `docker ps` shows an id
WIDEST_RANGE: Final = 1_000  # ports; a wider range is no list of services
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?/(tcp|udp)\Z")
_NAMED_PORT: Final = re.compile(r"([0-9]{1,5})(?:/(tcp|udp))?\Z")
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
    reading = _Reading(options or Options())
    for container in convert_list(value, list[_Container], WHAT, DO):
        reading.add(container)
    return reading.finish()


@dataclass(frozen=True, slots=True)
class Containers:
    """What `follow` reads: machines, and containers that are there without being machines now.

    *idents* has the ids of the machines of each container. *stopped*: containers that do not run
    and whose address the engine no longer reports. *malformed*: those that cannot be read.
    *skipped*: how many have no address in the prefix.
    """

    imported: Imported
    idents: dict[str, list[str]]
    stopped: frozenset[str]
    malformed: frozenset[str]
    skipped: int


def read_each(values: Iterable[tuple[str, object]], options: Options) -> Containers:
    """Return what (id, `docker inspect` of one container) pairs say. One that is malformed keeps
    none of the others out."""
    reading, malformed = _Reading(options), set[str]()
    for ident, value in values:
        try:
            container = convert_list(value, _Container, WHAT, DO)
        except SourceError as error:
            malformed.add(ident[:ID_LENGTH])
            reading.draft.note("malformed, its row stays as it is", f"{ident[:12]} ({error.why})")
        else:
            reading.add(container)
    return Containers(
        reading.finish(advice=False),
        reading.idents,
        frozenset(reading.stopped),
        frozenset(malformed),
        reading.skipped,
    )


class _Reading:
    """Containers as machines of a document."""

    def __init__(self, options: Options) -> None:
        self.draft = Draft(options)
        self.projects: dict[str, set[str]] = {}
        self.idents: dict[str, list[str]] = {}
        self.stopped: set[str] = set()
        self.skipped = 0

    def add(self, container: _Container) -> None:
        ident = container.id[:ID_LENGTH]
        self.idents[ident] = _add(self.draft, container, self.projects)
        if not self.idents[ident]:
            self.skipped += 1
            if not container.state.started and not _addresses(container):
                self.stopped.add(ident)

    def finish(self, *, advice: bool = True) -> Imported:
        for app, several in sorted(self.projects.items()):
            if len(several) > 1:
                self.draft.note(
                    "compose projects became one app",
                    f"{app} from {', '.join(map(shown, sorted(several)))}",
                )
        return self.draft.finish(advice=advice)


def _is_of_ps(value: object) -> bool:
    """Whether this is what `docker ps --format json`, or podman's, prints."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and "Names" in first and "NetworkSettings" not in first


def _add(draft: Draft, container: _Container, projects: dict[str, set[str]]) -> list[str]:
    """Add a machine for each network of a container; return their ids."""
    labels = container.config.labels or {}
    name = container.name.removeprefix("/")
    if labels.get("com.docker.compose.oneoff", "").lower() == "true":
        draft.note("left out, a one-off `docker compose run`", shown(name))
        return []
    addresses = _inside(draft, container, shown(name))
    if not addresses:
        return []
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
    metadata = {"project": project} if project else {}
    metadata |= {key: value for key, value in _labelled(labels, "internal-dns.metadata.")}
    services = [
        *_named_services(draft, labels, shown(name)),
        *_services(draft, container.config.exposed or {}, shown(name)),
    ]
    idents: list[str] = []
    for number, address in addresses:
        ident = container.id[:ID_LENGTH] + (f"-{number:x}" if idents else "")
        idents.append(ident)
        draft.add_machine(
            ident,
            app,
            address,
            region=labels.get("internal-dns.region", ""),
            group=labels.get("internal-dns.group", ""),
            state="started" if state.started else "stopped",
            name=name,
            unready=_unready(state, labels.get("internal-dns.health", "")) if state.started else "",
            metadata=metadata,
            services=services,
        )
    return idents


def _labelled(labels: dict[str, str], start: str) -> Iterator[tuple[str, str]]:
    """Yield the rest of the name, and the value, of the labels that begin with *start*."""
    for label, value in sorted(labels.items()):
        if label.startswith(start) and len(label) > len(start):
            yield label.removeprefix(start), value


def _named_services(
    draft: Draft, labels: dict[str, str], subject: str
) -> Iterator[tuple[str, str, int]]:
    for name, value in _labelled(labels, "internal-dns.service."):
        match = _NAMED_PORT.match(value)
        if match is None:
            draft.note(
                "service labels left out, the value is not PORT, PORT/tcp or PORT/udp",
                f"{subject} ({shown(name)})",
            )
        else:
            yield name, match[2] or "tcp", int(match[1])


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


def _addresses(container: _Container) -> list[tuple[str, str]]:
    """Return name and address of each network, in the order of the names."""
    attached = sorted((container.networks.by_name or {}).items())
    return [(name, one.wanted) for name, one in attached if one is not None and one.wanted]


def _inside(draft: Draft, container: _Container, subject: str) -> list[tuple[int, str]]:
    """Return number and address of each network in the prefix, lowest first; add a note for every
    other address."""
    addresses, prefix = _addresses(container), draft.options.prefix
    attached = list(container.networks.by_name or {})
    mode = container.host_config.network_mode if container.host_config else ""
    if not addresses and (mode == "host" or attached == ["host"]):
        draft.note("left out, it uses the host's network and has no address of its own", subject)
        return []
    inside: dict[int, str] = {}
    others = []
    for name, address in addresses:
        packed = octets(address) or b""
        number = int.from_bytes(packed[2:6], "big")
        if not packed.startswith(prefix):
            others.append(f"{shown(address)} of {shown(name)}")
        elif inside.setdefault(number, address) != address:
            others.append(f"{shown(address)} of {shown(name)}")
    if not inside:
        why = (
            f"left out, no IPv6 address in {prefix.hex()}::/16 "
            "(a stopped container has only a fixed one)"
        )
        known = shown(", ".join(address for _, address in addresses)) if addresses else "none"
        draft.note(why, f"{subject} ({known})")
        return []
    for other in others:
        draft.note(
            "other addresses left out, a machine has one per network", f"{subject} ({other})"
        )
    return sorted(inside.items())


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
