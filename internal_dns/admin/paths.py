"""Where the files of a running server are."""

from __future__ import annotations

from pathlib import Path


def socket_path(catalog: Path) -> Path:
    """Where the server of *catalog* listens for the command line."""
    return catalog.with_name(catalog.name + ".sock")
