"""dev --netns: the real thing on one machine. A network namespace in which every fdaa:: address is local."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Final

import click

from internal_dns.cli.words import CONFIGURATION, Told

NAMESPACE: Final = "internal-dns"


def serve_in_namespace(flags: dict[str, Any]) -> None:
    """Make the namespace, serve fdaa::3 and every `<network>::3` in it, and remove it at the end."""
    from internal_dns.cli.run import demo_catalog

    if os.geteuid() != 0:
        raise Told("--netns needs root", "only root makes network namespaces", "Run it with sudo, or use `internal-dns "
                   "dev` without --netns", CONFIGURATION)  # fmt: skip
    catalog = flags["catalog"] or str(demo_catalog())
    try:
        subprocess.run(["ip", "netns", "add", NAMESPACE], check=True, capture_output=True)
    except FileNotFoundError:
        raise Told("there is no `ip` command", "", "Install it: apt install iproute2", CONFIGURATION) from None
    except subprocess.CalledProcessError as error:
        raise Told(f"cannot make network namespace {NAMESPACE}", error.stderr.decode().strip(),
                   f"Remove a left-over one: ip netns del {NAMESPACE}", CONFIGURATION) from error  # fmt: skip
    try:
        for words in ("link set lo up", "-6 route add local fdaa::/16 dev lo"):
            subprocess.run(["ip", "-n", NAMESPACE, *words.split()], check=True)
        click.echo(f"try      ip netns exec {NAMESPACE} dig @fdaa::3 -b fdaa:0:18:a7b:7d:f066:b83b:2 aaaa web.internal")
        inside = [sys.executable, "-m", "internal_dns", "serve", "--catalog", catalog, "--listen", "[::]:53",
                  "--upstream", "none", "--admin", "none"]  # fmt: skip
        server = subprocess.Popen(["ip", "netns", "exec", NAMESPACE, *inside])
        try:
            server.wait()
        except KeyboardInterrupt:
            server.wait()
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)
