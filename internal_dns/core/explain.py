"""Explain the answer to a query: the requester, the rule, the name, and a verdict per machine.

The reply comes from `respond` itself and the explanation from the same functions with the same
arguments, so it describes what the server does.
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
    identify,
    respond,
)
from internal_dns.core.lookup import OfApp, View, mismatch, readiness
from internal_dns.core.names import Asked, Labels, asked_in, our_zone
from internal_dns.core.nearest import distances, rank
from internal_dns.core.records import TTL, address_text
from internal_dns.core.requester import Outsider, Place, Requester, place
from internal_dns.core.resolve import (
    Outside,
    Resolved,
    Step,
    TooLong,
    walk,
    zone_for,
)
from internal_dns.core.suggest import suggest
from internal_dns.core.wire import Query, Silent, read_query

_MISTYPED = 2  # the largest difference in length of a similar name
_COMPARED = 5_000  # apps to compare, which takes some 20 ms
_FEW = 6  # apps that are listed when none is similar


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a query selects a machine; `why` not, or empty when it does."""

    machine: Machine
    why: str
    distance: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The outcome of a query, the steps to it as (title, text), and a verdict per machine."""

    outcome: Reply | Forward | Drop
    steps: tuple[tuple[str, str], ...]
    machines: tuple[Verdict, ...] = ()
    total: int = 0  # machines of the app, judged or not

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
    """Return the result of `respond` for the same arguments, and the reasons.

    At most *at_most* machines get a verdict, the nearest first.
    """
    outcome = respond(
        octets, source, destination, catalog, rules, rotation=rotation, stream=stream, now=now
    )
    query = read_query(octets)
    if not isinstance(query, Query):
        reason = query.reason
        what = "no reply" if isinstance(query, Silent) else "malformed"
        return Explanation(outcome, (("message", f"{what}: {reason}"),))
    who = identify(query, source, destination, catalog or Catalog(), rules)
    steps = [("asks", _who(who, source))]
    network = who.network if isinstance(who, Requester) else None
    zone = zone_for(query.labels, network, rules.prefix) if network else None
    machines: tuple[Verdict, ...] = ()
    total = 0
    if isinstance(who, Requester) and zone is not None and catalog is not None:
        here = place(who, catalog, rules.region)
        view = View(who, catalog, here, rules.region, rotation, query.qtype)
        walked = walk(query.labels, view, rules.prefix)
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
            total = len(app.machines)
            machines = _verdicts(
                base, app, View(who, catalog, here, rules.region, rotation), at_most
            )
            if readiness(base, app)[1]:
                steps.append(("ready", "all are shown: none is ready"))
        elif isinstance(base, OfApp) and who.network.known:
            steps.append(("apps", _instead(base.app or b"", who.network)))
    if isinstance(who, Requester) and (hint := suggest(query.labels, query.qtype, who.network)):
        steps.append(("hint", hint))
    steps.append(("outcome", _outcome(outcome, query, stream)))
    if isinstance(who, Requester) and who.network.known:
        counted = who.network.revision
        steps.append(("revision", f"{counted} of this network" if counted else "-"))
    return Explanation(outcome, tuple(steps), machines, total)


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
    return describe(asked_in(zone, step.labels, prefix))


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
        ident, state = here.machine.id.decode(), names.printable(here.machine.state)
        return f"{region}, as machine {ident} ({state}) owns this /112"
    if here.host:
        return f"{region}, by the host bits of the address"
    if who.region:
        return f"{region}, as asked"
    return f"{region}, that of this server" if here.region and rules.region else region


def describe(asked: Asked) -> str:
    """Describe the form of a name, with the values of its fields."""
    match asked:
        case names.NoSuchForm(reason=reason):
            return f"not a valid name: {reason}"
        case names.EmptyNonTerminal(of=of):
            return f"an empty non-terminal, which only has names below it, of: {describe(of)}"
        case names.Page(of=of, number=number):
            return f"page {number} of: {describe(of)}"
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
    """Return the words of *form*, followed by the fields that the words do not contain."""
    words = FORMS[form].words
    shown = ", ".join(
        "stopped machines included"
        if slot == "every"
        else f"{slot} {names.printable(value) if isinstance(value, bytes) else value}"
        for slot, value in slots.items()
        if value is not None and value is not False and f"{{{slot}}}" not in words
    )
    return words.format(**slots) + (f" ({shown})" if shown else "")


def _instead(label: bytes, network: Network) -> str:
    """Say which apps of the requester's network a name without an app may mean."""
    if not network.apps:
        return "this network has no apps"
    text = names.printable(label)
    alike = (app.decode() for app in network.apps if abs(len(app) - len(label)) <= _MISTYPED)
    near = get_close_matches(text, islice(alike, _COMPARED), 3)
    if near:
        return f"no app {text} in this network; similar: {', '.join(near)}"
    if len(network.apps) <= _FEW:
        apps = ", ".join(app.decode() for app in sorted(network.apps))
        return f"no app {text} in this network; it has {apps}"
    count = f"{len(network.apps):,}"
    return f"no app {text} in this network, and none of its {count} is similar; see _apps.internal"


def _verdicts(asked: Asked, app: App, view: View, at_most: int | None) -> tuple[Verdict, ...]:
    """Return a verdict per machine of the app; for `nearest`, in its order and with distances."""
    every = getattr(asked, "every", False)
    nearest = _nearest(asked, app, view) if isinstance(asked, names.Nearest) else None
    ready_only, _ = readiness(asked, app)
    verdicts = []
    for machine in _considered(app, nearest or {}, at_most):
        why = mismatch(machine, asked, app) or (
            "" if (machine.listed if every else machine.visible) else _hidden(machine)
        )
        if ready_only and not why and not machine.ready:
            why = "not ready"
        if nearest is not None and not why and machine.address not in nearest:
            why = f"not among the {len(nearest)} nearest"
        verdicts.append(
            Verdict(
                machine,
                why,
                _distance(machine, view.here, view.catalog) if nearest is not None else "",
            )
        )
    if nearest is not None:
        verdicts.sort(
            key=lambda v: (
                nearest.get(v.machine.address, len(nearest)),
                rank(v.machine, view.here, view.catalog),
            )
        )
    return tuple(verdicts)


def _considered(app: App, nearest: dict[bytes, int], at_most: int | None) -> tuple[Machine, ...]:
    """Return the machines that get a verdict: all, or *at_most*, those in the answer first."""
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
    """Return the position of each address in the answer."""
    nearest = distances(app, asked.group, view.here, view.catalog)
    order = nearest.first(min(asked.count, nearest.distinct), view.rotation)
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
        case Forward(aliased=aliased):
            what = "an external name" if aliased is None else "its aliases lead outside"
            return f"{what}: forwarded to an upstream"
        case Reply(octets=octets, rcode=rcode, kind=kind):
            transport = "TCP" if stream else "UDP"
            ttl = f", TTL {TTL}" if octets[6:8] != b"\0\0" and kind != "refused" else ""
            return f"{rcode.name}, {len(octets)} octets over {transport}{ttl}, kind {kind}"
        case _:
            assert_never(outcome)
