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
from contextlib import suppress
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import Host, change, command, join, serving
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
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    catalog = catalog_file(
        tmp_path_factory.mktemp("aliases") / "catalog.db", "acme.sql", "records.sql"
    )
    change(catalog, "INSERT INTO records VALUES (24, 'dbs.internal', 'CNAME', 'db.internal', 5)")
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
    program = "import socket,sys; print(*{a[4][0] for a in socket.getaddrinfo(sys.argv[1], 1, socket.AF_INET6)})"
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
