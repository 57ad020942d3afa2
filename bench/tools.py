"""Find the Debian programs that the benchmarks need, install them as root, or report them
missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

LIST: Final = Path(__file__).with_name("debian-packages.txt")
# Debian starts a newly installed daemon unless this program forbids it (exit status 101).
_NO_DAEMONS: Final = Path("/usr/sbin/policy-rc.d")


class Missing(Exception):
    """This machine cannot measure something; the text says why."""


class Skipped(list[dict[str, str]]):
    """The list of skipped measurements with their reasons."""

    def add(self, what: str, reason: Missing) -> None:
        say(f"  NOT MEASURED: {what}: {reason}")
        self.append({"what": what, "reason": str(reason)})


def say(line: str) -> None:
    """Print progress."""
    print(line, flush=True)


def program(name: str, *packages: str) -> str:
    """Return the path of program *name*, after installing *packages* if need be: its own, then what
    it needs.

    Raises Missing.
    """
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(name, path=search)
    if not found or any(not _installed(package) for package in packages[1:]):
        lacking = _install(packages)
        found = shutil.which(name, path=search) if not lacking else found
        if lacking or not found:
            raise Missing(f"{name} is not here: {lacking or 'its package does not hold it'}")
    return found


def packages() -> list[str]:
    """Return the packages of debian-packages.txt."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def versions() -> dict[str, str]:
    """Return the versions of the installed ones of these packages."""
    words = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", *packages()]
    if not shutil.which(words[0]):
        return {}
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return dict(line.split(" ") for line in said.splitlines() if not line.endswith(" "))


@cache
def _installed(package: str) -> bool:
    if not shutil.which("dpkg-query"):
        return True  # not Debian: use what is on PATH
    words = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.endswith(
        " installed"
    )


@cache
def _install(wanted: tuple[str, ...]) -> str:
    """Install the packages; return the error, or an empty text."""
    unknown = set(wanted) - set(packages())
    assert not unknown, f"{LIST.name} lacks {unknown}"
    words = " ".join(wanted)
    if not shutil.which("apt-get"):
        return f"there is no apt-get to install {words}"
    if os.geteuid() != 0:
        return f"apt-get install -y {words} (needs root)"
    say(f"Installing from Debian: {words}")
    with _no_daemons():
        for command in (("update",), ("install", "-y", "--no-install-recommends", *wanted)):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                ["apt-get", "-qq", *command],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                return f"apt-get {command[0]} failed: {reason}"
    _installed.cache_clear()
    return ""


@contextmanager
def _no_daemons(path: Path = _NO_DAEMONS) -> Iterator[None]:
    """Forbid packages to start their daemons, which would take CPU and port 53.

    An existing policy of the operator stays.
    """
    try:
        with path.open("x") as file:
            file.write(
                "#!/bin/sh\n# Of internal-dns's bench, while it installs what it measures.\nexit "
                "101\n"
            )
    except FileExistsError:
        yield
        return
    try:
        path.chmod(0o755)
        yield
    finally:
        path.unlink()
