"""Marks for tests that need something of the machine: they skip by name and reason where it is
missing."""

import os
import shutil

import pytest

from internal_dns.transport import native


def requires_tool(*names: str) -> pytest.MarkDecorator:
    """Skip unless every one of the commands *names* is on PATH."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} not installed (tests/debian-packages.txt)"
    )


def requires_root() -> pytest.MarkDecorator:
    """Skip unless we are root: ports below 1024, network namespaces, foreign addresses."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def requires_native() -> pytest.MarkDecorator:
    """Skip where the native UDP path was not built: no C compiler. CI forbids skips, so there it
    must be."""
    return pytest.mark.skipif(bool(native.MISSING), reason=f"the native udp path: {native.MISSING}")
