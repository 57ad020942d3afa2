"""The recipes of docs/operating.md, read from it: other resolvers on a machine of the network, and
dig through them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.conftest import catalog_file
from tests.live.hosts import REPOSITORY, Host, join, serving, until
from tests.tools import requires_root, requires_tool

pytestmark = [pytest.mark.live, requires_root(), requires_tool("ip", "dig")]

MACHINE = "fdaa:0:18:a7b:7d:f066:b83b:2"
# The root's key of 2017: with a trust anchor, unbound must be told which zones cannot have
# signatures.
ROOT_KEY = ". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"


def recipe(file: str) -> str:
    """The block of docs/operating.md that begins with the name of this file."""
    text = (REPOSITORY / "docs" / "operating.md").read_text()
    blocks = re.findall(
        rf"^```text\n# {re.escape(file)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 1, f"{len(blocks)} recipes for {file}"
    return str(blocks[0])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine of acme, with the server at fdaa::3."""
    catalog = catalog_file(tmp_path_factory.mktemp("recipes") / "catalog.db", "acme.sql")
    server, acme = Host("server"), Host("acme")
    try:
        server.ip("-6 route add local fdaa::3/128 dev lo")
        join(server, acme, "acme", ("fdaa:0:18",), (MACHINE,))
        with serving(catalog, host=server):
            yield acme
    finally:
        for host in (acme, server):
            host.close()


@contextmanager
def running(host: Host, *words: str) -> Iterator[None]:
    """A resolver in the foreground, which answers at 127.0.0.1 of *host*."""
    with subprocess.Popen(
        host.within(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            until(
                lambda: (
                    process.poll() is not None
                    or bool(host.run("ss", "-Hlun", "sport = :53").strip())
                ),
                10,
            )
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            finally:
                process.kill()


def asked(host: Host, *words: str) -> str:
    return host.run("dig", "@127.0.0.1", "+tries=2", "+time=4", *words)


def short(host: Host, *words: str) -> list[str]:
    return sorted(asked(host, "+short", *words).split("\n")[:-1])


def answers_as_the_server_does(host: Host) -> None:
    """Addresses, texts, services, reverse names and both kinds of nothing come through."""
    assert len(short(host, "web.internal", "AAAA")) == 5
    assert short(host, "_apps.internal", "TXT") == ['"batch,blog,db,lonely,web"']
    assert MACHINE in short(host, "top5.nearest.of.web.internal", "AAAA")
    assert short(host, "-x", MACHINE) == ["3d8d9930b03989.vm.web.internal."]
    assert len(short(host, "_postgres._tcp.db.internal", "SRV")) == 1
    assert "status: NXDOMAIN" in asked(host, "nobody.internal", "AAAA")
    assert "status: NXDOMAIN" in asked(host, "secret.internal", "AAAA")  # of the other tenant
    nothing = asked(host, "batch.internal", "AAAA")
    assert "status: NOERROR" in nothing
    assert "ANSWER: 0" in nothing
    assert len(short(host, "+tcp", "web.internal", "AAAA")) == 5


@requires_tool("dnsmasq", "ss")
def test_dnsmasq(machine: Host, tmp_path: Path) -> None:
    file = tmp_path / "dnsmasq.conf"
    file.write_text(
        "no-resolv\nno-hosts\nlisten-address=127.0.0.1\nbind-interfaces\nstop-dns-rebind\nbogus-priv\nuser=root\n"
        "server=::1#9\n" + recipe("/etc/dnsmasq.d/internal.conf")
    )
    with running(machine, "dnsmasq", "--keep-in-foreground", f"--conf-file={file}", "--pid-file"):
        answers_as_the_server_does(machine)


@requires_tool("unbound", "ss")
def test_unbound(machine: Host, tmp_path: Path) -> None:
    file = tmp_path / "unbound.conf"
    file.write_text(
        f'server:\n    interface: 127.0.0.1\n    chroot: ""\n    username: ""\n    pidfile: ""\n'
        f'    directory: "{tmp_path}"\n    use-syslog: no\n    private-address: fd00::/8\n'
        f'    trust-anchor: "{ROOT_KEY}"\n' + recipe("/etc/unbound/unbound.conf.d/internal.conf")
    )
    with running(machine, "unbound", "-d", "-c", str(file)):
        answers_as_the_server_does(machine)
