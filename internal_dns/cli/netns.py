"""dev --netns: the real thing on one machine. A network namespace in which every address of the prefix is local."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click

from internal_dns.cli.words import CONFIGURATION, Told

NAMESPACE: Final = "internal-dns"
# Every fdaa:: address is local, and may be bound without being on an interface: `dig -b` as any machine.
_PREPARE: Final = (
    "ip link set lo up",
    "ip -6 route add local {prefix} dev lo",
    "sysctl -q -w net.ipv6.ip_nonlocal_bind=1",
)


def serve_in_namespace(flags: dict[str, Any], config: Path | None) -> None:
    """Make the namespace, serve in it with *flags*, and remove it at the end, whatever ends it."""
    from internal_dns.cli.run import demo_catalog

    if os.geteuid() != 0:
        raise Told("--netns needs root", "only root makes network namespaces", "Run it with sudo, or use `internal-dns "
                   "dev` without --netns", CONFIGURATION)  # fmt: skip
    if flags["listen"]:
        raise click.UsageError("--netns serves [::]:53 in a namespace of its own; leave out --listen")
    flags = {
        "upstream": ("none",), "admin": "none", **{name: value for name, value in flags.items() if value},
        "catalog": flags["catalog"] or str(demo_catalog()), "listen": ("[::]:53",),
    }  # fmt: skip
    _ip("netns", "add", NAMESPACE)
    try:
        for command in _PREPARE:
            words = command.format(prefix=flags.get("prefix", "fdaa::/16")).split()
            _ip("netns", "exec", NAMESPACE, *words)
        status = _serve(flags, config)
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)
    raise SystemExit(status)


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True)
    except FileNotFoundError:
        raise Told("there is no `ip` command", "it makes the namespace", "Install it: apt install iproute2",
                   CONFIGURATION) from None  # fmt: skip
    except subprocess.CalledProcessError as error:
        do = f"A left-over one of a killed server? ip netns pids {NAMESPACE}; then ip netns del {NAMESPACE}"
        raise Told(
            f"cannot make network namespace {NAMESPACE}", error.stderr.decode().strip(), do, CONFIGURATION
        ) from error


def _serve(flags: dict[str, Any], config: Path | None) -> int:
    """Run the server in the namespace until it ends; signals to us are for it. Return its exit status."""
    command = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-m", "internal_dns", "serve"]
    for name, value in flags.items():
        for text in value if isinstance(value, tuple) else (value,):
            command += [f"--{name.replace('_', '-')}", str(text)] if text else []
    command += ["--config", str(config)] if config else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.terminate())
        assert server.stdout is not None
        for line in server.stdout:
            click.echo(line, nl=False)
            if line.startswith("ready"):
                as_machine = "-b fdaa:0:18:a7b:7d:f066:b83b:2 aaaa web.internal"
                click.echo(f"try    ip netns exec {NAMESPACE} dig @fdaa::3 {as_machine}")
            sys.stdout.flush()
        return server.wait()
