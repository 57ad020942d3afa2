"""Facts about the machine and the programs that a reader needs to interpret the figures."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
CORES: Final = sorted(os.sched_getaffinity(0))
# One core each. On a machine with one core they share it, and the results say so.
SERVER_CORE: Final = CORES[0]
LOAD_CORE: Final = CORES[-1]


def facts() -> dict[str, Any]:
    """Return the facts as JSON-compatible values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "dirty": bool(_said("git", "status", "--porcelain")),
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": len(CORES),
        "server core": SERVER_CORE,
        "load core": LOAD_CORE,
        "virtual": "hypervisor" in _field(Path("/proc/cpuinfo"), "flags").split(),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "kernel": platform.release(),
        "system": _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        "rmem_max": Path("/proc/sys/net/core/rmem_max").read_text().strip(),
        "load average before": os.getloadavg(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "uvloop": _package("uvloop"),
        "cc": (_said("cc", "--version").splitlines() or [""])[0],
    }


def commit() -> str:
    """Return the abbreviated commit hash."""
    return _said("git", "rev-parse", "--short", "HEAD") or "no-git"


def _said(*words: str) -> str:
    if not shutil.which(words[0]):
        return ""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip()


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _field(path: Path, name: str, separator: str = ":") -> str:
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return ""
