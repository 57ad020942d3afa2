"""Real clients through aliases of a network's own: to the inside, to the outside, and in a private
zone."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import Host, change, command, join, serving, until
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip")]

MACHINE = "fdaa:0:18:a7b:7d:f066:b83b:2"
DB = ["fdaa:0:18:a7b:7d:2:1:2", "fdaa:0:18:a7b:81:2:2:2", "fdaa:0:18:a7b:91:2:3:2"]
OUTSIDE = ["2001:db8::1", "2001:db8::2"]
# What each name of catalogs/records.sql leads to.
NAMES = {
    "db.corp.example": DB,
    "out.internal": OUTSIDE,
    "dbs.internal": DB,
    "primary.internal": DB[:1],
}


class Provider:
    """The outside, on port 5300 of a host's loopback: one alias, then two addresses."""

    def __init__(self, host: Host) -> None:
        def bound() -> socket.socket:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.bind(("::1", 5_300))
            return sock

        self.sock = host.inside(bound)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                octets, peer = self.sock.recvfrom(4_096)
                query = dns.message.from_wire(octets)
                reply = dns.message.make_response(query, recursion_available=True)
                name = query.question[0].name
                if name.to_text().lower() == "db.provider.example.":
                    reply.answer.append(
                        dns.rrset.from_text(name, 60, "IN", "CNAME", "n.provider.example.")
                    )
                    if query.question[0].rdtype == 28:
                        reply.answer.append(
                            dns.rrset.from_text("n.provider.example.", 60, "IN", "AAAA", *OUTSIDE)
                        )
                self.sock.sendto(reply.to_wire(), peer)

    def close(self) -> None:
        self.sock.close()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = catalog_file(
        tmp_path_factory.mktemp("aliases") / "catalog.db", "acme.sql", "records.sql"
    )
    change(path, "INSERT INTO records VALUES (24, 'dbs.internal', 'CNAME', 'db.internal', 5)")
    return path


@pytest.fixture(scope="module")
def acme(catalog: Path) -> Iterator[Host]:
    server, acme = Host("server"), Host("acme")
    try:
        server.ip("-6 route add local fdaa::3/128 dev lo")
        join(server, acme, "acme", ("fdaa:0:18",), (MACHINE,))
        acme.nameserver("fdaa::3")
        provider = Provider(server)
        with serving(catalog, "--region", "iad", host=server, upstream="udp://[::1]:5300"):
            yield acme
        provider.close()
    finally:
        acme.close()
        server.close()


def by_getent(host: Host, name: str) -> list[str]:
    return re.findall(r"(?m)^(\S+)\s+STREAM", host.run("getent", "ahostsv6", name))


def by_python(host: Host, name: str) -> list[str]:
    program = (
        "import socket,sys; "
        "print(*{a[4][0] for a in socket.getaddrinfo(sys.argv[1], 1, socket.AF_INET6)})"
    )
    return host.run(sys.executable, "-c", program, name).split()


def by_dig(host: Host, name: str) -> list[str]:
    said = host.run("dig", name, "AAAA")
    assert "status: NOERROR" in said
    assert "flags: qr aa rd ra" in said
    return re.findall(r"AAAA\s(\S+:\S+)", said)


def by_kdig(host: Host, name: str) -> list[str]:
    return re.findall(r"AAAA\s+(\S+:\S+)", host.run("kdig", name, "AAAA"))


def by_busybox(host: Host, name: str) -> list[str]:
    said = host.run("busybox", "nslookup", "-type=aaaa", name)
    return re.findall(r"(?m)^Address(?: \d+)?:\s+((?:fdaa:0:|2001:)\S+)", said)


def by_node(host: Host, name: str) -> list[str]:
    program = """
const dns = require('dns'), name = process.argv[1];
dns.resolve6(name, (error, found) => {
    if (error) throw error;
    dns.lookup(name, {all: true, family: 6}, (error, all) => {
        if (error) throw error;
        console.log(JSON.stringify([found, all.map(one => one.address)]));
    });
});
"""
    resolved, looked_up = json.loads(host.run("node", "-e", program, name))
    assert sorted(resolved) == sorted(looked_up)
    return [str(address) for address in resolved]


CLIENTS: dict[str, Callable[[Host, str], list[str]]] = {
    "getent": by_getent, "python3": by_python, "dig": by_dig, "kdig": by_kdig,
    "busybox": by_busybox, "node": by_node,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "client", [pytest.param(tool, marks=requires_tool(tool)) for tool in CLIENTS]
)
def test_a_client_follows_an_alias(acme: Host, client: str, name: str) -> None:
    for _ in range(2):  # the first is decided, the second repeated
        assert sorted(CLIENTS[client](acme, name)) == sorted(NAMES[name])


@requires_tool("musl-gcc")
def test_musl_follows_aliases(acme: Host, tmp_path: Path) -> None:
    program = tmp_path / "resolve"
    source = Path(__file__).with_name("resolve.c")
    command("musl-gcc", "-static", "-O1", "-o", str(program), str(source))
    found = {
        words[0]: sorted(words[1:])
        for words in map(str.split, acme.run(str(program), *NAMES).splitlines())
    }
    assert found == {name: sorted(addresses) for name, addresses in NAMES.items()}


@requires_tool("go")
def test_go_follows_aliases(acme: Host, tmp_path: Path) -> None:
    source = tmp_path / "main.go"
    source.write_text(
        'package main\nimport ("fmt"; "net"; "os")\nfunc main() {\n'
        "for _, name := range os.Args[1:] {\nfound, err := net.LookupHost(name)\n"
        "if err != nil { panic(err) }\nfmt.Println(name, found)\n}\n}\n"
    )
    # The first time it compiles Go's library too.
    subprocess.run(
        ["go", "build", "-tags", "netgo", "-o", str(tmp_path / "look"), str(source)],
        check=True, timeout=240,
    )  # fmt: skip
    said = acme.run(str(tmp_path / "look"), *NAMES)
    found = {
        words[0]: sorted(re.sub(r"[\[\]]", "", word) for word in words[1:])
        for words in map(str.split, said.splitlines())
    }
    assert found == {name: sorted(addresses) for name, addresses in NAMES.items()}


@requires_tool("haproxy")
@pytest.mark.parametrize("name", NAMES)
def test_haproxy_resolves_its_servers_through_an_alias(
    acme: Host, tmp_path: Path, name: str
) -> None:
    """One that has no address yet, and a template of five slots: each address takes one."""
    with haproxy(acme, tmp_path, name) as state:
        until(lambda: template(state()) == sorted(NAMES[name]), 20, "the template has them all")
        until(lambda: state()["one"]["only"] in NAMES[name], 20, "the one server has one of them")


@requires_tool("haproxy")
def test_haproxy_follows_an_alias_that_changes(acme: Host, catalog: Path, tmp_path: Path) -> None:
    name = "moving.internal"
    moved = f"UPDATE records SET value = '%s' WHERE name = '{name}'"
    change(catalog, f"INSERT INTO records VALUES (24, '{name}', 'CNAME', 'db.internal', 1)")
    try:
        with haproxy(acme, tmp_path, name) as state:
            until(lambda: template(state()) == sorted(DB), 20, "inside")
            change(catalog, moved % "db.provider.example")
            until(lambda: template(state()) == sorted(OUTSIDE), 20, "outside")
            change(catalog, moved % "db.internal")
            until(lambda: template(state()) == sorted(DB), 20, "inside again")
    finally:
        change(catalog, f"DELETE FROM records WHERE name = '{name}'")


def template(state: dict[str, dict[str, str]]) -> list[str]:
    """The addresses of the servers that the template has filled."""
    return sorted(address for address in state["many"].values() if address != "-")


@contextmanager
def haproxy(
    host: Host, folder: Path, name: str
) -> Iterator[Callable[[], dict[str, dict[str, str]]]]:
    """HAProxy with two backends of *name*; the address of each server by backend and server."""
    path, statistics = folder / "haproxy.cfg", folder / "statistics"
    path.write_text(f"""
global
    stats socket {statistics} mode 600 level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
resolvers ours
    nameserver us [fdaa::3]:53
    accepted_payload_size 1232
    timeout resolve 200ms
    timeout retry 500ms
    hold valid 200ms
    hold obsolete 0s
backend one
    server only {name}:5432 resolvers ours resolve-prefer ipv6 init-addr none
backend many
    server-template slot 5 {name}:5432 resolvers ours resolve-prefer ipv6 init-addr none
""")

    def state() -> dict[str, dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(statistics))
            sock.sendall(b"show servers state\n")
            said = b"".join(iter(partial(sock.recv, 65_536), b"")).decode()
        found: dict[str, dict[str, str]] = {}
        for line in said.splitlines()[2:]:
            if words := line.split():
                found.setdefault(words[1], {})[words[3]] = words[4]
        return found

    with subprocess.Popen(
        host.within("setpriv", "--pdeathsig", "TERM", "haproxy", "-db", "-f", str(path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: statistics.exists() or process.poll() is not None, 20)
            assert process.poll() is None, host.run("haproxy", "-c", "-f", str(path), fails=True)
            yield state
        finally:
            process.kill()
