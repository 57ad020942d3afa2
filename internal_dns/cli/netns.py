"""dev --netns: the real thing on one machine. A network namespace in which every address of the
prefix is local."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from internal_dns.cli.common import CONFIGURATION
from internal_dns.cli.common import settings as effective
from internal_dns.errors import OperatorError

if TYPE_CHECKING:
    from internal_dns.config import Settings

NAMESPACE: Final = "internal-dns"
# Every fdaa:: address is local, and may be bound without being on an interface: `dig -b` as any machine.
_PREPARE: Final = (
    "ip link set lo up",
    "ip -6 route add local {prefix} dev lo",
    "sysctl -q -w net.ipv6.ip_nonlocal_bind=1",
)
RESOLV_CONF: Final = (
    f"/etc/netns/{NAMESPACE}/resolv.conf"  # what `ip netns exec` puts over /etc/resolv.conf
)


def serve_in_namespace(flags: dict[str, Any], config: Path | None) -> None:
    """Make the namespace, serve in it with *flags*, and remove it at the end, whatever ends it."""
    from internal_dns.cli.run import demo_catalog

    if os.geteuid() != 0:
        raise OperatorError("--netns needs root", "only root makes network namespaces", "Run it with sudo, "
                                                                               "or use `internal-dns "
                   "dev` without --netns", CONFIGURATION)  # fmt: skip
    if flags["listen"]:
        raise click.UsageError(
            "--netns serves [::]:53 in a namespace of its own; leave out --listen"
        )
    origin = effective(flags, config).origin
    own: dict[str, Any] = {"upstream": ("none",), "admin": "none"}
    own = {name: value for name, value in own.items() if origin[name] == "default"}
    if origin["catalog"] == "default":
        own["catalog"] = str(demo_catalog())
    given = {name: value for name, value in flags.items() if value}
    flags = {**given, **own, "listen": ("[::]:53",)}
    settings = effective(flags, config)
    someone, name = _pick_machine(settings)
    # Who asks without saying from where asks as this address: without one, the kernel takes a
    # source that is nobody's.
    add_address = (f"ip -6 address add {someone}/128 dev lo nodad",) if someone else ()
    _run_ip("netns", "add", NAMESPACE)
    try:
        for command in (*_PREPARE, *add_address):
            words = command.format(prefix=f"{IPv6Address(settings.prefix + bytes(14))}/16").split()
            _run_ip("netns", "exec", NAMESPACE, *words)
        status = _serve(
            flags, config, _example_commands(settings.prefix, someone, name) if someone else ""
        )
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)
    raise SystemExit(status)


def _pick_machine(settings: Settings) -> tuple[IPv6Address | None, str]:
    """A visible machine of the network of lowest id, in its largest app, and that app's name; None:
    nobody is there."""
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        catalog = load(settings.catalog, rules=settings.catalog_rules).catalog
    except (FileNotFoundError, UnusableCatalog):
        return None, ""  # the server says what is wrong with it
    network = min(catalog.networks.values(), key=lambda n: n.id, default=None)
    seen = (
        {label: [m for m in app.machines if m.visible] for label, app in network.apps.items()}
        if network
        else {}
    )
    if not any(seen.values()):
        return None, ""
    largest = max(sorted(seen), key=lambda label: len(seen[label]))
    return IPv6Address(seen[largest][0].address), f"{largest.decode()}.internal"


def _example_commands(prefix: bytes, someone: IPv6Address, name: str) -> str:
    server = IPv6Address(prefix + bytes(13) + b"\3")
    within = f"ip netns exec {NAMESPACE}"
    folder = os.path.dirname(RESOLV_CONF)
    return (
        f"try    {within} dig @{server} -b {someone} aaaa {name}\n"
        f"       mkdir -p {folder} && echo nameserver {server} > {RESOLV_CONF}\n"
        f"       {within} getent ahostsv6 {name}"
    )


def _run_ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True)
    except FileNotFoundError:
        raise OperatorError("there is no `ip` command", "it makes the namespace", "Install it: apt install "
                                                                         "iproute2",
                   CONFIGURATION) from None  # fmt: skip
    except subprocess.CalledProcessError as error:
        do = f"A left-over one of a killed server? ip netns pids {NAMESPACE}; then ip netns del {NAMESPACE}"
        raise OperatorError(
            f"cannot make network namespace {NAMESPACE}",
            error.stderr.decode().strip(),
            do,
            CONFIGURATION,
        ) from error


def _serve(flags: dict[str, Any], config: Path | None, to_try: str) -> int:
    """Run the server in the namespace until it ends; signals to us are for it. Return its exit
    status."""
    command = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-m", "internal_dns", "serve"]
    for name, value in flags.items():
        for text in value if isinstance(value, tuple) else (value,):
            command += [f"--{name.replace('_', '-')}", str(text)] if text else []
    command += ["--config", str(config)] if config else []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.terminate())
        assert server.stdout is not None
        for line in server.stdout:
            click.echo(line, nl=False)
            if line.startswith("ready") and to_try:
                click.echo(to_try)
            sys.stdout.flush()
        return server.wait()
