"""Hosts for live tests: network namespaces with real 6PN addresses, and servers that are really
started.

    server                         acme
    fdaa::3, <network>::3 (AnyIP)  fe80::1 ── veth ── fe80::2   fdaa:0:18:a7b:7d:f066:b83b:2, ...
                                   globex
                                   fe80::1 ── veth ── fe80::2   fdaa:0:19:a7b:7d:1:1:2

A namespace is called `idns-<pid>-<number>-<role>`; those of a run that was killed are removed by
the next one.
"""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TypeVar

import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launcher.py")
LISTEN_ANYWHERE = "[::]:53"
PROGRAM = (sys.executable, "-W", "error", "-m", "internal_dns")
IP_FREEBIND, IPV6_FREEBIND = 15, 78
CLONE_NEWNET = 0x4000_0000
BACKGROUND_TROUBLE = re.compile(r"Traceback|Warning|Exception ignored|failed on a message")

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count(1)
_entering = Lock()
made_hosts: list[Host] = []
started: list[Served] = []

T = TypeVar("T")


class Host:
    """A network namespace."""

    def __init__(self, role: str) -> None:
        self.name = f"idns-{os.getpid()}-{next(_numbers)}-{role}"
        self.resolv_conf = Path("/etc/netns", self.name, "resolv.conf")
        command("ip", "netns", "add", self.name)
        made_hosts.append(self)
        self.ip("link set lo up")

    def ip(self, words: str) -> None:
        """Run one `ip` command in this namespace."""
        command("ip", "-n", self.name, *words.split())

    def within(self, *words: str) -> tuple[str, ...]:
        """The command that runs *words* here; /etc/resolv.conf is then the one of `nameserver`."""
        return ("ip", "netns", "exec", self.name, *words)

    def run(self, *words: str, fails: bool = False, timeout: float = 20) -> str:
        """Run a command here and return what it says, standard error after standard output."""
        done = subprocess.run(
            self.within(*words), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert fails or done.returncode == 0, (
            f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def nameserver(self, address: str, options: str = "") -> None:
        """Name the one server of this host's /etc/resolv.conf, and the options of glibc's
        resolver."""
        self.resolv_conf.parent.mkdir(parents=True, exist_ok=True)
        self.resolv_conf.write_text(
            f"nameserver {address}\n" + f"options {options}\n" * bool(options)
        )

    def inside(self, make: Callable[[], T]) -> T:
        """Call *make* with this thread in the namespace: the sockets it makes stay there."""
        with (
            _entering,
            open("/proc/thread-self/ns/net") as home,
            open(f"/var/run/netns/{self.name}") as there,
        ):
            _enter(there.fileno())
            try:
                return make()
            finally:
                _enter(home.fileno())

    def socket(self, kind: socket.SocketKind, source: str = "") -> socket.socket:
        """Return a socket of this host that sends from *source*, which need not be an address of an
        interface."""
        return self.inside(lambda: client_socket(kind, source))

    def close(self) -> None:
        """Remove the namespace; what runs in it must be stopped before."""
        if self in made_hosts:
            made_hosts.remove(self)
            command("ip", "netns", "del", self.name)
            shutil.rmtree(self.resolv_conf.parent, ignore_errors=True)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def client_socket(kind: socket.SocketKind, source: str = "") -> socket.socket:
    """Return a socket of the present namespace, bound to *source* if given, with a timeout of 5
    s."""
    family = socket.AF_INET if "." in source else socket.AF_INET6
    made = socket.socket(family, kind)
    made.settimeout(5)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if source:
            made.bind((source, 0))
    except BaseException:
        made.close()
        raise
    return made


def command(*words: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"


def remove_left_over() -> None:
    """Remove the namespaces of earlier runs that were killed."""
    for path in Path("/var/run/netns").glob("idns-*"):
        pid = int(path.name.split("-")[1])
        if not Path(f"/proc/{pid}").exists():
            command("ip", "netns", "del", path.name)
            shutil.rmtree(Path("/etc/netns", path.name), ignore_errors=True)


def join(
    server: Host, tenant: Host, link: str, networks: tuple[str, ...], addresses: tuple[str, ...]
) -> None:
    """Lay a cable between *server* and *tenant*, who has *addresses* of *networks* (such as
    fdaa:0:18)."""
    server.ip(f"link add {link} type veth peer name eth0 netns {tenant.name}")
    for host, name, address in ((server, link, "fe80::1/64"), (tenant, "eth0", "fe80::2/64")):
        host.ip(f"-6 addr add {address} dev {name} nodad")
        host.ip(f"link set {name} up")
    for address in addresses:
        tenant.ip(f"-6 addr add {address}/128 dev eth0 nodad")
        server.ip(f"-6 route add {address}/128 via fe80::2 dev {link}")
    for network in networks:
        # What docs/operating says an operator does for each network.
        server.ip(f"-6 route add local {network}::3/128 dev lo")
    tenant.ip(f"-6 route add default via fe80::1 dev eth0 src {addresses[0]}")


# ── servers ───────────────────────────────────────────────────────────────────────────────────────


class Served:
    """A running `internal-dns serve`, or `dev`."""

    def __init__(
        self,
        *flags: str,
        host: Host | None = None,
        verb: str = "serve",
        folder: Path = REPOSITORY,
        program: tuple[str, ...] = PROGRAM,
        sockets: Sequence[socket.socket] = (),
        environment: Mapping[str, str] = {},
    ) -> None:
        """Start it; *sockets* are passed on as systemd would."""
        self.host = host
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by stop
        # A server must not outlive a test run that is killed.
        outlived = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
        numbers = [sock.fileno() for sock in sockets]
        launcher = (sys.executable, str(LAUNCHER), ",".join(map(str, numbers))) if sockets else ()
        words = (*outlived, *launcher, *program, verb, *flags)
        self.process = subprocess.Popen(
            host.within(*words) if host else words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=folder,
            pass_fds=numbers,
            env={**os.environ, **environment},
        )
        started.append(self)
        try:
            self.ready = self._wait_until_ready(verb)
        except BaseException:
            self.kill()
            raise
        found = re.search(r"udp\+tcp \S+:(\d+)", self.ready)
        assert found, self.ready
        self.port = int(found[1])

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait_until_ready(self, verb: str) -> str:
        """Return what the server says once it serves: one line, or those of `dev`."""
        assert self.process.stdout is not None
        said, last = "", "ready " if verb == "serve" else "         dig "
        deadline = time.monotonic() + 20
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            while not any(line.startswith(last) for line in said.split("\n")[:-1]):
                left = deadline - time.monotonic()
                piece = (
                    os.read(self.process.stdout.fileno(), 65_536)
                    if left > 0 and waiting.select(left)
                    else b""
                )
                if not piece:
                    raise AssertionError(f"the server did not get ready: {said}{self.stderr()}")
                said += piece.decode()
        return said

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def rss(self) -> int:
        """Octets of memory the server occupies."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def descriptors(self) -> int:
        """How many files and sockets the server has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self) -> str:
        """End it as systemd would, and see that it ends well; return its standard error."""
        if self not in started:
            return ""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            code = None
        said = self.stderr()
        self.kill()
        assert code == 0, f"exit {code} after SIGTERM\n{said}"
        assert not BACKGROUND_TROUBLE.search(said), said
        return said

    def kill(self) -> None:
        """Be sure that it is gone."""
        if self in started:
            started.remove(self)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()


@contextmanager
def serving(
    catalog: Path,
    *flags: str,
    host: Host | None = None,
    upstream: str = "none",
    port: int = 0,
    wrapped: tuple[str, ...] = (),
    environment: Mapping[str, str] = {},
    map_loopback: bool = True,
) -> Iterator[Served]:
    """A server of *catalog*: on [::1], for which we are network 0x18, or on port 53 of *host*."""
    where = ["--listen", LISTEN_ANYWHERE] if host else ["--listen", f"[::1]:{port}"]
    where += ["--map-source", MAP_LOOPBACK] if map_loopback and not host else []
    upstreams = [word for url in upstream.split() for word in ("--upstream", url)]
    program = (*wrapped, *PROGRAM)
    server = Served(
        "--catalog",
        str(catalog),
        *where,
        *upstreams,
        "--admin",
        "none",
        *flags,
        host=host,
        program=program,
        environment=environment,
    )
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()


MAP_LOOPBACK = "::1/128=fdaa:0:18::/48"


# ── asking ────────────────────────────────────────────────────────────────────────────────────────


def query(name: str, rdtype: str = "AAAA", **options: object) -> dns.message.QueryMessage:
    """Build a query with EDNS, 1232 octets, unless *options* say otherwise."""
    return dns.message.make_query(name, rdtype, **{"use_edns": 0, "payload": 1232, **options})  # type: ignore[arg-type]


def ask(
    server: Served, asked: dns.message.Message | str, *, timeout: float = 5
) -> dns.message.Message:
    """Ask a server on [::1] by UDP; the reply must come from there and have the query's id."""
    message = query(asked) if isinstance(asked, str) else asked
    with client_socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect(("::1", server.port))
        sock.send(message.to_wire())
        reply = dns.message.from_wire(sock.recv(65_535))
    assert message.is_response(reply), f"{message}\n{reply}"
    return reply


def addresses(reply: dns.message.Message) -> list[str]:
    """The addresses in the answer section, sorted."""
    return sorted(rr.to_text() for rrset in reply.answer for rr in rrset if rrset.rdtype in (1, 28))


def outcome(reply: dns.message.Message) -> str:
    """The RCODE, and the code of the EDE if there is one: `SERVFAIL 14`."""
    codes = [
        str(int(option.code)) for option in reply.options if isinstance(option, dns.edns.EDEOption)
    ]
    return " ".join([dns.rcode.to_text(reply.rcode()), *codes])


def shows(server: Served, name: str, count: int) -> bool:
    """Whether *name* has *count* addresses now."""
    return len(addresses(ask(server, name))) == count


def until(what: Callable[[], bool], seconds: float, words: str = "it did not happen") -> float:
    """Wait until *what* is true; return how long it took. Fails after *seconds*."""
    begin = time.monotonic()
    while not what():
        assert time.monotonic() - begin < seconds, f"{words} within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - begin


def change_mode(path: Path) -> None:
    """Put a catalog into WAL mode: readers and writers then never wait for each other."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def change(path: Path, sql: str) -> None:
    """Commit *sql* to a catalog that is being served."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {sql}; COMMIT")
    finally:
        connection.close()


@contextmanager
def meanwhile(work: Callable[[], None], pause: float) -> Iterator[None]:
    """Do *work* again and again, *pause* seconds apart, until the block ends."""
    end = Event()

    def go_on() -> None:
        while not end.is_set():
            work()
            time.sleep(pause)

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(10)
