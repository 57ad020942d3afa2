"""What comments, docstrings and documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
POINTER: Final = re.compile(r"(?<![\w/.*{}<-])((?:[\w-]+/)*[\w-]+\.(?:py|pyx|pxd|h|md|sql|scn))\b")
# Names that stand for a file of the reader's, or of another project.
EXAMPLES: Final = frozenset(
    {"acme.sql", "text.scn", "FILE.sql", "QUERY.sql", "sysexits.h", "Domain.sql"}
    | {"__fc_builtin.h"}  # Frama-C's
)
SYSTEM: Final = "linux/"  # the kernel's headers
FOLDERS: Final = ("internal_dns", "tests", "bench", "tools", "docs", "deploy")
READ: Final = (".py", ".pyx", ".pxd", ".h", ".c", ".sql", ".md", ".scn")


def files() -> list[Path]:
    found = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in READ and "__pycache__" not in path.parts and path.name != "fast.c"
    ]
    return [*found, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "schema.sql"]


ALL: Final = files()
NAMES: Final = {str(path.relative_to(ROOT)) for path in ALL}


def prose(path: Path) -> str:
    """Return the text of *path*, of code its comments and docstrings."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return "\n".join(re.findall(r'#.*|"""(?:.|\n)*?"""', text))
    return text


def leads_somewhere(pointer: str, path: Path) -> bool:
    """Whether a file of the repository is called so, as seen from *path* or from anywhere."""
    if (path.parent / pointer).exists() or (ROOT / pointer).exists():
        return True
    return any(name == pointer or name.endswith(f"/{pointer}") for name in NAMES)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(path: Path) -> None:
    lost = {
        pointer
        for pointer in POINTER.findall(prose(path))
        if pointer not in EXAMPLES
        and not pointer.startswith(SYSTEM)
        and not leads_somewhere(pointer, path)
    }
    assert not lost, f"{path.relative_to(ROOT)} names what is not in the repository: {sorted(lost)}"
