"""The errors that prevent a start, for the operator: what, why, and what to do."""

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
    """Return the error for an address that cannot be bound."""
    port = endpoint.port
    remedies = {
        errno.EADDRINUSE: f"Another program uses it: `ss -lunp 'sport = :{port}'` shows which; "
        "stop it, or choose another address with --listen",
        errno.EACCES: "Run as root, with CAP_NET_BIND_SERVICE, or with sysctl "
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
        remedies.get(error.errno or 0, "Choose another address with --listen"),
        in_use=error.errno == errno.EADDRINUSE,
    )


def cannot_open(setting: str, endpoint: Endpoint, error: OSError) -> OperatorError:
    """Return the error for a port of *setting* (admin or console) that cannot be opened."""
    do = f"Choose another with --{setting} ADDR:PORT, or none"
    if in_use := error.errno == errno.EADDRINUSE:
        do = f"Another program uses it: `ss -ltnp 'sport = :{endpoint.port}'` shows which. {do}"
    # Not error.strerror: asyncio replaces it by a sentence of its own.
    why = os.strerror(error.errno) if error.errno else str(error)
    return OperatorError(f"cannot open {setting} {endpoint}", why, do, in_use=in_use)


def cannot_forward(ca: Path | None, error: ImportError | OSError) -> OperatorError:
    """Return the error for encrypted upstreams that cannot be used; *ca* is upstream_ca."""
    if isinstance(error, ImportError):
        return OperatorError(
            "an https:// upstream",
            f"DNS over HTTPS needs {error.name}, which is not installed",
            "In the checkout: pip install '.[doh]'; or use a tls:// upstream",
        )
    why = str(error.strerror or error)  # ssl.SSLError is an OSError
    return OperatorError(f"upstream_ca {ca}", why, "Name a file of PEM certificates")


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
        "Name a usable file with --catalog, or create one: internal-dns init FILE --demo",
    )


def unfit_sockets(faults: Sequence[str]) -> OperatorError:
    """Return the error for inherited sockets that contradict the configuration."""
    what = "the inherited sockets contradict the configuration"
    return OperatorError(what, "; ".join(faults), "Change one of them")
