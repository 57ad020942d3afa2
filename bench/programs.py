"""Build the benchmark programs in C, each once per run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.tools import program


def built(name: str, directory: Path) -> str:
    """Build bench/*name*.c in *directory*; return its path. Raises Missing without a compiler."""
    path = directory / name
    if not path.exists():
        compiler, source = program("gcc", "gcc", "libc6-dev"), Path(__file__).with_name(f"{name}.c")
        subprocess.run([compiler, "-O2", "-o", str(path), str(source)], check=True, timeout=60)
    return str(path)
