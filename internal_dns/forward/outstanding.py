"""One question on its way to upstreams, for all who wait for it.

    Plan (policy.py) ─► udp: a socket of its own, or a shared one (sockets.py) ─┐
                     └► tcp, tls, https: a channel (streams.py) ────────────────┤
                            match, health: at once (`_arrived`)          ◄──────┘
                                      │ the plan rests
                            check, scrub, cache: in the turn of a network that waits (`_judge`)

A try by UDP has a port, id and letter case of its own (0x20). What is not the reply is ignored, and
once such a thing came the question goes on by TCP. An upstream that knows no EDNS is asked once
more without, and for five minutes no other way (RFC 6891 section 7).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from struct import pack
from typing import Any, Final, Protocol

from internal_dns.core.catalog import NetworkId
from internal_dns.core.relayed import Relayed, scrub
from internal_dns.core.wire import (
    AD,
    CD,
    HEADER,
    MAX_MESSAGE,
    RD,
    TC,
    BadReply,
    CheckedReply,
    Ede,
    Rcode,
    Type,
    check_reply,
    is_bare_refusal,
    is_reply_to,
)
from internal_dns.forward.policy import HEDGE, Ask, Health, Plan, Wait
from internal_dns.forward.sockets import Pool, SharedSocket
from internal_dns.forward.streams import Channel, NoReply
from internal_dns.forward.upstreams import Upstream

# DNS flag day 2020: what passes every path unfragmented.
OUR_SIZE: Final = 1_232
PLAIN: Final = 300  # seconds that an upstream is asked without EDNS after it knew none
PADDED: Final = 128  # RFC 8467: encrypted queries are a multiple of this long
_PADDING: Final = 12  # RFC 7830
_TRY_ANOTHER: Final = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_NO_EDNS: Final = frozenset({Rcode.FORMERR, Rcode.NOTIMP})
_CASE_BIT: Final = bytes(
    0x20 if chr(octet).isascii() and chr(octet).isalpha() else 0 for octet in range(256)
)


@dataclass(slots=True)  # not frozen: one is made for each question, and that takes thrice as long
class Question:
    """What is asked: QNAME (wire form, lower-cased), QTYPE, and the two bits that change a
    reply. `key`: under which a reply is kept, and asked for once however many ask."""

    name: bytes
    qtype: int
    dnssec_ok: bool
    checking_disabled: bool
    key: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.name + pack("!HB", self.qtype, self.variant)

    @property
    def variant(self) -> int:
        """DO + 2 CD."""
        return self.dnssec_ok | self.checking_disabled << 1

    def section(self, *, mixed: bool) -> bytes:
        """Return the question section; *mixed*: in random letter case, which the reply must
        repeat."""
        name = mixed_case(self.name) if mixed else self.name
        return name + pack("!HH", self.qtype, 1)

    def query(self, section: bytes, *, padded: bool = False, edns: bool = True) -> bytes:
        """Return the query without its id: RD, AD, CD, DO, and no option of any client (so no ECS).

        AD asks for the upstream's verdict (RFC 6840 section 5.7); who gets it is decided when the
        reply is relayed.
        """
        head = pack("!5H", RD | AD | self.checking_disabled * CD, 1, 0, 0, edns) + section
        if not edns:
            return head
        room = -(2 + len(head) + 11 + 4) % PADDED if padded else -4
        padding = pack("!HH", _PADDING, room) + bytes(room) if padded else b""
        return (
            head
            + b"\0"
            + pack("!HHIH", Type.OPT, OUR_SIZE, self.dnssec_ok << 15, len(padding))
            + padding
        )


NOBODY: Final = NetworkId(0)
PROBE: Final = Question(b"\0", Type.NS, False, False)


def mixed_case(name: bytes) -> bytes:
    """Return *name* with each letter in a case of its own (draft-vixie-dnsext-dns0x20)."""
    size = len(name)
    # Length octets are below 'A', so the wire form's letters are letters only. All octets at once:
    # 1 µs, not 10.
    letters = int.from_bytes(name.translate(_CASE_BIT), "big")
    chosen = int.from_bytes(secrets.token_bytes(size), "big") & letters
    return (int.from_bytes(name, "big") ^ chosen).to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer. `outcome` is the metric's label."""

    outcome: str
    ede: tuple[Ede, str]


BUSY: Final = Failure("busy", (Ede.OTHER, "too many questions are waiting for upstreams"))
_DEAD: Final = Failure("timeout", (Ede.NO_REACHABLE_AUTHORITY, "no upstream answered in time"))
_NOBODY: Final = Failure(
    "unreachable", (Ede.NO_REACHABLE_AUTHORITY, "no upstream could be reached")
)
_FAILING: Final = Failure("failing", (Ede.NETWORK_ERROR, "every upstream that was reached failed"))
_INJECTED: Final = Failure(
    "injected", (Ede.BLOCKED, "the upstream spoke for internal names or addresses")
)
ALIAS: Final = Failure(
    "alias", (Ede.BLOCKED, "an alias from outside leads to an internal name: outside_aliases")
)
FAULT: Final = Failure("error", (Ede.OTHER, "the server failed on this question"))
LOOP: Final = Failure("loop", (Ede.OTHER, "an upstream leads back to this server"))
Outcome = Relayed | Failure


@dataclass(slots=True, eq=False)
class State:
    """One upstream as it has been: its health, its kept connections, its counters."""

    upstream: Upstream
    channel: Channel
    health: Health = field(default_factory=Health)
    queries: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by protocol
    replies: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by RCODE
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by reason
    outstanding: int = 0  # tries
    pool: Pool | None = None  # None: each try by UDP has a socket of its own
    plain_until: float = 0.0  # it knew no EDNS
    name: str = ""  # the upstream in words
    probe_timer: asyncio.TimerHandle | None = None
    _sockaddr: Any = None

    def __post_init__(self) -> None:
        self.name = str(self.upstream)

    def missed(self) -> None:
        """Count a message that is no reply to anything outstanding."""
        self.failures["near miss"] += 1

    def address(self) -> Any:
        return self.sockaddr

    @property
    def sockaddr(self) -> Any:
        """The address as sockets take it. Raises OSError while an interface in it does not
        exist."""
        if self._sockaddr is None:
            found = self.upstream.endpoint.sockaddr
            if any(found[3:]):
                return found  # an interface that went away and came back has another number
            self._sockaddr = found
        return self._sockaddr


class Guard(Protocol):
    """What all questions share: the room for sockets, and what is ours."""

    sockets: int
    limit: int
    zones: frozenset[bytes]
    prefix: bytes
    check: Callable[[Iterable[NetworkId], Callable[[], None]], None]

    def unheard(self, state: State, name: bytes) -> None:
        """An upstream did not answer for *name* in time."""

    def failed_on(self, asking: OutstandingQuery) -> None:
        """An exception that nobody expected is being handled."""


class Waiting(Protocol):
    """A client that waits for the outcome of a question."""

    def tell(self, outcome: Outcome, *, at_once: bool = False) -> None:
        """Take the outcome, in the turn of its network: *at_once*, if that is now; never raises."""


@dataclass(slots=True, eq=False)
class UdpAttempt:
    """One UDP message to an upstream, and the socket its reply comes to."""

    asking: OutstandingQuery
    at: int
    sock: socket.socket | SharedSocket
    ident: bytes
    section: bytes
    sent_at: float
    edns: bool
    near_miss: bool = False
    unchecked: bool = False  # its reply has come, and waits for its check's turn

    def take(self, octets: bytes) -> None:
        self.asking.take(self, octets)

    def concerns(self, octets: bytes) -> bool:
        """Whether *octets* have this question, in any letter case."""
        return octets[HEADER : HEADER + len(self.section)].lower() == self.section.lower()

    def missed(self) -> None:
        self.asking.missed(self)

    def unreachable(self) -> None:
        self.asking.unreachable(self)


class OutstandingQuery:
    """A question on its way. *done* is called once, with the outcome and the upstream's state if
    one answered."""

    def __init__(
        self,
        question: Question,
        states: Sequence[State],
        plan: Plan,
        guard: Guard,
        done: Callable[[OutstandingQuery, Outcome, State | None], None],
        *,
        network: NetworkId = NOBODY,
        allow_prefix: bool = False,
        probe: bool = False,
    ) -> None:
        self.question, self.states, self.plan, self.guard, self.done = (
            question,
            states,
            plan,
            guard,
            done,
        )
        self.prefix = None if allow_prefix else guard.prefix
        self.network, self.probe = network, probe
        self.loop = asyncio.get_running_loop()
        self.waiters: dict[Waiting, NetworkId] = {}
        self.started_at = time.monotonic()  # the loop's own clock may count in milliseconds
        self.looping = False  # an upstream has asked us this meanwhile
        self.outcome: Outcome | None = None  # when it has ended
        self._ends: list[asyncio.Future[None]] = []
        self._tries: list[UdpAttempt] = []
        self._streams: dict[asyncio.Task[None], tuple[int, float]] = {}
        self._answered: set[int] = set()  # upstreams that said anything, even no
        self._plain: set[int] = set()  # upstreams that know no EDNS, as it turned out just now
        self._no_socket = False
        self._timer: asyncio.TimerHandle | None = None
        self._unchecked = 0  # replies that have come, and wait for their check's turn
        self._turn: NetworkId | None = None  # the one network that pays for what is done now

    def go_on(self) -> None:
        """Do what the plan says, now and when it is time."""
        try:
            self._go_on()
        except Exception:
            self._fault()

    def _go_on(self) -> None:
        self._rest()
        if self._unchecked:
            return  # a reply that waits to be checked is no silence
        while self.outcome is None:
            step = self.plan.step(self.loop.time())
            if isinstance(step, Ask):
                if self.states[step.upstream].upstream.scheme == "udp":
                    self._by_udp(step.upstream)
                else:
                    self._by_stream(step.upstream, must=True)
            elif isinstance(step, Wait):
                self._timer = self.loop.call_at(step.until, self.go_on)
                return
            else:
                self.end(self._why_none(step.reached))

    def _rest(self) -> None:
        """Do nothing until `go_on`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def unchecked(self) -> bool:
        """Whether a reply has come that nobody has looked at."""
        return self._unchecked > 0

    def _why_none(self, reached: bool) -> Failure:
        if reached:
            return _FAILING
        if self.loop.time() >= self.plan.end:
            return _DEAD
        return BUSY if self._no_socket else _NOBODY

    async def over(self) -> None:
        """Wait until this has ended."""
        if self.outcome is None:
            end: asyncio.Future[None] = self.loop.create_future()
            self._ends.append(end)
            await end

    def is_own(self, ident: bytes, section: bytes) -> bool:
        """Whether a query with this id and question, letter case included, is one of our own tries
        come back."""
        return any(each.ident == ident and each.section == section for each in self._tries)

    def end(self, outcome: Outcome, state: State | None = None) -> None:
        """Stop, and tell all who wait."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._rest()
        self._count_silence(time.monotonic())
        for each in tuple(self._tries):
            self._close(each)
        for task in self._streams:
            task.cancel()
        try:
            self.done(self, outcome, state)
        finally:  # whatever went wrong in keeping it
            waiters, self.waiters = self.waiters, {}
            alone = len(waiters) == 1  # as most are: then no second turn is waited for
            for waiter, network in waiters.items():
                waiter.tell(outcome, at_once=alone and network == self._turn)
            for end in self._ends:
                if not end.done():
                    end.set_result(None)

    def _fault(self) -> None:
        """A fault of ours costs this question, and those who wait for it are told."""
        self.guard.failed_on(self)
        self.end(FAULT)

    def _count_silence(self, now: float) -> None:
        """Tell the health of upstreams that had time to answer, and did not."""
        if len(self._tries) == 1 and not self._streams and self._tries[0].at in self._answered:
            return
        waited = {each.at: each.sent_at for each in reversed(self._tries)}
        waited |= {at: since for at, since in self._streams.values()}
        for at, since in waited.items():
            if now - since >= HEDGE / 2 and at not in self._answered:
                self.guard.unheard(self.states[at], self.question.name)

    def _edns(self, at: int) -> bool:
        """Whether to ask this upstream with EDNS."""
        until = self.states[at].plain_until
        return at not in self._plain and (not until or self.loop.time() >= until)

    # ── by UDP ────────────────────────────────────────────────────────────────────────────────────

    def _by_udp(self, at: int) -> None:
        state, edns = self.states[at], self._edns(at)
        section = self.question.section(mixed=True)
        query = self.question.query(section, edns=edns)
        try:
            shared = state.pool and state.pool.take(self.loop.time())
            if shared:
                ident = shared.free_ident()
                made = UdpAttempt(self, at, shared, ident, section, time.monotonic(), edns)
                shared.send(ident, query, made)
            else:
                ident = secrets.token_bytes(2)
                sock = self._sent(state, ident + query)
                made = UdpAttempt(self, at, sock, ident, section, time.monotonic(), edns)
                self.loop.add_reader(sock, self._readable, made)
        except OSError as error:
            self._no_socket |= error.errno in _NO_SOCKET
            state.failures["no socket" if error.errno in _NO_SOCKET else "unreachable"] += 1
            self.plan.unsent(at)
            return
        state.queries["udp"] += 1
        state.outstanding += 1
        self.guard.sockets += 1
        self._tries.append(made)

    def _sent(self, state: State, octets: bytes) -> socket.socket:
        """Send from a socket of its own: connected, so that only the upstream can speak, in one
        step (no asyncio endpoint)."""
        sock = socket.socket(
            state.upstream.endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        )
        try:
            sock.connect(state.sockaddr)
            sock.send(octets)
        except BaseException:
            sock.close()
            raise
        return sock

    def _readable(self, made: UdpAttempt) -> None:
        """Take what has come on a socket of its own."""
        assert isinstance(made.sock, socket.socket)
        try:
            octets = made.sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self.unreachable(made)
            return
        self.take(made, octets)

    def unreachable(self, made: UdpAttempt) -> None:
        """Nobody is there."""
        try:
            if made in self._tries and not made.unchecked:
                self.states[made.at].failures["unreachable"] += 1
                self._close(made)
                self.plan.rule_out(made.at, reached=False)
                self._go_on()
        except Exception:
            self._fault()

    def take(self, made: UdpAttempt, octets: bytes) -> None:
        """Take what has come: the reply ends the try, anything else does not."""
        if made.unchecked:
            return  # one reply more on a shared socket; if the first one is bad, TCP will tell
        try:
            if is_reply_to(octets, made.ident, made.section):
                self._arrived(made.at, octets, made.ident, made.section, made.sent_at, made)
            elif made.edns and is_bare_refusal(octets, made.ident):
                self._knows_no_edns(made.at, octets[3] & 15, made)
            else:
                self.missed(made)
        except Exception:
            self._fault()

    def missed(self, made: UdpAttempt) -> None:
        """Something that is not the reply came from the upstream's address: somebody may be
        guessing."""
        self.states[made.at].missed()
        if not made.near_miss and self.plan.may_send():
            self._by_stream(made.at, must=False)
        made.near_miss = True

    def _close(self, made: UdpAttempt) -> None:
        self._tries.remove(made)
        state, sock = self.states[made.at], made.sock
        if isinstance(sock, SharedSocket):
            sock.over(made.ident)
        else:
            self.loop.remove_reader(sock)
            sock.close()
        state.outstanding -= 1
        self.guard.sockets -= 1

    # ── by TCP, TLS, HTTPS ────────────────────────────────────────────────────────────────────────

    def _by_stream(self, at: int, *, must: bool) -> None:
        """Ask over a kept connection. Unless it *must* answer, a reply by UDP is still awaited
        beside it."""
        # A second try does not wait for a connection on which the first one got nothing.
        again = any(other == at for other, _ in self._streams.values())
        task = self.loop.create_task(self._ask_stream(at, must, again))
        self._streams[task] = at, time.monotonic()
        task.add_done_callback(lambda done: self._streams.pop(done, None))

    async def _ask_stream(self, at: int, must: bool, again: bool) -> None:
        try:
            await self._ask_channel(at, must, again)
        except Exception:
            self._fault()

    async def _ask_channel(self, at: int, must: bool, again: bool) -> None:
        state, sent_at, edns = self.states[at], time.monotonic(), self._edns(at)
        section = self.question.section(mixed=False)
        state.queries["tcp" if state.upstream.scheme == "udp" else state.upstream.scheme] += 1
        state.outstanding += 1
        try:
            query = self.question.query(section, padded=state.upstream.encrypted, edns=edns)
            octets, age = await state.channel.ask(query, self.plan.may_send, second=again)
        except OSError as error:
            if self.outcome is None:
                state.failures[_reason(error)] += 1
                if must:
                    self.plan.rule_out(at, reached=_reached(error) or at in self._answered)
                    self.go_on()
            return
        finally:
            state.outstanding -= 1
        if self.outcome is not None:
            return
        if edns and is_bare_refusal(octets, b"\0\0"):
            self._knows_no_edns(at, octets[3] & 15, None)
        else:
            self._arrived(at, octets, b"\0\0", section, sent_at, None, edns=edns, age=age)

    # ── what came ─────────────────────────────────────────────────────────────────────────────────

    def _arrived(
        self,
        at: int,
        octets: bytes,
        ident: bytes,
        section: bytes,
        sent_at: float,
        made: UdpAttempt | None,
        *,
        edns: bool = True,
        age: int = 0,
    ) -> None:
        """Take a reply: the upstream is there, whatever it says. What it says is looked at when one
        of the networks that wait for it has its turn. The plan rests meanwhile: the time that this
        takes is not the upstream's."""
        self._answered.add(at)
        if len(octets) > HEADER and not self.probe:
            health = self.states[at].health
            if octets[3] & 15 in _TRY_ANOTHER:
                health.refused(self.question.name)
            elif not octets[2] & TC >> 8:
                health.answered(self.question.name, time.monotonic() - sent_at)
        if made is not None:
            edns, made.unchecked = made.edns, True
            if not isinstance(made.sock, SharedSocket):
                self.loop.remove_reader(made.sock)  # what is behind it may be the reply after all
        self._unchecked += 1
        self._rest()
        networks = set(self.waiters.values()) or {self.network}
        turn_of = next(iter(networks)) if len(networks) == 1 else None
        self.guard.check(
            networks,
            partial(self._judge_in_turn, at, octets, ident, section, made, edns, age, turn_of),
        )

    def _judge_in_turn(
        self,
        at: int,
        octets: bytes,
        ident: bytes,
        section: bytes,
        made: UdpAttempt | None,
        edns: bool,
        age: int,
        turn_of: NetworkId | None,
    ) -> None:
        """Check a reply now; *turn_of*: the network whose turn it is, if known."""
        self._unchecked -= 1
        if made is not None:
            made.unchecked = False
        if self.outcome is not None:
            return
        self._turn = turn_of
        try:
            self._judge(at, octets, ident, section, made, edns, age)
            if self.outcome is None:
                if made in self._tries and not isinstance(made.sock, SharedSocket):
                    self.loop.add_reader(made.sock, self._readable, made)
                if self._timer is None:
                    self._go_on()
        except Exception:
            self._fault()
        finally:
            self._turn = None

    def _judge(
        self,
        at: int,
        octets: bytes,
        ident: bytes,
        section: bytes,
        made: UdpAttempt | None,
        edns: bool,
        age: int,
    ) -> None:
        """Check a reply, and decide whether it ends the question."""
        state, question = self.states[at], self.question
        try:
            checked = check_reply(octets, ident, section, self.guard.zones, self.prefix)
            if checked.flags & TC and made is not None:
                self._too_large(at, made)
                return
            if edns and not self.probe and checked.rcode in _NO_EDNS and not checked.edns:
                self._knows_no_edns(at, checked.rcode, made)
                return
            relayed = None
            if not self._says_no(at, checked):
                relayed = scrub(
                    checked, question.name, question.qtype, dnssec_ok=question.dnssec_ok
                )
        except BadReply as bad:
            if bad.injected:
                state.failures["injected"] += 1
                self.end(_INJECTED)
                return
            if made is not None and not bad.final:
                # who guessed id and letter case may still have got the rest wrong
                self.missed(made)
                return
            state.failures["malformed"] += 1
            state.health.refused(question.name)
            relayed = None
        if relayed is not None:
            if at in self._plain:  # it was EDNS that it did not know, and nothing else
                state.plain_until = self.loop.time() + PLAIN
            self.end(relayed.after(age) if age else relayed, state)
            return
        if made is not None:
            self._close(made)
        self.plan.rule_out(at, reached=True)
        self._go_on()

    def _says_no(self, at: int, checked: CheckedReply) -> bool:
        """Count the reply; whether another upstream should be asked."""
        self.states[at].replies[checked.rcode] += 1
        return not self.probe and (
            checked.rcode >= 16 or checked.rcode in _TRY_ANOTHER or bool(checked.flags & TC)
        )

    def _knows_no_edns(self, at: int, rcode: int, made: UdpAttempt | None) -> None:
        """Ask once more, without OPT: FORMERR or NOTIMP came without one (RFC 6891 section 7)."""
        state = self.states[at]
        state.replies[rcode] += 1
        self._answered.add(at)
        if made is not None:
            self._close(made)
        if self.probe:
            self.end(_FAILING, state)
        elif at in self._plain or not self.plan.may_send():
            self.plan.rule_out(at, reached=True)
            self._go_on()
        else:
            self._plain.add(at)
            if made is not None:
                self._by_udp(at)
                self._go_on()
            else:
                self._by_stream(at, must=True)

    def _too_large(self, at: int, made: UdpAttempt) -> None:
        """TC is set: the whole of it is to be had by TCP."""
        self._close(made)
        if self.plan.may_send():
            self._by_stream(at, must=True)
        else:
            self.plan.rule_out(at, reached=True)
            self._go_on()


_NO_SOCKET: Final = frozenset(
    {23, 24, 105, 12}
)  # ENFILE, EMFILE, ENOBUFS, ENOMEM: ours, not the upstream's fault


def _reached(error: OSError) -> bool:
    """Whether the upstream was there, and did not do what it should."""
    import ssl

    return isinstance(error, NoReply | ssl.SSLCertVerificationError)


def _reason(error: OSError) -> str:
    """Say what kept a connection from working, as the metric's label."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    return "closed" if isinstance(error, NoReply) else "unreachable"
