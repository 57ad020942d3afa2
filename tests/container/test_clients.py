"""Clients of two tenants, on hosts whose resolv.conf names only the server in the container."""

from __future__ import annotations

import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.container.compose import address
from tests.container.conftest import ACME_DB, ACME_WEB, EXTERNAL, Site, make_catalog
from tests.live.hosts import Host, until
from tests.tools import requires_root, requires_tool

pytestmark = [
    pytest.mark.container,
    requires_root(),
    requires_tool("podman", "runc", "ip", "dig", "curl", "psql"),
]


def dig(host: Host, name: str, rdtype: str = "AAAA", *words: str, at: str = "fdaa::3") -> list[str]:
    """The answer section that a client gets, sorted, without owner names and TTLs."""
    return sorted(
        host.run(
            "dig", f"@{at}", "+short", "+time=3", "+tries=1", *words, name, rdtype
        ).splitlines()
    )


def status(host: Host, name: str) -> str:
    said = host.run("dig", "@fdaa::3", "+time=3", "+tries=1", name, "AAAA")
    return said.partition("status: ")[2].partition(",")[0]


# ── whose names ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_each_tenant_sees_its_own_machines_and_no_others(site: Site, transport: str) -> None:
    for host, network in ((site.acme, "fdaa:0:18:"), (site.globex, "fdaa:0:19:")):
        found = dig(host, "web.internal", "AAAA", transport)
        assert len(found) == (5 if host is site.acme else 2)
        assert all(text.startswith(network) for text in found), found


def test_an_app_of_the_other_tenant_does_not_exist(site: Site) -> None:
    assert (status(site.acme, "db.internal"), status(site.globex, "db.internal")) == (
        "NOERROR",
        "NXDOMAIN",
    )
    assert (status(site.acme, "resolver.internal"), status(site.globex, "resolver.internal")) == (
        "NXDOMAIN",
        "NOERROR",
    )


def test_the_networks_own_address_answers_its_network_from_that_address(site: Site) -> None:
    """dig takes no reply from another address than it asked."""
    assert dig(site.acme, "web.internal", at="fdaa:0:18::3") == dig(site.acme, "web.internal")
    assert dig(site.globex, "web.internal", at="fdaa:0:18::3") == []


def test_the_server_knows_the_machine_that_asks(site: Site) -> None:
    for host, name in ((site.acme, "acme"), (site.globex, "globex")):
        (said,) = dig(host, "_whoami.internal", "TXT")
        assert f"network={name}," in said
        assert f"address={address(site.file, name)}," in said
        assert ",server=iad," in said


# ── real clients ──────────────────────────────────────────────────────────────────────────────────


def test_the_c_library_resolves_through_it(site: Site) -> None:
    said = site.acme.run("getent", "ahostsv6", "db.internal")
    assert {line.split()[0] for line in said.splitlines()} == set(dig(site.acme, "db.internal"))
    assert site.globex.run("getent", "ahostsv6", "db.internal", fails=True) == ""


def test_curl_fetches_from_a_machine_by_name(site: Site) -> None:
    page = b"this is a machine of web"
    reply = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    with listening(site.acme, ACME_WEB, 8080, lambda read: reply) as heard:
        said = site.acme.run(
            "curl", "--silent", "--max-time", "10", "http://5683d474b40d8e.vm.web.internal:8080/"
        )
        assert said == page.decode()
        assert b"Host: 5683d474b40d8e.vm.web.internal:8080" in heard[0]
        # The plain name has five addresses, of which this host has two: curl tries one after the
        # other.
        both = site.acme.run(
            "curl",
            "--silent",
            "--max-time",
            "20",
            "--connect-timeout",
            "2",
            "http://web.internal:8080/",
        )
        assert both == page.decode()


def test_psql_reaches_the_leader_by_name(site: Site) -> None:
    """The listener refuses in the protocol's words, and psql prints them: name, address and
    connection were right."""
    fields = b"SFATAL\0VFATAL\0C28000\0Mthis is the leader of db\0\0"
    refusal = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    where = (
        "host=leader.role.kv._metadata.db.internal user=app dbname=orders "
        "sslmode=disable gssencmode=disable"
    )
    with listening(site.acme, ACME_DB, 5432, lambda read: refusal) as heard:
        said = site.acme.run(
            "psql", "--no-password", f"{where} connect_timeout=10", "-c", "SELECT 1", fails=True
        )
    assert "this is the leader of db" in said
    assert ACME_DB in said
    assert b"database\0orders\0" in heard[0]


@contextmanager
def listening(
    host: Host, at: str, port: int, answer: Callable[[bytes], bytes]
) -> Iterator[list[bytes]]:
    """Answer whatever connects to *at*; yield what was read, in order."""
    heard: list[bytes] = []
    ended = threading.Event()
    with listener_of(host, at, port) as listener:

        def serve() -> None:
            with selectors.DefaultSelector() as waiting:
                waiting.register(listener, selectors.EVENT_READ)
                while not ended.is_set():
                    if waiting.select(0.05):
                        connection, _ = listener.accept()
                        with connection:
                            connection.settimeout(5)
                            heard.append(connection.recv(4_096))
                            connection.sendall(answer(heard[-1]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield heard
        finally:
            ended.set()
            thread.join(10)


def listener_of(host: Host, at: str, port: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((at, port))
        made.listen()
        return made

    return host.inside(make)


# ── everything else ───────────────────────────────────────────────────────────────────────────────


def test_external_names_are_forwarded_and_ours_never(site: Site) -> None:
    before = len(site.upstream.asked)
    assert dig(site.acme, "www.example.com") == [EXTERNAL]
    said = site.globex.run("getent", "ahostsv6", "other.example.com")
    assert said.split()[0] == EXTERNAL
    dig(site.acme, "no-such-app.internal")
    asked = {asked.name for asked in site.upstream.asked[before:]}
    assert {"www.example.com.", "other.example.com."} <= asked
    assert not [name for name in asked if name.endswith(("internal.", "flycast."))]


def test_a_flood_of_clients_at_once_is_answered(site: Site) -> None:
    """Two hundred sockets of one tenant, and as many of the other, each with one question."""
    script = (
        "import dns.message, socket\n"
        "message = dns.message.make_query('web.internal', 'AAAA')\n"
        "socks = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(200)]\n"
        "for sock in socks:\n"
        "    sock.settimeout(5); sock.connect(('fdaa::3', 53)); sock.send(message.to_wire())\n"
        "replies = [dns.message.from_wire(sock.recv(4096)) for sock in socks]\n"
        "print({len(reply.answer[0]) for reply in replies})\n"
    )
    assert site.acme.run(sys.executable, "-c", script) == "{5}\n"
    assert site.globex.run(sys.executable, "-c", script) == "{2}\n"


# ── the life of a container ───────────────────────────────────────────────────────────────────────


def test_a_machine_that_stops_leaves_the_answer_and_a_restart_keeps_the_catalog(site: Site) -> None:
    try:
        assert "visible" in site.internal_dns("machine", "stop", "148e306c77e789", "--wait")
        left = dig(site.acme, "db.internal")
        assert (len(left), ACME_DB in left) == (2, False)
        stop_cleanly(site)
        make_catalog(site.podman, site.file)
        site.podman.run("start", site.name)
        until(lambda: site.logs().count("ready ") == 2, 20, "the server did not get ready again")
        assert dig(site.acme, "db.internal") == left
    finally:
        site.internal_dns("machine", "start", "148e306c77e789", "--wait")
    assert ACME_DB in dig(site.acme, "db.internal")


def stop_cleanly(site: Site) -> None:
    """SIGTERM, and never SIGKILL: podman's exit status of a killed one is 137."""
    site.podman.run("stop", "--time=20", site.name, timeout=60)
    state = site.podman.inspect(site.name)["State"]
    assert (state["ExitCode"], state["OOMKilled"], state["Status"]) == (0, False, "exited"), state
