"""dev --netns: serve in a network namespace in which every address of the prefix is local."""

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
# Makes every fdaa:: address local, and lets it be bound without being on an interface: `dig -b`
# can then use the address of any machine.
_PREPARE: Final = (
    "ip link set lo up",
    "ip -6 route add local {prefix} dev lo",
    "sysctl -q -w net.ipv6.ip_nonlocal_bind=1",
)
# `ip netns exec` mounts this file over /etc/resolv.conf.
RESOLV_CONF: Final = f"/etc/netns/{NAMESPACE}/resolv.conf"


def serve_in_namespace(flags: dict[str, Any], config: Path | None) -> None:
    """Create the namespace, serve in it with *flags*, and remove it however that ends."""
    from internal_dns.cli.run import demo_catalog

    if os.geteuid() != 0:
        raise OperatorError(
            "--netns needs root",
            "only root can create network namespaces",
            "Run it with sudo, or run `internal-dns dev` without --netns",
            CONFIGURATION,
        )
    if flags["listen"]:
        raise click.UsageError("--netns always serves [::]:53 in its namespace; omit --listen")
    origin = effective(flags, config).origin
    own: dict[str, Any] = {"upstream": ("none",), "admin": "none"}
    own = {name: value for name, value in own.items() if origin[name] == "default"}
    if origin["catalog"] == "default":
        own["catalog"] = str(demo_catalog())
    given = {name: value for name, value in flags.items() if value}
    flags = {**given, **own, "listen": ("[::]:53",)}
    settings = effective(flags, config)
    machine, name = _pick_machine(settings)
    # The source of a client that does not choose one. Without it, the kernel would choose an
    # address that belongs to no network.
    add_address = (f"ip -6 address add {machine}/128 dev lo nodad",) if machine else ()
    _run_ip("netns", "add", NAMESPACE)
    try:
        for command in (*_PREPARE, *add_address):
            words = command.format(prefix=f"{IPv6Address(settings.prefix + bytes(14))}/16").split()
            _run_ip("netns", "exec", NAMESPACE, *words)
        examples = _example_commands(settings.prefix, machine, name) if machine else ""
        status = _serve(flags, config, examples)
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)
    raise SystemExit(status)


def _pick_machine(settings: Settings) -> tuple[IPv6Address | None, str]:
    """Return the address of a visible machine and the name of its app, or None and an empty name.

    It is a machine of the largest app of the network with the lowest id.
    """
    from internal_dns.store.sqlite import UnusableCatalog, load

    try:
        catalog = load(settings.catalog, rules=settings.catalog_rules).catalog
    except (FileNotFoundError, UnusableCatalog):
        return None, ""  # the server reports the reason
    network = min(catalog.networks.values(), key=lambda n: n.id, default=None)
    visible = (
        {label: [m for m in app.machines if m.visible] for label, app in network.apps.items()}
        if network
        else {}
    )
    if not any(visible.values()):
        return None, ""
    largest = max(sorted(visible), key=lambda label: len(visible[label]))
    return IPv6Address(visible[largest][0].address), f"{largest.decode()}.internal"


def _example_commands(prefix: bytes, machine: IPv6Address, name: str) -> str:
    server = IPv6Address(prefix + bytes(13) + b"\3")
    enter = f"ip netns exec {NAMESPACE}"
    folder = os.path.dirname(RESOLV_CONF)
    return (
        f"try    {enter} dig @{server} -b {machine} aaaa {name}\n"
        f"       mkdir -p {folder} && echo nameserver {server} > {RESOLV_CONF}\n"
        f"       {enter} getent ahostsv6 {name}"
    )


def _run_ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True)
    except FileNotFoundError:
        raise OperatorError(
            "the command `ip` is not installed",
            "--netns creates the namespace with it",
            "Install it: apt install iproute2",
            CONFIGURATION,
        ) from None
    except subprocess.CalledProcessError as error:
        raise OperatorError(
            f"cannot set up network namespace {NAMESPACE}",
            error.stderr.decode().strip(),
            "If a killed server left it behind, see ip netns pids "
            f"{NAMESPACE}, then run ip netns del {NAMESPACE}",
            CONFIGURATION,
        ) from error


def _serve(flags: dict[str, Any], config: Path | None, examples: str) -> int:
    """Run the server in the namespace, pass signals on to it, and return its exit status."""
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
            if line.startswith("ready") and examples:
                click.echo(examples)
            sys.stdout.flush()
        return server.wait()
