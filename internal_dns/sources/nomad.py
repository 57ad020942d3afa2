"""Read allocations from Nomad's HTTP API.

/v1/allocation/ID      one allocation; a list of them is read, too
/v1/allocations        is not enough: it has no addresses

id        the allocation's ID: a replacement has another
app       JobID
group     TaskGroup
region    `region` of the job's meta, else the job's datacenter when it names one, else --region
address   the first in the prefix: NetworkStatus.AddressIPv6, .Address, then the IPs of its networks
state     running: started; pending: created; unknown (its client is away): started, not ready;
          complete, failed, lost: left out, for such an allocation never runs again
ready     by DeploymentStatus.Healthy; without a deployment, always
service   <port label>, tcp, the port inside (`To`), else the one of the host
metadata  the job's meta
"""

from __future__ import annotations

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

WHAT: Final = "allocation as Nomad's API gives it"
DO: Final = "Give the reply of /v1/allocation/ID, or a list of such replies"
TERMINAL: Final = ("complete", "failed", "lost")
STATES: Final = {"running": "started", "unknown": "started", "pending": "created"}


class _Job(Struct):
    meta: dict[str, str] | None = field(name="Meta", default=None)
    datacenters: list[str] | None = field(name="Datacenters", default=None)


class _NetworkStatus(Struct):
    address: str = field(name="Address", default="")
    address_ipv6: str = field(name="AddressIPv6", default="")


class _Network(Struct):
    ip: str = field(name="IP", default="")


class _Port(Struct):
    label: str = field(name="Label", default="")
    value: int = field(name="Value", default=0)
    to: int = field(name="To", default=0)


class _Shared(Struct):
    networks: list[_Network] | None = field(name="Networks", default=None)
    ports: list[_Port] | None = field(name="Ports", default=None)


class _Resources(Struct):
    shared: _Shared | None = field(name="Shared", default=None)


class _Deployment(Struct):
    healthy: bool | None = field(name="Healthy", default=None)


class _Allocation(Struct):
    id: str = field(name="ID")
    job: str = field(name="JobID")
    group: str = field(name="TaskGroup", default="")
    status: str = field(name="ClientStatus", default="")
    of_job: _Job | None = field(name="Job", default=None)
    network_status: _NetworkStatus | None = field(name="NetworkStatus", default=None)
    resources: _Resources | None = field(name="AllocatedResources", default=None)
    deployment: str | None = field(name="DeploymentID", default=None)
    health: _Deployment | None = field(name="DeploymentStatus", default=None)


def read(source: object, options: Options | None = None, *, advice: bool = True) -> Imported:
    """Return a machine per allocation that may run, with an address in the prefix.

    *source* is text, or already parsed. Raises SourceError.
    """
    value = parse_json(source, WHAT)
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise SourceError(f"no {WHAT}", "it is neither an object nor a list", DO)
    draft = Draft(options or Options())
    for allocation in convert_list(listed, list[_Allocation], WHAT, DO):
        _add(draft, allocation)
    return draft.finish(advice=advice)


def _add(draft: Draft, one: _Allocation) -> None:
    subject = shown(one.id)
    if one.status in TERMINAL:
        draft.note("left out, such an allocation never runs again", f"{subject} ({one.status})")
        return
    shared = (one.resources.shared if one.resources else None) or _Shared()
    network = one.network_status or _NetworkStatus()
    known = [network.address_ipv6, network.address, *(n.ip for n in shared.networks or ())]
    inside = [a for a in known if (octets(a) or b"").startswith(draft.options.prefix)]
    if not inside:
        why = f"left out, no address in {draft.options.prefix.hex()}::/16"
        draft.note(why, f"{subject} ({shown(', '.join(filter(None, known))) or 'none'})")
        return
    job = one.of_job or _Job()
    datacenters = job.datacenters or []
    only = datacenters[0] if len(datacenters) == 1 and datacenters[0] != "*" else ""
    draft.add_machine(
        one.id,
        one.job,
        inside[0],
        region=(job.meta or {}).get("region", "") or draft.options.region or only,
        state=STATES.get(one.status, "created"),
        group=one.group,
        unready=_unready(one),
        metadata=job.meta,
        services=[(port.label, "tcp", port.to if port.to > 0 else port.value)
                  for port in shared.ports or ()],
    )  # fmt: skip


def _unready(one: _Allocation) -> str:
    """Return why a started allocation should get no traffic; empty when it should."""
    if one.status == "unknown":
        return "its client is away"
    if one.status != "running":
        return ""
    if one.health is not None and one.health.healthy is not None:
        return "" if one.health.healthy else "its deployment calls it unhealthy"
    return "its deployment has not called it healthy yet" if one.deployment else ""
