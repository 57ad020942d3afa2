"""The same journey, told in words: who asked, by which rule, what the name means, each machine and
why it is in or out.

The reply comes from `respond` itself; the words around it come from the same functions on the same
arguments, so what is told is what is done.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import islice
from typing import assert_never

from internal_dns.core import names
from internal_dns.core.ask_as import BadAskAs
from internal_dns.core.catalog import App, Catalog, Machine, Network
from internal_dns.core.forms import FORMS
from internal_dns.core.journey import (
    Drop,
    Forward,
    Reply,
    Rules,
    asker,
    respond,
)
from internal_dns.core.lookup import OfApp, View, mismatch, readiness
from internal_dns.core.meant import meant
from internal_dns.core.names import Asked, Labels
from internal_dns.core.nearest import distances, rank
from internal_dns.core.records import TTL, address_text
from internal_dns.core.requester import Outsider, Place, Requester, place
from internal_dns.core.resolve import (
    Outside,
    Resolved,
    Step,
    TooLong,
    asked_in,
    our_zone,
    resolve,
    zone_for,
)
from internal_dns.core.wire import Query, Silent, read_query

_MISTYPED = 2  # letters too many or too few
_COMPARED = 5_000  # apps: some 20 ms
_FEW = 6


@dataclass(frozen=True, slots=True)
class Verdict:
    """One machine in the eyes of the question; `why` is empty when it is in the answer's set."""

    machine: Machine
    why: str
    distance: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A journey: its steps as (title, sentence), the machines considered, and the outcome."""

    outcome: Reply | Forward | Drop
    steps: tuple[tuple[str, str], ...]
    machines: tuple[Verdict, ...] = ()
    of: int = 0  # how many machines the app has, judged or not

    @property
    def octets(self) -> bytes:
        return self.outcome.octets if isinstance(self.outcome, Reply) else b""


def explain(
    octets: bytes,
    source: bytes,
    destination: bytes,
    catalog: Catalog | None,
    rules: Rules,
    *,
    rotation: int = 0,
    stream: bool = False,
    now: int = 0,
    at_most: int | None = None,
) -> Explanation:
    """Return what `respond` returns for the same arguments, and why; judge *at_most* machines, the
    nearest first."""
    outcome = respond(
        octets, source, destination, catalog, rules, rotation=rotation, stream=stream, now=now
    )
    query = read_query(octets)
    if not isinstance(query, Query):
        reason = query.reason
        what = "no reply" if isinstance(query, Silent) else "malformed"
        return Explanation(outcome, (("message", f"{what}: {reason}"),))
    who = asker(query, source, destination, catalog or Catalog(), rules)
    steps = [("asks", _who(who, source))]
    network = who.network if isinstance(who, Requester) else None
    zone = zone_for(query.labels, network, rules.prefix) if network else None
    machines: tuple[Verdict, ...] = ()
    of = 0
    if isinstance(who, Requester) and zone is not None and catalog is not None:
        here = place(who, catalog, rules.region)
        view = View(who, catalog, here, rules.region, rotation, query.qtype)
        walked = resolve(query.labels, view, rules.prefix)
        steps.append(("place", _place(who, here, catalog, rules)))
        steps += _walked(walked, query.labels, rules.prefix)
        # The machines are those of the last name that the grammar knows.
        at = next((step.labels for step in reversed(walked.steps) if not step.by), None)
        asked: Asked = names.NoSuchForm("a record")
        if at is not None and (of_ours := our_zone(at, rules.prefix)) is not None:
            asked = asked_in(of_ours, at, rules.prefix)
        base = asked.of if isinstance(asked, names.Page) else asked
        app = (
            who.network.apps.get(getattr(base, "app", None) or b"")
            if isinstance(base, OfApp)
            else None
        )
        if app is not None:
            of = len(app.machines)
            machines = _verdicts(
                base, app, View(who, catalog, here, rules.region, rotation), at_most
            )
            if readiness(base, app)[1]:
                steps.append(("ready", "all are shown: none is ready"))
        elif isinstance(base, OfApp) and who.network.known:
            steps.append(("apps", _instead(base.app or b"", who.network)))
    if isinstance(who, Requester) and (hint := meant(query.labels, query.qtype, who.network)):
        steps.append(("meant", hint))
    steps.append(("outcome", _outcome(outcome, query, stream)))
    if isinstance(who, Requester) and who.network.known:
        counted = who.network.revision
        steps.append(("revision", f"{counted} of this network" if counted else "-"))
    return Explanation(outcome, tuple(steps), machines, of)


def _walked(walked: Resolved, labels: Labels, prefix: bytes) -> list[tuple[str, str]]:
    """Say what each name on the way is: a form of the grammar, a record, a name of a zone."""
    steps: list[tuple[str, str]] = []
    for step in walked.steps:
        title = "name" if not steps else "alias"
        what = _step(step, prefix)
        steps.append(
            (title, what if step.labels == labels else f"to {_dotted(step.labels)}: {what}")
        )
    match walked.found:
        case Outside():
            steps.append(("alias", f"to {_dotted(walked.labels)}: a name outside"))
        case TooLong():
            steps.append(("alias", "more aliases than are followed: a loop?"))
    return steps


def _step(step: Step, prefix: bytes) -> str:
    if step.by:
        return f"answered {step.by}"
    zone = our_zone(step.labels, prefix)
    assert zone is not None
    return told(asked_in(zone, step.labels, prefix))


def _dotted(labels: Labels) -> str:
    return names.printable(b".".join(labels))


def _who(who: Requester | Outsider | BadAskAs, source: bytes) -> str:
    text = address_text(source).decode()
    if isinstance(who, Requester):
        known = who.network.label.decode() if who.network.known else "not in the catalog"
        return f"{text} is in network {known}, by {who.rule}"
    return f"{text} is refused: {who.reason or 'the dev-mode option is malformed'}"


def _place(who: Requester, here: Place, catalog: Catalog, rules: Rules) -> str:
    region = (
        f"region {here.region.decode()}"
        if here.region
        else "region unknown: all machines are equally near"
    )
    if here.peer:
        return f"{region}, as peer {here.peer.name.decode()} owns this /120"
    if here.machine:
        return f"{region}, as machine {here.machine.id.decode()} ({names.printable(here.machine.state)}) owns this /112"
    if here.host:
        return f"{region}, by the host bits of the address"
    if who.region:
        return f"{region}, as asked"
    return f"{region}, that of this server" if here.region and rules.region else region


def told(asked: Asked) -> str:
    """Say which row of the grammar a name is, with what was filled in."""
    match asked:
        case names.NoSuchForm(reason=reason):
            return f"nothing: {reason}"
        case names.EmptyNonTerminal(of=of):
            return f"nothing itself, a name on the way to others of: {told(of)}"
        case names.Page(of=of, number=number):
            return f"page {number} of: {told(of)}"
        case names.Addresses():
            app, region, group = asked
            return _filled(names.Addresses, app=app, region=region, group=group)
        case (
            names.Apex() | names.Apps() | names.Instances() | names.Peers() | names.PeerAddress()
            | names.ServerAddress() | names.ApiAddress() | names.WhoAmI() | names.Nearest()
            | names.MachineAddress() | names.Metadata() | names.Regions() | names.Machines()
            | names.Services() | names.Flycast() | names.Reverse()
        ):  # fmt: skip
            slots = (slot.name for slot in fields(asked))
            return _filled(type(asked), **{slot: getattr(asked, slot) for slot in slots})
        case _:
            assert_never(asked)


def _filled(form: type[Asked], **slots: bytes | int | None) -> str:
    """Return the words of *form* with what the name says of it."""
    shown = ", ".join(
        f"{slot} {names.printable(value) if isinstance(value, bytes) else value}"
        for slot, value in slots.items()
        if value is not None and value is not False
    )
    return FORMS[form].words + (f" ({shown})" if shown else "")


def _instead(label: bytes, network: Network) -> str:
    """Say which apps of the asker's own network a name that is none of them may mean."""
    if not network.apps:
        return "this network has none"
    text = names.printable(label)
    alike = (app.decode() for app in network.apps if abs(len(app) - len(label)) <= _MISTYPED)
    near = get_close_matches(text, islice(alike, _COMPARED), 3)
    if near:
        return f"no {text} here; the nearest: {', '.join(near)}"
    if len(network.apps) <= _FEW:
        return f"no {text} here, only {', '.join(app.decode() for app in sorted(network.apps))}"
    return f"no {text} here, nor one of {len(network.apps):,} like it; _apps.internal lists them"


def _verdicts(asked: Asked, app: App, view: View, at_most: int | None) -> tuple[Verdict, ...]:
    """Judge each machine of the app; for `nearest`, nearest first, with the distance and who is
    past the count."""
    every = getattr(asked, "every", False)
    nearest = _nearest(asked, app, view) if isinstance(asked, names.Nearest) else None
    ready_only, _ = readiness(asked, app)
    found = []
    for machine in _considered(app, nearest or {}, at_most):
        why = mismatch(machine, asked, app) or (
            "" if (machine.listed if every else machine.visible) else _hidden(machine)
        )
        if ready_only and not why and not machine.ready:
            why = "not ready"
        if nearest is not None and not why and machine.address not in nearest:
            why = f"not among the {len(nearest)} nearest"
        found.append(
            Verdict(
                machine,
                why,
                _distance(machine, view.here, view.catalog) if nearest is not None else "",
            )
        )
    if nearest is not None:
        found.sort(
            key=lambda v: (
                nearest.get(v.machine.address, len(nearest)),
                rank(v.machine, view.here, view.catalog),
            )
        )
    return tuple(found)


def _considered(app: App, nearest: dict[bytes, int], at_most: int | None) -> tuple[Machine, ...]:
    """Return the machines to judge: all, or as many as asked for, those among the nearest first."""
    if at_most is None or len(app.machines) <= at_most:
        return app.machines
    near = (
        [machine for machine in app.machines if machine.address in nearest][:at_most]
        if nearest
        else []
    )
    others = (machine for machine in app.machines if machine.address not in nearest)
    return (*near, *islice(others, at_most - len(near)))


def _nearest(asked: names.Nearest, app: App, view: View) -> dict[bytes, int]:
    """Return the addresses of the answer with their position in it."""
    found = distances(app, asked.group, view.here, view.catalog)
    order = found.first(min(asked.count, found.distinct), view.rotation)
    return {address: position for position, address in enumerate(order)}


def _hidden(machine: Machine) -> str:
    return (
        "skip_registration is set" if machine.skip_registration else names.printable(machine.state)
    )


def _distance(machine: Machine, here: Place, catalog: Catalog) -> str:
    other, off_host, elsewhere, _ = rank(machine, here, catalog)
    cost = catalog.cost(here.region, machine.region)
    near = (
        "self"
        if not other
        else "same host"
        if not off_host
        else "same region"
        if not elsewhere
        else ""
    )
    return ", ".join(filter(None, (near, "distance unknown" if cost is None else f"{cost:.1f} ms")))


def _outcome(outcome: Reply | Forward | Drop, query: Query, stream: bool) -> str:
    match outcome:
        case Drop(reason=reason):
            return f"no reply: {reason}"
        case Forward(led=led):
            what = "not a name of ours" if led is None else "its aliases lead outside"
            return f"{what}: asked of an upstream"
        case Reply(octets=octets, rcode=rcode, kind=kind):
            by = "TCP" if stream else "UDP"
            ttl = f", TTL {TTL}" if octets[6:8] != b"\0\0" and kind != "refused" else ""
            return f"{rcode.name}, {len(octets)} octets by {by}{ttl}, kind {kind}"
        case _:
            assert_never(outcome)
