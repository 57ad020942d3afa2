"""Hosts that follow one bucket of a real nats-server: whatever becomes of it, answers go on and no
row is lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from internal_dns.replicate.bucket import Conflict, Unavailable
from internal_dns.replicate.codec import file_values
from internal_dns.replicate.nats import NatsBucket, connected
from internal_dns.replicate.publishing import find_changes
from internal_dns.replicate.source import Source
from internal_dns.store.generate import create_catalog, demo_rows
from internal_dns.store.sqlite import connect
from tests import commands, nats_servers
from tests.live.certificates import Authority
from tests.live.hosts import (
    Host,
    Served,
    addresses,
    ask,
    change,
    join,
    meanwhile,
    outcome,
    query,
    until,
)
from tests.nats_servers import (
    NatsServer,
    asked,
    contents,
    create,
    nats_cluster,
    nats_server,
    publish,
    put,
)
from tests.replicate.values import machine, network
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, pytest.mark.slow, requires_tool("nats-server")]

SOON = 20.0  # seconds; a follower comes back within a second or two, on a busy machine later
NAME = "web.internal"


def address(number: int) -> str:
    return f"fdaa:0:18:a7b:7d:1:{number:x}:2"


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def bucket(nats: NatsServer, request: pytest.FixtureRequest) -> Source:
    """A bucket of the test's own, with one machine, published whole."""
    return filled(nats, re.sub(r"\W", "-", request.node.name)[:60])


def filled(nats: NatsServer, name: str) -> Source:
    """A bucket with one machine, published whole."""
    where = nats_servers.source(nats, name)
    create(where)
    publish(where, dict([network(), machine("a", 1)]))
    return where


@contextmanager
def following(
    path: Path,
    source: Source | str,
    *flags: str,
    host: Host | None = None,
    environment: Mapping[str, str] = {},
) -> Iterator[Served]:
    """A server whose file follows *source*, an address where there are secrets; it answers when
    this returns."""
    where = (
        ["--listen", "[::]:53"]
        if host
        else ["--listen", "[::1]:0", "--map-source", "::1/128=fdaa:0:18::/48"]
    )
    (port,) = nats_servers.free_ports(1)
    server = Served(
        "--catalog",
        str(path),
        *where,
        "--upstream",
        "none",
        "--source",
        source if isinstance(source, str) else source.without_secrets(),
        *(flags or ("--admin", f"127.0.0.1:{port}")),
        host=host,
        environment=environment,
    )
    try:
        yield server
    finally:
        server.kill()


def shows(server: Served, *numbers: int, name: str = NAME) -> bool:
    return addresses(ask(server, name)) == sorted(map(address, numbers))


def readyz(server: Served) -> str:
    found = re.search(r"admin http://(\S+):(\d+)", server.ready)
    assert found
    with closing(http.client.HTTPConnection(found[1], int(found[2]), timeout=5)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode()


def differences(path: Path, source: Source) -> list[str]:
    """Keys by which file and bucket differ."""
    with closing(connect(path)) as connection:
        here = {key: value for _, key, value in file_values(connection)}
    found = find_changes(contents(source), here)
    return [key for key, _, _ in (*found.puts, *found.deletes)]


def revision(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT revision FROM replica").fetchone()
    return int(row[0]) if row else 0


@contextmanager
def asking(server: Served) -> Iterator[Counter[str]]:
    """Ask all the time for a machine that does not change, and count what comes."""
    seen = Counter[str]()

    def ask_once() -> None:
        try:
            reply = ask(server, "a.vm.web.internal")
            seen[outcome(reply) if addresses(reply) == [address(1)] else "wrong"] += 1
        except TimeoutError:
            seen["lost"] += 1

    with meanwhile(ask_once, 0.005):
        yield seen


# ── following ─────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_host_waits_for_the_first_bucket_then_answers_from_it(
    nats: NatsServer, bucket: Source, tmp_path: Path
) -> None:
    empty = nats_servers.source(nats, "not-there-yet")
    with following(tmp_path / "catalog.db", empty) as server:
        assert outcome(ask(server, NAME)) == "SERVFAIL 14"
        create(empty)
        put(empty, network(), machine("a", 1))
        until(lambda: "no floor key" in readyz(server), SOON)
        assert outcome(ask(server, NAME)) == "SERVFAIL 14", "half a bucket is no catalog"
        publish(empty, dict([network(), machine("a", 1)]))
        until(lambda: shows(server, 1), SOON)
        assert readyz(server) == "ready\n"


def test_a_put_and_a_delete_show_in_another_hosts_answer(bucket: Source, tmp_path: Path) -> None:
    with following(tmp_path / "catalog.db", bucket) as server:
        until(lambda: shows(server, 1), SOON)
        put(bucket, machine("b", 2))
        until(lambda: shows(server, 1, 2), SOON)
        put(bucket, (machine("b", 2)[0], None))
        until(lambda: shows(server, 1), SOON)
        assert differences(tmp_path / "catalog.db", bucket) == []


def test_a_follower_that_is_killed_makes_up_for_2000_changes_exactly(
    bucket: Source, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.db"
    publish(
        bucket, dict([network(), *(machine(f"m{n}", n + 1, app=f"app-{n}") for n in range(500))])
    )
    with following(path, bucket) as server:
        until(lambda: revision(path) > 500, SOON)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    changes = [
        machine(f"m{n % 500}", n % 500 + 1, app=f"app-{n % 500}", updated_at=n) for n in range(1900)
    ]
    put(bucket, *changes, *((machine(f"m{n}")[0], None) for n in range(100)))
    with following(path, bucket) as server:
        last = nats_servers.using(bucket, lambda b: b.facts()).last
        until(lambda: revision(path) == last, SOON)
        assert "full resync" not in server.stderr()
    assert differences(path, bucket) == []


def test_a_follower_below_the_floor_takes_all_and_one_above_it_does_not(
    bucket: Source, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.db"
    put(bucket, machine("b", 2))
    with following(path, bucket) as server:
        until(lambda: shows(server, 1, 2), SOON)
    put(bucket, (machine("b", 2)[0], None))
    said = publish_command(tmp_path / "mirror.db", bucket, "--compact")
    assert said["forgotten"] == 1
    assert machine("b", 2)[0] not in contents(bucket)
    for full in (True, False):
        with following(path, bucket) as server:
            until(lambda: shows(server, 1) and readyz(server) == "ready\n", SOON)
            assert ("may be purged" in server.stderr()) == full


def test_records_and_zones_are_published_and_their_changes_and_deletes_follow(
    bucket: Source, tmp_path: Path
) -> None:
    """`publish` of a file that people edit: every host answers what it has, and no longer what it
    had."""
    path, following_file = tmp_path / "catalog.db", tmp_path / "follower.db"
    create_catalog(path, demo_rows())

    def published(*commands_run: tuple[str, ...]) -> None:
        for words in commands_run:
            said = commands.run(*words, "--catalog", path, "--offline")
            assert said.code == 0, said.err
        said = commands.run("publish", "--to", bucket, "--catalog", path, "--json")
        assert said.code == 0, said.err

    def answer(server: Served, name: str, rtype: str = "A") -> tuple[str, list[str]]:
        reply = ask(server, query(name, rtype))
        found = [rr.to_text() for rrset in reply.answer for rr in rrset]
        return outcome(reply).split()[0], sorted(found)

    def becomes(server: Served, name: str, wanted: tuple[str, list[str]], rtype: str = "A") -> None:
        until(lambda: answer(server, name, rtype) == wanted, SOON, f"{name} is not {wanted}")

    published(
        ("zone", "add", "acme/corp.example"),
        ("record", "add", "acme/db.corp.example", "A", "192.0.2.1"),
        ("record", "add", "acme/long.corp.example", "TXT", "k" * 300),
        ("record", "add", "acme/db.internal", "TXT", "hidden"),
        ("record", "add", "acme/pg.internal", "CNAME", "db.corp.example"),
    )
    with following(following_file, bucket) as server:
        becomes(server, "db.corp.example", ("NOERROR", ["192.0.2.1"]))
        becomes(server, "pg.internal", ("NOERROR", ["192.0.2.1", "db.corp.example."]))
        assert answer(server, "long.corp.example", "TXT") == (
            "NOERROR",
            [f'"{"k" * 255}" "{"k" * 45}"'],
        )
        assert answer(server, "nosuch.corp.example") == ("NXDOMAIN", [])
        published(  # one value is replaced, one is deleted
            ("record", "rm", "acme/db.corp.example", "A", "192.0.2.1"),
            ("record", "add", "acme/db.corp.example", "A", "192.0.2.2"),
            ("record", "rm", "acme/long.corp.example", "TXT"),
        )
        becomes(server, "db.corp.example", ("NOERROR", ["192.0.2.2"]))
        becomes(server, "pg.internal", ("NOERROR", ["192.0.2.2", "db.corp.example."]))
        becomes(server, "long.corp.example", ("NXDOMAIN", []), "TXT")
        published(
            ("record", "rm", "acme/pg.internal"),
            ("record", "rm", "acme/db.corp.example"),
            ("zone", "rm", "acme/corp.example"),
        )
        becomes(server, "pg.internal", ("NXDOMAIN", []))
        # No zone any more: the name is the outside's, and this server has no upstream.
        becomes(server, "db.corp.example", ("REFUSED", []))
        assert readyz(server) == "ready\n"
        assert "full resync" not in server.stderr().partition("full resync done")[2]
    assert differences(following_file, bucket) == []


def publish_command(path: Path, bucket: Source, *flags: str) -> Any:
    """Publish a file that has what the bucket has."""
    with following(path, bucket):
        until(lambda: path.exists() and not differences(path, bucket), SOON)
    said = commands.run("publish", "--to", bucket, "--catalog", path, "--json", *flags)
    assert said.code == 0, said.err
    return said.json


def test_a_stream_made_anew_empties_nobody_until_it_is_whole(
    bucket: Source, tmp_path: Path
) -> None:
    with following(tmp_path / "catalog.db", bucket) as server:
        until(lambda: shows(server, 1), SOON)
        with asking(server) as seen:
            asked(bucket, f"STREAM.DELETE.KV_{bucket.bucket}")
            create(bucket)
            until(lambda: "no floor key" in readyz(server), SOON)
            publish(bucket, dict([network(), machine("a", 1), machine("c", 3)]))
            until(lambda: shows(server, 1, 3), SOON)
        assert seen.keys() == {"NOERROR"}


def test_bad_values_are_kept_out_counted_and_listed_and_the_rest_goes_on(
    bucket: Source, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.db"
    with following(path, bucket) as server:
        until(lambda: shows(server, 1), SOON)
        put(
            bucket,
            ("nonsense", b"x"),
            (machine("a")[0], b'{"version": 9}'),
            machine("b", 2, address="::1"),
            machine("c", 3),
        )
        until(lambda: shows(server, 1, 3), SOON)
    said = commands.run("doctor", "--catalog", path, "--listen", "[::1]:0", "--json")
    listed = [s for s in said.json if s["what"].startswith("rejected")]
    assert len(listed) == 3
    assert any("version 9 is unknown" in s["why"] for s in listed)


def test_every_host_says_how_it_is_and_one_command_shows_them(
    bucket: Source, tmp_path: Path
) -> None:
    with (
        following(tmp_path / "a.db", bucket, "--host-name", "iad-1", "--admin", "none"),
        following(tmp_path / "b.db", bucket, "--host-name", "ams-1", "--admin", "none"),
    ):

        def told() -> list[dict[str, Any]]:
            said = commands.run("fleet", "status", "--source", bucket, "--json")
            hosts: list[dict[str, Any]] = said.json["hosts"]
            return hosts if all(host["ok"] and not host["behind"] for host in hosts) else []

        until(lambda: [host["host"] for host in told()] == ["ams-1", "iad-1"], SOON)
        said = commands.run("fleet", "status", "--source", bucket)
        assert said.code == 0
        assert "2 hosts" in said.out
        assert said.out.count("up to date") == 2


def test_what_writes_a_replica_is_told_to_publish_and_that_works(
    bucket: Source, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.db"
    with following(path, bucket) as server:
        until(lambda: shows(server, 1), SOON)
        for flags in ((), ("--offline",)):
            said = commands.run("machine", "stop", "a", "--catalog", path, *flags)
            assert said.code == 2
            assert f"follows {bucket}" in said.err
            assert f"apply FILE --to {bucket}" in said.err
        document = tmp_path / "new.toml"
        document.write_text(
            commands.run("export", "--catalog", path).out.replace("7d:1:1:2", "7d:1:5:2")
        )
        dry = commands.run("apply", document, "--to", bucket, "--dry-run", "--json")
        assert [answer["after"] for answer in dry.json["answers"] if answer["name"] == NAME] == [
            address(5)
        ]
        assert shows(server, 1)
        assert commands.run("apply", document, "--to", bucket).code == 0
        until(lambda: shows(server, 5), SOON)


def test_a_document_that_collides_is_refused_before_anything_is_published(
    bucket: Source, tmp_path: Path
) -> None:
    document = {"networks": {"acme": {"id": 24, "apps": {"web": {"machines": [
        {"id": ident, "address": address(1), "region": "iad", "state": "started"} for ident in "xy"
    ]}}}}}  # fmt: skip
    (tmp_path / "new.json").write_text(json.dumps(document))
    before = contents(bucket)
    said = commands.run("apply", tmp_path / "new.json", "--to", bucket)
    assert said.code == 1
    assert contents(bucket) == before


def test_who_has_read_an_older_bucket_does_not_overwrite_a_newer_one(bucket: Source) -> None:
    before = contents(bucket)
    put(bucket, machine("a", state="stopped"))
    now = contents(bucket)
    wanted = dict([network(), machine("a", 7), machine("z", 9)])

    async def late(found: NatsBucket) -> None:
        with pytest.raises(Conflict):
            await found.write(find_changes(before, wanted).puts)

    nats_servers.using(bucket, late)
    key = machine("a")[0]
    assert contents(bucket)[key] == now[key]


def test_a_file_without_a_network_does_not_empty_a_bucket(bucket: Source, tmp_path: Path) -> None:
    create_catalog(tmp_path / "empty.db", {})
    before = contents(bucket)
    said = commands.run("publish", "--to", bucket, "--catalog", tmp_path / "empty.db")
    assert said.code == 1
    assert "no network" in said.err
    assert contents(bucket) == before


def test_rows_that_could_not_be_served_are_not_published(bucket: Source, tmp_path: Path) -> None:
    create_catalog(tmp_path / "catalog.db", demo_rows())
    change(
        tmp_path / "catalog.db", "UPDATE machines SET address = '::1' WHERE id = '3d8d9930b03989'"
    )
    before = contents(bucket)
    said = commands.run("publish", "--to", bucket, "--catalog", tmp_path / "catalog.db")
    assert said.code == 1
    assert "the address ::1 is not one of fdaa:0:18::/48" in said.err
    assert contents(bucket) == before


# ── what becomes of the engine ────────────────────────────────────────────────────────────────────


def consumers(source: Source) -> int:
    found: int = asked(source, f"STREAM.INFO.KV_{source.bucket}")["state"]["consumer_count"]
    return found


def reads_go_on_while_the_server_restarts_and_freezes(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as nats:
        bucket = filled(nats, "catalog")
        with following(tmp_path / "catalog.db", bucket) as server:
            until(lambda: shows(server, 1), SOON)
            with asking(server) as seen:
                nats.stop()
                until(lambda: readyz(server).startswith("ready, degraded"), SOON)
                nats.start()
                put(bucket, machine("b", 2))
                until(lambda: shows(server, 1, 2), SOON)
                nats.send(signal.SIGSTOP)
                until(
                    lambda: "degraded" in readyz(server), SOON
                )  # three seconds; `make soak` has eight
                nats.send(signal.SIGCONT)
                put(bucket, machine("c", 3))
                until(lambda: shows(server, 1, 2, 3), SOON)
            assert seen.keys() == {"NOERROR"}
            assert consumers(bucket) == 1


def a_storm_of_reconnects_leaves_one_consumer(tmp_path: Path) -> None:
    with (
        nats_server(tmp_path / "nats") as nats,
        following(tmp_path / "catalog.db", filled(nats, "catalog")) as server,
    ):
        bucket = nats_servers.source(nats)
        until(lambda: shows(server, 1), SOON)
        for number in range(2, 12):
            for name in [
                c["name"] for c in asked(bucket, f"CONSUMER.LIST.KV_{bucket.bucket}")["consumers"]
            ]:
                # Whoever deletes the consumer makes the follower notice the silence, or its
                # successor come.
                asked(bucket, f"CONSUMER.DELETE.KV_{bucket.bucket}.{name}")
            put(bucket, machine(f"n{number}", number, app="other"))
            if number == 2:
                until(lambda: shows(server, 2, name="other.internal"), SOON)
        until(lambda: shows(server, *range(2, 12), name="other.internal"), SOON)
        assert consumers(bucket) == 1


def test_connections_that_are_lost_leave_one_consumer_behind_all_together(bucket: Source) -> None:
    async def reconnect() -> None:
        async with connected(bucket, "of-one-host") as found, found.follow(None) as deliveries:
            assert await deliveries.next(5)
            found.lost.set()  # so that no good-bye is sent

    for _ in range(30):
        asyncio.run(reconnect())
    assert consumers(bucket) == 1


def the_leader_of_three_is_killed_and_nobody_notices(tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats") as servers:
        bucket = nats_servers.source(servers)
        create(bucket, replicas=3)
        publish(bucket, dict([network(), machine("a", 1)]))
        with following(tmp_path / "catalog.db", bucket) as server:
            until(lambda: shows(server, 1), SOON)
            with asking(server) as seen:
                leader = asked(bucket, f"STREAM.INFO.KV_{bucket.bucket}")["cluster"]["leader"]
                (killed,) = [s for s in servers if s.name == leader]
                killed.stop(signal.SIGKILL)
                left = nats_servers.source([s for s in servers if s is not killed])
                until(lambda: _put(left, machine("b", 2)), SOON)
                until(lambda: shows(server, 1, 2), 2 * SOON)
            assert seen.keys() == {"NOERROR"}
        assert differences(tmp_path / "catalog.db", left) == []


def _put(where: Source, value: tuple[str, bytes]) -> bool:
    """Whether the cluster, which elects a leader, took it."""
    try:
        put(where, value)
    except Unavailable:
        return False
    return True


# ── who may ───────────────────────────────────────────────────────────────────────────────────────


def follows_it(source: str, path: Path) -> None:
    """Make a bucket, and follow it until its machine answers."""
    create(Source.parse(source))
    publish(Source.parse(source), dict([network(), machine("a", 1)]))
    with following(path, source) as server:
        until(lambda: shows(server, 1), SOON)
        until(lambda: readyz(server) == "ready\n", SOON)


def refusal(source: str) -> str:
    said = commands.run("fleet", "status", "--source", source)
    assert said.code == 3, said.err
    assert "Traceback" not in said.err
    return said.err


@requires_tool("openssl")
def test_a_bucket_is_followed_over_tls_and_only_of_a_server_that_is_vouched_for(
    tmp_path: Path,
) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair, client = ours.sign("IP:127.0.0.1"), ours.sign("DNS:host")
    tls = (
        f'tls {{ cert_file: "{pair.certificate}", key_file: "{pair.key}", '
        f'ca_file: "{ours.pem}", verify: true }}\n'
    )
    with nats_server(tmp_path / "nats", more=tls) as nats:
        start = f"tls://127.0.0.1:{nats.port}/catalog"
        own = f"cert={client.certificate}&key={client.key}"
        follows_it(f"{start}?ca={ours.pem}&{own}", tmp_path / "catalog.db")
        assert "certificate" in refusal(f"{start}?ca={other.pem}&{own}").lower()
        assert "client certificate and the address names none" in refusal(f"{start}?ca={ours.pem}")


def test_nothing_is_said_to_a_server_that_leaves_tls_out() -> None:
    """As one between us and the server would: the password must not reach it."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.settimeout(10)
                connection.sendall(
                    b'INFO {"server_id":"x","version":"2.9.10",'
                    b'"max_payload":65536,"headers":true}\r\n'
                )
                while octets := connection.recv(4096):
                    heard.extend(octets)
                    connection.sendall(b"PONG\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        said = refusal(f"tls://u:hunter2@127.0.0.1:{listener.getsockname()[1]}/catalog")
        thread.join(20)
    assert "does not offer TLS" in said
    assert heard == b""


def test_an_nkey_without_the_package_for_it_is_told_in_words(
    nats: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "seed").write_text(f"SU{'A' * 56}\n")
    assert "pip install nkeys" in refusal(
        f"nats://127.0.0.1:{nats.port}/catalog?nkey={tmp_path / 'seed'}"
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("creds", ""),
        ("creds", "-----BEGIN USER NKEY SEED-----\nhunter2\n"),
        ("nkey", "hunter2"),
        ("creds", None),
        (
            "creds",
            "-----BEGIN NATS USER JWT-----\nx\n---\n-----BEGIN USER NKEY SEED-----\nhunter2\n---\n",
        ),
        ("token_file", None),
        ("ca", "hunter2"),
    ],
)
def test_a_file_without_what_it_should_have_is_named_and_not_shown(
    nats: NatsServer, tmp_path: Path, option: str, text: str | None
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    said = refusal(f"nats://127.0.0.1:{nats.port}/catalog?{option}={path}")
    assert "hunter2" not in said
    assert str(path) in said or option == "ca"


def a_host_answers_from_its_file_at_once_whatever_keeps_it_from_the_bucket(tmp_path: Path) -> None:
    """No server, no extra, no right to: each is said, and mended while it runs."""
    path = tmp_path / "catalog.db"
    with nats_server(
        tmp_path / "nats", more='authorization { user: u, password: "right-one" }\n'
    ) as nats:
        right = f"nats://u:right-one@127.0.0.1:{nats.port}/catalog"
        follows_it(right, path)
        wrong = f"nats://u:hunter2@127.0.0.1:{nats.port}/catalog"
        with following(path, wrong) as server:
            assert shows(server, 1)
            until(lambda: "Authorization Violation" in readyz(server), SOON)
            assert "hunter2" not in readyz(server) + server.stderr()
            put(Source.parse(right), machine("b", 2))
            nats.stop()
            nats.config.write_text(nats.config.read_text().replace("right-one", "hunter2"))
            until(
                lambda: "refused" in readyz(server).lower() or "connect" in readyz(server).lower(),
                2 * SOON,
            )
            nats.start()
            until(lambda: shows(server, 1, 2), 2 * SOON)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "nats.py").write_text("raise ImportError('no nats here')\n")
    with following(path, wrong, environment={"PYTHONPATH": str(tmp_path / "blocked")}) as server:
        assert shows(server, 1, 2)
        until(lambda: "pip install '.[nats]'" in readyz(server), SOON)


# ── all of these at once: each waits for seconds, on servers of its own ───────────────────────────

STORIES: dict[str, Callable[[Path], None]] = {
    story.__name__: story
    for story in (
        reads_go_on_while_the_server_restarts_and_freezes,
        a_storm_of_reconnects_leaves_one_consumer,
        the_leader_of_three_is_killed_and_nobody_notices,
        a_host_answers_from_its_file_at_once_whatever_keeps_it_from_the_bucket,
    )
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseException | None]:
    """How each story ended."""
    folders = {name: tmp_path_factory.mktemp("story") for name in STORIES}
    with ThreadPoolExecutor(len(STORIES)) as pool:
        running = {name: pool.submit(story, folders[name]) for name, story in STORIES.items()}
        return {name: future.exception() for name, future in running.items()}


@pytest.mark.parametrize("name", STORIES)
def test_a_long_story(name: str, told: dict[str, BaseException | None]) -> None:
    if (error := told[name]) is not None:
        raise error


# ── what others write ─────────────────────────────────────────────────────────────────────────────


def test_messages_that_the_client_library_cannot_read_stop_nobody(
    bucket: Source, tmp_path: Path
) -> None:
    start = f"$KV.{bucket.bucket}."
    with following(tmp_path / "catalog.db", bucket) as server:
        until(lambda: shows(server, 1), SOON)
        for subject, headers in (
            (f"{start}machines.".encode() + b"\xff\xfe", b""),
            (f"{start}status".encode(), b"NATS/1.0\r\nStatus: 100\r\n\r\n"),
            (f"{start}inline".encode(), b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
            (f"{start}octets".encode(), b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
            (f"{start}nonsense".encode(), b"NATS/1.0\r\n\xff\r\n\r\n"),
            (f"{start}none".encode(), b"NATS/1.0\r\n\r\n"),
            (f"{start}{machine('deep')[0]}".encode(), b""),
        ):
            _publish(bucket, subject, headers, b"[" * 100_000)
        put(bucket, machine("b", 2))
        until(lambda: shows(server, 1, 2), SOON)
        until(lambda: readyz(server) == "ready\n", SOON)
    with following(tmp_path / "another.db", bucket) as server:
        until(lambda: shows(server, 1, 2), SOON)


def _publish(bucket: Source, subject: bytes, headers: bytes, value: bytes) -> None:
    """Speak to the server as a client that checks nothing."""
    host, _, port = bucket.servers[0].partition(":")
    with socket.create_connection((host, int(port)), 10) as sock, sock.makefile("rb") as lines:
        lines.readline()
        verb = (
            b"HPUB %s %d %d" % (subject, len(headers), len(headers) + len(value))
            if headers
            else None
        )
        line = verb or b"PUB %s %d" % (subject, len(value))
        sock.sendall(
            b'CONNECT {"verbose":false,"headers":true}\r\n'
            + line
            + b"\r\n"
            + headers
            + value
            + b"\r\nPING\r\n"
        )
        assert lines.readline() == b"PONG\r\n"


def test_a_wrong_password_is_no_secret_spilled(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as nats:
        nats.stop()
        nats.config.write_text(
            nats.config.read_text() + 'authorization { user: u, password: "right-one" }\n'
        )
        nats.start()
        wrong = f"nats://u:hunter2@{nats.address}:{nats.port}/catalog"
        said = commands.run("fleet", "status", "--source", wrong)
        assert said.code == 3
        assert "authorization" in said.err.lower()
        assert "hunter2" not in said.err + said.out
        right = Source.parse(wrong.replace("hunter2", "right-one"))
        create(right)
        assert (
            commands.run("fleet", "status", "--source", wrong.replace("hunter2", "right-one")).code
            == 0
        )


# ── three hosts ───────────────────────────────────────────────────────────────────────────────────


@requires_root()
@requires_tool("ip")
def test_three_servers_in_three_namespaces_give_byte_equal_lists(tmp_path: Path) -> None:
    """Each host has fdaa::3 to itself, and a link to the one that keeps the bucket."""
    hub = Host("nats")
    hosts = [Host(f"h{n}") for n in range(3)]
    clients = [Host(f"c{n}") for n in range(3)]
    servers: list[Served] = []
    process = None
    try:
        for n, (host, client) in enumerate(zip(hosts, clients, strict=True)):
            host.ip(f"link add uplink type veth peer name h{n} netns {hub.name}")
            for end, name, last in ((host, "uplink", 2), (hub, f"h{n}", 1)):
                end.ip(f"addr add 192.0.2.{n * 4 + last}/30 dev {name}")
                end.ip(f"link set {name} up")
            host.ip("-6 route add local fdaa::3/128 dev lo")
            join(host, client, "client", ("fdaa:0:18",), (address(1),))
        nats = NatsServer(tmp_path / "nats", "single", 4222, "0.0.0.0")
        process = subprocess.Popen(
            hub.within(nats_servers.PROGRAM, "-c", str(nats.config)), stderr=subprocess.DEVNULL
        )
        values = dict(
            [network(), *(machine(f"m{n}", n + 1, app=f"app-{n % 7}") for n in range(300))]
        )
        where = Source.parse("nats://127.0.0.1:4222/catalog")
        until(lambda: hub.inside(lambda: _listening(4222)), SOON)
        hub.inside(lambda: create(where))
        hub.inside(lambda: publish(where, values))
        for n, host in enumerate(hosts):
            source = f"nats://192.0.2.{n * 4 + 1}:4222/catalog"
            words = (
                "--catalog",
                str(tmp_path / f"{n}.db"),
                "--listen",
                "[::]:53",
                "--upstream",
                "none",
                "--admin",
                "none",
            )
            servers.append(Served(*words, "--source", source, host=host))
        last = hub.inside(lambda: nats_servers.using(where, lambda b: b.facts())).last
        until(
            lambda: all(
                (tmp_path / f"{n}.db").exists() and revision(tmp_path / f"{n}.db") == last
                for n in range(3)
            ),
            SOON,
        )
        until(
            lambda: all(len(_lists(client)["_instances.internal"]) > 5_000 for client in clients),
            SOON,
        )
        lists = [_lists(client) for client in clients]
        assert lists[0] == lists[1] == lists[2]
    finally:
        for server in servers:
            server.kill()
        if process is not None:
            process.kill()
            process.wait(10)
        for host in (*clients, *hosts, hub):
            host.close()


def _listening(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _lists(client: Host) -> dict[str, bytes]:
    """The octets of every list, by TCP, as this client is told."""
    import socket

    import dns.query

    found = {}
    for name in (
        "_instances.internal",
        "_apps.internal",
        "vms.app-3.internal",
        "regions.app-3.internal",
        "_peer.internal",
    ):
        message = query(name, "TXT", id=1)
        with client.socket(socket.SOCK_STREAM, address(1)) as sock:
            sock.connect(("fdaa::3", 53))
            dns.query.send_tcp(sock, message)
            reply, _ = dns.query.receive_tcp(sock)
        found[name] = reply.answer[0][0].to_digestable() if reply.answer else b""
    return found


def test_nats_is_not_needed_where_it_is_not_used(tmp_path: Path) -> None:
    """Without the extra: everything else works, and who asks for it is told what to install."""
    blocked = tmp_path / "nats.py"
    blocked.write_text("raise ImportError('no nats here')\n")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    program = [sys.executable, "-m", "internal_dns"]
    for words, code, said in (
        (("version",), 0, ""),
        (
            ("fleet", "status", "--source", "nats://127.0.0.1:1/x"),
            3,
            "pip install '.[nats]'",
        ),
    ):
        done = subprocess.run(
            [*program, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == code, done.stderr
        assert said in done.stderr
