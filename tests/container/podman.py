"""Podman with a store of its own under one folder: what a test run makes in it, nobody else sees,
and it goes whole."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
BASES = REPOSITORY / "build/container"
# For a machine that is a container or a small virtual machine itself: no overlay, systemd or cgroup
# manager needed.
MACHINERY = (
    "--storage-driver=vfs",
    "--runtime=runc",
    "--cgroup-manager=cgroupfs",
    "--events-backend=file",
)
IMAGE = "localhost/internal-dns"
STORES = "internal-dns-podman"  # folders of the temporary directory: `<this>-<pid>-<random>`


class Podman:
    """A store of images and containers. Every command is bounded in time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = (("root", "store"), ("runroot", "run"), ("tmpdir", "tmp"))
        self.command = (
            "podman",
            *(f"--{flag}={folder / name}" for flag, name in places),
            *MACHINERY,
        )

    def run(self, *words: str, timeout: float = 60, fails: bool = False) -> str:
        """Run a podman command; return what it prints to standard output."""
        done = subprocess.run(
            (*self.command, *words), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert fails or done.returncode == 0, (
            f"podman {' '.join(words)}: exit {done.returncode}\n{done.stderr}"
        )
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return found

    def build(self) -> str:
        """Build the image as `make image` does, on bases that were not fetched; return what the
        build said."""
        for base in ("base", "build-base"):
            self.run("import", "--quiet", str(BASES / f"{base}.tar"), base, timeout=120)
        flags = "--layers=false --isolation=chroot --network=host"
        bases = "--build-arg BASE=localhost/base --build-arg BUILD_BASE=localhost/build-base"
        # `timeout` ends make's children too.
        make = (
            "timeout",
            "--kill-after=10",
            "240",
            "make",
            "image",
            f"ENGINE={' '.join(self.command)}",
            f"IMAGE_FLAGS={flags} {bases}",
        )
        done = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    def close(self) -> None:
        """Stop what runs and remove the whole store."""
        self.run("rm", "--all", "--force", "--time=0", fails=True)
        # What podman knew nothing of any more, when it was killed while it made a container.
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (at := line.split()[1]).startswith(f"{self.folder}/"):
                subprocess.run(("umount", at), check=True, timeout=20)
        shutil.rmtree(self.folder)


def new_store() -> Podman:
    """A store of this run. Not under pytest's folder, which keeps those of three runs: it takes a
    gigabyte."""
    return Podman(Path(tempfile.mkdtemp(prefix=f"{STORES}-{os.getpid()}-")))


def remove_left_over() -> None:
    """End the containers of earlier runs that were killed, and remove their stores."""
    for folder in Path(tempfile.gettempdir()).glob(f"{STORES}-*-*"):
        pid = folder.name.removeprefix(f"{STORES}-").partition("-")[0]
        if not Path("/proc", pid).exists():
            _end_commands(folder)
            Podman(folder).close()


def _end_commands(folder: Path) -> None:
    """End podman commands on a store whose run was killed: they outlive it, and might still be
    making a container."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end by itself
            words = path.read_bytes().split(b"\0")
            if words[0] == b"podman" and any(f"{folder}/".encode() in word for word in words):
                pid = int(path.parent.name)
                with os.fdopen(os.pidfd_open(pid)) as process:
                    os.kill(pid, signal.SIGKILL)
                    select.select([process], [], [], 10)
