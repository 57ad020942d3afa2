"""Podman with a store of its own under one folder: what a test run makes in it, nobody else sees, and it goes whole."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
BASES = REPOSITORY / "build/container"
# For a machine that is a container or a small virtual machine itself: no overlay, systemd or cgroup manager needed.
MACHINERY = ("--storage-driver=vfs", "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=file")
IMAGE = "localhost/internal-dns"


class Podman:
    """A store of images and containers. Every command is bounded in time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = (("root", "store"), ("runroot", "run"), ("tmpdir", "tmp"))
        self.command = ("podman", *(f"--{flag}={folder / name}" for flag, name in places), *MACHINERY)

    def run(self, *words: str, timeout: float = 60, fails: bool = False) -> str:
        """Run a podman command; return what it prints to standard output."""
        done = subprocess.run((*self.command, *words), capture_output=True, text=True, timeout=timeout, check=False)
        assert fails or done.returncode == 0, f"podman {' '.join(words)}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return found

    def build(self) -> str:
        """Build the image as `make image` does, on bases that were not fetched; return what the build said."""
        for base in ("base", "build-base"):
            self.run("import", "--quiet", str(BASES / f"{base}.tar"), base, timeout=120)
        flags = "--layers=false --isolation=chroot --network=host"
        bases = "--build-arg BASE=localhost/base --build-arg BUILD_BASE=localhost/build-base"
        make = ("make", "image", f"ENGINE={' '.join(self.command)}", f"IMAGE_FLAGS={flags} {bases}")
        done = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    def close(self) -> None:
        """Stop what runs and remove the whole store."""
        self.run("rm", "--all", "--force", "--time=0", fails=True)
        shutil.rmtree(self.folder)
