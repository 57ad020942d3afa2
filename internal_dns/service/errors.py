"""Why the server cannot start, in words for its operator: what, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from internal_dns.errors import OperatorError
from internal_dns.net import Endpoint

BUILD_NATIVE: Final = (
    "Install a C compiler and Python's headers (apt-get install gcc python3-dev) and install again"
)


def cannot_listen(endpoint: Endpoint, error: OSError) -> OperatorError:
    """Say why an address cannot be listened on, and what helps."""
    port = endpoint.port
    remedies = {
        errno.EADDRINUSE: f"Something else serves there: `ss -lunp 'sport = :{port}'` shows it; "
        "stop it or choose --listen",
        errno.EACCES: "It needs root, CAP_NET_BIND_SERVICE, or sysctl "
        f"net.ipv4.ip_unprivileged_port_start={port}",
        errno.EPERM: "Run with CAP_NET_BIND_SERVICE and CAP_NET_RAW, or listen on a local address",
        errno.EADDRNOTAVAIL: "The host has no IPv6, or the address is not valid here; choose "
        "another with --listen",
        errno.EAFNOSUPPORT: "The host has no IPv6; enable it, or choose an IPv4 address with "
        "--listen",
    }
    return OperatorError(
        f"cannot listen on {endpoint}",
        error.strerror or str(error),
        remedies.get(error.errno or 0, "Choose --listen"),
        in_use=error.errno == errno.EADDRINUSE,
    )


def cannot_open(setting: str, endpoint: Endpoint, error: OSError) -> OperatorError:
    """Say why the port of *setting*, admin or console, cannot be opened, and what helps."""
    do = f"Choose another with --{setting} ADDR:PORT, or none"
    if in_use := error.errno == errno.EADDRINUSE:
        do = f"Another server's? `ss -ltnp 'sport = :{endpoint.port}'` shows it. {do}"
    # Not strerror: asyncio puts a sentence of its own there.
    why = os.strerror(error.errno) if error.errno else str(error)
    return OperatorError(f"cannot open {setting} {endpoint}", why, do, in_use=in_use)


def cannot_forward(ca: Path | None, error: ImportError | OSError) -> OperatorError:
    """Say why encrypted upstreams cannot be queried, and what helps. *ca*: the setting
    upstream_ca."""
    if isinstance(error, ImportError):
        return OperatorError(
            "an https:// upstream",
            f"DNS over HTTPS needs {error.name}, which is not installed",
            "In the checkout: pip install '.[doh]'; or use a tls:// upstream",
        )
    why = str(error.strerror or error)  # ssl.SSLError is an OSError
    return OperatorError(f"upstream_ca {ca}", why, "Name a file of certificates (PEM)")


def no_native_path(why: str) -> OperatorError:
    return OperatorError("udp path native", why, f"{BUILD_NATIVE}, or set --udp-path auto")


def no_console(endpoint: Endpoint, error: ModuleNotFoundError) -> OperatorError:
    return OperatorError(
        f"console {endpoint}",
        f"the module {error.name} is not installed",
        "Install it, in the checkout: pip install '.[console]'; or leave the console out: "
        "--console none",
    )


def unusable_catalog(catalog: Path, error: Exception) -> OperatorError:
    return OperatorError(
        f"catalog {catalog}",
        str(error),
        "Name a usable file with --catalog, or make one: internal-dns init FILE --demo",
    )


def unfit_sockets(faults: Sequence[str]) -> OperatorError:
    """Say that the inherited sockets do not fit the configuration."""
    what = "the inherited sockets and the configuration"
    return OperatorError(what, "; ".join(faults), "Correct either")
