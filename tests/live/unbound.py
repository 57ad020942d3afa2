"""Debian's Unbound as an upstream: UDP, TCP, DoT and DoH on ports of ::1, with zones of our own and
no way out."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

from tests.live.certificates import Pair
from tests.live.hosts import client_socket, query


def free_ports(count: int) -> list[int]:
    """Ports of ::1 that neither TCP nor UDP uses now."""
    found: list[int] = []
    with_both: list[socket.socket] = []
    try:
        while len(found) < count:
            tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            with_both.append(tcp)
            tcp.bind(("::1", 0))
            udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with_both.append(udp)
            try:
                udp.bind(("::1", tcp.getsockname()[1]))
            except OSError:
                continue
            found.append(tcp.getsockname()[1])
    finally:
        for sock in with_both:
            sock.close()
    return found


class Counting:
    """Passes TCP connections on to the port in *url*, and counts them; `url` is the same by way of
    here."""

    def __init__(self, url: str) -> None:
        self.connections = 0
        found = re.fullmatch(r"(\w+://\[::1\]:)(\d+)(.*)", url)
        assert found, url
        self.to = int(found[2])
        self.loop = asyncio.new_event_loop()
        self.sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.url = f"{found[1]}{self.sock.getsockname()[1]}{found[3]}"
        self.ended = asyncio.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(10)

    def _run(self) -> None:
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._pass_on, sock=self.sock)
        await self.ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("::1", self.to)
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(65_536):
        writer.write(octets)
        await writer.drain()
    writer.close()


class Unbound:
    """Serves *zones* (files, by name) as a resolver would: CNAMEs are followed, AA is not set."""

    def __init__(self, folder: Path, zones: dict[str, Path], pair: Pair) -> None:
        self.port, self.tls_port, self.https_port = free_ports(3)
        self.folder = folder
        self.url, self.tcp_url = f"udp://[::1]:{self.port}", f"tcp://[::1]:{self.port}"
        self.tls_url, self.https_url = (
            f"tls://[::1]:{self.tls_port}",
            f"https://[::1]:{self.https_port}/dns-query",
        )
        config = folder / "unbound.conf"
        config.write_text(self._config(zones, pair))
        self.errors = (folder / "unbound.log").open("w+")
        self.process = subprocess.Popen(
            ["unbound", "-d", "-p", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _config(self, zones: dict[str, Path], pair: Pair) -> str:
        interfaces = "".join(
            f'    interface: "::1@{port}"\n' for port in (self.port, self.tls_port, self.https_port)
        )
        parts = "".join(
            f'auth-zone:\n    name: "{name}"\n    zonefile: "{file}"\n    for-downstream: no\n    '
            f"for-upstream: yes\n"
            f"    fallback-enabled: no\n"
            for name, file in zones.items()
        )
        return (
            f"server:\n{interfaces}"
            f"    access-control: ::1/128 allow\n    do-daemonize: no\n    username: ''\n    "
            f"chroot: ''\n"
            f"    directory: '{self.folder}'\n    pidfile: ''\n    use-syslog: no\n    "
            f"module-config: 'iterator'\n"
            f"    do-not-query-localhost: no\n    num-threads: 1\n    so-reuseport: no\n    "
            f"verbosity: 0\n"
            f"    tls-port: {self.tls_port}\n    https-port: {self.https_port}\n"
            f"    tls-service-key: '{pair.key}'\n    tls-service-pem: '{pair.certificate}'\n"
            f"    rrset-roundrobin: no\n    minimal-responses: yes\n    qname-minimisation: no\n"
            f"    edns-tcp-keepalive: no\n"
            f"    incoming-num-tcp: 200\n    outgoing-range: 200\n    root-hints: "
            f"'{self._no_roots()}'\n"
            f"    do-ip4: no\nremote-control:\n    control-enable: no\n{parts}"
        )

    def _no_roots(self) -> Path:
        """A root server that is nobody: what is asked by mistake goes nowhere."""
        hints = self.folder / "root.hints"
        hints.write_text(". 3600 IN NS nobody.invalid.\nnobody.invalid. 3600 IN AAAA ::1\n")
        return hints

    def _wait(self) -> None:
        end = time.monotonic() + 15
        asked = query("upstream.example", "A").to_wire()
        while True:
            assert self.process.poll() is None, self.said()
            with client_socket(socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.2)
                sock.connect(("::1", self.port))
                try:
                    sock.send(asked)
                    sock.recv(4_096)
                    return
                except OSError:
                    assert time.monotonic() < end, self.said()
                    time.sleep(0.02)

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.errors.close()
