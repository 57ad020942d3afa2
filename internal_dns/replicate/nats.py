"""A bucket in NATS JetStream. Only this file and client.py speak NATS.

    stream    KV_<bucket>           one message per key; its sequence number is the revision
    subject   $KV.<bucket>.<key>    a message with KV-Operation DEL or PURGE is a tombstone
    stream    KV_<bucket>-fleet     the status reports of the hosts

The watch of the client library cannot resume from a revision, and its ordered consumer does not
notice a silent server. So this file creates its own consumer: pushed, unacknowledged, numbered,
with heartbeats and flow control. A follower has at most one: it deletes its consumer before it
creates the next, and the server deletes a consumer without a listener.

The library is imported on first use, because it is optional.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from internal_dns.replicate.bucket import (
    Conflict,
    ConnectionLost,
    Delivery,
    Heartbeat,
    Item,
    NoBucket,
    Unavailable,
)
from internal_dns.replicate.codec import FLOOR, InvalidEntry, read_floor
from internal_dns.replicate.logic import HEARTBEAT, Facts, Message
from internal_dns.replicate.source import Source

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

CONNECT_TIMEOUT: Final = 2  # seconds per server; a frozen one accepts and stays silent
REQUEST_TIMEOUT: Final = 2.0
ACK_TIMEOUT: Final = 10.0  # seconds until the next acknowledgment
MAX_UNACKNOWLEDGED: Final = 1_000
CONSUMER_EXPIRY: Final = 10.0  # seconds until the server deletes a consumer without a listener
MAX_BATCH: Final = 5_000  # messages in one transaction
MAX_ERRORS: Final = 20
FLEET_AGE: Final = 7 * 86_400  # seconds until the last report of a silent host expires

_WRONG_LAST_SEQUENCE: Final = 10_071
_STREAM_NOT_FOUND: Final = 10_059
_DELIVERED: Final = "$JS.ACK."  # prefix of the reply subject of every delivery
_VIOLATION: Final = "Permissions Violation for "
_TOMBSTONES: Final = ("DEL", "PURGE")
_MARKER: Final = "Nats-Marker-Reason"  # on tombstones that the server (2.11 or later) writes itself
_chance: Final = Random()
_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")  # base32 of a prefix, 32 octets and a checksum


class NatsBucket:
    """One connection. It never reconnects; a follower opens a new one."""

    def __init__(
        self,
        source: Source,
        client: Client,
        lost: asyncio.Event,
        consumer: str,
        refusals: Refusals | None = None,
    ) -> None:
        self.source, self.client, self.lost = source, client, lost
        self.refusals = refusals or Refusals()
        self.stream, self.prefix = f"KV_{source.bucket}", f"$KV.{source.bucket}."
        self.fleet = f"{source.bucket}-fleet"
        self.consumer = consumer

    def refusal(self) -> str:
        """Return what the server last refused to do for this connection; empty: nothing."""
        return self.refusals.last

    def _failed(self, error: Exception, subject: str) -> Unavailable:
        """Return the error of a message to *subject*. A server answers nothing to one that it does
        not permit; its reason arrives apart from that."""
        words = self.refusals.of(subject) if isinstance(error, TimeoutError) else ""
        kind = ConnectionLost if self.lost.is_set() else Unavailable
        return kind(f"{self.source}: {words or _words(error)}")

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    async def _api(self, verb: str, request: Any = None) -> dict[str, Any]:
        """Call the JetStream API. Raises Unavailable, NoBucket."""
        import nats.errors

        subject = f"$JS.API.{verb}"
        try:
            octets = json.dumps(request).encode() if request is not None else b""
            reply = await self.client.request(subject, octets, timeout=REQUEST_TIMEOUT)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._failed(error, subject) from error
        response: dict[str, Any] = json.loads(reply.data)
        if error_object := response.get("error"):
            kind = NoBucket if error_object.get("err_code") == _STREAM_NOT_FOUND else Unavailable
            raise kind(f"{self.source}: {error_object.get('description', error_object)}")
        return response

    async def facts(self) -> Facts:
        """Return the state of the stream as its leader reports it."""
        info = await self._api(f"STREAM.INFO.{self.stream}")
        floor = await self.get(FLOOR)
        state = info["state"]
        return Facts(
            info["created"], state["last_seq"], state.get("num_subjects", 0), _floor(floor)
        )

    async def get(self, key: str) -> Message | None:
        """Return the last message of *key*, which may be a tombstone."""
        return await self._message({"last_by_subj": f"{self.prefix}{key}"})

    async def any_after(self, revision: int) -> bool:
        """Whether the bucket holds a message after *revision*."""
        return (
            await self._message({"seq": revision + 1, "next_by_subj": f"{self.prefix}>"})
            is not None
        )

    async def _message(self, request: dict[str, Any]) -> Message | None:
        try:
            found = (await self._api(f"STREAM.MSG.GET.{self.stream}", request))["message"]
        except NoBucket:
            raise
        except Unavailable as error:
            if "no message found" in str(error):
                return None
            raise
        headers = b64decode(found.get("hdrs", "")).decode("utf-8", "replace")
        gone = _MARKER in headers or any(
            f"KV-Operation: {operation}" in headers for operation in _TOMBSTONES
        )
        value = None if gone else b64decode(found.get("data", ""))
        return Message(found["subject"].removeprefix(self.prefix), found["seq"], value)

    # ── following ─────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def follow(self, after: int | None) -> AsyncIterator[NatsDeliveries]:
        """Deliver the messages after revision *after*; None: the last per key, then new ones."""
        import nats.errors

        inbox = self.client.new_inbox()
        deliveries = NatsDeliveries(self, inbox)
        await self._forget_consumer()
        try:
            # No limit here: flow control bounds the messages in flight.
            subscription = await self.client.subscribe(
                inbox, cb=deliveries.take, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except nats.errors.Error as error:
            raise Unavailable(f"{self.source}: {_words(error)}") from error
        try:
            deliveries.began = await self._make_consumer(inbox, after)
            yield deliveries
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()
            await self._forget_consumer()

    async def _make_consumer(self, inbox: str, after: int | None) -> float:
        """Create the consumer; return when, by the server's clock."""
        policy: dict[str, Any] = {"deliver_policy": "last_per_subject"}
        if after is not None:
            policy = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        config = {
            "name": self.consumer, "deliver_subject": inbox, **policy,
            "filter_subject": f"{self.prefix}>", "flow_control": True,
            "ack_policy": "none", "max_deliver": 1, "replay_policy": "instant",
            "idle_heartbeat": int(HEARTBEAT * 1e9),
            "inactive_threshold": int(CONSUMER_EXPIRY * 1e9),
            "num_replicas": 1, "mem_storage": True,
        }  # fmt: skip
        verb = f"CONSUMER.CREATE.{self.stream}.{self.consumer}.{self.prefix}>"
        made = await self._api(verb, {"stream_name": self.stream, "config": config})
        return datetime.fromisoformat(made["created"]).timestamp()

    async def _forget_consumer(self) -> None:
        with suppress(Unavailable):  # the server deletes it after CONSUMER_EXPIRY
            if not self.lost.is_set():
                await self._api(f"CONSUMER.DELETE.{self.stream}.{self.consumer}")

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    async def create(self, replicas: int = 1) -> None:
        """Create the bucket unless it exists."""
        with suppress(NoBucket):
            await self._api(f"STREAM.INFO.{self.stream}")
            return
        await self._create(self.source.bucket, replicas, {})

    async def _create(self, bucket: str, replicas: int, more: dict[str, Any]) -> None:
        config = {
            "name": f"KV_{bucket}", "subjects": [f"$KV.{bucket}.>"],
            "retention": "limits", "storage": "file", "discard": "new",
            "max_msgs_per_subject": 1, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1,
            "num_replicas": replicas, "allow_rollup_hdrs": True, "deny_delete": True,
            "allow_direct": True, **more,
        }  # fmt: skip
        await self._api(f"STREAM.CREATE.KV_{bucket}", config)

    async def write(self, changes: Sequence[tuple[str, bytes | None, int | None]]) -> int:
        """Write keys in order: key, value (None deletes), expected revision (0: none; None: any).

        Returns the last revision. When it raises Conflict, some keys may be written: a bucket has
        no transactions.
        """
        import nats.errors

        inbox, acknowledged = self.client.new_inbox(), _Acknowledged(self)
        self.refusals.listener = acknowledged.deny
        try:
            subscription = await self.client.subscribe(f"{inbox}.*", cb=acknowledged.take)
            for number, (key, value, expected) in enumerate(changes):
                headers = (
                    {}
                    if expected is None
                    else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
                )
                if value is None:
                    headers["KV-Operation"] = "DEL"
                await self.client.publish(
                    f"{self.prefix}{key}", value or b"", f"{inbox}.{number}", headers or None
                )
                if number % MAX_UNACKNOWLEDGED == 0:
                    await acknowledged.until(number - MAX_UNACKNOWLEDGED)
            await acknowledged.until(len(changes))
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"{self.source}: {_words(error)}") from error
        finally:
            self.refusals.listener = None
        return acknowledged.last

    async def purge(self, key: str, before: int) -> None:
        """Purge the messages of *key* before a revision; a later value stays."""
        request = {"filter": f"{self.prefix}{key}", "seq": before}
        await self._api(f"STREAM.PURGE.{self.stream}", request)

    # ── the fleet ─────────────────────────────────────────────────────────────────────────────────

    async def report(self, host: str, value: bytes) -> None:
        """Publish the status of *host*. The first host to report creates the bucket for it."""
        import nats.errors

        subject = f"$KV.{self.fleet}.{host}"
        try:
            try:
                await self.client.request(subject, value, timeout=REQUEST_TIMEOUT)
            except nats.errors.NoRespondersError:
                await self._create(
                    self.fleet, 1, {"max_age": FLEET_AGE * 10**9, "storage": "memory"}
                )
                await self.client.request(subject, value, timeout=REQUEST_TIMEOUT)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._failed(error, subject) from error

    def fleet_bucket(self) -> NatsBucket:
        """Return the bucket of the status reports, over the same connection."""
        files = self.source.files
        return NatsBucket(
            Source(self.source.servers, self.fleet, files=files),
            self.client,
            self.lost,
            self.consumer,
            self.refusals,
        )


class Refusals:
    """What the server refused on one connection: "Permissions Violation for Publish to …".

    The server reports it apart from the message that it refused, which gets no reply.
    """

    def __init__(self, bucket: str = "") -> None:
        self.bucket = bucket
        self.texts: list[str] = []
        self.listener: Callable[[str], None] | None = None

    def add(self, error: Exception) -> None:
        """Take an error of the connection, if it is a refusal."""
        text = _words(error).strip("'")
        if not text.lower().startswith(_VIOLATION.lower()):
            return
        text = self._spelled(text)
        self.texts.append(text)
        del self.texts[:-MAX_ERRORS]  # a connection may live for months
        if self.listener is not None:
            self.listener(text)

    def _spelled(self, text: str) -> str:
        """Return *text* as the server wrote it, for the client library makes it lower case. An
        operator copies the subject into a configuration, where case matters."""
        kind, quote, subject = text[len(_VIOLATION) :].partition('"')
        head, dot, rest = subject.partition(f"kv_{self.bucket.lower()}")
        if dot:
            subject = f"{head.upper()}KV_{self.bucket}{rest}"
        for prefix in (f"$KV.{self.bucket}", "_INBOX", "$JS"):
            found = re.compile(re.escape(prefix), re.IGNORECASE)
            subject = found.sub(prefix, subject)
        return f"{_VIOLATION}{kind.title().replace(' To ', ' to ')}{quote}{subject}"

    @property
    def last(self) -> str:
        return self.texts[-1] if self.texts else ""

    def of(self, subject: str) -> str:
        """Return why a request to *subject* has no reply: it, or the subscription for replies, was
        refused."""
        found = [
            text for text in self.texts if subject.lower() in text.lower() or "Subscription" in text
        ]
        return found[-1] if found else ""


class _Acknowledged:
    """Counts the acknowledgments of published messages. The library's own publisher does not report
    rejections."""

    def __init__(self, bucket: NatsBucket) -> None:
        self.bucket, self.count, self.last, self.came = bucket, 0, 0, asyncio.Event()
        self.refused: Exception | None = None

    async def take(self, message: Msg) -> None:
        self.count += 1
        if message.headers and message.headers.get("Status") == "503":
            self.refused = NoBucket(f"{self.bucket.source}: no stream accepts the message")
        else:
            reply = json.loads(message.data)
            self.last = max(self.last, reply.get("seq", 0))
            if error := reply.get("error"):
                self.refused = self.refused or self._refusal(error)
        self.came.set()

    def deny(self, text: str) -> None:
        """Take what the server does not permit, instead of waiting for its acknowledgment."""
        if self.bucket.prefix in text or "Subscription" in text:
            self.refused = self.refused or Unavailable(f"{self.bucket.source}: {text}")
            self.came.set()

    def _refusal(self, error: dict[str, Any]) -> Exception:
        if error.get("err_code") == _WRONG_LAST_SEQUENCE:
            return Conflict("another writer has changed the same rows")
        return Unavailable(f"{self.bucket.source}: {error.get('description', error)}")

    async def until(self, count: int) -> None:
        """Wait for *count* acknowledgments. Raises Conflict, Unavailable."""
        while self.count < count and self.refused is None:
            self.came.clear()
            try:
                await asyncio.wait_for(self.came.wait(), ACK_TIMEOUT)
            except TimeoutError:
                raise Unavailable(f"{self.bucket.source}: writes are not acknowledged") from None
        if self.refused is not None:
            raise self.refused


def _floor(message: Message | None) -> int | None:
    if message is None or message.value is None:
        return None
    try:
        return read_floor(message.value)
    except InvalidEntry:
        return None


class NatsDeliveries:
    """The deliveries of one consumer."""

    def __init__(self, bucket: NatsBucket, inbox: str) -> None:
        self.bucket, self.inbox = bucket, inbox
        self.items: list[Item] = []
        self.began = 0.0
        self.flow: list[
            str
        ] = []  # flow-control subjects to answer once the items before them are applied
        self.came = asyncio.Event()

    # Hot path: called for every message. A coroutine, because the library awaits it.
    async def take(self, message: Msg) -> None:
        # Do not decide by headers: a publisher can set any, and a misclassified delivery is lost.
        if message.reply.startswith(_DELIVERED):
            if (found := _delivery(message, len(self.bucket.prefix))) is not None:
                self.items.append(found)
        elif message.headers and message.headers.get("Status") == "100":
            self._control(message.headers, message.reply)
        self.came.set()

    def _control(self, headers: dict[str, str], reply: str) -> None:
        if reply:
            self.flow.append(reply)
            return
        if stalled := headers.get("Nats-Consumer-Stalled"):
            self.flow.append(stalled)
        self.items.append(Heartbeat(int(headers.get("Nats-Last-Consumer", "0"))))

    async def next(self, timeout: float) -> list[Item]:
        """Return the items that have arrived; none after *timeout*. Raises ConnectionLost."""
        await self._answer_flow_control()
        if not self.items:
            self.came.clear()
            waiting = [
                asyncio.ensure_future(event.wait()) for event in (self.came, self.bucket.lost)
            ]
            try:
                await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
        if not self.items:
            if self.bucket.lost.is_set():
                raise ConnectionLost(f"{self.bucket.source}: the connection was lost")
            return []
        found = self.items[:MAX_BATCH]
        del self.items[:MAX_BATCH]
        return found

    async def _answer_flow_control(self) -> None:
        """Answer flow control once most items are applied, and before the delivery stalls."""
        if len(self.items) > 2 * MAX_BATCH:
            return
        flow, self.flow = self.flow, []
        for reply in flow:
            with suppress(Exception):  # `next` reports a lost connection
                await self.bucket.client.publish(reply)


def _delivery(message: Msg, start: int) -> Delivery | None:
    """Return a message with the numbers of its reply subject; None when that has another form.

    $JS.ACK.<stream>.<consumer>.<tries>.<revision>.<delivery>.<time>.<pending>, or with domain and
    account after ACK.
    """
    fields = message.reply.split(".")
    first = 5 if len(fields) == 9 else 7
    if len(fields) < 9:
        return None
    revision, number, nanoseconds, pending = map(int, fields[first : first + 4])
    headers = message.headers
    gone = headers is not None and (
        headers.get("KV-Operation") in _TOMBSTONES or _MARKER in headers
    )
    value = None if gone else message.data
    stored = Message(message.subject[start:], revision, value)
    return Delivery(stored, number, pending, nanoseconds / 1e9)


# ── connecting ────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def connected(source: Source, consumer: str = "") -> AsyncIterator[NatsBucket]:
    """Connect to one of the servers, in random order.

    *consumer* is the name of this follower's consumer, reused so that a reconnect leaves no old one
    behind. Raises Unavailable with the error of each server.
    """
    lost, errors, refusals = asyncio.Event(), list[str](), Refusals(source.bucket)
    options = _options(source)
    for server in _chance.sample(source.servers, len(source.servers)):
        client = await _connect(server, source, options, lost, errors, refusals)
        if client is not None:
            break
    else:
        raise Unavailable(f"{source}: {'; '.join(dict.fromkeys(errors))}")
    try:
        yield NatsBucket(source, client, lost, consumer or consumer_name(), refusals)
    finally:
        with suppress(Exception):
            await asyncio.wait_for(client.close(), CONNECT_TIMEOUT)


def consumer_name() -> str:
    """Return a unique name for a consumer."""
    return f"internal-dns-{secrets.token_hex(8)}"


async def _connect(
    server: str,
    source: Source,
    options: dict[str, Any],
    lost: asyncio.Event,
    errors: list[str],
    refusals: Refusals,
) -> Client | None:
    """Connect to one server. On failure, return None and append the reason to *errors*."""
    import nats.errors

    from internal_dns.replicate.client import SafeClient

    async def mark_lost() -> None:
        lost.set()

    async def record_error(error: Exception) -> None:
        refusals.add(error)
        errors.append(f"{server}: {_words(error)}")
        del errors[:-MAX_ERRORS]  # a connection may live for months

    client = SafeClient(source.tls, certificate=source.file("cert") is not None)
    try:
        # The library's own timeout does not cover a server that accepts and then stays silent.
        async with asyncio.timeout(2 * CONNECT_TIMEOUT):
            await client.connect(
                [f"{'tls' if source.tls else 'nats'}://{server}"],
                name="internal-dns",
                allow_reconnect=False,
                connect_timeout=CONNECT_TIMEOUT,
                ping_interval=10,
                max_outstanding_pings=2,
                disconnected_cb=mark_lost,
                closed_cb=mark_lost,
                error_cb=record_error,
                **options,
            )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        errors.append(f"{server}: {_words(error)}")
        with suppress(Exception):
            await asyncio.wait_for(client.close(), CONNECT_TIMEOUT)
        lost.clear()
        return None
    return client


def _options(source: Source) -> dict[str, Any]:
    """Return the library's options for the credentials of an address. Raises Unavailable."""
    try:
        import nats  # noqa: F401
    except ImportError:
        raise Unavailable(
            "the NATS client is not installed; in the checkout: pip install '.[nats]'"
        ) from None
    options: dict[str, Any] = {}
    if source.user and source.password:
        options = {"user": source.user, "password": source.password}
    elif source.user:
        options = {"token": source.user}
    try:
        if path := source.file("token_file"):
            options = {"token": Path(path).read_text().strip()}
        if path := source.file("creds") or source.file("nkey"):
            _check_seed(Path(path), creds=source.file("creds") is not None)
            options = {"user_credentials" if source.file("creds") else "nkeys_seed": path}
        if source.tls:
            options["tls"] = context = ssl.create_default_context(cafile=source.file("ca"))
            if path := source.file("cert"):
                # With a passphrase given, an encrypted key is an error and not a prompt.
                context.load_cert_chain(path, source.file("key"), password="")
    except (OSError, ValueError) as error:
        raise Unavailable(f"{source}: {error}") from error
    return options


def _check_seed(path: Path, *, creds: bool) -> None:
    """Check that a file has what the library reads from it.

    The library loops forever on a creds file without a JWT. Raises OSError, ValueError,
    Unavailable.
    """
    seed = path.read_bytes()
    if creds:
        lines = seed.splitlines()
        next_lines = {line.strip(b"- "): after for line, after in pairwise(lines)}
        seed = next_lines.get(b"BEGIN USER NKEY SEED", b"")
        if not seed or not next_lines.get(b"BEGIN NATS USER JWT"):
            raise ValueError(
                f"{path} is not a creds file: it lacks `BEGIN NATS USER JWT` or "
                "`BEGIN USER NKEY SEED`"
            )
    if not _SEED.fullmatch(seed.strip()):
        raise ValueError(f"{path} has no user nkey seed (SU…)")
    if find_spec("nkeys") is None:  # not in the extra: it has no wheel
        raise Unavailable("creds and nkey files need one more package: pip install nkeys")


def _words(error: Exception) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__
